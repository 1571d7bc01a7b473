//! Every event in every situation under every setting: exact actions, next state, next timer, and
//! nothing after it. The rows are in `transitions/table.txt`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a row that cannot be read fails the test"
)]

#[path = "support/checked.rs"]
mod checked;
#[path = "transitions/metadata.rs"]
mod metadata;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::num::NonZeroU8;
use std::time::Duration;

use checked::{Checked, advert, heard};
use mfs_ha_common::action::{Action, Hook};
use mfs_ha_common::election::Timer;
use mfs_ha_common::election::carp::{HOLD_DOWN, Settings};
use mfs_ha_common::event::Event;
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::node::{NodeConfig, NodeStatus};
use mfs_ha_common::priority::Priority;
use mfs_ha_common::promotion::{RESIGN_LIMIT, Service};
use mfs_ha_common::time::Timestamp;

const TABLE: &str = include_str!("transitions/table.txt");

const DEADRATIO: u8 = 3;
const OWN: Ipv4 = [10, 0, 0, 2];
/// Wins ties against [`OWN`].
const LOW: Ipv4 = [10, 0, 0, 1];
/// Loses them. The usual master.
const HIGH: Ipv4 = [10, 0, 0, 3];
const STRANGER: Ipv4 = [10, 0, 0, 9];

const BOOTED: Timestamp = Timestamp::from_nanos(1_000_000_000_000);
/// From a situation to the event, and from an advert's arrival to its being handed in.
const PAUSE: Duration = Duration::from_millis(1);
const QUEUED: Duration = Duration::from_micros(300);
const HOUR: Duration = Duration::from_secs(3600);

const SITUATIONS: &[&str] = &[
    "init",
    "listening",
    "following",
    "bowed_out",
    "held_down",
    "promoting",
    "fresh",
    "active",
    "gave_way",
    "failing",
    "stopping",
    "gave_way_stopping",
    "cut_off",
    "cut_off_stopping",
    "left",
];

const EVENTS: &[&str] = &[
    "better",
    "equal_low",
    "equal_high",
    "worse",
    "worse_late",
    "worse_slept",
    "slow",
    "bow_out",
    "bow_out_stranger",
    "tick_early",
    "tick_due",
    "tick_late",
    "tick_slept",
    "link_up",
    "link_down",
    "sent",
    "failed",
    "vip_true",
    "vip_false",
    "vip_fail_true",
    "vip_fail_false",
    "step_done",
    "step_failed",
    "master_lost",
    "ready",
    "unready",
    "stop",
];

#[derive(Clone, Copy, Debug)]
struct Setting {
    preempt: bool,
    advbase: u8,
    sole: bool,
    metadata: bool,
}

impl Setting {
    fn all(metadata: bool) -> Vec<Self> {
        let mut all = Vec::new();
        for preempt in [false, true] {
            for advbase in [0, 1] {
                for sole in [false, true] {
                    all.push(Self {
                        preempt,
                        advbase,
                        sole,
                        metadata,
                    });
                }
            }
        }
        all
    }

    fn config(self, neutral: bool) -> NodeConfig {
        NodeConfig {
            election: Settings {
                priority: Priority::new(self.advbase, 20),
                deadratio: NonZeroU8::new(DEADRATIO).unwrap(),
                preempt: self.preempt,
                source: OWN,
                has_sole_peer: self.sole,
            },
            quorum: None,
            is_gated: false,
            neutral,
            service: if self.metadata {
                Service::METADATA
            } else {
                Service::Vip
            },
        }
    }

    fn matches(self, when: &str) -> bool {
        when.split_whitespace().all(|word| match word {
            "any" => true,
            "preempt" => self.preempt,
            "keep" => !self.preempt,
            "base0" => self.advbase == 0,
            "base1" => self.advbase == 1,
            "sole" => self.sole,
            "many" => !self.sole,
            other => panic!("`{other}` is no setting"),
        })
    }
}

/// A node in a situation, and when it came into it.
#[derive(Clone)]
struct Scene {
    setting: Setting,
    node: Checked,
    start: Timestamp,
    hold_down: Timestamp,
    /// Of the step that was asked for last.
    ticket: u32,
}

impl Scene {
    fn new(setting: Setting, situation: &str) -> Self {
        let mut scene = Self {
            setting,
            node: Checked::new(setting.config(false), BOOTED),
            start: BOOTED,
            hold_down: BOOTED,
            ticket: 0,
        };
        scene.build(situation);
        scene
    }

    fn build(&mut self, situation: &str) {
        match situation {
            "init" => {}
            "listening" => {
                self.step(Event::LinkUp);
                self.step(Event::VipSet { present: false });
            }
            "following" => {
                self.build("listening");
                self.pause();
                self.step(self.hear(HIGH, self.priority(10), self.start));
            }
            "bowed_out" => {
                self.build("following");
                self.pause();
                self.step(self.hear(HIGH, Priority::BOW_OUT, self.start));
            }
            "promoting" => {
                self.build("listening");
                self.start = self.deadline().unwrap();
                self.step(Event::Tick);
            }
            "fresh" => {
                self.build("promoting");
                self.step(Event::VipSet { present: true });
            }
            "active" => {
                self.build("fresh");
                self.tick_for_three_seconds();
            }
            "failing" => {
                self.build("active");
                self.step(Event::VipFailed { present: true });
                self.hold_down = self.start.after(HOLD_DOWN);
            }
            "held_down" => {
                self.build("failing");
                self.step(Event::VipSet { present: false });
            }
            "gave_way" => {
                self.build("fresh");
                self.step(self.hear(LOW, self.priority(10), self.start));
            }
            "stopping" => {
                self.build("active");
                self.step(Event::StopRequested);
            }
            "gave_way_stopping" => {
                self.build("gave_way");
                self.step(Event::StopRequested);
            }
            "cut_off" => {
                self.build("active");
                self.step(Event::LinkDown);
            }
            "cut_off_stopping" => {
                self.build("stopping");
                self.step(Event::LinkDown);
            }
            "left" => {
                self.build("listening");
                self.step(Event::StopRequested);
            }
            other => self.build_metadata(other),
        }
    }

    fn tick_for_three_seconds(&mut self) {
        self.tick_until(self.start.after(Duration::from_secs(3)));
    }

    fn tick_until(&mut self, end: Timestamp) {
        while let Some(at) = self.deadline().filter(|at| *at <= end) {
            self.start = at;
            self.step(Event::Tick);
        }
        self.start = end;
    }

    fn deadline(&self) -> Option<Timestamp> {
        self.node.status().next.map(|(at, _)| at)
    }

    fn pause(&mut self) {
        self.start = self.start.after(PAUSE);
    }

    fn step(&mut self, event: Event) {
        for action in self.node.step(self.start, event) {
            if let Action::RunStep { ticket, .. } = action {
                self.ticket = ticket;
            }
        }
    }

    fn priority(&self, advskew: u8) -> Priority {
        Priority::new(self.setting.advbase, advskew)
    }

    fn hear(&self, source: Ipv4, priority: Priority, arrival: Timestamp) -> Event {
        advert(source, priority, arrival)
    }

    /// When the event happens.
    fn moment(&self, name: &str) -> Timestamp {
        let soon = self.start.after(PAUSE);
        match name {
            "tick_due" => self.deadline().map_or(soon, |at| at.max(soon)),
            "step_late" => self.node.status().step.map_or(soon, |running| running.by),
            "tick_late" | "worse_late" => self.start.after(self.late()),
            "tick_slept" | "worse_slept" => self.start.after(HOUR),
            _ => soon,
        }
    }

    /// Longer than a master's own patience and than its backup's, shorter than the longest of any backup.
    fn late(&self) -> Duration {
        if self.setting.advbase == 0 {
            Duration::from_millis(500)
        } else {
            Duration::from_secs(5)
        }
    }

    fn event(&self, name: &str, arrival: Timestamp) -> Event {
        let status = self.node.status();
        let own = status.priority;
        let worse = self.priority(own.advskew() + 5);
        let master = status.followed.map_or(HIGH, |followed| followed.source);
        match name {
            "better" => self.hear(LOW, self.priority(10), arrival),
            "equal_low" => self.hear(LOW, own, arrival),
            "equal_high" => self.hear(HIGH, own, arrival),
            "worse" | "worse_late" | "worse_slept" => self.hear(LOW, worse, arrival),
            "slow" => self.hear(LOW, Priority::new(10, 0), arrival),
            "bow_out" => self.hear(master, Priority::BOW_OUT, arrival),
            "bow_out_stranger" => self.hear(STRANGER, Priority::BOW_OUT, arrival),
            "tick_early" | "tick_due" | "tick_late" | "tick_slept" => Event::Tick,
            "link_up" => Event::LinkUp,
            "link_down" => Event::LinkDown,
            "sent" => Event::AdvertSent,
            "failed" => Event::SendFailed,
            "vip_true" => Event::VipSet { present: true },
            "vip_false" => Event::VipSet { present: false },
            "vip_fail_true" => Event::VipFailed { present: true },
            "vip_fail_false" => Event::VipFailed { present: false },
            "stop" => Event::StopRequested,
            other => self.metadata_event(other),
        }
    }
}

fn spelled(actions: &[Action]) -> String {
    let mut text = String::new();
    for action in actions {
        let word = match action {
            Action::SendAdvert(Priority::BOW_OUT) => "bow-out".to_string(),
            Action::SendAdvert(priority) => format!("send{}", priority.advskew()),
            Action::SetVip { present: true } => "vip+".to_string(),
            Action::SetVip { present: false } => "vip-".to_string(),
            Action::RunStep { step, .. } => step.name().to_string(),
            Action::FollowMaster { source } => format!("follow{}", source[3]),
            Action::SendHeartbeats | Action::Store(_) | Action::FreezeMetadata => {
                panic!("in carp mode: {action:?}");
            }
            Action::AnnounceVip => "announce".to_string(),
            Action::RunHook(Hook::Up) => "up".to_string(),
            Action::RunHook(Hook::Down) => "down".to_string(),
            Action::Report(report) => format!(">{}:{}", report.to.name(), report.reason.name()),
            Action::Exit => "exit".to_string(),
        };
        write!(text, "{}{word}", if text.is_empty() { "" } else { " " }).unwrap();
    }
    text
}

/// Works out a timer of the table in the words of the rules, without looking at the core.
struct Clockwork<'a> {
    scene: &'a Scene,
    now: Timestamp,
    arrival: Timestamp,
    heard: Option<Priority>,
    advskew: u8,
}

impl Clockwork<'_> {
    fn deadline(&self, text: &str) -> Timestamp {
        let (base, span) = text.split_once('+').unwrap_or((text, "0"));
        let base = match base {
            "start" => self.scene.start,
            "now" => self.now,
            "arrival" => self.arrival,
            "hold_down" => self.scene.hold_down,
            other => panic!("`{other}` is no moment"),
        };
        base.after(self.span(span))
    }

    fn span(&self, text: &str) -> Duration {
        let slot = Duration::from_micros(u64::from(self.advskew) * 1_000_000 / 256);
        let base = Duration::from_secs(self.scene.setting.advbase.into());
        let own_interval = base + slot;
        let silence = |announced: Duration| {
            let unit = if base.is_zero() {
                own_interval.max(announced)
            } else {
                base
            };
            unit * DEADRATIO.into() + slot
        };
        match text {
            "0" => Duration::ZERO,
            "slot" => slot,
            "interval" => own_interval,
            "limit" => RESIGN_LIMIT,
            "spacing" => Duration::from_millis(100),
            "again(nobody)" => Duration::from_secs(1) * 2 + slot,
            "again(heard)" => {
                let master = base + Duration::from_micros(10 * 1_000_000 / 256);
                master.max(Duration::from_millis(20)) * 2 + slot
            }
            "silence(nobody)" => silence(Duration::from_secs(1)),
            "silence(heard)" => silence(self.heard.unwrap().interval()),
            "unheard" => silence(base + Duration::from_micros(10 * 1_000_000 / 256)),
            other => {
                let seconds = other.strip_suffix('s').and_then(|text| text.parse().ok());
                seconds.map_or_else(|| panic!("`{other}` is no span"), Duration::from_secs)
            }
        }
    }
}

struct Row<'a> {
    line: usize,
    situation: &'a str,
    events: Vec<&'a str>,
    when: &'a str,
    actions: &'a str,
    outcome: &'a str,
    timer: &'a str,
}

fn rows(table: &str) -> Vec<Row<'_>> {
    let lines = table.lines().enumerate();
    let rows = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    rows.map(|(index, line)| {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [situation, events, when, actions, outcome, timer] = columns[..] else {
            panic!("line {}: six columns", index + 1);
        };
        Row {
            line: index + 1,
            situation,
            events: events.split(',').map(str::trim).collect(),
            when,
            actions,
            outcome,
            timer,
        }
    })
    .collect()
}

fn check(row: &Row<'_>, scene: &Scene, name: &str) -> Result<(), String> {
    let mut scene_after = scene.clone();
    let now = scene.moment(name);
    if name == "step_late" {
        let before = now.as_nanos() - 1;
        scene_after.tick_until(Timestamp::from_nanos(before));
    }
    let before = scene_after.node.status();
    let arrival = Timestamp::from_nanos(now.as_nanos() - u64::try_from(QUEUED.as_nanos()).unwrap());
    let event = scene.event(name, arrival);
    let actions = scene_after.node.step(now, event);
    let after = scene_after.node.status();
    let heard = heard(event).map(|(_, priority, _)| priority);
    let outcome = |status: &NodeStatus| {
        let (state, phase) = (status.state.name(), status.phase.name());
        format!("{state} {phase} {}", status.priority.advskew())
    };
    let clockwork = Clockwork {
        scene,
        now,
        arrival,
        heard,
        advskew: after.priority.advskew(),
    };
    let (expected_timer, timer) = match row.timer {
        "-" => (None, after.next),
        "same" => (before.next, after.next),
        // Some advert of a long row of them.
        "advertise soon" => {
            let latest = clockwork.deadline("now+interval");
            let is_soon = |(at, timer): &(Timestamp, Timer)| {
                *timer == Timer::Advertise && *at > now && *at <= latest
            };
            (after.next.filter(is_soon), after.next)
        }
        text => {
            let (_, at) = text.split_once(' ').unwrap();
            let found = after.next.map(|(_, timer)| timer);
            let named = found.filter(|timer| text.split(' ').next() == Some(timer.name()));
            (
                named.map(|timer| (clockwork.deadline(at), timer)),
                after.next,
            )
        }
    };
    let is_as_expected = spelled(&actions) == row.actions
        && outcome(&after) == row.outcome
        && timer == expected_timer
        && (row.timer == "-" || row.timer == "same" || timer.is_some());
    if is_as_expected {
        return Ok(());
    }
    Err(format!(
        "line {}, {} {name} {:?}: {} | {} | {timer:?}, not {} | {} | {} {expected_timer:?}",
        row.line,
        row.situation,
        scene.setting,
        spelled(&actions),
        outcome(&after),
        row.actions,
        row.outcome,
        row.timer,
    ))
}

/// Each event in each situation under each setting has exactly one row, and does what that says.
fn require_rows(table: &str, settings: &[Setting], situations: &[&str], events: &[&str]) {
    let rows = rows(table);
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    let mut checked = 0;
    for setting in settings {
        for situation in situations {
            let scene = Scene::new(*setting, situation);
            for name in events {
                let fitting: Vec<&Row<'_>> = rows
                    .iter()
                    .filter(|row| row.situation == *situation && row.events.contains(name))
                    .filter(|row| setting.matches(row.when))
                    .collect();
                let [row] = fitting[..] else {
                    let lines: Vec<usize> = fitting.iter().map(|row| row.line).collect();
                    faults.push(format!("{situation} {name} {setting:?}: rows {lines:?}"));
                    continue;
                };
                used.insert(row.line);
                checked += 1;
                faults.extend(check(row, &scene, name).err());
            }
        }
    }
    let unused = rows.iter().filter(|row| !used.contains(&row.line));
    faults.extend(unused.map(|row| format!("line {}: fits nothing", row.line)));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(checked, settings.len() * situations.len() * events.len());
}

#[test]
fn every_event_in_every_situation() {
    require_rows(TABLE, &Setting::all(false), SITUATIONS, EVENTS);
}

fn node(setting: Setting, neutral: bool) -> Checked {
    Checked::new(setting.config(neutral), BOOTED)
}

const PLAIN: Setting = Setting {
    preempt: false,
    advbase: 1,
    sole: false,
    metadata: false,
};

#[test]
fn a_neutral_node_calls_no_hook_at_start() {
    let mut node = node(PLAIN, true);
    let actions = node.step(BOOTED, Event::LinkUp);
    assert_eq!(spelled(&actions), "vip- >backup:link_up");
}

#[test]
fn the_down_hook_runs_at_the_first_start_only() {
    let mut node = node(PLAIN, false);
    for expected in ["vip- down >backup:link_up", "vip- >backup:link_up"] {
        let actions = node.step(BOOTED, Event::LinkUp);
        assert_eq!(spelled(&actions), expected);
        node.step(BOOTED, Event::LinkDown);
    }
}

/// Three sends in a row that failed demote, three that worked do away with it; two of either do nothing
/// (rule E5).
#[test]
fn three_sends_in_a_row_change_the_demotion() {
    use Event::{AdvertSent as Ok, SendFailed as Bad};
    let mut node = node(PLAIN, false);
    node.step(BOOTED, Event::LinkUp);
    let steps = [
        (Bad, 20),
        (Bad, 20),
        (Ok, 20),
        (Bad, 20),
        (Bad, 20),
        (Bad, 240),
        (Bad, 240),
        (Ok, 240),
        (Ok, 240),
        (Bad, 240),
        (Ok, 240),
        (Ok, 240),
        (Ok, 20),
        (Ok, 20),
    ];
    for (index, (event, advskew)) in steps.into_iter().enumerate() {
        assert!(node.step(BOOTED, event).is_empty());
        assert_eq!(node.status().priority.advskew(), advskew, "step {index}");
    }
}

/// Announcements of one service: at once, a second later, and with the second advert (rule E9).
#[test]
fn a_takeover_is_announced_three_times() {
    for (advbase, expected) in [(0, [0, 156_250, 1_000_000]), (1, [0, 1_000_000, 2_156_250])] {
        let scene = Scene::new(Setting { advbase, ..PLAIN }, "promoting");
        let mut node = scene.node.clone();
        let mut announced = Vec::new();
        let mut actions = node.step(scene.start, Event::VipSet { present: true });
        let mut now = scene.start;
        while now < scene.start.after(Duration::from_secs(10)) {
            if actions.contains(&Action::AnnounceVip) {
                announced.push(now.since(scene.start).as_micros());
            }
            now = node.status().next.unwrap().0;
            actions = node.step(now, Event::Tick);
        }
        assert_eq!(announced, expected, "advbase {advbase}");
    }
}

/// A flood of worse adverts makes at most ten announcements a second.
#[test]
fn a_contest_is_announced_sparingly() {
    let scene = Scene::new(PLAIN, "active");
    let mut node = scene.node.clone();
    let mut announcements = 0;
    for millisecond in 1..=1000 {
        let now = scene.start.after(Duration::from_millis(millisecond));
        let mut actions = node.step(now, advert(LOW, Priority::new(1, 200), now));
        actions.extend(node.step(now, Event::Tick));
        announcements += actions
            .iter()
            .filter(|a| **a == Action::AnnounceVip)
            .count();
    }
    assert_eq!(announcements, 10);
}

/// Each tie that is lost moves one step, to 254 at most; a node that is not well does not move.
#[test]
fn a_lost_tie_moves_one_step_away() {
    let scene = Scene::new(PLAIN, "following");
    let mut node = scene.node.clone();
    for advskew in 21..=254 {
        let now = scene.start.after(Duration::from_millis(advskew));
        node.step(now, advert(LOW, node.status().priority, now));
        assert_eq!(u64::from(node.status().priority.advskew()), advskew);
    }
    let now = scene.start.after(Duration::from_secs(1));
    node.step(now, advert(LOW, node.status().priority, now));
    assert_eq!(node.status().priority, Priority::new(1, 254));

    let mut ill = Scene::new(PLAIN, "held_down");
    ill.pause();
    ill.step(ill.hear(LOW, ill.priority(240), ill.start));
    assert_eq!(ill.node.status().demotion.equal_skew, 0);
}
