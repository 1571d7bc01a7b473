//! Standby care: the directory of a node that does not serve is kept ready to be promoted.
//!
//! Until another master is heard, whatever is in the directory stays as it is: it may be the freshest
//! copy there is. When one is heard **and serves** (its metalogger port accepts), this node follows: old
//! master files are archived, files that were cut short are mended, mfsmetalogger is started.
//!
//! A metalogger that is ahead of the master it meets deletes its own changes. So a snapshot of its files
//! is made when the master changes, before the new one can have opened its ports.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tokio::time::sleep;

use super::care::Download;
use super::executor::Reports;
use super::quorum::Freeze;
use super::{CancelOnDrop, Judges, Metadata, Served, Wish, blocking};
use crate::driver::Fact;
use crate::error::chain;
use crate::moosefs::directory::{Family, Freshness, Kind, Problem, ProblemKind, classify};
use crate::moosefs::followed::{self, Followed};
use crate::moosefs::lost;
use crate::moosefs::process::metalogger::MetaloggerProgram;
use crate::moosefs::process::pidfd::Process;
use crate::moosefs::process::probe;
use crate::moosefs::repair::{self, Which};
use crate::moosefs::snapshot;

/// How often the directory is looked at. A metalogger that lost its connection makes another one a
/// whole second later at the soonest: the snapshot comes in between.
const CHECK: Duration = Duration::from_millis(500);

/// How long the master may take to accept a connection.
const ACCEPT_LIMIT: Duration = Duration::from_millis(500);

/// How long mfsmetalogger may take to come up.
const START_LIMIT: Duration = Duration::from_secs(5);

/// The files that mfsmetalogger downloads into.
const DOWNLOADS: [&str; 2] = ["metadata_ml.tmp", "changelog_ml.tmp"];

impl Metadata {
    /// Keeps the directory ready for as long as it is polled. Cancel-safe.
    pub(super) async fn stand_by(
        &mut self,
        wishes: &mut watch::Receiver<Option<Wish>>,
        holder: &watch::Receiver<Option<Served>>,
        reports: &Reports,
    ) -> String {
        let mut told_ready = None;
        loop {
            if wishes.has_changed().unwrap_or(false) {
                let wish = *wishes.borrow_and_update();
                match wish {
                    Some(Wish::Follow(master)) => {
                        self.frozen = Freeze::Not;
                        self.care.heard(Some(master));
                        // What was told of the files was told without knowledge of this master.
                        told_ready = None;
                        self.preserve().await;
                    }
                    Some(Wish::Freeze) => self.frozen = Freeze::Wanted,
                    None => {}
                }
            }
            let looked = async {
                if self.frozen == Freeze::Wanted {
                    self.freeze(reports).await;
                }
                self.look_after(holder, reports, &mut told_ready).await;
                sleep(CHECK).await;
            };
            tokio::select! {
                biased;
                // Nothing delays the snapshot: not a download, not a master that does not answer.
                changed = wishes.changed() => {
                    if changed.is_err() {
                        // The heartbeat thread has ended.
                        return std::future::pending().await;
                    }
                    wishes.mark_changed();
                }
                () = looked => {}
            }
        }
    }

    /// Another node is master: what this one has is kept from it.
    async fn preserve(&mut self) {
        let Some(master) = self.care.master() else {
            return;
        };
        tracing::info!(%master, "another node is master");
        self.keep_snapshot().await;
        if let Err(error) = self.stop_master().await {
            tracing::error!(error = chain(error.as_ref()), "an mfsmaster may still run");
        }
    }

    async fn keep_snapshot(&self) {
        let layout = self.layout.clone();
        let epoch = self.epoch;
        // Not through the store: file work that is under way may take its time.
        let linked = blocking(move || Ok(snapshot::snapshot(&layout, epoch)?)).await;
        match linked {
            Ok(snapshot) => tracing::info!(?snapshot, "metalogger files are kept"),
            Err(error) => tracing::error!(
                error = chain(error.as_ref()),
                "metalogger files could not be kept"
            ),
        }
    }

    /// One look: does what is to be done, and says whether this node could serve.
    async fn look_after(
        &mut self,
        holder: &watch::Receiver<Option<Served>>,
        reports: &Reports,
        told_ready: &mut Option<bool>,
    ) {
        let served = *holder.borrow();
        let cared = self.take_care(served, reports).await;
        let problem = cared.err().map(|error| chain(error.as_ref()));
        let before = self.views.get().standby_problem;
        if let Some(problem) = problem.as_ref().filter(|now| Some(*now) != before.as_ref()) {
            tracing::warn!(problem, "standby care");
        }
        self.views.change(|view| view.standby_problem = problem);
        let is_ready = self.judge().await;
        if let Err(error) = self.label(served).await {
            tracing::warn!(error = chain(error.as_ref()), "the epoch of the holder");
        }
        self.compare_with_download();
        // Before readiness: who is ready with something counts with that.
        self.tell_metadata(reports).await;
        if *told_ready != Some(is_ready) {
            reports.tell(Fact::Ready(is_ready)).await;
            *told_ready = Some(is_ready);
        }
    }

    async fn take_care(&mut self, served: Option<Served>, reports: &Reports) -> anyhow::Result<()> {
        // Again, should it not have come to its end before.
        if self.running.is_some() && self.care.master().is_some() {
            self.stop_master().await?;
        }
        if self.must_restore {
            self.restore().await.context("restore the metadata")?;
        }
        if let Some(starting) = &mut self.starting_metalogger {
            // It was left when something else was wanted.
            let started = starting.await;
            self.starting_metalogger = None;
            started.context("the task died")??;
        }
        self.care_for_metalogger(served, reports).await
    }

    /// Sees to it that mfsmetalogger runs where there is a master for it, on files of that one's history.
    async fn care_for_metalogger(
        &mut self,
        served: Option<Served>,
        reports: &Reports,
    ) -> anyhow::Result<()> {
        let process = self.metalogger.running().await?;
        let pid = process.as_ref().map(Process::pid);
        self.views.change(|view| view.metalogger_pid = pid);
        let [metaloggers, _, clients] = self.ports;
        let port = SocketAddrV4::new(self.vip, metaloggers);
        let connection = match &process {
            Some(process) => MetaloggerProgram::connection(process, port)?,
            None => None,
        };
        if self.care.metalogger_seen(process.is_some(), connection) {
            // It will be made anew, to whoever is master then.
            self.follow_nobody(reports).await;
            self.keep_snapshot().await;
        }
        if self.frozen != Freeze::Not {
            return Ok(());
        }
        let Some(master) = self.care.master() else {
            if process.is_some() && self.care.follows_nobody() {
                // It belongs to an earlier life of this daemon. What it has must not change in a vote.
                self.stop_metalogger().await?;
            }
            return Ok(());
        };
        let served = served.filter(|served| served.source == master);
        self.note_first(connection).await?;
        if self.care.follows() && connection.is_some() && !self.care.must_renew() {
            self.go_on_following(served, reports).await;
            return Ok(());
        }
        let accepts = match self.judges {
            Judges::Care => {
                let accepts = probe::accepts(port.into(), ACCEPT_LIMIT).await;
                let clients = SocketAddrV4::new(self.vip, clients);
                let serves = accepts || probe::accepts(clients.into(), ACCEPT_LIMIT).await;
                self.care.probed(serves);
                accepts
            }
            // Its own heartbeats say so, and its port is closed to us until it is followed (rule G9).
            Judges::Voters | Judges::VotersAcceptingLoss => served.is_some(),
        };
        let must_renew = self.care.must_renew();
        if !accepts || (self.care.follows() && !must_renew) {
            return Ok(());
        }
        if process.is_some() {
            tracing::info!(%master, must_renew, "mfsmetalogger starts anew");
            self.metalogger.stop().await?;
        }
        let which = if must_renew || self.is_of_another_history(served) {
            Which::All
        } else {
            Which::MasterFiles
        };
        let followed = self.clear(which, master).await?;
        self.care.begins_to_follow(followed);
        self.note_epoch_at_start(served);
        if let Some(served) = served {
            self.follow_holder(served.lease, reports).await;
        }
        self.start_metalogger().await
    }

    /// Says whether changes of two histories would lie in one directory if this holder were followed with what is
    /// here: all of it is downloaded anew in any case.
    fn is_of_another_history(&self, served: Option<Served>) -> bool {
        served.is_some_and(|served| served.metadata.freshness.epoch != self.epoch)
    }

    /// Writes down the metalogger's first connection: it is known by it after a restart of this daemon.
    async fn note_first(&mut self, connection: Option<u16>) -> anyhow::Result<()> {
        let Some(mut followed) = self.care.followed() else {
            return Ok(());
        };
        if connection.is_none() || followed.connection.is_some() || !self.care.follows() {
            return Ok(());
        }
        followed.connection = connection;
        let layout = self.layout.clone();
        blocking(move || Ok(followed::write(&layout, &followed)?)).await?;
        self.care.connected(followed);
        Ok(())
    }

    /// Starts mfsmetalogger. It comes up even when nobody waits for it any more, so it is remembered.
    async fn start_metalogger(&mut self) -> anyhow::Result<()> {
        let metalogger = self.metalogger.clone();
        let starting = self.starting_metalogger.insert(tokio::spawn(async move {
            metalogger.start(START_LIMIT).await
        }));
        let started = starting.await;
        self.starting_metalogger = None;
        let process = started.context("the task died")??;
        tracing::info!(pid = process.pid(), "mfsmetalogger follows");
        self.views
            .change(|view| view.metalogger_pid = Some(process.pid()));
        Ok(())
    }

    /// Moves away what must not mix with the history of the master that is followed.
    async fn clear(&mut self, which: Which, master: Ipv4Addr) -> anyhow::Result<Followed> {
        let epoch = self.epoch;
        let (archive, followed) = self
            .store
            .work(move |files, _| {
                let moved = repair::quarantine(&files.layout, &files.journal, which, epoch)?;
                tracing::info!(?moved, "archived");
                let repaired = repair::repair_metalogger_files(&files.layout, epoch)?;
                tracing::info!(?repaired, "looked for files that were cut short");
                Ok((moved.archive, followed::begin(&files.layout, master)?))
            })
            .await?;
        // What a download left that was not completed tells nothing.
        self.left_behind = self.left_behind.take().or(archive);
        Ok(followed)
    }

    /// Counts what was here and is not in what was downloaded: changes that were acknowledged, and that the
    /// cluster does not have. Nobody waits for it.
    fn compare_with_download(&mut self) {
        if !self.care.is_fed() {
            return;
        }
        let Some(archive) = self.left_behind.take() else {
            return;
        };
        self.comparison = CancelOnDrop::default();
        let (layout, cancel) = (self.layout.clone(), self.comparison.flag());
        let views = self.views();
        // Its outcome is in the archive, the log and the status.
        drop(tokio::task::spawn_blocking(move || {
            let shown = archive.display().to_string();
            match lost::record(&layout, &archive, &cancel) {
                Ok(lost) if lost.is_nothing() => {
                    tracing::info!(archive = shown, "the cluster has all that this node had");
                    views.change(|view| view.lost = None);
                }
                Ok(lost) => {
                    tracing::warn!(archive = shown, %lost, "this node had changes that the cluster does not have");
                    views.change(|view| view.lost = Some(format!("{lost}; kept in {shown}")));
                }
                Err(error) => tracing::warn!(
                    archive = shown,
                    error = chain(&error),
                    "what this node had cannot be compared with what the cluster has"
                ),
            }
        }));
    }

    /// Looks at the directory and says whether it could be promoted.
    pub(super) async fn judge(&mut self) -> bool {
        let followed = self.care.followed();
        let looked = self
            .store
            .work(move |files, _| {
                // First the download: what it brought is then part of what is looked at.
                let is_complete = match followed {
                    Some(followed) => followed.has_downloaded(&files.layout)?,
                    None => false,
                };
                let downloading = DOWNLOADS.iter().find_map(|name| {
                    let file = files.layout.data().join(name).metadata();
                    file.ok().map(|file| file.len())
                });
                let inspection = files.follower.refresh()?;
                let is_former_master = inspection.files.iter().any(|file| {
                    let kind = classify(&file.name);
                    matches!(kind, Some((Family::Master, Kind::Image)))
                });
                let of = Download {
                    is_complete,
                    downloading,
                    is_former_master,
                };
                Ok((of, inspection.readiness()))
            })
            .await;
        let looked = looked.map(|(download, found)| {
            self.care.download_seen(download);
            found
        });
        let obstacle = match &looked {
            Ok(Ok(_)) => None,
            Ok(Err(reason)) => Some(reason.problems.iter().any(is_hopeless)),
            Err(_) => Some(false),
        };
        self.care.looked(obstacle);
        let found = match looked {
            Ok(found) => found.map_err(|reason| reason.to_string()),
            Err(error) => Err(chain(error.as_ref())),
        };
        let judged = self.judge_found(found);
        self.offered = judged.as_ref().ok().copied();
        let is_ready = judged.is_ok();
        self.views.change(|view| match judged {
            Ok(freshness) => {
                view.freshness = Some(freshness);
                view.not_ready = None;
            }
            Err(reason) => view.not_ready = Some(reason),
        });
        is_ready
    }

    /// What our own master serves, without the address, is fresh.
    fn judge_found(&self, found: Result<Freshness, String>) -> Result<Freshness, String> {
        if self.must_restore {
            return Err("a promotion that failed could not be undone yet".to_owned());
        }
        let is_served = self.running.is_some();
        match self.care.staleness() {
            Some(reason) if !is_served => Err(reason),
            Some(_) | None => found,
        }
    }

    /// Refuses to promote what may be older than what another node has served. What is not, stays so
    /// until somebody else serves, although it is not fed from now on.
    pub(super) fn require_fresh(&mut self) -> anyhow::Result<()> {
        // A vote has settled it.
        let staleness = self
            .care
            .staleness()
            .filter(|_| self.judges == Judges::Care);
        if let Some(reason) = staleness {
            bail!(
                "the metadata here may be older than what was served last ({reason}); \
                 to serve it all the same, restart mfs-ha here while no other node is master"
            );
        }
        self.care.took_over();
        Ok(())
    }
}

/// What neither a download nor further changes mend.
const fn is_hopeless(problem: &Problem) -> bool {
    matches!(
        problem.kind,
        ProblemKind::Conflict
            | ProblemKind::DifferentIds
            | ProblemKind::DamagedLine
            | ProblemKind::Disorder
    )
}
