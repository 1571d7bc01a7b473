//! The watchdog. Opening it would arm it, so it is judged by what the kernel and other processes show.

use std::path::{Path, PathBuf};

use super::Report;
use crate::config::{Config, Watchdog};
use crate::error::chain;
use crate::lock::Holder;
use crate::watchdog::{CharDevice, Device as _, Facts};

const NAME: &str = "watchdog";

/// A process that has the device open.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    pid: u32,
    program: String,
}

pub(super) fn examine(config: &Config, daemon: Holder, report: &mut Report) {
    let Some(watchdog) = &config.watchdog else {
        return;
    };
    let device = CharDevice::new(&watchdog.device);
    let looked = device
        .facts()
        .and_then(|facts| device.names().map(|names| (facts, names)));
    match looked {
        Ok((facts, names)) => {
            let owners = owners(Path::new("/proc"), &names);
            judge(watchdog, &facts, &owners, daemon, report);
        }
        Err(error) => unusable(
            watchdog,
            chain(&error),
            "`modprobe softdog` makes one where the machine has none; see \"Watchdog\" in docs/operations.md",
            report,
        ),
    }
}

fn judge(
    watchdog: &Watchdog,
    facts: &Facts,
    owners: &[Owner],
    daemon: Holder,
    report: &mut Report,
) {
    let shown = watchdog.device.display();
    let is_ours = |owner: &&Owner| match daemon {
        Holder::Process(Some(pid)) => owner.pid == pid,
        Holder::Process(None) => owner.program == "mfs-ha",
        Holder::Nobody => false,
    };
    if let Some(owner) = owners.iter().find(|owner| !is_ours(owner)) {
        let Owner { pid, program } = owner;
        unusable(
            watchdog,
            format!("process {pid} ({program}) has {shown}, and a watchdog belongs to one program"),
            "end that program's use of it (systemd: RuntimeWatchdogSec=), or name another device",
            report,
        );
    } else if facts.can_disarm.is_none() {
        report.warn(
            NAME,
            format!("the kernel does not say of {shown} whether it can be disarmed"),
            "see whether this is a watchdog; once armed it is pinged until the daemon ends",
        );
    } else {
        let driver = facts
            .identity
            .as_deref()
            .unwrap_or("a driver without a name");
        report.ok(NAME, format!("{shown} can be used ({driver})"));
    }
    if facts.can_disarm == Some(false) {
        report.warn(
            NAME,
            format!("{shown} cannot be disarmed once it is armed (nowayout)"),
            "load its driver with nowayout=0, or expect a reset when the daemon ends on a node that was master",
        );
    }
    if facts.outlives_holder == Some(false) {
        report.warn(
            NAME,
            format!("the driver of {shown} disarms it when the daemon is killed"),
            "nothing: it still watches over a daemon that hangs",
        );
    }
    if facts.is_armed == Some(true) && owners.is_empty() {
        report.warn(
            NAME,
            format!("{shown} is armed and nobody pings it: this machine may be reset soon"),
            "start the daemon",
        );
    }
}

/// Fails where the daemon would not start.
fn unusable(watchdog: &Watchdog, message: String, hint: &str, report: &mut Report) {
    if watchdog.required {
        report.fail(NAME, message, hint);
    } else {
        report.warn(NAME, message, hint);
    }
}

/// Processes that have a file of one of these names open, as far as they may be looked at.
fn owners(proc: &Path, names: &[PathBuf]) -> Vec<Owner> {
    let processes = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let mut owners: Vec<Owner> = processes
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let open = std::fs::read_dir(process.path().join("fd")).ok()?;
            let targets = open
                .flatten()
                .filter_map(|file| std::fs::read_link(file.path()).ok());
            let has_it = { targets }.any(|target| names.contains(&target));
            let program = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            has_it.then(|| Owner {
                pid,
                program: program.trim().to_owned(),
            })
        })
        .collect();
    owners.sort_by_key(|owner| owner.pid);
    owners
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::check::Level;

    fn watchdog(required: bool) -> Watchdog {
        Watchdog {
            device: PathBuf::from("/dev/watchdog"),
            timeout: Duration::from_secs(10),
            required,
        }
    }

    fn soft() -> Facts {
        Facts {
            identity: Some("Software Watchdog".to_owned()),
            can_disarm: Some(true),
            outlives_holder: Some(true),
            is_armed: Some(false),
            timeout: Some(Duration::from_secs(60)),
        }
    }

    fn findings(
        required: bool,
        facts: &Facts,
        owners: &[Owner],
        daemon: Holder,
    ) -> Vec<(Level, String)> {
        let mut report = Report::default();
        judge(&watchdog(required), facts, owners, daemon, &mut report);
        let findings = report.findings.into_iter();
        findings
            .map(|finding| (finding.level, finding.message))
            .collect()
    }

    fn owner(pid: u32, program: &str) -> Owner {
        Owner {
            pid,
            program: program.to_owned(),
        }
    }

    #[test]
    fn a_free_device_can_be_used() {
        let usable = "/dev/watchdog can be used (Software Watchdog)";
        assert_eq!(
            findings(true, &soft(), &[], Holder::Nobody),
            [(Level::Ok, usable.to_owned())]
        );
        let ours = [owner(77, "mfs-ha")];
        for daemon in [Holder::Process(Some(77)), Holder::Process(None)] {
            assert_eq!(
                findings(true, &soft(), &ours, daemon),
                [(Level::Ok, usable.to_owned())]
            );
        }
    }

    #[test]
    fn somebody_elses_device_is_a_failure_where_it_is_required() {
        let owners = [owner(1, "systemd")];
        for (required, level) in [(true, Level::Fail), (false, Level::Warn)] {
            let found = findings(required, &soft(), &owners, Holder::Nobody);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].0, level);
            assert!(found[0].1.contains("process 1 (systemd) has /dev/watchdog"));
        }
    }

    #[test]
    fn what_a_driver_does_not_do_is_said() {
        let facts = Facts {
            can_disarm: Some(false),
            outlives_holder: Some(false),
            is_armed: Some(true),
            ..soft()
        };
        let found = findings(true, &facts, &[], Holder::Nobody);
        let levels: Vec<_> = found.iter().map(|(level, _)| *level).collect();
        assert_eq!(levels, [Level::Ok, Level::Warn, Level::Warn, Level::Warn]);
        for (index, piece) in [(1, "nowayout"), (2, "killed"), (3, "nobody pings it")] {
            assert!(found[index].1.contains(piece), "{found:?}");
        }
        let found = findings(true, &Facts::default(), &[], Holder::Nobody);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].1.contains("does not say"), "{found:?}");
    }

    #[test]
    fn owners_are_found_by_what_they_have_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let names = [PathBuf::from("/dev/watchdog"), file.path().to_owned()];
        let found = owners(Path::new("/proc"), &names);
        let pids: Vec<_> = found.iter().map(|owner| owner.pid).collect();
        assert_eq!(pids, [std::process::id()]);
        assert!(!found[0].program.is_empty());
    }
}
