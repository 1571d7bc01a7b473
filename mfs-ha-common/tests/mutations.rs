//! The judges of the simulated cluster bite: with one rule of the lease taken out of the code, they find a seed.
//!
//! Each test copies this crate, changes the one place that holds a rule, builds it and runs `quorum.rs` on it. A
//! place that is not found exactly once fails the test: then the rule has moved, and the test has to follow.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Seeds within which a mutation has to be found. Most need a few hundred.
const SEEDS: u32 = 40_000;

/// Seeds of the control: the copy itself is sound.
const CONTROL_SEEDS: u32 = 500;

/// One folder, one build at a time: what does not change is compiled once. The lock holds against other processes, too.
fn turn() -> File {
    let folder = folder();
    fs::create_dir_all(&folder).unwrap();
    let file = File::create(folder.join("lock")).unwrap();
    file.lock().unwrap();
    file
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations")
}

const QUORUM: &str = "src/election/quorum";

/// A place of the code and what stands there instead: file, text, replacement.
type Edit = (&'static str, &'static str, &'static str);

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Makes a workspace of this crate alone, with the versions and lints of the whole one. It is always the same folder:
/// what a change does not touch is not compiled again.
fn workspace() -> PathBuf {
    let folder = folder().join("workspace");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    let root = crate_folder().join("..");
    copy(crate_folder(), &folder.join("mfs-ha-common"));
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let lines = manifest.lines().map(|line| {
        if line.starts_with("members = ") {
            "members = [\"mfs-ha-common\"]"
        } else if line.starts_with("default-members = ") {
            ""
        } else {
            line
        }
    });
    // Built fifteen times and run for seconds: a quick build is worth more than a quick program.
    let quick = [
        "",
        "[profile.sim]",
        "inherits = \"release\"",
        "debug = false",
        "incremental = true",
        "opt-level = 1",
    ];
    let manifest: Vec<&str> = lines.chain(quick).collect();
    fs::write(folder.join("Cargo.toml"), manifest.join("\n")).unwrap();
    folder
}

fn edit(folder: &Path, (file, from, to): Edit) {
    let path = folder.join("mfs-ha-common").join(QUORUM).join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{file}: `{from}`");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Builds a copy and runs the simulated cluster on it. Returns what it printed, and whether it passed.
fn simulate(folder: &Path, seeds: u32, grows: bool) -> (String, bool) {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--profile", "sim"])
        .args(["--package", "mfs-ha-common"])
        .args([
            "--test",
            "quorum",
            "no_seed_breaks_a_rule",
            "--",
            "--nocapture",
        ])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", self::folder().join("target"))
        .env("RUSTFLAGS", "-Awarnings")
        .env("RUST_BACKTRACE", "0")
        .env("MFS_HA_SEEDS", seeds.to_string())
        // A gate hides what the rules of the lease are for.
        .env("MFS_HA_UNGATED", "1")
        .envs(grows.then_some(("MFS_HA_GROWS", "1")))
        .env_remove("MFS_HA_SEED")
        .env_remove("MFS_HA_FIRST_SEED")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    // A judgement on what an earlier test has built would be worth nothing.
    assert!(text.contains("Compiling mfs-ha-common"), "{text}");
    (text, output.status.success())
}

/// Takes a rule out and expects a judge to notice.
fn is_caught(name: &str, edits: &[Edit]) {
    is_caught_in(name, edits, false);
}

/// The same in clusters that all get new members.
fn is_caught_while_growing(name: &str, edits: &[Edit]) {
    is_caught_in(name, edits, true);
}

fn is_caught_in(name: &str, edits: &[Edit], grows: bool) {
    let _turn = turn();
    let folder = workspace();
    for change in edits {
        edit(&folder, *change);
    }
    let (output, has_passed) = simulate(&folder, SEEDS, grows);
    let found = output.lines().find(|line| line.starts_with("seed "));
    println!(
        "{name}: {}",
        found
            .unwrap_or("nothing")
            .chars()
            .take(160)
            .collect::<String>()
    );
    assert!(
        !has_passed && found.is_some(),
        "{name} was not caught:\n{output}"
    );
}

#[test]
fn the_copy_itself_is_sound() {
    let _turn = turn();
    let (output, has_passed) = simulate(&workspace(), CONTROL_SEEDS, false);
    assert!(has_passed, "{output}");
}

#[test]
fn the_allowance_for_clocks_is_dropped() {
    let edits = [(
        "candidacy.rs",
        "timing.lease.saturating_sub(timing.allowance())",
        "timing.lease",
    )];
    is_caught("allowance", &edits);
}

#[test]
fn a_lease_is_counted_from_receipt() {
    let edits = [(
        "votes.rs",
        "lease.acknowledge(place, sent_at);",
        "lease.acknowledge(place, now);",
    )];
    is_caught("receipt", &edits);
}

#[test]
fn a_voter_grants_right_after_its_restart() {
    let edits = [(
        "voter.rs",
        "free_since: now.after(lease),",
        "free_since: now,",
    )];
    is_caught("restart", &edits);
}

#[test]
fn an_epoch_is_forgotten_by_a_restart() {
    let from = "voter: Voter::new(durable.granted, timing.lease, now),";
    let to = "voter: Voter::new(crate::heartbeat::Ballot::default(), timing.lease, now),";
    is_caught("forgotten", &[("mod.rs", from, to)]);
}

#[test]
fn freshness_is_ignored() {
    let edits = [(
        "votes.rs",
        "if metadata.freshness > theirs.freshness {",
        "if false {",
    )];
    is_caught("freshness", &edits);
}

#[test]
fn a_renewal_is_accepted_for_another_epoch() {
    let from = "if ballot == self.granted && self.pending.is_none() {";
    let to = "if (ballot == self.granted || is_held) && self.pending.is_none() {";
    is_caught("other-epoch", &[("voter.rs", from, to)]);
}

#[test]
fn a_tick_is_trusted_without_reading_the_deadline_again() {
    let from = "let Some(live) = self.live.filter(|live| live.until <= now) else {";
    is_caught(
        "tick",
        &[("voter.rs", from, "let Some(live) = self.live else {")],
    );
}

#[test]
fn a_repeated_ask_extends_a_grant() {
    let edits = [("voter.rs", "if !asked.is_held {", "if false {")];
    is_caught("repeated-ask", &edits);
}

#[test]
fn a_deaf_node_vetoes() {
    let from = "now.since(answered) <= window && self.mutually_heard(now, place) >= majority;";
    is_caught(
        "deaf",
        &[("votes.rs", from, "now.since(answered) <= window;")],
    );
}

#[test]
fn a_grant_is_answered_before_it_is_on_disk() {
    let from = "self.pending = Some(Grant { ballot, request });";
    let to = "self.live = Some(Live { grant: Grant { ballot, request }, until: now.after(self.lease) });";
    is_caught("before-disk", &[("voter.rs", from, to)]);
}

#[test]
fn late_answers_rebuild_what_was_released() {
    let edits = [
        (
            "votes.rs",
            ".filter(|lease| lease.ballot == grant.ballot)",
            ".filter(|lease| lease.ballot.candidate == grant.ballot.candidate)",
        ),
        ("votes.rs", "if sent_at < lease.since {", "if false {"),
    ];
    is_caught("late-answers", &edits);
}

#[test]
fn two_generations_of_the_member_list_vote_together() {
    let from = "if self.those_who_had(now, &old, membership) >= old.majority() {";
    is_caught_while_growing("generations", &[("members.rs", from, "if true {")]);
}

#[test]
fn a_new_list_is_reported_while_old_grants_last() {
    let from = "|| now < self.voter.free_since() {";
    is_caught_while_growing("old-grants", &[("members.rs", from, "{")]);
}

#[test]
fn a_sleeper_goes_on_past_its_lease() {
    let from = "(self.state == State::Master && is_over).then_some(Reason::LeaseExpired)";
    let to = "(self.state == State::Master && is_over && now.as_nanos() == 0).then_some(Reason::LeaseExpired)";
    is_caught("sleeper", &[("mod.rs", from, to)]);
}
