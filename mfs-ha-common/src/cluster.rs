//! Who belongs to a cluster: nodes, their roles, and what all of them have to have in common.

use core::num::NonZeroU8;
use core::time::Duration;

/// The most members of a cluster. More voters make no cluster safer, and each one costs a heartbeat.
pub const MEMBERS_MAX: usize = 7;

/// A node's number in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodeId(NonZeroU8);

impl NodeId {
    /// Wraps a number; `None` for 0.
    #[must_use]
    pub const fn new(id: u8) -> Option<Self> {
        match NonZeroU8::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

impl core::fmt::Display for NodeId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a member does. All members vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Role {
    /// May become master.
    Candidate,
    /// Votes, and never becomes master. It needs no metadata.
    Witness,
}

impl Role {
    /// Returns the name that configuration, status and log use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Witness => "witness",
        }
    }
}

/// One line of the member list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Member {
    /// Which node.
    pub id: NodeId,
    /// What it does.
    pub role: Role,
}

/// The member list, sorted by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Members {
    slots: [Option<Member>; MEMBERS_MAX],
}

/// Why members make no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembersError {
    /// More than [`MEMBERS_MAX`].
    TooMany,
    /// Two have this id.
    Twice(NodeId),
    /// Nobody could become master.
    NoCandidate,
}

impl core::fmt::Display for MembersError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooMany => write!(f, "more than {MEMBERS_MAX} members"),
            Self::Twice(id) => write!(f, "two members have the id {id}"),
            Self::NoCandidate => f.write_str("no member is a candidate"),
        }
    }
}

impl core::error::Error for MembersError {}

impl Members {
    /// Makes a list of members in any order.
    ///
    /// # Errors
    /// Too many, an id twice, or nobody who could become master.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Result<Self, MembersError> {
        let mut slots = [None; MEMBERS_MAX];
        let mut has_candidate = false;
        for (count, member) in members.into_iter().enumerate() {
            if slots
                .iter()
                .flatten()
                .any(|known: &Member| known.id == member.id)
            {
                return Err(MembersError::Twice(member.id));
            }
            *slots.get_mut(count).ok_or(MembersError::TooMany)? = Some(member);
            has_candidate |= member.role == Role::Candidate;
        }
        if !has_candidate {
            return Err(MembersError::NoCandidate);
        }
        // Free slots come last.
        slots.sort_unstable_by_key(|slot| slot.map_or(u16::MAX, |member| member.id.get().into()));
        Ok(Self { slots })
    }

    /// Returns the members by id.
    pub fn iter(&self) -> impl Iterator<Item = Member> + use<> {
        self.slots.into_iter().flatten()
    }

    /// Returns the number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Says whether there are none, which [`Self::new`] refuses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many make a majority.
    #[must_use]
    pub fn majority(&self) -> usize {
        (self.len() >> 1).saturating_add(1)
    }

    /// Returns the role of a member.
    #[must_use]
    pub fn role(&self, id: NodeId) -> Option<Role> {
        self.iter()
            .find(|member| member.id == id)
            .map(|member| member.role)
    }

    /// Returns the place of a member in the list.
    #[must_use]
    pub fn position(&self, id: NodeId) -> Option<usize> {
        self.iter().position(|member| member.id == id)
    }
}

/// The times that the rules of the lease are made of. All nodes need the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Timing {
    /// H: from one heartbeat to the next, whole milliseconds.
    pub interval: Duration,
    /// T: how long a grant lasts, whole milliseconds.
    pub lease: Duration,
}

impl Timing {
    /// H 50 ms, T 300 ms.
    pub const DEFAULT: Self = Self {
        interval: Duration::from_millis(50),
        lease: Duration::from_millis(300),
    };

    /// Returns ε: what a holder stops earlier than its voters forget, for clocks that run at different
    /// rates: 1 % of T and 1 ms.
    #[must_use]
    pub fn allowance(self) -> Duration {
        let percent = self.lease.checked_div(100).unwrap_or_default();
        percent.saturating_add(Duration::from_millis(1))
    }

    /// Returns how long a node counts as heard after its last heartbeat.
    #[must_use]
    pub const fn patience(self) -> Duration {
        self.interval.saturating_mul(3)
    }
}

/// What has to be equal for a grant: the generation of the member list, and a digest of everything that the
/// rules depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Membership {
    /// Rises by one with each change of the list.
    pub generation: u32,
    /// Over members, roles and timing.
    pub digest: u32,
}

impl Membership {
    /// Computes the digest of a list and its timing.
    #[must_use]
    pub fn new(generation: u32, members: &Members, timing: Timing) -> Self {
        let mut digest = Fnv::new();
        for member in members.iter() {
            digest.add(member.id.get());
            digest.add(match member.role {
                Role::Candidate => 1,
                Role::Witness => 2,
            });
        }
        for time in [timing.interval, timing.lease] {
            for byte in time.as_nanos().to_be_bytes() {
                digest.add(byte);
            }
        }
        Self {
            generation,
            digest: digest.0,
        }
    }
}

/// FNV-1a of 32 bits: tells lists apart that were written differently by mistake. The heartbeat's tag is what
/// keeps strangers out.
struct Fnv(u32);

impl Fnv {
    const fn new() -> Self {
        Self(0x811c_9dc5)
    }

    fn add(&mut self, byte: u8) {
        self.0 = (self.0 ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u8, role: Role) -> Member {
        Member {
            id: NodeId::new(id).unwrap(),
            role,
        }
    }

    #[test]
    fn a_list_is_sorted_and_counts_its_majority() {
        let list = [
            member(9, Role::Witness),
            member(2, Role::Candidate),
            member(5, Role::Candidate),
        ];
        let members = Members::new(list).unwrap();
        let ids: std::vec::Vec<u8> = members.iter().map(|member| member.id.get()).collect();
        assert_eq!(ids, [2, 5, 9]);
        assert_eq!((members.len(), members.majority()), (3, 2));
        assert_eq!(members.role(NodeId::new(9).unwrap()), Some(Role::Witness));
        assert_eq!(members.role(NodeId::new(3).unwrap()), None);
        assert_eq!(members.position(NodeId::new(5).unwrap()), Some(1));
    }

    #[test]
    fn majorities_of_all_sizes() {
        for (count, majority) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)] {
            let list = (1..=count).map(|id| member(id, Role::Candidate));
            assert_eq!(Members::new(list).unwrap().majority(), majority);
        }
    }

    #[test]
    fn impossible_lists_are_refused() {
        let eight = (1..=8).map(|id| member(id, Role::Candidate));
        assert_eq!(Members::new(eight), Err(MembersError::TooMany));
        let twice = [member(1, Role::Candidate), member(1, Role::Witness)];
        let id = NodeId::new(1).unwrap();
        assert_eq!(Members::new(twice), Err(MembersError::Twice(id)));
        let witnesses = [member(1, Role::Witness)];
        assert_eq!(Members::new(witnesses), Err(MembersError::NoCandidate));
    }

    #[test]
    fn whatever_the_rules_depend_on_changes_the_digest() {
        let of = |list: &[Member], timing| {
            let members = Members::new(list.iter().copied()).unwrap();
            Membership::new(1, &members, timing).digest
        };
        let list = [member(1, Role::Candidate), member(2, Role::Candidate)];
        let same = [list[1], list[0]];
        let witness = [list[0], member(2, Role::Witness)];
        let slow = Timing {
            lease: Duration::from_millis(301),
            ..Timing::DEFAULT
        };
        let first = of(&list, Timing::DEFAULT);
        assert_eq!(first, of(&same, Timing::DEFAULT));
        assert_ne!(first, of(&witness, Timing::DEFAULT));
        assert_ne!(first, of(&list, slow));
        assert_ne!(first, of(&list[..1], Timing::DEFAULT));
    }

    #[test]
    fn the_allowance_is_a_hundredth_and_a_millisecond() {
        assert_eq!(Timing::DEFAULT.allowance(), Duration::from_millis(4));
        assert_eq!(Timing::DEFAULT.patience(), Duration::from_millis(150));
    }
}
