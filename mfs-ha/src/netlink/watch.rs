//! Following one interface, by name, through everything that can happen to it.
//!
//! A notification only says *that* something changed: the state is then read anew and the latest
//! one published. So a lost notification (the kernel drops them when the socket's buffer is full
//! and says so) costs nothing, a burst costs one reading, and an interface that is deleted, made
//! again or renamed is found by its name.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Netlink, NetlinkError};
use crate::backoff::Backoff;
use crate::interface::LinkState;

/// The kernel fills at most this much into one datagram.
const DATAGRAM_BYTES_MAX: usize = 32 * 1024;

/// Notifications that are thrown away before the state is read anew; a bound, so that a flood
/// cannot keep us from reading at all.
const DRAIN_MAX: usize = 4096;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Watches an interface; [`Self::run`] must be polled for the state to follow.
#[derive(Debug)]
pub struct LinkWatcher {
    name: String,
    notifications: Notifications,
    state: watch::Sender<LinkState>,
}

/// Begins to watch the interface `name` and yields its present state, which need not exist.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn watch(name: &str) -> Result<(LinkWatcher, watch::Receiver<LinkState>), NetlinkError> {
    // Subscribed before the first reading: no change can fall between the two.
    let notifications = Notifications::open().map_err(NetlinkError::Connect)?;
    let (sender, receiver) = watch::channel(read(name).await?);
    let watcher = LinkWatcher {
        name: name.to_owned(),
        notifications,
        state: sender,
    };
    Ok((watcher, receiver))
}

impl LinkWatcher {
    /// Publishes every change until nobody listens any more.
    ///
    /// Cancel safe: dropping it loses nothing but notifications.
    pub async fn run(mut self) {
        let mut subscribing = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let mut reading = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let mut read_again_at = None;
        loop {
            let ifindex = self.state.borrow().ifindex();
            tokio::select! {
                () = self.state.closed() => return,
                changed = self.notifications.changed(ifindex) => match changed {
                    Ok(()) => subscribing.reset(),
                    Err(error) => {
                        self.warn("the netlink notifications broke off", &error);
                        tokio::time::sleep(subscribing.next_delay()).await;
                        self.resubscribe();
                    }
                },
                () = sleep_until(read_again_at) => {}
            }
            match read(&self.name).await {
                Ok(state) => {
                    read_again_at = None;
                    reading.reset();
                    self.publish(state);
                }
                Err(error) => {
                    self.warn("cannot read the state of the interface", &error);
                    read_again_at = Some(Instant::now() + reading.next_delay());
                }
            }
        }
    }

    fn resubscribe(&mut self) {
        match Notifications::open() {
            Ok(notifications) => self.notifications = notifications,
            // The broken subscription is found broken again, after a longer pause.
            Err(error) => self.warn("cannot subscribe to netlink notifications", &error),
        }
    }

    fn warn(&self, what: &'static str, error: &(dyn std::error::Error + 'static)) {
        tracing::warn!(interface = self.name, error, "{what}");
    }

    fn publish(&self, state: LinkState) {
        self.state.send_if_modified(|published| {
            let changed = *published != state;
            if changed {
                tracing::debug!(
                    interface = self.name,
                    ifindex = state.ifindex(),
                    admin_up = state.admin_up(),
                    running = state.running(),
                    "the interface changed"
                );
                *published = state;
            }
            changed
        });
    }
}

async fn read(name: &str) -> Result<LinkState, NetlinkError> {
    let interface = Netlink::connect()?.interface(name).await?;
    Ok(LinkState { interface })
}

/// Never returns for `None`.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A subscription to what happens to links and IPv4 addresses.
struct Notifications {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Notifications {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifications").finish_non_exhaustive()
    }
}

impl Notifications {
    fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr]
            .into_iter()
            .fold(0, |groups, group| groups | 1 << (group as u32 - 1));
        socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(DATAGRAM_BYTES_MAX),
        })
    }

    /// Waits until something happened that can concern the interface, and takes all that has
    /// happened until then.
    async fn changed(&mut self, ifindex: Option<u32>) -> io::Result<()> {
        loop {
            self.buffer.clear();
            let received = self.socket.recv(&mut self.buffer).await;
            if self.concerns(received, ifindex)? {
                break;
            }
        }
        for _ in 0..DRAIN_MAX {
            self.buffer.clear();
            match self
                .socket
                .socket_ref()
                .recv(&mut self.buffer, nix::libc::MSG_DONTWAIT)
            {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                received => self.concerns(received.map(drop), ifindex)?,
            };
        }
        Ok(())
    }

    fn concerns(&self, received: io::Result<()>, ifindex: Option<u32>) -> io::Result<bool> {
        match received {
            Ok(()) => Ok(may_concern(&self.buffer, ifindex)),
            // Notifications were lost: what they were about is unknown.
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether any message of the datagram can concern the interface.
///
/// While the interface exists, its name can only change hands through a message about itself.
/// While it does not, any message can be the one that brings it.
fn may_concern(mut datagram: &[u8], ifindex: Option<u32>) -> bool {
    const HEADER_BYTES: usize = 16;
    // The number stands at the same place in messages about links and in those about addresses.
    const IFINDEX_AT: usize = HEADER_BYTES + 4;
    let Some(ifindex) = ifindex else { return true };
    while let Some(length) = datagram.first_chunk::<4>() {
        let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(usize::MAX);
        let named = datagram
            .get(IFINDEX_AT..)
            .and_then(|rest| rest.first_chunk::<4>())
            .map(|number| u32::from_ne_bytes(*number));
        // A message that cannot be understood may be about anything.
        if length < HEADER_BYTES || named.is_none_or(|named| named == ifindex) {
            return true;
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::may_concern;

    fn message(ifindex: u32) -> Vec<u8> {
        let mut message = Vec::new();
        message.extend(30_u32.to_ne_bytes());
        message.extend([0; 16]);
        message.extend(ifindex.to_ne_bytes());
        message.extend([0; 8]);
        message
    }

    #[test]
    fn only_messages_about_the_interface_count_while_it_exists() {
        let both = [message(4), message(5)].concat();
        assert!(may_concern(&both, Some(4)));
        assert!(may_concern(&both, Some(5)));
        assert!(!may_concern(&both, Some(6)));
        assert!(may_concern(&both, None));
        assert!(!may_concern(&[], Some(4)));
    }

    #[test]
    fn what_cannot_be_understood_may_concern_it() {
        assert!(may_concern(&[0; 40], Some(4)));
        assert!(may_concern(&message(4)[..20], Some(5)));
        assert!(may_concern(&[255; 23], Some(4)));
        let mut endless = message(5);
        endless[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(!may_concern(&endless, Some(4)));
    }
}
