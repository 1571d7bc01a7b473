//! `mfs-ha history`: what was replaced on this node, and which changes of it the cluster does not have.
//!
//! Looks and changes nothing; the daemon may run. What was lost is what the daemon wrote down when it compared an
//! archive with what it had downloaded.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;

use super::{ConfigFile, Exit, ExitWith as _, Failure, written_out};
use crate::config::Configuration;
use crate::error::chain;
use crate::moosefs::archive::{self, Archive};
use crate::moosefs::epoch::{self, EpochRecord, EpochState};
use crate::moosefs::layout::{Layout, StoreError, is_metadata_file};
use crate::moosefs::lost::{self, Lost, Span};
use crate::moosefs::settings;

/// Archives with these labels have changes that could be missing elsewhere. The others are made of files that
/// stay: links, originals of what was mended, what was staged and never served.
const OWN_HISTORY: [&str; 2] = ["", "quarantine"];

/// Arguments of `history`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 done, 1 with --lost: changes were lost or may have been, 2 wrong configuration, or the \
                  directory cannot be read, 3 missing privileges. An archive that was not compared is no loss."
)]
pub struct HistoryArgs {
    /// The data directory of mfsmaster (DATA_PATH), in place of a configuration
    #[arg(value_name = "DIR", conflicts_with = "path")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
    /// Show only archives with changes that were lost or may have been
    #[arg(long)]
    lost: bool,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// Looks and prints; with `--lost` the exit code tells whether something was lost.
///
/// # Errors
/// The configuration is wrong, the directory cannot be read, or the output not written.
pub fn run(args: &HistoryArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let data = match &args.dir {
        Some(dir) => dir.clone(),
        None => data_path(&args.config.path).exit_with(Exit::Usage)?,
    };
    let mut history = look(&data).map_err(unreadable)?;
    let has_lost = history.archives.iter().any(Entry::has_lost);
    if args.lost {
        history.archives.retain(Entry::is_open);
    }
    let written = match (args.json, args.lost) {
        (true, _) => write_json(out, &history),
        (false, true) => write_lost(out, &history),
        (false, false) => write_text(out, &history),
    };
    written_out(written.and_then(|()| out.flush()))?;
    Ok(if args.lost && has_lost {
        Exit::Failure
    } else {
        Exit::Ok
    })
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct History {
    data_path: PathBuf,
    epoch: EpochRecord,
    /// The oldest first.
    archives: Vec<Entry>,
}

/// An archive.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    path: PathBuf,
    epoch: u64,
    label: String,
    made: String,
    files: u64,
    bytes: u64,
    form: Form,
    span: Option<Span>,
    /// Whether all of it is somewhere else as well, so that it needs no comparison.
    is_copy: bool,
    lost: Option<Lost>,
    problem: Option<String>,
}

/// How its files lie there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Form {
    Plain,
    Compressed,
    PartlyCompressed,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Compressed => "compressed",
            Self::PartlyCompressed => "partly compressed",
        })
    }
}

impl Entry {
    /// Whether changes were lost, or may have been.
    fn has_lost(&self) -> bool {
        self.problem.is_some() || self.lost.is_some_and(|lost| !lost.is_nothing())
    }

    /// Whether `--lost` shows it.
    fn is_open(&self) -> bool {
        self.has_lost() || (self.lost.is_none() && !self.is_copy)
    }
}

fn data_path(path: &Path) -> anyhow::Result<PathBuf> {
    let moosefs = match Configuration::load(path)? {
        Configuration::Candidate(config) => config.moosefs,
        Configuration::Witness(_) => None,
    };
    let moosefs = moosefs.ok_or_else(|| {
        anyhow!(
            "{} has no table [moosefs]: name a data directory in its place",
            path.display()
        )
    })?;
    let settings = settings::read_master(&moosefs.master_config)?;
    Ok(settings.data_path)
}

fn unreadable(error: StoreError) -> Failure {
    let is_refused = matches!(
        &error,
        StoreError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied
    );
    let exit = if is_refused {
        Exit::NotPermitted
    } else {
        Exit::Usage
    };
    Failure {
        exit,
        error: anyhow::Error::new(error).context("cannot look at what was replaced"),
    }
}

fn look(data: &Path) -> Result<History, StoreError> {
    let layout = Layout::new(data)?;
    let epoch = epoch::read(&layout)?;
    let archives = match archive::list(&layout) {
        Ok(archives) => archives,
        // No daemon ever ran here.
        Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut entries = Vec::new();
    for archive in archives {
        match entry(&archive) {
            Ok(entry) => entries.push(entry),
            // The retention removed it meanwhile.
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(History {
        data_path: layout.data().to_owned(),
        epoch,
        archives: entries,
    })
}

fn entry(archive: &Archive) -> Result<Entry, StoreError> {
    let path = &archive.path;
    let failed = |error| StoreError::io("look at", path)(error);
    let (mut files, mut packed, mut bytes) = (0_u64, 0_u64, 0_u64);
    for file in fs::read_dir(path).map_err(failed)? {
        let file = file.map_err(failed)?;
        if !is_metadata_file(&file.file_name()) {
            continue;
        }
        files = files.saturating_add(1);
        packed = packed.saturating_add(u64::from(
            file.path().extension().is_some_and(|end| end == "zst"),
        ));
        bytes = bytes.saturating_add(file.metadata().map_err(failed)?.len());
    }
    let (lost, problem) = match lost::read(path) {
        Ok(lost) => (lost, None),
        Err(error) => (None, Some(chain(&error))),
    };
    Ok(Entry {
        name: path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        path: path.clone(),
        epoch: archive.name.epoch,
        label: archive.name.label.clone(),
        made: archive.name.made(),
        files,
        bytes,
        form: match packed {
            0 => Form::Plain,
            _ if packed == files => Form::Compressed,
            _ => Form::PartlyCompressed,
        },
        // What is compressed or damaged has to be looked at by hand.
        span: lost::span(path).ok(),
        is_copy: !OWN_HISTORY.contains(&archive.name.label.as_str()),
        lost,
        problem,
    })
}

fn write_json(out: &mut impl Write, history: &History) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, history)?;
    writeln!(out)
}

fn write_text(out: &mut impl Write, history: &History) -> io::Result<()> {
    writeln!(out, "{}", history.data_path.display())?;
    write_epoch(out, &history.epoch)?;
    for entry in &history.archives {
        let label = match entry.label.as_str() {
            "" => "replaced",
            label => label,
        };
        writeln!(out, "{}", entry.name)?;
        writeln!(
            out,
            "     {label}, {}, epoch {}, {} {} with {} bytes, {}",
            entry.made,
            entry.epoch,
            entry.files,
            if entry.files == 1 { "file" } else { "files" },
            entry.bytes,
            entry.form
        )?;
        if let Some(span) = &entry.span {
            write_span(out, span)?;
        }
        match (&entry.lost, &entry.problem) {
            (Some(lost), _) => writeln!(out, "     {lost}")?,
            (None, Some(problem)) => writeln!(out, "     {problem}")?,
            (None, None) if !entry.is_copy => writeln!(out, "     not compared")?,
            (None, None) => {}
        }
    }
    if history.archives.is_empty() {
        writeln!(out, "no archives")?;
    }
    Ok(())
}

fn write_epoch(out: &mut impl Write, epoch: &EpochRecord) -> io::Result<()> {
    if *epoch == EpochRecord::NONE {
        return writeln!(out, "no epoch yet: nothing was promoted here");
    }
    let state = match epoch.state {
        EpochState::Pending => "pending",
        EpochState::Committed => "committed",
    };
    write!(
        out,
        "epoch {}, {state}, base {}, file system 0x{:016X}",
        epoch.epoch, epoch.base, epoch.id
    )?;
    match epoch.previous {
        Some(previous) => writeln!(out, ", before it epoch {previous}"),
        None => writeln!(out),
    }
}

fn write_span(out: &mut impl Write, span: &Span) -> io::Result<()> {
    match (span.image, span.first) {
        (Some(image), _) => write!(out, "     image with all changes below {image}")?,
        (None, Some(_)) => write!(out, "     no complete image")?,
        (None, None) => return writeln!(out, "     no changes"),
    }
    match span.first {
        Some(first) => writeln!(
            out,
            ", changelogs from {first} on, the next change is {}",
            span.reaches
        ),
        None => writeln!(out, ", no changelogs"),
    }
}

fn write_lost(out: &mut impl Write, history: &History) -> io::Result<()> {
    for entry in &history.archives {
        match (&entry.lost, &entry.problem) {
            (Some(lost), _) => writeln!(out, "{}: {lost}", entry.name)?,
            (None, Some(problem)) => writeln!(out, "{}: {problem}", entry.name)?,
            (None, None) => {
                writeln!(out, "{}: not compared", entry.name)?;
                continue;
            }
        }
        writeln!(out, "     kept in {}", entry.path.display())?;
        writeln!(
            out,
            "     do: copy it elsewhere before the retention removes it; to look at it, or to serve it in \
             place of what is served now, see \"Going back by hand\" in docs/promotion.md"
        )?;
    }
    if !history.archives.iter().any(Entry::has_lost) {
        writeln!(out, "no change is known to be lost")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
