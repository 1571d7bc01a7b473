//! What can happen to a node: facts, in the past tense.
//!
//! The daemon turns everything outside into one of these.

use crate::carp::Advert;
use crate::durable::Durable;
use crate::freshness::Metadata;
use crate::heartbeat::Heartbeat;
use crate::net::Ipv4;
use crate::time::Timestamp;
use crate::validate::Verified;

/// A fact that the decision core is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Event {
    /// A peer's advert was accepted. It changes deadlines; silence itself is judged at [`Event::Tick`].
    AdvertReceived {
        /// What it says.
        advert: Verified<Advert>,
        /// Who sent it.
        source: Ipv4,
        /// When the kernel received it.
        arrival: Timestamp,
    },
    /// A member's heartbeat was accepted. In carp mode there are none.
    HeartbeatReceived {
        /// What it says.
        heartbeat: Verified<Heartbeat>,
        /// When the kernel received it.
        arrival: Timestamp,
    },
    /// What [`Action::Store`](crate::action::Action::Store) asked for is on disk.
    Stored {
        /// What is there now.
        durable: Durable,
    },
    /// What this node has of the metadata has changed.
    MetadataChanged {
        /// What it has now.
        metadata: Metadata,
    },
    /// What [`Action::FreezeMetadata`](crate::action::Action::FreezeMetadata) asked for is done: nothing
    /// arrives any more until this node follows a master again.
    MetadataFrozen {
        /// What it has, to the last change.
        metadata: Metadata,
    },
    /// Every record that had arrived by now was delivered. Early, late and repeated ticks are harmless.
    Tick,
    /// Adverts are sent from this address from now on; told before [`Event::LinkUp`].
    SourceChanged {
        /// The address.
        source: Ipv4,
    },
    /// The interface can send and receive and has the source address.
    LinkUp,
    /// It cannot, or is gone.
    LinkDown,
    /// The advert that was asked for last left.
    AdvertSent,
    /// It did not.
    SendFailed,
    /// The VIP is as [`Action::SetVip`](crate::action::Action::SetVip) asked for last.
    VipSet {
        /// Whether the interface has the VIP.
        present: bool,
    },
    /// It could not be made so, and will be tried again.
    VipFailed {
        /// What was asked for.
        present: bool,
    },
    /// The step that was asked for with this ticket is done.
    StepDone {
        /// The ticket of [`Action::RunStep`](crate::action::Action::RunStep); another one is not looked at.
        ticket: u32,
    },
    /// It could not be done.
    StepFailed {
        /// The ticket.
        ticket: u32,
    },
    /// The metadata master ended or hangs, and nobody here asked it to.
    MetadataMasterLost,
    /// This node could, or could not, serve the metadata that it has.
    ReadinessChanged {
        /// Whether it could. Until told, it could not.
        ready: bool,
    },
    /// The operator wants the daemon to end.
    StopRequested,
}
