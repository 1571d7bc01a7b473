//! What is attached where: the XDP program on interfaces of adverts and heartbeats, which may share one, and the
//! gate on all.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use super::guard::{GateKind, Guard, Place};
use super::link::Stay;
use super::{AttachError, Attached, BpfError, GATE_PROGRAMS, Mode, Program};
use crate::error::chain;
use crate::interface::Interface;
use crate::netlink::Netlink;

/// The kernel takes what nobody holds any more off within milliseconds, on an overloaded machine later, and does not
/// tell when.
const DETACH_LIMIT: Duration = Duration::from_secs(5);
/// Until all that is wanted is attached.
const TAKE_OVER_SPAN: Duration = Duration::from_secs(10);
const DETACH_POLL: Duration = Duration::from_millis(10);

/// What the gate shows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateView {
    /// How it is attached; `None` where there is none.
    pub kind: Option<GateKind>,
    /// Interfaces that it is on.
    pub guarded: Vec<String>,
    /// Interfaces that it is not on, and why.
    pub problems: Vec<String>,
}

/// Attaches the programs to interfaces. Clones share what they attach.
#[derive(Clone, Debug)]
pub struct Attachments {
    program_id: u32,
    stay: Stay,
    gate: watch::Sender<GateView>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    program: Program,
    mode: Option<Mode>,
    /// By interface index. The program is detached when nobody holds it any more.
    held: BTreeMap<u32, Weak<Attached>>,
    /// The gate, by interface index; `None` where there shall be none.
    guards: Option<BTreeMap<u32, Guard>>,
}

impl Inner {
    /// Puts the gate on an interface, where there shall be one.
    fn guard(&mut self, place: Place<'_>, stay: &Stay) -> Result<(), AttachError> {
        let Some(guards) = &mut self.guards else {
            return Ok(());
        };
        if let Some(guard) = guards.get_mut(&place.ifindex) {
            return guard.renew(&mut self.program, place, stay);
        }
        let guard = Guard::attach(&mut self.program, place, stay)?;
        guards.insert(place.ifindex, guard);
        tracing::debug!(interface = place.name, "gate attached");
        Ok(())
    }
}

impl Attachments {
    /// Attaches nothing yet; later in `mode`, or in native mode with generic as the fallback, and with a gate
    /// where `is_gated`.
    ///
    /// # Errors
    /// The kernel does not know the program.
    pub fn new(program: Program, mode: Option<Mode>, is_gated: bool) -> Result<Self, BpfError> {
        if !is_gated {
            // Nobody would open it.
            program.remove_strange_links(|name| GATE_PROGRAMS.contains(&name))?;
        }
        Ok(Self {
            program_id: program.id()?,
            stay: Stay::default(),
            gate: watch::Sender::new(GateView::default()),
            inner: Arc::new(Mutex::new(Inner {
                program,
                mode,
                held: BTreeMap::new(),
                guards: is_gated.then(BTreeMap::new),
            })),
        })
    }

    /// Leaves everything where it is when this process ends: something may still be served that the gate has to
    /// keep in.
    pub async fn leave(&self) {
        self.stay.set();
        self.inner.lock().await.program.leave();
    }

    /// Some seconds from now takes off what an earlier life attached and this one does not want, on an interface that
    /// the configuration does not name any more. All others are taken over when they are attached to, which begins
    /// now at the latest.
    ///
    /// Call it within a tokio runtime.
    pub fn clear_up_later(&self) {
        let inner = Arc::downgrade(&self.inner);
        drop(tokio::spawn(async move {
            tokio::time::sleep(TAKE_OVER_SPAN).await;
            let Some(inner) = inner.upgrade() else {
                return;
            };
            if let Err(error) = inner.lock().await.program.remove_strange_links(|_| true) {
                tracing::warn!(error = chain(&error), "an earlier life's attachments stay");
            }
        }));
    }

    /// Returns where the gate's view can be read.
    #[must_use]
    pub fn gate_views(&self) -> watch::Receiver<GateView> {
        self.gate.subscribe()
    }

    /// Puts the gate on all interfaces of this host, `lo` among them (rule G3): the VIP is answered on each of
    /// them. Says what could not be guarded in its view.
    ///
    /// # Errors
    /// Local traffic cannot be guarded, or the interfaces not be listed.
    pub async fn guard_all(&self) -> Result<(), AttachError> {
        let mut inner = self.inner.lock().await;
        if inner.guards.is_none() {
            return Ok(());
        }
        let links = Netlink::connect()?.links().await?;
        let mut view = GateView {
            kind: Some(GateKind::of_kernel()),
            ..GateView::default()
        };
        let mut refused = None;
        for link in &links {
            let place = Place {
                name: &link.name,
                ifindex: link.ifindex,
            };
            match inner.guard(place, &self.stay) {
                Ok(()) => view.guarded.push(link.name.clone()),
                Err(error) => {
                    view.problems.push(chain(&error));
                    if link.loopback {
                        refused = Some(error);
                    }
                }
            }
        }
        if let Some(guards) = &mut inner.guards {
            guards.retain(|ifindex, _| links.iter().any(|link| link.ifindex == *ifindex));
        }
        self.gate.send_if_modified(|known| {
            let is_news = *known != view;
            if is_news && !view.problems.is_empty() {
                tracing::warn!(problems = ?view.problems, "interfaces without a gate");
            }
            *known = view;
            is_news
        });
        refused.map_or(Ok(()), Err)
    }

    /// Says whether the program is on the interface.
    #[must_use]
    pub fn is_on(&self, interface: &Interface) -> bool {
        interface
            .xdp
            .as_ref()
            .is_some_and(|xdp| xdp.program_ids.contains(&self.program_id))
    }

    /// Attaches to the interface, or shares what is attached already.
    ///
    /// # Errors
    /// Another program is attached, or the kernel refuses every mode that is allowed.
    pub async fn attach(&self, interface: &Interface) -> Result<Arc<Attached>, AttachError> {
        let mut inner = self.inner.lock().await;
        let held = inner.held.get(&interface.ifindex).and_then(Weak::upgrade);
        // An interface that was made anew can have the number of the old one, which somebody still holds.
        if let Some(held) = held
            && self.is_still_on(interface).await
        {
            return Ok(held);
        }
        let Inner {
            program,
            mode,
            held,
            ..
        } = &mut *inner;
        let attached = Arc::new(attach_soon(program, interface, *mode, &self.stay).await?);
        tracing::info!(
            interface = interface.name,
            ifindex = interface.ifindex,
            mode = attached.mode.name(),
            fallback_reason = attached.fallback_reason,
            "XDP program attached"
        );
        held.retain(|_, attached| attached.strong_count() > 0);
        held.insert(interface.ifindex, Arc::downgrade(&attached));
        let place = Place {
            name: &interface.name,
            ifindex: interface.ifindex,
        };
        // An interface that was made anew has nothing of what the old one had, whatever its number is.
        if let Some(guards) = &mut inner.guards {
            guards.remove(&interface.ifindex);
        }
        inner.guard(place, &self.stay)?;
        Ok(attached)
    }

    async fn is_still_on(&self, interface: &Interface) -> bool {
        let read = async {
            let netlink = Netlink::connect()?;
            netlink.interface(&interface.name).await
        };
        match read.await {
            Ok(Some(now)) => now.ifindex == interface.ifindex && self.is_on(&now),
            Ok(None) => false,
            // Whoever holds it looks again soon.
            Err(_) => true,
        }
    }
}

/// Attaches; what an earlier life had there goes some moments after its pin.
async fn attach_soon(
    program: &mut Program,
    interface: &Interface,
    mode: Option<Mode>,
    stay: &Stay,
) -> Result<Attached, AttachError> {
    let end = Instant::now() + DETACH_LIMIT;
    loop {
        match program.attach(interface, mode, stay) {
            Err(AttachError::Occupied { .. }) if Instant::now() < end => {
                tokio::time::sleep(DETACH_POLL).await;
            }
            other => return other,
        }
    }
}
