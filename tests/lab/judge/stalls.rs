//! The machine itself under watch: times in which a processor ran nothing of ours, however urgent.
//!
//! The host of a virtual machine may take a processor away for longer than a lease, and a kernel that does not preempt
//! itself may keep it for as long. What a daemon on that processor did then says nothing about the daemon. A thread
//! that is bound to the processor and stands above all daemons tells such a time from a daemon that is late.

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
use crate::requirements::{BASE_TOOLS, require_root, require_tools};

/// How often each processor is asked whether it runs.
const GRID: Duration = Duration::from_millis(10);
/// Being late by less is no stall: it decides about nothing that the lab judges.
const STALL_MIN: Duration = Duration::from_millis(50);
/// Of a processor. A machine that stands still more often is known well enough by then.
const STALLS_MAX: usize = 1000;

/// A time in which a processor did not run.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    /// Its number.
    pub processor: usize,
    /// When it should have run.
    pub from: Instant,
    /// By how much it was late.
    pub length: Duration,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (processor, length) = (self.processor, self.length);
        write!(f, "processor {processor} stood still for {length:?}")
    }
}

/// A thread on each processor that may be used; all end when this is dropped.
#[derive(Debug)]
pub struct StallWatch {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Stall>>>,
}

impl StallWatch {
    /// Starts to watch.
    ///
    /// # Errors
    /// Without root or a tool, and when a thread cannot be started, bound to its processor or prioritized.
    pub fn start() -> Result<Self> {
        require_root()?;
        require_tools(BASE_TOOLS)?;
        let mut watch = Self {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for processor in processors()? {
            let stop = Arc::clone(&watch.stop);
            let look = move || look(processor, &stop);
            watch.threads.push(spawn_on(processor, PRIORITY, look)?);
        }
        Ok(watch)
    }

    /// Ends the watch and returns what it saw.
    pub fn end(mut self) -> Vec<Stall> {
        self.join()
    }

    fn join(&mut self) -> Vec<Stall> {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that panicked saw nothing: nothing is excused by it.
        let seen = self.threads.drain(..).flat_map(JoinHandle::join);
        seen.flatten().collect()
    }
}

impl Drop for StallWatch {
    fn drop(&mut self) {
        self.join();
    }
}

fn look(processor: usize, stop: &AtomicBool) -> Vec<Stall> {
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let from = Instant::now() + GRID;
        thread::sleep(GRID);
        let length = from.elapsed();
        if length >= STALL_MIN && seen.len() < STALLS_MAX {
            seen.push(Stall {
                processor,
                from,
                length,
            });
        }
    }
    seen
}

/// The numbers of the processors that this process may use.
fn processors() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("ask for the processors")?;
    let numbers = 0..CpuSet::count();
    Ok(numbers
        .filter(|number| allowed.is_set(*number).unwrap_or(false))
        .collect())
}

/// Runs `work` in a thread that is bound to a processor and has that real-time priority, or not at all.
fn spawn_on<T: Default + Send + 'static>(
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
            match permitted.recv() {
                Ok(()) => work(),
                Err(_not_permitted) => T::default(),
            }
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

/// Keeps everything else from a processor for `span`, as a host does that takes it away; returns which one.
#[cfg(test)]
pub(crate) fn occupy(span: Duration) -> Result<usize> {
    let above_all = "90";
    let usable = processors()?;
    let processor = *usable.first().context("no processor may be used")?;
    let hog = spawn_on(processor, above_all, move || {
        let end = Instant::now() + span;
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    })?;
    hog.join()
        .map(|()| processor)
        .map_err(|_panic| anyhow::anyhow!("the hog panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial;

    #[test]
    fn a_processor_that_is_taken_away_is_seen() {
        let _serial = serial();
        let watch = StallWatch::start().unwrap();
        let begin = Instant::now();
        let processor = occupy(Duration::from_millis(300)).unwrap();
        let seen = watch.end();
        let is_it = |stall: &&Stall| {
            stall.processor == processor
                && stall.from >= begin
                && stall.length > Duration::from_millis(200)
        };
        assert!(seen.iter().any(|stall| is_it(&stall)), "{seen:?}");
    }
}
