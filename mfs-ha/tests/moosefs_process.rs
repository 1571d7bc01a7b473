//! Starting, finding and ending the real programs of MooseFS.
//!
//! Where a fault cannot be asked of the real program, a copy of this test program takes its place:
//! see [`a_process_for_the_other_tests`].
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use mfs_ha::moosefs::process::ProcessError;
use mfs_ha::moosefs::process::lock;
use mfs_ha::moosefs::process::master::{ExitReason, MasterProgram, Running};
use mfs_ha::moosefs::process::metalogger::MetaloggerProgram;
use mfs_ha::moosefs::process::probe::{ProbeError, accepts, probe};
use mfs_ha::moosefs::services::{Action, Service, Services};
use mfs_ha::moosefs::settings::{read_master, read_metalogger};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};
use tokio::time::Instant;

use self::common::moosefs::{MooseFs, wait_until};
use self::common::{DEADLINE, in_namespace};

/// Long enough for a program that answers, short enough to wait for one that does not.
const SILENCE: Duration = Duration::from_millis(500);

const CLIENTS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9421);
const METALOGGERS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9419);

/// mfsmaster on a directory, as mfs-ha sees it.
fn master_on(moosefs: &MooseFs, data: &Path) -> MasterProgram {
    let config = moosefs.master_config(data, "");
    let settings = read_master(&config).unwrap();
    assert_eq!(settings.data_path, data);
    assert_eq!(settings.owner().unwrap(), moosefs.owner());
    MasterProgram::new(program("mfsmaster"), config, &settings)
}

fn metalogger_on(moosefs: &MooseFs, data: &Path) -> MetaloggerProgram {
    let config = moosefs.metalogger_config(data, "");
    let settings = read_metalogger(&config).unwrap();
    assert_eq!(settings.data_path, data);
    MetaloggerProgram::new(program("mfsmetalogger"), config, &settings)
}

fn program(name: &str) -> PathBuf {
    Path::new("/usr/sbin").join(name)
}

/// A data directory; what runs on it ends when it is dropped.
struct Place(PathBuf);

impl Deref for Place {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in LOCKS {
            for _ in 0..1000 {
                let Ok(Some(pid)) = lock::holder(&self.join(name)) else {
                    break;
                };
                let pid = Pid::from_raw(pid.as_raw_nonzero().get());
                if kill(pid, Signal::SIGKILL).is_ok() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

const LOCKS: [&str; 5] = [
    ".mfsmaster.lock",
    "metadata.mfs.back.tmp",
    ".bgwriter.lock",
    ".mfsmetalogger.lock",
    ".mfscgiserv.lock",
];

async fn serving(master: &MasterProgram) -> Running {
    let mut running = master.spawn().unwrap();
    running.listening(soon()).await.unwrap();
    running
}

fn soon() -> Instant {
    Instant::now() + DEADLINE
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Stops a process and waits until it stands still.
fn freeze(pid: i32) {
    signal(pid, Signal::SIGSTOP);
    wait_until("it has stopped", || stat(pid).unwrap().0 == 'T');
}

/// State and parent of a process, as long as it is there.
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

fn holder(data: &Path, name: &str) -> Option<i32> {
    lock::holder(&data.join(name))
        .unwrap()
        .map(|pid| pid.as_raw_nonzero().get())
}

#[test]
fn a_master_is_started_answers_and_is_killed() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let data = Place(moosefs.new_file_system("n1"));
        let master = master_on(&moosefs, &data);
        assert!(master.running().await.unwrap().is_none());
        assert!(!accepts(METALOGGERS, SILENCE).await);
        let error = probe(CLIENTS, DEADLINE).await.unwrap_err();
        assert!(matches!(error, ProbeError::Refused { .. }), "{error:?}");

        let mut running = serving(&master).await;
        let pid = running.pid();
        assert_eq!(holder(&data, ".mfsmaster.lock"), Some(pid));
        assert_eq!(getpgid(Some(Pid::from_raw(pid))).unwrap().as_raw(), pid);
        let version = probe(CLIENTS, DEADLINE).await.unwrap();
        assert_eq!((version.major, version.middle), (3, 0));
        assert!(version.text.starts_with("3.0.117"), "{version:?}");
        assert!(accepts(METALOGGERS, DEADLINE).await);
        let writer = holder(&data, ".bgwriter.lock").expect("a data writer");
        assert!(
            tokio::time::timeout(SILENCE, running.exited())
                .await
                .is_err()
        );
        assert!(
            running
                .last_lines()
                .iter()
                .any(|line| line == "mfsmaster daemon initialized properly"),
            "{:?}",
            running.last_lines()
        );

        running.kill().await.unwrap();
        assert!(!is_alive(pid) && !is_alive(writer));
        assert!(matches!(running.exited().await, ExitReason::Status(status) if !status.success()));
        running.kill().await.unwrap();
        assert!(master.running().await.unwrap().is_none());
        assert_eq!(master.stop_stray().await.unwrap(), None);
    });
}

#[test]
fn a_master_that_dies_is_noticed() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let data = Place(moosefs.new_file_system("n1"));
        let master = master_on(&moosefs, &data);
        let mut running = serving(&master).await;
        let pid = running.pid();
        let exit = tokio::join!(running.exited(), async { signal(pid, Signal::SIGKILL) }).0;
        assert_eq!(exit.to_string(), "signal: 9 (SIGKILL)");
        // Its children may be left: this ends them too.
        running.kill().await.unwrap();
        assert_eq!(master.stop_stray().await.unwrap(), None);
    });
}

#[test]
fn a_master_that_hangs_is_told_from_one_that_works_and_can_be_killed() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let data = Place(moosefs.new_file_system("n1"));
        let master = master_on(&moosefs, &data);
        let mut running = serving(&master).await;
        freeze(running.pid());
        assert!(
            accepts(CLIENTS, DEADLINE).await,
            "the kernel accepts for it"
        );
        let error = probe(CLIENTS, SILENCE).await.unwrap_err();
        assert!(matches!(error, ProbeError::NoAnswer { .. }), "{error:?}");
        signal(running.pid(), Signal::SIGCONT);
        probe(CLIENTS, DEADLINE).await.unwrap();

        freeze(running.pid());
        running.kill().await.unwrap();
        let error = probe(CLIENTS, DEADLINE).await.unwrap_err();
        assert!(matches!(error, ProbeError::Refused { .. }), "{error:?}");
    });
}

#[test]
fn a_master_that_does_not_get_as_far_as_listening_is_told_at_the_deadline() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let data = Place(moosefs.new_file_system("n1"));
        let master = master_on(&moosefs, &data);
        let mut running = master.spawn().unwrap();
        freeze(running.pid());
        let error = running.listening(Instant::now() + SILENCE).await;
        let error = error.unwrap_err();
        assert!(
            matches!(&error, ProcessError::Deaf { ports, .. } if *ports == [9419, 9420, 9421]),
            "{error:?}"
        );
        running.kill().await.unwrap();
    });
}

#[test]
fn a_master_that_refuses_is_told_at_once_and_with_its_words() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let data = Place(moosefs.directory("empty"));
        let mut running = master_on(&moosefs, &data).spawn().unwrap();
        let error = running.listening(soon()).await.unwrap_err().to_string();
        assert!(
            error.starts_with("mfsmaster has ended (exit status: 1)"),
            "{error}"
        );
        assert!(error.contains("can't find valid metadata file"), "{error}");
        assert_eq!(running.exited().await.to_string(), "exit status: 1");
        running.kill().await.unwrap();

        let settings = read_master(&moosefs.master_config(&data, "")).unwrap();
        let absent = moosefs.path("absent.cfg");
        let master = MasterProgram::new(program("mfsmaster"), absent, &settings);
        let error = master.spawn().unwrap().listening(soon()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("absent.cfg"), "{error}");

        let master = MasterProgram::new(moosefs.path("absent"), data.to_path_buf(), &settings);
        let error = master.spawn().unwrap_err();
        assert!(matches!(error, ProcessError::Spawn { .. }), "{error:?}");
    });
}

#[test]
fn ports_that_others_have_are_not_taken_for_those_of_the_master() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let data = Place(moosefs.new_file_system("n1"));
        let master = master_on(&moosefs, &data);
        let others: Vec<_> = [9419, 9420, 9421]
            .map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap())
            .into();
        let mut running = master.spawn().unwrap();
        let error = running.listening(soon()).await.unwrap_err();
        assert!(matches!(error, ProcessError::Ended { .. }), "{error:?}");
        assert!(error.to_string().contains("listen on *:9419"), "{error}");
        running.kill().await.unwrap();
        drop(others);
        serving(&master).await.kill().await.unwrap();
    });
}

/// As an administrator or the init system would start it.
fn daemonised(master_config: &Path) {
    let output = Command::new("mfsmaster")
        .arg("-a")
        .arg("-c")
        .arg(master_config)
        .arg("start")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_stray_master_is_found_by_its_lock_and_ended() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let data = Place(moosefs.new_file_system("n1"));
        let master = master_on(&moosefs, &data);
        // The text of a lock file is no reason to kill anybody.
        moosefs.write(
            &data.join(".mfsmaster.lock"),
            format!("{}\n", std::process::id()),
        );
        assert_eq!(master.stop_stray().await.unwrap(), None);

        daemonised(&moosefs.master_config(&data, ""));
        let pid = master.running().await.unwrap().expect("it runs").pid();
        let writer = holder(&data, ".bgwriter.lock").expect("a data writer");
        let stopped = master.stop_stray().await.unwrap().expect("one was stopped");
        assert_eq!(stopped.pid, pid);
        assert!(!is_alive(pid) && !is_alive(writer));
        assert_eq!(master.stop_stray().await.unwrap(), None);

        // Even one that hangs with its child.
        daemonised(&moosefs.master_config(&data, ""));
        let pid = holder(&data, ".mfsmaster.lock").unwrap();
        let writer = holder(&data, ".bgwriter.lock").unwrap();
        freeze(writer);
        freeze(pid);
        let stopped = master.stop_stray().await.unwrap().expect("one was stopped");
        assert_eq!(stopped.pid, pid);
        assert!(!is_alive(pid) && !is_alive(writer));
        serving(&master).await.kill().await.unwrap();
    });
}

#[test]
fn what_a_dead_master_has_left_running_is_ended() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let data = Place(moosefs.new_file_system("n1"));
        let master = master_on(&moosefs, &data);
        daemonised(&moosefs.master_config(&data, ""));
        let pid = holder(&data, ".mfsmaster.lock").unwrap();
        let writer = holder(&data, ".bgwriter.lock").unwrap();
        freeze(writer);
        signal(pid, Signal::SIGKILL);
        wait_until("it is dead", || !is_alive(pid));
        assert!(is_alive(writer));
        assert_eq!(master.stop_stray().await.unwrap(), None);
        assert!(!is_alive(writer));

        // The real metadata saver works at a full hour only.
        let saver = Stand::new(&moosefs, "mfsmaster").hold(&data, &["metadata.mfs.back.tmp"]);
        assert_eq!(master.stop_stray().await.unwrap(), None);
        assert!(!is_alive(saver.pid()));
    });
}

#[test]
fn the_metadata_saver_does_not_outlive_its_master() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let data = Place(moosefs.new_file_system("n1"));
        let master = master_on(&moosefs, &data);
        let stand = Stand::new(&moosefs, "mfsmaster");
        let locks = [".mfsmaster.lock", ".bgwriter.lock", "metadata.mfs.back.tmp"];
        let family = stand.family(&data, &locks);
        let pids = locks.map(|name| holder(&data, name).expect(name));
        let stopped = master.stop_stray().await.unwrap().expect("one was stopped");
        assert_eq!(stopped.pid, family.pid());
        for pid in pids {
            assert!(!is_alive(pid));
        }
    });
}

#[test]
fn a_master_survives_the_daemon_and_is_adopted() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let data = Place(moosefs.new_file_system("n1"));
        let master = master_on(&moosefs, &data);
        let config = moosefs.master_config(&data, "");
        let stand = Stand::new(&moosefs, "daemon");
        let mut daemon = stand.run("daemon", &[config]);
        let line = daemon.line();
        let (pid, start_time) = line.split_once(' ').expect(&line);
        let (pid, start_time): (i32, u64) = (pid.parse().unwrap(), start_time.parse().unwrap());
        assert_eq!(stat(pid).unwrap().1, daemon.pid());

        // A daemon that hangs does not read what its master prints: more than a pipe holds.
        freeze(daemon.pid());
        for _ in 0..100 {
            signal(pid, Signal::SIGHUP);
            probe(CLIENTS, DEADLINE).await.expect("it is held up");
        }
        // One that is killed does not even have its end of the pipe any more.
        drop(daemon);
        signal(pid, Signal::SIGHUP);
        probe(CLIENTS, DEADLINE).await.expect("it is held up");

        assert!(master.adopt(pid, start_time + 1).await.unwrap().is_none());
        assert!(master.adopt(pid + 1, start_time).await.unwrap().is_none());
        let mut adopted = master
            .adopt(pid, start_time)
            .await
            .unwrap()
            .expect("it is ours");
        assert_eq!((adopted.pid(), adopted.start_time()), (pid, start_time));
        adopted.listening(soon()).await.unwrap();
        assert!(
            tokio::time::timeout(SILENCE, adopted.exited())
                .await
                .is_err()
        );
        adopted.kill().await.unwrap();
        assert_eq!(adopted.exited().await, ExitReason::Unknown);
        assert!(!is_alive(pid));
        assert!(master.adopt(pid, start_time).await.unwrap().is_none());
    });
}

#[test]
fn a_lock_that_another_program_holds_is_an_error_and_the_program_is_left_alone() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let data = Place(moosefs.new_file_system("n1"));
        let master = master_on(&moosefs, &data);
        let metalogger = metalogger_on(&moosefs, &data);
        let other = Stand::new(&moosefs, "backup-tool")
            .hold(&data, &[".mfsmaster.lock", ".mfsmetalogger.lock"]);
        let pid = other.pid();
        let errors = [
            master.stop_stray().await.unwrap_err(),
            master.running().await.unwrap_err(),
            master.adopt(pid, 0).await.unwrap_err(),
            metalogger.stop().await.unwrap_err(),
            metalogger.start(DEADLINE).await.unwrap_err(),
        ];
        for error in errors {
            assert!(
                matches!(&error, ProcessError::Foreign { pid: found, .. } if *found == pid),
                "{error:?}"
            );
            assert!(error.to_string().contains("backup-tool"), "{error}");
        }
        assert!(is_alive(pid));
    });
}

#[test]
fn a_master_that_is_started_again_and_again_is_an_error() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let data = Place(moosefs.new_file_system("n1"));
        let master = master_on(&moosefs, &data);
        // Each has the lock when the one before is gone. So have those that stand in for the data
        // writers, which take their time to end: there is always a next one.
        let stand = Stand::new(&moosefs, "mfsmaster");
        let locks = [".mfsmaster.lock", ".bgwriter.lock"].repeat(4);
        let queue: Vec<_> = locks
            .iter()
            .map(|name| stand.wait_for(&data, name))
            .collect();
        wait_until("all wait for the lock", || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            let waits = |role: &Role| locks.contains(&format!(" {} ", role.pid()));
            queue.iter().all(waits)
        });
        let error = master.stop_stray().await.unwrap_err();
        assert!(
            matches!(error, ProcessError::ComesBack { times: 3, .. }),
            "{error:?}"
        );
        assert!(
            error.to_string().contains("--now moosefs-master"),
            "{error}"
        );
    });
}

#[test]
fn a_metalogger_is_started_once_and_ended_with_all_it_has_received() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let data = Place(moosefs.new_file_system("n1"));
        let own = Place(moosefs.directory("n2"));
        // The image of a new file system cannot be downloaded: this stores a real one.
        moosefs.master(&data, &[]).terminate();
        let master = moosefs.master(&data, &[]);
        let metalogger = metalogger_on(&moosefs, &own);
        assert!(metalogger.running().await.unwrap().is_none());
        assert_eq!(metalogger.stop().await.unwrap(), None);

        let started = metalogger.start(DEADLINE).await.unwrap();
        assert!(started.is_alive());
        assert_ne!(
            stat(started.pid()).unwrap().1,
            i32::try_from(std::process::id()).unwrap()
        );
        let again = metalogger.start(DEADLINE).await.unwrap();
        assert_eq!(again.pid(), started.pid());
        wait_until("the image is there", || {
            own.join("metadata_ml.mfs.back").exists()
        });

        let mount = moosefs.mount();
        mount.touch("a", 50);
        // The kernel has delivered what the mount was told is done.
        freeze(started.pid());
        mount.touch("b", 50);
        let last = last_line(&data.join("changelog.0.mfs"), "b49");
        let stopped = metalogger.stop().await.unwrap().expect("one was stopped");
        assert_eq!(stopped.pid, started.pid());
        assert!(!stopped.was_unclean && !started.is_alive(), "{stopped:?}");
        let log = fs::read_to_string(own.join("changelog_ml.0.mfs")).unwrap();
        assert!(
            log.ends_with('\n') && log.contains(&last),
            "{last} is missing"
        );
        assert_eq!(metalogger.stop().await.unwrap(), None);
        drop(mount);
        master.kill();
    });
}

/// Waits for the change that names a file, and returns its line.
fn last_line(changelog: &Path, name: &str) -> String {
    let mut found = None;
    wait_until(&format!("the change of {name}"), || {
        let log = fs::read_to_string(changelog).unwrap_or_default();
        found = log
            .split_inclusive('\n')
            .find(|line| line.ends_with('\n') && line.contains(&format!(",{name},")))
            .map(str::to_owned);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_metalogger_that_does_not_end_is_killed_and_that_is_told() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let own = Place(moosefs.directory("n2"));
        let metalogger = metalogger_on(&moosefs, &own);
        // The real one cannot be made deaf to SIGTERM.
        let deaf = Stand::new(&moosefs, "mfsmetalogger").deaf(&own, ".mfsmetalogger.lock");
        let stopped = metalogger.stop().await.unwrap().expect("one was stopped");
        assert_eq!(stopped.pid, deaf.pid());
        assert!(stopped.was_unclean && !is_alive(deaf.pid()));
        assert!(stopped.took >= Duration::from_millis(200), "{stopped:?}");
    });
}

#[test]
fn a_metalogger_that_refuses_says_why() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        let own = Place(moosefs.directory("n2"));
        let config = moosefs.metalogger_config(&own, "");
        let settings = read_metalogger(&config).unwrap();
        let absent = moosefs.path("absent.cfg");
        let metalogger = MetaloggerProgram::new(program("mfsmetalogger"), absent, &settings);
        let error = metalogger.start(DEADLINE).await.unwrap_err();
        assert!(matches!(error, ProcessError::Ended { .. }), "{error:?}");
        assert!(error.to_string().contains("absent.cfg"), "{error}");

        let slow = moosefs.path("slow");
        fs::write(&slow, "#!/bin/sh\necho wait a moment\nexec sleep 1000\n").unwrap();
        fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
        let metalogger = MetaloggerProgram::new(slow, config, &settings);
        let error = metalogger.start(SILENCE).await.unwrap_err();
        assert!(matches!(error, ProcessError::Slow { .. }), "{error:?}");
        assert!(error.to_string().contains("wait a moment"), "{error}");
    });
}

#[test]
fn the_web_interface_runs_as_a_service() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        // Its lock is always in this directory: here it is one of this test.
        let data = Place(PathBuf::from("/var/lib/mfs"));
        let options = Some("mode=0777");
        mount(
            None::<&str>,
            &*data,
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )
        .unwrap();
        let command = |action: &str| {
            let program = program("mfscgiserv").to_str().unwrap().to_owned();
            vec![
                program,
                "-H".to_owned(),
                "127.0.0.1".to_owned(),
                action.to_owned(),
            ]
        };
        let web = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9425);
        let services = Services::spawn(vec![Service {
            start: command("start"),
            stop: Some(command("stop")),
            time_limit: DEADLINE,
        }]);
        for (action, is_there) in [(Action::Start, true), (Action::Stop, false)] {
            services.want(action);
            let mut status = services.status();
            let settled = status.wait_for(|status| status.settled == Some(action));
            let settled = tokio::time::timeout(DEADLINE, settled).await;
            let last = settled.expect("it hangs").unwrap().last.clone();
            assert!(last.iter().flatten().all(|last| last.success), "{last:?}");
            let deadline = soon();
            while accepts(web, SILENCE).await != is_there {
                assert!(Instant::now() < deadline, "it does not {action}");
            }
        }
        drop(data);
        drop(moosefs);
    });
}

/// This test program under another name, to stand in for a program where the real one cannot show
/// a fault.
struct Stand(PathBuf);

impl Stand {
    fn new(moosefs: &MooseFs, name: &str) -> Self {
        let path = moosefs.path(name);
        // Copied by another process: a file that is open for writing, be it in a child that another
        // test starts at this moment, cannot be run.
        let mut copy = Command::new("cp");
        let status = copy
            .arg(std::env::current_exe().unwrap())
            .arg(&path)
            .status();
        assert!(status.unwrap().success());
        Self(path)
    }

    /// Holds locks of a data directory.
    fn hold(&self, data: &Path, names: &[&str]) -> Role {
        self.ready("hold", data, names)
    }

    /// Holds the first lock, and has a child for each of the others.
    fn family(&self, data: &Path, names: &[&str]) -> Role {
        self.ready("family", data, names)
    }

    /// Waits until it gets the lock.
    fn wait_for(&self, data: &Path, name: &str) -> Role {
        self.run("wait", &[data.join(name)])
    }

    /// Holds a lock and ignores SIGTERM.
    fn deaf(&self, data: &Path, name: &str) -> Role {
        let mut env = Command::new("env");
        env.arg("--ignore-signal=TERM").arg(&self.0);
        let mut role = Role::start(env, "hold", &[data.join(name)]);
        assert_eq!(role.line(), "ready");
        role
    }

    fn ready(&self, role: &str, data: &Path, names: &[&str]) -> Role {
        let paths: Vec<_> = names.iter().map(|name| data.join(name)).collect();
        let mut role = self.run(role, &paths);
        assert_eq!(role.line(), "ready");
        role
    }

    fn run(&self, role: &str, paths: &[PathBuf]) -> Role {
        Role::start(Command::new(&self.0), role, paths)
    }
}

/// A process in such a role. It ends when this is dropped, and when this test program dies.
struct Role {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Role {
    fn start(command: Command, role: &str, paths: &[PathBuf]) -> Self {
        let mut child = in_role(command, role, paths)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Self { child, said }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const ROLE: &str = "MFS_HA_TEST_ROLE";
const PATHS: &str = "MFS_HA_TEST_PATHS";

fn in_role(mut command: Command, role: &str, paths: &[PathBuf]) -> Command {
    command
        .args(["--exact", "a_process_for_the_other_tests", "--nocapture"])
        .env(ROLE, role)
        .env(PATHS, std::env::join_paths(paths).unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Does nothing, except as a [`Role`] of another test.
#[test]
fn a_process_for_the_other_tests() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let paths = std::env::var_os(PATHS).unwrap();
    let paths: Vec<_> = std::env::split_paths(&paths).collect();
    let mut held = Vec::new();
    let mut children = Vec::new();
    match role.as_str() {
        "hold" => held.extend(paths.iter().map(|path| locked(path, false))),
        "wait" => held.extend(paths.iter().map(|path| locked(path, true))),
        "family" => {
            held.push(locked(&paths[0], false));
            for path in &paths[1..] {
                let own = Command::new(std::env::current_exe().unwrap());
                let mut child = in_role(own, "hold", std::slice::from_ref(path))
                    .stdin(Stdio::inherit())
                    .spawn()
                    .unwrap();
                let mut said = BufReader::new(child.stderr.take().unwrap());
                said.read_line(&mut String::new()).unwrap();
                children.push(child);
            }
        }
        "daemon" => {
            let settings = read_master(&paths[0]).unwrap();
            let config = paths[0].clone();
            let master = MasterProgram::new(program("mfsmaster"), config, &settings);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let running = runtime.block_on(serving(&master));
            eprintln!("{} {}", running.pid(), running.start_time());
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            return;
        }
        other => unreachable!("a role {other}"),
    }
    eprintln!("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Takes a lock as MooseFS does, or waits until it is free.
fn locked(path: &Path, waits: bool) -> File {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).open(path);
    let file = file.unwrap();
    let lock = libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).unwrap(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let how = if waits {
        FcntlArg::F_SETLKW(&lock)
    } else {
        FcntlArg::F_SETLK(&lock)
    };
    fcntl(&file, how).unwrap();
    file
}
