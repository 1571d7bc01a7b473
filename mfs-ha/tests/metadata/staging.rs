//! What is staged: as expected, on any file system, and never at the cost of what was there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use mfs_ha::moosefs::directory::Freshness;
use mfs_ha::moosefs::stage::{StageError, stage, verify};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::IMAGE;
use crate::scene::scene;

#[test]
fn what_was_staged_is_verified() {
    scene(|scene| {
        let data = scene.lay("data", &scene.base.metalogger);
        let staged = scene.staged(&data).unwrap();
        let freshness = staged.freshness;
        let image = fs::metadata(staged.dir.join("metadata.mfs.back")).unwrap();
        let live = fs::metadata(data.join(IMAGE)).unwrap();
        assert_eq!(
            image.ino(),
            live.ino(),
            "no copy of an image that may be large"
        );
        for expected in [
            Freshness {
                version: freshness.version + 1,
                ..freshness
            },
            Freshness {
                id: freshness.id ^ 1,
                ..freshness
            },
        ] {
            let error = verify(&staged.dir, Some(expected)).unwrap_err();
            assert!(matches!(error, StageError::Stale { .. }), "{error}");
        }
        let changelog = staged.dir.join("changelog.0.mfs");
        let content = fs::read(&changelog).unwrap();
        fs::write(&changelog, &content[..content.len() - 1]).unwrap();
        let error = verify(&staged.dir, None).unwrap_err();
        assert!(matches!(error, StageError::Unexpected { .. }), "{error}");
        fs::write(&changelog, &content).unwrap();
        assert_eq!(verify(&staged.dir, None).unwrap(), freshness);
        fs::write(staged.dir.join("stats.mfs"), "").unwrap();
        let error = verify(&staged.dir, None).unwrap_err();
        assert!(error.to_string().contains("stats.mfs"), "{error}");
        // A second time there would be two of them.
        assert!(matches!(scene.staged(&data), Err(StageError::Write { .. })));
    });
}

#[test]
fn another_file_system_takes_a_copy_and_a_full_one_costs_nothing() {
    scene(|scene| {
        let data = scene.lay("data", &scene.base.metalogger);
        let staging = scene.moosefs.directory("data-staged");
        let mounted = |options: &str| {
            let memory = Some("tmpfs");
            mount(memory, &staging, memory, MsFlags::empty(), Some(options)).unwrap();
            scene.moosefs.give(&staging);
            Mounted(&staging)
        };
        let stage_there = |cancel: bool| {
            let owner = Some(scene.moosefs.owner());
            stage(
                &data,
                &staging.join("staged"),
                owner,
                &AtomicBool::new(cancel),
            )
        };
        let small = mounted("size=4k");
        let error = stage_there(false).unwrap_err();
        let StageError::Write { path, source } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        assert!(path.starts_with(staging.join("staged")), "{error}");
        drop(small);

        let _large = mounted("size=1m");
        assert!(matches!(stage_there(true), Err(StageError::Cancelled)));
        fs::remove_dir_all(staging.join("staged")).unwrap();
        let staged = stage_there(false).unwrap();
        assert_eq!(verify(&staged.dir, None).unwrap(), scene.ready(&data));
        let image = fs::metadata(staged.dir.join("metadata.mfs.back")).unwrap();
        assert_eq!((image.uid(), image.gid()), scene.moosefs.owner());
        let master = scene.moosefs.master(&staged.dir, &["-a"]);
        assert_eq!(scene.moosefs.names(), scene.base.names);
        drop(master);
    });
}

/// A file system that goes when this is dropped: the directory of the test could not be removed otherwise.
struct Mounted<'p>(&'p Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).ok();
    }
}
