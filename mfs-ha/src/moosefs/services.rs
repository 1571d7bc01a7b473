//! Further programs that run on the node that serves, such as the web interface (mfscgiserv).
//!
//! Each is started by one command and stopped by another; a command that starts a program has to
//! return, as daemons do. The commands of all services run one after the other on a task of their
//! own: in the order of the configuration to start, in the opposite one to stop. Nothing waits for
//! them and nothing is decided by them: how they ended is logged and published.
//!
//! The task must be spawned on a thread without real-time scheduling, which a command would
//! inherit.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::process::output::{self, Output, WhenFull};
use super::process::pidfd::Process;

/// From SIGTERM to SIGKILL.
const TERMINATION_GRACE: Duration = Duration::from_secs(2);

/// After SIGKILL only a process that hangs within the kernel is still there.
const KILLED_MAX: Duration = Duration::from_secs(1);

/// One program beside the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Program and arguments that start it; no shell.
    pub start: Vec<String>,
    /// Program and arguments that stop it; a service without them is left running.
    pub stop: Option<Vec<String>>,
    /// How long either command may run.
    pub time_limit: Duration,
}

/// What was last done about a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Position in the configuration, from 0.
    pub service: usize,
    /// It was started, or stopped.
    pub action: Action,
    /// How the command ended, in words: `exit status: 0`, `signal: 9 (SIGKILL)`, `cannot run: …`.
    pub exit: String,
    /// Exit status 0.
    pub success: bool,
    /// It was ended because it ran too long, or because we end.
    pub timed_out: bool,
    /// From its start to its end.
    pub took_ms: u64,
}

/// What a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// This node serves.
    Start,
    /// It does not.
    Stop,
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Stop => "stop",
        })
    }
}

/// What became of the services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServicesStatus {
    /// The last command of each service, in the order of the configuration.
    pub last: Vec<Option<Finished>>,
    /// What is done at all services; nothing as long as a wish is being carried out.
    pub settled: Option<Action>,
}

/// The running task, and the ends of its channels.
#[derive(Debug)]
pub struct Services {
    wanted: watch::Sender<Option<Action>>,
    ending: watch::Sender<Option<Instant>>,
    status: watch::Receiver<ServicesStatus>,
    task: JoinHandle<()>,
}

impl Services {
    /// Starts the task on the current tokio runtime; nothing is run before something is wanted.
    pub fn spawn(services: Vec<Service>) -> Self {
        let (wanted, wanted_receiver) = watch::channel(None);
        let (ending, ending_receiver) = watch::channel(None);
        let (status_sender, status) = watch::channel(ServicesStatus {
            last: vec![None; services.len()],
            settled: None,
        });
        let runner = Runner {
            outputs: services.iter().map(|_| None).collect(),
            services,
            wanted: wanted_receiver,
            ending: ending_receiver,
            status: status_sender,
        };
        Self {
            wanted,
            ending,
            status,
            task: tokio::spawn(runner.run()),
        }
    }

    /// Says what has to be the case in the end; never blocks, and the latest wish counts. The first
    /// wish is carried out whatever it is: what an earlier life of ours has left is not known.
    pub fn want(&self, action: Action) {
        self.wanted.send_replace(Some(action));
    }

    /// The sender behind [`Self::want`], for the one who decides.
    pub fn wanted(&self) -> watch::Sender<Option<Action>> {
        self.wanted.clone()
    }

    /// Publishes what was done.
    pub fn status(&self) -> watch::Receiver<ServicesStatus> {
        self.status.clone()
    }

    /// Carries out what is still wanted, and returns when that is done or when the time is over. A
    /// command that runs then is killed with its process group.
    pub async fn finish(self, deadline: Instant) {
        self.ending.send_replace(Some(deadline));
        let mut task = self.task;
        if timeout_at(deadline + KILLED_MAX * 2, &mut task)
            .await
            .is_err()
        {
            tracing::error!("a command of a service cannot be ended, leaving it behind");
            task.abort();
        }
    }
}

struct Runner {
    services: Vec<Service>,
    /// Of each service the output of its last command, which what it started may hold.
    outputs: Vec<Option<Output>>,
    wanted: watch::Receiver<Option<Action>>,
    ending: watch::Receiver<Option<Instant>>,
    status: watch::Sender<ServicesStatus>,
}

impl Runner {
    async fn run(mut self) {
        let mut settled = None;
        loop {
            let wanted = *self.wanted.borrow_and_update();
            let is_ending = self.ending.borrow_and_update().is_some();
            match wanted.filter(|action| Some(*action) != settled) {
                Some(action) => {
                    self.status.send_modify(|status| status.settled = None);
                    self.carry_out(action).await;
                    settled = Some(action);
                    if *self.wanted.borrow() == settled {
                        self.status.send_modify(|status| status.settled = settled);
                    }
                }
                None if is_ending => return,
                None => {
                    let changed = tokio::select! {
                        changed = self.wanted.changed() => changed,
                        changed = self.ending.changed() => changed,
                    };
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Runs the commands of all services, until something else is wanted.
    async fn carry_out(&mut self, action: Action) {
        let mut order: Vec<usize> = (0..self.services.len()).collect();
        if action == Action::Stop {
            order.reverse();
        }
        for number in order {
            let is_over = self.ending.borrow().is_some_and(|at| at <= Instant::now());
            if is_over || *self.wanted.borrow() != Some(action) {
                return;
            }
            let Some(service) = self.services.get(number) else {
                continue;
            };
            let (argv, limit) = match action {
                Action::Start => (Some(&service.start), service.time_limit),
                Action::Stop => (service.stop.as_ref(), service.time_limit),
            };
            let Some(argv) = argv.cloned() else {
                continue;
            };
            let finished = self.run_command(number, action, &argv, limit).await;
            log(&argv, &finished);
            self.status.send_modify(|status| {
                if let Some(last) = status.last.get_mut(number) {
                    *last = Some(finished);
                }
            });
        }
    }

    async fn run_command(
        &mut self,
        number: usize,
        action: Action,
        argv: &[String],
        limit: Duration,
    ) -> Finished {
        let started = Instant::now();
        let mut timed_out = false;
        let ended = match spawn(argv) {
            Ok((mut child, mut output)) => {
                let ended = tokio::select! {
                    biased;
                    ended = child.wait() => ended,
                    kill_at = self.over(started + limit) => {
                        timed_out = true;
                        end_group(&mut child, kill_at).await
                    }
                };
                output.drained().await;
                if let Some(place) = self.outputs.get_mut(number) {
                    *place = (!output.is_closed()).then_some(output);
                }
                ended.map_err(|error| format!("unknown: {error}"))
            }
            Err(error) => Err(format!("cannot run: {error}")),
        };
        Finished {
            service: number,
            action,
            success: ended.as_ref().is_ok_and(ExitStatus::success),
            exit: ended.map_or_else(|words| words, |status| status.to_string()),
            timed_out,
            took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Waits until a command has to end, and returns when it has to be gone.
    async fn over(&mut self, limit_at: Instant) -> Instant {
        loop {
            let ending = *self.ending.borrow_and_update();
            let at = ending.map_or(limit_at, |deadline| deadline.min(limit_at));
            tokio::select! {
                () = tokio::time::sleep_until(at) => {
                    let kill_at = at + TERMINATION_GRACE;
                    return ending.map_or(kill_at, |deadline| deadline.min(kill_at));
                }
                Ok(()) = self.ending.changed() => {}
            }
        }
    }
}

fn spawn(argv: &[String]) -> io::Result<(Child, Output)> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(io::Error::other("no program is named"));
    };
    let (writing, receiver) = output::pipe(WhenFull::Wait)?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(writing.try_clone()?)
        .stderr(writing)
        .process_group(0)
        .spawn()?;
    Ok((child, Output::follow(receiver, program.clone())))
}

/// SIGTERM to the whole process group, and SIGKILL at `kill_at` or when the command has ended.
async fn end_group(child: &mut Child, kill_at: Instant) -> io::Result<ExitStatus> {
    // Nobody has waited for the command yet: the number is still that of its group.
    let group = child.id().and_then(|pid| i32::try_from(pid).ok());
    let signal = |signal| match group.map(|group| killpg(Pid::from_raw(group), signal)) {
        None | Some(Ok(()) | Err(Errno::ESRCH)) => {}
        Some(Err(errno)) => tracing::error!(%errno, "cannot end the command of a service"),
    };
    // Watched without being waited for: that would free the number.
    let process = Process::of_child(child)?;
    signal(Signal::SIGTERM);
    tokio::select! {
        () = tokio::time::sleep_until(kill_at) => {}
        _ended = process.exited() => {}
    }
    signal(Signal::SIGKILL);
    timeout(KILLED_MAX, child.wait())
        .await
        .unwrap_or_else(|_elapsed| Err(io::Error::other("not even SIGKILL ended it")))
}

fn log(argv: &[String], finished: &Finished) {
    let command = argv.join(" ");
    let Finished {
        action,
        exit,
        took_ms,
        timed_out,
        ..
    } = finished;
    if finished.success {
        tracing::info!(command, %action, exit, took_ms, "the command of a service has ended");
    } else {
        tracing::warn!(command, %action, exit, took_ms, timed_out, "the command of a service has failed");
    }
}

#[cfg(test)]
mod tests;
