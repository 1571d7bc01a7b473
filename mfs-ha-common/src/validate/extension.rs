//! What stands behind the header of an advert: nothing, a signed trailer, or anything else.

use super::{Candidate, Extension, Refusal};
use crate::carp::trailer::{self, Unverified};
use crate::carp::wire::HEADER_LEN_U16;
use crate::filter::{
    ACCEPT_TRAILING_BYTES, ClusterConfig, FilterConfig, PREVIOUS_KEY, REQUIRE_EXTENSION, TRAILERS,
};
use crate::member::{Claim, Cluster, MemberKey};
use crate::net::Frame;
use crate::stats::DropReason;

/// Checks everything behind the header; `None` where there is no trailer and need not be one.
// A call of its own: its values and those of the HMAC would not fit the BPF stack together.
#[inline(never)]
pub(super) fn examine<F: Frame + ?Sized, C: Cluster>(
    frame: &F,
    candidate: &Candidate,
    filter: &FilterConfig,
    cluster: &C,
) -> Result<Option<Extension>, Refusal> {
    let config = cluster.config().filter(|config| config.has(TRAILERS));
    let found = config.and_then(|config| {
        let found = Unverified::find(frame, candidate.header_at, candidate.payload_len)?;
        Some((config, found))
    });
    if let Some((config, (found, node))) = found {
        return check(frame, candidate, config, cluster, found, node).map(Some);
    }
    if candidate.payload_len > HEADER_LEN_U16 && !filter.has(ACCEPT_TRAILING_BYTES) {
        return Err(Refusal::Drop(DropReason::TrailingBytes));
    }
    if config.is_some_and(|config| config.has(REQUIRE_EXTENSION)) {
        return Err(Refusal::Drop(DropReason::ExtensionMissing));
    }
    Ok(None)
}

#[inline(always)]
fn check<F: Frame + ?Sized, C: Cluster>(
    frame: &F,
    candidate: &Candidate,
    config: &ClusterConfig,
    cluster: &C,
    found: Unverified,
    node: u8,
) -> Result<Extension, Refusal> {
    // The frame was found long enough, so neither load fails; the verifier wants to see it checked.
    let truncated = Refusal::Drop(DropReason::Truncated);
    let claim = Claim {
        node,
        version: trailer::VERSION,
        cluster: found.cluster(frame).ok_or(truncated)?,
    };
    if claim.cluster != config.cluster {
        return Err(Refusal::Mismatch(DropReason::TrailerOtherCluster, claim));
    }
    if node == config.node {
        return Err(Refusal::Drop(DropReason::TrailerOwnNode));
    }
    let last = cluster
        .last(MemberKey::advert(node))
        .ok_or(Refusal::Drop(DropReason::TrailerUnknownMember))?;
    let stamp = found.stamp(frame).ok_or(truncated)?;
    if !stamp.is_newer_than(last) {
        return Err(Refusal::Drop(DropReason::TrailerReplayed));
    }
    let [current, previous] = &config.keys;
    let is_authentic = found.is_authentic(frame, candidate.source, current)
        || (config.has(PREVIOUS_KEY) && found.is_authentic(frame, candidate.source, previous));
    if !is_authentic {
        return Err(Refusal::Mismatch(DropReason::TrailerBadTag, claim));
    }
    Ok(Extension {
        node,
        trailer: found,
    })
}
