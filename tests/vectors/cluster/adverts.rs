//! Adverts with a trailer, with something else behind the header, and without either.

use mfs_ha_common::filter::{ACCEPT_TRAILING_BYTES, HEARTBEATS, REQUIRE_EXTENSION, TRAILERS};
use mfs_ha_common::stats::DropReason;

use super::{
    ADVERT, BOOT, CARP_AT, CLUSTER, Case, Expected, FOREIGN, IP_AT, KEY, PREVIOUS, TRAILER_AT,
    case, changed, claim, extended_advert, set_sum, sign_advert, stamp, tagged,
};

/// Returns every case.
pub(super) fn cases() -> Vec<Case> {
    [acceptable_adverts(), unsigned_adverts(), refused_adverts()].concat()
}

/// An advert with changes, sums repaired and signed anew.
fn with_trailer(changes: &[(usize, u8)], key: [u8; 16]) -> Vec<u8> {
    let mut frame = changed(&extended_advert(), changes);
    sign_advert(&mut frame, key);
    frame
}

/// The advert with other bytes behind its header, or with none.
fn with_other_trailer(len: u8) -> Vec<u8> {
    let mut frame = extended_advert();
    frame.truncate(TRAILER_AT);
    frame.resize(TRAILER_AT + usize::from(len), 0x5a);
    frame[17] = 56 + len;
    set_sum(&mut frame[IP_AT..CARP_AT], 10);
    frame
}

fn under(mut case: Case, policy: u32, cluster_policy: u32) -> Case {
    case.filter.policy = policy;
    case.cluster.policy = cluster_policy;
    case.name = format!("{} under {policy} and {cluster_policy}", case.name);
    case
}

fn acceptable_adverts() -> Vec<Case> {
    let signed = |name: &str, frame: Vec<u8>, stamp| {
        let extension = Some((2, stamp));
        case(name, frame, Expected::Advert { extension })
    };
    let unsigned =
        |name: &str, frame: Vec<u8>| case(name, frame, Expected::Advert { extension: None });
    let extended = extended_advert();
    let first = stamp(BOOT, ADVERT);
    let all = HEARTBEATS | TRAILERS;
    let mut later = signed("an advert after another", extended.clone(), first);
    later.members[1].1 = stamp(BOOT, ADVERT - 1);
    later.members[0].1 = stamp(BOOT + 1, 0);
    vec![
        signed("an advert with a trailer", extended.clone(), first),
        later,
        signed("an advert in a VLAN", tagged(&extended, 5), first),
        signed(
            "an advert padded by the link",
            [&extended[..], &[0; 3]].concat(),
            first,
        ),
        signed(
            "an advert under the key before",
            with_trailer(&[], PREVIOUS),
            first,
        ),
        signed(
            "an advert of another life",
            with_trailer(&[(93, 9)], KEY),
            stamp(9, ADVERT),
        ),
        // Nobody here sums up the whole payload.
        signed(
            "an advert with a wrong fix-up",
            changed(&extended, &[(143, 0)]),
            first,
        ),
        under(
            signed(
                "an advert where trailers are required",
                extended.clone(),
                first,
            ),
            0,
            all | REQUIRE_EXTENSION,
        ),
        under(
            unsigned("an advert whose trailer nobody reads", extended),
            ACCEPT_TRAILING_BYTES,
            HEARTBEATS,
        ),
        unsigned("an advert of a plain peer", with_other_trailer(0)),
        under(
            unsigned("an advert with something else", with_other_trailer(74)),
            ACCEPT_TRAILING_BYTES,
            all,
        ),
        under(
            unsigned(
                "an advert with a trailer to come",
                with_trailer(&[(74, 2)], KEY),
            ),
            ACCEPT_TRAILING_BYTES,
            all,
        ),
    ]
}

fn unsigned_adverts() -> Vec<Case> {
    let (trailing, missing) = (DropReason::TrailingBytes, DropReason::ExtensionMissing);
    let accept = ACCEPT_TRAILING_BYTES;
    let all = HEARTBEATS | TRAILERS;
    let require = all | REQUIRE_EXTENSION;
    let to_come = with_trailer(&[(74, 2)], KEY);
    #[rustfmt::skip]
    let rows = [
        ("a trailer that nobody reads", extended_advert(),      0,      HEARTBEATS, trailing),
        ("something else",              with_other_trailer(74), 0,      all,        trailing),
        ("a longer trailer",            with_other_trailer(76), 0,      all,        trailing),
        ("a trailer to come",           to_come,                0,      all,        trailing),
        ("a plain advert",              with_other_trailer(0),  0,      require,    missing),
        ("something else",              with_other_trailer(74), accept, require,    missing),
    ];
    rows.into_iter()
        .map(|(name, frame, policy, cluster_policy, reason)| {
            let case = case(name, frame, Expected::Drop(reason));
            under(case, policy, cluster_policy)
        })
        .collect()
}

fn refused_adverts() -> Vec<Case> {
    let extended = extended_advert();
    let mut skew = changed(&extended, &[(36, 0)]);
    set_sum(&mut skew[CARP_AT..TRAILER_AT], 6);
    let mut source = changed(&extended, &[(29, 3)]);
    set_sum(&mut source[IP_AT..CARP_AT], 10);
    let drop = Expected::Drop;
    let bad_tag = Expected::Mismatch(DropReason::TrailerBadTag, claim(1, CLUSTER));
    let other_cluster = Expected::Mismatch(DropReason::TrailerOtherCluster, claim(1, CLUSTER + 1));
    #[rustfmt::skip]
    let rows = [
        ("an advert of another cluster",       with_trailer(&[(85, 9)], KEY),       other_cluster),
        ("an advert of ours",                  with_trailer(&[(76, 1)], KEY),       drop(DropReason::TrailerOwnNode)),
        ("an advert of a stranger",            with_trailer(&[(76, 4)], KEY),       drop(DropReason::TrailerUnknownMember)),
        ("an advert of no life",               with_trailer(&[(93, 0)], KEY),       drop(DropReason::TrailerReplayed)),
        ("an advert under a foreign key",      with_trailer(&[], FOREIGN),          bad_tag),
        ("an advert with another skew",        skew,                                bad_tag),
        ("an advert from another address",     source,                              bad_tag),
        ("an advert with other metadata",      changed(&extended, &[(125, 9)]),     bad_tag),
        ("an advert with a later number",      changed(&extended, &[(101, 0x23)]),  bad_tag),
        ("a good trailer, but a wrong digest", with_trailer(&[(50, 0)], KEY),       drop(DropReason::BadAuth)),
    ];
    let mut cases: Vec<Case> = rows
        .into_iter()
        .map(|(name, frame, expected)| case(name, frame, expected))
        .collect();
    let over = with_trailer(&[], PREVIOUS);
    let over = case("an advert under a key that is over", over, bad_tag);
    cases.push(under(over, 0, HEARTBEATS | TRAILERS));
    for (name, last) in [
        ("the same advert again", stamp(BOOT, ADVERT)),
        ("an older advert", stamp(BOOT, ADVERT + 1)),
        ("an advert of an older life", stamp(BOOT + 1, 0)),
    ] {
        let expected = drop(DropReason::TrailerReplayed);
        let mut case = case(name, extended.clone(), expected);
        case.members[1].1 = last;
        cases.push(case);
    }
    cases
}
