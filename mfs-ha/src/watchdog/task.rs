//! The thread that works the device, and its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::oneshot;

use super::device::Device;
use super::keeper::{Keeper, WatchdogView};
use super::pulse::{Pulse, Watched, pulse};
use crate::{clock, heartbeat};

/// How long a device may take at the end of the daemon; it takes microseconds.
const END_LIMIT: Duration = Duration::from_secs(1);

/// The [`WatchdogView`] of a running thread.
#[derive(Clone, Debug, Default)]
pub struct WatchdogViews(Arc<Mutex<WatchdogView>>);

impl WatchdogViews {
    /// Returns the present view.
    #[must_use]
    pub fn get(&self) -> WatchdogView {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, view: WatchdogView) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }
}

/// The running thread.
#[derive(Debug)]
pub struct WatchdogTask {
    end: oneshot::Sender<bool>,
    ended: oneshot::Receiver<()>,
    views: WatchdogViews,
}

impl WatchdogTask {
    /// Returns where the view can be read.
    #[must_use]
    pub fn views(&self) -> WatchdogViews {
        self.views.clone()
    }

    /// Ends it. Only where nothing of what this node served is left, the device is disarmed.
    pub async fn finish(self, is_clean: bool) {
        // Without this answer in time the exit of the process closes the device, which leaves it armed.
        self.end.send(is_clean).ok();
        if tokio::time::timeout(END_LIMIT, self.ended).await.is_err() {
            tracing::error!("the watchdog's driver hangs: the machine may be reset");
        }
    }
}

/// Starts the thread. Returns it, and what the heartbeat thread has to give its signs of life to.
///
/// It is scheduled as the heartbeat thread is: load that delays its pings would reset the machine.
///
/// # Errors
/// No thread can be made.
pub fn spawn<D>(keeper: Keeper<D>, wants_realtime: bool) -> anyhow::Result<(WatchdogTask, Pulse)>
where
    D: Device + 'static,
{
    let (pulse, watched) = pulse(keeper.timeout(), clock::now());
    let (end, is_over) = oneshot::channel();
    let (tell_ended, ended) = oneshot::channel();
    let views = WatchdogViews::default();
    views.set(keeper.view());
    let working = Working {
        keeper,
        watched,
        views: views.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .context("start the runtime of the watchdog")?;
    thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(move || {
            if wants_realtime {
                // The heartbeat thread warns where that is not permitted.
                heartbeat::become_realtime().ok();
            }
            runtime.block_on(working.run(is_over));
            // Nobody may wait for it any more.
            tell_ended.send(()).ok();
        })
        .context("start the thread of the watchdog")?;
    Ok((WatchdogTask { end, ended, views }, pulse))
}

struct Working<D> {
    keeper: Keeper<D>,
    watched: Watched,
    views: WatchdogViews,
}

impl<D: Device> Working<D> {
    async fn run(mut self, mut is_over: oneshot::Receiver<bool>) {
        let mut is_told = true;
        loop {
            let told = *self.watched.told.borrow_and_update();
            let now = clock::now();
            self.keeper.turn(now, told, self.watched.alive_at());
            self.watched.expect_signs(self.keeper.timeout());
            self.views.set(self.keeper.view());
            let pause = self.keeper.pause(told.duty);
            tokio::select! {
                is_clean = &mut is_over => {
                    // Who just drops the other end has not looked what is left.
                    self.keeper.end(clock::now(), is_clean.unwrap_or(false));
                    return;
                }
                // A heartbeat thread that has ended is as one that stands still.
                changed = self.watched.told.changed(), if is_told => is_told = changed.is_ok(),
                () = sleep(pause) => {}
            }
        }
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
