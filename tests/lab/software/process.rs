//! A supervised process: in a namespace, in its own process group, logging to a file, and never left over.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::net::netns::Namespace;
use crate::wait::wait_until;

/// How much of a log an error message quotes.
const QUOTED_LINES: usize = 15;

/// A process to be started.
#[derive(Debug)]
pub struct Launch<'a> {
    name: String,
    words: Vec<OsString>,
    log: PathBuf,
    namespace: Option<&'a Namespace>,
    directory: Option<PathBuf>,
    outlives_us: bool,
}

impl<'a> Launch<'a> {
    /// A process called `name` in messages, with its output appended to `log`.
    pub fn new(name: &str, log: &Path, program: impl AsRef<OsStr>) -> Self {
        Self {
            name: name.to_owned(),
            words: vec![program.as_ref().to_owned()],
            log: log.to_owned(),
            namespace: None,
            directory: None,
            outlives_us: false,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<W: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words
            .extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Runs it inside a namespace.
    #[must_use]
    pub fn inside(mut self, namespace: &'a Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Runs it in a directory.
    #[must_use]
    pub fn in_directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// Lets it go on when this process ends, for a lab that stays.
    #[must_use]
    pub fn outliving_us(mut self) -> Self {
        self.outlives_us = true;
        self
    }

    /// Starts it. Unless it may outlive us, the kernel kills it when **the calling thread** ends.
    ///
    /// # Errors
    /// When the log cannot be opened or the process not be started. A program that is missing inside the
    /// wrappers shows as an exit with status 127.
    pub fn spawn(self) -> Result<Supervised> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("open log {}", self.log.display()))?;
        let mut words = self.words.into_iter();
        let first = words.next().unwrap_or_default();
        let wrapped = if self.outlives_us {
            vec![first]
        } else {
            ["setpriv", "--pdeathsig", "KILL", "--"]
                .map(OsString::from)
                .into_iter()
                .chain([first])
                .collect()
        };
        let mut all = wrapped.into_iter().chain(words);
        let program = all.next().unwrap_or_default();
        // nsenter and setpriv replace themselves, so the child's pid is the daemon's.
        let mut command = match self.namespace {
            Some(namespace) => namespace.command(program),
            None => Command::new(program),
        };
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let errors = log.try_clone().context("share the log")?;
        let child = command
            .args(all)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", self.name))?;
        Ok(Supervised {
            name: self.name,
            log: self.log,
            child,
            outlives_us: self.outlives_us,
        })
    }
}

/// A started process. Dropping it kills its process group, unless it was to outlive us.
#[derive(Debug)]
pub struct Supervised {
    name: String,
    log: PathBuf,
    child: Child,
    outlives_us: bool,
}

impl Supervised {
    /// Its pid and process group.
    pub fn pid(&self) -> Pid {
        // Linux pids end at 2^22.
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// What it wrote so far, runs before this one included.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log_text(&self) -> Result<String> {
        let bytes =
            fs::read(&self.log).with_context(|| format!("read log {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends a signal to the process, not to its group.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.check_running()?;
        kill(self.pid(), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Kills the process and its group with SIGKILL. A process that ended before is no error.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            // Not reaped yet, so the number still means this group.
            killpg(self.pid(), Signal::SIGKILL)
                .with_context(|| format!("kill the process group of {}", self.name))?;
            self.wait(Duration::from_secs(10))?;
        }
        Ok(())
    }

    /// Asks it to end with SIGTERM and waits.
    ///
    /// # Errors
    /// When it had ended already or does not end within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait_until(&what, limit, || self.ended())
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("look at {}", self.name))
    }

    /// Checks that it is alive.
    ///
    /// # Errors
    /// When it has ended; the message quotes the end of its log.
    pub fn check_running(&mut self) -> Result<()> {
        let Some(status) = self.ended()? else {
            return Ok(());
        };
        let log = self.log_text()?;
        let lines: Vec<&str> = log.lines().collect();
        let quoted = lines
            .get(lines.len().saturating_sub(QUOTED_LINES)..)
            .unwrap_or_default();
        bail!(
            "{} ended by itself ({status}); end of its log:\n{}",
            self.name,
            quoted.join("\n")
        );
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if !self.outlives_us {
            // The namespace's own removal kills what is left, should this fail.
            self.kill().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(directory: &Path, script: &str) -> Supervised {
        Launch::new("a script", &directory.join("log"), "sh")
            .args(["-c", script])
            .spawn()
            .unwrap()
    }

    #[test]
    fn output_and_status_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = start(directory.path(), "echo out; echo err >&2; exit 3");
        let status = process.wait(Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(process.log_text().unwrap(), "out\nerr\n");
        let error = process.check_running().unwrap_err().to_string();
        assert!(error.ends_with("end of its log:\nout\nerr"), "{error}");
    }

    #[test]
    fn dropping_kills_the_whole_group() {
        let directory = tempfile::tempdir().unwrap();
        let process = start(directory.path(), "sleep 600 & echo $!; wait");
        let child = wait_until("the child's pid", Duration::from_secs(10), || {
            Ok(process.log_text()?.trim().parse::<i32>().ok())
        })
        .unwrap();
        drop(process);
        wait_until("the child's end", Duration::from_secs(10), || {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
        })
        .unwrap();
    }
}
