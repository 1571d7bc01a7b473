//! Carries out what the core decides about the metadata: promotion, resignation, standby care.
//!
//! ```text
//!  heartbeat thread                        main thread
//!  Node ── RunStep(step, ticket) ──▶ Executor ──▶ steps: one at a time, on the real programs
//!       ── FollowMaster ───────────▶    │  when no step is wanted:
//!       ◀── StepDone / StepFailed ──    ├─▶ serving: does mfsmaster live?
//!       ◀── MasterLost ─────────────    └─▶ standby: is the directory ready? does mfsmetalogger run?
//!       ◀── Ready ──────────────────
//! ```
//!
//! The latest order counts: one that arrives while a step runs ends that step's waiting. What a step
//! does to files goes on to its end in a blocking thread, and the next step waits for that; so no two
//! of them ever work on one directory.

mod care;
mod executor;
mod quorum;
mod serving;
mod standby;
mod steps;
mod store;
mod view;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use mfs_ha_common::freshness::Metadata as CoreMetadata;
use mfs_ha_common::promotion::{Service, Step};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::executor::{Executor, Reports};
pub use self::view::{Failure, Outcome, PromotionView, PromotionViews, StepView};

pub use self::care::Judges;

use self::care::Care;
use self::quorum::Freeze;
use self::store::{Files, Store};
use crate::config::{MooseFs, ServiceConfig};
use crate::lock::InstanceLock;
use crate::moosefs::archive::{self, Retention};
use crate::moosefs::directory::Freshness;
use crate::moosefs::epoch;
use crate::moosefs::follow::Follower;
use crate::moosefs::followed;
use crate::moosefs::journal::{self, Journal, Stage};
use crate::moosefs::layout::Layout;
use crate::moosefs::process::ProcessError;
use crate::moosefs::process::master::{MasterProgram, Running};
use crate::moosefs::process::metalogger::MetaloggerProgram;
use crate::moosefs::process::pidfd::Process;
use crate::moosefs::services::{Action, Service as Program};
use crate::moosefs::settings::{self, MasterSettings, MetaloggerSettings};

/// How often old archives are seen to.
const HOUSEKEEPING: Duration = Duration::from_secs(600);

/// The newest archives, which stay uncompressed: an operator who needs one needs it now.
const PLAIN_ARCHIVES: u32 = 2;

/// For the short steps of a promotion, for hearing of it, and for the pause between two that fail.
const SERVES_MARGIN: Duration = Duration::from_secs(200);

/// Names the lock on a data directory.
const LOCK: &str = "metadata";

/// A step that is wanted. An answer carries the same ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub step: Step,
    /// Tells this order from an earlier one of the same step.
    pub ticket: u32,
    /// The newest metadata epoch that this node has heard of; a promotion begins a higher one, also where
    /// newer metadata are given up. 0 in carp mode.
    pub seen_epoch: u64,
}

/// What a standby shall do; the latest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Follow this master.
    Follow(Ipv4Addr),
    /// Make the files final: nothing arrives any more until a master is followed again (rule L1b).
    Freeze,
}

/// What the holder of the lease serves, by its own heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// By which address it is followed.
    pub source: Ipv4Addr,
    /// The lease epoch that it holds.
    pub lease: u64,
    /// What it has.
    pub metadata: CoreMetadata,
}

/// Where the decisions go. Sending never waits.
#[derive(Debug)]
pub struct Orders {
    /// The step that is wanted now.
    pub step: watch::Sender<Option<Order>>,
    /// What a standby shall do.
    pub wish: watch::Sender<Option<Wish>>,
    /// What is served elsewhere; nothing in carp mode.
    pub served: watch::Sender<Option<Served>>,
}

/// What the promotion has to know of the rest of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address of the master, whoever that is.
    pub vip: Ipv4Addr,
    /// Who judges whether metadata are older than what was served.
    pub judges: Judges,
}

/// Where the orders come in.
#[derive(Debug)]
pub struct Inputs {
    /// The step that is wanted now.
    pub steps: watch::Receiver<Option<Order>>,
    /// What a standby shall do.
    pub wishes: watch::Receiver<Option<Wish>>,
    /// What is served elsewhere.
    pub holder: watch::Receiver<Option<Served>>,
}

/// The metadata directory of this node and the programs that work on it.
pub struct Metadata {
    config: MooseFs,
    vip: Ipv4Addr,
    judges: Judges,
    /// mfsmaster's ports: for metaloggers, chunkservers and clients.
    ports: [u16; 3],
    /// User and group that both programs run as.
    owner: (u32, u32),
    layout: Layout,
    store: Store,
    master: MasterProgram,
    metalogger: MetaloggerProgram,
    /// What the programs beside the master shall do.
    services: watch::Sender<Option<Action>>,
    /// Our mfsmaster, or one of an earlier life of this daemon.
    running: Option<Running>,
    /// It has ended, or hangs.
    is_lost: bool,
    /// An mfsmetalogger that is coming up. It must not be forgotten: it would come up beside a master.
    starting_metalogger: Option<JoinHandle<Result<Process, ProcessError>>>,
    care: Care,
    /// The last restoration failed: nothing may touch the directory before it was repeated.
    must_restore: bool,
    epoch: u64,
    /// As in [`Order`].
    seen_epoch: u64,
    /// What was staged and does not serve yet.
    staged: Option<Freshness>,
    /// What this node could have promoted at the last look, or serves.
    offered: Option<Freshness>,
    /// What the core was told of that.
    told: Option<CoreMetadata>,
    /// Whether it is final.
    frozen: Freeze,
    /// The epoch that the followed master was in, since mfsmetalogger was started for it.
    followed_epoch: Option<u64>,
    /// The lease epoch whose holder mfsmetalogger may hear (rule G9); 0: none.
    admitted: u64,
    /// The archive of what was here before the present download, while it is to be compared with it.
    left_behind: Option<PathBuf>,
    /// Ends the comparison that is under way.
    comparison: CancelOnDrop,
    views: PromotionViews,
    /// Two instances would take each other's mfsmaster for a stray.
    _lock: InstanceLock,
}

impl Metadata {
    /// Finds the directory as an earlier life left it: takes its unfinished work back, ends an mfsmaster
    /// that is not ours, and finds the one that is.
    ///
    /// # Errors
    /// A configuration that cannot work, a directory that cannot be used, or a process that cannot be
    /// ended.
    pub async fn prepare(
        config: &MooseFs,
        place: Place,
        services: watch::Sender<Option<Action>>,
    ) -> anyhow::Result<Self> {
        let settings = blocking({
            let config = config.clone();
            move || ProgramSettings::read(&config)
        })
        .await?;
        let master = MasterProgram::new(
            config.master_program.clone(),
            config.master_config.clone(),
            &settings.master,
        );
        let data = settings.master.data_path.clone();
        let (layout, lock, mut journal) = blocking(move || open(&data)).await?;
        if let Some(damage) = journal.damage() {
            tracing::error!(?damage, "the journal was damaged and is set aside");
        }
        // Files are put back only when no mfsmaster works on them.
        let running = adopt_or_stop(&master, journal.stage(), place).await?;
        let (layout, journal, epoch, followed) = blocking(move || {
            let recovery = journal::recover(&layout, &mut journal)?;
            tracing::info!(?recovery, "took up the journal");
            let epoch = epoch::read(&layout)?.effective_epoch();
            let followed = followed::read(&layout)?;
            Ok((layout, journal, epoch, followed))
        })
        .await?;
        let views = first_views(epoch, running.as_ref());
        Ok(Self {
            config: config.clone(),
            vip: place.vip,
            judges: place.judges,
            ports: settings.master.ports(),
            owner: settings.master.owner()?,
            store: Store::new(Files {
                follower: Follower::new(layout.data()),
                layout: layout.clone(),
                journal,
            }),
            layout,
            master,
            metalogger: MetaloggerProgram::new(
                config.metalogger_program.clone(),
                config.metalogger_config.clone(),
                &settings.metalogger,
            ),
            services,
            running,
            is_lost: false,
            starting_metalogger: None,
            care: Care::new(followed, serves_after(config), place.judges),
            must_restore: false,
            epoch,
            seen_epoch: 0,
            staged: None,
            offered: None,
            told: None,
            frozen: Freeze::Not,
            followed_epoch: None,
            admitted: 0,
            left_behind: None,
            comparison: CancelOnDrop::default(),
            views,
            _lock: lock,
        })
    }

    /// Returns where the view can be read.
    #[must_use]
    pub fn views(&self) -> PromotionViews {
        self.views.clone()
    }

    /// Returns mfsmaster's ports: for metaloggers, chunkservers and clients.
    #[must_use]
    pub const fn ports(&self) -> [u16; 3] {
        self.ports
    }

    /// Returns what the core was told of the limits.
    fn service(&self) -> Service {
        Service::Metadata {
            stage_limit: self.config.stage_timeout,
            start_limit: self.config.start_timeout,
        }
    }

    /// Returns what ends an mfsmaster that the node could not end.
    #[must_use]
    pub fn master(&self) -> MasterProgram {
        self.master.clone()
    }

    /// Returns what sees to old archives.
    #[must_use]
    pub fn housekeeping(&self) -> Housekeeping {
        Housekeeping {
            layout: self.layout.clone(),
            retention: Retention {
                keep_plain: PLAIN_ARCHIVES,
                keep: self.config.archive_keep,
                max_age: Some(self.config.archive_age),
            },
        }
    }
}

/// Compresses and drops old archives (P11).
pub struct Housekeeping {
    layout: Layout,
    retention: Retention,
}

impl Housekeeping {
    /// Runs for ever. Dropping it ends the work soon.
    pub async fn run(self) {
        let cancel = CancelOnDrop::default();
        loop {
            tokio::time::sleep(HOUSEKEEPING).await;
            let spawned = archive::spawn(self.layout.clone(), self.retention, cancel.flag());
            // Its own thread runs at the lowest priority; joining it blocks.
            let joined = match spawned {
                Ok(thread) => {
                    let join = move || match thread.join() {
                        Ok(ended) => Ok(ended?),
                        Err(_) => bail!("the thread died"),
                    };
                    blocking(join).await
                }
                Err(error) => Err(error.into()),
            };
            match joined {
                Ok(progress) => tracing::debug!(?progress, "archives"),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "archives"),
            }
        }
    }
}

/// Locks the directory and reads how far the last work on it came.
fn open(data: &Path) -> anyhow::Result<(Layout, InstanceLock, Journal)> {
    let layout = Layout::new(data)?;
    layout.prepare()?;
    let lock = InstanceLock::acquire(&layout.own(), LOCK)
        .context("another instance works on this DATA_PATH")?;
    let journal = Journal::load(&layout)?;
    Ok((layout, lock, journal))
}

/// What the configuration files of MooseFS's own programs say.
struct ProgramSettings {
    master: MasterSettings,
    metalogger: MetaloggerSettings,
}

impl ProgramSettings {
    fn read(config: &MooseFs) -> anyhow::Result<Self> {
        let master = settings::read_master(&config.master_config)?;
        let metalogger = settings::read_metalogger(&config.metalogger_config)?;
        if master.data_path != metalogger.data_path {
            bail!(
                "DATA_PATH is {} in {} and {} in {}: it must be the same directory, \
                 because the files of the one become those of the other",
                master.data_path.display(),
                config.master_config.display(),
                metalogger.data_path.display(),
                config.metalogger_config.display(),
            );
        }
        for problem in master.problems() {
            tracing::warn!(
                problem,
                file = %config.master_config.display(),
                "mfsmaster's configuration"
            );
        }
        Ok(Self { master, metalogger })
    }
}

/// Returns the time within which whoever is heard as master has served, or has given up. Longer limits
/// elsewhere are not known here: all nodes should have the same.
fn serves_after(config: &MooseFs) -> Duration {
    config.stage_timeout * 3 + config.start_timeout + SERVES_MARGIN
}

/// Returns the mfsmaster that an earlier life of this daemon started, if it still runs and serves what it
/// should. Any other one is killed. In quorum mode all are: the lease that it served under has ended.
async fn adopt_or_stop(
    master: &MasterProgram,
    stage: &Stage,
    place: Place,
) -> Result<Option<Running>, ProcessError> {
    if let Stage::Serving { pid, start_time } = *stage
        && place.judges == Judges::Care
        && let Some(running) = master.adopt(pid, start_time).await?
    {
        tracing::info!(
            pid,
            "an mfsmaster of an earlier life of this daemon runs on"
        );
        return Ok(Some(running));
    }
    if let Some(stopped) = master.stop_stray().await? {
        tracing::warn!(
            pid = stopped.pid,
            "killed an mfsmaster that nobody watches over"
        );
    }
    Ok(None)
}

fn first_views(epoch: u64, running: Option<&Running>) -> PromotionViews {
    let views = PromotionViews::default();
    views.change(|view| {
        view.epoch = epoch;
        view.master_pid = running.map(Running::pid);
    });
    views
}

/// Returns the programs beside the master; each may take `time_limit` to start and to stop.
pub fn services(config: &MooseFs, time_limit: Duration) -> Vec<Program> {
    let program = |service: &ServiceConfig| Program {
        start: service.start.clone(),
        stop: Some(service.stop.clone()).filter(|words| !words.is_empty()),
        time_limit,
    };
    config.services.iter().map(program).collect()
}

/// Does work that waits for disks on a thread of its own.
async fn blocking<T, F>(work: F) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> anyhow::Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .context("the thread of the file work died")?
}

/// Tells work in another thread to stop when nobody waits for it any more.
#[derive(Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl CancelOnDrop {
    fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
