//! What quorum mode asks of the metadata side: tell what is here, label it with the epoch of whoever serves
//! it, and make it final before a vote.

use std::time::Duration;

use mfs_ha_common::freshness;

use super::executor::Reports;
use super::{CoreMetadata, Judges, Metadata, Served, blocking};
use crate::driver::Fact;
use crate::error::chain;
use crate::moosefs::directory::Freshness;
use crate::moosefs::epoch::{self, EpochRecord, EpochState};
use crate::moosefs::follow;

/// How often the version of what is served is looked at.
pub(super) const SERVED_CHECK: Duration = Duration::from_millis(500);

/// Whether a standby's metadata are final (rule L1b).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freeze {
    /// Changes may arrive.
    Not,
    /// They must not any more, and the core waits to hear that.
    Wanted,
    /// Nothing arrives until a master is followed again.
    Done,
}

impl Metadata {
    /// Tells the core what this node has, if that is news.
    pub(super) async fn tell_metadata(&mut self, reports: &Reports) {
        let Some(metadata) = self.offered.map(|offered| self.described(offered)) else {
            return;
        };
        if self.told != Some(metadata) {
            self.told = Some(metadata);
            reports.tell(Fact::Metadata(metadata)).await;
        }
    }

    const fn described(&self, offered: Freshness) -> CoreMetadata {
        CoreMetadata {
            id: offered.id,
            freshness: freshness::Freshness {
                epoch: self.epoch,
                version: offered.version,
            },
        }
    }

    /// Tells the core how far the changes of our own master reach. Cancel-safe.
    pub(super) async fn look_at_served(&mut self, reports: &Reports) {
        let data = self.layout.data().to_owned();
        let version = blocking(move || Ok(follow::served_version(&data)?)).await;
        match version {
            // Right after a rotation there is no line yet.
            Ok(version) => {
                if let Some(offered) = &mut self.offered {
                    offered.version = offered.version.max(version.unwrap_or_default());
                }
            }
            Err(error) => {
                tracing::warn!(error = chain(error.as_ref()), "the version that is served");
            }
        }
        // Again and again: the core listens to it only when the node serves, which is a step later.
        self.told = None;
        let served = self.offered;
        self.views
            .change(|view| view.freshness = served.or(view.freshness));
        self.tell_metadata(reports).await;
    }

    /// Makes the metadata final, and says so. mfsmetalogger writes out what it has when it is told to end;
    /// that it downloads everything again afterwards it would do for any new master.
    pub(super) async fn freeze(&mut self, reports: &Reports) {
        if let Err(error) = self.stop_metalogger().await {
            tracing::error!(
                error = chain(error.as_ref()),
                "mfsmetalogger may still write; the metadata are not final"
            );
            return;
        }
        self.care.metalogger_seen(false, None);
        self.judge().await;
        if let Err(error) = self.label_download().await {
            tracing::warn!(error = chain(error.as_ref()), "the epoch of the holder");
        }
        let has = self.offered.map(|offered| self.described(offered));
        // What cannot be promoted counts for nobody.
        let metadata = has.or(self.told).unwrap_or_default();
        self.told = Some(metadata);
        self.frozen = Freeze::Done;
        tracing::info!(freshness = %metadata.freshness, "metadata are final");
        reports.tell(Fact::Frozen(metadata)).await;
    }

    /// What was downloaded from the holder of the lease, over a connection that still is the first one, is
    /// of the holder's epoch. Where that changes under the same download, the master was started anew and
    /// its last changes may be lost: then everything is downloaded again.
    pub(super) async fn label(&mut self, served: Option<Served>) -> anyhow::Result<()> {
        let served = served.filter(|served| Some(served.source) == self.care.master());
        let found = self.offered.filter(|_| self.care.is_fed());
        let Some((served, found)) = served.zip(found).filter(|_| self.judges != Judges::Care)
        else {
            return Ok(());
        };
        let epoch = served.metadata.freshness.epoch;
        if served.metadata.id != found.id {
            return Ok(());
        }
        if self.followed_epoch.is_some_and(|before| before != epoch) {
            tracing::warn!(epoch, "the master that is followed has begun another epoch");
            self.followed_epoch = None;
            self.care.follow_anew();
            return Ok(());
        }
        self.followed_epoch = Some(epoch);
        self.write_label(epoch, found).await
    }

    /// What was downloaded whole from a holder that has gone since is of the epoch that this one was in: nobody else
    /// was let in meanwhile (rule G9), and it was not when it began another one.
    async fn label_download(&mut self) -> anyhow::Result<()> {
        let is_whole = self.judges != Judges::Care && self.care.has_whole_download();
        match self.followed_epoch.zip(self.offered).filter(|_| is_whole) {
            Some((epoch, found)) => self.write_label(epoch, found).await,
            None => Ok(()),
        }
    }

    async fn write_label(&mut self, epoch: u64, found: Freshness) -> anyhow::Result<()> {
        if self.epoch == epoch {
            return Ok(());
        }
        let record = EpochRecord {
            epoch,
            base: found.base,
            id: found.id,
            state: EpochState::Committed,
            previous: None,
        };
        self.store
            .work(move |files, _| Ok(epoch::write(&files.layout, &record)?))
            .await?;
        tracing::info!(
            from = self.epoch,
            to = epoch,
            "metadata are of the holder's epoch"
        );
        self.epoch = epoch;
        self.views.change(|view| view.epoch = epoch);
        Ok(())
    }

    /// Rule G9: mfsmetalogger may hear the holder of this lease epoch from now on.
    pub(super) async fn follow_holder(&mut self, lease: u64, reports: &Reports) {
        if self.judges != Judges::Care {
            reports.tell(Fact::Follows(lease)).await;
        }
    }

    /// The same master as before, perhaps under a lease with a higher epoch: what arrives is of the same history. A
    /// daemon that was started anew knows it by the connection, which is still the first one.
    pub(super) async fn go_on_following(
        &mut self,
        served: Option<Served>,
        is_connected: bool,
        reports: &Reports,
    ) {
        let is_same = |served: &Served| match self.followed_epoch {
            Some(epoch) => served.metadata.freshness.epoch == epoch,
            None => is_connected,
        };
        if let Some(served) = served.filter(is_same) {
            self.follow_holder(served.lease, reports).await;
        }
    }

    /// Whoever answers next may be another master, or the same one without its last changes: until that is
    /// decided nothing arrives.
    pub(super) async fn follow_nobody(&mut self, reports: &Reports) {
        if self.judges != Judges::Care {
            self.care.follow_anew();
            self.follow_holder(0, reports).await;
        }
    }

    /// What the holder served when the download began.
    pub(super) fn note_epoch_at_start(&mut self, served: Option<Served>) {
        self.followed_epoch = served
            .filter(|served| Some(served.source) == self.care.master())
            .map(|served| served.metadata.freshness.epoch);
    }
}
