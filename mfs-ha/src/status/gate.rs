//! The part of the status that shows the gate: open or closed, until when, where it sits, how close it came.

use std::fmt;

use mfs_ha_common::gate::{Fence, SERVICE_NAMES};
use mfs_ha_common::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{millis, seconds};
use crate::bpf::{GateKind, GateView};
use crate::gate::{Margins, WriterView};

/// The gate of this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GateStatus {
    /// `open`, `closed`, or `off` where the configuration says so.
    pub state: String,
    /// When it closes unless it is renewed.
    pub closes_in_ms: Option<u64>,
    /// Services of MooseFS that may be talked to: `metaloggers`, `chunkservers`, `clients`.
    pub services: Vec<String>,
    /// How it is attached: `tcx` or `clsact`; absent where it is off.
    pub attached: Option<String>,
    /// Interfaces that it is on.
    pub interfaces: Vec<String>,
    /// Interfaces that it is not on, and why.
    pub problems: Vec<String>,
    /// Another node that holds a higher lease epoch: it keeps the gate closed.
    pub fenced_by: Option<u8>,
    /// How much was left when it was renewed, since the daemon started.
    pub margins: MarginStatus,
}

/// Renewals by how much of the lease was left.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MarginStatus {
    /// The gate had closed.
    pub late: u64,
    /// Less than a tenth.
    pub below_10_percent: u64,
    /// Less than a quarter.
    pub below_25_percent: u64,
    /// Less than half.
    pub below_50_percent: u64,
    /// Less than three quarters.
    pub below_75_percent: u64,
    /// More.
    pub above_75_percent: u64,
    /// The least that was left; absent before the first renewal.
    pub min_us: Option<u64>,
}

impl From<Margins> for MarginStatus {
    fn from(margins: Margins) -> Self {
        let [a, b, c, d, e] = margins.left;
        Self {
            late: margins.late,
            below_10_percent: a,
            below_25_percent: b,
            below_50_percent: c,
            below_75_percent: d,
            above_75_percent: e,
            min_us: margins.min_ns.map(|nanos| nanos / 1000),
        }
    }
}

impl GateStatus {
    /// There is none.
    #[must_use]
    pub fn off() -> Self {
        Self {
            state: "off".to_owned(),
            closes_in_ms: None,
            services: Vec::new(),
            attached: None,
            interfaces: Vec::new(),
            problems: Vec::new(),
            fenced_by: None,
            margins: MarginStatus::default(),
        }
    }

    /// Puts together what it was told, where it is and what the kernel heard.
    #[must_use]
    pub fn new(told: &WriterView, attached: &GateView, fence: Fence, at: Timestamp) -> Self {
        let gate = told.gate;
        let fenced_by = Some(fence.node).filter(|_| fence.epoch > gate.epoch && gate.epoch > 0);
        let is_open = gate.is_open(at) && fenced_by.is_none();
        let services = SERVICE_NAMES.iter().enumerate();
        Self {
            state: if is_open { "open" } else { "closed" }.to_owned(),
            closes_in_ms: is_open.then(|| millis(gate.until.since(at))),
            services: services
                .filter(|(bit, _)| is_open && gate.open & (1 << bit) != 0)
                .map(|(_, name)| (*name).to_owned())
                .collect(),
            attached: attached.kind.map(|kind| GateKind::name(kind).to_owned()),
            interfaces: attached.guarded.clone(),
            problems: attached.problems.clone(),
            fenced_by,
            margins: told.margins.into(),
        }
    }
}

impl fmt::Display for GateStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gate        {}", self.state)?;
        if let Some(left) = self.closes_in_ms {
            write!(f, " for {}", seconds(left))?;
        }
        if !self.services.is_empty() {
            write!(f, " to {}", self.services.join(", "))?;
        }
        if let Some(node) = self.fenced_by {
            write!(f, ", because node {node} holds a newer lease")?;
        }
        if let Some(attached) = &self.attached {
            write!(f, ", {attached} on {}", self.interfaces.join(", "))?;
        }
        writeln!(f)?;
        for problem in &self.problems {
            writeln!(f, "gate        not everywhere: {problem}")?;
        }
        let margins = &self.margins;
        let Some(min_us) = margins.min_us else {
            return Ok(());
        };
        writeln!(
            f,
            "renewals    with at least {}.{:03} ms left; by what was left: {} late, {} below 10 %, {} below 25 %, \
             {} below 50 %, {} below 75 %, {} above",
            min_us / 1000,
            min_us % 1000,
            margins.late,
            margins.below_10_percent,
            margins.below_25_percent,
            margins.below_50_percent,
            margins.below_75_percent,
            margins.above_75_percent,
        )
    }
}
