//! What happened to each node and what it decided, as JSON lines: a failure can be looked at and replayed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mfs_ha_common::node::Node;
use mfs_ha_common::recording::{Line, Replay, Turn};

use crate::member::Id;

#[derive(Clone, Debug, Default)]
pub(crate) struct Recording {
    lines: Vec<(Id, Line)>,
}

impl Recording {
    pub(crate) fn begin(&mut self, id: Id, node: Node) {
        self.lines.push((id, Line::Node(node)));
    }

    pub(crate) fn note(&mut self, id: Id, turn: Turn) {
        self.lines.push((id, Line::Turn(turn)));
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

/// Feeds a recording to the node in it, which has to decide as before. Returns the turns.
pub(crate) fn replay(file: &Path) -> u64 {
    let text = std::fs::read_to_string(file).expect("the recording can be read");
    let mut replay = Replay::default();
    for (number, line) in text.lines().enumerate() {
        let place = || format!("{} line {}", file.display(), number + 1);
        let line = serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}", place()));
        replay
            .take(line)
            .unwrap_or_else(|e| panic!("{}: {e}", place()));
    }
    replay.turns()
}
