//! mfsmaster: started in the foreground and supervised through a pidfd, adopted, or ended.
//!
//! It is a process group of its own and outlives us: a daemon that comes back finds it by number,
//! start time and lock ([`MasterProgram::adopt`]). Where a service manager ends a whole control
//! group, it has to be told to leave it alone.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until};

use super::lock::Locks;
use super::output::{self, Output, WhenFull};
use super::pidfd::Process;
use super::stray::{self, MASTER};
use super::{ProcessError, sockets};
use crate::moosefs::settings::MasterSettings;

/// It needs 0.3 s and more to start; a look at its ports takes well under a millisecond.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Somebody who starts it again so often does not stop doing so.
const STRAYS_MAX: u32 = 3;

/// mfsmaster on one data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterProgram {
    program: PathBuf,
    config: PathBuf,
    ports: [u16; 3],
    locks: Locks,
}

/// A mfsmaster that was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Its process; of several the last.
    pub pid: i32,
    /// Until it and its children were gone.
    pub took: Duration,
}

/// How mfsmaster ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// We had started it.
    Status(ExitStatus),
    /// It was adopted: only its parent is told.
    Unknown,
}

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => status.fmt(f),
            Self::Unknown => f.write_str("exit status unknown"),
        }
    }
}

impl MasterProgram {
    /// The program file, its configuration file, and what was read of that.
    pub fn new(program: PathBuf, config: PathBuf, settings: &MasterSettings) -> Self {
        Self {
            program,
            config,
            ports: settings.ports(),
            locks: Locks::of(&settings.data_path),
        }
    }

    /// The mfsmaster that runs on the data directory, whoever started it.
    ///
    /// # Errors
    /// The lock or its holder cannot be looked at; [`ProcessError::Foreign`] when another program
    /// holds the lock.
    pub async fn running(&self) -> Result<Option<Process>, ProcessError> {
        stray::holding_program(&self.locks.master, MASTER, &self.program).await
    }

    /// Kills whatever mfsmaster runs on the data directory, with its children.
    ///
    /// Afterwards nobody writes to the master's files. Says nothing where there was nobody.
    ///
    /// # Errors
    /// [`ProcessError::Foreign`] when another program holds a lock; it is left alone.
    pub async fn stop_stray(&self) -> Result<Option<Stopped>, ProcessError> {
        let started = Instant::now();
        let mut times = 0;
        let mut last = None;
        while let Some(master) = self.running().await? {
            if times == STRAYS_MAX {
                return Err(ProcessError::ComesBack {
                    program: MASTER,
                    unit: "moosefs-master",
                    times,
                });
            }
            times += 1;
            stray::kill_master(&master, &self.locks, &self.program).await?;
            last = Some(Stopped {
                pid: master.pid(),
                took: started.elapsed(),
            });
        }
        // One that was killed by others may have left its children.
        stray::kill_orphans(&self.locks, &self.program).await?;
        Ok(last)
    }

    /// Starts it on what stands in the data directory (`mfsmaster -f -a -c CONFIG start`).
    ///
    /// Call it within a tokio runtime, on a thread without real-time scheduling, which it would
    /// inherit.
    ///
    /// # Errors
    /// The program file cannot be run. That it refuses to work comes with
    /// [`Running::listening`].
    pub fn spawn(&self) -> Result<Running, ProcessError> {
        let failed = |source| ProcessError::Spawn {
            program: self.program.clone(),
            source,
        };
        let (writing, receiver) = output::pipe(WhenFull::Lose).map_err(failed)?;
        let child = Command::new(&self.program)
            .args(["-f", "-a", "-c"])
            .arg(&self.config)
            .arg("start")
            .stdin(Stdio::null())
            .stdout(writing.try_clone().map_err(failed)?)
            .stderr(writing)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let process = Process::of_child(&child).map_err(failed)?;
        Ok(Running {
            program: self.clone(),
            process,
            child: Some(child),
            output: Some(Output::follow(receiver, MASTER.to_owned())),
        })
    }

    /// Takes over a mfsmaster that an earlier life of ours has started; `None` when the process is
    /// not that one any more, or does not hold the lock of the data directory.
    ///
    /// What it prints is lost: it goes to syslog too.
    ///
    /// # Errors
    /// The lock or the process cannot be looked at.
    pub async fn adopt(&self, pid: i32, start_time: u64) -> Result<Option<Running>, ProcessError> {
        let Some(process) = self.running().await? else {
            return Ok(None);
        };
        let is_known = process.pid() == pid && process.start_time() == start_time;
        Ok(is_known.then(|| Running {
            program: self.clone(),
            process,
            child: None,
            output: None,
        }))
    }
}

/// A mfsmaster that is ours. Dropped, it goes on.
#[derive(Debug)]
pub struct Running {
    program: MasterProgram,
    process: Process,
    child: Option<Child>,
    output: Option<Output>,
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// See [`Process::start_time`].
    pub fn start_time(&self) -> u64 {
        self.process.start_time()
    }

    /// Waits until it listens on its three ports, itself and nobody else. Cancel safe.
    ///
    /// # Errors
    /// At once [`ProcessError::Ended`] when it ends; [`ProcessError::Deaf`] at the deadline. Both
    /// carry what it wrote last. It is not ended here.
    pub async fn listening(&mut self, deadline: Instant) -> Result<(), ProcessError> {
        loop {
            let pid = self.pid();
            let ports = sockets::missing(pid, &self.program.ports)
                .map_err(|source| ProcessError::Look { pid, source })?;
            if ports.is_empty() {
                return Ok(());
            }
            tokio::select! {
                biased;
                exit = self.exited() => return Err(self.ended(exit).await),
                () = sleep_until(deadline) => {
                    return Err(ProcessError::Deaf {
                        program: MASTER,
                        ports,
                        lines: self.last_lines(),
                    });
                }
                () = sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Waits for its end; returns at once when it has ended. Cancel safe.
    ///
    /// Its children may still be there: [`Self::kill`] ends them.
    pub async fn exited(&mut self) -> ExitReason {
        let ended = match &mut self.child {
            Some(child) => child.wait().await.map(ExitReason::Status),
            None => self.process.exited().await.map(|()| ExitReason::Unknown),
        };
        ended.unwrap_or_else(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the end of mfsmaster cannot be waited for"
            );
            ExitReason::Unknown
        })
    }

    /// Kills it and its children, and returns when they are gone.
    ///
    /// # Errors
    /// Something remains: [`ProcessError::Remains`] says what. When it is a child, mfsmaster
    /// itself is gone.
    pub async fn kill(&mut self) -> Result<(), ProcessError> {
        let ended =
            stray::kill_master(&self.process, &self.program.locks, &self.program.program).await;
        if !self.process.is_alive() {
            // Collects the process.
            self.exited().await;
        }
        ended
    }

    /// What it wrote last, oldest first, 20 lines at most; nothing of one that was adopted.
    pub fn last_lines(&self) -> Vec<String> {
        self.output
            .as_ref()
            .map(Output::last_lines)
            .unwrap_or_default()
    }

    async fn ended(&mut self, exit: ExitReason) -> ProcessError {
        if let Some(output) = &mut self.output {
            output.drained().await;
        }
        ProcessError::Ended {
            program: MASTER,
            exit: exit.to_string(),
            lines: self.last_lines(),
        }
    }
}
