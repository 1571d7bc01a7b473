//! Keeps the heartbeat thread supplied with a usable interface.
//!
//! It follows the interface by name through everything that can happen to it: it attaches the XDP
//! program to each new appearance, opens a transmitter, and says when the link can and cannot be used.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use mfs_ha_common::carp::Vhid;
use mfs_ha_common::carp::auth::HmacKey;
use mfs_ha_common::carp::frame::Sender;
use mfs_ha_common::filter::{
    ACCEPT_TRAILING_BYTES, FilterConfig, KNOWN_PEERS_ONLY, REJECT_REPEATED_COUNTER,
};
use tokio::sync::{mpsc, watch};

use crate::bpf::{AttachError, Attached, Attachments, ConfigMap, Mode};
use crate::config::{Config, RepeatedCounter, TrailingBytes};
use crate::driver::Fact;
use crate::interface::{Interface, LinkState};
use crate::netlink::Netlink;
use crate::transmit::Transmitter;

/// How long to wait before an interface that could not be used is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often to look whether the program is still on the interface.
const RECHECK: Duration = Duration::from_secs(1);

/// One life of an interface: a number can be given to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    ifindex: u32,
    deletions: u64,
}

/// The part of an interface that adverts depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usable {
    life: Life,
    mac: [u8; 6],
    source: Ipv4Addr,
}

/// What the supervisor shows of itself.
#[derive(Clone, Debug, Default)]
pub struct LinkView {
    /// Index of the interface that the program is attached to.
    pub ifindex: Option<u32>,
    /// Source address of adverts.
    pub source: Option<Ipv4Addr>,
    /// How the program is attached.
    pub mode: Option<Mode>,
    /// Why it is not native.
    pub fallback_reason: Option<String>,
    /// What keeps the interface from being used.
    pub problem: Option<String>,
}

/// The [`LinkView`] of a running supervisor. Only the control socket's side waits for it.
#[derive(Clone, Debug, Default)]
pub struct LinkViews(Arc<Mutex<LinkView>>);

impl LinkViews {
    /// Returns the present view.
    #[must_use]
    pub fn get(&self) -> LinkView {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, view: LinkView) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }
}

/// Attaches the program and opens transmitters.
pub struct Supervisor {
    config: Arc<Config>,
    key: HmacKey,
    vhid: Vhid,
    attachments: Attachments,
    filter: ConfigMap,
    attached: Option<(Life, Arc<Attached>)>,
    in_use: Option<Usable>,
    facts: mpsc::Sender<Fact>,
    views: LinkViews,
}

impl Supervisor {
    /// Joins the parts. Nothing is attached yet.
    ///
    /// # Errors
    /// The vhid is 0, which the configuration refuses.
    pub fn new(
        config: Arc<Config>,
        key: HmacKey,
        attachments: Attachments,
        filter: ConfigMap,
        facts: mpsc::Sender<Fact>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            vhid: Vhid::new(config.carp.vhid).context("vhid 0 is not possible")?,
            config,
            key,
            attachments,
            filter,
            attached: None,
            in_use: None,
            facts,
            views: LinkViews::default(),
        })
    }

    /// Returns where the view can be read.
    #[must_use]
    pub fn views(&self) -> LinkViews {
        self.views.clone()
    }

    /// Attaches to the interface, if there is one that is not attached to. At start, so that what is
    /// wrong ends the start.
    ///
    /// # Errors
    /// Another program is attached, or the kernel refuses.
    pub async fn attach(&mut self, state: &LinkState) -> Result<(), AttachError> {
        self.forget_former_life(state);
        let Some(interface) = state.interface.as_ref().filter(|_| self.attached.is_none()) else {
            return Ok(());
        };
        let attached = self.attachments.attach(interface).await?;
        self.attached = Some((life(interface, state), attached));
        Ok(())
    }

    fn forget_former_life(&mut self, state: &LinkState) {
        let now = state
            .interface
            .as_ref()
            .map(|interface| life(interface, state));
        if self.attached.as_ref().map(|(life, _)| *life) != now {
            self.attached = None;
        }
    }

    /// Follows the interface until the daemon ends.
    pub async fn run(mut self, mut link: watch::Receiver<LinkState>) {
        loop {
            let state = link.borrow_and_update().clone();
            let (problem, must_retry) = match self.follow(&state).await {
                // What the interface lacks comes with a change of it.
                Ok(problem) => (problem, false),
                Err(error) => (Some(format!("{error:#}")), true),
            };
            self.publish(problem);
            tokio::select! {
                changed = link.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(RETRY), if must_retry => {}
                () = tokio::time::sleep(RECHECK), if self.attached.is_some() => {
                    self.recheck().await;
                }
            }
        }
    }

    /// Starts anew where somebody took the program off the interface: nobody tells us, and a node that
    /// is deaf believes that its master is dead.
    async fn recheck(&mut self) {
        let read = async {
            let netlink = Netlink::connect()?;
            netlink.interface(&self.config.interface).await
        };
        match read.await {
            Ok(Some(interface)) if !self.attachments.is_on(&interface) => {}
            // The watcher tells of an interface that is gone.
            Ok(Some(_) | None) | Err(_) => return,
        }
        tracing::error!(
            interface = self.config.interface,
            "the XDP program was taken off the interface; attaching it again"
        );
        self.attached = None;
        if self.in_use.take().is_some() {
            self.tell(Fact::LinkDown).await;
        }
    }

    /// Brings everything to the interface's state, and says what keeps it from being used.
    async fn follow(&mut self, state: &LinkState) -> anyhow::Result<Option<String>> {
        let usable = self.judge(state);
        if self.in_use != usable.as_ref().ok().copied() && self.in_use.take().is_some() {
            self.tell(Fact::LinkDown).await;
        }
        let usable = match usable {
            Ok(usable) => usable,
            Err(problem) => {
                self.forget_former_life(state);
                return Ok(Some(problem));
            }
        };
        self.attach(state).await?;
        if self.in_use == Some(usable) {
            return Ok(None);
        }
        let transmitter = self.open(usable)?;
        self.in_use = Some(usable);
        self.tell(Fact::LinkUp(Box::new(transmitter))).await;
        Ok(None)
    }

    fn judge(&self, state: &LinkState) -> Result<Usable, String> {
        let name = &self.config.interface;
        let Some(interface) = &state.interface else {
            return Err(format!("interface {name} does not exist"));
        };
        if !interface.admin_up {
            return Err(format!("interface {name} is down: `ip link set {name} up`"));
        }
        if !interface.running && !self.config.carp.ignore_link_state {
            return Err(format!(
                "interface {name} has no carrier: see to the cable and the switch port"
            ));
        }
        let source = source(&self.config, interface)?;
        let Some(mac) = interface.mac else {
            return Err(format!("interface {name} has no Ethernet address"));
        };
        Ok(Usable {
            life: life(interface, state),
            mac,
            source,
        })
    }

    fn open(&mut self, usable: Usable) -> anyhow::Result<Transmitter> {
        let carp = &self.config.carp;
        let sender = Sender {
            mac: usable.mac,
            source: usable.source.octets(),
            group: carp.multicast_group.octets(),
            broadcast: carp.broadcast,
            vlan: self.config.vlan.unwrap_or(0),
            vhid: self.vhid,
            vip: self.config.vip.address.octets(),
        };
        self.filter.write(filter(&self.config, &sender, self.key))?;
        Transmitter::open(
            &self.config.interface,
            usable.life.ifindex,
            sender,
            self.key,
        )
    }

    async fn tell(&self, fact: Fact) {
        if self.facts.send(fact).await.is_err() {
            tracing::debug!("the heartbeat thread has ended");
        }
    }

    fn publish(&self, problem: Option<String>) {
        let attached = self.attached.as_ref();
        let before = self.views.get().problem;
        if let Some(problem) = problem.as_ref().filter(|now| Some(*now) != before.as_ref()) {
            tracing::warn!(problem, "the interface cannot be used");
        }
        self.views.set(LinkView {
            ifindex: attached.map(|(life, _)| life.ifindex),
            source: self.in_use.map(|usable| usable.source),
            mode: attached.map(|(_, attached)| attached.mode),
            fallback_reason: attached.and_then(|(_, attached)| attached.fallback_reason.clone()),
            problem,
        });
    }
}

fn life(interface: &Interface, state: &LinkState) -> Life {
    Life {
        ifindex: interface.ifindex,
        deletions: state.deletions,
    }
}

/// Returns the address that adverts are sent from.
///
/// # Errors
/// In words: the interface does not have it.
pub fn source(config: &Config, interface: &Interface) -> Result<Ipv4Addr, String> {
    let name = &config.interface;
    match config.source {
        Some(source) if interface.holds(source) => Ok(source),
        Some(source) => Err(format!(
            "interface {name} does not have the address {source}: correct `source`, or add it to the interface"
        )),
        None => interface.source(config.vip.address).ok_or_else(|| {
            format!(
                "interface {name} has no IPv4 address to send from besides the VIP: \
                 give the node an address of its own there"
            )
        }),
    }
}

fn filter(config: &Config, sender: &Sender, key: HmacKey) -> FilterConfig {
    let mut policy = 0;
    if config.carp.trailing_bytes == TrailingBytes::Accept {
        policy |= ACCEPT_TRAILING_BYTES;
    }
    if config.carp.repeated_counter == RepeatedCounter::Reject {
        policy |= REJECT_REPEATED_COUNTER;
    }
    if !config.carp.peers.is_empty() {
        policy |= KNOWN_PEERS_ONLY;
    }
    FilterConfig {
        vip: sender.vip,
        group: sender.group,
        source: sender.source,
        vhid: sender.vhid.get(),
        vip_count: 1,
        vlan: sender.vlan,
        policy,
        key,
    }
}
