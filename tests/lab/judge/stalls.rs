//! The machine itself under watch: times in which a processor ran nothing of ours, however urgent.
//!
//! The host of a virtual machine may take a processor away for longer than a lease. What a daemon on that processor did
//! then says nothing about the daemon. A thread that is bound to the processor and stands above all daemons tells such
//! a time from a daemon that is late.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, gettid};

use super::prober::{PRIORITY, make_realtime};

/// How often each processor is asked whether it runs.
const GRID: Duration = Duration::from_millis(10);
/// Being late by less is no stall: it decides about nothing that the lab judges.
const STALL_MIN: Duration = Duration::from_millis(50);

/// A time in which a processor did not run.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    /// Its number.
    pub processor: usize,
    /// By how much it was late.
    pub length: Duration,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, length } = self;
        write!(f, "processor {processor} stood still for {length:?}")
    }
}

/// A thread on each processor that may be used; all end when this is dropped.
#[derive(Debug)]
pub struct StallWatch {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Option<Stall>>>,
}

impl StallWatch {
    /// Starts to watch.
    ///
    /// # Errors
    /// When a thread cannot be started, bound to its processor or prioritized.
    pub fn start() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("ask for the processors")?;
        let mut watch = Self {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for processor in 0..CpuSet::count() {
            if allowed.is_set(processor).unwrap_or(false) {
                watch.watch(processor)?;
            }
        }
        Ok(watch)
    }

    fn watch(&mut self, processor: usize) -> Result<()> {
        let stop = Arc::clone(&self.stop);
        self.threads.push(spawn_on(processor, PRIORITY, move || {
            let mut longest: Option<Stall> = None;
            while !stop.load(Ordering::Relaxed) {
                let due = Instant::now() + GRID;
                thread::sleep(GRID);
                let length = due.elapsed();
                if length >= longest.map_or(STALL_MIN, |stall| stall.length) {
                    longest = Some(Stall { processor, length });
                }
            }
            longest
        })?);
        Ok(())
    }

    /// Ends the watch and returns the longest stall that it saw.
    pub fn end(mut self) -> Option<Stall> {
        self.join().max_by_key(|stall| stall.length)
    }

    fn join(&mut self) -> impl Iterator<Item = Stall> + '_ {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .drain(..)
            .filter_map(|thread| thread.join().ok().flatten())
    }
}

impl Drop for StallWatch {
    fn drop(&mut self) {
        self.join().for_each(drop);
    }
}

/// Runs `work` in a thread that is bound to a processor and has that real-time priority.
fn spawn_on<T: Send + 'static>(
    processor: usize,
    priority: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let (ready, started) = mpsc::channel();
    let (permit, permitted) = mpsc::channel::<()>();
    let thread = thread::Builder::new()
        .name(format!("processor-{processor}"))
        .spawn(move || {
            ready.send(bind(processor).map(|()| gettid())).ok();
            permitted.recv().ok();
            work()
        })
        .context("start a thread")?;
    let id = started.recv().context("a thread ended at once")??;
    make_realtime(id, priority)?;
    permit.send(()).context("a thread ended at once")?;
    Ok(thread)
}

/// Binds this thread to a processor.
fn bind(processor: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(processor)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &only))
        .with_context(|| format!("bind a thread to processor {processor}"))
}

/// Keeps everything else from a processor for `span`, as a host does that takes it away.
#[cfg(test)]
pub(crate) fn occupy(processor: usize, span: Duration) -> Result<()> {
    let above_all = "90";
    let hog = spawn_on(processor, above_all, move || {
        let end = Instant::now() + span;
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    })?;
    hog.join()
        .map_err(|_panic| anyhow::anyhow!("the hog panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_is_taken_away_is_seen() {
        let watch = StallWatch::start().unwrap();
        occupy(0, Duration::from_millis(300)).unwrap();
        let stall = watch.end().unwrap();
        assert_eq!(stall.processor, 0);
        assert!(stall.length > Duration::from_millis(200), "{stall}");
    }
}
