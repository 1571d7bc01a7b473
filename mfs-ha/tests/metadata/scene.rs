//! Real metadata for each test, and what becomes of them: as MooseFS does it, and as mfs-ha does.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on panics"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use mfs_ha::moosefs::directory::{Freshness, Problem, ProblemKind, inspect};
use mfs_ha::moosefs::stage::{StageError, Staged, stage, verify};

use crate::common::in_namespace;
use crate::common::moosefs::{MooseFs, wait_until};

/// Names of the second half, of which the metalogger heard live.
pub(crate) const NEW_NAMES: usize = 30;

/// Files by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;
/// What a client sees.
pub(crate) type Names = BTreeSet<String>;

/// What a master and its metalogger left behind.
pub(crate) struct Base {
    /// The master was killed.
    pub(crate) master: Files,
    /// The metalogger ended in order before that and had everything.
    pub(crate) metalogger: Files,
    /// All names in it.
    pub(crate) names: Names,
}

impl Base {
    /// The metalogger's files with another stream: its lines, each with its line feed.
    pub(crate) fn with_stream(&self, change: impl FnOnce(&mut Vec<String>)) -> Files {
        let mut files = self.metalogger.clone();
        let mut lines = self.stream();
        change(&mut lines);
        files.insert(STREAM.to_owned(), lines.concat().into_bytes());
        files
    }

    /// The lines that the metalogger heard live.
    pub(crate) fn stream(&self) -> Vec<String> {
        lines(&self.metalogger[STREAM])
    }
}

/// Where the metalogger writes what it hears.
pub(crate) const STREAM: &str = "changelog_ml.0.mfs";

/// The lines of a changelog, each with its line feed.
pub(crate) fn lines(content: &[u8]) -> Vec<String> {
    let text = str::from_utf8(content).unwrap();
    text.split_inclusive('\n').map(ToOwned::to_owned).collect()
}

/// The number of a line.
pub(crate) fn number(line: &str) -> u64 {
    line.split(':').next().unwrap().parse().unwrap()
}

/// Runs a test with the programs and what they left behind.
pub(crate) fn scene(test: impl FnOnce(&Scene) + Send + 'static) {
    static BASE: OnceLock<Base> = OnceLock::new();
    let base = BASE.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        in_namespace(async move || sender.send(live_and_die()).unwrap());
        receiver.recv().unwrap()
    });
    in_namespace(async move || {
        test(&Scene {
            moosefs: MooseFs::new(),
            base,
        });
    });
}

/// A file system with some history: made, saved, started again, followed by a metalogger, killed.
fn live_and_die() -> Base {
    let moosefs = MooseFs::new();
    let data = moosefs.new_file_system("n1");
    let master = moosefs.master(&data, &[]);
    moosefs.mount().touch("old", 20);
    master.terminate();

    let master = moosefs.master(&data, &[]);
    let followed = moosefs.directory("n2");
    let metalogger = moosefs.metalogger(&followed);
    wait_until("the metalogger downloads everything", || {
        metalogger.log().contains("changelog_1 downloaded")
    });
    let mount = moosefs.mount();
    fs::create_dir(mount.path().join("sub")).unwrap();
    mount.touch("sub/new", NEW_NAMES);
    let names = mount.names();
    let last_line = |path: PathBuf| {
        let content = fs::read(path).unwrap_or_default();
        lines(&content).pop()
    };
    wait_until("the metalogger has everything", || {
        last_line(followed.join(STREAM)) == last_line(data.join("changelog.0.mfs"))
    });
    metalogger.terminate();
    drop(mount);
    master.kill();
    Base {
        master: read_all(&data),
        metalogger: read_all(&followed),
        names,
    }
}

/// One test's programs, and the metadata that all tests begin with.
pub(crate) struct Scene {
    pub(crate) moosefs: MooseFs,
    pub(crate) base: &'static Base,
}

impl Scene {
    /// Makes a data directory with these files.
    pub(crate) fn lay(&self, name: &str, files: &Files) -> PathBuf {
        let data = self.moosefs.directory(name);
        for (name, content) in files {
            self.moosefs.write(&data.join(name), content);
        }
        data
    }

    /// What `mfsmaster -a` makes of a copy: the names that it serves, or its words.
    pub(crate) fn plain(&self, data: &Path) -> Result<Names, String> {
        let name = data.file_name().unwrap().to_str().unwrap();
        let copy = self.moosefs.copy(data, &format!("{name}-plain"));
        let master = self.moosefs.try_master(&copy, &["-a"])?;
        let names = self.moosefs.names();
        drop(master);
        Ok(names)
    }

    /// Stages and verifies; the directory must stay as it was.
    pub(crate) fn staged(&self, data: &Path) -> Result<Staged, StageError> {
        let before = read_exactly(data);
        let name = data.file_name().unwrap().to_str().unwrap();
        let staging = self.moosefs.path(&format!("{name}-staged"));
        let owner = Some(self.moosefs.owner());
        let staged = stage(data, &staging, owner, &AtomicBool::new(false));
        assert_eq!(read_exactly(data), before, "{name} was changed");
        let staged = staged?;
        let verified = verify(&staging, Some(staged.freshness))?;
        assert_eq!(verified, staged.freshness);
        Ok(staged)
    }

    /// The names that a master serves on what was staged.
    pub(crate) fn promoted(&self, data: &Path) -> Names {
        let staged = self
            .staged(data)
            .unwrap_or_else(|error| panic!("{error:?}"));
        let master = self.moosefs.master(&staged.dir, &["-a"]);
        let names = self.moosefs.names();
        drop(master);
        names
    }

    /// Why it is not promotable: the first reason, of that kind.
    pub(crate) fn refused(&self, data: &Path, kind: ProblemKind) -> Problem {
        let error = self.staged(data).unwrap_err();
        let StageError::NotReady(not_ready) = error else {
            panic!("{error:?}");
        };
        let inspection = inspect(data).unwrap();
        assert_eq!(inspection.readiness().unwrap_err(), not_ready);
        let problem = not_ready.problems.first().unwrap().clone();
        assert_eq!(problem.kind, kind, "{problem:?}");
        problem
    }

    /// How far a directory reaches.
    pub(crate) fn ready(&self, data: &Path) -> Freshness {
        inspect(data).unwrap().readiness().unwrap()
    }
}

/// The metadata files of a directory.
fn read_all(data: &Path) -> Files {
    let mut files = Files::new();
    for entry in fs::read_dir(data).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("metadata") || name.starts_with("changelog") {
            files.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    files
}

/// Everything in a directory: which file has which name, whose it is, what is in it.
fn read_exactly(data: &Path) -> BTreeMap<String, (u64, u32, u32, i64, Vec<u8>)> {
    fs::read_dir(data)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let content = if metadata.is_file() {
                fs::read(entry.path()).unwrap()
            } else {
                Vec::new()
            };
            let name = entry.file_name().into_string().unwrap();
            let owner = (metadata.ino(), metadata.uid(), metadata.mode());
            (
                name,
                (owner.0, owner.1, owner.2, metadata.mtime_nsec(), content),
            )
        })
        .collect()
}
