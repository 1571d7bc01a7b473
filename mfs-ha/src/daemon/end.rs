//! What every daemon does at its end, and with its log.

use std::time::Duration;

use anyhow::Context as _;
use aya_log::EbpfLogger;
use tokio::sync::{mpsc, oneshot};

use crate::driver::Fact;
use crate::inspect::Inspector;
use crate::readiness;
use crate::signals::{Asked, Signals};

/// The heartbeat thread leaves in 200 ms without metadata and in 2 s with them, done or not; after this it
/// is not waited for any more.
const FAREWELL_LIMIT: Duration = Duration::from_secs(3);

pub(super) type Logger = EbpfLogger<&'static dyn log::Log>;

/// Waits for a signal, asks the node to leave, and waits for that.
pub(super) async fn until_end(
    mut signals: Signals,
    facts: &mpsc::Sender<Fact>,
    inspector: &Inspector,
    mut ended: oneshot::Receiver<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    loop {
        let asked = tokio::select! {
            ended = &mut ended => return thread_result(ended),
            asked = signals.next() => asked,
        };
        match asked {
            Asked::Show => inspector.log().await,
            Asked::Stop(name) => {
                tracing::info!(signal = name, "leaving");
                break;
            }
        }
    }
    let farewell = async {
        // A thread that hangs takes no facts either.
        if facts.send(Fact::Stop).await.is_err() {
            tracing::debug!("the heartbeat thread has ended already");
        }
        ended.await
    };
    tokio::time::timeout(FAREWELL_LIMIT, farewell)
        .await
        .context("the heartbeat thread does not end")
        .and_then(thread_result)
}

fn thread_result(
    ended: Result<anyhow::Result<()>, oneshot::error::RecvError>,
) -> anyhow::Result<()> {
    ended.context("the heartbeat thread died").flatten()
}

/// Hands the XDP program's debug messages to the log.
pub(super) async fn forward_logs(mut logger: Logger) {
    use std::os::fd::AsFd as _;
    let watched = logger
        .as_fd()
        .try_clone_to_owned()
        .and_then(readiness::watch);
    let watched = match watched {
        Ok(watched) => watched,
        Err(error) => {
            tracing::warn!(%error, "no messages of the XDP program in this log");
            return std::future::pending().await;
        }
    };
    while let Ok(mut ready) = watched.readable().await {
        ready.clear_ready();
        logger.flush();
    }
}
