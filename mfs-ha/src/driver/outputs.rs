//! Where the core's decisions go.

use std::net::Ipv4Addr;
use std::time::Duration;

use mfs_ha_common::action::{Action, Hook};
use mfs_ha_common::cluster::NodeId;
use mfs_ha_common::durable::Durable;
use tokio::sync::watch;

use crate::cluster::rounds::{Rounds, Signer};
use crate::gate::GateWriter;
use crate::netlink::vip::Wanted;
use crate::promotion::{Order, Orders, Wish};
use crate::watchdog::Pulse;

/// Where decisions go. Sending never waits.
pub struct Outputs {
    /// What a candidate has.
    pub service: Option<ServiceOutputs>,
    /// The rounds of quorum mode, and where its durable state goes.
    pub quorum: Option<QuorumOutputs>,
    /// Signs adverts; `None` without a cluster.
    pub signer: Option<Signer>,
    /// Tells the gate until when this node may serve; `None` without one.
    pub gate: Option<GateWriter>,
    /// Gives signs of life to the watchdog; `None` without one.
    pub watchdog: Option<Pulse>,
}

/// Where a candidate's decisions go.
#[derive(Debug)]
pub struct ServiceOutputs {
    /// The VIP.
    pub vip: watch::Sender<Wanted>,
    /// The hook that has to be the last one that ran.
    pub hooks: watch::Sender<Option<Hook>>,
    /// The metadata; `None` for a plain CARP daemon.
    pub metadata: Option<Orders>,
}

/// Where a voter's decisions go.
#[derive(Debug)]
pub struct QuorumOutputs {
    /// Sends heartbeats.
    pub rounds: Rounds,
    /// What shall be on disk; the latest counts.
    pub store: watch::Sender<Option<Durable>>,
    /// How long a holder that is not heard is taken to serve: T.
    pub patience: Duration,
    /// By which address a member is followed.
    pub sources: Vec<(NodeId, Ipv4Addr)>,
}

impl ServiceOutputs {
    /// `seen_epoch` is as in [`Order`].
    pub(super) fn order(&self, action: Action, seen_epoch: u64) {
        match action {
            Action::SetVip { present } => self.vip.send_modify(|wanted| {
                wanted.present = present;
                wanted.generation += 1;
            }),
            Action::RunHook(hook) => {
                self.hooks.send_replace(Some(hook));
            }
            Action::RunStep { step, ticket } => {
                if let Some(orders) = &self.metadata {
                    let order = Order {
                        step,
                        ticket,
                        seen_epoch,
                    };
                    orders.step.send_replace(Some(order));
                }
            }
            Action::FollowMaster { source } => {
                if let Some(orders) = &self.metadata {
                    orders.wish.send_replace(Some(Wish::Follow(source.into())));
                }
            }
            Action::FreezeMetadata => {
                if let Some(orders) = &self.metadata {
                    orders.wish.send_replace(Some(Wish::Freeze));
                }
            }
            Action::SendAdvert(_)
            | Action::SendHeartbeats
            | Action::Store(_)
            | Action::AnnounceVip
            | Action::Report(_)
            | Action::Exit => {}
        }
    }
}
