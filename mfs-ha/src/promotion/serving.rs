//! While this node serves: does its mfsmaster live?

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Metadata;
use super::executor::Reports;
use super::quorum::SERVED_CHECK;
use crate::moosefs::process::probe;

/// Probes in a row without an answer after which mfsmaster counts as hanging: one may fall into a
/// moment when all connections are taken.
const SILENT_PROBES_MAX: u32 = 2;

impl Metadata {
    /// Waits until mfsmaster has died or hangs, and says how; meanwhile tells how far it is. Cancel-safe.
    pub(super) async fn watch_master(&mut self, reports: &Reports) -> String {
        let [.., clients] = self.ports;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, clients));
        let interval = self.config.probe_interval;
        let limit = self.config.probe_timeout;
        let mut hanging = pin!(hangs(address, interval, limit));
        let mut looks = tokio::time::interval(SERVED_CHECK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reason = loop {
            let Some(running) = &mut self.running else {
                return "it does not run".to_owned();
            };
            tokio::select! {
                exit = running.exited() => break format!("it ended: {exit}"),
                error = &mut hanging => break format!("it hangs: {error}"),
                _ = looks.tick() => {}
            }
            self.look_at_served(reports).await;
        };
        self.is_lost = true;
        reason
    }
}

/// Waits until a probe was not answered several times in a row.
async fn hangs(address: SocketAddr, every: Duration, limit: Duration) -> probe::ProbeError {
    let mut silent = 0;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match probe::probe(address, limit).await {
            Ok(_) => silent = 0,
            Err(error) => {
                silent += 1;
                tracing::warn!(%error, "mfsmaster does not answer");
                if silent >= SILENT_PROBES_MAX {
                    return error;
                }
            }
        }
    }
}
