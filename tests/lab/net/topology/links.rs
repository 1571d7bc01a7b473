//! What is done to the links of a segment: carriers, interfaces, and cuts that the carrier does not show.
//!
//! A cut is a rule in the switch (bridge family, hook forward). In a node it would come too late: there XDP reads a
//! frame before any table of nftables. A cut has a direction, so that one side can go deaf and not mute. What the
//! switch has forwarded is not taken back: a cut begins with the next frame.

use anyhow::{Context as _, Result, bail};

use super::{Topology, port};
use crate::requirements::require_tools;

/// The table of all cuts, in the switch's namespace.
const TABLE: &str = "cuts";

/// What a cut holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Every frame, ARP and adverts included.
    All,
    /// The heartbeats of mfs-ha alone.
    Heartbeats,
}

impl Traffic {
    fn matches(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Heartbeats => "udp dport 9429",
        }
    }
}

impl Topology {
    /// Takes the bridge's port of a node down: the node loses its carrier.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn port_down(&self, index: usize) -> Result<()> {
        self.switch
            .run("ip", &["link", "set", &port(index), "down"])
            .map(drop)
    }

    /// Brings the bridge's port of a node back up.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn port_up(&self, index: usize) -> Result<()> {
        self.switch
            .run("ip", &["link", "set", &port(index), "up"])
            .map(drop)
    }

    /// Deletes a node's eth0, as a removed network card would.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn delete_interface(&self, index: usize) -> Result<()> {
        self.node(index)?
            .namespace
            .run("ip", &["link", "del", "eth0"])
            .map(drop)
    }

    /// Makes a node's eth0 again after [`Self::delete_interface`], with the same addresses.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn recreate_interface(&self, index: usize) -> Result<()> {
        self.connect_node(self.node(index)?, "")
    }

    /// As [`Self::recreate_interface`], with a number chosen: that of the old one, for example.
    ///
    /// # Errors
    /// When `ip` fails, or the number is taken.
    pub fn recreate_interface_as(&self, index: usize, number: u64) -> Result<()> {
        self.connect_node(self.node(index)?, &format!("index {number}"))
    }

    /// Holds back what one machine sends to another (`n1`, `ob`, the name of a host), for all pairs (from, to) at
    /// once, until [`Self::heal`].
    ///
    /// # Errors
    /// When there is no such machine, or nftables refuses.
    pub fn cut<N: AsRef<str>>(&self, pairs: &[(N, N)], traffic: Traffic) -> Result<()> {
        let mut commands = format!(
            "add table bridge {TABLE}
            add chain bridge {TABLE} forward {{ type filter hook forward priority 0; }}"
        );
        for (from, to) in pairs {
            let (from, to) = (self.port_of(from.as_ref())?, self.port_of(to.as_ref())?);
            commands.push_str(&format!(
                "\nadd rule bridge {TABLE} forward iifname \"{from}\" oifname \"{to}\" {} drop",
                traffic.matches()
            ));
        }
        self.change_cuts(&commands)
    }

    /// Cuts a machine from others, both ways and at once.
    ///
    /// # Errors
    /// As [`Self::cut`].
    pub fn cut_both_ways<N: AsRef<str>>(
        &self,
        one: &str,
        others: &[N],
        traffic: Traffic,
    ) -> Result<()> {
        let pairs: Vec<(&str, &str)> = others
            .iter()
            .map(AsRef::as_ref)
            .flat_map(|other| [(one, other), (other, one)])
            .collect();
        self.cut(&pairs, traffic)
    }

    /// Ends all cuts.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn heal(&self) -> Result<()> {
        self.change_cuts(&format!(
            "add table bridge {TABLE}
            delete table bridge {TABLE}"
        ))
    }

    /// Makes the switch a hub, which sends every frame to everybody, or a switch again.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn forget_addresses(&self, forget: bool) -> Result<()> {
        // In hundredths of a second; 0 learns nothing.
        let ageing = if forget { "0" } else { "30000" };
        self.switch.ip(&[format!(
            "link set br0 type bridge ageing_time {ageing} fdb_flush"
        )])
    }

    fn change_cuts(&self, commands: &str) -> Result<()> {
        require_tools(&["nft"])?;
        self.switch
            .run("nft", &[commands])
            .context("change the cuts")
            .map(drop)
    }

    /// The switch's port of a machine.
    fn port_of(&self, name: &str) -> Result<String> {
        let node = self
            .nodes
            .iter()
            .find(|node| format!("n{}", node.index) == name);
        if let Some(node) = node {
            return Ok(port(node.index));
        }
        let is_host = self.hosts.iter().any(|host| host.name == name);
        if !is_host && name != "ob" {
            bail!("the lab has no machine {name}");
        }
        Ok(format!("p{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::topology::Shape;
    use std::path::Path;

    #[test]
    fn every_machine_has_a_port() {
        let shape = Shape::with_hosts(2, &["w"]);
        let lab = Topology::attach("x", Path::new("/nonexistent"), shape).unwrap();
        for (name, port) in [("n2", "p2"), ("w", "pw"), ("ob", "pob")] {
            assert_eq!(lab.port_of(name).unwrap(), port);
        }
        for name in ["n3", "sw", "p1"] {
            assert!(lab.port_of(name).is_err());
        }
    }
}
