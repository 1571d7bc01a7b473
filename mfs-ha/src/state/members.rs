//! Rule L10: from one member list to the next, one voter at a time.

use std::fmt;
use std::time::Duration;

use mfs_ha_common::cluster::{Members, Membership, NodeId, Timing};

use super::record::Record;
use crate::config::Cluster;

/// A member list with what is compared beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct List {
    pub(super) members: Members,
    pub(super) generation: u32,
    pub(super) timing: Timing,
}

impl List {
    fn membership(&self) -> Membership {
        Membership::new(self.generation, &self.members, self.timing)
    }
}

/// Why the configuration's list may not follow the one that is in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembersRefused {
    /// Same generation, another list.
    #[error(
        "`cluster.generation` is {generation} as before, but {what}: set it to {} on all nodes, one node \
         after the other",
        generation.saturating_add(1)
    )]
    SameGeneration {
        /// The generation.
        generation: u32,
        /// What is different.
        what: String,
    },
    /// More than one voter is exchanged.
    #[error(
        "from generation {in_force} to {} {what}: change one member at a time, and the next one when \
         `mfs-ha status` shows generation {} in force everywhere",
        in_force.saturating_add(1),
        in_force.saturating_add(1)
    )]
    SeveralVoters {
        /// The generation that is in force.
        in_force: u32,
        /// What is different.
        what: String,
    },
    /// A list of another time.
    #[error(
        "`cluster.generation` is {configured} and {in_force} is in force: it must be {in_force}, or {} for a \
         changed list",
        in_force.saturating_add(1)
    )]
    OtherGeneration {
        /// In the configuration.
        configured: u32,
        /// On disk.
        in_force: u32,
    },
}

/// The lists that can be in force in this life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lists {
    configured: List,
    /// In force until the configured one is.
    previous: Option<List>,
}

impl Lists {
    /// Compares the configuration with what was in force.
    pub(super) fn new(cluster: &Cluster, record: Option<&Record>) -> Result<Self, MembersRefused> {
        let configured = List {
            members: cluster.list,
            generation: cluster.generation,
            timing: cluster.timing,
        };
        // Parsing the record made sure that there is one.
        let stored = record.and_then(|record| record.list().ok());
        let Some(stored) = stored else {
            // A node that begins, or whose disk was replaced, has nothing to compare with.
            return Ok(Self {
                configured,
                previous: None,
            });
        };
        let change = Change::between(&stored, &configured);
        if configured.generation == stored.generation {
            return if change.is_none() {
                Ok(Self {
                    configured,
                    previous: None,
                })
            } else {
                Err(MembersRefused::SameGeneration {
                    generation: stored.generation,
                    what: change.to_string(),
                })
            };
        }
        if stored.generation.checked_add(1) != Some(configured.generation) {
            return Err(MembersRefused::OtherGeneration {
                configured: configured.generation,
                in_force: stored.generation,
            });
        }
        if change.members.len() > 1 {
            return Err(MembersRefused::SeveralVoters {
                in_force: stored.generation,
                what: change.to_string(),
            });
        }
        Ok(Self {
            configured,
            previous: Some(stored),
        })
    }

    pub(super) fn in_force(&self) -> Membership {
        self.previous
            .as_ref()
            .unwrap_or(&self.configured)
            .membership()
    }

    pub(super) fn previous(&self) -> Option<(Members, Membership)> {
        self.previous
            .map(|previous| (previous.members, previous.membership()))
    }

    /// How long grants last in this life, whichever list is in force.
    pub(super) const fn lease(&self) -> Duration {
        self.configured.timing.lease
    }

    pub(super) fn of(&self, membership: Membership) -> Option<&List> {
        [Some(&self.configured), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .find(|list| list.membership() == membership)
    }
}

/// What differs between two lists.
struct Change {
    members: Vec<(NodeId, &'static str)>,
    timing: Option<(Timing, Timing)>,
}

impl Change {
    fn between(old: &List, new: &List) -> Self {
        let ids = old.members.iter().chain(new.members.iter());
        let mut members: Vec<(NodeId, &'static str)> = ids
            .filter_map(|member| {
                let what = match (old.members.role(member.id), new.members.role(member.id)) {
                    (Some(before), Some(now)) if before == now => return None,
                    (Some(_), Some(_)) => "has another role",
                    (None, Some(_)) => "is new",
                    (Some(_), None) => "is gone",
                    (None, None) => return None,
                };
                Some((member.id, what))
            })
            .collect();
        members.sort_unstable();
        members.dedup();
        Self {
            members,
            timing: (old.timing != new.timing).then_some((old.timing, new.timing)),
        }
    }

    fn is_none(&self) -> bool {
        self.members.is_empty() && self.timing.is_none()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = self
            .members
            .iter()
            .map(|(id, what)| format!("member {id} {what}"))
            .collect();
        if let Some((old, new)) = self.timing {
            words.push(format!(
                "heartbeat_interval_ms/lease_ms is {}/{} and was {}/{}",
                new.interval.as_millis(),
                new.lease.as_millis(),
                old.interval.as_millis(),
                old.lease.as_millis()
            ));
        }
        f.write_str(&words.join(", "))
    }
}
