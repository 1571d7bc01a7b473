//! Recorded scenarios: every folder of `tests/scenarios` is replayed, and every decision compared.
//!
//! The format is described in `tests/scenarios/README.md`. `MFS_HA_BLESS=1` writes what the node decides
//! as what is expected.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a scenario that cannot be read fails the test"
)]

#[path = "support/checked.rs"]
mod checked;

use std::fs;
use std::net::Ipv4Addr;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use checked::{Checked, advert};
use mfs_ha_common::action::{Action, Hook};
use mfs_ha_common::election::carp::Settings;
use mfs_ha_common::event::Event;
use mfs_ha_common::node::NodeConfig;
use mfs_ha_common::priority::Priority;
use mfs_ha_common::promotion::Service;
use mfs_ha_common::time::Timestamp;
use serde::{Deserialize, Serialize};

const SCENARIOS_MIN: usize = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What the folder shows, for readers.
    #[serde(rename = "shows")]
    _shows: String,
    started_at_ns: u64,
    source: Ipv4Addr,
    advbase: u8,
    advskew: u8,
    deadratio: NonZeroU8,
    preempt: bool,
    has_sole_peer: bool,
    neutral: bool,
    /// Metadata behind the VIP, with the default limits.
    #[serde(default)]
    metadata: bool,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
enum RecordedEvent {
    AdvertReceived {
        source: Ipv4Addr,
        advbase: u8,
        advskew: u8,
        arrival_ns: u64,
    },
    Tick,
    LinkUp,
    LinkDown,
    AdvertSent,
    SendFailed,
    VipSet {
        present: bool,
    },
    VipFailed {
        present: bool,
    },
    StepDone {
        ticket: u32,
    },
    StepFailed {
        ticket: u32,
    },
    MetadataMasterLost,
    ReadinessChanged {
        ready: bool,
    },
    StopRequested,
}

#[derive(Serialize)]
struct Output {
    at_ns: u64,
    actions: Vec<RecordedAction>,
    state: &'static str,
    phase: &'static str,
    next: Option<Next>,
}

#[derive(Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum RecordedAction {
    SendAdvert {
        advbase: u8,
        advskew: u8,
    },
    SetVip {
        present: bool,
    },
    RunStep {
        step: &'static str,
        ticket: u32,
    },
    FollowMaster {
        source: Ipv4Addr,
    },
    AnnounceVip,
    RunHook {
        hook: &'static str,
    },
    Report {
        from: &'static str,
        to: &'static str,
        reason: &'static str,
    },
    Exit,
}

#[derive(Serialize)]
struct Next {
    timer: &'static str,
    at_ns: u64,
}

impl Config {
    fn node(&self) -> Checked {
        let config = NodeConfig {
            election: Settings {
                priority: Priority::new(self.advbase, self.advskew),
                deadratio: self.deadratio,
                preempt: self.preempt,
                source: self.source.octets(),
                has_sole_peer: self.has_sole_peer,
            },
            quorum: None,
            is_gated: false,
            neutral: self.neutral,
            service: if self.metadata {
                Service::METADATA
            } else {
                Service::Vip
            },
        };
        Checked::new(config, Timestamp::from_nanos(self.started_at_ns))
    }
}

impl RecordedEvent {
    fn event(&self) -> Event {
        match *self {
            Self::AdvertReceived {
                source,
                advbase,
                advskew,
                arrival_ns,
            } => advert(
                source.octets(),
                Priority::new(advbase, advskew),
                Timestamp::from_nanos(arrival_ns),
            ),
            Self::Tick => Event::Tick,
            Self::LinkUp => Event::LinkUp,
            Self::LinkDown => Event::LinkDown,
            Self::AdvertSent => Event::AdvertSent,
            Self::SendFailed => Event::SendFailed,
            Self::VipSet { present } => Event::VipSet { present },
            Self::VipFailed { present } => Event::VipFailed { present },
            Self::StepDone { ticket } => Event::StepDone { ticket },
            Self::StepFailed { ticket } => Event::StepFailed { ticket },
            Self::MetadataMasterLost => Event::MetadataMasterLost,
            Self::ReadinessChanged { ready } => Event::ReadinessChanged { ready },
            Self::StopRequested => Event::StopRequested,
        }
    }
}

impl From<Action> for RecordedAction {
    fn from(action: Action) -> Self {
        match action {
            Action::SendAdvert(priority) => Self::SendAdvert {
                advbase: priority.advbase(),
                advskew: priority.advskew(),
            },
            Action::SetVip { present } => Self::SetVip { present },
            Action::RunStep { step, ticket } => Self::RunStep {
                step: step.name(),
                ticket,
            },
            Action::FollowMaster { source } => Self::FollowMaster {
                source: source.into(),
            },
            Action::SendHeartbeats | Action::Store(_) | Action::FreezeMetadata => {
                panic!("in carp mode: {action:?}");
            }
            Action::AnnounceVip => Self::AnnounceVip,
            Action::RunHook(Hook::Up) => Self::RunHook { hook: "up" },
            Action::RunHook(Hook::Down) => Self::RunHook { hook: "down" },
            Action::Report(report) => Self::Report {
                from: report.from.name(),
                to: report.to.name(),
                reason: report.reason.name(),
            },
            Action::Exit => Self::Exit,
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios")
}

fn sorted_entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Returns the numbers of a scenario's chapters, each of which has an input.
fn chapters(scenario: &Path) -> Vec<String> {
    let mut numbers = Vec::new();
    for path in sorted_entries(scenario) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if let Some(number) = name.strip_suffix("-in.jsonl") {
            numbers.push(number.to_string());
        } else {
            let is_known = name == "node.json" || name.ends_with("-out.jsonl");
            assert!(is_known, "{}: what is this?", path.display());
        }
    }
    assert!(!numbers.is_empty(), "{}: no input", scenario.display());
    numbers
}

/// Takes the time and the reader's note off a line; the rest is the event, with no word too many.
fn parse(line: &str) -> serde_json::Result<(u64, RecordedEvent)> {
    let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line)?;
    let at_ns = serde_json::from_value(fields.remove("at_ns").unwrap_or_default())?;
    fields.remove("note");
    Ok((at_ns, serde_json::from_value(fields.into())?))
}

fn replay_line(node: &mut Checked, line: &str) -> String {
    let (at_ns, event) = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    let actions = node.step(Timestamp::from_nanos(at_ns), event.event());
    let status = node.status();
    let output = Output {
        at_ns,
        actions: actions.into_iter().map(RecordedAction::from).collect(),
        state: status.state.name(),
        phase: status.phase.name(),
        next: status.next.map(|(at, timer)| Next {
            timer: timer.name(),
            at_ns: at.as_nanos(),
        }),
    };
    serde_json::to_string(&output).unwrap()
}

/// Replays one folder and returns the differences.
fn replay(scenario: &Path, blesses: bool) -> Vec<String> {
    let config = fs::read_to_string(scenario.join("node.json")).unwrap();
    let config: Config = serde_json::from_str(&config)
        .unwrap_or_else(|error| panic!("{}: {error}", scenario.display()));
    let mut node = config.node();
    let mut differences = Vec::new();
    for number in chapters(scenario) {
        let input = fs::read_to_string(scenario.join(format!("{number}-in.jsonl"))).unwrap();
        let path = scenario.join(format!("{number}-out.jsonl"));
        let decided: Vec<String> = input
            .lines()
            .map(|line| replay_line(&mut node, line))
            .collect();
        if blesses {
            fs::write(&path, decided.join("\n") + "\n").unwrap();
            continue;
        }
        let expected =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let expected: Vec<&str> = expected.lines().collect();
        if expected.len() != decided.len() {
            differences.push(format!("{}: other number of lines", path.display()));
        }
        for (index, (expected, decided)) in expected.iter().zip(&decided).enumerate() {
            if expected != decided {
                let place = format!("{}:{}", path.display(), index + 1);
                differences.push(format!(
                    "{place}\n  expected {expected}\n  decided  {decided}"
                ));
            }
        }
    }
    differences
}

#[test]
fn every_recorded_scenario_is_decided_as_before() {
    let blesses = std::env::var("MFS_HA_BLESS").is_ok_and(|value| value == "1");
    let scenarios: Vec<PathBuf> = sorted_entries(&folder())
        .into_iter()
        .filter(|path| path.is_dir())
        .collect();
    assert!(scenarios.len() >= SCENARIOS_MIN, "{scenarios:?}");
    let differences: Vec<String> = scenarios
        .iter()
        .flat_map(|scenario| replay(scenario, blesses))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(
        !blesses,
        "outputs were written: look at them, then run again without MFS_HA_BLESS"
    );
}
