//! Files that the daemon reads, runs and makes.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Report;
use super::host::System;
use crate::config::{Config, Configuration};
use crate::error::chain;
use crate::lock::{self, Holder};
use crate::secret;

/// The configuration names programs that run as root.
pub(super) fn config_file(path: &Path, report: &mut Report) {
    let name = "configuration";
    match std::fs::metadata(path) {
        Ok(metadata) if others_can_write(&metadata) => report.fail(
            name,
            format!(
                "others can write to {}, and so run programs as root",
                path.display()
            ),
            format!("chmod go-w {}", path.display()),
        ),
        Ok(_) => {}
        Err(error) => report.warn(
            name,
            format!("cannot look at {}: {error}", path.display()),
            "run this as root",
        ),
    }
}

pub(super) fn password(config: &Config, report: &mut Report) {
    let name = "password";
    let path = &config.carp.password_file;
    match secret::read_password_file(path) {
        Ok(password) => {
            report.ok(name, format!("{} can be used", path.display()));
            for warning in password.warnings() {
                report.warn(
                    name,
                    warning.to_string(),
                    "compare the file with that of the other nodes, byte by byte",
                );
            }
        }
        Err(error) => report.fail(
            name,
            chain(&error),
            format!(
                "put 1 to {} bytes into {}, owned by root, mode 0600",
                secret::PASSWORD_BYTES_MAX,
                path.display()
            ),
        ),
    }
}

pub(super) fn hooks(config: &Config, report: &mut Report) {
    let hooks = &config.hooks;
    let both = [("up hook", &hooks.up), ("down hook", &hooks.down)];
    for (name, path) in both {
        let Some(path) = path else { continue };
        let shown = path.display();
        match std::fs::metadata(path) {
            Err(error) => report.fail(
                name,
                format!("{shown} cannot be run: {error}"),
                "correct the path, or remove the key",
            ),
            Ok(metadata) if !metadata.is_file() => report.fail(
                name,
                format!("{shown} cannot be run: it is no file"),
                "name a program",
            ),
            Ok(metadata) if metadata.mode() & 0o111 == 0 => report.fail(
                name,
                format!("{shown} cannot be run: it is not executable"),
                format!("chmod 0755 {shown}"),
            ),
            Ok(metadata) if others_can_write(&metadata) => report.fail(
                name,
                format!("others can write to {shown}, which runs as root"),
                format!("chmod go-w {shown}"),
            ),
            Ok(_) => report.ok(name, format!("{shown} can be run")),
        }
    }
}

fn others_can_write(metadata: &Metadata) -> bool {
    // Root's group is root's business.
    let group = if metadata.gid() == 0 { 0 } else { 0o020 };
    metadata.mode() & (0o002 | group) != 0
}

/// Who runs this instance, and whether the directory of its lock can be used.
pub(super) fn instance(config: &Configuration, report: &mut Report) -> Holder {
    let name = "instance";
    let directory = config.run_dir().display();
    if let Err(error) = lock::check_directory(config.run_dir()) {
        report.fail(
            name,
            chain(&error),
            "correct that, or choose another `run_dir`",
        );
    }
    match lock::holder(config.run_dir(), config.instance()) {
        Ok(Holder::Nobody) => {
            report.ok(
                name,
                format!("{} is not running ({directory})", config.instance()),
            );
            Holder::Nobody
        }
        Ok(holder @ Holder::Process(pid)) => {
            let pid = pid.map_or_else(String::new, |pid| format!(" as process {pid}"));
            report.ok(name, format!("{} is running{pid}", config.instance()));
            holder
        }
        Err(error) => {
            report.warn(
                name,
                format!(
                    "cannot tell whether {} is running: {error}",
                    config.instance()
                ),
                "run this as root",
            );
            Holder::Nobody
        }
    }
}

/// What an earlier life pinned.
pub(super) fn pins(config: &Configuration, system: &System, holder: Holder, report: &mut Report) {
    let name = "pinned maps";
    let directory = system.bpf_fs.join("mfs-ha").join(config.instance());
    let shown = directory.display();
    let has_entries = std::fs::read_dir(&directory).map(|mut entries| entries.next().is_some());
    match (has_entries, holder) {
        (Ok(true), Holder::Process(_)) => report.ok(name, format!("in {shown}")),
        (Ok(true), Holder::Nobody) => report.warn(
            name,
            format!("{shown} is left over from an earlier run"),
            "nothing: the next start removes it",
        ),
        (Ok(false), _) => report.ok(name, format!("{shown} is empty")),
        (Err(error), _) if error.kind() == std::io::ErrorKind::NotFound => {
            report.ok(name, "none are left over");
        }
        (Err(error), _) => {
            report.warn(
                name,
                format!("cannot look into {shown}: {error}"),
                "run this as root",
            );
        }
    }
}
