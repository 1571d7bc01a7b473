//! What a node of a cluster has besides a CARP node: networks, heartbeats, a key, a state on disk.

pub mod path;
pub mod rounds;
pub mod sender;

use std::net::Ipv4Addr;

use anyhow::Context as _;
use mfs_ha_common::cluster::{MEMBERS_MAX, NodeId};
use mfs_ha_common::election::quorum;
use mfs_ha_common::filter::{ClusterConfig, HEARTBEATS, PREVIOUS_KEY, REQUIRE_EXTENSION, TRAILERS};
use mfs_ha_common::heartbeat::TagKey;
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::priority::Priority;

use crate::config::{Cluster, Config, Configuration, Vip};
use crate::secret::{self, ClusterKey, SecretError};
use crate::state::Beginning;

/// The keys of a cluster: the one that is sent with, and one that is still accepted.
#[derive(Debug)]
pub struct Keys {
    current: ClusterKey,
    previous: Option<ClusterKey>,
}

impl Keys {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn read(cluster: &Cluster) -> Result<Self, SecretError> {
        let previous = cluster.previous_secret_file.as_ref();
        Ok(Self {
            current: secret::read_cluster_secret_file(&cluster.secret_file)?,
            previous: previous
                .map(|path| secret::read_cluster_secret_file(path))
                .transpose()?,
        })
    }

    /// Returns what signs.
    #[must_use]
    pub const fn tag_key(&self) -> TagKey {
        TagKey::new(*self.current.as_bytes())
    }
}

/// Returns what the XDP program compares heartbeats and trailers with.
#[must_use]
pub fn filter(config: &Configuration, cluster: &Cluster, keys: &Keys) -> ClusterConfig {
    let mut policy = 0;
    if config.quorum().is_some() {
        policy |= HEARTBEATS;
    }
    if let Configuration::Candidate(config) = config {
        policy |= TRAILERS;
        // In quorum mode adverts decide nothing: those of strangers are not worth waking up for.
        if config.carp.require_extension || config.quorum().is_some() {
            policy |= REQUIRE_EXTENSION;
        }
    }
    if keys.previous.is_some() {
        policy |= PREVIOUS_KEY;
    }
    let current = keys.tag_key();
    let previous = keys
        .previous
        .as_ref()
        .map(|key| TagKey::new(*key.as_bytes()));
    ClusterConfig {
        cluster: secret::cluster_id(&cluster.name),
        keys: [current, previous.unwrap_or(current)],
        policy,
        // A path's interface is a VLAN itself where there is one.
        vlan: 0,
        node: cluster.node.get(),
        reserved: 0,
    }
}

/// Returns the other members' ids.
#[must_use]
pub fn other_ids(cluster: Option<&Cluster>) -> Vec<NodeId> {
    cluster
        .into_iter()
        .flat_map(|cluster| cluster.others().map(|member| member.id))
        .collect()
}

/// Returns what the core has to know of the cluster.
///
/// # Errors
/// No randomness.
pub fn settings(
    cluster: &Cluster,
    candidate: Option<&Config>,
    beginning: &Beginning,
) -> anyhow::Result<quorum::Settings> {
    let priority = candidate.map(|config| Priority::new(config.carp.advbase, config.carp.advskew));
    Ok(quorum::Settings {
        cluster: secret::cluster_id(&cluster.name),
        own: cluster.node,
        members: cluster.list,
        sources: sources(cluster, candidate.map(|config| config.vip)),
        generation: cluster.generation,
        previous: beginning.previous,
        timing: cluster.timing,
        // A witness is never ranked.
        priority: priority.unwrap_or_else(|| Priority::new(1, u8::MAX - 1)),
        max_lag: cluster.max_lag,
        cold_start_wait: cluster.cold_start_wait,
        accepts_loss: cluster.accepts_loss,
        durable: beginning.durable,
        seed: getrandom::u64().context("draw a random seed")?,
    })
}

/// Returns the other members' addresses in the VIP's network, or what stands for them.
#[must_use]
pub fn member_sources(cluster: &Cluster, config: &Configuration) -> Vec<(NodeId, Ipv4Addr)> {
    let vip = match config {
        Configuration::Candidate(config) => Some(config.vip),
        Configuration::Witness(_) => None,
    };
    let ids = cluster.list.iter().map(|member| member.id);
    ids.zip(sources(cluster, vip).map(Ipv4Addr::from)).collect()
}

/// Returns each member's address in the VIP's network, in the order of the list by id. Where no network of
/// the cluster is the VIP's, that in the first one of IPv4: it is only to tell one master from another.
fn sources(cluster: &Cluster, vip: Option<Vip>) -> [Ipv4; MEMBERS_MAX] {
    let own: Vec<Option<Ipv4Addr>> = cluster.own().map_or_else(Vec::new, |own| {
        own.addresses
            .iter()
            .map(|address| match address {
                std::net::IpAddr::V4(v4) => Some(*v4),
                std::net::IpAddr::V6(_) => None,
            })
            .collect()
    });
    let is_with_vip = |own: &Option<Ipv4Addr>| {
        own.zip(vip).is_some_and(|(own, vip)| {
            let host_bits = 32_u32.saturating_sub(u32::from(vip.prefix_len));
            let network = |address: Ipv4Addr| address.to_bits().checked_shr(host_bits);
            network(own) == network(vip.address)
        })
    };
    let place = own
        .iter()
        .position(is_with_vip)
        .or_else(|| own.iter().position(Option::is_some));
    let mut sources = [[0; 4]; MEMBERS_MAX];
    for (source, member) in sources.iter_mut().zip(cluster.list.iter()) {
        let address = cluster
            .members
            .iter()
            .find(|known| known.id == member.id)
            .zip(place)
            .and_then(|(known, place)| known.addresses.get(place));
        *source = match address {
            Some(std::net::IpAddr::V4(v4)) => v4.octets(),
            Some(std::net::IpAddr::V6(_)) | None => [0, 0, 0, member.id.get()],
        };
    }
    sources
}

#[cfg(test)]
mod tests;
