//! Tells the gate until when this node may serve. Owned by the heartbeat thread: nobody else writes LEASE (rule
//! L9).

use std::net::Ipv4Addr;
use std::time::Duration;

use mfs_ha_common::gate::{Gate, LeaseState, SERVICES};
use mfs_ha_common::time::Timestamp;

use crate::bpf::{BpfError, LeaseMap};

/// How much of the lease was left when it was renewed: how close this node came to the end of its service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Margins {
    /// Renewals after the gate had closed: nothing was served in between.
    pub late: u64,
    /// Renewals by the part that was left: below a tenth, a quarter, a half, three quarters, and more.
    pub left: [u64; 5],
    /// The least that was left, in nanoseconds; `None` before the first renewal.
    pub min_ns: Option<u64>,
}

impl Margins {
    fn note(&mut self, before: Timestamp, until: Timestamp, now: Timestamp) {
        let left = before.as_nanos().saturating_sub(now.as_nanos());
        self.min_ns = Some(self.min_ns.map_or(left, |min| min.min(left)));
        if left == 0 {
            self.late += 1;
            return;
        }
        let whole = until.as_nanos().saturating_sub(now.as_nanos()).max(1);
        let percent = left.saturating_mul(100).div_euclid(whole);
        let bounds = [10, 25, 50, 75];
        let class = bounds.iter().filter(|bound| percent >= **bound).count();
        if let Some(count) = self.left.get_mut(class) {
            *count += 1;
        }
    }
}

/// What was told last.
#[derive(Clone, Copy, Debug)]
pub struct WriterView {
    /// The gate.
    pub gate: Gate,
    /// Since the daemon started.
    pub margins: Margins,
}

/// Writes LEASE.
pub struct GateWriter {
    lease: LeaseMap,
    vip: Ipv4Addr,
    ports: [u16; SERVICES],
    told: Gate,
    /// As in [`LeaseState`].
    follows: u64,
    follow_span: Duration,
    margins: Margins,
    /// Lease epochs up to this one were given up: a close counts until a new one (rule L9).
    closed_epoch: u64,
    has_failed: bool,
}

impl GateWriter {
    /// Closes the gate, before anything is attached. With a `follow_span` above zero it also keeps out what a
    /// holder that is not followed, or was not heard for so long, has to say to a metalogger (rule G9).
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn closed(
        lease: LeaseMap,
        vip: Ipv4Addr,
        ports: [u16; SERVICES],
        follow_span: Duration,
    ) -> Result<Self, BpfError> {
        let mut writer = Self {
            lease,
            vip,
            ports,
            told: Gate::CLOSED,
            follows: 0,
            follow_span,
            margins: Margins::default(),
            closed_epoch: 0,
            has_failed: false,
        };
        writer.write(Gate::CLOSED)?;
        Ok(writer)
    }

    /// This standby follows the holder of this lease epoch from now on; 0: nobody.
    pub fn follow_holder(&mut self, epoch: u64) {
        let before = std::mem::replace(&mut self.follows, epoch);
        if before != epoch
            && let Err(error) = self.write(self.told)
        {
            tracing::error!(%error, "the gate is not told who is followed");
        }
    }

    /// Brings the gate to what the node says. Where that fails it closes by itself, at the latest when the lease
    /// ends.
    pub fn follow(&mut self, gate: Gate, now: Timestamp) {
        let gate = self.latched(gate);
        if gate == self.told {
            return;
        }
        match self.write(gate) {
            Ok(()) => {
                self.note(gate, now);
                self.told = gate;
                self.has_failed = false;
            }
            // A renewal is tried forty times a second.
            Err(_) if self.has_failed => {}
            Err(error) => {
                self.has_failed = true;
                tracing::error!(%error, "the gate is not told about the lease");
            }
        }
    }

    fn latched(&mut self, gate: Gate) -> Gate {
        let is_open = gate != Gate::CLOSED;
        if is_open && gate.epoch != 0 && gate.epoch <= self.closed_epoch {
            return Gate::CLOSED;
        }
        if !is_open {
            self.closed_epoch = self.closed_epoch.max(self.told.epoch);
        }
        gate
    }

    fn note(&mut self, gate: Gate, now: Timestamp) {
        let was_open = self.told != Gate::CLOSED;
        if was_open && gate.until > self.told.until {
            self.margins.note(self.told.until, gate.until, now);
        }
    }

    fn write(&mut self, gate: Gate) -> Result<(), BpfError> {
        self.lease.write(LeaseState {
            until_ns: gate.until.as_nanos(),
            epoch: gate.epoch,
            follows: self.follows,
            follow_span_ns: u64::try_from(self.follow_span.as_nanos()).unwrap_or(u64::MAX),
            vip: self.vip.octets(),
            open: gate.open,
            ports: self.ports.map(u16::to_be_bytes),
            reserved: [0; 2],
        })
    }

    /// Returns what to show.
    #[must_use]
    pub const fn view(&self) -> WriterView {
        WriterView {
            gate: self.told,
            margins: self.margins,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn margins_are_counted_by_the_part_that_was_left() {
        let mut margins = Margins::default();
        for (left, class) in [(5, 0), (10, 1), (24, 1), (25, 2), (50, 3), (74, 3), (75, 4)] {
            let before = margins.left[class];
            margins.note(at(1000 + left), at(1100), at(1000));
            assert_eq!(margins.left[class], before + 1, "{left} of 100 ms");
        }
        assert_eq!(margins.min_ns, Some(5_000_000));
        margins.note(at(999), at(1100), at(1000));
        assert_eq!((margins.late, margins.min_ns), (1, Some(0)));
    }
}
