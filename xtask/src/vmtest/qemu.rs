//! The emulator.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::debian::{Extent, Packages};
use crate::counting;
use crate::packages::find_program;
use crate::workspace::{Workspace, display};

const KVM: &str = "/dev/kvm";

const PROGRAM: &str = "qemu-system-x86_64";

/// Where a package puts libraries.
const LIBRARY_DIRS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// Enough for the tests and the files that they are.
const MEMORY: &str = "1G";

/// The tests talk on the first serial line and the kernel on the second, so that neither breaks the
/// other's lines. `panic=-1` restarts at once, which ends the emulator. Every network that a test takes
/// down waits for a grace period, which is long in an emulator unless it is expedited.
const KERNEL_COMMAND_LINE: &str = "console=ttyS1 panic=-1 oops=panic rcupdate.rcu_expedited=1";

pub(super) struct Machine {
    program: PathBuf,
    /// Where it is unpacked, unless it is installed.
    root: Option<PathBuf>,
}

/// What to boot.
pub(super) struct Boot<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// Where the kernel's messages go.
    pub(super) log: &'a Path,
    pub(super) limit: Duration,
}

impl Machine {
    /// Takes the emulator of this machine, or fetches one.
    ///
    /// # Errors
    /// When it cannot be downloaded.
    pub(super) fn obtain(packages: &Packages<'_>) -> Result<Self> {
        if let Some(program) = find_program(PROGRAM) {
            let root = None;
            return Ok(Self { program, root });
        }
        let root = packages.unpacked(
            "emulator",
            "qemu-system-x86",
            Extent::WithDependencies,
            |_| Ok(()),
        )?;
        let program = root.join("usr/bin").join(PROGRAM);
        let root = Some(root);
        Ok(Self { program, root })
    }

    /// Runs the machine until it switches itself off, and hands over what its first serial line says.
    ///
    /// # Errors
    /// When it cannot start, fails, or runs for too long.
    pub(super) fn run(
        &self,
        workspace: &Workspace,
        boot: &Boot<'_>,
        on_output: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut command = self.command(workspace, boot)?;
        let status = counting::follow(&mut command, Some(boot.limit), on_output)?;
        ensure!(
            status.success(),
            "`{}` failed ({status})",
            display(&command)
        );
        Ok(())
    }

    fn command(&self, workspace: &Workspace, boot: &Boot<'_>) -> Result<Command> {
        let mut command = workspace.program(&self.program);
        if let Some(root) = &self.root {
            let dirs = LIBRARY_DIRS.map(|dir| root.join(dir));
            let path = env::join_paths(dirs)
                .with_context(|| format!("{} cannot be a library path", root.display()))?;
            command.env("LD_LIBRARY_PATH", path);
        }
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-machine", "q35"])
            // The emulator takes the first that works.
            .args(accelerators().iter().flat_map(|name| ["-accel", name]))
            // With everything that the processor can: random numbers at boot are among it.
            .args(["-cpu", "max", "-smp", "2", "-m", MEMORY])
            .args(["-append", KERNEL_COMMAND_LINE, "-kernel"])
            .arg(boot.kernel)
            .arg("-initrd")
            .arg(boot.initramfs)
            .args(["-serial", "stdio", "-serial"])
            .arg(file_argument(boot.log)?);
        Ok(command)
    }
}

/// How to run the machine's instructions: by the processor where that can be had, else in software.
fn accelerators() -> &'static [&'static str] {
    let is_open = || File::options().read(true).write(true).open(KVM).is_ok();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if virtualizes(&cpus) && is_open() {
        &["kvm", "tcg"]
    } else {
        &["tcg"]
    }
}

/// Whether the processor can run a machine. Where it cannot, some hosts offer KVM all the same, on
/// which an ordinary kernel hangs.
fn virtualizes(cpus: &str) -> bool {
    cpus.lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_whitespace()
                .any(|flag| matches!(flag, "vmx" | "svm"))
        })
}

impl Boot<'_> {
    /// The last of the kernel's messages, for a reader who wants to know why the machine ended.
    pub(super) fn last_messages(&self) -> String {
        const LINES: usize = 80;
        let text = fs::read(self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        let last = lines.len().saturating_sub(LINES);
        lines.get(last..).unwrap_or_default().join("\n")
    }
}

/// A file as the emulator's option wants it, where commas are doubled.
fn file_argument(path: &Path) -> Result<String> {
    let path = path.to_str().context("the checkout's path is not UTF-8")?;
    Ok(format!("file:{}", path.replace(',', ",,")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_processor_that_can_is_asked_to_virtualize() {
        let cpu = |flags: &str| {
            format!("model name\t: vmx svm\nflags\t\t: fpu vme{flags} sse\nbugs\t\t: x\n")
        };
        assert!(virtualizes(&cpu(" vmx")));
        assert!(virtualizes(&cpu(" svm")));
        assert!(!virtualizes(&cpu("")));
        assert!(!virtualizes(&cpu(" svm_lock hypervisor")));
        assert!(!virtualizes(""));
    }

    #[test]
    fn commas_in_a_path_do_not_end_the_option() {
        let path = Path::new("/a,b/kernel.log");
        assert_eq!(file_argument(path).unwrap(), "file:/a,,b/kernel.log");
    }
}
