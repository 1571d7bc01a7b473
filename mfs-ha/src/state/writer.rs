//! The thread that writes: disks take their time, and the heartbeat loop does not wait for them.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use mfs_ha_common::durable::Durable;
use tokio::sync::{mpsc, watch};

use super::StateDir;
use crate::backoff::Backoff;
use crate::driver::Fact;
use crate::error::chain;

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What status shows of the disk.
#[derive(Debug, Clone, Default)]
pub struct StateView {
    /// What is on disk; `None` before this life has written.
    pub stored: Option<Durable>,
    /// Times that it was written.
    pub writes: u64,
    /// Times that it could not be written.
    pub failures: u64,
    /// The longest that a write took.
    pub longest: Duration,
    /// Why it cannot be written now.
    pub problem: Option<String>,
}

/// The [`StateView`] of a running writer.
#[derive(Debug, Clone, Default)]
pub struct StateViews(Arc<Mutex<StateView>>);

impl StateViews {
    /// Returns the present view.
    #[must_use]
    pub fn get(&self) -> StateView {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn change(&self, change: impl FnOnce(&mut StateView)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Ends of a running writer. It ends when the sender of what is wanted is dropped.
#[derive(Debug)]
pub struct Writer {
    /// What shall be on disk; the latest counts.
    pub wanted: watch::Sender<Option<Durable>>,
    /// What is.
    pub views: StateViews,
}

/// Starts the thread.
///
/// # Errors
/// No thread can be made.
pub fn spawn(state: StateDir, facts: mpsc::Sender<Fact>) -> anyhow::Result<Writer> {
    let (wanted, receiver) = watch::channel(None);
    let views = StateViews::default();
    let writing = Writing {
        state,
        facts,
        views: views.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .context("start the runtime of the state")?;
    thread::Builder::new()
        .name("state".to_owned())
        .spawn(move || runtime.block_on(writing.run(receiver)))
        .context("start the thread of the state")?;
    Ok(Writer { wanted, views })
}

struct Writing {
    state: StateDir,
    facts: mpsc::Sender<Fact>,
    views: StateViews,
}

impl Writing {
    async fn run(self, mut wanted: watch::Receiver<Option<Durable>>) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        while wanted.changed().await.is_ok() {
            loop {
                let Some(durable) = *wanted.borrow_and_update() else {
                    break;
                };
                if self.write(&durable) {
                    backoff.reset();
                    if self.facts.send(Fact::Stored(durable)).await.is_err() {
                        return;
                    }
                    break;
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                    // Something newer may be smaller than what the disk does not take.
                    changed = wanted.changed() => if changed.is_err() {
                        return;
                    },
                }
            }
        }
    }

    /// Says whether it is on disk.
    fn write(&self, durable: &Durable) -> bool {
        let started = std::time::Instant::now();
        let written = self.state.store(durable);
        let took = started.elapsed();
        match written {
            Ok(()) => {
                self.views.change(|view| {
                    view.stored = Some(*durable);
                    view.writes += 1;
                    view.longest = view.longest.max(took);
                    view.problem = None;
                });
                true
            }
            Err(error) => {
                let problem = chain(&error);
                tracing::error!(problem, "the state is not on disk: nothing new is granted");
                self.views.change(|view| {
                    view.failures += 1;
                    view.problem = Some(problem);
                });
                false
            }
        }
    }
}
