//! Keeps one network usable: finds the interface that has our address there, attaches the XDP program to it
//! and hands the heartbeat thread a socket, through everything that can happen to that interface.
//!
//! An address may come late, or move to another interface. That is looked for once in a while: a network
//! that is gone for half a second is what the other one is for.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use mfs_ha_common::cluster::NodeId;
use tokio::sync::mpsc;

use super::sender::PathSender;
use crate::bpf::{Attached, Attachments, Mode};
use crate::config::Cluster;
use crate::driver::Fact;
use crate::interface::Interface;
use crate::netlink::Netlink;

/// How often to look whether address, interface and program are where they were.
const CHECK: Duration = Duration::from_millis(500);

/// One network, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathConfig {
    /// Which one, from 0 on.
    pub index: usize,
    /// Our own address in it.
    pub own: IpAddr,
    /// Those of all other members.
    pub members: Vec<(NodeId, IpAddr)>,
}

/// Returns the networks of a cluster.
#[must_use]
pub fn paths(cluster: &Cluster) -> Vec<PathConfig> {
    let own = cluster.own().map(|own| own.addresses.as_slice());
    own.unwrap_or_default()
        .iter()
        .enumerate()
        .map(|(index, own)| PathConfig {
            index,
            own: *own,
            members: cluster
                .others()
                .filter_map(|member| Some((member.id, *member.addresses.get(index)?)))
                .collect(),
        })
        .collect()
}

/// What a path shows of itself.
#[derive(Clone, Debug, Default)]
pub struct PathView {
    /// The interface that has our address.
    pub interface: Option<String>,
    /// How the XDP program is attached there.
    pub mode: Option<Mode>,
    /// What keeps it from being used.
    pub problem: Option<String>,
}

/// The [`PathView`] of a running keeper.
#[derive(Clone, Debug)]
pub struct PathViews {
    /// Our own address in that network.
    pub own: IpAddr,
    view: Arc<Mutex<PathView>>,
}

impl PathViews {
    /// Returns the present view.
    #[must_use]
    pub fn get(&self) -> PathView {
        self.view
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, view: PathView) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }
}

/// What is in use.
struct InUse {
    name: String,
    ifindex: u32,
    attached: Arc<Attached>,
}

/// Keeps one network usable.
pub struct PathKeeper {
    config: PathConfig,
    attachments: Attachments,
    facts: mpsc::Sender<Fact>,
    views: PathViews,
    in_use: Option<InUse>,
}

impl PathKeeper {
    /// Touches nothing yet.
    #[must_use]
    pub fn new(config: PathConfig, attachments: Attachments, facts: mpsc::Sender<Fact>) -> Self {
        Self {
            views: PathViews {
                own: config.own,
                view: Arc::default(),
            },
            config,
            attachments,
            facts,
            in_use: None,
        }
    }

    /// Returns where the view can be read.
    #[must_use]
    pub fn views(&self) -> PathViews {
        self.views.clone()
    }

    /// Runs until the daemon ends.
    pub async fn run(mut self) {
        loop {
            let problem = self.follow().await.err().map(|error| format!("{error:#}"));
            self.publish(problem);
            tokio::time::sleep(CHECK).await;
        }
    }

    async fn follow(&mut self) -> anyhow::Result<()> {
        // A kernel that does not answer, on a machine that is too busy for it, says nothing about the network: what
        // is in use stays in use. To fall silent for that would be a failure where there was none.
        let found = self.find().await?;
        let is_as_before = match (&found, &self.in_use) {
            (Ok(found), Some(in_use)) => {
                (found.ifindex, &found.name) == (in_use.ifindex, &in_use.name)
                    && self.attachments.is_on(found)
            }
            (Ok(_) | Err(_), None) => true,
            (Err(_), Some(_)) => false,
        };
        if !is_as_before && self.in_use.take().is_some() {
            let index = self.config.index;
            self.tell(Fact::PathDown { index }).await;
        }
        let interface = found.map_err(anyhow::Error::msg)?;
        if self.in_use.is_some() {
            return Ok(());
        }
        let attached = self.attachments.attach(&interface).await?;
        let sender = PathSender::open(&interface.name, self.config.own, &self.config.members)?;
        self.in_use = Some(InUse {
            ifindex: interface.ifindex,
            name: interface.name,
            attached,
        });
        let index = self.config.index;
        let sender = Box::new(sender);
        self.tell(Fact::PathUp { index, sender }).await;
        Ok(())
    }

    /// Returns the interface that has our address, or why there is none.
    ///
    /// # Errors
    /// The kernel does not say.
    async fn find(&self) -> anyhow::Result<Result<Interface, String>> {
        let own = self.config.own;
        let name = interface_with(own).context("list the addresses of this host")?;
        let Some(name) = name else {
            return Ok(Err(format!(
                "no interface of this host has the address {own}"
            )));
        };
        let netlink = Netlink::connect()?;
        let interface = netlink.interface(&name).await?;
        Ok(interface.ok_or_else(|| format!("interface {name} is gone")))
    }

    async fn tell(&self, fact: Fact) {
        if self.facts.send(fact).await.is_err() {
            tracing::debug!("the heartbeat thread has ended");
        }
    }

    fn publish(&self, problem: Option<String>) {
        let before = self.views.get().problem;
        let address = self.config.own;
        match &problem {
            Some(problem) if before.as_ref() != Some(problem) => match self.in_use {
                Some(_) => tracing::warn!(%address, problem, "a network cannot be looked at"),
                None => tracing::warn!(%address, problem, "a network cannot be used"),
            },
            None if before.is_some() => tracing::info!(%address, "a network is in order again"),
            Some(_) | None => {}
        }
        self.views.set(PathView {
            interface: self.in_use.as_ref().map(|in_use| in_use.name.clone()),
            mode: self.in_use.as_ref().map(|in_use| in_use.attached.mode),
            problem,
        });
    }
}

/// Returns the name of the interface that has the address.
///
/// # Errors
/// The kernel does not list its addresses.
pub fn interface_with(address: IpAddr) -> io::Result<Option<String>> {
    let found = nix::ifaddrs::getifaddrs()?.find(|entry| {
        let held = entry.address.as_ref().and_then(|held| {
            let v4 = held.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| held.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        held == Some(address)
    });
    // The kernel lists an address under its label, which may have a suffix: eth0:1.
    Ok(found.map(|entry| {
        let label = entry.interface_name;
        label.split(':').next().unwrap_or_default().to_owned()
    }))
}
