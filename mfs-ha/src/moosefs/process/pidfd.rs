//! A process that was identified once and cannot be mistaken for another one afterwards.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
pub use rustix::process::{Pid, Signal};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

use crate::readiness;

/// A process, held by a pidfd: signals reach this one or nobody.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    start_time: u64,
    fd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Takes hold of the process that has a number now; `None` when nobody has it.
    ///
    /// Call it within a tokio runtime.
    ///
    /// # Errors
    /// No file descriptors are left, or `/proc` is not there.
    pub fn open(pid: Pid) -> io::Result<Option<Self>> {
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            // EINVAL: the number of a thread.
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let stat = Stat::of(pid)?;
        // As long as it is alive nobody else has its number: what was read was about this one.
        if has_exited(&fd)? {
            return Ok(None);
        }
        let Some(stat) = stat else {
            return Ok(None);
        };
        Ok(Some(Self {
            pid,
            start_time: stat.start_time,
            fd: readiness::watch(fd)?,
        }))
    }

    /// A child of ours that was not waited for yet: its number is its own, also when it has ended.
    pub(in crate::moosefs) fn of_child(child: &Child) -> io::Result<Self> {
        let unknown = || io::Error::other("the process has no number");
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(positive)
            .ok_or_else(unknown)?;
        let fd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self {
            pid,
            start_time: Stat::of(pid)?.ok_or_else(unknown)?.start_time,
            fd: readiness::watch(fd)?,
        })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// When it was started, in clock ticks since the machine was (field 22 of `/proc/PID/stat`):
    /// together with the number it names a process over the restart of ours.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Whether it has not ended. One that nobody has waited for yet has ended.
    pub fn is_alive(&self) -> bool {
        has_exited(self.fd.get_ref()).is_ok_and(|exited| !exited)
    }

    /// Sends a signal; to one that has ended is no error.
    ///
    /// # Errors
    /// The right to do so is missing.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.fd.get_ref(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether it runs or would, or waits for a disk (states R and D of `/proc/PID/stat`): it gets on, however slowly.
    pub(super) fn is_at_work(&self) -> bool {
        let stat = Stat::of(self.pid).ok().flatten();
        stat.is_some_and(|stat| matches!(stat.state, 'R' | 'D')) && self.is_alive()
    }

    /// Waits for its end. Cancel safe, and returns at once when it has ended.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn exited(&self) -> io::Result<()> {
        // Readiness is never cleared: a process ends once.
        self.fd.readable().await.map(drop)
    }

    /// The file it runs, as far as it can be told.
    pub(super) fn exe(&self) -> io::Result<PathBuf> {
        std::fs::read_link(format!("/proc/{}/exe", self.pid()))
    }

    /// The children it has at this moment.
    pub(super) fn children(&self) -> io::Result<Vec<Self>> {
        let pid = self.pid();
        let text = match std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
            Ok(text) => text,
            Err(error) if is_gone(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut children = Vec::new();
        for number in text.split_ascii_whitespace() {
            let Some(child) = number.parse().ok().and_then(positive) else {
                continue;
            };
            let Some(process) = Self::open(child)? else {
                continue;
            };
            // The number may have gone to somebody else between reading and opening.
            if Stat::of(child)?.is_some_and(|stat| stat.parent == pid) && process.is_alive() {
                children.push(process);
            }
        }
        Ok(children)
    }
}

/// A number as it stands in a file; no process has one below 1.
pub(super) fn positive(raw: i32) -> Option<Pid> {
    (raw > 0).then(|| Pid::from_raw(raw)).flatten()
}

/// `/proc` says in two ways that a process has gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

fn has_exited(fd: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(poll(&mut fds, Some(&at_once))? > 0)
}

/// What is used of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
    start_time: u64,
}

impl Stat {
    fn of(pid: Pid) -> io::Result<Option<Self>> {
        let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
        // The name of a program may be any bytes.
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Self::parse(&String::from_utf8_lossy(&bytes))
            .map(Some)
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "/proc/PID/stat is unreadable"))
    }

    fn parse(text: &str) -> Option<Self> {
        // `PID (NAME) STATE PARENT …`; the name may contain blanks and parentheses.
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        // Field 22, counted from 1; the fourth was taken.
        let start_time = fields.nth(22 - 5)?.parse().ok()?;
        Some(Self {
            state,
            parent,
            start_time,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_name_of_a_program_cannot_shift_the_fields() {
        let text = "77 (a) R 1 2 (x) S 5 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 9 10 11 12 4711 99 1";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                state: 'S',
                parent: 5,
                start_time: 4711
            })
        );
        assert_eq!(Stat::parse("77 (a) S 5 77"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[tokio::test]
    async fn a_process_is_followed_to_its_end() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = positive(i32::try_from(child.id()).unwrap()).unwrap();
        let process = Process::open(pid).unwrap().unwrap();
        assert!(process.is_alive() && process.start_time() > 0);
        assert!(process.exe().unwrap().is_absolute());
        process.signal(Signal::KILL).unwrap();
        process.exited().await.unwrap();
        process.exited().await.unwrap();
        assert!(!process.is_alive());
        // It has not been waited for, so its number is still its own.
        assert!(Process::open(pid).unwrap().is_none());
        child.wait().unwrap();
        process.signal(Signal::KILL).unwrap();
        assert!(Process::open(pid).unwrap().is_none());
    }

    #[tokio::test]
    async fn children_are_those_of_the_process() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & sleep 1000 & echo; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 1];
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut line).unwrap();
        let pid = positive(i32::try_from(child.id()).unwrap()).unwrap();
        let process = Process::open(pid).unwrap().unwrap();
        let children = process.children().unwrap();
        assert_eq!(children.len(), 2);
        for child in &children {
            assert_ne!(child.pid(), process.pid());
            child.signal(Signal::KILL).unwrap();
            child.exited().await.unwrap();
        }
        child.wait().unwrap();
        assert!(process.children().unwrap().is_empty());
    }

    #[test]
    fn no_process_has_a_number_below_one() {
        assert!(positive(0).is_none() && positive(-1).is_none());
        assert_eq!(positive(1), Some(Pid::INIT));
    }
}
