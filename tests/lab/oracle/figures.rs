//! Which times of a failover are shown, under which names, and what they were over several.

use std::time::Duration;

use super::report::Report;
use crate::judge::analysis::Spread;

/// One time of a failover.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its name in documents.
    pub key: &'static str,
    /// Its name in tables.
    pub name: &'static str,
    /// Where it is in a report; none when it never was.
    pub seconds: fn(&Report) -> Option<f64>,
}

/// What happens in a failover, in its order.
pub const FIGURES: [Figure; 7] = [
    Figure {
        key: "detect",
        name: "first advert of the new master",
        seconds: |report| report.t_detect,
    },
    Figure {
        key: "vip",
        name: "VIP answered by the new owner",
        seconds: |report| report.t_vip,
    },
    Figure {
        key: "listen",
        name: "new mfsmaster takes clients",
        seconds: |report| report.t_listen,
    },
    Figure {
        key: "write",
        name: "client's next write",
        seconds: |report| report.t_write,
    },
    Figure {
        key: "read",
        name: "client's next read",
        seconds: |report| report.t_read,
    },
    Figure {
        key: "write_all",
        name: "  all writers have gone on",
        seconds: |report| report.t_write_all,
    },
    Figure {
        key: "read_all",
        name: "  all readers have gone on",
        seconds: |report| report.t_read_all,
    },
];

/// No part of a failover, but what the client noticed of the whole.
const WRITE_GAP: Figure = Figure {
    key: "write_gap",
    name: "longest time without a write",
    seconds: |report| Some(report.write_gap_s),
};

impl Figure {
    /// Sums up several failovers, and in how many of them it was; `None` if in none.
    pub fn spread(&self, reports: &[Report]) -> Option<(Spread, usize)> {
        let times: Vec<Duration> = reports
            .iter()
            .filter_map(self.seconds)
            .map(Duration::from_secs_f64)
            .collect();
        Some((Spread::of(&times)?, times.len()))
    }
}

/// What several failovers of one kind took, a line for each figure that was in any.
pub fn table(what: &str, reports: &[Report]) -> String {
    let mut text = format!("{what}, {} runs, after the failure:", reports.len());
    for figure in FIGURES.iter().chain([&WRITE_GAP]) {
        if let Some((spread, count)) = figure.spread(reports) {
            text.push_str(&format!("\n  {:<32}{spread} (of {count})", figure.name));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_counts_what_was_and_leaves_out_what_never_was() {
        let report = |t_write, write_gap_s| Report {
            t_write,
            write_gap_s,
            ..Report::default()
        };
        let reports = [report(Some(0.5), 0.75), report(None, 2.0)];
        let expected = "\
deaths, 2 runs, after the failure:
  client's next write             500 [500..500] ms (of 1)
  longest time without a write    750 [750..2000] ms (of 2)";
        assert_eq!(table("deaths", &reports), expected);
    }
}
