//! `mfs-ha run`: puts the daemon together, and takes it apart again.
//!
//! Whatever ends it, the VIP is removed last: by the node's own farewell, and once more by hand.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use mfs_ha_common::carp::auth::HmacKey;
use mfs_ha_common::election::carp::Settings;
use mfs_ha_common::node::{Node, NodeConfig};
use mfs_ha_common::priority::Priority;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Exit, ExitWith as _, Failure};
use crate::bpf::{self, AttachError, BpfError, Maps};
use crate::clock;
use crate::config::Config;
use crate::control::ControlSocket;
use crate::driver::{FACTS_MAX, Fact, Outputs};
use crate::heartbeat::{self, Heartbeat, Parts};
use crate::hooks::{HookRunner, HookSettings};
use crate::inspect::Inspector;
use crate::interface::Interface;
use crate::lock::{InstanceLock, LockError};
use crate::netlink::vip::{NetlinkTarget, VipApplier, VipReport, Wanted, remove_vip_now};
use crate::netlink::watch::{LinkWatcher, watch as watch_link};
use crate::privileges;
use crate::readiness;
use crate::secret::{self, Password};
use crate::supervisor::{self, Supervisor};

/// The heartbeat thread leaves in 200 ms, VIP or not; after this it is not waited for any more.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "/etc/mfs-ha/mfs-ha.toml"
    )]
    config: PathBuf,
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// What keeps it from starting or running, with the exit code for it.
pub async fn run(args: &RunArgs) -> Result<(), Failure> {
    let config = Arc::new(Config::load(&args.config).exit_with(Exit::Usage)?);
    privileges::require().exit_with(Exit::NotPermitted)?;
    let password = secret::read_password_file(&config.carp.password_file).exit_with(Exit::Usage)?;
    for warning in password.warnings() {
        tracing::warn!(file = %config.carp.password_file.display(), "{warning}");
    }
    let _lock = InstanceLock::acquire(&config.run_dir, &config.instance).map_err(|error| {
        let exit = match error {
            LockError::Held { .. } => Exit::InUse,
            _ => Exit::Failure,
        };
        Failure {
            exit,
            error: error.into(),
        }
    })?;
    let result = serve(&config, &password).await;
    // A farewell that failed, a thread that died, a start that was cut short: nothing may keep the VIP.
    match remove_vip_now(&config.interface, config.vip.address).await {
        Ok(true) => tracing::warn!(vip = %config.vip.address, "the VIP was left behind; removed"),
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "the VIP may be left behind"),
    }
    result
}

async fn serve(config: &Arc<Config>, password: &Password) -> Result<(), Failure> {
    let daemon = Daemon::start(config, password).await?;
    tracing::info!(
        instance = config.instance,
        interface = config.interface,
        vhid = config.carp.vhid,
        "started"
    );
    daemon.run().await.exit_with(Exit::Failure)
}

/// All parts of the running daemon.
struct Daemon {
    config: Arc<Config>,
    facts: mpsc::Sender<Fact>,
    heartbeat: Heartbeat,
    supervisor: Supervisor,
    link: watch::Receiver<crate::interface::LinkState>,
    link_watcher: LinkWatcher,
    applier: VipApplier<NetlinkTarget>,
    reports: watch::Receiver<VipReport>,
    hooks: HookRunner,
    inspector: Inspector,
    control: ControlSocket,
    logger: aya_log::EbpfLogger<&'static dyn log::Log>,
    signals: Signals,
}

impl Daemon {
    async fn start(config: &Arc<Config>, password: &Password) -> Result<Self, Failure> {
        let signals = Signals::new().exit_with(Exit::Failure)?;
        let (link_watcher, link) = watch_link(&config.interface)
            .await
            .exit_with(Exit::Failure)?;
        let interface = first_interface(config, &link).exit_with(Exit::Usage)?;
        // An earlier life that was killed leaves its VIP.
        if remove_vip_now(&config.interface, config.vip.address)
            .await
            .exit_with(Exit::Failure)?
        {
            tracing::warn!(vip = %config.vip.address, "removed a VIP that an earlier life left behind");
        }
        let key = HmacKey::new(password.as_bytes()).exit_with(Exit::Usage)?;
        let (program, maps) =
            bpf::load(Some(&config.pin_dir()), &config.carp.peers).map_err(|error| Failure {
                exit: bpf_exit(&error),
                error: error.into(),
            })?;
        let Maps {
            config: filter,
            peers,
            stats,
            records,
            logger,
        } = maps;
        let (facts, facts_receiver) = mpsc::channel(FACTS_MAX);
        let mut supervisor =
            Supervisor::new(Arc::clone(config), key, program, filter, facts.clone())
                .exit_with(Exit::Failure)?;
        supervisor.attach(&interface).map_err(|error| Failure {
            exit: attach_exit(&error),
            error: error.into(),
        })?;
        let control = ControlSocket::bind(&config.socket_path()).exit_with(Exit::Failure)?;

        let (wanted_vip, wanted_vip_receiver) = watch::channel(Wanted {
            present: false,
            generation: 0,
        });
        let target = NetlinkTarget {
            interface: config.interface.clone(),
            vip: config.vip.address,
            prefix_len: config.vip.prefix_len,
        };
        let (applier, reports) = VipApplier::new(target, wanted_vip_receiver.clone(), link.clone());
        let hooks = HookRunner::spawn(hook_settings(config));
        let parts = Parts {
            node: node(config, &interface).exit_with(Exit::Usage)?,
            records,
            peers: Arc::clone(&peers),
            facts: facts_receiver,
            outputs: Outputs {
                vip: wanted_vip,
                hooks: hooks.wanted(),
            },
        };
        let heartbeat = heartbeat::start(parts, config.scheduling.realtime)
            .await
            .exit_with(Exit::Failure)?;
        let inspector = Inspector {
            config: Arc::clone(config),
            facts: facts.clone(),
            peers,
            stats: Arc::new(stats),
            link: supervisor.views(),
            wanted_vip: wanted_vip_receiver,
            vip: reports.clone(),
            hooks: hooks.status(),
            is_realtime: heartbeat.is_realtime,
        };
        Ok(Self {
            config: Arc::clone(config),
            facts,
            heartbeat,
            supervisor,
            link,
            link_watcher,
            applier,
            reports,
            hooks,
            inspector,
            control,
            logger,
            signals,
        })
    }

    async fn run(self) -> anyhow::Result<()> {
        let Self {
            config,
            facts,
            heartbeat,
            supervisor,
            link,
            link_watcher,
            applier,
            reports,
            hooks,
            inspector,
            control,
            logger,
            signals,
        } = self;
        let hook_limit = Duration::from_millis(config.hooks.timeout_ms.into());
        let background = async {
            tokio::join!(
                link_watcher.run(),
                supervisor.run(link),
                applier.run(),
                forward_reports(reports, facts.clone()),
                control.serve({
                    let inspector = inspector.clone();
                    move |request| inspector.clone().answer(request)
                }),
                forward_logs(logger),
            )
        };
        let ended = tokio::select! {
            _ = background => Err(anyhow!("the daemon's own tasks have ended")),
            ended = until_end(signals, &facts, &inspector, heartbeat.ended) => ended,
        };
        // The down hook still gets its time; nothing else waits for it any more.
        hooks.finish(Instant::now() + hook_limit).await;
        ended
    }
}

/// Waits for a signal, asks the node to leave, and waits for that.
async fn until_end(
    mut signals: Signals,
    facts: &mpsc::Sender<Fact>,
    inspector: &Inspector,
    mut ended: tokio::sync::oneshot::Receiver<anyhow::Result<()>>,
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
    if facts.send(Fact::Stop).await.is_err() {
        tracing::debug!("the heartbeat thread has ended already");
    }
    tokio::time::timeout(FAREWELL_LIMIT, &mut ended)
        .await
        .context("the heartbeat thread does not end")
        .and_then(thread_result)
}

fn thread_result(
    ended: Result<anyhow::Result<()>, tokio::sync::oneshot::error::RecvError>,
) -> anyhow::Result<()> {
    ended.context("the heartbeat thread died").flatten()
}

async fn forward_reports(mut reports: watch::Receiver<VipReport>, facts: mpsc::Sender<Fact>) {
    while reports.changed().await.is_ok() {
        let report = reports.borrow_and_update().clone();
        if facts.send(Fact::Vip(report)).await.is_err() {
            return;
        }
    }
}

/// Hands the XDP program's debug messages to the log.
async fn forward_logs(mut logger: aya_log::EbpfLogger<&'static dyn log::Log>) {
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

/// Returns the interface that exists at start.
fn first_interface(
    config: &Config,
    link: &watch::Receiver<crate::interface::LinkState>,
) -> anyhow::Result<Interface> {
    let state = link.borrow();
    let Some(interface) = &state.interface else {
        return Err(anyhow!(
            "interface {} does not exist: `ip link` lists those that do",
            config.interface
        ));
    };
    supervisor::source(config, interface).map_err(anyhow::Error::msg)?;
    Ok(interface.clone())
}

fn node(config: &Config, interface: &Interface) -> anyhow::Result<Node> {
    let source = supervisor::source(config, interface).map_err(anyhow::Error::msg)?;
    let settings = Settings {
        priority: Priority::new(config.carp.advbase, config.carp.advskew),
        deadratio: config
            .carp
            .deadratio
            .try_into()
            .context("deadratio 0 is not possible")?,
        preempt: config.carp.preempt,
        source: source.octets(),
        has_sole_peer: config.carp.peers.len() == 1,
    };
    let node = NodeConfig {
        election: settings,
        neutral: config.carp.neutral,
    };
    Ok(Node::new(node, clock::now()))
}

fn hook_settings(config: &Config) -> HookSettings {
    HookSettings {
        up: config.hooks.up.clone(),
        down: config.hooks.down.clone(),
        interface: config.interface.clone(),
        vip: config.vip.address.to_string(),
        xparam: config.hooks.xparam.clone(),
        time_limit: Duration::from_millis(config.hooks.timeout_ms.into()),
    }
}

fn bpf_exit(error: &BpfError) -> Exit {
    match error {
        BpfError::NoBpffs { .. } => Exit::Usage,
        _ => Exit::Failure,
    }
}

fn attach_exit(error: &AttachError) -> Exit {
    match error {
        AttachError::Occupied { .. } => Exit::InUse,
        AttachError::Refused { .. } | AttachError::Program(_) => Exit::Failure,
    }
}

/// What a signal asks for.
enum Asked {
    Stop(&'static str),
    Show,
}

/// The signals that mean something. ucarp's users send SIGUSR1 to see the state.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    show: Signal,
    demote: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("watch for signals");
        Ok(Self {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
            quit: watch(SignalKind::quit())?,
            hangup: watch(SignalKind::hangup())?,
            show: watch(SignalKind::user_defined1())?,
            demote: watch(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next one. Cancel-safe.
    async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Asked::Stop("SIGTERM"),
                _ = self.interrupt.recv() => return Asked::Stop("SIGINT"),
                _ = self.quit.recv() => return Asked::Stop("SIGQUIT"),
                _ = self.hangup.recv() => return Asked::Stop("SIGHUP"),
                _ = self.show.recv() => return Asked::Show,
                _ = self.demote.recv() => {
                    tracing::warn!("SIGUSR2 makes ucarp step down; mfs-ha ignores it: use SIGTERM");
                }
            }
        }
    }
}
