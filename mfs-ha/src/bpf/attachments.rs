//! One attachment for each interface, whoever needs it: adverts and heartbeats may share one.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use super::{AttachError, Attached, BpfError, Mode, Program};
use crate::interface::Interface;
use crate::netlink::Netlink;

/// Attaches the program to interfaces. Clones share what they attach.
#[derive(Clone, Debug)]
pub struct Attachments {
    program_id: u32,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    program: Program,
    mode: Option<Mode>,
    /// By interface index. The program is detached when nobody holds it any more.
    held: BTreeMap<u32, Weak<Attached>>,
}

impl Attachments {
    /// Attaches nothing yet; later in `mode`, or in native mode with generic as the fallback.
    ///
    /// # Errors
    /// The kernel does not know the program.
    pub fn new(program: Program, mode: Option<Mode>) -> Result<Self, BpfError> {
        Ok(Self {
            program_id: program.id()?,
            inner: Arc::new(Mutex::new(Inner {
                program,
                mode,
                held: BTreeMap::new(),
            })),
        })
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
        } = &mut *inner;
        let attached = Arc::new(program.attach(interface, *mode)?);
        tracing::info!(
            interface = interface.name,
            ifindex = interface.ifindex,
            mode = attached.mode.name(),
            fallback_reason = attached.fallback_reason,
            "XDP program attached"
        );
        held.retain(|_, attached| attached.strong_count() > 0);
        held.insert(interface.ifindex, Arc::downgrade(&attached));
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
