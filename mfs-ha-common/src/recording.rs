//! The flight recorder's format: what a node was, what happened to it, and what it decided.
//!
//! The daemon writes it as JSON lines, the simulated cluster leaves it where a seed breaks a rule, and both replay: a
//! node that is told the same at the same times decides the same.

use serde::{Deserialize, Serialize};

use crate::action::Actions;
use crate::event::Event;
use crate::node::Node;
use crate::time::Timestamp;

/// One line of a recording.
#[expect(
    clippy::large_enum_variant,
    reason = "lines come one at a time, and there is no allocator"
)]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A node as it was before the next turn: made anew, or in the middle of its life.
    Node(Node),
    /// A fact, and what came of it.
    Turn(Turn),
}

/// A fact, when it was told, and what the node decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// When it was told.
    pub at: Timestamp,
    /// What.
    pub event: Event,
    /// What was decided.
    pub actions: Actions,
}

/// Why a recording is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "made once, and there is no allocator"
)]
pub enum ReplayError {
    /// The first line is not a node.
    NoNode,
    /// The node decides something else now.
    Differs {
        /// Which turn, counted from 1.
        turn: u64,
        /// What was recorded.
        recorded: Turn,
        /// What is decided now.
        decided: Actions,
    },
}

impl core::fmt::Display for ReplayError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoNode => f.write_str("a recording begins with a node"),
            Self::Differs {
                turn,
                recorded,
                decided,
            } => write!(
                f,
                "turn {turn}: {:?} led to {:?} when it was recorded, and leads to {decided:?} now",
                recorded.event, recorded.actions
            ),
        }
    }
}

impl core::error::Error for ReplayError {}

/// Replays a recording line by line.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    node: Option<Node>,
    turns: u64,
}

impl Replay {
    /// Takes the next line.
    ///
    /// # Errors
    /// It does not follow from what came before.
    #[expect(
        clippy::result_large_err,
        reason = "it happens once, and says all that is needed"
    )]
    pub fn take(&mut self, line: Line) -> Result<(), ReplayError> {
        match line {
            Line::Node(node) => self.node = Some(node),
            Line::Turn(recorded) => {
                self.turns = self.turns.saturating_add(1);
                let node = self.node.as_mut().ok_or(ReplayError::NoNode)?;
                let decided = node.handle(recorded.at, recorded.event);
                if decided != recorded.actions {
                    let turn = self.turns;
                    return Err(ReplayError::Differs {
                        turn,
                        recorded,
                        decided,
                    });
                }
            }
        }
        Ok(())
    }

    /// Returns the turns that were replayed.
    #[must_use]
    pub const fn turns(&self) -> u64 {
        self.turns
    }
}
