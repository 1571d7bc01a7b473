//! Keeps the gate on every interface, those that come later included.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::bpf::Attachments;
use crate::error::chain;
use crate::netlink::watch::Notifications;

/// How often to look whether somebody took it off an interface: nobody tells.
const RECHECK: Duration = Duration::from_secs(5);

/// A burst of notifications is answered once.
const SETTLE: Duration = Duration::from_millis(10);

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Keeps the gate where it belongs until the daemon ends.
pub async fn keep(attachments: Attachments) {
    let mut retry = Backoff::new(RETRY_FIRST, RETRY_MAX);
    loop {
        match follow(&attachments).await {
            Ok(never) => match never {},
            Err(error) => {
                tracing::warn!(error = chain(error.as_ref()), "the gate is not kept");
                tokio::time::sleep(retry.next_delay()).await;
            }
        }
    }
}

async fn follow(attachments: &Attachments) -> anyhow::Result<std::convert::Infallible> {
    // Subscribed before the first look: no interface can come between the two.
    let mut notifications = Notifications::open()?;
    loop {
        attachments.guard_all().await?;
        tokio::select! {
            changed = notifications.changed(None) => {
                changed?;
                tokio::time::sleep(SETTLE).await;
            }
            () = tokio::time::sleep(RECHECK) => {}
        }
    }
}
