//! What the promotion of metadata needs: programs, their configuration, the directory.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::Report;
use crate::config::{Config, MooseFs};
use crate::error::chain;
use crate::moosefs::directory;
use crate::moosefs::process::lock;
use crate::moosefs::settings::{self, MasterSettings, MetaloggerSettings};
use crate::privileges;

/// Looks at everything that a promotion needs. The files of both programs are read, not changed.
pub(super) fn examine(config: &Config, is_running: bool, report: &mut Report) {
    let Some(moosefs) = &config.moosefs else {
        return;
    };
    if let Err(error) = privileges::require_for_metadata() {
        report.fail(
            "privileges",
            format!("{error:#}"),
            "run this as root; see packaging/mfs-ha.service.d/moosefs.conf for the service",
        );
    }
    program("mfsmaster", &moosefs.master_program, report);
    program("mfsmetalogger", &moosefs.metalogger_program, report);
    for service in &moosefs.services {
        if let Some(start) = service.start.first() {
            program("service", Path::new(start), report);
        }
    }
    let master = master_settings(moosefs, report);
    let metalogger = metalogger_settings(moosefs, config.vip.address, report);
    let Some((master, metalogger)) = master.zip(metalogger) else {
        return;
    };
    if master.data_path != metalogger.data_path {
        report.fail(
            "data path",
            format!(
                "{} for mfsmaster and {} for mfsmetalogger",
                master.data_path.display(),
                metalogger.data_path.display()
            ),
            "set DATA_PATH to the same directory in both files: the files of the one become those of the other",
        );
        return;
    }
    metadata(&master.data_path, report);
    if !is_running {
        strangers(&master.data_path, report);
    }
}

fn program(name: &'static str, path: &Path, report: &mut Report) {
    match path.metadata() {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => {
            report.ok(name, path.display().to_string());
        }
        Ok(_) => report.fail(
            name,
            format!("{} is not a program", path.display()),
            "correct the path in [moosefs]",
        ),
        Err(error) => report.fail(
            name,
            format!("{}: {error}", path.display()),
            "install the package moosefs-master or moosefs-metalogger, or correct the path in [moosefs]",
        ),
    }
}

fn master_settings(moosefs: &MooseFs, report: &mut Report) -> Option<MasterSettings> {
    let path = &moosefs.master_config;
    let settings =
        settings::read_master(path).and_then(|settings| settings.owner().map(|_| settings));
    match settings {
        Ok(settings) => {
            let problems = settings.problems();
            if problems.is_empty() {
                report.ok("mfsmaster's file", format!("{} is valid", path.display()));
            }
            for problem in problems {
                report.warn(
                    "mfsmaster's file",
                    format!("{}: {problem}", path.display()),
                    "correct it; it counts from the next promotion on",
                );
            }
            Some(settings)
        }
        Err(error) => {
            report.fail("mfsmaster's file", chain(&error), "correct it");
            None
        }
    }
}

fn metalogger_settings(
    moosefs: &MooseFs,
    vip: Ipv4Addr,
    report: &mut Report,
) -> Option<MetaloggerSettings> {
    let path = &moosefs.metalogger_config;
    match settings::read_metalogger(path) {
        Ok(settings) => {
            match settings.master_host.parse() {
                Ok(host) if vip == host => {
                    report.ok(
                        "mfsmetalogger's file",
                        format!("{} is valid", path.display()),
                    );
                }
                Ok::<Ipv4Addr, _>(_) => report.fail(
                    "mfsmetalogger's file",
                    format!(
                        "MASTER_HOST is {} in {}",
                        settings.master_host,
                        path.display()
                    ),
                    format!("set it to the VIP, {vip}: a metalogger follows whoever is master"),
                ),
                Err(_) => report.warn(
                    "mfsmetalogger's file",
                    format!(
                        "MASTER_HOST is the name {} in {}",
                        settings.master_host,
                        path.display()
                    ),
                    format!("see to it that it is the VIP, {vip}; better, write the address"),
                ),
            }
            Some(settings)
        }
        Err(error) => {
            report.fail("mfsmetalogger's file", chain(&error), "correct it");
            None
        }
    }
}

fn metadata(data: &Path, report: &mut Report) {
    let show = format!("`mfs-ha metadata {}` shows more", data.display());
    match directory::inspect(data).map(|inspection| inspection.readiness()) {
        Ok(Ok(freshness)) => report.ok(
            "metadata",
            format!(
                "{} is promotable, version {}",
                data.display(),
                freshness.version
            ),
        ),
        Ok(Err(reason)) => report.warn(
            "metadata",
            format!("{} is not promotable: {reason}", data.display()),
            format!("as a standby it becomes so by itself once a master serves; {show}"),
        ),
        Err(error) => report.fail("metadata", chain(&error), show),
    }
}

/// Without a daemon nobody is entitled to run these.
fn strangers(data: &Path, report: &mut Report) {
    for (name, file, hint) in [
        (
            "mfsmaster",
            ".mfsmaster.lock",
            "mfs-ha kills it when it starts, if it is not its own: disable moosefs-master.service",
        ),
        (
            "mfsmetalogger",
            ".mfsmetalogger.lock",
            "mfs-ha takes it over when it starts: disable moosefs-metalogger.service",
        ),
    ] {
        match lock::holder(&data.join(file)) {
            Ok(Some(pid)) => report.warn(
                name,
                format!("runs already (pid {})", pid.as_raw_nonzero()),
                hint,
            ),
            Ok(None) => {}
            Err(error) => report.warn(
                name,
                format!("whether it runs cannot be seen: {error}"),
                "run `check` as root",
            ),
        }
    }
}
