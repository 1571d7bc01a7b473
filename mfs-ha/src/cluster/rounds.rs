//! Rounds of heartbeats, from the core's words to the networks, and the numbers on signed adverts.

use mfs_ha_common::carp::trailer::Trailer;
use mfs_ha_common::cluster::NodeId;
use mfs_ha_common::freshness::Freshness;
use mfs_ha_common::heartbeat::{Stamp, TagKey};
use mfs_ha_common::node::Node;

use super::sender::PathSender;

/// Sends each other member what the core has for it, over all networks.
#[derive(Debug)]
pub struct Rounds {
    key: TagKey,
    members: Vec<NodeId>,
    paths: Vec<Path>,
}

#[derive(Debug, Default)]
struct Path {
    sender: Option<Box<PathSender>>,
    count: PathCount,
}

/// What became of heartbeats in one network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCount {
    /// The interface took them.
    pub sent: u64,
    /// It did not, or there was none.
    pub failed: u64,
    /// The number of the last error; `None` after one that was sent, and where there was no interface.
    pub errno: Option<i32>,
}

impl Rounds {
    /// No network can be used yet.
    #[must_use]
    pub fn new(key: TagKey, members: Vec<NodeId>, paths: usize) -> Self {
        Self {
            key,
            members,
            paths: (0..paths).map(|_| Path::default()).collect(),
        }
    }

    /// Uses this for a network from now on, or nothing.
    pub fn set(&mut self, index: usize, sender: Option<Box<PathSender>>) {
        if let Some(path) = self.paths.get_mut(index) {
            path.sender = sender;
        }
    }

    /// Sends the round that the core asked for last.
    pub fn send(&mut self, node: &Node) {
        for to in &self.members {
            let Some(heartbeat) = node.heartbeat(*to) else {
                continue;
            };
            let datagram = self.key.seal(&heartbeat.emit());
            for path in &mut self.paths {
                path.send(*to, &datagram);
            }
        }
    }

    /// Returns what became of them, in the order of the networks.
    #[must_use]
    pub fn counts(&self) -> Vec<PathCount> {
        self.paths.iter().map(|path| path.count).collect()
    }
}

impl Path {
    fn send(&mut self, to: NodeId, datagram: &[u8; mfs_ha_common::heartbeat::DATAGRAM_LEN]) {
        let Some(sender) = &self.sender else {
            self.count.failed += 1;
            return;
        };
        match sender.send(to, datagram) {
            Ok(()) => {
                self.count.sent += 1;
                self.count.errno = None;
            }
            Err(error) => {
                self.count.failed += 1;
                self.count.errno = error.raw_os_error();
            }
        }
    }
}

/// Signs adverts. Their numbers rise over all lives of the daemon and all appearances of the interface.
#[derive(Debug)]
pub struct Signer {
    key: TagKey,
    trailer: Trailer,
}

impl Signer {
    /// `boot` is the number of this life, which is on disk.
    #[must_use]
    pub const fn new(key: TagKey, cluster: u64, node: NodeId, boot: u64) -> Self {
        Self {
            key,
            trailer: Trailer {
                cluster,
                node,
                stamp: Stamp { boot, sequence: 0 },
                epoch: 0,
                freshness: Freshness {
                    epoch: 0,
                    version: 0,
                },
            },
        }
    }

    /// The core counts lives in quorum mode, and may begin one in the middle of ours (rule L8).
    pub fn describe(&mut self, boot: u64, epoch: u64) {
        self.trailer.stamp.boot = boot;
        self.trailer.epoch = epoch;
    }

    /// What this node has of the metadata.
    pub const fn set_freshness(&mut self, freshness: Freshness) {
        self.trailer.freshness = freshness;
    }

    /// Returns the key and the trailer of the next advert.
    pub fn sign(&mut self) -> (&TagKey, &Trailer) {
        self.trailer.stamp.sequence = self.trailer.stamp.sequence.saturating_add(1);
        (&self.key, &self.trailer)
    }
}
