//! The heartbeat thread: its own runtime, its scheduling, its end.

use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use mfs_ha_common::node::Node;
use nix::sys::mman::{MlockAllFlags, mlockall};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tokio::sync::{mpsc, oneshot};

use crate::bpf::PeerMap;
use crate::driver::{Driver, Fact, Outputs};

/// SCHED_FIFO priority: above ordinary threads and below the kernel's own (interrupts run at 50).
const PRIORITY: u8 = 40;

/// Everything that the thread owns.
pub struct Parts {
    /// The decision maker.
    pub node: Node,
    /// Accepted adverts.
    pub records: RingBuf<MapData>,
    /// What the kernel remembers of each sender.
    pub peers: Arc<PeerMap>,
    /// What the rest of the daemon tells it.
    pub facts: mpsc::Receiver<Fact>,
    /// Where its decisions go.
    pub outputs: Outputs,
}

/// A running heartbeat thread.
#[derive(Debug)]
pub struct Heartbeat {
    /// Resolves when the thread has ended; an error if it panicked.
    pub ended: oneshot::Receiver<anyhow::Result<()>>,
    /// Whether it runs with real-time priority.
    pub is_realtime: bool,
}

/// Starts the thread and waits until it is scheduled as wanted.
///
/// # Errors
/// No thread can be made.
pub async fn start(parts: Parts, wants_realtime: bool) -> anyhow::Result<Heartbeat> {
    if wants_realtime {
        lock_memory();
    }
    let (tell_ended, ended) = oneshot::channel();
    let (tell_scheduled, scheduled) = oneshot::channel();
    thread::Builder::new()
        .name("heartbeat".to_owned())
        .spawn(move || {
            let is_realtime = wants_realtime && is_made_realtime();
            // The starter may be gone; then nobody reads either of them.
            tell_scheduled.send(is_realtime).ok();
            tell_ended.send(beat(parts)).ok();
        })
        .context("start the heartbeat thread")?;
    Ok(Heartbeat {
        ended,
        is_realtime: scheduled.await.context("start the heartbeat thread")?,
    })
}

fn beat(parts: Parts) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("start the heartbeat runtime")?;
    runtime.block_on(async {
        Driver::new(
            parts.node,
            parts.records,
            parts.peers,
            parts.facts,
            parts.outputs,
        )?
        .run()
        .await
    })
}

/// Keeps the daemon's memory from being paged out: a page fault may take longer than an interval.
fn lock_memory() {
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        tracing::warn!(%error, "memory is not locked: paging may delay adverts");
    }
}

/// Gives the calling thread the scheduling of the heartbeat thread.
///
/// # Errors
/// What the system said.
pub(crate) fn become_realtime() -> Result<(), String> {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let priority = ThreadPriorityValue::try_from(PRIORITY)?;
    let priority = ThreadPriority::Crossplatform(priority);
    set_thread_priority_and_policy(thread_native_id(), priority, policy)
        .map_err(|error| format!("{error:?}"))
}

fn is_made_realtime() -> bool {
    match become_realtime() {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(error, "no real-time scheduling: load may delay adverts");
            false
        }
    }
}
