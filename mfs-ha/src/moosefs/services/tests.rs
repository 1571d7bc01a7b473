//! Commands that are shell scripts, in a directory that they find in `$D`.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn command(&self, script: &str) -> Vec<String> {
        let script = format!("D={}; {script}", self.directory.path().display());
        ["/bin/sh", "-c", &script].map(str::to_owned).to_vec()
    }

    fn service(&self, start: &str, stop: Option<&str>) -> Service {
        Service {
            start: self.command(start),
            stop: stop.map(|stop| self.command(stop)),
            time_limit: Duration::from_secs(60),
        }
    }

    /// A service that writes down what is done with it.
    fn noted(&self, name: &str) -> Service {
        self.service(
            &format!("echo start {name} >> $D/log"),
            Some(&format!("echo stop {name} >> $D/log")),
        )
    }
}

async fn settled(services: &Services, action: Action) -> Vec<Option<Finished>> {
    let mut status = services.status();
    let settled = status.wait_for(|status| status.settled == Some(action));
    let status = timeout(DEADLINE, settled).await;
    status.expect("it does not settle").unwrap().last.clone()
}

async fn appears(path: &Path) {
    let deadline = Instant::now() + DEADLINE;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} is missing", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[tokio::test]
async fn services_start_in_order_and_stop_the_other_way() {
    let bench = Bench::new();
    let services = Services::spawn(vec![bench.noted("a"), bench.noted("b")]);
    assert_eq!(services.status().borrow().settled, None);
    services.want(Action::Start);
    let last = settled(&services, Action::Start).await;
    assert!(last.iter().flatten().all(|finished| finished.success));
    assert_eq!(bench.read("log"), "start a\nstart b\n");

    services.want(Action::Start);
    services.want(Action::Stop);
    settled(&services, Action::Stop).await;
    assert_eq!(bench.read("log"), "start a\nstart b\nstop b\nstop a\n");
}

#[tokio::test]
async fn the_first_wish_is_carried_out_also_when_it_is_to_stop() {
    let bench = Bench::new();
    let services = Services::spawn(vec![bench.noted("a")]);
    services.want(Action::Stop);
    settled(&services, Action::Stop).await;
    assert_eq!(bench.read("log"), "stop a\n");
}

#[tokio::test]
async fn a_wish_that_was_withdrawn_is_not_carried_further() {
    let bench = Bench::new();
    let slow = "echo start a >> $D/log; until [ -e $D/go ]; do sleep 0.02; done";
    let first = bench.service(slow, Some("echo stop a >> $D/log"));
    let services = Services::spawn(vec![first, bench.noted("b")]);
    services.want(Action::Start);
    appears(&bench.path("log")).await;
    services.want(Action::Stop);
    fs::write(bench.path("go"), "").unwrap();
    settled(&services, Action::Stop).await;
    assert_eq!(bench.read("log"), "start a\nstop b\nstop a\n");
}

#[tokio::test]
async fn a_service_that_fails_does_not_keep_the_others() {
    let bench = Bench::new();
    let missing = Service {
        start: vec!["/nonexistent/program".to_owned()],
        stop: None,
        time_limit: DEADLINE,
    };
    let services = Services::spawn(vec![
        bench.service("echo sorry; exit 3", None),
        missing,
        bench.noted("c"),
    ]);
    services.want(Action::Start);
    let last = settled(&services, Action::Start).await;
    let exits: Vec<_> = last.iter().flatten().collect();
    assert_eq!(exits[0].exit, "exit status: 3");
    assert!(exits[1].exit.starts_with("cannot run: No such file"));
    assert!(exits[2].success && !exits[0].success && !exits[1].success);
    services.want(Action::Stop);
    let last = settled(&services, Action::Stop).await;
    assert_eq!(last[0].as_ref().unwrap().action, Action::Start);
    assert_eq!(last[2].as_ref().unwrap().action, Action::Stop);
}

#[tokio::test]
async fn a_command_that_runs_too_long_is_ended_with_its_group() {
    let bench = Bench::new();
    let mut service = bench.service("sleep 1000 & echo $! > $D/pid; wait", None);
    service.time_limit = Duration::from_millis(300);
    let services = Services::spawn(vec![service]);
    services.want(Action::Start);
    let last = settled(&services, Action::Start).await;
    let finished = last[0].as_ref().unwrap();
    assert!(finished.timed_out && !finished.success);
    assert_eq!(finished.exit, "signal: 15 (SIGTERM)");
    // The group was signalled at once; when the kernel gets to its other processes is its business.
    let pid = bench.read("pid");
    timeout(DEADLINE, async {
        while is_alive(&pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_a_command_leaves_running_goes_on() {
    let bench = Bench::new();
    let daemon = "setsid sh -c 'echo $$ > $D/pid; exec sleep 1000' & until [ -s $D/pid ]; do \
                  sleep 0.02; done";
    let mut service = bench.service(&format!("export D; {daemon}"), Some("kill $(cat $D/pid)"));
    service.time_limit = DEADLINE;
    let services = Services::spawn(vec![service]);
    services.want(Action::Start);
    let last = settled(&services, Action::Start).await;
    assert!(last[0].as_ref().unwrap().success, "{last:?}");
    let pid = bench.read("pid");
    assert!(is_alive(&pid));
    services.want(Action::Stop);
    settled(&services, Action::Stop).await;
    let deadline = Instant::now() + DEADLINE;
    while is_alive(&pid) {
        assert!(Instant::now() < deadline, "the daemon goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn at_the_end_what_is_wanted_is_done_and_then_nothing_remains() {
    let bench = Bench::new();
    let services = Services::spawn(vec![bench.noted("a")]);
    services.want(Action::Stop);
    services.finish(Instant::now() + DEADLINE).await;
    assert_eq!(bench.read("log"), "stop a\n");

    let stubborn = "trap '' TERM; echo $$ > $D/pid; while :; do sleep 0.05; done";
    let services = Services::spawn(vec![bench.service(stubborn, None)]);
    services.want(Action::Start);
    appears(&bench.path("pid")).await;
    let started = Instant::now();
    services
        .finish(Instant::now() + Duration::from_millis(300))
        .await;
    assert!(started.elapsed() < DEADLINE);
    assert!(!is_alive(&bench.read("pid")));
}
