//! Compression and retention of archives.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use mfs_ha::moosefs::archive::{Progress, Retention, SNAPSHOTS_KEPT, compress, list, spawn};
use mfs_ha::moosefs::install::install;
use mfs_ha::moosefs::journal::Journal;
use mfs_ha::moosefs::layout::Layout;
use mfs_ha::moosefs::snapshot::snapshot;

use super::{EPOCH, filled, stage};

const KEEP_ALL: Retention = Retention {
    keep_plain: 1,
    keep: 1000,
    max_age: None,
};
const DAY: Duration = Duration::from_secs(24 * 3600);

fn run(layout: &Layout, retention: &Retention) -> Progress {
    let cancel = AtomicBool::new(false);
    compress(layout, retention, SystemTime::now(), &cancel).unwrap()
}

/// An archive of an epoch that is some days old, with an image in it.
fn old_archive(layout: &Layout, epoch: u64, label: &str, days: u32) -> PathBuf {
    let now = SystemTime::now();
    let path = layout.new_archive(label, epoch, now).unwrap();
    fs::write(path.join("metadata.mfs.back"), content(epoch)).unwrap();
    fs::write(path.join("changelog.0.mfs"), "short\n").unwrap();
    File::open(&path)
        .unwrap()
        .set_modified(now - DAY * days)
        .unwrap();
    path
}

fn content(epoch: u64) -> Vec<u8> {
    format!("{epoch}: 1|CREATE(1,name)\n")
        .repeat(20_000)
        .into_bytes()
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn old_archives_are_compressed_and_the_newest_stay_plain() {
    let (_directory, layout) = filled();
    let old = old_archive(&layout, 1, "", 9);
    let new = old_archive(&layout, 2, "", 1);
    fs::write(old.join("notes.txt"), "the operator's").unwrap();
    fs::write(old.join("changelog.1.mfs.zst.tmp"), "of a crash").unwrap();
    let before = fs::metadata(old.join("metadata.mfs.back")).unwrap();
    let modified = fs::metadata(&old).unwrap().modified().unwrap();

    let progress = run(&layout, &KEEP_ALL);
    assert_eq!(
        (progress.compressed, progress.more),
        (1, false),
        "{progress:?}"
    );
    let packed = old.join("metadata.mfs.back.zst");
    assert_eq!(
        zstd::decode_all(File::open(&packed).unwrap()).unwrap(),
        content(1)
    );
    let metadata = fs::metadata(&packed).unwrap();
    assert!(metadata.len() * 10 < before.len());
    assert_eq!(metadata.mode(), before.mode());
    assert_eq!(metadata.modified().unwrap(), before.modified().unwrap());
    assert!(!old.join("metadata.mfs.back").exists());
    assert_eq!(fs::metadata(&old).unwrap().modified().unwrap(), modified);
    assert_eq!(fs::read(old.join("changelog.0.mfs")).unwrap(), b"short\n");
    assert_eq!(fs::read(new.join("metadata.mfs.back")).unwrap(), content(2));
    assert_eq!(run(&layout, &KEEP_ALL), Progress::default());
}

#[test]
fn what_a_crash_left_beside_the_plain_file_is_compared() {
    let (_directory, layout) = filled();
    let old = old_archive(&layout, 1, "", 9);
    old_archive(&layout, 2, "", 1);
    let packed = old.join("metadata.mfs.back.zst");
    fs::write(&packed, "rubbish").unwrap();
    let progress = run(&layout, &KEEP_ALL);
    assert_eq!(progress.compressed, 0);
    assert_eq!(progress.left[0].path, old.join("metadata.mfs.back"));
    assert!(progress.left[0].why.contains("nothing is overwritten"));
    assert_eq!(fs::read(old.join("metadata.mfs.back")).unwrap(), content(1));

    fs::write(&packed, zstd::encode_all(&content(3)[..], 3).unwrap()).unwrap();
    assert_eq!(run(&layout, &KEEP_ALL).left.len(), 1);
    fs::write(&packed, zstd::encode_all(&content(1)[..], 3).unwrap()).unwrap();
    assert_eq!(run(&layout, &KEEP_ALL).compressed, 1);
    assert!(!old.join("metadata.mfs.back").exists() && packed.exists());
}

#[test]
fn a_file_with_another_name_is_left_alone() {
    let (_directory, layout) = filled();
    let live = layout.data().join("changelog_ml.1.mfs");
    fs::write(&live, content(1)).unwrap();
    let archive = snapshot(&layout, EPOCH).unwrap().archive.unwrap();
    old_archive(&layout, 99, "", 0);
    assert_eq!(run(&layout, &KEEP_ALL), Progress::default());
    fs::remove_file(&live).unwrap();
    assert_eq!(run(&layout, &KEEP_ALL).compressed, 1);
    assert!(archive.join("changelog_ml.1.mfs.zst").exists());
}

#[test]
fn the_archive_of_an_unfinished_installation_is_left_alone() {
    let (_directory, layout) = filled();
    fs::write(layout.data().join("metadata_ml.mfs.back"), content(1)).unwrap();
    fs::write(layout.data().join("metadata_ml.mfs.back.1"), content(1)).unwrap();
    stage(&layout);
    let mut journal = Journal::load(&layout).unwrap();
    let installed = install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap();
    for epoch in [98, 99] {
        old_archive(&layout, epoch, "", 0);
    }
    let retention = Retention {
        keep_plain: 1,
        keep: 1,
        max_age: None,
    };
    let before = names(&installed.archive);
    assert_eq!(
        run(&layout, &KEEP_ALL).compressed,
        1,
        "another one is not in use"
    );
    assert_eq!(names(&installed.archive), before);
    run(&layout, &retention);
    assert_eq!(names(&installed.archive), before);

    let serving = mfs_ha::moosefs::journal::Stage::Serving {
        pid: 1,
        start_time: 1,
    };
    journal.set(serving).unwrap();
    assert_eq!(run(&layout, &retention).removed, 1);
    assert!(!installed.archive.exists());
}

#[test]
fn the_retention_removes_what_is_old_and_beyond_the_number() {
    let (_directory, layout) = filled();
    let archives: Vec<_> = (1..=6)
        .map(|epoch| old_archive(&layout, epoch, "", 10 * (7 - u32::try_from(epoch).unwrap())))
        .collect();
    let foreign = layout.archive().join("by-hand");
    fs::create_dir(&foreign).unwrap();
    fs::write(layout.archive().join("8-20261123T064200Z"), "a file").unwrap();
    let retention = Retention {
        keep_plain: 9,
        keep: 2,
        max_age: Some(DAY * 35),
    };
    let progress = run(&layout, &retention);
    assert_eq!(
        (progress.removed, progress.more),
        (3, false),
        "{progress:?}"
    );
    let left: Vec<_> = list(&layout).unwrap().into_iter().map(|a| a.path).collect();
    assert_eq!(left, archives[3..]);

    let by_number = Retention {
        keep: 0,
        max_age: None,
        ..retention
    };
    assert_eq!(run(&layout, &by_number).removed, 2);
    let left: Vec<_> = list(&layout).unwrap().into_iter().map(|a| a.path).collect();
    assert_eq!(left, archives[5..], "the newest is never removed");
    assert!(foreign.exists() && layout.archive().join("8-20261123T064200Z").exists());
}

#[test]
fn nothing_is_removed_while_the_live_directory_is_empty() {
    let (_directory, layout) = filled();
    for epoch in 1..=3 {
        old_archive(&layout, epoch, "", 9);
    }
    for name in [
        "metadata_ml.mfs.back",
        "metadata_ml.mfs.back.1",
        "metadata.mfs.back",
    ] {
        fs::remove_file(layout.data().join(name)).unwrap();
    }
    fs::write(layout.data().join("metadata.mfs.empty"), "MFSM NEW").unwrap();
    let retention = Retention {
        keep_plain: 9,
        keep: 1,
        max_age: None,
    };
    assert_eq!(run(&layout, &retention).removed, 0);
    fs::write(
        layout.data().join("metadata_ml.mfs.back"),
        "an image of some length",
    )
    .unwrap();
    assert_eq!(run(&layout, &retention).removed, 2);
}

#[test]
fn the_newest_snapshots_are_kept() {
    let (_directory, layout) = filled();
    let snapshots: Vec<_> = (1..=6)
        .map(|epoch| old_archive(&layout, epoch, "snapshot", 9))
        .collect();
    let newest = old_archive(&layout, 9, "", 0);
    let retention = Retention {
        keep_plain: 9,
        keep: 1,
        max_age: None,
    };
    assert_eq!(run(&layout, &retention).removed, 2);
    assert!(newest.exists());
    for (index, path) in snapshots.iter().enumerate() {
        let is_kept = index >= snapshots.len() - SNAPSHOTS_KEPT;
        assert_eq!(path.exists(), is_kept, "{index}");
    }
}

#[test]
fn an_archive_with_a_directory_in_it_is_reported() {
    let (_directory, layout) = filled();
    let old = old_archive(&layout, 1, "", 9);
    fs::create_dir(old.join("work")).unwrap();
    old_archive(&layout, 2, "", 1);
    let retention = Retention {
        keep_plain: 9,
        keep: 1,
        max_age: None,
    };
    let progress = run(&layout, &retention);
    assert_eq!(
        (progress.removed, progress.left.len()),
        (0, 1),
        "{progress:?}"
    );
    assert!(progress.left[0].why.contains("work is a directory"));
    assert_eq!(names(&old).len(), 3);
}

#[test]
fn a_removal_that_was_cut_off_is_finished() {
    let (_directory, layout) = filled();
    let old = old_archive(&layout, 1, "", 9);
    let half = old.with_file_name(format!("{}.removing", old.file_name().unwrap().display()));
    fs::rename(&old, &half).unwrap();
    assert_eq!(list(&layout).unwrap(), []);
    assert_eq!(run(&layout, &KEEP_ALL).removed, 1);
    assert!(!half.exists());
}

#[test]
fn work_is_done_in_portions_and_can_be_cancelled() {
    let (_directory, layout) = filled();
    for epoch in 1..=70 {
        old_archive(&layout, epoch, "", 9);
    }
    let cancelled = AtomicBool::new(true);
    let progress = compress(&layout, &KEEP_ALL, SystemTime::now(), &cancelled).unwrap();
    assert_eq!((progress.compressed, progress.more), (0, true));
    let progress = run(&layout, &KEEP_ALL);
    assert_eq!((progress.compressed, progress.more), (64, true));

    let cancel = Arc::new(AtomicBool::new(false));
    let thread = spawn(layout.clone(), KEEP_ALL, Arc::clone(&cancel)).unwrap();
    let progress = thread.join().unwrap().unwrap();
    assert_eq!((progress.compressed, progress.more), (5, false));
    cancel.store(true, Ordering::Relaxed);
    let thread = spawn(layout, KEEP_ALL, cancel).unwrap();
    assert!(thread.join().unwrap().unwrap().more);
}
