//! mfs-ha on all nodes of a segment in quorum mode, with a VIP and nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::mfsha::{MfsHa, MfsHaOptions, QuorumTiming, configure, set_key, votes};
use crate::scenario::Arena;

/// Long enough for an election on two busy cores.
pub const SETTLE: Duration = Duration::from_secs(30);

/// A running daemon on each node, in the order of the nodes.
#[derive(Debug)]
pub struct Squad {
    timing: QuorumTiming,
    daemons: Vec<MfsHa>,
}

impl Squad {
    /// Starts all of them at once and waits until one owns the VIP and the others follow it.
    ///
    /// # Errors
    /// When that does not come about.
    pub fn start(arena: &Arena, timing: QuorumTiming) -> Result<Self> {
        Self::start_with(arena, timing, &[])
    }

    /// As [`Self::start`], with more settings, each named as for [`set_key`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        arena: &Arena,
        timing: QuorumTiming,
        settings: &[(&str, bool)],
    ) -> Result<Self> {
        arena.two_owners_are_ruled_out();
        let topology = arena.topology();
        let mut daemons = Vec::new();
        for node in topology.nodes() {
            let options = MfsHaOptions::with_quorum(timing, node.index);
            let configuration = configure(topology, node.index, &options)?;
            for (key, value) in settings {
                set_key(&configuration, key, *value)?;
            }
            let daemon = MfsHa::start_configured(topology, node.index, &configuration)?;
            daemons.push(daemon);
        }
        let mut squad = Self { timing, daemons };
        squad.wait_settled(arena)?;
        Ok(squad)
    }

    /// The daemon of a node, counted from 1.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn daemon(&mut self, node: usize) -> Result<&mut MfsHa> {
        let daemon = self.daemons.get_mut(node.wrapping_sub(1));
        daemon.with_context(|| format!("the lab has no node {node}"))
    }

    /// All of them.
    pub fn daemons(&mut self) -> &mut [MfsHa] {
        &mut self.daemons
    }

    /// Starts the daemon of a node anew, with the configuration that it has. One that runs is killed first.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(&mut self, arena: &Arena, node: usize) -> Result<()> {
        let daemon = self.daemon(node)?;
        daemon.kill()?;
        let configuration = daemon.configuration().to_owned();
        *daemon = MfsHa::start_configured(arena.topology(), node, &configuration)?;
        Ok(())
    }

    /// Brings a node back that was let die, and waits until it follows the master.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn bring_back(&mut self, arena: &Arena, node: usize) -> Result<()> {
        self.start_again(arena, node)?;
        arena.wait_vip(node, false, SETTLE)?;
        arena.topology().port_up(node)?;
        self.daemon(node)?
            .wait_status("a node that is back to follow", SETTLE, follows)
            .map(drop)
    }

    /// Waits until one node owns the VIP for half a second and all others follow it; returns it.
    ///
    /// # Errors
    /// When that does not come about.
    pub fn wait_settled(&mut self, arena: &Arena) -> Result<usize> {
        let steady = Duration::from_millis(500);
        let owner = arena.wait_steady_owner(steady, SETTLE)?;
        let count = self.daemons.len();
        for (daemon, node) in self.daemons.iter_mut().zip(1..) {
            if node != owner {
                let what = format!("n{node} to follow n{owner}");
                daemon.wait_status(&what, SETTLE, |status| {
                    let lease = &status["cluster"]["lease"];
                    follows(status) && votes(status) && lease["heard"] == count
                })?;
            }
        }
        Ok(owner)
    }

    /// The changes of state that all daemons remember.
    ///
    /// # Errors
    /// When one does not answer.
    pub fn transitions(&mut self) -> Result<Vec<Vec<String>>> {
        self.daemons.iter_mut().map(MfsHa::transitions).collect()
    }

    /// H and T.
    pub fn timing(&self) -> QuorumTiming {
        self.timing
    }

    /// When the old owner gave the VIP up, counted from a moment.
    ///
    /// # Errors
    /// When it did not.
    pub fn gave_way(arena: &Arena, node: usize, since: Instant) -> Result<Duration> {
        let lost = arena.addresses()?.lost_by(node, since);
        let lost = lost.with_context(|| format!("n{node} still has the VIP"))?;
        Ok(lost.saturating_duration_since(since))
    }
}

/// Whether a status is that of a backup that hears a master and knows who holds the lease.
fn follows(status: &Value) -> bool {
    status["state"] == "backup"
        && !status["master"].is_null()
        && !status["cluster"]["lease"]["holder"].is_null()
}
