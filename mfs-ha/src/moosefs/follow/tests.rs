use std::fs;
use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::moosefs::directory::inspect;

struct Bench {
    directory: tempfile::TempDir,
    follower: Follower,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let follower = Follower::new(directory.path());
        let bench = Self {
            directory,
            follower,
        };
        bench.save(5);
        bench
    }

    fn save(&self, version: u64) {
        let mut image = b"MFSM 2.0".to_vec();
        image.extend(version.to_be_bytes());
        image.extend(7_u64.to_be_bytes());
        image.extend(b"[MFS EOF MARKER]");
        let path = |name: &str| self.directory.path().join(name);
        fs::write(path("image"), image).unwrap();
        fs::rename(path("image"), path("metadata_ml.mfs.back")).unwrap();
    }

    fn append(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        let file = File::options().append(true).create(true).open(path);
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// What the follower finds, which is what reading all finds, and whether it read all.
    fn follow(&mut self) -> (Inspection, bool) {
        let before = self.follower.full_reads();
        let found = self.follower.refresh().unwrap().clone();
        let all = inspect(self.directory.path()).unwrap();
        let [mut one, mut other] = [found.clone(), all];
        for inspection in [&mut one, &mut other] {
            // Damaged lines that nothing was lost by are counted only where all is read.
            inspection
                .problems
                .retain(|problem| problem.blocks || problem.kind != ProblemKind::DamagedLine);
        }
        assert_eq!(one, other);
        (found, self.follower.full_reads() > before)
    }

    /// Whether all was read, and the next change.
    fn version(&mut self) -> (bool, Option<u64>) {
        let (found, is_full) = self.follow();
        (is_full, found.readiness().ok().map(|ready| ready.version))
    }
}

#[test]
fn what_is_appended_is_read_alone() {
    let mut bench = Bench::new();
    bench.append("metadata_ml.tmp", "x");
    bench.append("changelog_ml.0.mfs", "5: 1|A()\n6: 1");
    assert_eq!(bench.version(), (true, Some(6)));
    assert_eq!(bench.version(), (false, Some(6)));
    bench.append("changelog_ml.0.mfs", "|B()\n7: 1|C()\n8");
    assert_eq!(bench.version(), (false, Some(8)));
    bench.append("metadata_ml.tmp", "more");
    bench.append("changelog_ml.0.mfs", ": 1|D()\n");
    assert_eq!(bench.version(), (false, Some(9)));
    let (found, _) = bench.follow();
    assert_eq!((found.lines, found.problems.len()), (4, 0));
}

#[test]
fn anything_else_is_read_from_the_beginning() {
    let mut bench = Bench::new();
    let path = bench.directory.path().to_owned();
    bench.append("changelog_ml.0.mfs", "5: 1|A()\n6: 1|B()\n");
    assert_eq!(bench.version(), (true, Some(7)));
    fs::rename(
        path.join("changelog_ml.0.mfs"),
        path.join("changelog_ml.1.mfs"),
    )
    .unwrap();
    bench.append("changelog_ml.0.mfs", "7: 1|C()\n");
    assert_eq!(bench.version(), (true, Some(8)));
    bench.append("changelog_ml.0.mfs", "8: 1|D()\n");
    assert_eq!(bench.version(), (false, Some(9)));
    bench.append("changelog_ml.1.mfs", "7: 1|C()\n");
    assert_eq!(bench.version(), (true, Some(9)));
    fs::write(path.join("changelog_ml.0.mfs"), "7: 1|C()\n").unwrap();
    assert_eq!(bench.version(), (true, Some(8)));
    fs::remove_file(path.join("changelog_ml.1.mfs")).unwrap();
    assert_eq!(bench.version(), (true, None));
    fs::remove_file(path.join("metadata_ml.mfs.back")).unwrap();
    assert_eq!(bench.version(), (true, None));
}

#[test]
fn behind_a_hole_nothing_is_read_again_and_again() {
    let mut bench = Bench::new();
    bench.append("changelog_ml.0.mfs", "6: 1|A()\n");
    assert_eq!(bench.version(), (true, None));
    bench.append("changelog_ml.0.mfs", "7: 1|B()\n8");
    assert_eq!(bench.version(), (false, None));
    bench.append("changelog_ml_back.0.mfs", "5: 1|Z()\n6: 1|A()\n");
    assert_eq!(bench.version(), (true, Some(8)));
    bench.append("changelog_ml.0.mfs", ": 1|C()\n10: 1|D()\n");
    assert_eq!(bench.version(), (true, None));
}

#[test]
fn a_directory_that_goes_is_an_error_and_may_come_back() {
    let mut bench = Bench::new();
    assert_eq!(bench.version(), (true, Some(5)));
    let path = bench.directory.path().to_owned();
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    assert!(bench.follower.refresh().is_err());
    fs::rename(&away, &path).unwrap();
    assert_eq!(bench.version(), (true, Some(5)));
}

/// What may become of a directory between two looks.
#[derive(Debug, Clone)]
enum Step {
    /// So many changes are appended, the last one with or without its end.
    Append {
        file: usize,
        lines: u64,
        is_partial: bool,
    },
    /// The end of the line that was begun.
    Complete {
        file: usize,
    },
    Skip,
    Garbage {
        file: usize,
    },
    Rotate,
    Save,
    Shorten {
        file: usize,
    },
    Touch,
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    let file = 0..3_usize;
    prop_oneof![
        6 => (prop_oneof![8 => Just(0), 1 => 1..3_usize], 1..4_u64, any::<bool>())
            .prop_map(|(file, lines, is_partial)| Step::Append { file, lines, is_partial }),
        3 => Just(Step::Complete { file: 0 }),
        1 => Just(Step::Skip),
        1 => file.clone().prop_map(|file| Step::Garbage { file }),
        1 => Just(Step::Rotate),
        1 => Just(Step::Save),
        1 => file.prop_map(|file| Step::Shorten { file }),
        1 => Just(Step::Touch),
        8 => Just(Step::Look),
    ]
}

const FILES: [&str; 3] = [
    "changelog_ml.0.mfs",
    "changelog_ml.1.mfs",
    "changelog_ml_back.0.mfs",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// [`Bench::follow`] compares.
    #[test]
    fn following_finds_what_reading_all_finds(steps in prop::collection::vec(step(), 1..40)) {
        let mut bench = Bench::new();
        let directory = bench.directory.path().to_owned();
        let path = |name: &str| directory.join(name);
        let mut next = 5;
        let mut rest = String::new();
        for step in steps {
            match step {
                Step::Append { file, lines, is_partial } => {
                    for number in next..next + lines {
                        bench.append(FILES[file], &format!("{number}: 1|A()\n"));
                    }
                    next += lines;
                    if is_partial && rest.is_empty() {
                        bench.append(FILES[0], &format!("{next}: 1|"));
                        "B()\n".clone_into(&mut rest);
                        next += 1;
                    }
                }
                Step::Complete { file } => bench.append(FILES[file], &std::mem::take(&mut rest)),
                Step::Skip => next += 1,
                Step::Garbage { file } => bench.append(FILES[file], "garbage\n"),
                Step::Rotate if path(FILES[0]).exists() => {
                    fs::rename(path(FILES[0]), path(FILES[1])).unwrap();
                }
                Step::Rotate => {}
                Step::Save => bench.save(next),
                Step::Shorten { file } => {
                    if let Ok(file) = File::options().write(true).open(path(FILES[file])) {
                        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
                    }
                    // What is shortened and lengthened between two looks only looks longer.
                    bench.follow();
                }
                Step::Touch => bench.append("metadata_ml.tmp", "x"),
                Step::Look => drop(bench.follow()),
            }
        }
        bench.follow();
    }
}

#[test]
fn the_version_that_is_served_is_that_after_the_last_whole_change() {
    let directory = tempfile::tempdir().unwrap();
    assert!(
        served_version(directory.path()).is_err(),
        "no mfsmaster runs there"
    );
    let changelog = directory.path().join(PRESENT_CHANGELOG);
    fs::write(&changelog, "").unwrap();
    assert_eq!(served_version(directory.path()).unwrap(), None);
    fs::write(&changelog, "7: 1|ACCESS(1)\n8: 1|ACCESS(1)\n9: 1|ACC").unwrap();
    assert_eq!(served_version(directory.path()).unwrap(), Some(9));
}
