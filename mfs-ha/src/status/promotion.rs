//! The part of the status that shows the metadata: what could be promoted, and the steps of the last time.

use std::fmt;

use mfs_ha_common::promotion::{Phase, Step};
use mfs_ha_common::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{millis, seconds};
use crate::driver::View;
use crate::promotion::{Outcome, PromotionView, StepView};

/// The metadata of this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PromotionStatus {
    /// `standby`, `promoting`, `active`, `resigning` or `stuck`.
    pub phase: String,
    /// The step that runs.
    pub step: Option<RunningStatus>,
    /// Whether the metadata could be promoted now, or is served.
    pub ready: bool,
    /// Why not.
    pub not_ready_reason: Option<String>,
    /// Number of the next change of what was promotable at the last look.
    pub version: Option<u64>,
    /// Id of the file system, hexadecimal.
    pub metadata_id: Option<String>,
    /// Own promotions of this node.
    pub epoch: u64,
    /// The mfsmaster that runs.
    pub master_pid: Option<i32>,
    /// The mfsmetalogger that runs.
    pub metalogger_pid: Option<i32>,
    /// What standby care could not do at the last look.
    pub standby_problem: Option<String>,
    /// What this node had and the cluster does not have, since the daemon started; `mfs-ha history --lost` has it
    /// for good.
    pub lost: Option<String>,
    /// Of the last promotion and of the resignation after it, oldest first.
    pub steps: Vec<StepStatus>,
    /// The last failure since the daemon started.
    pub last_failure: Option<FailureStatus>,
}

/// The step that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunningStatus {
    /// Its name.
    pub step: String,
    /// `P1` to `P9`, `R1` to `R3`.
    pub id: String,
    /// Since when.
    pub elapsed_ms: u64,
    /// When it counts as failed; 0 if overdue.
    pub deadline_in_ms: u64,
}

/// A step that was asked for. Times are CLOCK_BOOTTIME, in nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepStatus {
    /// Its name.
    pub step: String,
    /// `P1` to `P7`, `P9`, `R1`, `R3`.
    pub id: String,
    /// When it began.
    pub started_ns: u64,
    /// When it ended; absent while it runs.
    pub ended_ns: Option<u64>,
    /// `running`, `done`, `failed` or `superseded`.
    pub result: String,
    /// Why it failed.
    pub reason: Option<String>,
}

/// A failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailureStatus {
    /// The step, or `serving`: mfsmaster was lost while it served.
    pub step: String,
    /// Why.
    pub reason: String,
    /// When.
    pub age_ms: u64,
}

impl PromotionStatus {
    /// Puts together what the core and the executor show.
    #[must_use]
    pub fn new(promotion: &PromotionView, view: &View) -> Self {
        let node = &view.node;
        Self {
            phase: node.phase.name().to_owned(),
            step: node.step.map(|running| RunningStatus {
                step: running.step.name().to_owned(),
                id: running.step.info().id.to_owned(),
                elapsed_ms: millis(view.at.since(running.since)),
                deadline_in_ms: millis(running.by.since(view.at)),
            }),
            ready: node.ready || node.phase == Phase::Active,
            not_ready_reason: promotion.not_ready.clone(),
            version: promotion.freshness.map(|freshness| freshness.version),
            metadata_id: promotion
                .freshness
                .map(|freshness| format!("{:016x}", freshness.id)),
            epoch: promotion.epoch,
            master_pid: promotion.master_pid,
            metalogger_pid: promotion.metalogger_pid,
            standby_problem: promotion.standby_problem.clone(),
            lost: promotion.lost.clone(),
            steps: promotion.steps.iter().map(StepStatus::from).collect(),
            last_failure: promotion
                .last_failure
                .as_ref()
                .map(|failure| FailureStatus {
                    step: failure.step.to_owned(),
                    reason: failure.reason.clone(),
                    age_ms: millis(view.at.since(failure.at)),
                }),
        }
    }
}

impl From<&StepView> for StepStatus {
    fn from(view: &StepView) -> Self {
        let (ended, result, reason) = match &view.ended {
            None => (None, "running", None),
            Some((at, Outcome::Done)) => (Some(at), "done", None),
            Some((at, Outcome::Failed(reason))) => (Some(at), "failed", Some(reason.clone())),
            Some((at, Outcome::Superseded)) => (Some(at), "superseded", None),
        };
        let step: Step = view.step;
        Self {
            step: step.name().to_owned(),
            id: step.info().id.to_owned(),
            started_ns: view.started.as_nanos(),
            ended_ns: ended.copied().map(Timestamp::as_nanos),
            result: result.to_owned(),
            reason,
        }
    }
}

impl fmt::Display for PromotionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metadata    ")?;
        match (&self.not_ready_reason, self.version) {
            (Some(reason), _) => write!(f, "not promotable: {reason}")?,
            (None, Some(version)) => write!(f, "version {version}")?,
            (None, None) => write!(f, "not looked at yet")?,
        }
        writeln!(f, ", epoch {}", self.epoch)?;
        for (name, pid) in [
            ("mfsmaster", self.master_pid),
            ("mfsmetalogger", self.metalogger_pid),
        ] {
            if let Some(pid) = pid {
                writeln!(f, "program     {name} (pid {pid})")?;
            }
        }
        if let Some(problem) = &self.standby_problem {
            writeln!(f, "standby     {problem}")?;
        }
        if let Some(lost) = &self.lost {
            writeln!(f, "lost        {lost}")?;
        }
        if let Some(running) = &self.step {
            writeln!(
                f,
                "step        {} {} for {}, {} left",
                running.id,
                running.step,
                seconds(running.elapsed_ms),
                seconds(running.deadline_in_ms)
            )?;
        }
        for step in &self.steps {
            writeln!(f, "step        {step}")?;
        }
        if let Some(failure) = &self.last_failure {
            writeln!(
                f,
                "failure     {} {} ago: {}",
                failure.step,
                seconds(failure.age_ms),
                failure.reason
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for StepStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.id, self.step, self.result)?;
        if let Some(ended) = self.ended_ns {
            let took_ms = ended.saturating_sub(self.started_ns) / 1_000_000;
            write!(f, " in {}", seconds(took_ms))?;
        }
        Ok(())
    }
}
