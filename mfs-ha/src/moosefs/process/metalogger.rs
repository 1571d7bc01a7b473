//! mfsmetalogger: a daemon of its own that we start, find and end, and never hold on to.
//!
//! A restart makes it download everything anew, so one that runs is left running, over the end of
//! our own process too.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::lock::Locks;
use super::output::{self, Output, WhenFull};
use super::pidfd::Process;
use super::{ProcessError, sockets, stray};
use crate::moosefs::settings::MetaloggerSettings;

const METALOGGER: &str = "mfsmetalogger";

/// How long it may read what it was sent, and then from SIGTERM to SIGKILL, as long as it is at work. What it has not
/// read or not written out by then is lost, and was acknowledged. It takes 7 ms, and seconds on an overloaded machine
/// or a slow disk. Both together are less than the limit of P2, and than voters wait for it (rule L1b).
const READ_MAX: Duration = Duration::from_secs(6);
const WRITE_OUT_MAX: Duration = Duration::from_secs(4);

/// One that was not seen at work for so long does not go on by itself.
const IDLE_MAX: Duration = Duration::from_secs(1);

const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Somebody who starts it again so often does not stop doing so.
const TIMES_MAX: u32 = 3;

/// mfsmetalogger on one data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaloggerProgram {
    program: PathBuf,
    config: PathBuf,
    lock_file: PathBuf,
}

/// A mfsmetalogger that was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaloggerStopped {
    /// Its process; of several the last.
    pub pid: i32,
    /// It had to be killed: the last line of its changelog may be cut off.
    pub was_unclean: bool,
    /// Until it was gone.
    pub took: Duration,
}

impl MetaloggerProgram {
    /// The program file, its configuration file, and what was read of that.
    pub fn new(program: PathBuf, config: PathBuf, settings: &MetaloggerSettings) -> Self {
        Self {
            program,
            config,
            lock_file: Locks::of(&settings.data_path).metalogger,
        }
    }

    /// The one that runs on the data directory, whoever started it.
    ///
    /// # Errors
    /// The lock or its holder cannot be looked at; [`ProcessError::Foreign`] when another program
    /// holds the lock.
    pub async fn running(&self) -> Result<Option<Process>, ProcessError> {
        stray::holding_program(&self.lock_file, METALOGGER, &self.program).await
    }

    /// Returns the own port of its connection to `master`: another one is another connection.
    ///
    /// # Errors
    /// Its sockets cannot be looked at.
    pub fn connection(
        process: &Process,
        master: SocketAddrV4,
    ) -> Result<Option<u16>, ProcessError> {
        let pid = process.pid();
        sockets::connection(pid, master).map_err(|source| ProcessError::Look { pid, source })
    }

    /// Starts it (`mfsmetalogger -c CONFIG start`) and returns when it runs; what it downloads
    /// comes later. One that runs already is left as it is.
    ///
    /// Call it on a thread without real-time scheduling, which it would inherit.
    ///
    /// # Errors
    /// It refuses, with what it wrote, or is not done within the limit.
    pub async fn start(&self, limit: Duration) -> Result<Process, ProcessError> {
        if let Some(process) = self.running().await? {
            return Ok(process);
        }
        let (exit, lines) = self.run_start(limit).await?;
        // Also when it failed: somebody may have been faster.
        self.running().await?.ok_or(ProcessError::Ended {
            program: METALOGGER,
            exit,
            lines,
        })
    }

    /// Ends it so that what it has received stands in its files; `None` when none runs.
    ///
    /// # Errors
    /// [`ProcessError::Foreign`] when another program holds the lock; it is left alone.
    pub async fn stop(&self) -> Result<Option<MetaloggerStopped>, ProcessError> {
        let started = Instant::now();
        let mut times = 0;
        let mut last: Option<MetaloggerStopped> = None;
        while let Some(process) = self.running().await? {
            if times == TIMES_MAX {
                return Err(ProcessError::ComesBack {
                    program: METALOGGER,
                    unit: "moosefs-metalogger",
                    times,
                });
            }
            times += 1;
            let was_killed = end(&process).await?;
            last = Some(MetaloggerStopped {
                pid: process.pid(),
                was_unclean: was_killed || last.is_some_and(|last| last.was_unclean),
                took: started.elapsed(),
            });
        }
        Ok(last)
    }

    /// Runs the start to its end: the program returns when the daemon that it forked is ready.
    async fn run_start(&self, limit: Duration) -> Result<(String, Vec<String>), ProcessError> {
        let failed = |source| ProcessError::Spawn {
            program: self.program.clone(),
            source,
        };
        let (writing, receiver) = output::pipe(WhenFull::Wait).map_err(failed)?;
        let mut child = Command::new(&self.program)
            .arg("-c")
            .arg(&self.config)
            .arg("start")
            .stdin(Stdio::null())
            .stdout(writing.try_clone().map_err(failed)?)
            .stderr(writing)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut output = Output::follow(receiver, METALOGGER.to_owned());
        match timeout(limit, child.wait()).await {
            Ok(exit) => {
                output.drained().await;
                Ok((exit.map_err(failed)?.to_string(), output.last_lines()))
            }
            Err(_elapsed) => Err(ProcessError::Slow {
                program: METALOGGER,
                limit,
                lines: output.last_lines(),
            }),
        }
    }
}

/// How long one that is to read, or to write out, is waited for.
#[derive(Debug)]
struct Patience {
    at_work: Instant,
    until: Instant,
}

impl Patience {
    fn begin(limit: Duration) -> Self {
        let now = Instant::now();
        Self {
            at_work: now,
            until: now + limit,
        }
    }

    /// Says whether more may come of it: it is at work, or was a moment ago.
    fn is_left(&mut self, process: &Process) -> bool {
        let now = Instant::now();
        if process.is_at_work() {
            self.at_work = now;
        }
        now < self.until && now.duration_since(self.at_work) < IDLE_MAX
    }
}

/// Asks it to end, and kills it when it does not. Returns whether it was killed.
async fn end(process: &Process) -> Result<bool, ProcessError> {
    let pid = process.pid();
    let signal = |signal| {
        process
            .signal(signal)
            .map_err(|source| ProcessError::Signal { pid, source })
    };
    // One that was stopped would not even take the SIGTERM.
    signal(Signal::CONT)?;
    drain(process).await;
    signal(Signal::TERM)?;
    let mut patience = Patience::begin(WRITE_OUT_MAX);
    while patience.is_left(process) {
        if matches!(timeout(LOOK_INTERVAL, process.exited()).await, Ok(Ok(()))) {
            return Ok(false);
        }
    }
    stray::kill(process, METALOGGER).await?;
    Ok(true)
}

/// Lets it read what has arrived: at SIGTERM it leaves unread what it cannot read in one go, and
/// these may be the last changes of a master that is dead.
async fn drain(process: &Process) {
    let pid = process.pid();
    let mut patience = Patience::begin(READ_MAX);
    loop {
        match sockets::has_unread(pid) {
            Ok(true) if patience.is_left(process) => sleep(LOOK_INTERVAL).await,
            Ok(true) => {
                tracing::warn!(pid, "mfsmetalogger does not read what it was sent");
                return;
            }
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(
                    pid,
                    error = &error as &dyn std::error::Error,
                    "cannot see whether mfsmetalogger has read everything"
                );
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Stdio};

    use super::*;
    use crate::moosefs::process::pidfd::positive;

    /// A program that does as `script` says. mfsmetalogger itself cannot be made slow.
    fn start(script: &str) -> (Child, Process) {
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let pid = positive(i32::try_from(child.id()).unwrap()).unwrap();
        (child, Process::open(pid).unwrap().unwrap())
    }

    #[tokio::test]
    async fn one_that_is_at_work_is_not_killed() {
        // It works on for two to three seconds: longer than one that is idle is waited for.
        let (mut child, process) = start(
            "work() { end=$(($(date +%s) + 3)); while [ $(date +%s) -lt $end ]; do
                i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; done; exit 7; }
             trap work TERM; echo; while :; do :; done",
        );
        assert!(!end(&process).await.unwrap());
        assert_eq!(child.wait().unwrap().code(), Some(7), "its own end");
    }

    #[tokio::test]
    async fn one_that_is_idle_is_killed() {
        let (mut child, process) = start("trap '' TERM; echo; exec sleep 1000");
        let begin = Instant::now();
        assert!(end(&process).await.unwrap());
        assert!(begin.elapsed() < WRITE_OUT_MAX, "sooner than a busy one");
        assert_eq!(child.wait().unwrap().code(), None, "killed");
    }
}
