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
use tokio::time::{Instant, sleep};

use super::executor::Reports;
use super::{Metadata, blocking};
use crate::driver::Fact;
use crate::error::chain;
use crate::moosefs::directory::{Freshness, Problem, ProblemKind};
use crate::moosefs::followed::{self, Download, Followed};
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

/// How long a running mfsmetalogger may have nothing that could be promoted before its files are
/// archived and it downloads everything anew. Doubles with each time, up to [`RENEW_AFTER_MAX`]: the
/// download of a large image takes its time.
const RENEW_AFTER: Duration = Duration::from_secs(30);
const RENEW_AFTER_MAX: Duration = Duration::from_secs(1920);

/// The file that mfsmetalogger downloads an image into.
const DOWNLOAD: &str = "metadata_ml.tmp";

/// How long the changes may take after the image; a master without changes sends none.
const CHANGES_AFTER: Duration = Duration::from_secs(30);

/// How long a master that is heard may be without a connection from here and still not serve.
const UNCONNECTED_MAX: Duration = Duration::from_secs(10);

/// How much longer than a promotion may take a master has to be heard to count as one that serves,
/// where its port cannot be reached from here.
const SERVES_AFTER: Duration = Duration::from_secs(20);

/// The same for what does not mend itself, the first time.
const HOPELESS_AFTER: Duration = Duration::from_secs(2);

/// How long a daemon that starts listens before it believes that there is no master. One that lives
/// speaks every advbase seconds and a bit.
const LISTEN: Duration = Duration::from_secs(2);

/// What standby care remembers from one look to the next.
#[derive(Debug)]
pub(super) struct Care {
    started: Instant,
    /// The master that was heard.
    master: Option<Ipv4Addr>,
    /// Its metalogger had a connection at the last look.
    is_connected: bool,
    /// The metalogger's last start.
    followed: Option<Followed>,
    /// It has completed a download since.
    has_downloaded: bool,
    /// Since when it has had the image alone.
    image_since: Option<Instant>,
    /// Bytes of the image that is being downloaded.
    downloading: Option<u64>,
    /// Since when the master was heard.
    heard_since: Option<Instant>,
    /// The files had everything when this node took over, and nobody else has served since.
    is_complete: bool,
    /// A running metalogger has had nothing to promote for so long.
    unready: Option<Unready>,
    renew_after: Duration,
    /// A running metalogger has no connection to a master that serves: it misses changes.
    is_unconnected: bool,
    unconnected_since: Option<Instant>,
    /// What the heartbeat thread was told last.
    told_ready: Option<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Unready {
    since: Instant,
    /// No download and no change mends it.
    is_hopeless: bool,
}

impl Care {
    pub(super) fn new(followed: Option<Followed>) -> Self {
        Self {
            started: Instant::now(),
            master: None,
            is_connected: false,
            followed,
            has_downloaded: false,
            image_since: None,
            downloading: None,
            heard_since: None,
            is_complete: false,
            unready: None,
            renew_after: RENEW_AFTER,
            is_unconnected: false,
            unconnected_since: None,
            told_ready: None,
        }
    }

    /// Another connection than the first: to another master, or to the same one after a restart, which
    /// may have lost the last changes.
    fn is_reconnected(&self, connection: Option<u16>) -> bool {
        let first = self.followed.and_then(|followed| followed.connection);
        connection.is_some() && first.is_some() && connection != first
    }

    fn belongs_to(&self, master: Ipv4Addr) -> bool {
        self.followed
            .is_some_and(|followed| followed.master == master)
    }

    /// Says why the files may be older than what another node has served, if they may.
    fn staleness(&self, has_metalogger: bool) -> Option<String> {
        if self.is_complete {
            return None;
        }
        let Some(master) = self.master else {
            let is_listening = self.started.elapsed() < LISTEN;
            return is_listening.then(|| "has just started and listens for a master".to_owned());
        };
        if !has_metalogger || !self.belongs_to(master) {
            return Some(format!(
                "{master} is master and mfsmetalogger does not follow it yet"
            ));
        }
        if !self.has_downloaded {
            return Some(format!(
                "mfsmetalogger has not downloaded the metadata of {master} yet"
            ));
        }
        self.is_unconnected.then(|| {
            format!(
                "{master} serves and mfsmetalogger is not connected to it: \
                 see its log, MASTER_HOST in its configuration, and whether the port can be reached"
            )
        })
    }

    fn note_download(&mut self, download: Download) {
        self.has_downloaded = match download {
            Download::Missing => {
                self.image_since = None;
                false
            }
            Download::Image => {
                let since = *self.image_since.get_or_insert_with(Instant::now);
                since.elapsed() > CHANGES_AFTER
            }
            Download::Complete => true,
        };
    }

    /// A download that goes on is left alone.
    fn note_progress(&mut self, downloading: Option<u64>) {
        if downloading.is_some() && downloading != self.downloading {
            self.unready = None;
        }
        self.downloading = downloading;
    }

    fn must_renew(&self) -> bool {
        self.unready.is_some_and(|unready| {
            let is_first = self.renew_after == RENEW_AFTER;
            let patience = if unready.is_hopeless && is_first {
                HOPELESS_AFTER
            } else {
                self.renew_after
            };
            unready.since.elapsed() > patience
        })
    }

    fn note_unready(&mut self, is_hopeless: Option<bool>) {
        let Some(is_hopeless) = is_hopeless else {
            self.unready = None;
            self.renew_after = RENEW_AFTER;
            return;
        };
        let since = self
            .unready
            .map_or_else(Instant::now, |unready| unready.since);
        self.unready = Some(Unready { since, is_hopeless });
    }
}

impl Metadata {
    /// Keeps the directory ready for as long as it is polled. Cancel-safe.
    pub(super) async fn stand_by(
        &mut self,
        follow: &mut watch::Receiver<Option<Ipv4Addr>>,
        reports: &Reports,
    ) -> String {
        self.care.told_ready = None;
        loop {
            if follow.has_changed().unwrap_or(false) {
                // Who was fresh stays so until the new master serves, which it may never come to.
                let has_metalogger = self.views.get().metalogger_pid.is_some();
                let followed_before = self.care.master.is_some();
                self.care.is_complete |=
                    followed_before && self.care.staleness(has_metalogger).is_none();
                self.care.master = *follow.borrow_and_update();
                // What was told of the files was told without knowledge of this master.
                self.care.told_ready = None;
                self.care.heard_since = Some(Instant::now());
                self.preserve().await;
            }
            let looked = async {
                self.look_after(reports).await;
                sleep(CHECK).await;
            };
            tokio::select! {
                biased;
                // Nothing delays the snapshot: not a download, not a master that does not answer.
                changed = follow.changed() => {
                    if changed.is_err() {
                        // The heartbeat thread has ended.
                        return std::future::pending().await;
                    }
                    follow.mark_changed();
                }
                () = looked => {}
            }
        }
    }

    /// Another node is master: what this one has is kept from it.
    async fn preserve(&mut self) {
        let Some(master) = self.care.master else {
            return;
        };
        tracing::info!(%master, "follows");
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
    async fn look_after(&mut self, reports: &Reports) {
        let cared = self.take_care().await;
        let problem = cared.err().map(|error| chain(error.as_ref()));
        if let Some(problem) = &problem {
            tracing::warn!(problem, "standby care");
        }
        self.views.change(|view| view.standby_problem = problem);
        let is_ready = self.judge().await;
        if self.care.told_ready != Some(is_ready) {
            reports.tell(Fact::Ready(is_ready)).await;
            self.care.told_ready = Some(is_ready);
        }
    }

    async fn take_care(&mut self) -> anyhow::Result<()> {
        if self.must_restore {
            self.restore().await.context("restore the metadata")?;
        }
        if let Some(starting) = &mut self.starting_metalogger {
            // It was left when something else was wanted.
            let started = starting.await;
            self.starting_metalogger = None;
            started.context("the task died")??;
        }
        self.care_for_metalogger().await
    }

    /// Sees to it that mfsmetalogger runs where there is a master for it, on files of that one's history.
    async fn care_for_metalogger(&mut self) -> anyhow::Result<()> {
        let process = self.metalogger.running().await?;
        let pid = process.as_ref().map(Process::pid);
        self.views.change(|view| view.metalogger_pid = pid);
        let Some(master) = self.care.master else {
            return Ok(());
        };
        self.forget_completeness();
        let port = SocketAddrV4::new(self.vip, self.metalogger_port);
        let must_renew = self.care.must_renew();
        let mut belongs = self.care.belongs_to(master);
        if let Some(process) = &process {
            let connection = MetaloggerProgram::connection(process, port)?;
            self.note_connection(connection).await?;
            belongs &= !self.care.is_reconnected(connection);
            if belongs && !must_renew {
                // It is fed again: what it misses from here on, it lacks.
                self.care.is_complete &= connection.is_none();
                self.care.is_unconnected = match connection {
                    Some(_) => {
                        self.care.unconnected_since = None;
                        false
                    }
                    // Once it has missed something it goes on lacking it, also when nobody serves any more.
                    None => self.care.is_unconnected || self.misses_changes(port).await,
                };
                return Ok(());
            }
        }
        if !probe::accepts(port.into(), ACCEPT_LIMIT).await {
            return Ok(());
        }
        self.care.is_complete = false;
        if process.is_some() {
            tracing::info!(%master, belongs, must_renew, "mfsmetalogger starts anew");
            self.metalogger.stop().await?;
        }
        let which = if must_renew {
            self.care.renew_after = (self.care.renew_after * 2).min(RENEW_AFTER_MAX);
            Which::All
        } else {
            Which::MasterFiles
        };
        self.care.unready = None;
        self.care.is_unconnected = false;
        self.care.unconnected_since = None;
        self.care.has_downloaded = false;
        self.care.image_since = None;
        self.care.followed = Some(self.clear(which, master).await?);
        self.start_metalogger().await
    }

    /// Says whether a metalogger without a connection misses something. For a moment nobody may serve: the
    /// master starts its mfsmaster again. A master that is heard for longer serves, and cannot be reached
    /// from here.
    async fn misses_changes(&mut self, port: SocketAddrV4) -> bool {
        let since = *self.care.unconnected_since.get_or_insert_with(Instant::now);
        since.elapsed() > UNCONNECTED_MAX || probe::accepts(port.into(), ACCEPT_LIMIT).await
    }

    /// Whoever has been master for longer than a promotion takes has served, seen from here or not.
    fn forget_completeness(&mut self) {
        let promotion = self.config.stage_timeout * 3 + self.config.start_timeout + SERVES_AFTER;
        let is_long = |since: Instant| since.elapsed() > promotion;
        if self.care.heard_since.is_some_and(is_long) {
            self.care.is_complete = false;
        }
    }

    /// A connection that was lost will be made anew, to whoever is master then.
    async fn note_connection(&mut self, connection: Option<u16>) -> anyhow::Result<()> {
        if self.care.is_connected && connection.is_none() {
            self.keep_snapshot().await;
        }
        self.care.is_connected = connection.is_some();
        let Some(followed) = self.care.followed.as_mut() else {
            return Ok(());
        };
        if connection.is_none() || followed.connection.is_some() {
            return Ok(());
        }
        followed.connection = connection;
        let followed = *followed;
        let layout = self.layout.clone();
        blocking(move || Ok(followed::write(&layout, &followed)?)).await
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
    async fn clear(&self, which: Which, master: Ipv4Addr) -> anyhow::Result<Followed> {
        let epoch = self.epoch;
        self.store
            .work(move |files, _| {
                let moved = repair::quarantine(&files.layout, &files.journal, which, epoch)?;
                tracing::info!(?moved, "archived");
                let repaired = repair::repair_metalogger_files(&files.layout, epoch)?;
                tracing::info!(?repaired, "looked for files that were cut short");
                Ok(followed::begin(&files.layout, master)?)
            })
            .await
    }

    /// Looks at the directory and says whether it could be promoted.
    async fn judge(&mut self) -> bool {
        let followed = self.care.followed;
        let looked = self
            .store
            .work(move |files, _| {
                // First the download: what it brought is then part of what is looked at.
                let download = match followed {
                    Some(followed) => followed.download(&files.layout)?,
                    None => Download::Missing,
                };
                let downloading = files.layout.data().join(DOWNLOAD).metadata();
                let downloading = downloading.ok().map(|file| file.len());
                let inspection = files.follower.refresh()?;
                Ok((download, downloading, inspection.readiness()))
            })
            .await;
        let looked = looked.map(|(download, downloading, found)| {
            self.care.note_download(download);
            self.care.note_progress(downloading);
            found
        });
        let has_metalogger = self.views.get().metalogger_pid.is_some();
        let is_hopeless = match &looked {
            Ok(Err(reason)) if has_metalogger => Some(reason.problems.iter().any(is_hopeless)),
            Ok(Ok(_) | Err(_)) | Err(_) => None,
        };
        self.care.note_unready(is_hopeless);
        let found = match looked {
            Ok(found) => found.map_err(|reason| reason.to_string()),
            Err(error) => Err(chain(error.as_ref())),
        };
        let judged = self.judge_found(found, has_metalogger);
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
    fn judge_found(
        &self,
        found: Result<Freshness, String>,
        has_metalogger: bool,
    ) -> Result<Freshness, String> {
        if self.must_restore {
            return Err("a promotion that failed could not be undone yet".to_owned());
        }
        let is_served = self.running.is_some();
        match self.care.staleness(has_metalogger) {
            Some(reason) if !is_served => Err(reason),
            Some(_) | None => found,
        }
    }

    /// Refuses to promote what may be older than what another node has served. What is not, stays so
    /// until somebody else serves, although it is not fed from now on.
    pub(super) fn require_fresh(&mut self) -> anyhow::Result<()> {
        let has_metalogger = self.views.get().metalogger_pid.is_some();
        match self.care.staleness(has_metalogger) {
            None => {
                self.care.is_complete = true;
                self.care.master = None;
                Ok(())
            }
            Some(reason) => bail!(
                "the metadata here may be older than what was served last ({reason}); \
                 to serve it all the same, restart mfs-ha here while no other node is master"
            ),
        }
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
