//! The real programs on what was installed, restored and repaired.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use mfs_ha::moosefs::directory::inspect;
use mfs_ha::moosefs::install::{install, restore};
use mfs_ha::moosefs::journal::Journal;
use mfs_ha::moosefs::layout::Layout;
use mfs_ha::moosefs::repair::repair_metalogger_files;
use mfs_ha::moosefs::stage::{stage, verify};

use super::common::in_namespace;
use super::common::moosefs::{MooseFs, Mount, Program, wait_until};
use super::{EPOCH, live};

/// A master with some files, and the directory of a metalogger that follows it.
struct Cluster {
    moosefs: MooseFs,
    master: Program,
    metalogger: Program,
    mount: Mount,
    layout: Layout,
}

impl Cluster {
    fn new() -> Self {
        let moosefs = MooseFs::new();
        let data = moosefs.new_file_system("n1");
        // Only a master that was started on an image has one for its metaloggers.
        moosefs.master(&data, &[]).terminate();
        let master = moosefs.master(&data, &[]);
        let followed = moosefs.directory("n2");
        let metalogger = moosefs.metalogger(&followed);
        let mount = moosefs.mount();
        mount.touch("first", 20);
        wait_until("the metalogger has an image and the changes", || {
            inspect(&followed).is_ok_and(|found| found.readiness().is_ok() && found.lines >= 20)
        });
        let layout = Layout::new(&followed).unwrap();
        layout.prepare().unwrap();
        Self {
            moosefs,
            master,
            metalogger,
            mount,
            layout,
        }
    }
}

#[test]
fn a_master_starts_on_what_was_installed_and_the_metalogger_on_what_was_restored() {
    in_namespace(async || {
        let Cluster {
            moosefs,
            master,
            metalogger,
            mount,
            layout,
        } = Cluster::new();
        mount.touch("last", 20);
        let wanted = mount.names();
        metalogger.terminate();
        drop(mount);
        master.kill();
        let before = live(&layout);

        let staged = stage(
            layout.data(),
            &layout.staging(),
            Some(layout.owner().unwrap()),
            &AtomicBool::new(false),
        )
        .unwrap();
        let freshness = verify(&staged.dir, Some(staged.freshness)).unwrap();
        let mut journal = Journal::load(&layout).unwrap();
        install(&layout, &mut journal, &staged.dir, EPOCH).unwrap();
        assert_eq!(
            inspect(layout.data()).unwrap().readiness().unwrap(),
            freshness
        );
        let master = moosefs.master(layout.data(), &["-a"]);
        assert_eq!(moosefs.names(), wanted);
        master.kill();

        restore(&layout, &mut journal).unwrap();
        let mut after = live(&layout);
        after.retain(|name, _| before.contains_key(name));
        assert_eq!(after, before);
        moosefs.metalogger(layout.data()).terminate();
    });
}

#[test]
fn a_metalogger_that_was_killed_goes_on_after_the_repair() {
    in_namespace(async || {
        let Cluster {
            moosefs,
            master: _master,
            metalogger,
            mount,
            layout,
        } = Cluster::new();
        let changelog = layout.data().join("changelog_ml.0.mfs");
        // It writes whole blocks at once, so that one ends in the middle of a line.
        let mut number = 0;
        wait_until("the changelog ends in the middle of a line", || {
            number += 1;
            mount.touch(&format!("burst{number}-"), 20);
            !fs::read(&changelog).unwrap().ends_with(b"\n")
        });
        metalogger.kill();
        // It may have written the rest of the line in the last moment: then the test shows less.
        let is_partial = has_partial_line(&changelog);
        let repair = repair_metalogger_files(&layout, EPOCH).unwrap();
        assert_eq!(!repair.repaired.is_empty(), is_partial);
        assert!(!has_partial_line(&changelog));

        // Started again it downloads everything; until that is done there is a hole in the stream.
        let downloaded = || inode(&layout.data().join("changelog_ml_back.0.mfs"));
        let earlier = downloaded();
        let metalogger = moosefs.metalogger(layout.data());
        wait_until("it follows again", || {
            mount.touch("after", 1);
            fs::remove_file(mount.path().join("after0")).unwrap();
            downloaded() != earlier
                && inspect(layout.data()).is_ok_and(|found| found.readiness().is_ok())
        });
        mount.touch("end", 1);
        metalogger.terminate();
        let found = inspect(layout.data()).unwrap();
        assert!(found.readiness().is_ok(), "{:?}", found.problems);
    });
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

fn has_partial_line(path: &Path) -> bool {
    let content = fs::read(path).unwrap();
    !content.is_empty() && !content.ends_with(b"\n")
}
