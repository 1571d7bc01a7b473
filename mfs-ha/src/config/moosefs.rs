//! `[moosefs]`: which programs serve the metadata, and how long their work may take.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::section::{Problems, Refusal, Section, integer, text};

/// Programs that run beside the master: a handful; more are a script's work.
const SERVICES_MAX: usize = 16;

/// `[moosefs]`: without it the daemon moves the VIP and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MooseFs {
    /// Configuration of mfsmaster; names its data directory and ports.
    pub master_config: PathBuf,
    /// Configuration of mfsmetalogger; it shares the master's data directory.
    pub metalogger_config: PathBuf,
    /// mfsmaster itself.
    pub master_program: PathBuf,
    /// mfsmetalogger itself.
    pub metalogger_program: PathBuf,
    /// How long merging the metadata may take.
    pub stage_timeout: Duration,
    /// How long mfsmaster may take from its start until its ports listen.
    pub start_timeout: Duration,
    /// How often a running mfsmaster is asked whether it lives.
    pub probe_interval: Duration,
    /// How long it may take to answer; no answer means that it hangs.
    pub probe_timeout: Duration,
    /// Archives that are kept whatever their age; at least 1.
    pub archive_keep: u32,
    /// Age up to which the others are kept.
    pub archive_age: Duration,
    /// Programs to start when this node serves.
    pub services: Vec<ServiceConfig>,
}

/// `[[moosefs.services]]`: a program beside the master, such as mfscgiserv.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Names it in the log.
    pub name: String,
    /// Program and arguments that start it; the program is an absolute path.
    pub start: Vec<String>,
    /// Program and arguments that stop it; empty: it is left alone.
    pub stop: Vec<String>,
}

pub(super) const KEYS: &[&str] = &[
    "master_config",
    "metalogger_config",
    "master_program",
    "metalogger_program",
    "stage_timeout_ms",
    "start_timeout_ms",
    "probe_interval_ms",
    "probe_timeout_ms",
    "archive_keep",
    "archive_days",
    "services",
];

pub(super) const SERVICE_KEYS: &[&str] = &["name", "start", "stop"];

/// Reads the table; `None` when there is none.
pub(super) fn read(
    root: &mut Section<'_, '_>,
    problems: &Problems<'_>,
    explain: impl Fn(&str, &str) -> String + Copy,
) -> Option<MooseFs> {
    let mut table = root.table("moosefs");
    let is_present = table.is_present();
    let config = MooseFs {
        master_config: path(&mut table, "master_config", "/etc/mfs/mfsmaster.cfg"),
        metalogger_config: path(
            &mut table,
            "metalogger_config",
            "/etc/mfs/mfsmetalogger.cfg",
        ),
        master_program: path(&mut table, "master_program", "/usr/sbin/mfsmaster"),
        metalogger_program: path(&mut table, "metalogger_program", "/usr/sbin/mfsmetalogger"),
        stage_timeout: millis(&mut table, "stage_timeout_ms", 10_000),
        start_timeout: millis(&mut table, "start_timeout_ms", 30_000),
        probe_interval: millis(&mut table, "probe_interval_ms", 500),
        probe_timeout: millis(&mut table, "probe_timeout_ms", 2000),
        archive_keep: table
            .take("archive_keep", "a number from 1 to 10000", |value| {
                integer(value, 1..=10_000)
            })
            .map_or(10, |keep| keep.value),
        archive_age: table
            .take(
                "archive_days",
                "a number of days from 0 to 36500",
                |value| integer::<u32>(value, 0..=36_500),
            )
            .map_or_else(|| days(30), |age| days(age.value)),
        services: services(&mut table, problems, explain),
    };
    table.finish(explain);
    is_present.then_some(config)
}

fn services(
    table: &mut Section<'_, '_>,
    problems: &Problems<'_>,
    explain: impl Fn(&str, &str) -> String + Copy,
) -> Vec<ServiceConfig> {
    let sections = table.tables("services", "moosefs.services");
    if let Some(extra) = sections.get(SERVICES_MAX) {
        problems.add_at(
            extra.offset,
            format!("`moosefs.services` has more than {SERVICES_MAX} elements: start the rest from a script"),
        );
    }
    sections
        .into_iter()
        .filter_map(|section| service(section.value, explain))
        .collect()
}

fn service(
    mut section: Section<'_, '_>,
    explain: impl Fn(&str, &str) -> String,
) -> Option<ServiceConfig> {
    let expected = "an array of texts: the absolute path of a program, and its arguments";
    let name = section.require("name", "a text of 1 to 64 bytes", |value| {
        let name = text(value)?;
        if (1..=64).contains(&name.len()) {
            Ok(name.to_owned())
        } else {
            Err(Refusal::Unexpected)
        }
    });
    let start = section.require("start", expected, command);
    let stop = section.take("stop", expected, command);
    section.finish(explain);
    Some(ServiceConfig {
        name: name?.value,
        start: start?.value,
        stop: stop.map_or_else(Vec::new, |stop| stop.value),
    })
}

/// A program with an absolute path, and its arguments.
fn command(value: &DeValue<'_>) -> Result<Vec<String>, Refusal> {
    let DeValue::Array(elements) = value else {
        return Err(Refusal::Unexpected);
    };
    let words: Vec<String> = elements
        .iter()
        .map(|element| text(element.get_ref()).map(str::to_owned))
        .collect::<Result<_, _>>()?;
    match words.first() {
        Some(program) if Path::new(program).is_absolute() => Ok(words),
        Some(_) | None => Err(Refusal::Because(
            "the first element must be the path of a program, beginning with /".to_owned(),
        )),
    }
}

fn path(table: &mut Section<'_, '_>, key: &'static str, default: &str) -> PathBuf {
    table
        .take(key, "the path of a file, beginning with /", |value| {
            let path = Path::new(text(value)?);
            if path.is_absolute() {
                Ok(path.to_owned())
            } else {
                Err(Refusal::Unexpected)
            }
        })
        .map_or_else(|| PathBuf::from(default), |path| path.value)
}

fn millis(table: &mut Section<'_, '_>, key: &'static str, default: u64) -> Duration {
    let given = table.take(
        key,
        "a number of milliseconds from 100 to 3600000",
        |value| integer::<u64>(value, 100..=3_600_000),
    );
    Duration::from_millis(given.map_or(default, |given| given.value))
}

fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 24 * 3600)
}
