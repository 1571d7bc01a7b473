//! What the promotion shows of itself. Written by the executor, read by the control socket.

use std::sync::{Arc, Mutex, PoisonError};

use mfs_ha_common::promotion::{RESIGNATION, Step};
use mfs_ha_common::time::Timestamp;

use crate::clock;
use crate::moosefs::directory::Freshness;

/// Steps that status shows: a promotion and the resignation after it.
const STEPS_MAX: usize = 16;

/// Stands for a step where mfsmaster was lost while it served.
const SERVING: &str = "serving";

/// A step that was asked for.
#[derive(Clone, Debug)]
pub struct StepView {
    /// Which one.
    pub step: Step,
    /// When it began.
    pub started: Timestamp,
    /// When it ended, and how; `None` while it runs.
    pub ended: Option<(Timestamp, Outcome)>,
}

impl StepView {
    const fn has_failed(&self) -> bool {
        matches!(self.ended, Some((_, Outcome::Failed(_))))
    }
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Done,
    /// For this reason.
    Failed(String),
    /// Another step was wanted instead.
    Superseded,
}

/// A failure.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The step that failed, or `serving`.
    pub step: &'static str,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct PromotionView {
    /// Of the last promotion and of the resignation after it, oldest first.
    pub steps: Vec<StepView>,
    /// The last failure since the daemon started.
    pub last_failure: Option<Failure>,
    /// What could be promoted.
    pub freshness: Option<Freshness>,
    /// Why nothing could be.
    pub not_ready: Option<String>,
    /// Epoch of the directory.
    pub epoch: u64,
    /// The mfsmaster that runs.
    pub master_pid: Option<i32>,
    /// The mfsmetalogger that runs.
    pub metalogger_pid: Option<i32>,
    /// What standby care last could not do.
    pub standby_problem: Option<String>,
    /// What this node had before it followed the present master, and the cluster does not have.
    pub lost: Option<String>,
}

/// The [`PromotionView`] of a running promotion.
#[derive(Clone, Debug, Default)]
pub struct PromotionViews(Arc<Mutex<PromotionView>>);

impl PromotionViews {
    /// Returns the present view.
    #[must_use]
    pub fn get(&self) -> PromotionView {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes the view.
    pub(super) fn change(&self, change: impl FnOnce(&mut PromotionView)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes that a step begins; the first one of a promotion begins a new list.
    pub(super) fn begin(&self, step: Step) {
        self.change(|view| {
            if step == Step::StopStray {
                view.steps.clear();
            }
            if view.steps.len() == STEPS_MAX {
                view.steps.remove(0);
            }
            view.steps.push(StepView {
                step,
                started: clock::now(),
                ended: None,
            });
        });
    }

    /// Notes that the mfsmaster that served is lost.
    pub(super) fn lost(&self, reason: &str) {
        self.change(|view| {
            view.last_failure = Some(Failure {
                step: SERVING,
                at: clock::now(),
                reason: reason.to_owned(),
            });
        });
    }

    /// Notes how the step that runs ended.
    pub(super) fn end(&self, outcome: Outcome) {
        let at = clock::now();
        self.change(|view| {
            let has_failure = view.steps.iter().any(StepView::has_failed);
            let Some(last) = view.steps.last_mut().filter(|last| last.ended.is_none()) else {
                return;
            };
            // The first cause is what an operator needs; that undoing failed too, standby care shows.
            let is_undoing = RESIGNATION.contains(&last.step);
            if let Outcome::Failed(reason) = &outcome
                && !(is_undoing && has_failure)
            {
                view.last_failure = Some(Failure {
                    step: last.step.name(),
                    at,
                    reason: reason.clone(),
                });
            }
            last.ended = Some((at, outcome));
        });
    }
}
