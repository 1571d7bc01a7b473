//! The loop: do the step that is wanted; without one, watch over what runs.

use std::pin::pin;

use mfs_ha_common::promotion::Step;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::view::Outcome;
use super::{Inputs, Metadata, Order, Served, Wish};
use crate::driver::Fact;
use crate::error::chain;

/// Tells the heartbeat thread what became of its orders, and what it has to know.
#[derive(Clone, Debug)]
pub struct Reports(mpsc::Sender<Fact>);

impl Reports {
    /// Reports over this channel.
    #[must_use]
    pub const fn new(facts: mpsc::Sender<Fact>) -> Self {
        Self(facts)
    }

    pub(super) async fn tell(&self, fact: Fact) {
        if self.0.send(fact).await.is_err() {
            tracing::debug!("the heartbeat thread has ended");
        }
    }
}

/// What happens to the metadata when no step is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calm {
    /// It is kept fresh.
    Standby,
    /// Nothing may touch it: the next step follows, or the heartbeat thread has ended.
    Between,
    /// It is served.
    Serving,
}

/// Carries orders out.
pub struct Executor {
    metadata: Metadata,
    calm: Calm,
    orders: watch::Receiver<Option<Order>>,
    wishes: watch::Receiver<Option<Wish>>,
    holder: watch::Receiver<Option<Served>>,
    reports: Reports,
}

impl Executor {
    /// Joins the parts.
    #[must_use]
    pub fn new(metadata: Metadata, inputs: Inputs, reports: Reports) -> Self {
        Self {
            metadata,
            calm: Calm::Standby,
            orders: inputs.steps,
            wishes: inputs.wishes,
            holder: inputs.holder,
            reports,
        }
    }

    /// Runs until the heartbeat thread is gone.
    pub async fn run(mut self) {
        loop {
            let calm = Self::keep_calm(
                self.calm,
                &mut self.metadata,
                &mut self.wishes,
                &self.holder,
                &self.reports,
            );
            tokio::select! {
                changed = self.orders.changed() => if changed.is_err() {
                    return;
                },
                lost = calm => {
                    tracing::error!(reason = lost, "mfsmaster is lost");
                    self.metadata.views().lost(&lost);
                    self.calm = Calm::Between;
                    self.reports.tell(Fact::MasterLost).await;
                    continue;
                }
            }
            let order = *self.orders.borrow_and_update();
            if let Some(order) = order {
                self.obey(order).await;
            }
        }
    }

    /// Watches over the metadata; ends with the reason when its master is lost.
    async fn keep_calm(
        calm: Calm,
        metadata: &mut Metadata,
        wishes: &mut watch::Receiver<Option<Wish>>,
        holder: &watch::Receiver<Option<Served>>,
        reports: &Reports,
    ) -> String {
        match calm {
            Calm::Standby => metadata.stand_by(wishes, holder, reports).await,
            Calm::Between => std::future::pending().await,
            Calm::Serving => metadata.watch_master(reports).await,
        }
    }

    /// Carries a step out, unless another one is wanted before it ends.
    async fn obey(&mut self, order: Order) {
        let Order { step, ticket, .. } = order;
        self.metadata.seen_epoch = order.seen_epoch;
        let views = self.metadata.views();
        let id = step.info().id;
        tracing::info!(step = step.name(), id, "begins");
        views.begin(step);
        self.calm = Calm::Between;
        let started = Instant::now();
        let Some((result, ticket)) = self.await_step(step, ticket).await else {
            let outcome = self.superseded(step, started);
            tracing::warn!(step = step.name(), id, ?outcome, "not waited for any more");
            views.end(outcome);
            return;
        };
        let fact = match result {
            Ok(()) => {
                tracing::info!(step = step.name(), id, "done");
                views.end(Outcome::Done);
                self.calm = calm_after(step);
                Fact::StepDone { ticket }
            }
            Err(error) => {
                let reason = chain(error.as_ref());
                tracing::error!(step = step.name(), id, reason, "failed");
                views.end(Outcome::Failed(reason));
                if step == Step::RestoreMetadata {
                    // Standby care repeats it.
                    self.calm = Calm::Standby;
                } else if step == Step::AdmitChunkservers {
                    // The core may serve already, and has to hear of a master that ended.
                    self.calm = Calm::Serving;
                }
                Fact::StepFailed { ticket }
            }
        };
        self.reports.tell(fact).await;
    }
}

impl Executor {
    /// Carries a step out and returns how that went, with the ticket that it is wanted by then; `None`
    /// when another step is wanted.
    async fn await_step(
        &mut self,
        step: Step,
        mut ticket: u32,
    ) -> Option<(anyhow::Result<()>, u32)> {
        let mut carrying_out = pin!(self.metadata.carry_out(step));
        loop {
            tokio::select! {
                result = &mut carrying_out => return Some((result, ticket)),
                changed = self.orders.changed() => {
                    let order = *self.orders.borrow_and_update();
                    match order.filter(|order| changed.is_ok() && order.step == step) {
                        // Asked for again: what is under way would not be faster from the start.
                        Some(order) => ticket = order.ticket,
                        None => {
                            // Seen here, and still to be done.
                            self.orders.mark_changed();
                            return None;
                        }
                    }
                }
            }
        }
    }

    /// A step that was taken back before it ended: too slow, or the node has to give way.
    fn superseded(&self, step: Step, started: Instant) -> Outcome {
        let limit = self.metadata.service().limit(step);
        if started.elapsed() < limit {
            return Outcome::Superseded;
        }
        Outcome::Failed(format!("not done within its limit of {limit:?}"))
    }
}

const fn calm_after(step: Step) -> Calm {
    match step {
        Step::StartMaster | Step::AdmitChunkservers => Calm::Serving,
        Step::RestoreMetadata => Calm::Standby,
        Step::StopStray
        | Step::StopMetalogger
        | Step::Stage
        | Step::Verify
        | Step::Install
        | Step::RecordEpoch
        | Step::TakeVip
        | Step::StopMaster
        | Step::ReleaseVip => Calm::Between,
    }
}
