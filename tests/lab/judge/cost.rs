//! What daemons and kernel spend: processor time of processes, and that of all softirqs of the machine.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Readings at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    at: Instant,
    processes: Duration,
    softirq: Duration,
}

/// What was spent between two readings, as a share of one processor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// By the processes together.
    pub processes: f64,
    /// In softirqs, whoever caused them: others on this machine do, too.
    pub softirq: f64,
}

impl Meter {
    /// Reads them for these processes.
    ///
    /// # Errors
    /// When one has ended or /proc is not as expected.
    pub fn read(pids: &[Pid]) -> Result<Self> {
        let mut processes = Duration::ZERO;
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
                .with_context(|| format!("read the times of process {pid}"))?;
            processes += ticks(process_ticks(&stat).context("/proc/PID/stat")?)?;
        }
        let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Ok(Self {
            at: Instant::now(),
            processes,
            softirq: ticks(softirq_ticks(&stat).context("/proc/stat")?)?,
        })
    }

    /// What was spent since an earlier reading.
    pub fn since(&self, earlier: &Self) -> Cost {
        let span = (self.at - earlier.at).as_secs_f64();
        let share = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / span;
        Cost {
            processes: share(self.processes, earlier.processes),
            softirq: share(self.softirq, earlier.softirq),
        }
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "daemons {:.1} % of a processor, softirqs {:.1} %",
            self.processes * 100.0,
            self.softirq * 100.0
        )
    }
}

fn ticks(count: u64) -> Result<Duration> {
    let per_second = sysconf(SysconfVar::CLK_TCK)
        .context("ask for the length of a tick")?
        .and_then(|ticks| u32::try_from(ticks).ok())
        .context("a tick has no length")?;
    Ok(Duration::from_secs(count) / per_second)
}

/// utime and stime: the 14th and 15th field, counted after the name, which may hold anything.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// The seventh number of the line of all processors.
fn softirq_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    line.split_whitespace().nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14";
        assert_eq!(process_ticks(stat), Some(42));
        assert_eq!(softirq_ticks("cpu  1 2 3 4 5 6 77 8\ncpu0 0"), Some(77));
        assert_eq!(process_ticks("7 (a"), None);
    }
}
