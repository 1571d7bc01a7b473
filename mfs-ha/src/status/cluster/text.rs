//! The cluster as people read it.

use std::fmt;

use super::super::seconds;
use super::{ClusterStatus, DurableStatus, LeaseView, MemberStatus, MetadataStatus, PathStatus};

impl fmt::Display for ClusterStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cluster     {}, node {}, {}, members of generation {}",
            self.name, self.node, self.role, self.generation_in_force
        )?;
        if self.generation != self.generation_in_force {
            write!(f, ", {} waits for a majority", self.generation)?;
        }
        writeln!(f)?;
        self.lease.fmt(f)?;
        if let Some(metadata) = &self.metadata {
            writeln!(f, "freshness   {metadata}")?;
        }
        self.durable.fmt(f)?;
        for member in &self.members {
            member.fmt(f)?;
        }
        for path in &self.paths {
            path.fmt(f)?;
        }
        writeln!(
            f,
            "rounds      {} late, ring full {} times",
            self.rounds_late, self.ring_full
        )
    }
}

impl fmt::Display for LeaseView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ends_in_ms, self.holder) {
            (Some(ends), _) => {
                write!(
                    f,
                    "lease       held, epoch {}, ends in {ends} ms",
                    self.epoch
                )?;
                if let Some(margin) = self.margin_min_ms {
                    write!(f, ", never less than {margin} ms were left")?;
                }
            }
            (None, Some(holder)) => write!(f, "lease       held by node {holder}")?,
            (None, None) => write!(f, "lease       nobody is known to hold it")?,
        }
        write!(f, "; {} heard, {} needed", self.heard, self.majority)?;
        if let Some(obstacle) = &self.obstacle {
            write!(f, "; not asked for: {obstacle}")?;
        }
        writeln!(f)?;
        if let Some(granted) = &self.granted {
            writeln!(
                f,
                "granted     epoch {} to node {}, for {} ms more",
                granted.epoch, granted.node, granted.ends_in_ms
            )?;
        }
        if let Some(refused) = &self.refused {
            writeln!(f, "refused     node {}: {}", refused.node, refused.reason)?;
        }
        Ok(())
    }
}

impl fmt::Display for DurableStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "state       life {}, granted up to epoch {}, seen epoch {} version {}, {}",
            self.boot,
            self.granted_epoch,
            self.seen_epoch,
            self.seen_version,
            if self.is_stored {
                "on disk"
            } else {
                "not on disk yet"
            }
        )?;
        if let Some(problem) = &self.problem {
            write!(f, ": {problem}")?;
        }
        writeln!(f)
    }
}

impl fmt::Display for MemberStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member      {} {}", self.id, self.role)?;
        match self.last_heartbeat_age_ms {
            Some(age) if self.heard => write!(f, ", heard {age} ms ago")?,
            Some(age) => write!(f, ", not heard for {}", seconds(age))?,
            None => write!(f, ", never heard")?,
        }
        if let (Some(trip), Some(jitter)) = (self.round_trip_us, self.jitter_us) {
            write!(f, ", round trip {trip} us +- {jitter} us")?;
        }
        if let Some(drift) = self.drift_ppm {
            write!(f, ", clock {drift:+} ppm")?;
        }
        if let Some(phase) = &self.phase {
            write!(f, ", {phase}")?;
        }
        if let Some(metadata) = &self.metadata {
            write!(f, ", {metadata}")?;
        }
        for (is_set, word) in [
            (self.ready, "ready"),
            (self.frozen, "frozen"),
            (self.late, "late"),
        ] {
            if is_set {
                write!(f, ", {word}")?;
            }
        }
        writeln!(f)?;
        for difference in &self.differences {
            writeln!(f, "  differs   {difference}")?;
        }
        Ok(())
    }
}

impl fmt::Display for MetadataStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} version {}", self.epoch, self.version)?;
        if let Some(lag) = self.lag.filter(|lag| *lag > 0) {
            write!(f, ", {lag} changes behind")?;
        }
        if self.is_behind {
            write!(f, ", too old to be elected")?;
        }
        Ok(())
    }
}

impl fmt::Display for PathStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "network     {}", self.address)?;
        if let Some(interface) = &self.interface {
            write!(f, " on {interface}")?;
        }
        if let Some(xdp) = &self.xdp {
            write!(f, ", xdp {xdp}")?;
        }
        write!(f, ", {} heartbeats sent, {} failed", self.sent, self.failed)?;
        if let Some(problem) = &self.problem {
            write!(f, ": {problem}")?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told() {
        let text = |lag, is_behind| {
            let metadata = MetadataStatus {
                id: "00000000000000ab".to_owned(),
                epoch: 3,
                version: 1200,
                lag,
                is_behind,
            };
            metadata.to_string()
        };
        assert_eq!(text(Some(0), false), "epoch 3 version 1200");
        assert_eq!(
            text(Some(40), false),
            "epoch 3 version 1200, 40 changes behind"
        );
        assert_eq!(
            text(Some(4000), true),
            "epoch 3 version 1200, 4000 changes behind, too old to be elected"
        );
        assert_eq!(
            text(None, true),
            "epoch 3 version 1200, too old to be elected"
        );
    }
}
