//! What is not the same at another member and here, in words.

use mfs_ha_common::cluster::Membership;
use mfs_ha_common::election::quorum::MemberStatus;
use mfs_ha_common::heartbeat::{Heartbeat, VERSION};
use mfs_ha_common::member::MismatchState;
use mfs_ha_common::time::Timestamp;

use super::super::{age_ms, seconds};
use crate::config::Cluster;

/// What was last seen longer ago than this is history.
const RECENT_MS: u64 = 10_000;

/// What a clock may run faster or slower than ours: the lease allows for a hundredth.
const DRIFT_PPM_MAX: u32 = 10_000;

/// What a member says of itself that is not as it is here.
pub(super) fn compared(
    heartbeat: &Heartbeat,
    member: &MemberStatus,
    ours: Membership,
    cluster: &Cluster,
) -> Vec<String> {
    let mut differences = Vec::new();
    let theirs = heartbeat.membership;
    let timing = heartbeat.timing;
    if timing != cluster.timing {
        differences.push(format!(
            "heartbeat_interval_ms/lease_ms is {}/{} there and {}/{} here",
            timing.interval.as_millis(),
            timing.lease.as_millis(),
            cluster.timing.interval.as_millis(),
            cluster.timing.lease.as_millis()
        ));
    }
    if theirs.generation != ours.generation {
        differences.push(format!(
            "generation {} of the members is in force there and {} here",
            theirs.generation, ours.generation
        ));
    } else if theirs.digest != ours.digest && timing == cluster.timing {
        differences.push("its [[cluster.members]] have other ids or roles".to_owned());
    }
    if heartbeat.role != member.role {
        differences.push(format!(
            "it is a {} by its own configuration and a {} by ours",
            heartbeat.role.name(),
            member.role.name()
        ));
    }
    differences
}

/// What was refused lately of somebody who claims to be this member.
pub(super) fn refused(state: &MismatchState, at: Timestamp) -> Vec<String> {
    let recent = |last_ns: u64| age_ms(at, last_ns).filter(|age| *age <= RECENT_MS);
    let mut differences = Vec::new();
    if let Some(age) = recent(state.last_bad_tag_ns) {
        differences.push(format!(
            "{} messages were signed with another secret, the last {} ago: compare cluster.secret_file",
            state.bad_tag,
            seconds(age)
        ));
    }
    if let Some(age) = recent(state.last_other_cluster_ns) {
        differences.push(format!(
            "{} messages were of cluster {:016x}, the last {} ago: compare cluster.name",
            state.other_cluster,
            state.cluster,
            seconds(age)
        ));
    }
    if let Some(age) = recent(state.last_other_version_ns) {
        differences.push(format!(
            "{} heartbeats had version {} of the format and not {VERSION}, the last {} ago: run one version \
             of mfs-ha",
            state.other_version,
            state.version,
            seconds(age)
        ));
    }
    differences
}

/// A clock that runs at another rate than the lease allows for.
pub(super) fn clock(drift_ppm: Option<i32>) -> Option<String> {
    let drift = drift_ppm.filter(|drift| drift.unsigned_abs() > DRIFT_PPM_MAX)?;
    Some(format!(
        "its clock runs {drift} ppm differently, more than the lease allows for ({DRIFT_PPM_MAX})"
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use mfs_ha_common::cluster::{NodeId, Role, Timing};
    use mfs_ha_common::freshness::Metadata;
    use mfs_ha_common::heartbeat::{Echo, Flags, Grant, Stamp};
    use mfs_ha_common::priority::Priority;
    use mfs_ha_common::promotion::Phase;

    use super::*;
    use crate::config::Configuration;

    const NOW: Timestamp = Timestamp::from_nanos(100_000_000_000);

    fn cluster() -> Cluster {
        let text = "[cluster]\nname = \"a\"\nnode = 2\nsecret_file = \"/s\"\n\
                    [[cluster.members]]\nid = 1\nrole = \"candidate\"\naddresses = [\"10.9.0.1\"]\n\
                    [[cluster.members]]\nid = 2\nrole = \"witness\"\naddresses = [\"10.9.0.2\"]\n";
        let configuration = Configuration::parse(text, Path::new("test.toml")).unwrap();
        configuration.cluster().unwrap().clone()
    }

    fn heartbeat(cluster: &Cluster) -> Heartbeat {
        Heartbeat {
            cluster: 1,
            sender: NodeId::new(1).unwrap(),
            receiver: NodeId::new(2).unwrap(),
            stamp: Stamp::default(),
            sent_at: NOW,
            echo: Echo::default(),
            membership: cluster.membership(),
            timing: cluster.timing,
            role: Role::Candidate,
            phase: Phase::Standby,
            flags: Flags::default(),
            priority: Priority::new(1, 0),
            heard: 2,
            holder: 0,
            request: 0,
            grant: Grant::default(),
            epoch: 0,
            granted_to: 0,
            metadata: Metadata::default(),
        }
    }

    /// What differs when the heartbeat of member 1 is changed.
    fn differences(change: impl FnOnce(&mut Heartbeat)) -> Vec<String> {
        let cluster = cluster();
        let mut heartbeat = heartbeat(&cluster);
        change(&mut heartbeat);
        let member = MemberStatus {
            id: heartbeat.sender,
            role: Role::Candidate,
            last: None,
            is_heard: true,
            round_trip: None,
            jitter: None,
            drift_ppm: None,
        };
        compared(&heartbeat, &member, cluster.membership(), &cluster)
    }

    #[test]
    fn each_difference_of_a_heartbeat_is_named() {
        assert_eq!(differences(|_| {}), Vec::<String>::new());
        assert_eq!(
            differences(|heartbeat| heartbeat.membership.generation = 7),
            ["generation 7 of the members is in force there and 1 here"]
        );
        assert_eq!(
            differences(|heartbeat| heartbeat.membership.digest ^= 1),
            ["its [[cluster.members]] have other ids or roles"]
        );
        let timing = Timing {
            interval: Duration::from_millis(10),
            lease: Duration::from_millis(60),
        };
        assert_eq!(
            differences(|heartbeat| {
                heartbeat.timing = timing;
                heartbeat.membership.digest ^= 1;
            }),
            ["heartbeat_interval_ms/lease_ms is 10/60 there and 50/300 here"]
        );
        assert_eq!(
            differences(|heartbeat| heartbeat.role = Role::Witness),
            ["it is a witness by its own configuration and a candidate by ours"]
        );
    }

    #[test]
    fn what_was_refused_lately_is_named() {
        let ago = |seconds: u64| NOW.as_nanos() - seconds * 1_000_000_000;
        let state = MismatchState {
            bad_tag: 3,
            last_bad_tag_ns: ago(1),
            other_cluster: 4,
            last_other_cluster_ns: ago(2),
            cluster: 0xabc,
            other_version: 5,
            last_other_version_ns: ago(11),
            version: 2,
            reserved: [0; 7],
        };
        assert_eq!(
            refused(&state, NOW),
            [
                "3 messages were signed with another secret, the last 1.000 s ago: compare cluster.secret_file",
                "4 messages were of cluster 0000000000000abc, the last 2.000 s ago: compare cluster.name",
            ]
        );
        let of_another_version = MismatchState {
            other_version: 5,
            last_other_version_ns: ago(3),
            version: 2,
            ..MismatchState::default()
        };
        let found = refused(&of_another_version, NOW);
        assert!(
            found[0].contains("5 heartbeats had version 2 of the format and not 1"),
            "{found:?}"
        );
        assert_eq!(
            refused(&MismatchState::default(), NOW),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_clock_that_runs_away_is_named() {
        assert_eq!(clock(None), None);
        assert_eq!(clock(Some(-10_000)), None);
        assert!(clock(Some(-10_001)).unwrap().contains("-10001 ppm"));
    }
}
