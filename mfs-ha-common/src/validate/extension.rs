//! What stands behind the header of an advert: nothing, a signed trailer, or anything else.

use super::{Candidate, Extension};
use crate::carp::trailer::{Unverified, VERSION};
use crate::carp::wire::HEADER_LEN_U16;
use crate::filter::{
    ACCEPT_TRAILING_BYTES, ClusterConfig, FilterConfig, PREVIOUS_KEY, REQUIRE_EXTENSION, TRAILERS,
};
use crate::member::{Claim, Cluster, MemberKey};
use crate::net::Frame;
use crate::stats::DropReason;

/// An advert after everything behind its header but the tag was checked.
// As with `Verdict`, the tag comes first. Single bytes only: of anything wider the compiler may copy what was
// never written, which the verifier refuses.
#[repr(u8)]
pub(super) enum Examined {
    /// There is no trailer and need not be one.
    Plain,
    /// A trailer, whose tag is still to be checked.
    Extended(Extension),
    /// A fault.
    Drop(DropReason),
    /// A fault of somebody who may be a member that is configured otherwise.
    Mismatch(DropReason, Extension),
}

/// Checks everything behind the header but the tag.
// A call of its own: its values and those of the HMAC would not fit the BPF stack together.
#[inline(never)]
pub(super) fn examine<F: Frame + ?Sized, C: Cluster>(
    frame: &F,
    candidate: &Candidate,
    filter: &FilterConfig,
    cluster: &C,
) -> Examined {
    let config = cluster.config().filter(|config| config.has(TRAILERS));
    if let Some(config) = config
        && let Some((trailer, node)) =
            Unverified::find(frame, candidate.header_at, candidate.payload_len)
    {
        return check(frame, config, cluster, Extension { node, trailer });
    }
    if candidate.payload_len > HEADER_LEN_U16 && !filter.has(ACCEPT_TRAILING_BYTES) {
        return Examined::Drop(DropReason::TrailingBytes);
    }
    if config.is_some_and(|config| config.has(REQUIRE_EXTENSION)) {
        return Examined::Drop(DropReason::ExtensionMissing);
    }
    Examined::Plain
}

#[inline(always)]
fn check<F: Frame + ?Sized, C: Cluster>(
    frame: &F,
    config: &ClusterConfig,
    cluster: &C,
    extension: Extension,
) -> Examined {
    let Extension { node, trailer } = extension;
    if trailer.cluster(frame) != Some(config.cluster) {
        return Examined::Mismatch(DropReason::TrailerOtherCluster, extension);
    }
    if node == config.node {
        return Examined::Drop(DropReason::TrailerOwnNode);
    }
    let Some(last) = cluster.last(MemberKey::advert(node)) else {
        return Examined::Drop(DropReason::TrailerUnknownMember);
    };
    match trailer.stamp(frame) {
        Some(stamp) if stamp.is_newer_than(last) => Examined::Extended(extension),
        _ => Examined::Drop(DropReason::TrailerReplayed),
    }
}

/// Says whether the tag of a trailer is right under one of our keys.
// Not in `examine`, whose BPF stack would add to that of the computation.
#[inline(always)]
pub(super) fn is_authentic<F: Frame + ?Sized, C: Cluster>(
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

/// Reads what a trailer says of its sender.
#[inline(always)]
pub(super) fn claim<F: Frame + ?Sized>(frame: &F, extension: &Extension) -> Claim {
    Claim {
        node: extension.node,
        version: VERSION,
        cluster: extension.trailer.cluster(frame).unwrap_or_default(),
    }
}
