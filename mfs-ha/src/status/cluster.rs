//! The part of the status that shows the cluster: the lease, the other members, the networks, the disk.

mod differences;
mod text;

use std::io;
use std::time::Duration;

use mfs_ha_common::durable::Durable;
use mfs_ha_common::election::quorum::{LeaseStatus, MemberStatus as MemberView};
use mfs_ha_common::freshness::Metadata;
use mfs_ha_common::heartbeat::Flags;
use mfs_ha_common::member::{MismatchKey, MismatchState};
use mfs_ha_common::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::millis;
use crate::bpf::Mode;
use crate::cluster::path::PathViews;
use crate::cluster::rounds::PathCount;
use crate::config::Cluster;
use crate::driver::ClusterView;
use crate::secret::cluster_id;
use crate::state::StateView;

/// The cluster as this node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its name.
    pub name: String,
    /// Its number in heartbeats, hexadecimal.
    pub id: String,
    /// Which member this node is.
    pub node: u8,
    /// `candidate` or `witness`.
    pub role: String,
    /// Generation of the configured member list.
    pub generation: u32,
    /// Generation of the list that is in force here.
    pub generation_in_force: u32,
    /// The lease.
    pub lease: LeaseView,
    /// Own metadata; absent on a witness, and where there are none.
    pub metadata: Option<MetadataStatus>,
    /// What survives a power failure.
    pub durable: DurableStatus,
    /// All others.
    pub members: Vec<MemberStatus>,
    /// The networks between them.
    pub paths: Vec<PathStatus>,
    /// Own rounds of heartbeats that were late by more than half an interval.
    pub rounds_late: u64,
    /// Frames that this daemon was too late to read: the ring buffer was full.
    pub ring_full: u64,
    /// Heartbeats with our key that this version does not understand.
    pub not_understood: u64,
}

/// The lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseView {
    /// The lease epoch that this node holds or asks for; 0 for none.
    pub epoch: u64,
    /// Who holds the lease; absent where nobody is known to.
    pub holder: Option<u8>,
    /// When this node's own lease ends; absent where it holds none.
    pub ends_in_ms: Option<u64>,
    /// The least that was left of it at a renewal since it was taken.
    pub margin_min_ms: Option<u64>,
    /// What this node has granted.
    pub granted: Option<GrantStatus>,
    /// Members that are heard and have the same list, this node included.
    pub heard: u8,
    /// How many make a majority.
    pub majority: u8,
    /// Whether the metadata of this node are final.
    pub frozen: bool,
    /// Why this node does not ask for the lease.
    pub obstacle: Option<String>,
    /// The last request that it refused.
    pub refused: Option<RefusalStatus>,
}

/// A grant that has not run out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GrantStatus {
    /// The lease epoch.
    pub epoch: u64,
    /// Who asked.
    pub node: u8,
    /// When it ends.
    pub ends_in_ms: u64,
}

/// A request that was refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RefusalStatus {
    /// Who asked.
    pub node: u8,
    /// Why not.
    pub reason: String,
}

/// What survives a power failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DurableStatus {
    /// Number of this life of the daemon.
    pub boot: u64,
    /// The highest lease epoch that was granted.
    pub granted_epoch: u64,
    /// To whom.
    pub granted_to: u8,
    /// The metadata epoch that a holder was last heard to have.
    pub seen_epoch: u64,
    /// The version.
    pub seen_version: u64,
    /// Promotions that were begun since this node served for long.
    pub attempts: u8,
    /// Whether all that is on disk.
    pub is_stored: bool,
    /// Times that it was written since the daemon started.
    pub writes: u64,
    /// Times that it could not be written.
    pub failures: u64,
    /// The longest that a write took.
    pub write_max_ms: u64,
    /// Why it cannot be written now.
    pub problem: Option<String>,
}

/// Another member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its id.
    pub id: u8,
    /// `candidate` or `witness`.
    pub role: String,
    /// Whether it counts as heard now.
    pub heard: bool,
    /// Age of its last heartbeat; absent before the first one.
    pub last_heartbeat_age_ms: Option<u64>,
    /// Smoothed time of a round trip.
    pub round_trip_us: Option<u64>,
    /// Smoothed deviation of that.
    pub jitter_us: Option<u64>,
    /// How its clock runs against ours, parts per million.
    pub drift_ppm: Option<i32>,
    /// `standby`, `promoting`, `active`, `resigning` or `stuck`.
    pub phase: Option<String>,
    /// Its metadata.
    pub metadata: Option<MetadataStatus>,
    /// Whether it could promote them.
    pub ready: bool,
    /// Whether they are final.
    pub frozen: bool,
    /// Whether it says that it cannot keep its schedule.
    pub late: bool,
    /// What differs between it and this node, in words.
    pub differences: Vec<String>,
}

/// Metadata of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataStatus {
    /// Id of the file system, hexadecimal.
    pub id: String,
    /// The metadata epoch.
    pub epoch: u64,
    /// The number of the next change.
    pub version: u64,
    /// Changes that a holder was last heard to have (what is known of it is up to 1.5 s old), and that are missing
    /// here; absent where the holder's epoch is another one.
    #[serde(default)]
    pub lag: Option<u64>,
    /// Whether that is more than `max_lag`, or a whole epoch: such a node is not elected, unless it accepts the loss.
    #[serde(default)]
    pub is_behind: bool,
}

/// A network between the members.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathStatus {
    /// Our own address in it.
    pub address: String,
    /// The interface that has it.
    pub interface: Option<String>,
    /// How the XDP program is attached there.
    pub xdp: Option<String>,
    /// Heartbeats that the interface took.
    pub sent: u64,
    /// Those that it did not.
    pub failed: u64,
    /// What keeps it from being used.
    pub problem: Option<String>,
}

/// What the status is put together from.
pub(crate) struct Sources<'s> {
    pub(crate) cluster: &'s Cluster,
    pub(crate) seen: &'s ClusterView,
    pub(crate) at: Timestamp,
    pub(crate) mismatches: &'s [(MismatchKey, MismatchState)],
    pub(crate) paths: &'s [PathViews],
    pub(crate) state: &'s StateView,
    pub(crate) ring_full: u64,
}

impl ClusterStatus {
    pub(crate) fn new(sources: &Sources<'_>) -> Self {
        let Sources { cluster, seen, .. } = *sources;
        let counts = seen.paths.iter();
        Self {
            name: cluster.name.clone(),
            id: format!("{:016x}", cluster_id(&cluster.name)),
            node: cluster.node.get(),
            role: cluster.own().map_or("", |own| own.role.name()).to_owned(),
            generation: cluster.generation,
            generation_in_force: seen.lease.durable.membership.generation,
            lease: LeaseView::new(&seen.lease, sources.at),
            metadata: MetadataStatus::new(seen.lease.metadata, cluster.accepts_loss, sources),
            durable: DurableStatus::new(&seen.lease, sources.state),
            members: seen
                .members
                .iter()
                .map(|member| MemberStatus::new(member, sources))
                .collect(),
            paths: sources
                .paths
                .iter()
                .zip(counts)
                .map(|(views, count)| PathStatus::new(views, *count))
                .collect(),
            rounds_late: seen.lease.rounds_late,
            ring_full: sources.ring_full,
            not_understood: seen.not_understood,
        }
    }
}

impl LeaseView {
    fn new(lease: &LeaseStatus, at: Timestamp) -> Self {
        Self {
            epoch: lease.ballot.epoch,
            holder: lease.holder.map(|holder| holder.get()),
            ends_in_ms: lease.ends.map(|ends| millis(ends.since(at))),
            margin_min_ms: lease.margin_min.map(millis),
            granted: lease.granted.map(|(ballot, until)| GrantStatus {
                epoch: ballot.epoch,
                node: ballot.candidate,
                ends_in_ms: millis(until.since(at)),
            }),
            heard: lease.heard,
            majority: lease.majority,
            frozen: lease.is_frozen,
            obstacle: lease.obstacle.map(|obstacle| obstacle.name().to_owned()),
            refused: lease.refused.map(|(node, reason)| RefusalStatus {
                node: node.get(),
                reason: reason.name().to_owned(),
            }),
        }
    }
}

impl DurableStatus {
    fn new(lease: &LeaseStatus, state: &StateView) -> Self {
        let durable: Durable = lease.durable;
        Self {
            boot: durable.boot,
            granted_epoch: durable.granted.epoch,
            granted_to: durable.granted.candidate,
            seen_epoch: durable.seen.epoch,
            seen_version: durable.seen.version,
            attempts: durable.attempts,
            is_stored: lease.is_stored,
            writes: state.writes,
            failures: state.failures,
            write_max_ms: millis(state.longest),
            problem: state.problem.clone(),
        }
    }
}

impl MetadataStatus {
    fn new(metadata: Metadata, accepts_loss: bool, sources: &Sources<'_>) -> Option<Self> {
        let seen = sources.seen.lease.durable.seen;
        let Metadata { id, freshness } = metadata;
        (id != 0).then(|| Self {
            id: format!("{id:016x}"),
            epoch: freshness.epoch,
            version: freshness.version,
            lag: freshness.lag(seen),
            is_behind: !accepts_loss && freshness.is_behind(seen, sources.cluster.max_lag),
        })
    }
}

impl MemberStatus {
    fn new(member: &MemberView, sources: &Sources<'_>) -> Self {
        let last = member.last.as_ref().map(|(heartbeat, _)| heartbeat);
        let has = |flag| last.is_some_and(|heartbeat| heartbeat.flags.has(flag));
        let ours = sources.seen.lease.durable.membership;
        let mut differences = last.map_or_else(Vec::new, |heartbeat| {
            differences::compared(heartbeat, member, ours, sources.cluster)
        });
        let mismatch = sources
            .mismatches
            .iter()
            .find(|(key, _)| key.node == member.id.get());
        if let Some((_, state)) = mismatch {
            differences.extend(differences::refused(state, sources.at));
        }
        differences.extend(differences::clock(member.drift_ppm));
        Self {
            id: member.id.get(),
            role: member.role.name().to_owned(),
            heard: member.is_heard,
            last_heartbeat_age_ms: member
                .last
                .map(|(_, arrival)| millis(sources.at.since(arrival))),
            round_trip_us: member.round_trip.map(micros),
            jitter_us: member.jitter.map(micros),
            drift_ppm: member.drift_ppm,
            phase: last.map(|heartbeat| heartbeat.phase.name().to_owned()),
            metadata: last.and_then(|heartbeat| {
                MetadataStatus::new(heartbeat.metadata, has(Flags::ACCEPTS_LOSS), sources)
            }),
            ready: has(Flags::READY),
            frozen: has(Flags::FROZEN),
            late: has(Flags::LATE),
            differences,
        }
    }
}

impl PathStatus {
    fn new(views: &PathViews, count: PathCount) -> Self {
        let view = views.get();
        let error = count
            .errno
            .map(|errno| io::Error::from_raw_os_error(errno).to_string());
        Self {
            address: views.own.to_string(),
            interface: view.interface,
            xdp: view.mode.map(Mode::name).map(str::to_owned),
            sent: count.sent,
            failed: count.failed,
            problem: view.problem.or(error),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
