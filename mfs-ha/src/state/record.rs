//! The file's content: small, in JSON, so that an operator can read it.

use std::time::Duration;

use mfs_ha_common::cluster::{Member, Members, Membership, NodeId, Role, Timing};
use mfs_ha_common::durable::Durable;
use mfs_ha_common::freshness::Freshness;
use mfs_ha_common::heartbeat::Ballot;
use serde::{Deserialize, Serialize};

use super::members::List;

/// The form that is described here.
const FORMAT: u32 = 1;

/// A state is some hundred bytes.
pub(super) const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why a file's content cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Far more than a state.
    #[error("it is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// Not what was written.
    #[error("it is not what was written")]
    Syntax(#[source] serde_json::Error),
    /// Of another version.
    #[error("it has the form {0}, which this version of mfs-ha does not know, but only {FORMAT}")]
    Format(u32),
    /// Nobody could have written this list.
    #[error("its member list is impossible: {0}")]
    Members(String),
}

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    format: u32,
    boot: u64,
    granted: Granted,
    seen: Seen,
    attempts: u8,
    /// How long the grants of the life that wrote this lasted.
    lease_ms: u64,
    members: StoredList,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Granted {
    epoch: u64,
    candidate: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    epoch: u64,
    version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredList {
    generation: u32,
    heartbeat_interval_ms: u64,
    lease_ms: u64,
    list: Vec<StoredMember>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredMember {
    id: u8,
    role: StoredRole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredRole {
    Candidate,
    Witness,
}

impl Record {
    pub(super) fn new(durable: &Durable, list: &List, lease: Duration) -> Self {
        Self {
            format: FORMAT,
            boot: durable.boot,
            granted: Granted {
                epoch: durable.granted.epoch,
                candidate: durable.granted.candidate,
            },
            seen: Seen {
                epoch: durable.seen.epoch,
                version: durable.seen.version,
            },
            attempts: durable.attempts,
            lease_ms: millis(lease),
            members: StoredList {
                generation: list.generation,
                heartbeat_interval_ms: millis(list.timing.interval),
                lease_ms: millis(list.timing.lease),
                list: list.members.iter().map(StoredMember::from).collect(),
            },
        }
    }

    pub(super) fn parse(content: &[u8]) -> Result<Self, RecordError> {
        // Another form may have other fields, which is no damage.
        let form: Form = serde_json::from_slice(content).map_err(RecordError::Syntax)?;
        if form.format != FORMAT {
            return Err(RecordError::Format(form.format));
        }
        let record: Self = serde_json::from_slice(content).map_err(RecordError::Syntax)?;
        record.list()?;
        Ok(record)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    pub(super) fn durable(&self) -> Durable {
        Durable {
            boot: self.boot,
            granted: Ballot {
                epoch: self.granted.epoch,
                candidate: self.granted.candidate,
            },
            seen: Freshness {
                epoch: self.seen.epoch,
                version: self.seen.version,
            },
            attempts: self.attempts,
            membership: Membership::default(),
        }
    }

    pub(super) const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// The list that was in force.
    pub(super) fn list(&self) -> Result<List, RecordError> {
        let impossible = |why: &str| RecordError::Members(why.to_owned());
        let members: Vec<Member> = self
            .members
            .list
            .iter()
            .map(|member| {
                Some(Member {
                    id: NodeId::new(member.id)?,
                    role: member.role.into(),
                })
            })
            .collect::<Option<_>>()
            .ok_or_else(|| impossible("a member has the id 0"))?;
        Ok(List {
            members: Members::new(members)
                .map_err(|error| RecordError::Members(error.to_string()))?,
            generation: self.members.generation,
            timing: Timing {
                interval: Duration::from_millis(self.members.heartbeat_interval_ms),
                lease: Duration::from_millis(self.members.lease_ms),
            },
        })
    }
}

/// What all forms have.
#[derive(Deserialize)]
struct Form {
    format: u32,
}

impl From<Member> for StoredMember {
    fn from(member: Member) -> Self {
        Self {
            id: member.id.get(),
            role: match member.role {
                Role::Candidate => StoredRole::Candidate,
                Role::Witness => StoredRole::Witness,
            },
        }
    }
}

impl From<StoredRole> for Role {
    fn from(role: StoredRole) -> Self {
        match role {
            StoredRole::Candidate => Self::Candidate,
            StoredRole::Witness => Self::Witness,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
