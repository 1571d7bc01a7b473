//! The flight recorder: what the node was told and what it decided, lately, in memory of bounded size.
//!
//! It is asked for with `mfs-ha recording` and replays to the same decisions (`mfs-ha replay`). Nothing is
//! written unless somebody asks; the heartbeat thread only moves a few hundred bytes for each turn.

use std::collections::VecDeque;
use std::io::{self, Write};

use mfs_ha_common::action::Actions;
use mfs_ha_common::event::Event;
use mfs_ha_common::node::Node;
use mfs_ha_common::recording::{Line, Turn};
use mfs_ha_common::time::Timestamp;

/// Turns that are kept: with six members and heartbeats every 50 ms about half a minute, with two others
/// about a minute and a half. Some 8 MiB at the most.
const TURNS_MAX: usize = 8192;

/// A recording can begin at every so many turns, where the whole node is kept.
const NODE_EVERY: usize = 2048;

/// What is kept.
#[derive(Debug)]
pub struct Recorder {
    /// The number of the next turn.
    next: usize,
    turns: VecDeque<Turn>,
    nodes: VecDeque<(usize, Node)>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            next: 0,
            // At once: the heartbeat loop does not wait for memory.
            turns: VecDeque::with_capacity(TURNS_MAX),
            nodes: VecDeque::with_capacity(TURNS_MAX / NODE_EVERY + 1),
        }
    }
}

impl Recorder {
    /// Notes the node before its next turn, where one is due.
    pub fn before(&mut self, node: &Node) {
        if self.next.is_multiple_of(NODE_EVERY) {
            self.nodes.push_back((self.next, node.clone()));
        }
    }

    /// Notes a turn.
    pub fn note(&mut self, at: Timestamp, event: Event, actions: Actions) {
        if self.turns.len() == TURNS_MAX {
            self.turns.pop_front();
        }
        self.turns.push_back(Turn { at, event, actions });
        self.next += 1;
        let first = self.next - self.turns.len();
        while self
            .nodes
            .front()
            .is_some_and(|(number, _)| *number < first)
        {
            self.nodes.pop_front();
        }
    }

    /// Returns what can be replayed: from the oldest node that is kept.
    #[must_use]
    pub fn recording(&self) -> Recording {
        let first = self.next - self.turns.len();
        let Some((number, node)) = self.nodes.front() else {
            return Recording { lines: Vec::new() };
        };
        let turns = self.turns.iter().skip(number - first).copied();
        let lines = std::iter::once(Line::Node(node.clone())).chain(turns.map(Line::Turn));
        Recording {
            lines: lines.collect(),
        }
    }
}

/// What was kept at one moment.
#[derive(Clone, Debug)]
pub struct Recording {
    lines: Vec<Line>,
}

impl Recording {
    /// Writes it as JSON, a line for the node and one for each turn.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for line in &self.lines {
            serde_json::to_writer(&mut *out, line)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;
    use std::time::Duration;

    use mfs_ha_common::election::carp::Settings;
    use mfs_ha_common::node::NodeConfig;
    use mfs_ha_common::priority::Priority;
    use mfs_ha_common::promotion::Service;
    use mfs_ha_common::recording::Replay;

    use super::*;

    const START: Timestamp = Timestamp::from_nanos(1_000_000_000);

    fn node() -> Node {
        let election = Settings {
            priority: Priority::new(0, 10),
            deadratio: NonZeroU8::MIN,
            preempt: false,
            source: [10, 0, 0, 1],
            has_sole_peer: false,
        };
        let config = NodeConfig {
            election,
            quorum: None,
            neutral: true,
            is_gated: true,
            service: Service::Vip,
        };
        Node::new(config, START)
    }

    fn record(turns: u32) -> Recorder {
        let (mut node, mut recorder) = (node(), Recorder::default());
        for turn in 0..turns {
            let at = START.after(Duration::from_millis(7) * turn);
            let event = if turn == 0 {
                Event::LinkUp
            } else {
                Event::Tick
            };
            recorder.before(&node);
            let actions = node.handle(at, event);
            recorder.note(at, event, actions);
        }
        recorder
    }

    fn replay(recorder: &Recorder) -> u64 {
        let mut text = Vec::new();
        recorder.recording().write(&mut text).unwrap();
        let mut replay = Replay::default();
        for line in String::from_utf8(text).unwrap().lines() {
            replay.take(serde_json::from_str(line).unwrap()).unwrap();
        }
        replay.turns()
    }

    #[test]
    fn a_recording_replays_from_its_beginning_and_from_the_middle_of_a_life() {
        assert_eq!(replay(&Recorder::default()), 0);
        assert_eq!(replay(&record(1)), 1);
        assert_eq!(replay(&record(3000)), 3000);
        // The first nodes are gone with their turns.
        let kept = replay(&record(20_000));
        assert!(
            (TURNS_MAX - NODE_EVERY..=TURNS_MAX).contains(&usize::try_from(kept).unwrap()),
            "{kept}"
        );
    }

    #[test]
    fn memory_is_bounded() {
        let recorder = record(20_000);
        assert_eq!(recorder.turns.len(), TURNS_MAX);
        assert!(recorder.nodes.len() <= TURNS_MAX / NODE_EVERY + 1);
        assert!(
            size_of::<Turn>() * TURNS_MAX < 8 << 20,
            "{}",
            size_of::<Turn>()
        );
    }
}
