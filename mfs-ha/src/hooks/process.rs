//! One run of a hook: its process group and its output.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::output::Output;
use super::{Hook, HookSettings};

/// A program that is being written cannot be run for that moment.
const BUSY_ATTEMPTS_MAX: u32 = 10;
const BUSY_INTERVAL: Duration = Duration::from_millis(20);

/// How often a group that was told to end is looked at.
const ENDING_INTERVAL: Duration = Duration::from_millis(20);

/// After SIGKILL only a process that hangs within the kernel is still there.
const KILLED_MAX: Duration = Duration::from_secs(1);

/// When a run has to be over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// SIGTERM
    pub(super) terminate_at: Instant,
    /// SIGKILL
    pub(super) kill_at: Instant,
}

/// A hook's process, the first of its group.
///
/// Until it is waited for, its number cannot be given to another process or group: that is what
/// makes it safe to signal the group by number.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Pid,
    output: Output,
}

impl Process {
    pub(super) async fn start(
        program: &Path,
        settings: &HookSettings,
        hook: Hook,
    ) -> io::Result<Self> {
        let mut command = Command::new(program);
        command
            .arg(&settings.interface)
            .arg(&settings.vip)
            .args(&settings.xparam)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut attempt = 1;
        let mut child = loop {
            match command.spawn() {
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy
                        && attempt < BUSY_ATTEMPTS_MAX =>
                {
                    attempt += 1;
                    sleep(BUSY_INTERVAL).await;
                }
                other => break other?,
            }
        };
        let group = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .map(Pid::from_raw)
            .ok_or_else(|| io::Error::other("the process has no number"))?;
        let output = Output::follow(hook, child.stdout.take(), child.stderr.take());
        Ok(Self {
            child,
            group,
            output,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.group.as_raw().unsigned_abs()
    }

    /// Waits for the end of the process. Cancel safe.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Ends the whole group: SIGTERM now, SIGKILL at `kill_at` or when all seem to have ended.
    pub(super) async fn end_group(&mut self, kill_at: Instant) -> io::Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        tokio::select! {
            () = sleep_until(kill_at) => {}
            () = self.ended() => {}
        }
        // Also what was detached from the output and is still of the group.
        self.signal(Signal::SIGKILL);
        timeout(KILLED_MAX, self.child.wait())
            .await
            .unwrap_or_else(|_elapsed| Err(io::Error::other("not even SIGKILL ended it")))
    }

    /// The process has ended, though not yet been waited for, and nobody holds its output.
    async fn ended(&self) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        loop {
            let alive = matches!(
                waitid(Id::Pid(self.group), flags),
                Ok(WaitStatus::StillAlive)
            );
            if !alive && self.output.is_closed() {
                return;
            }
            sleep(ENDING_INTERVAL).await;
        }
    }

    fn signal(&self, signal: Signal) {
        match killpg(self.group, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => {
                let error = io::Error::from(errno);
                tracing::error!(
                    pid = self.pid(),
                    signal = signal.as_str(),
                    error = &error as &dyn std::error::Error,
                    "cannot signal the hook's process group"
                );
            }
        }
    }

    /// Takes the rest of the output, as far as it comes at once.
    pub(super) async fn drain_output(self) -> Output {
        self.output.drained().await
    }
}
