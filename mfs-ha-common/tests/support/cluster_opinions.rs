//! The verdict of the code under test on a heartbeat, in the words of the second opinion.

use mfs_ha_common::filter::{ClusterConfig, HEARTBEATS, PREVIOUS_KEY, VLAN_ANY};
use mfs_ha_common::heartbeat::{BODY_LEN, Stamp, TagKey};
use mfs_ha_common::member::{Cluster, MemberKey};
use mfs_ha_common::validate::{Verdict, validate};

use crate::cluster::filter;
use crate::cluster_reference::{Node, Opinion};

struct Remembered<'a> {
    config: ClusterConfig,
    node: &'a Node,
}

impl Cluster for Remembered<'_> {
    fn config(&self) -> Option<&ClusterConfig> {
        Some(&self.config)
    }

    fn last(&self, key: MemberKey) -> Option<Stamp> {
        let mut others = self.node.others.iter();
        let (_, boot, sequence) = *others.find(|(id, ..)| key == MemberKey::heartbeat(*id))?;
        Some(Stamp { boot, sequence })
    }
}

/// Asks the code under test about a frame that is no advert.
pub(crate) fn opinion_of_core(frame: &[u8], node: &Node) -> Opinion {
    let key = |index: usize| TagKey::new(node.keys.get(index).copied().unwrap_or_default());
    let has_previous = node.keys.len() > 1;
    let remembered = Remembered {
        config: ClusterConfig {
            cluster: node.cluster,
            keys: [key(0), key(1)],
            policy: HEARTBEATS | if has_previous { PREVIOUS_KEY } else { 0 },
            vlan: node.vlan.unwrap_or(VLAN_ANY),
            node: node.id,
            reserved: 0,
        },
        node,
    };
    match validate(frame, &filter(), &(), &remembered) {
        Verdict::Pass(reason) => Opinion::Pass(reason.name()),
        Verdict::Drop(reason) | Verdict::Mismatch(reason, _) => Opinion::Drop(reason.name()),
        Verdict::Accept(accepted) => unreachable!("no advert was asked about: {accepted:?}"),
        Verdict::Heartbeat(accepted) => {
            let source = accepted.source(frame).unwrap();
            // An IPv4 address is the end of its mapped one.
            let is_ipv4 = source[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
                && frame[accepted.body_at() - 30..accepted.body_at() - 28] == [8, 0];
            let body_at = accepted.body_at();
            Opinion::Accept {
                sender: accepted.sender,
                key: accepted.key.into(),
                source: source[if is_ipv4 { 12 } else { 0 }..].to_vec(),
                body: frame[body_at..body_at + BODY_LEN].to_vec(),
            }
        }
    }
}
