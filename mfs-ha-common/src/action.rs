//! What a node wants done: imperatives, a bounded number at a time.

use crate::durable::Durable;
use crate::election::Transition;
use crate::net::Ipv4;
use crate::priority::Priority;
use crate::promotion::Step;

/// Something for the daemon to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Action {
    /// Send an advert and report [`AdvertSent`](crate::event::Event::AdvertSent) or
    /// [`SendFailed`](crate::event::Event::SendFailed).
    SendAdvert(Priority),
    /// Bring the VIP into this state and keep it there; the latest one counts. Report
    /// [`VipSet`](crate::event::Event::VipSet) or [`VipFailed`](crate::event::Event::VipFailed).
    SetVip {
        /// Whether the interface shall have the VIP.
        present: bool,
    },
    /// Carry this step out and report [`StepDone`](crate::event::Event::StepDone) or
    /// [`StepFailed`](crate::event::Event::StepFailed) with the same ticket. A later one supersedes an
    /// earlier one that is not done.
    RunStep {
        /// What to do.
        step: Step,
        /// Which request this is.
        ticket: u32,
    },
    /// A standby follows this master: make ready for taking over from it (rule M6).
    FollowMaster {
        /// Where its adverts come from.
        source: Ipv4,
    },
    /// Send every other member what [`Node::heartbeat`](crate::node::Node::heartbeat) has for it.
    SendHeartbeats,
    /// Bring this to disk, synced, and report [`Stored`](crate::event::Event::Stored); the latest one counts.
    Store(Durable),
    /// Make the metadata of this standby final, and report
    /// [`MetadataFrozen`](crate::event::Event::MetadataFrozen) (rule L1b).
    FreezeMetadata,
    /// Send a gratuitous ARP for the VIP.
    AnnounceVip,
    /// Call an operator's hook, without waiting for it.
    RunHook(Hook),
    /// Log and publish a change of state.
    Report(Transition),
    /// The node has left; the daemon may end.
    Exit,
}

/// The operator's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Hook {
    /// Called when the VIP was taken.
    Up,
    /// Called when it was given up, and at start.
    Down,
}

impl Hook {
    /// Returns the name that configuration, status and log use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl core::fmt::Display for Hook {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// The most actions that one event asks for: leaving the master state while another contest is settled
/// takes six, and the lease asks for three more. `tests/invariants.rs` searches for more.
pub const ACTIONS_MAX: usize = 10;

/// The actions of one event, in the order in which they are to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a decision that is not carried out is lost"]
pub struct Actions {
    items: [Option<Action>; ACTIONS_MAX],
    len: usize,
}

impl Actions {
    /// Appends an action.
    ///
    /// # Panics
    /// When the bound is exceeded: an action that goes missing may be the one that removes the VIP.
    pub(crate) fn push(&mut self, action: Action) {
        let free = self.items.get_mut(self.len);
        assert!(free.is_some(), "more than {ACTIONS_MAX} actions");
        if let Some(free) = free {
            *free = Some(action);
            self.len = self.len.saturating_add(1);
        }
    }

    /// Says whether there is nothing to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of actions.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }
}

impl IntoIterator for Actions {
    type Item = Action;
    type IntoIter = core::iter::Flatten<core::array::IntoIter<Option<Action>, ACTIONS_MAX>>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter().flatten()
    }
}

#[cfg(feature = "serde")]
mod written {
    //! Actions as a sequence of those that there are.

    use core::fmt;

    use serde::de::{Error as _, SeqAccess, Visitor};
    use serde::ser::SerializeSeq as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{ACTIONS_MAX, Action, Actions};

    impl Serialize for Actions {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut list = serializer.serialize_seq(Some(self.len()))?;
            for action in *self {
                list.serialize_element(&action)?;
            }
            list.end()
        }
    }

    struct List;

    impl<'de> Visitor<'de> for List {
        type Value = Actions;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {ACTIONS_MAX} actions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Actions, A::Error> {
            let mut actions = Actions::default();
            while let Some(action) = list.next_element::<Action>()? {
                if actions.len() == ACTIONS_MAX {
                    return Err(A::Error::invalid_length(ACTIONS_MAX, &self));
                }
                actions.push(action);
            }
            Ok(actions)
        }
    }

    impl<'de> Deserialize<'de> for Actions {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_seq(List)
        }
    }
}
