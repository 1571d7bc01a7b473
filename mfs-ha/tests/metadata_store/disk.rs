//! What a file system can do to us: full, read-only, another one in between.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use mfs_ha::moosefs::archive::{self, Retention};
use mfs_ha::moosefs::epoch::{self, EpochRecord};
use mfs_ha::moosefs::install::{install, restore};
use mfs_ha::moosefs::journal::{Journal, Stage};
use mfs_ha::moosefs::layout::{Layout, StoreError};
use mfs_ha::moosefs::repair::{Which, quarantine, repair_metalogger_files};
use mfs_ha::moosefs::snapshot::snapshot;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{EPOCH, assert_installed, assert_nothing_lost, everything, fill, filled, live, stage};

/// Runs a test on a thread that sees its own mounts; they end with it.
fn with_own_mounts(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS)
            .expect("a mount namespace of its own: this test needs root");
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn mount_small(at: &Path) {
    let options = Some("size=1m");
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), options).unwrap();
}

fn fill_up(at: &Path) {
    let block = [b'x'; 4096];
    let mut file = fs::File::create(at.join("filler")).unwrap();
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
}

fn text(error: &StoreError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

#[test]
fn a_full_disk_changes_nothing() {
    with_own_mounts(|| {
        let directory = tempfile::tempdir().unwrap();
        mount_small(directory.path());
        let layout = fill(directory.path());
        stage(&layout);
        epoch::write(&layout, &EpochRecord::NONE).unwrap();
        fill_up(directory.path());
        let all = everything(directory.path());
        let before = live(&layout);
        let mut journal = Journal::load(&layout).unwrap();

        let refused = [
            (
                "journal.tmp",
                install(&layout, &mut journal, &layout.staging(), EPOCH).map(drop),
            ),
            ("journal.tmp", journal.set(Stage::Installed)),
            (
                "epoch.tmp",
                epoch::write(
                    &layout,
                    &EpochRecord {
                        epoch: 1,
                        ..EpochRecord::NONE
                    },
                ),
            ),
            (
                "whole.changelog_ml.0.mfs",
                repair_metalogger_files(&layout, EPOCH).map(drop),
            ),
            ("lengths.tmp", snapshot(&layout, EPOCH).map(drop)),
        ];
        for (file, result) in refused {
            let text = text(&result.unwrap_err());
            assert!(
                text.contains(file) && text.contains("No space left"),
                "{text}"
            );
        }
        assert_eq!(everything(directory.path()), all);
        assert_eq!(live(&layout), before);
        assert_eq!(epoch::read(&layout).unwrap(), EpochRecord::NONE);
        assert_eq!(fs::read_dir(layout.archive()).unwrap().count(), 0);

        fs::remove_file(directory.path().join("filler")).unwrap();
        install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap();
        assert_installed(&layout, "with room again");
    });
}

#[test]
fn a_disk_that_fills_up_in_between_can_be_restored() {
    with_own_mounts(|| {
        let directory = tempfile::tempdir().unwrap();
        mount_small(directory.path());
        let layout = fill(directory.path());
        let before = live(&layout);
        stage(&layout);
        let mut journal = Journal::load(&layout).unwrap();
        install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap();
        fill_up(directory.path());
        let all = everything(directory.path());
        let text = text(&restore(&layout, &mut journal).unwrap_err());
        assert!(text.contains("journal.tmp"), "{text}");
        assert_nothing_lost(&all, &layout, "full");
        fs::remove_file(directory.path().join("filler")).unwrap();
        restore(&layout, &mut journal).unwrap();
        assert_eq!(live(&layout), before);
    });
}

#[test]
fn compressing_on_a_full_disk_leaves_the_plain_files() {
    with_own_mounts(|| {
        let directory = tempfile::tempdir().unwrap();
        mount_small(directory.path());
        let layout = fill(directory.path());
        let old = layout.new_archive("", EPOCH, SystemTime::now()).unwrap();
        let noise: Vec<u8> = (0..200_000_u32)
            .flat_map(|n| n.wrapping_mul(n).to_le_bytes())
            .collect();
        fs::write(old.join("metadata.mfs.back"), &noise[..300_000]).unwrap();
        fill_up(directory.path());
        let all = everything(directory.path());
        let retention = Retention {
            keep_plain: 0,
            keep: 9,
            max_age: None,
        };
        let error = archive::compress(
            &layout,
            &retention,
            SystemTime::now(),
            &AtomicBool::new(false),
        )
        .unwrap_err();
        let text = text(&error);
        assert!(text.contains("metadata.mfs.back.zst.tmp"), "{text}");
        assert_eq!(everything(directory.path()), all);
    });
}

#[test]
fn a_read_only_directory_is_found_at_the_start() {
    with_own_mounts(|| {
        let (directory, layout) = filled();
        stage(&layout);
        let before = everything(directory.path());
        let data = directory.path();
        mount(
            Some(data),
            data,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, data, None::<&str>, flags, None::<&str>).unwrap();
        let layout = Layout::new(data).unwrap();
        let mut journal = Journal::load(&layout).unwrap();
        for result in [
            layout.prepare(),
            install(&layout, &mut journal, &layout.staging(), EPOCH).map(drop),
            quarantine(&layout, &journal, Which::All, EPOCH).map(drop),
            repair_metalogger_files(&layout, EPOCH).map(drop),
            snapshot(&layout, EPOCH).map(drop),
        ] {
            let text = text(&result.unwrap_err());
            assert!(text.contains("Read-only file system"), "{text}");
        }
        assert_eq!(everything(directory.path()), before);
        nix::mount::umount(data).unwrap();
    });
}

#[test]
fn another_mount_in_between_is_found_at_the_start() {
    with_own_mounts(|| {
        let (_directory, layout) = filled();
        let before = live(&layout);
        let own = layout.own();
        // The same file system, and rename does not work all the same.
        mount(
            Some(&own),
            &own,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
        stage_by_copy(&layout);
        let mut journal = Journal::load(&layout).unwrap();
        for result in [
            layout.prepare(),
            install(&layout, &mut journal, &layout.staging(), EPOCH).map(drop),
            quarantine(&layout, &Journal::load(&layout).unwrap(), Which::All, EPOCH).map(drop),
        ] {
            let error = result.unwrap_err();
            let text = text(&error);
            let is_told = matches!(
                error,
                StoreError::OtherMount { .. } | StoreError::NotRestored { .. }
            );
            assert!(is_told, "{text}");
        }
        assert_eq!(live(&layout), before);
        restore(&layout, &mut journal).unwrap();
        assert_eq!(live(&layout), before);
        nix::mount::umount(&own).unwrap();
        layout.prepare().unwrap();
    });
}

fn stage_by_copy(layout: &Layout) {
    fs::create_dir(layout.staging()).unwrap();
    fs::write(layout.staging().join("metadata.mfs.back"), "an image").unwrap();
}
