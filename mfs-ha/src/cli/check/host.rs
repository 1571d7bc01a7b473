//! The kernel and our privileges.

use std::path::PathBuf;

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use super::Report;

/// Where the kernel shows what is looked at.
#[derive(Debug, Clone)]
pub struct System {
    /// The BPF file system.
    pub bpf_fs: PathBuf,
    /// The kernel's own type information.
    pub btf: PathBuf,
    /// The switch of the BPF compiler.
    pub jit: PathBuf,
}

impl Default for System {
    fn default() -> Self {
        Self {
            bpf_fs: "/sys/fs/bpf".into(),
            btf: "/sys/kernel/btf/vmlinux".into(),
            jit: "/proc/sys/net/core/bpf_jit_enable".into(),
        }
    }
}

/// What can only be found out by trying; an error says why not.
#[derive(Debug, Clone, Copy)]
pub struct Probes {
    /// Whether we have the capabilities that the daemon needs.
    pub privileges: fn() -> Result<(), String>,
    /// Whether the kernel takes the eBPF program and its maps.
    pub load_program: fn() -> Result<(), String>,
    /// The name of a loaded program.
    pub program_name: fn(u32) -> Option<String>,
    /// Whether a thread may have real-time priority.
    pub become_realtime: fn() -> Result<(), String>,
}

pub(super) fn privileges(probes: &Probes, report: &mut Report) {
    let name = "privileges";
    match (probes.privileges)() {
        Ok(()) => report.ok(name, "sufficient"),
        Err(error) => report.fail(name, error, "run this as root, as the daemon must be"),
    }
}

pub(super) fn realtime(probes: &Probes, report: &mut Report) {
    let name = "real-time priority";
    match (probes.become_realtime)() {
        Ok(()) => report.ok(name, "permitted"),
        Err(error) => report.warn(
            name,
            format!("not permitted ({error}): load may delay adverts"),
            "run the daemon with CAP_SYS_NICE, or set `scheduling.realtime = false`",
        ),
    }
}

pub(super) fn program(probes: &Probes, report: &mut Report) {
    let name = "eBPF program";
    match (probes.load_program)() {
        Ok(()) => report.ok(name, "the kernel takes it"),
        Err(error) => report.fail(
            name,
            error,
            "see whether the kernel is supported (docs/kernel-support.md) and the privileges suffice",
        ),
    }
}

pub(super) fn kernel(system: &System, report: &mut Report) {
    let bpf_fs = system.bpf_fs.display();
    match statfs(&system.bpf_fs) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => {
            report.ok("BPF file system", format!("mounted at {bpf_fs}"));
        }
        Ok(_) | Err(_) => report.fail(
            "BPF file system",
            format!("not mounted at {bpf_fs}"),
            format!("mount -t bpf bpf {bpf_fs}"),
        ),
    }

    let btf = system.btf.display();
    if system.btf.exists() {
        report.ok("kernel type information", btf.to_string());
    } else {
        report.warn(
            "kernel type information",
            format!("{btf} does not exist: the maps may not be loadable"),
            "use a kernel that was built with CONFIG_DEBUG_INFO_BTF",
        );
    }

    let name = "BPF compiler";
    let jit = system.jit.display();
    match std::fs::read_to_string(&system.jit)
        .as_deref()
        .map(str::trim)
    {
        Ok("0") => report.warn(
            name,
            "switched off: every packet costs several times more",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        Ok(_) => report.ok(name, "switched on"),
        // A network namespace other than the first one does not show it.
        Err(error) => report.warn(
            name,
            format!("cannot read {jit}: {error}"),
            "make sure, on the host, that net.core.bpf_jit_enable is not 0",
        ),
    }
}

/// Tries it on a thread that ends at once.
pub(super) fn become_realtime() -> Result<(), String> {
    let attempt = std::thread::spawn(|| {
        let lowest = ThreadPriorityValue::try_from(1)?;
        set_thread_priority_and_policy(
            thread_native_id(),
            ThreadPriority::Crossplatform(lowest),
            ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo),
        )
        .map_err(|error| {
            if let thread_priority::Error::OS(number) = error {
                return std::io::Error::from_raw_os_error(number).to_string();
            }
            format!("{error:?}")
        })
    });
    attempt
        .join()
        .unwrap_or_else(|_panic| Err("the attempt failed".to_owned()))
}
