//! The hook runner with real programs.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on panics"
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mfs_ha::hooks::{FinishedHook, Hook, HookRunner, HookSettings, HookStatus};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(20);

/// A directory with two hooks that are shell scripts.
struct Bench {
    directory: tempfile::TempDir,
    settings: HookSettings,
}

impl Bench {
    /// `$D` in the scripts is the directory.
    fn new(up: &str, down: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = |name: &str, body: &str| {
            let path = directory.path().join(name);
            let text = format!("#!/bin/sh\nD={}\n{body}\n", directory.path().display());
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let settings = HookSettings {
            up: Some(script("up", up)),
            down: Some(script("down", down)),
            interface: "eth7".to_owned(),
            vip: "10.0.0.100".to_owned(),
            xparam: None,
            time_limit: Duration::from_secs(60),
        };
        Self {
            directory,
            settings,
        }
    }

    fn spawn(&self) -> HookRunner {
        HookRunner::spawn(self.settings.clone())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn write(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }

    async fn appears(&self, name: &str) {
        wait_until(&format!("{name} appears"), || self.path(name).exists()).await;
    }
}

async fn wait_until(what: &str, mut probe: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !probe() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn status(runner: &HookRunner, condition: impl FnMut(&HookStatus) -> bool) -> HookStatus {
    let mut receiver = runner.status();
    tokio::time::timeout(DEADLINE, receiver.wait_for(condition))
        .await
        .expect("the status does not come")
        .unwrap()
        .clone()
}

async fn finished(runner: &HookRunner, count: u64) -> FinishedHook {
    let status = status(runner, |status| {
        status.finished == count && status.running.is_none()
    });
    status.await.last.unwrap()
}

fn is_alive(pid: &str) -> bool {
    let pid: i32 = pid.trim().parse().expect("a process id");
    // A zombie that init has not yet collected is dead.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z")
}

#[tokio::test]
async fn a_hook_is_called_as_ucarp_calls_its_scripts() {
    let mut bench = Bench::new(
        r#"printf '%s|' "$0" "$#" "$@" "$PWD" "$PATH" > "$D/args"; read line && echo "stdin!" >> "$D/args"; true"#,
        r#"printf '%s|' "$0" "$#" "$@" > "$D/args""#,
    );
    let runner = bench.spawn();
    runner.want(Hook::Up);
    let ended = finished(&runner, 1).await;
    assert_eq!(
        (ended.hook, ended.exit.as_str(), ended.success),
        (Hook::Up, "exit status: 0", true)
    );
    assert!(!ended.timed_out);
    let expected = format!(
        "{}|2|eth7|10.0.0.100|{}|{}|",
        bench.path("up").display(),
        std::env::current_dir().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    assert_eq!(bench.read("args"), expected);

    bench.settings.xparam = Some("one text with  blanks; $HOME".to_owned());
    let runner = bench.spawn();
    runner.want(Hook::Down);
    finished(&runner, 1).await;
    let expected = format!(
        "{}|3|eth7|10.0.0.100|one text with  blanks; $HOME|",
        bench.path("down").display()
    );
    assert_eq!(bench.read("args"), expected);
}

#[tokio::test]
async fn the_running_hook_is_published() {
    let bench = Bench::new(
        r#"echo $$ > "$D/pid"; until [ -e "$D/go" ]; do sleep 0.02; done; exit 3"#,
        "",
    );
    let runner = bench.spawn();
    let before = std::time::Instant::now();
    runner.want(Hook::Up);
    let running = status(&runner, |status| status.running.is_some())
        .await
        .running
        .unwrap();
    assert_eq!(running.hook, Hook::Up);
    assert!(running.since >= before && running.since <= std::time::Instant::now());
    bench.appears("pid").await;
    wait_until("the pid is written", || bench.read("pid").ends_with('\n')).await;
    assert_eq!(bench.read("pid").trim(), running.pid.to_string());
    let group = nix::unistd::getpgid(Some(Pid::from_raw(running.pid.try_into().unwrap()))).unwrap();
    assert_eq!(
        group.as_raw().unsigned_abs(),
        running.pid,
        "not a process group of its own"
    );
    bench.write("go");
    let ended = finished(&runner, 1).await;
    assert_eq!(
        (ended.exit.as_str(), ended.success),
        ("exit status: 3", false)
    );
}

#[tokio::test]
async fn what_cannot_be_run_is_told_and_does_not_stop_the_other_hook() {
    let mut bench = Bench::new("", r#"echo ran > "$D/down-ran""#);
    for (name, piece) in [("absent", "No such file"), ("plain", "Permission denied")] {
        let path = bench.path(name);
        if name == "plain" {
            fs::write(&path, "#!/bin/sh\n").unwrap();
        }
        bench.settings.up = Some(path);
        let runner = bench.spawn();
        runner.want(Hook::Up);
        let ended = finished(&runner, 1).await;
        assert!(ended.exit.starts_with("cannot start: "), "{ended:?}");
        assert!(ended.exit.contains(piece), "{ended:?}");
        assert!(!ended.success);
        runner.want(Hook::Down);
        assert!(finished(&runner, 2).await.success);
        assert!(bench.path("down-ran").exists());
    }
}

#[tokio::test]
async fn without_a_program_nothing_runs_and_the_order_is_kept() {
    let mut bench = Bench::new("", r#"echo ran >> "$D/down-ran""#);
    bench.settings.up = None;
    let runner = bench.spawn();
    runner.want(Hook::Down);
    finished(&runner, 1).await;
    runner.want(Hook::Up);
    // Wished again only after the missing one was passed: it takes one turn of the task.
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    runner.want(Hook::Down);
    finished(&runner, 2).await;
    assert_eq!(bench.read("down-ran"), "ran\nran\n");
}

const LOGGED: &str = r#"mkdir "$D/alone" || echo overlap >> "$D/log"
echo "$(basename "$0")" >> "$D/log"; echo > "$D/started-$(basename "$0")"
until [ -e "$D/go" ]; do sleep 0.02; done
rmdir "$D/alone""#;

#[tokio::test]
async fn one_at_a_time_and_what_was_withdrawn_meanwhile_is_left_out() {
    let bench = Bench::new(LOGGED, LOGGED);
    let runner = bench.spawn();
    runner.want(Hook::Up);
    bench.appears("started-up").await;
    // Down and up again while up runs: up is what ran last, nothing is missing.
    runner.want(Hook::Down);
    tokio::task::yield_now().await;
    runner.want(Hook::Up);
    bench.write("go");
    finished(&runner, 1).await;
    assert_eq!(bench.read("log"), "up\n");

    // Wanted again: it has run.
    runner.want(Hook::Up);
    fs::remove_file(bench.path("go")).unwrap();
    runner.want(Hook::Down);
    bench.appears("started-down").await;
    assert_eq!(bench.read("log"), "up\ndown\n");
    // Up while down runs: comes after it, and not beside it.
    runner.want(Hook::Up);
    bench.write("go");
    assert_eq!(finished(&runner, 3).await.hook, Hook::Up);
    assert_eq!(bench.read("log"), "up\ndown\nup\n");
    let status = runner.finish(Instant::now() + DEADLINE).await;
    assert_eq!(status.finished, 3);
}

#[tokio::test]
async fn a_hook_that_runs_too_long_is_terminated_with_its_group() {
    let mut bench = Bench::new(r#"sleep 1000 & echo $! > "$D/child"; sleep 1000"#, "");
    bench.settings.time_limit = Duration::from_millis(300);
    let runner = bench.spawn();
    runner.want(Hook::Up);
    let ended = finished(&runner, 1).await;
    assert!(ended.timed_out && !ended.success);
    assert_eq!(ended.exit, "signal: 15 (SIGTERM)");
    assert!(ended.took_ms >= 300, "{ended:?}");
    wait_until("the child is gone", || !is_alive(&bench.read("child"))).await;
}

#[tokio::test]
async fn what_ends_slowly_gets_its_time_although_the_hook_itself_has_ended() {
    let mut bench = Bench::new(
        r#"(trap 'sleep 0.3; echo > "$D/cleaned"; exit' TERM; echo > "$D/runs"
            while :; do sleep 0.05; done) &
           sleep 1000"#,
        "",
    );
    bench.settings.time_limit = Duration::from_secs(1);
    let runner = bench.spawn();
    runner.want(Hook::Up);
    bench.appears("runs").await;
    let ended = finished(&runner, 1).await;
    assert_eq!(ended.exit, "signal: 15 (SIGTERM)");
    assert!(bench.path("cleaned").exists(), "{ended:?}");
}

#[tokio::test]
async fn a_hook_that_does_not_want_to_end_is_killed_with_its_group() {
    let mut bench = Bench::new(
        r#"trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & echo $! > "$D/child"
           while :; do sleep 1; done"#,
        "",
    );
    bench.settings.time_limit = Duration::from_millis(300);
    let runner = bench.spawn();
    runner.want(Hook::Up);
    let ended = finished(&runner, 1).await;
    assert!(ended.timed_out);
    assert_eq!(ended.exit, "signal: 9 (SIGKILL)");
    assert!(ended.took_ms >= 2300, "{ended:?}");
    wait_until("the child is gone", || !is_alive(&bench.read("child"))).await;
}

#[tokio::test]
async fn what_a_hook_leaves_running_holds_nobody_up_and_lives_on() {
    let bench = Bench::new(
        r#"(sleep 4; echo late; echo late >&2; echo survived > "$D/survived"; sleep 1000) &
           echo $! > "$D/child"; echo done"#,
        "",
    );
    let runner = bench.spawn();
    let before = Instant::now();
    runner.want(Hook::Up);
    let ended = finished(&runner, 1).await;
    assert!(ended.success && !ended.timed_out, "{ended:?}");
    assert!(
        before.elapsed() < Duration::from_secs(4),
        "{:?}",
        before.elapsed()
    );
    // It writes into the pipe after its hook has ended, and that must not kill it.
    bench.appears("survived").await;
    assert!(is_alive(&bench.read("child")));
    let child = Pid::from_raw(bench.read("child").trim().parse().unwrap());
    let sleeping = nix::unistd::getpgid(Some(child)).unwrap();
    // The child and what it sleeps in: the group that the hook led.
    killpg(sleeping, Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn the_end_waits_for_what_runs_and_runs_what_is_wanted() {
    let bench = Bench::new(
        r#"echo > "$D/up-runs"; sleep 0.3; echo > "$D/up-ended""#,
        r#"echo > "$D/down-ended""#,
    );
    let runner = bench.spawn();
    runner.want(Hook::Up);
    bench.appears("up-runs").await;
    runner.want(Hook::Down);
    let status = runner.finish(Instant::now() + DEADLINE).await;
    assert_eq!(status.finished, 2);
    assert!(bench.path("up-ended").exists() && bench.path("down-ended").exists());
}

#[tokio::test]
async fn at_the_end_a_hanging_hook_leaves_time_for_the_one_that_is_wanted() {
    let bench = Bench::new(
        r#"trap '' TERM; echo $$ > "$D/up-pid"; while :; do sleep 1; done"#,
        r#"echo > "$D/down-ended""#,
    );
    let runner = bench.spawn();
    runner.want(Hook::Up);
    bench.appears("up-pid").await;
    runner.want(Hook::Down);
    let before = Instant::now();
    let status = runner.finish(before + Duration::from_secs(3)).await;
    let took = before.elapsed();
    assert!(
        (Duration::from_millis(1400)..Duration::from_secs(6)).contains(&took),
        "{took:?}"
    );
    let last = status.last.unwrap();
    assert_eq!(
        (last.hook, last.success, status.finished),
        (Hook::Down, true, 2)
    );
    assert!(bench.path("down-ended").exists());
    assert!(!is_alive(&bench.read("up-pid")));
}

#[tokio::test]
async fn at_the_deadline_nothing_of_a_hook_is_left() {
    let bench = Bench::new(
        "",
        r#"trap '' TERM; sleep 1000 & echo $! > "$D/child"; echo > "$D/runs"; while :; do sleep 1; done"#,
    );
    let runner = bench.spawn();
    runner.want(Hook::Down);
    bench.appears("runs").await;
    let before = Instant::now();
    let status = runner.finish(before + Duration::from_secs(1)).await;
    let took = before.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(4)).contains(&took),
        "{took:?}"
    );
    assert!(status.last.unwrap().timed_out);
    wait_until("the child is gone", || !is_alive(&bench.read("child"))).await;
}

#[tokio::test]
async fn an_end_with_nothing_to_do_or_with_no_time_is_immediate() {
    let bench = Bench::new("", r#"echo > "$D/down-ran""#);
    let runner = bench.spawn();
    let before = Instant::now();
    assert_eq!(
        runner.finish(before + DEADLINE).await,
        HookStatus::default()
    );
    assert!(before.elapsed() < Duration::from_secs(4));

    let runner = bench.spawn();
    runner.want(Hook::Down);
    let status = runner.finish(Instant::now()).await;
    assert_eq!(status, HookStatus::default());
    assert!(!bench.path("down-ran").exists());
}

/// Collects what is logged by this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_output_is_logged_within_limits() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let bench = Bench::new(
        r#"echo first; echo complaint >&2; head -c 100000 /dev/zero | tr '\0' x; echo
           i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; printf unfinished"#,
        "",
    );
    let runner = bench.spawn();
    runner.want(Hook::Up);
    finished(&runner, 1).await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("hook output"))
        .collect();
    let has = |pieces: &[&str]| {
        lines
            .iter()
            .any(|line| pieces.iter().all(|piece| line.contains(piece)))
    };
    assert!(
        has(&["stream=\"stdout\"", "line=\"first\"", "hook=up"]),
        "{}",
        lines[0]
    );
    assert!(
        has(&["stream=\"stderr\"", "line=\"complaint\""]),
        "{}",
        lines[0]
    );
    assert!(has(&["xxxx…"]));
    assert!(lines.iter().all(|line| line.len() < 1400));
    assert!((90..300).contains(&lines.len()), "{} lines", lines.len());
    assert!(text.contains("printed too many lines"), "{}", lines.len());
    assert!(text.contains("the hook has ended"));
}

#[tokio::test]
async fn a_program_that_is_just_being_written_is_waited_for() {
    let bench = Bench::new(r#"echo > "$D/ran""#, "");
    let writing = fs::OpenOptions::new()
        .append(true)
        .open(bench.path("up"))
        .unwrap();
    let runner = bench.spawn();
    runner.want(Hook::Up);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(runner.status().borrow().finished, 0);
    drop(writing);
    assert!(finished(&runner, 1).await.success);
    assert!(bench.path("ran").exists());
}

#[tokio::test]
async fn a_runner_that_is_dropped_lets_its_hook_end() {
    let bench = Bench::new(r#"echo > "$D/runs"; sleep 0.2; echo > "$D/ended""#, "");
    let runner = bench.spawn();
    runner.want(Hook::Up);
    bench.appears("runs").await;
    drop(runner);
    bench.appears("ended").await;
}
