//! What a failover cost, as the judges and the client saw it.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::audit::Audit;

/// The findings of one failover. Times are seconds after the failure; none means never, or not applicable.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What was done.
    pub fault: String,
    /// To which node.
    pub failed: String,
    /// Which node took clients again.
    pub winner: Option<String>,
    /// Files that were ever acknowledged.
    pub acked: usize,
    /// Acknowledged files that were not there, for a reader in between or in the end.
    pub missing: usize,
    /// Acknowledged files with another content, for a reader in between or in the end.
    pub wrong: usize,
    /// Acknowledged files that could not be read in the end.
    pub unreadable: usize,
    /// Calls of the client that failed.
    pub client_errors: usize,
    /// The most nodes that answered one question for the VIP.
    pub owners_max: usize,
    /// How long two or more did.
    pub two_owners_s: f64,
    /// The most nodes that took clients in one round of questions.
    pub servers_max: usize,
    /// First advert of the new master; none when the master stayed.
    pub t_detect: Option<f64>,
    /// First ARP answer of the new owner; none when it stayed.
    pub t_vip: Option<f64>,
    /// The new mfsmaster takes clients.
    pub t_listen: Option<f64>,
    /// First write that was acknowledged by it.
    pub t_write: Option<f64>,
    /// First read that was answered by it.
    pub t_read: Option<f64>,
    /// All writers have gone on.
    pub t_write_all: Option<f64>,
    /// All readers have gone on.
    pub t_read_all: Option<f64>,
    /// Writers that have not gone on.
    pub writers_stalled: usize,
    /// Readers that have not gone on.
    pub readers_stalled: usize,
    /// The longest time without an acknowledged write.
    pub write_gap_s: f64,
    /// The longest time without a right read.
    pub read_gap_s: f64,
    /// The failed node is ready again.
    pub t_back: Option<f64>,
    /// Why it is not.
    pub not_back: Option<String>,
    /// The promotion, by the winner's own account.
    pub steps: Vec<Step>,
}

/// A step of a promotion.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Its number in the table of steps, such as P4.
    pub id: String,
    /// Its name.
    pub step: String,
    /// When it began.
    pub started: f64,
    /// When it ended; none while it runs.
    pub ended: Option<f64>,
    /// How it ended.
    pub result: String,
    /// Why it ended so.
    pub reason: Option<String>,
}

impl Report {
    /// Whether writers and readers went on, some of each at least.
    pub fn client_went_on(&self) -> bool {
        self.t_write.is_some() && self.t_read.is_some()
    }

    /// What is not as it has to be, a line each; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |is_bad: bool, text: String| {
            if is_bad {
                problems.push(text);
            }
        };
        let (acked, missing, wrong) = (self.acked, self.missing, self.wrong);
        check(
            missing > 0,
            format!("{missing} of {acked} acknowledged files were missing"),
        );
        check(
            wrong > 0,
            format!("{wrong} of {acked} acknowledged files had another content"),
        );
        check(
            self.unreadable > 0,
            format!(
                "{} of {acked} acknowledged files could not be read",
                self.unreadable
            ),
        );
        check(
            self.owners_max > 1,
            format!(
                "{} nodes owned the VIP for {:.3} s",
                self.owners_max, self.two_owners_s
            ),
        );
        check(self.t_write.is_none(), "no write went on".to_owned());
        check(self.t_read.is_none(), "no read went on".to_owned());
        if let Some(reason) = &self.not_back {
            problems.push(format!("{} did not come back: {reason}", self.failed));
        }
        problems
    }

    /// Adds what an audit found; `seen` are the names that readers had found (missing, wrong) in between.
    pub fn add_audit(&mut self, audit: &Audit, seen: (&BTreeSet<String>, &BTreeSet<String>)) {
        let count = |audited: &[String], seen: &BTreeSet<String>| {
            audited
                .iter()
                .collect::<BTreeSet<_>>()
                .union(&seen.iter().collect())
                .count()
        };
        self.acked = audit.acked;
        self.missing = count(&audit.missing, seen.0);
        self.wrong = count(&audit.wrong, seen.1);
        self.unreadable = audit.unreadable.len();
    }
}

/// The steps in a daemon's status document, with times relative to `failure_ns` of CLOCK_BOOTTIME. What is not
/// there or not as expected is left out: this is the daemon's own account and no verdict rests on it.
pub fn steps_of(status: &Value, failure_ns: u64) -> Vec<Step> {
    let list = status.pointer("/promotion/steps").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|item| {
            let text = |key: &str| item.get(key).and_then(Value::as_str).map(str::to_owned);
            let time = |key: &str| {
                item.get(key)
                    .and_then(Value::as_u64)
                    .map(|ns| seconds_between(failure_ns, ns))
            };
            Some(Step {
                id: text("id").unwrap_or_default(),
                step: text("step")?,
                started: time("started_ns")?,
                ended: time("ended_ns"),
                result: text("result").unwrap_or_default(),
                reason: text("reason"),
            })
        })
        .collect()
}

fn seconds_between(from_ns: u64, to_ns: u64) -> f64 {
    let size = std::time::Duration::from_nanos(from_ns.abs_diff(to_ns)).as_secs_f64();
    if to_ns < from_ns { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn steps_are_read_as_far_as_they_are_there() {
        let status = json!({"promotion": {"steps": [
            {"step": "stage", "id": "P4", "started_ns": 1_500_000_000_u64, "ended_ns": 1_750_000_000_u64, "result": "done", "reason": null},
            {"step": "verify", "id": "P5", "started_ns": 500_000_000_u64, "ended_ns": null, "result": "running"},
            {"id": "P6"},
            "nonsense",
        ]}});
        let steps = steps_of(&status, 1_000_000_000);
        assert_eq!(steps.len(), 2);
        assert_eq!((steps[0].started, steps[0].ended), (0.5, Some(0.75)));
        assert_eq!((steps[1].started, steps[1].ended), (-0.5, None));
        assert!(steps_of(&json!({}), 0).is_empty());
    }

    #[test]
    fn every_loss_is_a_problem() {
        let mut report = Report {
            owners_max: 1,
            t_write: Some(1.0),
            t_read: Some(1.0),
            ..Report::default()
        };
        assert!(report.problems().is_empty());
        let audit = Audit {
            acked: 9,
            missing: vec!["a".to_owned()],
            wrong: vec!["b".to_owned()],
            unreadable: Vec::new(),
        };
        let seen = BTreeSet::from(["a".to_owned(), "c".to_owned()]);
        report.add_audit(&audit, (&seen, &BTreeSet::new()));
        assert_eq!((report.acked, report.missing, report.wrong), (9, 2, 1));
        assert_eq!(report.problems().len(), 2);
        report.t_write = None;
        assert!(!report.client_went_on());
        assert_eq!(report.problems().len(), 3);
    }
}
