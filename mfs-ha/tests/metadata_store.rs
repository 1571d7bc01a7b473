//! Changes of a metadata directory on disk: nothing is lost and nothing overwritten, whenever the
//! process ends and whatever the disk answers.
//!
//! strace ends the real code at each of its system calls in turn, or makes the call fail; the
//! shipped code has no switch for tests.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on panics"
)]

mod common;

#[path = "metadata_store/archives.rs"]
mod archives;
#[path = "metadata_store/crash.rs"]
mod crash;
#[path = "metadata_store/disk.rs"]
mod disk;
#[path = "metadata_store/real.rs"]
mod real;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use mfs_ha::moosefs::install::{install, restore};
use mfs_ha::moosefs::journal::{Journal, Stage, recover};
use mfs_ha::moosefs::layout::{Layout, StoreError};
use mfs_ha::moosefs::repair::{Which, quarantine, repair_metalogger_files};
use mfs_ha::moosefs::snapshot::{LENGTHS_FILE, snapshot};
use tempfile::TempDir;

/// Nobody's, so that an owner that was kept or given shows.
pub(crate) const OWNER: (u32, u32) = (64_711, 64_712);
pub(crate) const EPOCH: u64 = 7;

const PARTIAL: &str = "changelog_ml.0.mfs";
pub(crate) const METALOGGER: [&str; 5] = [
    "changelog_ml.0.mfs",
    "changelog_ml.1.mfs",
    "changelog_ml_back.0.mfs",
    "metadata_ml.mfs.back",
    "metadata_ml.mfs.back.1",
];
const MASTER: [&str; 3] = ["changelog.0.mfs", "metadata.mfs.back", "metadata.mfs.empty"];
const OTHERS: [&str; 2] = [".mfsmetalogger.lock", "stats.mfs"];
pub(crate) const STAGED: [&str; 2] = ["changelog.0.mfs", "metadata.mfs.back"];

/// A data directory as a metalogger leaves it that was killed, with files of an old master in it.
pub(crate) fn fill(data: &Path) -> Layout {
    chown(data, Some(OWNER.0), Some(OWNER.1)).expect("another owner: this test needs root");
    for name in METALOGGER.iter().chain(&MASTER).chain(&OTHERS) {
        let path = data.join(name);
        let end = if *name == PARTIAL { "3: 1|WRI" } else { "" };
        fs::write(&path, format!("1: 1|{name}()\n2: 1|{name}()\n{end}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        chown(&path, Some(OWNER.0), Some(OWNER.1)).unwrap();
    }
    let layout = Layout::new(data).unwrap();
    layout.prepare().unwrap();
    layout
}

/// What staging makes: a hard link of the image, and a changelog of root's.
pub(crate) fn stage(layout: &Layout) {
    let staging = layout.staging();
    fs::create_dir(&staging).unwrap();
    fs::hard_link(
        layout.data().join("metadata_ml.mfs.back"),
        staging.join("metadata.mfs.back"),
    )
    .unwrap();
    fs::write(staging.join("changelog.0.mfs"), "merged\n").unwrap();
}

pub(crate) fn filled() -> (TempDir, Layout) {
    let directory = tempfile::tempdir().unwrap();
    let layout = fill(directory.path());
    (directory, layout)
}

/// The metadata files of the live directory, with inode and content.
pub(crate) fn live(layout: &Layout) -> BTreeMap<String, (u64, Vec<u8>)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(layout.data()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            let name = entry.file_name().into_string().unwrap();
            let content = fs::read(entry.path()).unwrap();
            files.insert(name, (entry.metadata().unwrap().ino(), content));
        }
    }
    files
}

/// Every file anywhere, by inode: what it says, and under how many names.
pub(crate) fn everything(directory: &Path) -> BTreeMap<u64, (Vec<u8>, usize)> {
    fn walk(directory: &Path, files: &mut BTreeMap<u64, (Vec<u8>, usize)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                walk(&path, files);
            } else {
                let content = fs::read(&path).unwrap();
                let names = files.get(&metadata.ino()).map_or(0, |(_, names)| *names);
                files.insert(metadata.ino(), (content, names + 1));
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(directory, &mut files);
    files
}

/// Our own small files are replaced; every metadata file must be there, byte for byte.
pub(crate) fn assert_nothing_lost(
    before: &BTreeMap<u64, (Vec<u8>, usize)>,
    layout: &Layout,
    what: &str,
) {
    let after = everything(layout.data());
    for (inode, (content, _)) in before {
        if content.starts_with(b"{") {
            continue;
        }
        let found = after.get(inode).map(|(content, _)| content);
        assert_eq!(
            found.map(|found| String::from_utf8_lossy(found)),
            Some(String::from_utf8_lossy(content)),
            "{what}: a file is gone or changed"
        );
    }
}

pub(crate) fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

pub(crate) fn assert_installed(layout: &Layout, what: &str) {
    let live = live(layout);
    let found: BTreeSet<_> = live.keys().cloned().collect();
    let wanted = &names(&STAGED) | &names(&OTHERS);
    assert_eq!(found, wanted, "{what}");
    assert_eq!(live["changelog.0.mfs"].1, b"merged\n", "{what}");
    for name in STAGED {
        let metadata = fs::metadata(layout.data().join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), OWNER, "{what}: {name}");
    }
}

#[test]
fn installing_and_restoring_is_as_if_nothing_had_been() {
    let (_directory, layout) = filled();
    stage(&layout);
    let before = live(&layout);
    let all = everything(layout.data());
    let mut journal = Journal::load(&layout).unwrap();
    let installed = install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap();
    assert_installed(&layout, "installed");
    assert_nothing_lost(&all, &layout, "installed");
    assert_eq!(installed.installed, STAGED);
    assert_eq!(installed.moved.len(), METALOGGER.len() + MASTER.len());
    assert_eq!(*journal.stage(), Stage::Installed);
    assert!(!layout.staging().exists());

    // Repeated, it is done already.
    let again = install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap();
    assert_eq!(again, installed);

    // The master was started, wrote, and never served.
    journal
        .set(Stage::Started {
            pid: 4711,
            start_time: 1,
        })
        .unwrap();
    fs::write(layout.data().join("metadata.mfs.back.1"), "the master's").unwrap();
    fs::write(layout.data().join("changelog.0.mfs"), "merged\n9: 1|X()\n").unwrap();
    let all = everything(layout.data());
    let restored = restore(&layout, &mut journal).unwrap();
    assert_eq!(live(&layout), before);
    assert_nothing_lost(&all, &layout, "restored");
    assert_eq!(restored.put_back, installed.moved);
    assert_eq!(
        restored.undone.names,
        [
            "changelog.0.mfs",
            "metadata.mfs.back",
            "metadata.mfs.back.1"
        ]
    );
    assert!(!installed.archive.exists(), "an empty archive is left");
    assert_eq!(*journal.stage(), Stage::Idle);

    let again = restore(&layout, &mut journal).unwrap();
    assert_eq!(again.put_back, Vec::<String>::new());
    assert_eq!(live(&layout), before);
}

#[test]
fn what_was_served_from_is_not_taken_away() {
    let (_directory, layout) = filled();
    stage(&layout);
    let mut journal = Journal::load(&layout).unwrap();
    install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap();
    let serving = Stage::Serving {
        pid: 4711,
        start_time: 1,
    };
    journal.set(serving.clone()).unwrap();
    restore(&layout, &mut journal).unwrap();
    assert_installed(&layout, "after restore");
    let mut journal = Journal::load(&layout).unwrap();
    let recovery = recover(&layout, &mut journal).unwrap();
    assert_eq!(recovery.found, serving);
    assert_eq!(*journal.stage(), serving);
    assert_installed(&layout, "after recover");
}

#[test]
fn a_second_promotion_waits_until_the_first_one_is_undone() {
    let (_directory, layout) = filled();
    stage(&layout);
    let mut journal = Journal::load(&layout).unwrap();
    install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap();
    let is_refused = |error: StoreError| matches!(error, StoreError::NotRestored { .. });
    assert!(is_refused(
        layout.clear_staging(&journal, EPOCH).unwrap_err()
    ));
    assert!(is_refused(
        quarantine(&layout, &journal, Which::All, EPOCH).unwrap_err()
    ));
    fs::create_dir(layout.staging()).unwrap();
    fs::write(layout.staging().join("metadata.mfs.back"), "newer").unwrap();
    assert!(is_refused(
        install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap_err()
    ));
    assert_installed(&layout, "refused");

    restore(&layout, &mut journal).unwrap();
    assert!(!layout.staging().exists());
    stage(&layout);
    install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap();
    assert_installed(&layout, "again");
}

#[test]
fn staging_is_cleared_by_moving_it() {
    let (_directory, layout) = filled();
    let journal = Journal::load(&layout).unwrap();
    assert_eq!(layout.clear_staging(&journal, EPOCH).unwrap(), None);
    stage(&layout);
    let all = everything(layout.data());
    let aside = layout.clear_staging(&journal, EPOCH).unwrap().unwrap();
    assert!(aside.join("changelog.0.mfs").exists());
    assert!(!layout.staging().exists());
    assert_nothing_lost(&all, &layout, "cleared");
    fs::create_dir(layout.staging()).unwrap();
    assert_eq!(layout.clear_staging(&journal, EPOCH).unwrap(), None);
    assert!(!layout.staging().exists());
}

#[test]
fn nothing_is_installed_without_an_image() {
    let (_directory, layout) = filled();
    let before = live(&layout);
    let mut journal = Journal::load(&layout).unwrap();
    let error = install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap_err();
    assert!(matches!(error, StoreError::NothingStaged { .. }), "{error}");
    fs::create_dir(layout.staging()).unwrap();
    fs::write(layout.staging().join("changelog.0.mfs"), "").unwrap();
    let error = install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap_err();
    assert!(matches!(error, StoreError::NothingStaged { .. }), "{error}");
    assert_eq!(live(&layout), before);
    assert_eq!(fs::read_dir(layout.archive()).unwrap().count(), 0);
    assert_eq!(journal.install(), None);
}

#[test]
fn what_is_no_file_is_refused_before_anything_moves() {
    let (_directory, layout) = filled();
    stage(&layout);
    fs::create_dir(layout.data().join("metadata-backups")).unwrap();
    let foreign = layout.data().join("metadata.mfs");
    fs::create_dir(&foreign).unwrap();
    let before = live(&layout);
    let mut journal = Journal::load(&layout).unwrap();
    for error in [
        install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap_err(),
        quarantine(&layout, &journal, Which::All, EPOCH).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(text.contains("metadata.mfs is a directory"), "{text}");
    }
    assert_eq!(live(&layout), before);
    assert_eq!(fs::read_dir(layout.archive()).unwrap().count(), 0);

    fs::remove_dir(&foreign).unwrap();
    install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap();
    assert_installed(&layout, "a directory of another name is no obstacle");
}

#[test]
fn an_archive_that_somebody_took_away_stops_the_undoing() {
    let (_directory, layout) = filled();
    stage(&layout);
    let mut journal = Journal::load(&layout).unwrap();
    let installed = install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap();
    let hidden = layout.own().join("hidden");
    fs::rename(&installed.archive, &hidden).unwrap();
    let error = restore(&layout, &mut journal).unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    assert_installed(&layout, "refused");
    fs::rename(&hidden, &installed.archive).unwrap();
    restore(&layout, &mut journal).unwrap();
    assert!(live(&layout).contains_key("metadata_ml.mfs.back"));
}

#[test]
fn a_metalogger_that_still_runs_is_noticed() {
    let (_directory, layout) = filled();
    stage(&layout);
    let mut journal = Journal::load(&layout).unwrap();
    let mut before = live(&layout);
    install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap();
    journal.set(Stage::Installing).unwrap();
    fs::create_dir(layout.staging()).unwrap();
    fs::write(layout.data().join("changelog_ml.2.mfs"), "4: 1|NEW()\n").unwrap();
    let error = install(&layout, &mut journal, &layout.staging(), EPOCH).unwrap_err();
    assert!(matches!(error, StoreError::Changing { .. }), "{error}");
    let newer = live(&layout)["changelog_ml.2.mfs"].clone();
    restore(&layout, &mut journal).unwrap();
    before.insert("changelog_ml.2.mfs".to_owned(), newer);
    assert_eq!(live(&layout), before);
}

#[test]
fn quarantine_takes_what_is_not_the_metaloggers() {
    let (_directory, layout) = filled();
    let all = everything(layout.data());
    let journal = Journal::load(&layout).unwrap();
    let moved = quarantine(&layout, &journal, Which::MasterFiles, EPOCH).unwrap();
    assert_eq!(moved.names, MASTER);
    let found: BTreeSet<_> = live(&layout).into_keys().collect();
    assert_eq!(found, &names(&METALOGGER) | &names(&OTHERS));
    let moved = quarantine(&layout, &journal, Which::MasterFiles, EPOCH).unwrap();
    assert_eq!(moved.archive, None);
    let moved = quarantine(&layout, &journal, Which::All, EPOCH).unwrap();
    assert_eq!(moved.names, METALOGGER);
    assert_nothing_lost(&all, &layout, "quarantined");
}

#[test]
fn a_partial_last_line_is_cut_and_kept() {
    let (_directory, layout) = filled();
    let rotated = layout.data().join("changelog_ml.1.mfs");
    // Longer than a block, and with what a power failure leaves of a file's end.
    let line = format!("5: 1|{}\n", "x".repeat(300));
    fs::write(
        &rotated,
        format!("{}{}", line.repeat(300), "\0".repeat(70_000)),
    )
    .unwrap();
    fs::write(
        layout.data().join("changelog_ml.2.mfs"),
        "no line end at all",
    )
    .unwrap();
    fs::write(layout.data().join("changelog_ml.3.mfs"), "").unwrap();
    let all = everything(layout.data());
    let before = live(&layout);

    let repair = repair_metalogger_files(&layout, EPOCH).unwrap();
    let cut: Vec<_> = repair
        .repaired
        .iter()
        .map(|file| (file.name.as_str(), file.cut_bytes))
        .collect();
    let wanted = [
        ("changelog_ml.0.mfs", 8),
        ("changelog_ml.1.mfs", 70_000),
        ("changelog_ml.2.mfs", 18),
    ];
    assert_eq!(cut, wanted);
    assert_nothing_lost(&all, &layout, "repaired");
    let after = live(&layout);
    for (name, (inode, content)) in &before {
        let cut = wanted.iter().find(|(cut, _)| cut == name);
        match cut {
            None => assert_eq!(after.get(name), Some(&(*inode, content.clone()))),
            Some((_, bytes)) => {
                let whole = &content[..content.len() - usize::try_from(*bytes).unwrap()];
                assert_eq!(after[name].1, whole, "{name}");
            }
        }
    }
    let metadata = fs::metadata(layout.data().join(PARTIAL)).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), OWNER);
    assert_eq!(metadata.mode() & 0o7777, 0o640);

    let again = repair_metalogger_files(&layout, EPOCH).unwrap();
    assert_eq!(again, mfs_ha::moosefs::repair::Repair::default());
}

#[test]
fn a_snapshot_outlives_what_the_metalogger_does() {
    let (_directory, layout) = filled();
    let all = everything(layout.data());
    let first = snapshot(&layout, EPOCH).unwrap();
    assert!(first.is_new);
    assert_eq!(first.names, METALOGGER);
    let same = snapshot(&layout, EPOCH).unwrap();
    assert!(!same.is_new);
    assert_eq!(same.archive, first.archive);

    // It appends under the old name, and then throws its changelogs away.
    let path = layout.data().join(PARTIAL);
    let mut content = fs::read(&path).unwrap();
    let length = content.len();
    content.extend(b"TE()\n4: 2|OF_ANOTHER_MASTER()\n");
    fs::write(&path, &content).unwrap();
    let second = snapshot(&layout, EPOCH).unwrap();
    assert!(second.is_new && second.archive != first.archive);
    for name in METALOGGER {
        fs::remove_file(layout.data().join(name)).unwrap();
    }
    let archive = first.archive.unwrap();
    let lengths = fs::read_to_string(archive.join(LENGTHS_FILE)).unwrap();
    let lengths: BTreeMap<String, usize> = serde_json::from_str(&lengths).unwrap();
    assert_eq!(lengths[PARTIAL], length);
    let kept = fs::read(archive.join(PARTIAL)).unwrap();
    assert_eq!(kept, content);
    let mut all = all;
    all.retain(|_, (content, _)| !content.ends_with(b"WRI"));
    assert_nothing_lost(&all, &layout, "removed by the metalogger");
    assert_eq!(snapshot(&layout, EPOCH).unwrap().archive, None);
}

#[test]
fn a_snapshot_amid_a_rotation_has_no_file_twice() {
    let (_directory, layout) = filled();
    let changelog = |number: usize| layout.data().join(format!("changelog_ml.{number}.mfs"));
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                fs::rename(changelog(1), layout.own().join("oldest")).unwrap();
                fs::rename(changelog(0), changelog(1)).unwrap();
                fs::rename(layout.own().join("oldest"), changelog(0)).unwrap();
            }
        });
        let snapshots: Vec<_> = (0..50).map(|_| snapshot(&layout, EPOCH)).collect();
        ends.store(true, Ordering::Relaxed);
        for result in snapshots {
            let archive = match result {
                Ok(snapshot) => snapshot.archive.unwrap(),
                Err(StoreError::Changing { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            for (content, names) in everything(&archive).values() {
                assert_eq!(*names, 1, "{}", String::from_utf8_lossy(content));
            }
        }
    });
}

#[test]
fn two_at_once_lose_nothing() {
    for _ in 0..20 {
        let (_directory, layout) = filled();
        let all = everything(layout.data());
        let work = || {
            let journal = Journal::load(&layout).unwrap();
            quarantine(&layout, &journal, Which::All, EPOCH).is_ok()
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(work);
            work();
            other.join().unwrap();
        });
        assert_nothing_lost(&all, &layout, "two at once");
    }
}
