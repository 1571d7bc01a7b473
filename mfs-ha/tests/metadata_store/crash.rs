//! The process ends at any of its system calls, or one of them fails.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use mfs_ha::moosefs::archive::{self, Retention};
use mfs_ha::moosefs::epoch::{self, EpochRecord, EpochState};
use mfs_ha::moosefs::install::{install, restore};
use mfs_ha::moosefs::journal::{Journal, Stage, recover};
use mfs_ha::moosefs::layout::{Layout, StoreError};
use mfs_ha::moosefs::repair::{Which, quarantine, repair_metalogger_files};
use mfs_ha::moosefs::snapshot::snapshot;

use super::{EPOCH, OWNER, assert_installed, assert_nothing_lost, everything, filled, live, stage};

const OPERATION: &str = "MFS_HA_TEST_OPERATION";
const DATA: &str = "MFS_HA_TEST_DATA";
/// The exit status of a child whose operation was refused.
const REFUSED: i32 = 23;

/// Every system call that changes names or makes changes last.
const EFFECTS: [&str; 9] = [
    "renameat2",
    "renameat",
    "rename",
    "linkat",
    "unlink",
    "rmdir",
    "mkdir",
    "fsync",
    "fchown",
];

/// More than any operation here makes of one system call.
const CALLS_MAX: u32 = 60;

/// What ends the operation, at the `n`th call of its kind.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Killed,
    Fails(&'static str),
}

/// How the child ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Done,
    Refused,
    Killed,
}

/// Carries out one operation when a test of this file asks for it.
#[test]
fn child_of_the_crash_tests() {
    let (Ok(operation), Ok(data)) = (std::env::var(OPERATION), std::env::var(DATA)) else {
        return;
    };
    let layout = Layout::new(Path::new(&data)).unwrap();
    if let Err(error) = carry_out(&operation, &layout) {
        println!("{error}");
        std::process::exit(REFUSED);
    }
    std::process::exit(0);
}

fn carry_out(operation: &str, layout: &Layout) -> Result<(), StoreError> {
    let mut journal = Journal::load(layout)?;
    match operation {
        "install" => install(layout, &mut journal, &layout.staging(), EPOCH).map(drop),
        "restore" => restore(layout, &mut journal).map(drop),
        "recover" => recover(layout, &mut journal).map(drop),
        "clear" => layout.clear_staging(&journal, EPOCH).map(drop),
        "quarantine" => quarantine(layout, &journal, Which::All, EPOCH).map(drop),
        "repair" => repair_metalogger_files(layout, EPOCH).map(drop),
        "snapshot" => snapshot(layout, EPOCH).map(drop),
        "epoch" => epoch::write(layout, &NEW_EPOCH),
        "compress" => {
            let retention = Retention {
                keep_plain: 1,
                keep: 3,
                max_age: None,
            };
            let cancel = AtomicBool::new(false);
            archive::compress(layout, &retention, SystemTime::now(), &cancel).map(drop)
        }
        other => panic!("no operation {other}"),
    }
}

const NEW_EPOCH: EpochRecord = EpochRecord {
    epoch: EPOCH + 1,
    base: 80_000,
    state: EpochState::Pending,
    id: 0xabcd,
    previous: None,
};

/// Runs an operation in a process of its own, with a fault at the `n`th `call`.
fn run(operation: &str, layout: &Layout, call: &str, n: u32, fault: Fault) -> Ended {
    let injected = match fault {
        Fault::Killed => "signal=KILL".to_owned(),
        Fault::Fails(errno) => format!("error={errno}"),
    };
    let output = Command::new("strace")
        .args(["--follow-forks", "--seccomp-bpf", "--quiet=all"])
        .args(["--output", "/dev/null"])
        .args(["--trace", call])
        .arg(format!("--inject={call}:{injected}:when={n}"))
        .arg(std::env::current_exe().unwrap())
        .args(["crash::child_of_the_crash_tests", "--exact", "--nocapture"])
        .env(OPERATION, operation)
        .env(DATA, layout.data())
        .stdin(Stdio::null())
        .output()
        .expect("strace of the Debian package strace: `cargo xtask setup` installs it");
    match output.status.code() {
        Some(0) => Ended::Done,
        Some(REFUSED) => Ended::Refused,
        None | Some(137) => Ended::Killed,
        Some(code) => panic!(
            "{operation} ended with {code}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// Ends an operation at each of its system calls in turn, and fails each in turn.
///
/// `prepare` makes the directory; `check` is given what was live and looks at what the fault left.
fn at_each_call(
    operation: &str,
    prepare: impl Fn(&Layout),
    check: impl Fn(&Layout, &BTreeMap<String, (u64, Vec<u8>)>, &str),
) {
    let mut faults = 0;
    for call in EFFECTS {
        for fault in [Fault::Killed, Fault::Fails("ENOSPC")] {
            // Removing an empty directory is for tidiness: a failure goes unnoticed.
            let last = if call == "rmdir" { 2 } else { 1 };
            for n in 1.. {
                assert!(n < CALLS_MAX, "{operation} makes more and more {call}");
                let (_directory, layout) = filled();
                let original = live(&layout);
                prepare(&layout);
                let ended = run(operation, &layout, call, n, fault);
                let what = format!("{operation}, {fault:?} at {call} {n}, {ended:?}");
                check(&layout, &original, &what);
                if ended != Ended::Done {
                    faults += 1;
                } else if n >= last {
                    break;
                }
            }
        }
    }
    assert!(
        faults > 4,
        "{operation}: strace injected only {faults} faults"
    );
}

/// The same for operations that remove nothing, neither before nor while `check` repairs it.
fn at_each_call_keeping_all(
    operation: &str,
    prepare: impl Fn(&Layout),
    check: impl Fn(&Layout, &BTreeMap<String, (u64, Vec<u8>)>, &str),
) {
    let before = Cell::new(BTreeMap::new());
    let prepare = |layout: &Layout| {
        prepare(layout);
        before.set(everything(layout.data()));
    };
    at_each_call(operation, prepare, |layout, original, what| {
        let before = before.take();
        assert_nothing_lost(&before, layout, what);
        check(layout, original, what);
        assert_nothing_lost(&before, layout, what);
    });
}

fn prepare_install(layout: &Layout) {
    stage(layout);
}

fn prepare_restore(layout: &Layout) {
    stage(layout);
    let mut journal = Journal::load(layout).unwrap();
    install(layout, &mut journal, &layout.staging(), EPOCH).unwrap();
    fs::write(layout.data().join("metadata.mfs.back.1"), "the master's").unwrap();
}

fn assert_recovered(layout: &Layout, original: &BTreeMap<String, (u64, Vec<u8>)>, what: &str) {
    let mut journal = Journal::load(layout).unwrap();
    assert_eq!(journal.damage(), None, "{what}");
    recover(layout, &mut journal).unwrap();
    assert_eq!(*journal.stage(), Stage::Idle, "{what}");
    assert_eq!(&live(layout), original, "{what}");
    assert!(!layout.staging().exists(), "{what}");
}

#[test]
fn an_installation_that_was_cut_off_is_undone() {
    at_each_call_keeping_all("install", prepare_install, assert_recovered);
}

#[test]
fn an_installation_that_was_cut_off_can_be_finished() {
    at_each_call_keeping_all("install", prepare_install, |layout, original, what| {
        let mut journal = Journal::load(layout).unwrap();
        install(layout, &mut journal, &layout.staging(), EPOCH).unwrap();
        assert_installed(layout, what);
        assert_eq!(*journal.stage(), Stage::Installed, "{what}");
        assert_recovered(layout, original, what);
    });
}

#[test]
fn an_undoing_that_was_cut_off_is_finished() {
    at_each_call_keeping_all("restore", prepare_restore, assert_recovered);
    at_each_call_keeping_all("recover", prepare_restore, assert_recovered);
}

#[test]
fn a_quarantine_that_was_cut_off_is_finished() {
    at_each_call_keeping_all(
        "quarantine",
        |_| {},
        |layout, _, what| {
            carry_out("quarantine", layout).unwrap();
            assert_eq!(live(layout).len(), 2, "{what}");
        },
    );
}

#[test]
fn staging_that_was_half_cleared_is_cleared() {
    at_each_call_keeping_all("clear", prepare_install, |layout, original, what| {
        carry_out("clear", layout).unwrap();
        assert!(!layout.staging().exists(), "{what}");
        assert_eq!(&live(layout), original, "{what}");
    });
}

#[test]
fn a_repair_leaves_the_live_file_whole_or_as_it_was() {
    at_each_call_keeping_all(
        "repair",
        |_| {},
        |layout, original, what| {
            let found = live(layout);
            assert_eq!(found.len(), original.len(), "{what}");
            let content = &found["changelog_ml.0.mfs"].1;
            let old = &original["changelog_ml.0.mfs"].1;
            assert!(content == old || content == &old[..old.len() - 8], "{what}");
            carry_out("repair", layout).unwrap();
            assert!(
                live(layout)["changelog_ml.0.mfs"].1.ends_with(b"\n"),
                "{what}"
            );
        },
    );
}

#[test]
fn a_snapshot_touches_nothing() {
    at_each_call_keeping_all(
        "snapshot",
        |_| {},
        |layout, original, what| {
            assert_eq!(&live(layout), original, "{what}");
            let snapshot = snapshot(layout, EPOCH).unwrap();
            assert_eq!(snapshot.names.len(), 5, "{what}");
        },
    );
}

#[test]
fn a_compression_that_was_cut_off_has_the_content_once_at_least() {
    let content = |epoch: u64| format!("{epoch}: 1|CREATE(1,name)\n").repeat(1000);
    let prepare = |layout: &Layout| {
        for epoch in 1..=5 {
            let archive = layout.new_archive("", epoch, SystemTime::now()).unwrap();
            fs::write(archive.join("changelog.0.mfs"), content(epoch)).unwrap();
        }
    };
    at_each_call("compress", prepare, |layout, original, what| {
        assert_eq!(&live(layout), original, "{what}");
        let kept = |layout: &Layout| -> Vec<bool> {
            let archives = archive::list(layout).unwrap();
            let newest = archives.iter().skip(archives.len() - 3);
            newest
                .map(|archive| {
                    let plain = archive.path.join("changelog.0.mfs");
                    let packed = archive.path.join("changelog.0.mfs.zst");
                    let wanted = content(archive.name.epoch).into_bytes();
                    let is_packed = packed.exists();
                    let found = match fs::File::open(packed) {
                        Ok(packed) => zstd::decode_all(packed).unwrap(),
                        Err(_) => fs::read(plain).unwrap(),
                    };
                    assert_eq!(found, wanted, "{what}");
                    is_packed
                })
                .collect()
        };
        kept(layout);
        carry_out("compress", layout).unwrap();
        assert_eq!(kept(layout), [true, true, false], "{what}");
        assert_eq!(fs::read_dir(layout.archive()).unwrap().count(), 3, "{what}");
        let left: usize = archive::list(layout)
            .unwrap()
            .iter()
            .map(|archive| fs::read_dir(&archive.path).unwrap().count())
            .sum();
        assert_eq!(left, 3, "{what}");
    });
}

#[test]
fn the_sidecar_is_the_old_one_or_the_new_one() {
    const OLD: EpochRecord = EpochRecord {
        epoch: EPOCH,
        state: EpochState::Committed,
        ..NEW_EPOCH
    };
    at_each_call_keeping_all(
        "epoch",
        |layout| epoch::write(layout, &OLD).unwrap(),
        |layout, _, what| {
            let read = epoch::read(layout).unwrap();
            assert!(read == OLD || read == NEW_EPOCH, "{what}");
            epoch::write(layout, &NEW_EPOCH).unwrap();
            assert_eq!(epoch::read(layout).unwrap(), NEW_EPOCH, "{what}");
        },
    );
}

/// A daemon under systemd has few of root's privileges, and the files are another user's.
#[test]
fn two_privileges_suffice() {
    for operation in [
        "quarantine",
        "repair",
        "snapshot",
        "epoch",
        "compress",
        "clear",
        "install",
        "restore",
    ] {
        let (_directory, layout) = filled();
        match operation {
            "restore" => prepare_restore(&layout),
            "install" | "clear" => prepare_install(&layout),
            "compress" => {
                for epoch in 1..=2 {
                    let archive = layout.new_archive("", epoch, SystemTime::now()).unwrap();
                    let path = archive.join("changelog.0.mfs");
                    fs::write(&path, "1: 1|X()\n".repeat(1000)).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
                    chown(&path, Some(OWNER.0), Some(OWNER.1)).unwrap();
                }
            }
            _ => {}
        }
        let output = Command::new("setpriv")
            .args([
                "--bounding-set=-all,+chown,+dac_override",
                "--inh-caps=-all",
            ])
            .arg(std::env::current_exe().unwrap())
            .args(["crash::child_of_the_crash_tests", "--exact", "--nocapture"])
            .env(OPERATION, operation)
            .env(DATA, layout.data())
            .output()
            .expect("setpriv of util-linux");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{operation}: {text}");
    }
}

#[test]
fn the_journal_is_on_disk_before_the_files_move() {
    let (_directory, layout) = filled();
    stage(&layout);
    let trace = layout.data().join("trace");
    let status = Command::new("strace")
        .args(["--follow-forks", "--decode-fds=path", "--string-limit=256"])
        .arg("--output")
        .arg(&trace)
        .args(["--trace", "rename,renameat2,fsync,fdatasync"])
        .arg(std::env::current_exe().unwrap())
        .args(["crash::child_of_the_crash_tests", "--exact"])
        .env(OPERATION, "install")
        .env(DATA, layout.data())
        .stdout(Stdio::null())
        .status()
        .expect("strace of the Debian package strace: `cargo xtask setup` installs it");
    assert!(status.success());
    let trace = fs::read_to_string(trace).unwrap();
    let order: Vec<_> = trace.lines().filter_map(effect).collect();
    let moves = order.iter().filter(|effect| **effect == "move").count();
    assert_eq!(moves, 10, "{trace}");
    let first = order.iter().position(|effect| *effect == "move").unwrap();
    let (before, after) = order.split_at(first);
    let journal = ["sync journal.tmp", "rename journal", "sync mfs-ha"];
    assert!(before.ends_with(&journal), "{trace}");
    assert!(before.contains(&"sync image"), "{trace}");
    assert!(before.contains(&"sync changelog"), "{trace}");
    let rest = &after[moves..];
    let renamed = rest.iter().position(|effect| *effect == "rename journal");
    let synced = &rest[..renamed.unwrap()];
    for directory in ["sync archived", "sync data", "sync staging"] {
        assert!(synced.contains(&directory), "{directory}: {trace}");
    }
    assert!(rest.ends_with(&journal), "{trace}");
}

/// What a line of the trace does, in the terms of the test.
fn effect(line: &str) -> Option<&'static str> {
    let target = |end: &str| line.contains(&format!("{end}>)"));
    if line.contains("renameat2(") {
        return Some("move");
    }
    if line.contains("rename(") {
        return line.contains("journal.json").then_some("rename journal");
    }
    if !line.contains("fsync(") {
        return None;
    }
    Some(match line {
        _ if target("/journal.tmp") => "sync journal.tmp",
        _ if target("/mfs-ha") => "sync mfs-ha",
        _ if target("/staging/metadata.mfs.back") => "sync image",
        _ if target("/staging/changelog.0.mfs") => "sync changelog",
        _ if target("/staging") => "sync staging",
        _ if target("/archive") => "sync archive",
        _ if line.contains("/archive/7-") => "sync archived",
        _ => "sync data",
    })
}
