//! Network namespaces: made, entered, emptied and removed.
//!
//! Commands enter through `nsenter --net` and threads through setns(2). `ip netns exec` is not used:
//! it remounts /sys and thereby hides /sys/fs/bpf from a daemon that pins maps there.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::requirements::find_tool;
use crate::wait::wait_until;

const RUN_DIRECTORY: &str = "/run/netns";
/// Start of every ephemeral name, followed by the pid of its maker.
const EPHEMERAL: &str = "mh";
/// Where mfs-ha pins its maps, a folder per instance.
const PIN_DIRECTORY: &str = "/sys/fs/bpf/mfs-ha";

/// A named network namespace. The handle is passive: the topology decides when it goes.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with its loopback up and IPv6 off (no router or address chatter on the segment).
    ///
    /// # Errors
    /// When `ip netns add` fails, for example because the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let namespace = Self::existing(name);
        namespace.enter(|| {
            for scope in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
                // A kernel without IPv6 has nothing to switch off.
                if Path::new(&path).exists() {
                    fs::write(&path, "1").with_context(|| format!("write {path}"))?;
                }
            }
            Ok(())
        })?;
        namespace.ip(&["link set lo up".to_owned()])?;
        Ok(namespace)
    }

    /// A handle on a namespace that was made elsewhere.
    pub fn existing(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// The name under /run/netns.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(RUN_DIRECTORY).join(&self.name)
    }

    /// Whether the namespace is there.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a command inside to its end and returns its output.
    ///
    /// # Errors
    /// When it cannot be started or exits with a failure; the message holds what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run(self.command(program).args(arguments))
    }

    /// Runs lines of `ip` inside, in one process, up to the first that fails.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn ip(&self, lines: &[String]) -> Result<()> {
        let mut child = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start ip")?;
        if let Some(mut stdin) = child.stdin.take() {
            let text = lines.join("\n") + "\n";
            stdin
                .write_all(text.as_bytes())
                .context("hand commands to ip")?;
        }
        let output = child.wait_with_output().context("await ip")?;
        if !output.status.success() {
            bail!(
                "ip in {}: {}\ncommands were:\n{}",
                self.name,
                String::from_utf8_lossy(&output.stderr).trim(),
                lines.join("\n")
            );
        }
        Ok(())
    }

    /// Runs `work` on a thread of its own inside. A socket that it opens stays inside for life.
    ///
    /// # Errors
    /// When the namespace cannot be entered, and what `work` returns.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.path())
            .with_context(|| format!("open network namespace {}", self.name))?;
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("enter network namespace {}", self.name))?;
                    work()
                })
                .join()
                .map_err(|_panic| anyhow!("work inside {} panicked", self.name))?
        })
    }

    /// The processes inside, except this one (whose threads may visit).
    ///
    /// # Errors
    /// When the namespace is gone or /proc is unreadable.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        let wanted = fs::metadata(self.path())
            .with_context(|| format!("look at network namespace {}", self.name))?;
        processes_where(|process| {
            // A process that ends while we look has no namespace any more, nor has a zombie.
            fs::metadata(process.join("ns/net"))
                .is_ok_and(|found| found.ino() == wanted.ino() && found.dev() == wanted.dev())
        })
    }

    /// Freezes, then kills every process inside, and returns when they are gone.
    ///
    /// Freezing first keeps a supervisor from restarting a child, or a child from leaving in good order.
    ///
    /// # Errors
    /// When one does not die.
    pub fn kill_all(&self) -> Result<()> {
        let victims = self.pids()?;
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for pid in &victims {
                // It may have ended by itself meanwhile.
                kill(*pid, signal).ok();
            }
        }
        wait_until(
            &format!("the processes in {} to end", self.name),
            Duration::from_secs(10),
            || {
                let left = self.pids()?;
                for pid in &left {
                    kill(*pid, Signal::SIGKILL).ok();
                }
                Ok(left.is_empty().then_some(()))
            },
        )
    }

    /// Stops every process inside as by SIGSTOP, and returns when all stand still.
    ///
    /// # Errors
    /// When one goes on.
    pub fn freeze(&self) -> Result<()> {
        freeze(&self.pids()?)
    }

    /// Lets every process inside go on after [`Self::freeze`].
    ///
    /// # Errors
    /// When one cannot be told.
    pub fn thaw(&self) -> Result<()> {
        for pid in self.pids()? {
            kill(pid, Signal::SIGCONT).with_context(|| format!("let process {pid} go on"))?;
        }
        Ok(())
    }

    /// Kills what runs inside and removes the namespace with all its links. Absence is success.
    ///
    /// # Errors
    /// When it is still there afterwards.
    pub fn delete(&self) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        // A leftover of `ip netns add` that failed half-way is a plain file: nothing can run inside.
        let killed = self.kill_all();
        let deleted = run(Command::new("ip").args(["netns", "del", &self.name]));
        if self.exists() {
            killed?;
            deleted?;
            bail!("network namespace {} survives its removal", self.name);
        }
        Ok(())
    }
}

/// Stops processes as by SIGSTOP, and returns when all their threads stand still: a signal that was sent is not yet
/// obeyed on another processor.
///
/// # Errors
/// When one goes on.
pub fn freeze(pids: &[Pid]) -> Result<()> {
    for pid in pids {
        // It may have ended by itself meanwhile.
        kill(*pid, Signal::SIGSTOP).ok();
    }
    for pid in pids {
        let what = format!("process {pid} to stand still");
        wait_until(&what, Duration::from_secs(10), || {
            Ok(is_frozen(*pid).then_some(()))
        })?;
    }
    Ok(())
}

fn is_frozen(pid: Pid) -> bool {
    let tasks = format!("/proc/{pid}/task");
    let threads = entries(Path::new(&tasks)).unwrap_or_default();
    let is_stopped = |thread: &String| {
        // What has ended goes on no more either.
        let stat = fs::read_to_string(format!("{tasks}/{thread}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") T ") || stat.contains(") Z ")
    };
    threads.iter().all(is_stopped)
}

/// All processes but this one whose folder in /proc satisfies `matches`.
///
/// # Errors
/// When /proc is unreadable.
pub fn processes_where(matches: impl Fn(&Path) -> bool) -> Result<Vec<Pid>> {
    let own = Pid::this();
    let mut pids = Vec::new();
    for name in entries(Path::new("/proc"))? {
        let Ok(pid) = name.parse().map(Pid::from_raw) else {
            continue;
        };
        if pid != own && matches(&Path::new("/proc").join(name)) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// Start of the names that this process gives to its `counter`-th ephemeral lab.
pub fn ephemeral_prefix(counter: u32) -> String {
    format!("{EPHEMERAL}{}-{counter}", std::process::id())
}

/// Removes every namespace and pin whose name begins with `prefix`, whatever runs inside.
///
/// # Errors
/// The first failure, after having tried everything.
pub fn remove_all(prefix: &str) -> Result<()> {
    remove_where(|name| name.starts_with(prefix))
}

/// Removes namespaces, pins and directories (below `directories`) of ephemeral labs whose process no
/// longer lives.
///
/// # Errors
/// When a directory cannot be read or a leftover cannot be removed.
pub fn remove_leftovers(directories: &Path) -> Result<()> {
    for name in entries(directories)? {
        if is_orphan(&name, process_lives) {
            remove_tree(&directories.join(name))?;
        }
    }
    remove_where(|name| is_orphan(name, process_lives))
}

fn remove_where(matches: impl Fn(&str) -> bool) -> Result<()> {
    let namespaces = entries(Path::new(RUN_DIRECTORY))?;
    let pins = entries(Path::new(PIN_DIRECTORY))?;
    let removed_namespaces = namespaces
        .iter()
        .filter(|name| matches(name))
        .map(|name| Namespace::existing(name).delete());
    let removed_pins = pins
        .iter()
        .filter(|name| matches(name))
        .map(|name| remove_pins(name));
    // Folding, unlike collecting, goes on after a failure.
    removed_namespaces
        .chain(removed_pins)
        .fold(Ok(()), Result::and)
}

/// Removes the pinned maps and links of one instance of the lab; its XDP program detaches with them.
///
/// # Errors
/// When the directory exists and cannot be removed.
pub fn remove_pins(instance: &str) -> Result<()> {
    remove_tree(&Path::new(PIN_DIRECTORY).join(instance))
}

/// Removes a directory with all that is in it. Absence is success.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_tree(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", directory.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn entries(directory: &Path) -> Result<Vec<String>> {
    match fs::read_dir(directory) {
        Ok(found) => Ok(found
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("read {}", directory.display())),
    }
}

/// Whether `name` is that of an ephemeral lab whose maker is dead.
fn is_orphan(name: &str, lives: impl Fn(u32) -> bool) -> bool {
    name.strip_prefix(EPHEMERAL)
        .and_then(|rest| rest.split_once('-'))
        .and_then(|(pid, _)| pid.parse().ok())
        .is_some_and(|pid| !lives(pid))
}

fn process_lives(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started or fails; the message holds its standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    if find_tool(&program).is_none() && !program.contains('/') {
        bail!("{program} is not installed; `cargo xtask setup` installs it");
    }
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ephemeral_names_of_dead_makers_are_orphans() {
        let lives = |pid| pid == 7;
        assert!(is_orphan("mh12-0-n1", lives));
        assert!(!is_orphan("mh7-0-n1", lives));
        assert!(!is_orphan("mhx-0-n1", lives));
        assert!(!is_orphan("mfs-ha-lab-n1", lives));
        assert!(!is_orphan("mh12", lives));
        assert!(!is_orphan("other12-0-n1", lives));
    }
}
