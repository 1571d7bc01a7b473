//! What each step does. All of them look first and are done already if there is nothing to do.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use mfs_ha_common::promotion::{ADMIT_LIMIT, Step};
use tokio::time::Instant;

use super::Metadata;
use crate::error::chain;
use crate::moosefs::emergency;
use crate::moosefs::epoch::{self, EpochRecord, EpochState};
use crate::moosefs::install;
use crate::moosefs::journal::Stage;
use crate::moosefs::process::chunkservers;
use crate::moosefs::services::Action;
use crate::moosefs::stage;

/// How much earlier than its limit the start of mfsmaster is given up here.
const START_MARGIN: Duration = Duration::from_millis(50);

/// How much earlier than its limit chunkservers are not waited for any more.
const ADMIT_MARGIN: Duration = Duration::from_millis(500);

impl Metadata {
    /// Carries a step out. Cancel-safe: file work goes on to its end and the next step waits for it.
    ///
    /// # Errors
    /// Why it cannot be done. What it did before it failed is undone by [`Step::RestoreMetadata`].
    pub(super) async fn carry_out(&mut self, step: Step) -> anyhow::Result<()> {
        // An mfsmaster of an earlier life of this daemon serves on: everything up to it is done.
        let serves = self.running.is_some() && !self.is_lost && self.care.master().is_none();
        match step {
            Step::StopStray
            | Step::StopMetalogger
            | Step::Stage
            | Step::Verify
            | Step::Install
            | Step::RecordEpoch
                if serves =>
            {
                Ok(())
            }
            Step::StopStray => {
                // While the metalogger still follows.
                self.require_fresh()?;
                self.stop_master().await
            }
            Step::StopMetalogger => self.stop_metalogger().await,
            Step::Stage => self.stage().await,
            Step::Verify => self.verify().await,
            Step::Install => self.install().await,
            Step::RecordEpoch => self.record_epoch().await,
            Step::StartMaster => self.start_master().await,
            Step::AdmitChunkservers => self.admit_chunkservers().await,
            Step::StopMaster => {
                self.services.send_replace(Some(Action::Stop));
                self.stop_master().await
            }
            Step::RestoreMetadata => self.restore().await,
            // The VIP applier's.
            Step::TakeVip | Step::ReleaseVip => bail!("{} is no work on metadata", step.name()),
        }
    }

    /// P1, R1: no mfsmaster runs on this directory afterwards, ours or not.
    pub(super) async fn stop_master(&mut self) -> anyhow::Result<()> {
        if let Some(running) = &mut self.running {
            running.kill().await.context("kill mfsmaster")?;
        }
        self.running = None;
        self.is_lost = false;
        if let Some(stray) = self.master.stop_stray().await? {
            tracing::warn!(pid = stray.pid, "killed an mfsmaster that was not ours");
        }
        self.views.change(|view| view.master_pid = None);
        Ok(())
    }

    /// P2: its files are final afterwards.
    pub(super) async fn stop_metalogger(&mut self) -> anyhow::Result<()> {
        // One that is just starting would come up beside the master.
        if let Some(starting) = &mut self.starting_metalogger {
            let started = starting.await;
            self.starting_metalogger = None;
            tracing::debug!(
                came_up = matches!(started, Ok(Ok(_))),
                "an mfsmetalogger was starting"
            );
        }
        let stopped = self.metalogger.stop().await.context("stop mfsmetalogger")?;
        if stopped.is_some_and(|stopped| stopped.was_unclean) {
            tracing::warn!("mfsmetalogger did not end by SIGTERM and was killed");
        }
        self.views.change(|view| view.metalogger_pid = None);
        Ok(())
    }

    /// P4.
    async fn stage(&mut self) -> anyhow::Result<()> {
        let owner = Some(self.owner);
        let epoch = self.epoch;
        self.staged = None;
        let staged = self
            .store
            .work(move |files, cancel| {
                files.layout.clear_staging(&files.journal, epoch)?;
                let staging = files.layout.staging();
                Ok(stage::stage(files.layout.data(), &staging, owner, cancel)?)
            })
            .await?;
        tracing::info!(
            version = staged.freshness.version,
            base = staged.freshness.base,
            changes = staged.lines,
            "staged"
        );
        self.staged = Some(staged.freshness);
        Ok(())
    }

    /// P5: what was staged is whole, no older than what this node offered to its peers, and all that
    /// mfsmaster will read.
    async fn verify(&mut self) -> anyhow::Result<()> {
        let offered = self.offered;
        self.store
            .work(move |files, _| {
                stage::verify(&files.layout.staging(), offered)?;
                for (from, to) in emergency::set_aside()? {
                    tracing::warn!(from = %from.display(), to = %to.display(), "mfsmaster would have read it; moved");
                }
                Ok(())
            })
            .await
    }

    /// P3.
    async fn install(&mut self) -> anyhow::Result<()> {
        let epoch = self.epoch;
        self.store
            .work(move |files, _| {
                let staging = files.layout.staging();
                install::install(&files.layout, &mut files.journal, &staging, epoch)?;
                Ok(())
            })
            .await
    }

    /// P6.
    async fn record_epoch(&mut self) -> anyhow::Result<()> {
        self.write_epoch(EpochState::Pending).await
    }

    /// P7: it listens afterwards.
    async fn start_master(&mut self) -> anyhow::Result<()> {
        if self.running.is_none() {
            let running = self.master.spawn().context("start mfsmaster")?;
            let stage = Stage::Started {
                pid: running.pid(),
                start_time: running.start_time(),
            };
            let pid = running.pid();
            self.running = Some(running);
            self.views.change(|view| view.master_pid = Some(pid));
            self.set_stage(stage).await?;
        }
        let Some(running) = &mut self.running else {
            bail!("mfsmaster is gone");
        };
        let limit = self.config.start_timeout;
        // What mfsmaster did not do says more than that it took too long.
        let deadline = Instant::now() + limit.saturating_sub(START_MARGIN);
        running.listening(deadline).await?;
        let stage = Stage::Serving {
            pid: running.pid(),
            start_time: running.start_time(),
        };
        // From here on it writes history.
        let served = self.staged;
        self.views.change(|view| {
            view.not_ready = None;
            view.freshness = served.or(view.freshness);
            view.standby_problem = None;
        });
        self.offered = served.or(self.offered);
        self.set_stage(stage).await?;
        self.write_epoch(EpochState::Committed).await?;
        self.services.send_replace(Some(Action::Start));
        Ok(())
    }

    /// P9: the gate is open to them already. Without them a client that comes to read waits for 10 s.
    async fn admit_chunkservers(&mut self) -> anyhow::Result<()> {
        let [.., clients] = self.ports;
        let Some(running) = &mut self.running else {
            bail!("mfsmaster is gone");
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, clients));
        let limit = ADMIT_LIMIT.saturating_sub(ADMIT_MARGIN);
        let registered = tokio::select! {
            exit = running.exited() => bail!("mfsmaster ended: {exit}"),
            registered = chunkservers::wait_registered(address, limit) => registered,
        };
        match registered {
            Ok(registered) => tracing::info!(?registered, "chunkservers"),
            // Whoever cannot count them serves all the same.
            Err(error) => tracing::warn!(error = chain(&error), "chunkservers cannot be counted"),
        }
        Ok(())
    }

    /// R3: what was installed and never served goes, what it replaced comes back.
    pub(super) async fn restore(&mut self) -> anyhow::Result<()> {
        self.must_restore = true;
        let (restored, epoch) = self
            .store
            .work(move |files, _| {
                let restored = install::restore(&files.layout, &mut files.journal)?;
                // On a full disk a write that changes nothing would fail too.
                if *files.journal.stage() != Stage::Idle {
                    files.journal.set(Stage::Idle)?;
                }
                let epoch = epoch::read(&files.layout)?.effective_epoch();
                Ok((restored, epoch))
            })
            .await?;
        tracing::info!(?restored, "metadata is where it was");
        self.must_restore = false;
        self.epoch = epoch;
        self.staged = None;
        Ok(())
    }

    async fn set_stage(&self, stage: Stage) -> anyhow::Result<()> {
        self.store
            .work(move |files, _| Ok(files.journal.set(stage)?))
            .await
    }

    async fn write_epoch(&mut self, state: EpochState) -> anyhow::Result<()> {
        let Some(staged) = self.staged else {
            // An adopted master serves the epoch that it was promoted with.
            return self.commit_epoch().await;
        };
        let before = self.epoch.max(self.seen_epoch);
        let record = EpochRecord {
            epoch: before + 1,
            base: staged.version,
            id: staged.id,
            state,
            previous: (before != self.epoch).then_some(self.epoch),
        };
        self.store
            .work(move |files, _| Ok(epoch::write(&files.layout, &record)?))
            .await?;
        if state == EpochState::Committed {
            self.epoch = record.epoch;
            self.staged = None;
            self.views.change(|view| view.epoch = record.epoch);
        }
        Ok(())
    }

    async fn commit_epoch(&mut self) -> anyhow::Result<()> {
        self.epoch = self
            .store
            .work(|files, _| {
                let mut record = epoch::read(&files.layout)?;
                if record.state == EpochState::Pending {
                    record.state = EpochState::Committed;
                    epoch::write(&files.layout, &record)?;
                }
                Ok(record.epoch)
            })
            .await?;
        Ok(())
    }
}
