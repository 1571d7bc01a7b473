//! From what was read to what it means: how far a directory reaches, what is wrong, what to do.

use super::survey::Chosen;
use super::{Content, FileFinding, Freshness, Inspection, Problem, ProblemKind};
use crate::moosefs::changelog::merge::{Merged, Obstacle};
use crate::moosefs::image::Header;

/// What to do about files that cannot be used together.
const MOVE_ONE_AWAY: &str = "move the files of the older history out of the directory \
     (those of mfsmaster: metadata.mfs*, changelog.N.mfs; those of mfsmetalogger: metadata_ml*, changelog_ml*)";
/// What to do where something is missing.
const DOWNLOAD: &str = "start mfsmetalogger on it with its metadata_ml* and changelog_ml* files moved away, \
     so that it downloads everything from the running master, or add the files that have them";

/// Puts everything together.
pub(super) fn judge(
    files: Vec<FileFinding>,
    mut problems: Vec<Problem>,
    image: Option<&Chosen>,
    mut ids: Vec<(String, u64)>,
    merged: &Merged,
) -> Inspection {
    ids.extend(merged.ids.iter().cloned());
    ids.extend(
        files
            .iter()
            .filter_map(|file| Some((file.name.clone(), file.content.header()?.id))),
    );
    problems.extend(different_ids(image, &ids));
    problems.extend(
        merged
            .damaged
            .iter()
            .map(|(file, lines)| damaged(file, *lines)),
    );

    let freshness = image.and_then(|image| {
        Some(Freshness {
            id: id(image, merged)?,
            version: merged.next,
            base: image.base(),
        })
    });
    match (image, freshness) {
        (Some(image), Some(freshness)) => {
            let obstacle = merged.obstacle.as_ref();
            problems.extend(obstacle.map(|obstacle| obstructed(obstacle, image)));
            problems.extend(damaged_images(&files, Some(freshness.version)));
        }
        (Some(_), None) => {
            problems.extend(damaged_images(&files, None));
            problems.push(empty_file_system());
        }
        (None, _) => {
            problems.extend(damaged_images(&files, None));
            problems.push(no_image(&files));
        }
    }
    sort(&mut problems);
    Inspection {
        files,
        freshness,
        problems,
        image: image.map(|image| image.name.clone()),
        lines: merged.lines,
    }
}

/// What blocks comes first, in the order in which it was found.
pub(crate) fn sort(problems: &mut [Problem]) {
    problems.sort_by_key(|problem| {
        let is_note = !problem.blocks;
        (
            is_note,
            is_note.then(|| (problem.file.clone(), problem.kind)),
        )
    });
}

/// The image of nothing gets its id from the first change.
fn id(image: &Chosen, merged: &Merged) -> Option<u64> {
    match image.header {
        Some(header) => Some(header.id),
        None => merged.ids.first().map(|(_, id)| *id),
    }
}

fn different_ids(image: Option<&Chosen>, ids: &[(String, u64)]) -> Option<Problem> {
    let (first, wanted) = image
        .and_then(|image| Some((image.name.clone(), image.header?.id)))
        .or_else(|| ids.first().cloned())?;
    let (other, id) = ids.iter().find(|(_, id)| *id != wanted)?;
    Some(Problem {
        kind: ProblemKind::DifferentIds,
        file: Some(other.clone()),
        what: format!(
            "{first} and {other} belong to different file systems (ids {wanted:016X} and {id:016X})"
        ),
        remedy:
            "move the files of the file system that this node does not serve out of the directory"
                .to_owned(),
        blocks: true,
    })
}

fn damaged(file: &str, lines: u64) -> Problem {
    Problem {
        kind: ProblemKind::DamagedLine,
        file: Some(file.to_owned()),
        what: format!(
            "damaged lines in {file}: {lines}; a program leaves one when it dies within a line"
        ),
        remedy: "nothing where no changes are missing".to_owned(),
        blocks: false,
    }
}

/// An image that cannot be used blocks if it is known to have had more than what can be reached.
fn damaged_images(files: &[FileFinding], reached: Option<u64>) -> Vec<Problem> {
    files
        .iter()
        .filter_map(|file| {
            let Content::UnusableImage { header, reason } = &file.content else {
                return None;
            };
            let lost = header
                .as_ref()
                .zip(reached)
                .filter(|(header, reached)| *reached < header.version);
            Some(damaged_image(&file.name, reason, lost))
        })
        .collect()
}

fn damaged_image(name: &str, reason: &str, lost: Option<(&Header, u64)>) -> Problem {
    let (what, remedy) = match lost {
        Some((header, reached)) => (
            format!(
                "{name} is {reason}; it had all changes up to {}, the other files reach {}",
                header.version.saturating_sub(1),
                reached.saturating_sub(1)
            ),
            format!("{DOWNLOAD}; or move {name} away to do without those changes"),
        ),
        None => (
            format!("{name} is {reason}"),
            "nothing where another image is complete".to_owned(),
        ),
    };
    Problem {
        kind: ProblemKind::DamagedImage,
        file: Some(name.to_owned()),
        what,
        remedy,
        blocks: lost.is_some(),
    }
}

fn no_image(files: &[FileFinding]) -> Problem {
    if files.iter().any(|file| file.name == "metadata.mfs.empty") {
        return empty_file_system();
    }
    Problem {
        kind: ProblemKind::NoImage,
        file: None,
        what: "no complete metadata image".to_owned(),
        remedy: "let mfsmetalogger download one from the running master".to_owned(),
        blocks: true,
    }
}

fn empty_file_system() -> Problem {
    Problem {
        kind: ProblemKind::EmptyFileSystem,
        file: None,
        what: "empty file system: no image but that of a file system that was never started".to_owned(),
        remedy: "let mfsmetalogger download an image from the running master; to begin a new file system, \
                 start and stop mfsmaster by hand once, on one node"
            .to_owned(),
        blocks: true,
    }
}

fn obstructed(obstacle: &Obstacle, image: &Chosen) -> Problem {
    let (kind, file, what, remedy) = match obstacle {
        Obstacle::Hole {
            from,
            to,
            before,
            after,
        } => (
            ProblemKind::Hole,
            after,
            format!(
                "changes {from} to {to} are missing: {} ends at {}, {after} goes on at {}",
                before.as_ref().unwrap_or(&image.name),
                from.saturating_sub(1),
                to.saturating_add(1)
            ),
            DOWNLOAD.to_owned(),
        ),
        Obstacle::Conflict { number, files } => {
            let [one, other] = files;
            (
                ProblemKind::Conflict,
                other,
                format!("change {number} differs between {one} and {other}: two histories"),
                MOVE_ONE_AWAY.to_owned(),
            )
        }
        Obstacle::Disorder {
            file,
            number,
            after,
        } => (
            ProblemKind::Disorder,
            file,
            format!("{file} has change {number} after change {after}: two histories in one file"),
            format!("move {file} away; {DOWNLOAD}"),
        ),
        Obstacle::DamagedEnd { file, number } => (
            ProblemKind::DamagedLine,
            file,
            match number {
                Some(number) => {
                    format!("{file} ends with a damaged line, which had changes up to {number}")
                }
                None => format!("{file} ends with a damaged line"),
            },
            DOWNLOAD.to_owned(),
        ),
    };
    Problem {
        kind,
        file: Some(file.clone()),
        what,
        remedy,
        blocks: true,
    }
}
