//! What a node shows of itself: the document behind `mfs-ha status`, and its text form.

pub mod cluster;
pub mod gate;
pub mod promotion;
pub mod watchdog;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use mfs_ha_common::election::carp::Demotion;
use mfs_ha_common::time::Timestamp;
use serde::{Deserialize, Serialize};

use self::cluster::ClusterStatus;
use self::gate::GateStatus;
use self::promotion::PromotionStatus;
use self::watchdog::WatchdogStatus;
use crate::driver::View;
use crate::hooks;

/// The whole document. Ages are in milliseconds before the document was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Instance name.
    pub instance: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// `carp` or `quorum`.
    pub mode: String,
    /// Interface name; absent on a witness, as all that is about VIP and adverts.
    pub interface: Option<String>,
    /// Interface index; absent while the interface is gone.
    pub ifindex: Option<u32>,
    /// What keeps the interface from being used.
    pub link_problem: Option<String>,
    /// Virtual host id.
    pub vhid: Option<u8>,
    /// Source address of adverts.
    pub source: Option<Ipv4Addr>,
    /// `init`, `backup` or `master`.
    pub state: String,
    /// `standby`, `promoting`, `active`, `resigning` or `stuck`.
    pub phase: String,
    /// Since when.
    pub state_age_ms: u64,
    /// Why.
    pub reason: String,
    /// Configured advbase, seconds.
    pub advbase: Option<u8>,
    /// Configured advskew, 1/256 s.
    pub advskew: Option<u8>,
    /// What is advertised: advskew worsened by demotion.
    pub effective_skew: Option<u8>,
    /// Why it is worse.
    pub demotion: Vec<String>,
    /// The master that is followed.
    pub master: Option<Ipv4Addr>,
    /// What the node waits for.
    pub next_timeout: Option<NextTimeout>,
    /// The lease and the members; absent in carp mode.
    pub cluster: Option<ClusterStatus>,
    /// Senders of adverts.
    pub peers: Vec<PeerStatus>,
    /// The virtual address.
    pub vip: Option<VipStatus>,
    /// What keeps this node from serving when its lease is over; absent on a witness.
    pub gate: Option<GateStatus>,
    /// What resets the machine when nobody watches over what it serves; absent where none is configured.
    pub watchdog: Option<WatchdogStatus>,
    /// The XDP program.
    pub xdp: XdpStatus,
    /// Frames by verdict and reason since the daemon started.
    pub counters: BTreeMap<String, u64>,
    /// Own adverts.
    pub adverts: AdvertStatus,
    /// Hooks.
    pub hooks: HookStatus,
    /// The metadata; absent for a plain CARP daemon.
    pub promotion: Option<PromotionStatus>,
    /// Whether the heartbeat thread runs with real-time priority.
    pub realtime: bool,
    /// The last transitions, oldest first.
    pub transitions: Vec<TransitionStatus>,
}

/// What the node waits for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NextTimeout {
    /// Its name.
    pub timer: String,
    /// When, 0 if overdue.
    pub in_ms: u64,
}

/// A sender of adverts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its address.
    pub source: Ipv4Addr,
    /// Its last advbase, seconds.
    pub advbase: u8,
    /// Its last advskew, 1/256 s.
    pub advskew: u8,
    /// Accepted adverts.
    pub adverts: u64,
    /// Age of the last one; absent for a configured peer that was never heard.
    pub last_advert_age_ms: Option<u64>,
}

/// The virtual address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VipStatus {
    /// Address and prefix length.
    pub address: String,
    /// Whether the interface has it.
    pub present: bool,
    /// Whether it should.
    pub wanted: bool,
    /// Why that differs.
    pub problem: Option<String>,
}

/// The XDP program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct XdpStatus {
    /// `native`, `generic` or `none`.
    pub mode: String,
    /// Why it is not native although that was wanted.
    pub fallback_reason: Option<String>,
    /// Directory of the pinned maps.
    pub pins: String,
}

/// Own adverts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AdvertStatus {
    /// Sent.
    pub sent: u64,
    /// Not taken by the interface.
    pub failed: u64,
    /// The longest that a deadline was overrun.
    pub lateness_max_us: u64,
}

/// Hooks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HookStatus {
    /// The one that runs.
    pub running: Option<String>,
    /// The one that ran last.
    pub last: Option<HookResult>,
}

/// How a hook ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HookResult {
    /// `up` or `down`.
    pub name: String,
    /// Exit status, or what became of it.
    pub exit: String,
    /// How long it took.
    pub took_ms: u64,
}

/// A transition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TransitionStatus {
    /// State before.
    pub from: String,
    /// State after.
    pub to: String,
    /// Why.
    pub reason: String,
    /// When.
    pub age_ms: u64,
}

/// Whole milliseconds, as the document counts.
#[must_use]
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the transitions of a view.
#[must_use]
pub fn transitions(view: &View) -> Vec<TransitionStatus> {
    view.transitions
        .iter()
        .map(|transition| TransitionStatus {
            from: transition.from.name().to_owned(),
            to: transition.to.name().to_owned(),
            reason: transition.reason.name().to_owned(),
            age_ms: millis(view.at.since(transition.at)),
        })
        .collect()
}

/// Returns the deadline of a view.
#[must_use]
pub fn next_timeout(view: &View) -> Option<NextTimeout> {
    view.node.next.map(|(at, timer)| NextTimeout {
        timer: timer.name().to_owned(),
        in_ms: millis(at.since(view.at)),
    })
}

impl From<&hooks::HookStatus> for HookStatus {
    fn from(status: &hooks::HookStatus) -> Self {
        Self {
            running: status
                .running
                .as_ref()
                .map(|running| running.hook.name().to_owned()),
            last: status.last.as_ref().map(|last| HookResult {
                name: last.hook.name().to_owned(),
                exit: last.exit.clone(),
                took_ms: last.took_ms,
            }),
        }
    }
}

/// Names the demotions in force.
#[must_use]
pub fn demotions(demotion: Demotion) -> Vec<String> {
    let flags = [
        (demotion.send_failure, "send_failure"),
        (demotion.vip_failure, "vip_failure"),
        (demotion.promotion_failure, "promotion_failure"),
        (demotion.not_ready, "not_ready"),
        (demotion.stuck, "stuck"),
    ];
    let mut names: Vec<String> = flags
        .into_iter()
        .filter(|(is_set, _)| *is_set)
        .map(|(_, name)| name.to_owned())
        .collect();
    if demotion.equal_skew > 0 {
        names.push(format!("equal_skew+{}", demotion.equal_skew));
    }
    names
}

/// Returns the age of an arrival, `None` for one that never was.
#[must_use]
pub fn age_ms(now: Timestamp, arrival_ns: u64) -> Option<u64> {
    (arrival_ns != 0).then(|| millis(now.since(Timestamp::from_nanos(arrival_ns))))
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_node(f)?;
        self.write_network(f)?;
        if let Some(gate) = &self.gate {
            gate.fmt(f)?;
        }
        if let Some(watchdog) = &self.watchdog {
            watchdog.fmt(f)?;
        }
        if let Some(cluster) = &self.cluster {
            cluster.fmt(f)?;
        }
        if let Some(promotion) = &self.promotion {
            promotion.fmt(f)?;
        }
        self.write_peers(f)?;
        self.write_history(f)
    }
}

impl Status {
    fn write_node(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = seconds(self.state_age_ms);
        writeln!(f, "instance    {} (pid {})", self.instance, self.pid)?;
        writeln!(
            f,
            "state       {} / {} for {age}, because {}",
            self.state, self.phase, self.reason
        )?;
        if let Some(master) = self.master {
            writeln!(f, "master      {master}")?;
        }
        if let Some((advbase, advskew)) = self.advbase.zip(self.advskew) {
            write!(f, "priority    advbase {advbase} advskew {advskew}")?;
            if let Some(effective) = self.effective_skew.filter(|_| !self.demotion.is_empty()) {
                let reasons = self.demotion.join(", ");
                write!(f, ", advertised as {effective} because of {reasons}")?;
            }
            writeln!(f)?;
        }
        if let Some(next) = &self.next_timeout {
            writeln!(f, "next        {} in {}", next.timer, seconds(next.in_ms))?;
        }
        Ok(())
    }

    fn write_network(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |yes: bool| if yes { "present" } else { "absent" };
        if let Some(vip) = &self.vip {
            write!(f, "vip         {} {}", vip.address, has(vip.present))?;
            if vip.present != vip.wanted {
                write!(f, ", should be {}", has(vip.wanted))?;
            }
            if let Some(problem) = &vip.problem {
                write!(f, " ({problem})")?;
            }
            writeln!(f)?;
        }
        let (Some(interface), Some(vhid)) = (&self.interface, self.vhid) else {
            // A witness has networks, which the cluster lists.
            let realtime = if self.realtime { "yes" } else { "no" };
            return writeln!(f, "maps        in {}, real-time {realtime}", self.xdp.pins);
        };
        write!(f, "interface   {interface}")?;
        if let Some(source) = self.source {
            write!(f, " from {source}")?;
        }
        if let Some(problem) = &self.link_problem {
            write!(f, ": {problem}")?;
        }
        writeln!(f, ", vhid {vhid}")?;
        write!(f, "xdp         {}", self.xdp.mode)?;
        if let Some(reason) = &self.xdp.fallback_reason {
            write!(f, ", because native failed: {reason}")?;
        }
        writeln!(f, ", maps in {}", self.xdp.pins)?;
        writeln!(
            f,
            "adverts     {} sent, {} failed, at most {} us late, real-time {}",
            self.adverts.sent,
            self.adverts.failed,
            self.adverts.lateness_max_us,
            if self.realtime { "yes" } else { "no" }
        )
    }

    fn write_peers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for peer in &self.peers {
            write!(f, "peer        {}", peer.source)?;
            match peer.last_advert_age_ms {
                Some(age) => writeln!(
                    f,
                    ": advbase {} advskew {}, {} adverts, last {} ago",
                    peer.advbase,
                    peer.advskew,
                    peer.adverts,
                    seconds(age)
                )?,
                None => writeln!(f, ": never heard")?,
            }
        }
        let counted: Vec<String> = self
            .counters
            .iter()
            .filter(|(_, value)| **value > 0)
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        writeln!(f, "frames      {}", counted.join(", "))
    }

    fn write_history(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(running) = &self.hooks.running {
            writeln!(f, "hook        {running} is running")?;
        }
        if let Some(last) = &self.hooks.last {
            writeln!(
                f,
                "hook        {} ended after {} ms: {}",
                last.name, last.took_ms, last.exit
            )?;
        }
        for transition in &self.transitions {
            writeln!(
                f,
                "transition  {} ago: {} -> {}, {}",
                seconds(transition.age_ms),
                transition.from,
                transition.to,
                transition.reason
            )?;
        }
        Ok(())
    }
}

pub(crate) fn seconds(millis: u64) -> String {
    format!("{}.{:03} s", millis / 1000, millis % 1000)
}
