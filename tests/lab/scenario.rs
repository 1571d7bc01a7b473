//! A segment under observation, and the faults that scenarios are made of.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::judge::address_log::AddressLog;
use crate::judge::analysis::Observations;
use crate::judge::prober::{PROBE_INTERVAL, Prober};
use crate::net::addresses::{AddressWatch, holds};
use crate::net::topology::{Shape, Topology};
use crate::trial::note_two_owners;
use crate::wait::wait_until;
use crate::{VIP, judge::wire::Sniffer};

/// How long one node alone must have answered to count as the owner.
const OWNER_WINDOW: Duration = Duration::from_millis(100);

/// A topology with the judges that watch it.
#[derive(Debug)]
pub struct Arena {
    // The judges go first: their sockets belong to the topology's namespaces.
    addresses: AddressWatch,
    prober: Prober,
    sniffer: Sniffer,
    topology: Topology,
    interval: Duration,
    one_owner_since: Cell<Option<Instant>>,
}

impl Drop for Arena {
    fn drop(&mut self) {
        // A test may fail for another reason before it looks at this.
        if let Some(since) = self.one_owner_since.get() {
            let most = self
                .prober
                .look(|seen| seen.owners_max(since, Instant::now()));
            if most.is_ok_and(|most| most > 1) {
                note_two_owners();
            }
        }
    }
}

impl Arena {
    /// Builds a segment and begins to watch it.
    ///
    /// # Errors
    /// When the machine lacks something, or a part cannot be made.
    pub fn new(shape: impl Into<Shape>) -> Result<Self> {
        Self::with_probe_interval(shape, PROBE_INTERVAL)
    }

    /// As [`Self::new`], with another grid for the prober.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_probe_interval(shape: impl Into<Shape>, interval: Duration) -> Result<Self> {
        let topology = Topology::new(shape)?;
        let namespaces: Vec<_> = topology
            .nodes()
            .iter()
            .map(|node| &node.namespace)
            .collect();
        Ok(Self {
            addresses: AddressWatch::start(&namespaces, VIP)?,
            prober: Prober::start(topology.observer(), interval)?,
            sniffer: Sniffer::start(topology.observer())?,
            topology,
            interval,
            one_owner_since: Cell::new(None),
        })
    }

    /// From now on leases see to it that there is one owner at most: two are a failure of the trial, noticed at the end
    /// of the arena, whether or not a test asks and whatever a machine does that stands still.
    pub fn two_owners_are_ruled_out(&self) {
        self.one_owner_since.set(Some(Instant::now()));
    }

    /// The segment.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The ARP judge.
    pub fn prober(&self) -> &Prober {
        &self.prober
    }

    /// The recorder of adverts.
    pub fn sniffer(&self) -> &Sniffer {
        &self.sniffer
    }

    /// The record of address events.
    ///
    /// # Errors
    /// When the watch broke off.
    pub fn addresses(&self) -> Result<AddressLog> {
        self.addresses.log()
    }

    /// The nodes that answered for the VIP within the last `window`.
    ///
    /// # Errors
    /// When the prober broke off or a stranger answered.
    pub fn owners_within(&self, window: Duration) -> Result<BTreeSet<usize>> {
        let now = Instant::now();
        let from = now.checked_sub(window).unwrap_or(now);
        let owners = self.prober.look(|seen| seen.owners(from, now))?;
        owners
            .into_iter()
            .map(|mac| {
                let node = self.topology.node_of(mac);
                Ok(node
                    .with_context(|| format!("{mac} answers for the VIP and is no node"))?
                    .index)
            })
            .collect()
    }

    /// Waits until exactly one node answers, without a pause, and returns it.
    ///
    /// # Errors
    /// When that does not come about within `limit`.
    pub fn wait_single_owner(&self, limit: Duration) -> Result<usize> {
        self.wait_steady_owner(OWNER_WINDOW, limit)
    }

    /// Waits until one node alone has answered all questions of a whole `steady` time, and returns it.
    ///
    /// # Errors
    /// When that does not come about within `limit`.
    pub fn wait_steady_owner(&self, steady: Duration, limit: Duration) -> Result<usize> {
        let begin = Instant::now();
        let mut last = BTreeSet::new();
        let owner = wait_until("exactly one owner of the VIP", limit, || {
            if begin.elapsed() < steady {
                return Ok(None);
            }
            last = self.owners_within(steady)?;
            let now = Instant::now();
            let from = now.checked_sub(steady).unwrap_or(now);
            let gap = self.prober.look(|seen| seen.longest_gap(from, now))?;
            let steady = last.len() == 1 && gap < 10 * self.interval;
            Ok(last.first().copied().filter(|_| steady))
        });
        owner.with_context(|| format!("nodes that answered last: {last:?}"))
    }

    /// Waits until `node` alone answers.
    ///
    /// # Errors
    /// When that does not come about within `limit`.
    pub fn wait_owner(&self, node: usize, limit: Duration) -> Result<()> {
        wait_until(&format!("n{node} alone to own the VIP"), limit, || {
            let owners = self.owners_within(OWNER_WINDOW)?;
            Ok((owners == BTreeSet::from([node])).then_some(()))
        })
    }

    /// Waits until nobody answers.
    ///
    /// # Errors
    /// When that does not come about within `limit`.
    pub fn wait_no_owner(&self, limit: Duration) -> Result<()> {
        wait_until("nobody to own the VIP", limit, || {
            Ok(self.owners_within(OWNER_WINDOW)?.is_empty().then_some(()))
        })
    }

    /// Lets a node die: its port goes down and its processes are killed. Returns the time just before.
    ///
    /// The port goes first, as a dead machine is silent from one moment on. A killed daemon alone would
    /// leave its VIP answering.
    ///
    /// # Errors
    /// When the port or a process resists.
    pub fn fail_node(&self, node: usize) -> Result<Instant> {
        let at = Instant::now();
        self.topology.port_down(node)?;
        self.topology.node(node)?.namespace.kill_all()?;
        Ok(at)
    }

    /// Waits until `node` has, or has not, the VIP on its interface.
    ///
    /// # Errors
    /// When that does not come about within `limit`.
    pub fn wait_vip(&self, node: usize, present: bool, limit: Duration) -> Result<()> {
        let namespace = &self.topology.node(node)?.namespace;
        let state = if present { "on" } else { "off" };
        wait_until(&format!("the VIP to be {state} n{node}"), limit, || {
            Ok((holds(namespace, VIP)? == present).then_some(()))
        })
    }

    /// The findings between two times.
    ///
    /// # Errors
    /// When a judge broke off, or asked too seldom to judge at all.
    pub fn judge(&self, from: Instant, to: Instant) -> Result<Finding> {
        let addresses = self.addresses.log()?;
        let finding = self.prober.look(|seen| Finding::of(seen, from, to))?;
        let expected = (to - from).as_nanos() / self.interval.as_nanos().max(1);
        ensure!(
            u128::from(finding.probes) * 2 >= expected,
            "the prober asked {} of {expected} times: the machine was too busy to judge",
            finding.probes
        );
        Ok(Finding {
            moves: addresses.gains(from, to),
            address_overlap: addresses.overlap(from, to),
            ..finding
        })
    }

    /// The takeover after the death of `failed` at `at`, once the new owner answers.
    ///
    /// # Errors
    /// When nobody takes over within `limit`.
    pub fn wait_takeover(&self, failed: usize, at: Instant, limit: Duration) -> Result<Takeover> {
        let old = self.topology.node(failed)?.mac;
        // A frame of the old owner may be under way when the port goes down.
        let answer = wait_until(
            &format!("another node to answer after n{failed}"),
            limit,
            || {
                self.prober
                    .look(|seen| seen.first_reply_by_other_than(old, at))
            },
        )?;
        let Some(node) = self.topology.node_of(answer.mac) else {
            bail!("{} answers for the VIP and is no node", answer.mac);
        };
        let vip_added = self.addresses.log()?.gained_by(node.index, at);
        Ok(Takeover {
            node: node.index,
            answered_after: answer.at.saturating_duration_since(at),
            vip_after: vip_added.map(|added| added.saturating_duration_since(at)),
        })
    }
}

/// Who took over, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Takeover {
    /// The new owner.
    pub node: usize,
    /// From the failure to its first ARP answer.
    pub answered_after: Duration,
    /// From the failure to the address on its interface.
    pub vip_after: Option<Duration>,
}

/// What the judges saw in a span of time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finding {
    /// Questions asked.
    pub probes: u64,
    /// The most nodes that answered one question.
    pub owners_max: usize,
    /// How long two or more answered.
    pub overlap: Duration,
    /// The longest time without any answer.
    pub longest_gap: Duration,
    /// How often a node gained the address.
    pub moves: usize,
    /// How long two or more nodes had the address configured, reachable or not.
    pub address_overlap: Duration,
}

impl Finding {
    fn of(seen: &Observations, from: Instant, to: Instant) -> Self {
        let probes = seen
            .probes
            .iter()
            .filter(|sent| **sent >= from && **sent <= to)
            .count();
        Self {
            probes: u64::try_from(probes).unwrap_or(u64::MAX),
            owners_max: seen.owners_max(from, to),
            overlap: seen.overlap(from, to),
            longest_gap: seen.longest_gap(from, to),
            moves: 0,
            address_overlap: Duration::ZERO,
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "moves {}, owners at most {}, two owners for {} ms, longest gap {} ms",
            self.moves,
            self.owners_max,
            self.overlap.as_millis(),
            self.longest_gap.as_millis()
        )
    }
}

/// Numbers that look random and are the same in every run (SplitMix64), for phases of faults.
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Dice of the seed in `MFS_HA_SEED`, else of a fixed one; the caller prints [`Self::seed`].
    ///
    /// # Errors
    /// When the variable holds no number.
    pub fn from_environment() -> Result<Self> {
        let seed = match std::env::var("MFS_HA_SEED") {
            Ok(text) => text
                .parse()
                .with_context(|| format!("MFS_HA_SEED={text} is no number"))?,
            Err(_) => 0x6d66_732d_6861,
        };
        Ok(Self { state: seed })
    }

    /// The state: as a seed it continues the sequence from here.
    pub fn seed(&self) -> u64 {
        self.state
    }

    /// A duration below `limit`, microseconds apart.
    pub fn below(&mut self, limit: Duration) -> Duration {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(mixed % micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_repeat_and_stay_below_their_limit() {
        let limit = Duration::from_millis(100);
        let mut first = Dice { state: 1 };
        let mut second = first.clone();
        let rolled: Vec<Duration> = (0..100).map(|_| first.below(limit)).collect();
        assert!(rolled.iter().all(|phase| *phase < limit));
        assert!(rolled.iter().any(|phase| *phase > limit / 2));
        assert!(rolled.iter().any(|phase| *phase < limit / 2));
        assert!(rolled.into_iter().all(|phase| phase == second.below(limit)));
    }
}
