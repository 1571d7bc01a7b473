//! Running the up and down hooks the way ucarp runs its scripts, beside everything else.
//!
//! `PROGRAM INTERFACE VIP [XPARAM]`, no shell, environment and working directory inherited. At most
//! one hook runs at a time. Every hook that ran is followed by the latest one that is wanted, if
//! that is the other one; what was wanted and withdrawn while a hook ran is left out. A hook that
//! runs too long gets SIGTERM, and SIGKILL two seconds later, with its whole process group.
//!
//! Whether a hook succeeded decides nothing here or in the election: it is logged and published.
//! The runner must be spawned on a thread without real-time scheduling, which a hook would inherit.

mod output;
mod process;

use std::path::PathBuf;
use std::time::Duration;

pub use mfs_ha_common::action::Hook;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::output::Lingering;
use self::process::{Limits, Process};

/// From SIGTERM to SIGKILL.
const TERMINATION_GRACE: Duration = Duration::from_secs(2);

/// How much later than its deadline [`HookRunner::finish`] gives up on the task itself.
const FINISH_MARGIN: Duration = Duration::from_secs(2);

/// What is run, and with which arguments.
#[derive(Debug, Clone)]
pub struct HookSettings {
    /// Nothing happens for a hook without a program.
    pub up: Option<PathBuf>,
    /// As `up`.
    pub down: Option<PathBuf>,
    /// First argument.
    pub interface: String,
    /// Second argument: the address alone.
    pub vip: String,
    /// Third argument.
    pub xparam: Option<String>,
    /// How long a hook may run.
    pub time_limit: Duration,
}

impl HookSettings {
    fn program(&self, hook: Hook) -> Option<&PathBuf> {
        match hook {
            Hook::Up => self.up.as_ref(),
            Hook::Down => self.down.as_ref(),
        }
    }
}

/// What the hooks do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookStatus {
    /// The hook that runs now.
    pub running: Option<RunningHook>,
    /// The hook that ended last.
    pub last: Option<FinishedHook>,
    /// How many hooks have ended.
    pub finished: u64,
}

/// A hook that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningHook {
    /// Which one.
    pub hook: Hook,
    /// Its process, and the number of its process group.
    pub pid: u32,
    /// Since when.
    pub since: std::time::Instant,
}

/// A hook that ended, or could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedHook {
    /// Which one.
    pub hook: Hook,
    /// How it ended, in words: `exit status: 0`, `signal: 9 (SIGKILL)`, `cannot start: …`.
    pub exit: String,
    /// Exit status 0.
    pub success: bool,
    /// It was ended because it ran too long, or because we end.
    pub timed_out: bool,
    /// From its start to its end.
    pub took_ms: u64,
}

/// The end of our own process: no hook may run beyond `deadline`.
#[derive(Debug, Clone, Copy)]
struct Ending {
    announced_at: Instant,
    deadline: Instant,
}

/// The running task, and the ends of its channels.
#[derive(Debug)]
pub struct HookRunner {
    wanted: watch::Sender<Option<Hook>>,
    ending: watch::Sender<Option<Ending>>,
    status: watch::Receiver<HookStatus>,
    task: JoinHandle<()>,
}

impl HookRunner {
    /// Starts the task on the current tokio runtime; nothing is run before something is wanted.
    pub fn spawn(settings: HookSettings) -> Self {
        let (wanted, wanted_receiver) = watch::channel(None);
        let (ending, ending_receiver) = watch::channel(None);
        let (status_sender, status) = watch::channel(HookStatus::default());
        let runner = Runner {
            settings,
            wanted: wanted_receiver,
            ending: ending_receiver,
            status: status_sender,
            lingering: Lingering::default(),
        };
        Self {
            wanted,
            ending,
            status,
            task: tokio::spawn(runner.run()),
        }
    }

    /// Says which hook must be the last one that ran; never blocks.
    pub fn want(&self, hook: Hook) {
        self.wanted.send_replace(Some(hook));
    }

    /// The sender behind [`Self::want`], for the one who decides.
    ///
    /// It does not keep the task alive: that ends when the runner is finished or dropped.
    pub fn wanted(&self) -> watch::Sender<Option<Hook>> {
        self.wanted.clone()
    }

    /// Publishes what runs and what ended.
    pub fn status(&self) -> watch::Receiver<HookStatus> {
        self.status.clone()
    }

    /// Runs what is still wanted, and returns when that is done or when the time is over.
    ///
    /// At the deadline nothing of a hook's process group is left. A hook that runs while the other
    /// one is wanted gets only half of the time, so that the other one can still run.
    ///
    /// Not cancel safe: dropped halfway, a running hook goes on by itself.
    pub async fn finish(self, deadline: Instant) -> HookStatus {
        let announced_at = Instant::now();
        self.ending.send_replace(Some(Ending {
            announced_at,
            deadline: deadline.max(announced_at),
        }));
        let mut task = self.task;
        if tokio::time::timeout_at(deadline + FINISH_MARGIN, &mut task)
            .await
            .is_err()
        {
            tracing::error!("a hook cannot be ended, leaving it behind");
            task.abort();
        }
        self.status.borrow().clone()
    }
}

struct Runner {
    settings: HookSettings,
    wanted: watch::Receiver<Option<Hook>>,
    ending: watch::Receiver<Option<Ending>>,
    status: watch::Sender<HookStatus>,
    lingering: Lingering,
}

impl Runner {
    async fn run(mut self) {
        let mut last = None;
        loop {
            let wanted = *self.wanted.borrow_and_update();
            let ending = *self.ending.borrow_and_update();
            match (wanted.filter(|hook| Some(*hook) != last), ending) {
                (Some(hook), Some(ending)) if ending.deadline <= Instant::now() => {
                    tracing::error!(%hook, "no time is left to run the hook");
                    return;
                }
                (Some(hook), _) => {
                    self.run_hook(hook).await;
                    last = Some(hook);
                }
                (None, Some(_)) => return,
                (None, None) => {
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

    async fn run_hook(&mut self, hook: Hook) {
        let Some(program) = self.settings.program(hook).cloned() else {
            return;
        };
        let started = Instant::now();
        let finished = match Process::start(&program, &self.settings, hook).await {
            Ok(process) => {
                let pid = process.pid();
                tracing::info!(%hook, pid, program = %program.display(), "running the hook");
                self.status.send_modify(|status| {
                    status.running = Some(RunningHook {
                        hook,
                        pid,
                        since: started.into_std(),
                    });
                });
                self.wait(hook, process, started).await
            }
            Err(error) => FinishedHook {
                hook,
                exit: format!("cannot start: {error}"),
                success: false,
                timed_out: false,
                took_ms: 0,
            },
        };
        log(&finished, &program);
        self.status.send_modify(|status| {
            status.running = None;
            status.last = Some(finished);
            status.finished += 1;
        });
    }

    async fn wait(&mut self, hook: Hook, mut process: Process, started: Instant) -> FinishedHook {
        let mut limits = self.limits(hook, started);
        let ended = loop {
            tokio::select! {
                biased;
                ended = process.wait() => break Some(ended),
                Ok(()) = self.ending.changed() => limits = self.limits(hook, started),
                () = tokio::time::sleep_until(limits.terminate_at) => break None,
            }
        };
        let timed_out = ended.is_none();
        let ended = match ended {
            Some(ended) => ended,
            None => {
                let took_ms = millis(started.elapsed());
                tracing::warn!(%hook, pid = process.pid(), took_ms, "the hook runs too long");
                process.end_group(limits.kill_at).await
            }
        };
        let took_ms = millis(started.elapsed());
        self.lingering.keep(process.drain_output().await);
        FinishedHook {
            hook,
            success: ended.as_ref().is_ok_and(std::process::ExitStatus::success),
            exit: match ended {
                Ok(status) => status.to_string(),
                Err(error) => format!("unknown: {error}"),
            },
            timed_out,
            took_ms,
        }
    }

    /// Until when the hook may run: its own time limit, or what our own end leaves of it.
    fn limits(&self, hook: Hook, started: Instant) -> Limits {
        let terminate_at = started + self.settings.time_limit;
        let own = Limits {
            terminate_at,
            kill_at: terminate_at + TERMINATION_GRACE,
        };
        let Some(ending) = *self.ending.borrow() else {
            return own;
        };
        let all = ending
            .deadline
            .saturating_duration_since(ending.announced_at);
        let time = match *self.wanted.borrow() {
            Some(wanted) if wanted != hook => all / 2,
            Some(_) | None => all,
        };
        let kill_at = ending.announced_at + time;
        Limits {
            terminate_at: own
                .terminate_at
                .min(kill_at - TERMINATION_GRACE.min(time / 4)),
            kill_at: own.kill_at.min(kill_at),
        }
    }
}

fn log(finished: &FinishedHook, program: &std::path::Path) {
    let FinishedHook {
        hook,
        exit,
        took_ms,
        ..
    } = finished;
    let program = program.display();
    if finished.success {
        tracing::info!(%hook, %program, exit, took_ms, "the hook has ended");
    } else {
        tracing::warn!(%hook, %program, exit, took_ms, "the hook has failed");
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
