//! `mfs-ha metadata`: what a data directory has, and whether a master can be promoted on it.
//!
//! Looks and changes nothing; the programs that work on the directory may run.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{Exit, ExitWith as _, Failure, written_out};
use crate::moosefs::directory::{Content, FileFinding, Freshness, Inspection, Problem, inspect};

/// Arguments of `metadata`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 promotable, 1 not promotable, 2 the directory cannot be read."
)]
pub struct MetadataArgs {
    /// The data directory of mfsmaster or mfsmetalogger (DATA_PATH)
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Looks and prints; the exit code tells whether the directory is promotable.
///
/// # Errors
/// The directory cannot be read, or the output not written.
pub fn run(args: &MetadataArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let inspection = inspect(&args.dir)
        .context("cannot look at the metadata")
        .exit_with(Exit::Usage)?;
    let written = if args.json {
        write_json(out, &inspection)
    } else {
        write_text(out, &inspection)
    };
    written_out(written.and_then(|()| out.flush()))?;
    Ok(if inspection.readiness().is_ok() {
        Exit::Ok
    } else {
        Exit::Failure
    })
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document<'i> {
    promotable: bool,
    /// How far it reaches, or reaches up to what blocks.
    freshness: Option<Freshness>,
    image: Option<&'i str>,
    changes: u64,
    problems: &'i [Problem],
    files: &'i [FileFinding],
}

fn write_json(out: &mut impl Write, inspection: &Inspection) -> io::Result<()> {
    let document = Document {
        promotable: inspection.readiness().is_ok(),
        freshness: inspection.freshness,
        image: inspection.image.as_deref(),
        changes: inspection.lines,
        problems: &inspection.problems,
        files: &inspection.files,
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

fn write_text(out: &mut impl Write, inspection: &Inspection) -> io::Result<()> {
    for file in &inspection.files {
        let content = describe(&file.content);
        writeln!(out, "{:<10}  {:<24}  {content}", file.family, file.name)?;
    }
    if inspection.files.is_empty() {
        writeln!(out, "no metadata files")?;
    }
    if let (Some(freshness), Some(image)) = (inspection.freshness, &inspection.image) {
        writeln!(
            out,
            "file system 0x{:016X}: {image} has all changes below {}, {} more follow without a hole: the next change is {}",
            freshness.id, freshness.base, inspection.lines, freshness.version
        )?;
    }
    for problem in &inspection.problems {
        let level = if problem.blocks { "fail" } else { "warn" };
        writeln!(out, "{level} {}", problem.what)?;
        writeln!(out, "     do: {}", problem.remedy)?;
    }
    match inspection.readiness() {
        Ok(_) => writeln!(out, "promotable: yes"),
        Err(_) => writeln!(out, "promotable: no"),
    }
}

fn describe(content: &Content) -> String {
    match content {
        Content::Image(header) => format!("image, next change {}", header.version),
        Content::EmptyImage => "image of an empty file system".to_owned(),
        Content::UnusableImage { reason, .. } => format!("unusable image: {reason}"),
        Content::Changelog {
            first,
            last,
            partial,
        } => {
            let range = match (first, last) {
                (Some(first), Some(last)) => format!("changes {first} to {last}"),
                (None, None) => "no changes".to_owned(),
                (Some(first), None) => format!("changes from {first} to a damaged line"),
                (None, Some(last)) => format!("changes from a damaged line to {last}"),
            };
            match partial {
                0 => range,
                bytes => format!("{range}, then {bytes} bytes of a line"),
            }
        }
        Content::Ignored { reason } => format!("ignored: {reason}"),
    }
}
