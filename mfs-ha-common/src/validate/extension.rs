//! What stands behind the header of an advert: nothing, a signed trailer, or anything else.

use super::{Candidate, Checked, Claimed, Extension, Outcome, Verdict};
use crate::carp::trailer::{Unverified, VERSION};
use crate::carp::wire::HEADER_LEN_U16;
use crate::filter::{
    ACCEPT_TRAILING_BYTES, ClusterConfig, FilterConfig, PREVIOUS_KEY, REQUIRE_EXTENSION, TRAILERS,
};
use crate::member::{Cluster, MemberKey};
use crate::net::Frame;
use crate::stats::DropReason;

/// No trailer.
const NONE: Extension = Extension {
    node: 0,
    trailer: Unverified::NONE,
};

/// Checks everything behind the header; `None` where there is no trailer and need not be one.
// The tag is not checked in `examine`, whose BPF stack would add to that of the computation.
#[inline(always)]
pub(super) fn check<F: Frame + ?Sized, C: Cluster>(
    frame: &F,
    candidate: &Candidate,
    filter: &FilterConfig,
    cluster: &C,
) -> Result<Option<Extension>, Verdict> {
    let checked = examine(frame, candidate, filter, cluster);
    let extension = checked.found;
    match checked.outcome {
        Outcome::Found if extension.node == 0 => Ok(None),
        Outcome::Found if is_authentic(frame, candidate, &extension, cluster) => {
            Ok(Some(extension))
        }
        Outcome::Found => Err(Verdict::Mismatch(
            DropReason::TrailerBadTag,
            claimed(&extension),
        )),
        Outcome::Pass => Err(Verdict::Pass(checked.pass)),
        Outcome::Drop => Err(Verdict::Drop(checked.drop)),
        Outcome::Mismatch => Err(Verdict::Mismatch(checked.drop, claimed(&extension))),
    }
}

/// Everything but the tag.
// A call of its own: its values and those of the HMAC would not fit the BPF stack together.
#[inline(never)]
fn examine<F: Frame + ?Sized, C: Cluster>(
    frame: &F,
    candidate: &Candidate,
    filter: &FilterConfig,
    cluster: &C,
) -> Checked<Extension> {
    let config = cluster.config().filter(|config| config.has(TRAILERS));
    if let Some(config) = config
        && let Some((trailer, node)) =
            Unverified::find(frame, candidate.header_at, candidate.payload_len)
    {
        return examine_trailer(frame, config, cluster, Extension { node, trailer });
    }
    if candidate.payload_len > HEADER_LEN_U16 && !filter.has(ACCEPT_TRAILING_BYTES) {
        return Checked::drop(DropReason::TrailingBytes, NONE);
    }
    if config.is_some_and(|config| config.has(REQUIRE_EXTENSION)) {
        return Checked::drop(DropReason::ExtensionMissing, NONE);
    }
    Checked::found(NONE)
}

#[inline(always)]
fn examine_trailer<F: Frame + ?Sized, C: Cluster>(
    frame: &F,
    config: &ClusterConfig,
    cluster: &C,
    extension: Extension,
) -> Checked<Extension> {
    let Extension { node, trailer } = extension;
    if trailer.cluster(frame) != Some(config.cluster) {
        return Checked::mismatch(DropReason::TrailerOtherCluster, extension);
    }
    if node == config.node {
        return Checked::drop(DropReason::TrailerOwnNode, NONE);
    }
    // Nobody has the id 0, which stands for no trailer.
    let last = cluster.last(MemberKey::advert(node)).filter(|_| node != 0);
    let Some(last) = last else {
        return Checked::drop(DropReason::TrailerUnknownMember, NONE);
    };
    match trailer.stamp(frame) {
        Some(stamp) if stamp.is_newer_than(last) => Checked::found(extension),
        _ => Checked::drop(DropReason::TrailerReplayed, NONE),
    }
}

/// Says whether the tag of a trailer is right under one of our keys.
#[inline(always)]
fn is_authentic<F: Frame + ?Sized, C: Cluster>(
    frame: &F,
    candidate: &Candidate,
    extension: &Extension,
    cluster: &C,
) -> bool {
    cluster.config().is_some_and(|config| {
        let [current, previous] = &config.keys;
        let is_right = |key| extension.trailer.is_authentic(frame, candidate.source, key);
        is_right(current) || (config.has(PREVIOUS_KEY) && is_right(previous))
    })
}

#[inline(always)]
fn claimed(extension: &Extension) -> Claimed {
    Claimed::new(extension.node, VERSION, extension.trailer.cluster_at())
}
