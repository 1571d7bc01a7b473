//! `[cluster]`: the nodes that vote, and how they talk to each other.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use mfs_ha_common::cluster::{MEMBERS_MAX, Member, Members, Membership, NodeId, Role, Timing};
use toml::de::DeValue;

use super::section::{Placed, Problems, Refusal, Section, boolean, integer, text};
use super::values::{absolute_path, choice, host_address};

/// Networks between the nodes. Two are for redundancy; more are for exercise.
const PATHS_MAX: usize = 4;

/// A lease has to outlive two heartbeats that got lost.
const HEARTBEATS_IN_LEASE: u64 = 4;

/// Where what a node must not forget is kept.
const STATE_DIR: &str = "/var/lib/mfs-ha";

/// `[cluster]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Tells this cluster from others on the same networks; 1 to 64 bytes.
    pub name: String,
    /// Which member this node is.
    pub node: NodeId,
    /// Holds the shared secret; read by [`crate::secret`].
    pub secret_file: PathBuf,
    /// Holds a secret that others may still use: accepted and never sent.
    pub previous_secret_file: Option<PathBuf>,
    /// Rises by one with each change of the member list.
    pub generation: u32,
    /// H and T.
    pub timing: Timing,
    /// Changes that a candidate may lack of what was last served.
    pub max_lag: u64,
    /// How long the first election waits for candidates that are not heard.
    pub cold_start_wait: Duration,
    /// The operator accepts that newer metadata are lost.
    pub accepts_loss: bool,
    /// Holds the directory of what this node must not forget.
    pub state_dir: PathBuf,
    /// In the order of the file.
    pub members: Vec<ClusterMember>,
    /// The same as the rules need it.
    pub list: Members,
}

/// `[[cluster.members]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterMember {
    /// 1 to 255.
    pub id: NodeId,
    /// Whether it may become master.
    pub role: Role,
    /// One for each network, in the same order as those of all other members.
    pub addresses: Vec<IpAddr>,
}

impl Cluster {
    /// This node's line of the list.
    pub fn own(&self) -> Option<&ClusterMember> {
        self.members.iter().find(|member| member.id == self.node)
    }

    /// All others.
    pub fn others(&self) -> impl Iterator<Item = &ClusterMember> {
        self.members.iter().filter(|member| member.id != self.node)
    }

    /// What the list is compared by.
    pub fn membership(&self) -> Membership {
        Membership::new(self.generation, &self.list, self.timing)
    }

    /// What is legal here and yet probably not what was meant.
    pub fn doubts(&self) -> Vec<String> {
        let count = self.list.len();
        let witnesses = self.list.iter().filter(|m| m.role == Role::Witness).count();
        let mut doubts = Vec::new();
        match count {
            1 => doubts.push(
                "the cluster has one member: it decides alone, so nothing takes over when it is gone; \
                 list the other nodes in [[cluster.members]]"
                    .to_owned(),
            ),
            2 => doubts.push(format!(
                "the cluster has two members{}: both are needed for a majority, so the loss of either one \
                 ends the service; add a third, for example a witness on a chunkserver",
                if witnesses == 0 { " and no witness" } else { "" }
            )),
            even if even % 2 == 0 => doubts.push(format!(
                "the cluster has {even} members: a majority is {}, so it survives the loss of {}, no more \
                 than {} members would; add or remove one, for example a witness",
                self.list.majority(),
                even - self.list.majority(),
                even - 1
            )),
            _ => {}
        }
        if count > 1 && count - witnesses == 1 {
            doubts.push(
                "only one member is a candidate: nobody can take over from it; give another one \
                 `role = \"candidate\"`"
                    .to_owned(),
            );
        }
        doubts
    }
}

pub(super) const KEYS: &[&str] = &[
    "name",
    "node",
    "secret_file",
    "previous_secret_file",
    "generation",
    "heartbeat_interval_ms",
    "lease_ms",
    "max_lag",
    "cold_start_wait_ms",
    "accept_loss",
    "state_dir",
    "members",
];

pub(super) const MEMBER_KEYS: &[&str] = &["id", "role", "addresses"];

/// What stands in the table.
pub(super) struct Read {
    pub(super) is_present: bool,
    /// `None` also where something indispensable is missing.
    pub(super) cluster: Option<Cluster>,
    /// Known even where other things are wrong.
    pub(super) own_role: Option<Role>,
    /// With their places, to be compared with what stands elsewhere.
    pub(super) addresses: Vec<Placed<IpAddr>>,
}

/// Reads the table.
pub(super) fn read(
    root: &mut Section<'_, '_>,
    problems: &Problems<'_>,
    explain: impl Fn(&str, &str) -> String + Copy,
) -> Read {
    let mut table = root.table("cluster");
    if !table.is_present() {
        return Read {
            is_present: false,
            cluster: None,
            own_role: None,
            addresses: Vec::new(),
        };
    }
    let name = table.require(
        "name",
        "a text of 1 to 64 bytes that names the cluster, the same on all nodes",
        cluster_name,
    );
    let node = table.require(
        "node",
        "the `id` of the member that this node is, from 1 to 255",
        node_id,
    );
    let secret = "the path of a file, beginning with /, that holds the cluster's secret";
    let secret_file = table.require("secret_file", secret, absolute_path);
    let previous_secret_file = table.take("previous_secret_file", secret, absolute_path);
    if let (Some(new), Some(old)) = (&secret_file, &previous_secret_file)
        && new.value == old.value
    {
        problems.add_at(
            old.offset,
            "`cluster.previous_secret_file` is the same file as `cluster.secret_file`: name the one that \
             holds the former secret, or remove it"
                .to_owned(),
        );
    }
    let timing = timing(&mut table, problems);
    let choices = choices(&mut table);
    let (members, list) = members(&mut table, problems, explain);
    table.finish(explain);

    let own_role = own_role(node.as_ref(), &members, problems);
    let addresses = members.iter().flat_map(RawMember::placed).collect();
    let members: Option<Vec<ClusterMember>> =
        members.into_iter().map(RawMember::complete).collect();
    let cluster = (|| {
        Some(Cluster {
            name: name?.value,
            node: node?.value,
            secret_file: secret_file?.value,
            previous_secret_file: previous_secret_file.map(|path| path.value),
            generation: choices.generation,
            timing,
            max_lag: choices.max_lag,
            cold_start_wait: choices.cold_start_wait,
            accepts_loss: choices.accepts_loss,
            state_dir: choices.state_dir,
            members: members?,
            list: list?,
        })
    })();
    Read {
        is_present: true,
        cluster,
        own_role,
        addresses,
    }
}

/// What the member does that this node says it is.
fn own_role(
    node: Option<&Placed<NodeId>>,
    members: &[RawMember],
    problems: &Problems<'_>,
) -> Option<Role> {
    let node = node?;
    let own = members.iter().find(|member| member.id == Some(node.value));
    if own.is_none() {
        problems.add_at(
            node.offset,
            format!(
                "`cluster.node` is {}, which no [[cluster.members]] has as its `id`: every node stands in \
                 the list, this one too",
                node.value
            ),
        );
    }
    own?.role
}

fn timing(table: &mut Section<'_, '_>, problems: &Problems<'_>) -> Timing {
    let interval = table.take(
        "heartbeat_interval_ms",
        "a number of milliseconds from 5 to 1000",
        |value| integer::<u64>(value, 5..=1000),
    );
    let lease = table.take(
        "lease_ms",
        "a number of milliseconds from 15 to 60000",
        |value| integer::<u64>(value, 15..=60_000),
    );
    let default = Timing::DEFAULT;
    let place = lease.as_ref().or(interval.as_ref()).map(|at| at.offset);
    let timing = Timing {
        interval: interval.map_or(default.interval, |given| Duration::from_millis(given.value)),
        lease: lease.map_or(default.lease, |given| Duration::from_millis(given.value)),
    };
    let (interval, lease) = (timing.interval.as_millis(), timing.lease.as_millis());
    let least = interval * u128::from(HEARTBEATS_IN_LEASE);
    if let Some(place) = place.filter(|_| lease < least) {
        problems.add_at(
            place,
            format!(
                "`cluster.lease_ms` is {lease} and `cluster.heartbeat_interval_ms` is {interval}: a lease \
                 must last at least {HEARTBEATS_IN_LEASE} heartbeats, here {least}; 300 and 50 are usual, 60 \
                 and 10 are fast"
            ),
        );
    }
    timing
}

struct Choices {
    generation: u32,
    max_lag: u64,
    cold_start_wait: Duration,
    accepts_loss: bool,
    state_dir: PathBuf,
}

fn choices(table: &mut Section<'_, '_>) -> Choices {
    let generation = table.take("generation", "a number from 1 to 4294967295", |value| {
        integer::<u32>(value, 1..=u64::from(u32::MAX))
    });
    let max_lag = table.take(
        "max_lag",
        "a number of changes from 0 to 1000000000",
        |value| integer::<u64>(value, 0..=1_000_000_000),
    );
    let cold_start_wait = table.take(
        "cold_start_wait_ms",
        "a number of milliseconds from 0 to 3600000",
        |value| integer::<u64>(value, 0..=3_600_000),
    );
    let accepts_loss = table.take("accept_loss", "true or false", boolean);
    let state_dir = table.take(
        "state_dir",
        "a directory that begins with /, such as \"/var/lib/mfs-ha\"",
        absolute_path,
    );
    Choices {
        generation: generation.map_or(1, |given| given.value),
        max_lag: max_lag.map_or(mfs_ha_common::election::quorum::MAX_LAG, |given| {
            given.value
        }),
        cold_start_wait: cold_start_wait
            .map_or(mfs_ha_common::election::quorum::COLD_START_WAIT, |given| {
                Duration::from_millis(given.value)
            }),
        accepts_loss: accepts_loss.is_some_and(|accepts| accepts.value),
        state_dir: state_dir.map_or_else(|| PathBuf::from(STATE_DIR), |dir| dir.value),
    }
}

/// A member whose values may be missing or wrong.
struct RawMember {
    offset: usize,
    id: Option<NodeId>,
    role: Option<Role>,
    addresses: Vec<Placed<IpAddr>>,
    /// As many as stand in the file, good ones or not.
    count: Option<usize>,
}

impl RawMember {
    fn placed(&self) -> impl Iterator<Item = Placed<IpAddr>> {
        self.addresses.iter().map(|address| Placed {
            value: address.value,
            offset: address.offset,
        })
    }

    fn complete(self) -> Option<ClusterMember> {
        Some(ClusterMember {
            id: self.id?,
            role: self.role?,
            addresses: self.addresses.into_iter().map(|a| a.value).collect(),
        })
    }
}

fn members(
    table: &mut Section<'_, '_>,
    problems: &Problems<'_>,
    explain: impl Fn(&str, &str) -> String + Copy,
) -> (Vec<RawMember>, Option<Members>) {
    let sections = table.tables("members", "cluster.members");
    if sections.is_empty() {
        problems.add(
            "`cluster.members` is missing: list all nodes, this one too, each as a table \
             [[cluster.members]] with `id`, `role` and `addresses`"
                .to_owned(),
        );
        return (Vec::new(), None);
    }
    if let Some(extra) = sections.get(MEMBERS_MAX) {
        problems.add_at(
            extra.offset,
            format!("`cluster.members` has more than {MEMBERS_MAX} elements: more voters make no cluster safer"),
        );
    }
    let members: Vec<RawMember> = sections
        .into_iter()
        .map(|section| member(section.value, section.offset, problems, explain))
        .collect();
    check_ids(&members, problems);
    check_addresses(&members, problems);
    let roles: Option<Vec<Member>> = members
        .iter()
        .map(|member| {
            Some(Member {
                id: member.id?,
                role: member.role?,
            })
        })
        .collect();
    if roles
        .as_ref()
        .is_some_and(|roles| roles.iter().all(|member| member.role == Role::Witness))
    {
        problems.add(
            "`cluster.members` has no candidate: nobody could become master; give the nodes that run \
             mfsmaster `role = \"candidate\"`"
                .to_owned(),
        );
    }
    // What this refuses was reported above.
    let list = roles.and_then(|roles| Members::new(roles).ok());
    (members, list)
}

fn member(
    mut section: Section<'_, '_>,
    offset: usize,
    problems: &Problems<'_>,
    explain: impl Fn(&str, &str) -> String,
) -> RawMember {
    let id = section.require(
        "id",
        "a number from 1 to 255, another one for each member",
        node_id,
    );
    let role = section.require("role", "\"candidate\" or \"witness\"", |value| {
        let words = [("candidate", Role::Candidate), ("witness", Role::Witness)];
        choice(value, words)
    });
    let addresses = section.take_list(
        "addresses",
        "an IPv4 or IPv6 address of that node, such as \"10.0.0.1\"",
        member_address,
    );
    if !section.has("addresses") {
        problems.add_at(
            offset,
            "`cluster.members.addresses` is missing: it must be an array of addresses of that node, one \
             for each network, such as [\"10.0.0.1\"]"
                .to_owned(),
        );
    }
    section.finish(explain);
    let count = addresses.as_ref().map(|list| list.count);
    if let Some(list) = &addresses
        && !(1..=PATHS_MAX).contains(&list.count)
    {
        problems.add_at(
            list.offset,
            format!(
                "`cluster.members.addresses` has {} elements: give 1 to {PATHS_MAX}, one for each network",
                list.count
            ),
        );
    }
    RawMember {
        offset,
        id: id.map(|id| id.value),
        role: role.map(|role| role.value),
        addresses: addresses.map_or_else(Vec::new, |list| list.value),
        count,
    }
}

fn check_ids(members: &[RawMember], problems: &Problems<'_>) {
    for (index, member) in members.iter().enumerate() {
        let Some(id) = member.id else { continue };
        if members
            .iter()
            .take(index)
            .any(|earlier| earlier.id == Some(id))
        {
            problems.add_at(
                member.offset,
                format!("`cluster.members.id` is {id} twice: give each member a number of its own"),
            );
        }
    }
}

/// The i-th addresses of all members belong to one network.
fn check_addresses(members: &[RawMember], problems: &Problems<'_>) {
    let mut earlier: Vec<IpAddr> = Vec::new();
    for address in members.iter().flat_map(|member| &member.addresses) {
        if earlier.contains(&address.value) {
            problems.add_at(
                address.offset,
                format!(
                    "`cluster.members.addresses` lists {} twice: each address belongs to one node",
                    address.value
                ),
            );
        }
        earlier.push(address.value);
    }
    let Some(first) = members.first() else { return };
    for member in members {
        let (Some(count), Some(expected)) = (member.count, first.count) else {
            continue;
        };
        if count != expected {
            problems.add_at(
                member.offset,
                format!(
                    "`cluster.members.addresses` has {count} elements here and {expected} for the first \
                     member: give all members one for each network, in the same order"
                ),
            );
            continue;
        }
        // Where one was refused, the places of the others say nothing.
        let is_whole = |member: &RawMember| Some(member.addresses.len()) == member.count;
        let pairs = member.addresses.iter().zip(&first.addresses);
        for (own, other) in pairs.filter(|_| is_whole(member) && is_whole(first)) {
            if own.value.is_ipv4() != other.value.is_ipv4() {
                problems.add_at(
                    own.offset,
                    format!(
                        "`cluster.members.addresses` pairs {} with {}: addresses at the same place belong \
                         to one network, so all are IPv4 or all IPv6",
                        own.value, other.value
                    ),
                );
            }
        }
    }
}

fn cluster_name(value: &DeValue<'_>) -> Result<String, Refusal> {
    let name = text(value)?;
    if (1..=64).contains(&name.len()) {
        Ok(name.to_owned())
    } else {
        Err(Refusal::Unexpected)
    }
}

fn node_id(value: &DeValue<'_>) -> Result<NodeId, Refusal> {
    NodeId::new(integer::<u8>(value, 1..=255)?).ok_or(Refusal::Unexpected)
}

fn member_address(value: &DeValue<'_>) -> Result<IpAddr, Refusal> {
    let written = text(value)?;
    if !written.contains(':') {
        return host_address(value).map(IpAddr::V4);
    }
    let address: Ipv6Addr = written.parse().ok().ok_or(Refusal::Unexpected)?;
    let what = if address.is_unspecified() {
        "that is no address at all"
    } else if address.is_loopback() {
        "that is a loopback address, which never leaves this host"
    } else if address.is_multicast() {
        "that is a multicast address"
    } else if address.is_unicast_link_local() {
        "link-local addresses change with the network card; use one that you chose, such as fd00::1"
    } else if address.to_ipv4_mapped().is_some() {
        "that is an IPv4 address in IPv6 form; write it as IPv4"
    } else {
        return Ok(IpAddr::V6(address));
    };
    Err(Refusal::Because(what.to_owned()))
}
