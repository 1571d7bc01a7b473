//! What happened to each node and what it decided, as JSON lines: a failure can be looked at and replayed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mfs_ha_common::action::Action;
use mfs_ha_common::event::Event;
use mfs_ha_common::node::{Node, NodeConfig};
use mfs_ha_common::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::member::Id;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// A life begins.
    Node { at: Timestamp, config: NodeConfig },
    /// A fact and what came of it.
    Turn {
        at: Timestamp,
        event: Event,
        actions: Vec<Action>,
    },
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Recording {
    lines: Vec<(Id, Line)>,
}

impl Recording {
    pub(crate) fn begin(&mut self, id: Id, config: NodeConfig, at: Timestamp) {
        self.lines.push((id, Line::Node { at, config }));
    }

    pub(crate) fn note(&mut self, id: Id, at: Timestamp, event: Event, actions: &[Action]) {
        let actions = actions.to_vec();
        self.lines.push((id, Line::Turn { at, event, actions }));
    }

    /// Writes a file for each member into a folder of its own.
    pub(crate) fn write(&self, folder: &Path) -> std::io::Result<Vec<PathBuf>> {
        std::fs::create_dir_all(folder)?;
        let members = self.lines.iter().map(|(id, _)| *id).max().unwrap_or(0);
        let mut files = Vec::new();
        for member in 0..=members {
            let mut text = String::new();
            for (_, line) in self.lines.iter().filter(|(id, _)| *id == member) {
                let json = serde_json::to_string(line).expect("plain values are JSON");
                writeln!(text, "{json}").expect("a string takes it");
            }
            let file = folder.join(format!("node-{}.jsonl", member + 1));
            std::fs::write(&file, text)?;
            files.push(file);
        }
        Ok(files)
    }
}

/// Feeds a recording to nodes made anew. They have to decide as before.
pub(crate) fn replay(file: &Path) -> usize {
    let text = std::fs::read_to_string(file).expect("the recording can be read");
    let mut node: Option<Node> = None;
    let mut turns = 0;
    for (number, line) in text.lines().enumerate() {
        let line =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("line {}: {e}", number + 1));
        match line {
            Line::Node { at, config } => node = Some(Node::new(config, at)),
            Line::Turn { at, event, actions } => {
                let node = node.as_mut().expect("a life begins first");
                let decided: Vec<Action> = node.handle(at, event).into_iter().collect();
                assert_eq!(decided, actions, "line {}", number + 1);
                turns += 1;
            }
        }
    }
    turns
}
