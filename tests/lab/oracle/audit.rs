//! The audit: every acknowledged file is read again. It runs as a process of the client.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::record::{Outcome, Record};
use super::worker::look;

/// Reading is waiting for servers: several at a time.
const READERS: usize = 4;

/// What to look at.
#[derive(Clone, Debug, clap::Args)]
pub struct Inspection {
    /// A directory of the file system
    #[arg(long)]
    pub directory: PathBuf,
    /// The log of the client that wrote there
    #[arg(long)]
    pub log: PathBuf,
    /// How many files of the log to leave out, oldest first
    #[arg(long, default_value_t = 0)]
    pub skip: usize,
}

/// What became of the acknowledged files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// How many there are.
    pub acked: usize,
    /// Those that are not there.
    pub missing: Vec<String>,
    /// Those with another content.
    pub wrong: Vec<String>,
    /// Those that could not be read, with the reason.
    pub unreadable: Vec<String>,
}

impl Audit {
    /// What two looks found, each name once.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.acked = self.acked.max(other.acked);
        for (mine, theirs) in [
            (&mut self.missing, other.missing),
            (&mut self.wrong, other.wrong),
            (&mut self.unreadable, other.unreadable),
        ] {
            mine.extend(theirs);
            mine.sort();
            mine.dedup();
        }
        self
    }

    fn count(&mut self, name: &str, outcome: Outcome) {
        match outcome {
            Outcome::Missing => self.missing.push(name.to_owned()),
            Outcome::Wrong => self.wrong.push(name.to_owned()),
            Outcome::Failed(reason) => self.unreadable.push(format!("{name}: {reason}")),
            Outcome::Right | Outcome::Written(_) => {}
        }
    }
}

/// Reads the files that the log holds as acknowledged.
///
/// # Errors
/// When the log cannot be read.
pub fn run(inspection: &Inspection) -> Result<Audit> {
    let all = acknowledged(&inspection.log)?;
    let files = all.get(inspection.skip..).unwrap_or_default();
    let share = files.len().div_ceil(READERS).max(1);
    let parts = thread::scope(|scope| {
        let readers: Vec<_> = files
            .chunks(share)
            .map(|part| scope.spawn(|| inspect(&inspection.directory, part)))
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().map_err(|_panic| anyhow!("a reader panicked")))
            .collect::<Result<Vec<Audit>>>()
    })?;
    let nothing = Audit {
        acked: all.len(),
        ..Audit::default()
    };
    Ok(parts.into_iter().fold(nothing, Audit::merge))
}

fn inspect(directory: &Path, files: &[(String, String)]) -> Audit {
    let mut audit = Audit::default();
    for (name, sha1) in files {
        audit.count(name, look(&directory.join(name), sha1));
    }
    audit
}

/// Names and digests of the acknowledged files of a log, which may still be written to.
pub(super) fn acknowledged(log: &Path) -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut files = Vec::new();
    for line in whole.lines() {
        let record: Record =
            serde_json::from_str(line).with_context(|| format!("read the record {line}"))?;
        if let Outcome::Written(sha1) = record.outcome {
            files.push((record.name, sha1));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::super::record::{Role, digest};
    use super::*;

    fn line(name: &str, outcome: Outcome) -> String {
        let record = Record {
            role: Role::Writer,
            worker: 0,
            name: name.to_owned(),
            start_ns: 1,
            end_ns: 2,
            outcome,
        };
        serde_json::to_string(&record).unwrap() + "\n"
    }

    #[test]
    fn every_acknowledged_file_is_looked_at_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        let mut text = String::new();
        for name in ["right", "wrong", "missing"] {
            text += &line(name, Outcome::Written(digest(name.as_bytes())));
        }
        text += &line("failed", Outcome::Failed("EIO".to_owned()));
        // A line that is being written.
        text += "{\"role\":\"wri";
        fs::write(&log, text).unwrap();
        fs::write(place.path().join("right"), "right").unwrap();
        fs::write(place.path().join("wrong"), "other").unwrap();
        let mut inspection = Inspection {
            directory: place.path().to_owned(),
            log,
            skip: 0,
        };
        let audit = run(&inspection).unwrap();
        assert_eq!(audit.acked, 3);
        assert_eq!(audit.missing, ["missing"]);
        assert_eq!(audit.wrong, ["wrong"]);
        assert!(audit.unreadable.is_empty());
        inspection.skip = 2;
        let rest = run(&inspection).unwrap();
        assert_eq!((rest.acked, rest.wrong.len()), (3, 0));
        assert_eq!(rest.missing, ["missing"]);
    }

    #[test]
    fn two_looks_name_each_file_once() {
        let look = Audit {
            acked: 2,
            missing: vec!["a".to_owned()],
            ..Audit::default()
        };
        let merged = look.clone().merge(look);
        assert_eq!((merged.acked, merged.missing.len()), (2, 1));
    }
}
