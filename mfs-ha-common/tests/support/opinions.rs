//! The verdict of the code under test in the words of the second opinion (`reference.rs`).

use mfs_ha_common::carp::auth::HmacKey;
use mfs_ha_common::filter::{
    ACCEPT_TRAILING_BYTES, FilterConfig, KNOWN_PEERS_ONLY, REJECT_REPEATED_COUNTER, VLAN_ANY,
};
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::peer::{LastAdvert, Peers};
use mfs_ha_common::validate::{Delivery, Verdict, validate};

use crate::reference::{self, Opinion, Receiver};

struct OnePeer(Option<([u8; 4], u64, u64)>);

impl Peers for OnePeer {
    fn find(&self, source: Ipv4) -> Option<LastAdvert> {
        let (address, adverts, counter) = self.0?;
        (address == source).then_some(LastAdvert { adverts, counter })
    }
}

fn filter(receiver: &Receiver) -> FilterConfig {
    let bit = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
    FilterConfig {
        vip: receiver.vip,
        group: receiver.group,
        source: receiver.own_source,
        vhid: receiver.vhid,
        vip_count: receiver.vip_count,
        vlan: receiver.vlan.unwrap_or(VLAN_ANY),
        policy: bit(receiver.accepts_trailing_bytes, ACCEPT_TRAILING_BYTES)
            | bit(receiver.rejects_repeated_counter, REJECT_REPEATED_COUNTER)
            | bit(receiver.knows_its_peers, KNOWN_PEERS_ONLY),
        key: HmacKey::new(&receiver.password).unwrap(),
    }
}

/// Asks the code under test.
pub(crate) fn opinion_of_core(frame: &[u8], receiver: &Receiver) -> Opinion {
    match validate(frame, &filter(receiver), &OnePeer(receiver.peer), &()) {
        Verdict::Pass(reason) => Opinion::Pass(reason.name()),
        Verdict::Drop(reason) | Verdict::Mismatch(reason, _) => Opinion::Drop(reason.name()),
        // Without a cluster there are none.
        Verdict::Heartbeat(accepted) => unreachable!("{accepted:?}"),
        Verdict::Accept(accepted) => {
            let advert = accepted.advert.get();
            assert_eq!(advert.vhid, receiver.vhid);
            Opinion::Accept {
                source: accepted.source,
                advbase: advert.priority.advbase(),
                advskew: advert.priority.advskew(),
                demote: advert.demote,
                counter: advert.counter,
                goes_up_the_stack: accepted.delivery == Delivery::PassOn,
            }
        }
    }
}

/// Makes the checksums of an IPv4 and a CARP header right, where the frame has them.
pub(crate) fn fix_checksums(frame: &mut [u8], ip_at: usize) {
    if let Some(ip) = frame.get_mut(ip_at..ip_at + 20) {
        reference::set_checksum(ip, 10);
    }
    if let Some(carp) = frame.get_mut(ip_at + 20..ip_at + 56) {
        reference::set_checksum(carp, 6);
    }
}
