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
    deletions: u64,
    state: watch::Sender<LinkState>,
}

/// Begins to watch the interface `name` and yields its present state, which need not exist.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn watch(name: &str) -> Result<(LinkWatcher, watch::Receiver<LinkState>), NetlinkError> {
    // Subscribed before the first reading: no change can fall between the two.
    let notifications = Notifications::open().map_err(NetlinkError::Connect)?;
    let (sender, receiver) = watch::channel(read(name, 0).await?);
    let watcher = LinkWatcher {
        name: name.to_owned(),
        notifications,
        deletions: 0,
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
                    Ok(is_deleted) => {
                        subscribing.reset();
                        self.deletions += u64::from(is_deleted);
                    }
                    Err(error) => {
                        self.warn("the netlink notifications broke off", &error);
                        tokio::time::sleep(subscribing.next_delay()).await;
                        self.resubscribe();
                    }
                },
                () = sleep_until(read_again_at) => {}
            }
            match read(&self.name, self.deletions).await {
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

async fn read(name: &str, deletions: u64) -> Result<LinkState, NetlinkError> {
    let interface = Netlink::connect()?.interface(name).await?;
    Ok(LinkState {
        interface,
        deletions,
    })
}

/// Never returns for `None`.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A subscription to what happens to links and IPv4 addresses.
pub(crate) struct Notifications {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Notifications {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifications").finish_non_exhaustive()
    }
}

impl Notifications {
    /// Subscribes.
    ///
    /// # Errors
    /// There is no socket to be had.
    pub(crate) fn open() -> io::Result<Self> {
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

    /// Waits until something happened that can concern the interface, takes all that has happened
    /// until then, and tells whether the interface was deleted.
    ///
    /// # Errors
    /// The subscription broke off.
    pub(crate) async fn changed(&mut self, ifindex: Option<u32>) -> io::Result<bool> {
        let mut is_deleted = false;
        loop {
            self.buffer.clear();
            let received = self.socket.recv(&mut self.buffer).await;
            if let Some(news) = self.news(received, ifindex)? {
                is_deleted |= news == News::Deleted;
                break;
            }
        }
        for _ in 0..DRAIN_MAX {
            self.buffer.clear();
            let received = self
                .socket
                .socket_ref()
                .recv(&mut self.buffer, nix::libc::MSG_DONTWAIT);
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                received => {
                    let news = self.news(received.map(drop), ifindex)?;
                    is_deleted |= news == Some(News::Deleted);
                }
            }
        }
        Ok(is_deleted)
    }

    fn news(&self, received: io::Result<()>, ifindex: Option<u32>) -> io::Result<Option<News>> {
        match received {
            Ok(()) => Ok(news(&self.buffer, ifindex)),
            // Notifications were lost: what they were about is unknown.
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                Ok(Some(News::Changed))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What can have happened to the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// Something, perhaps to another interface.
    Changed,
    /// It was deleted, or moved to another network namespace.
    Deleted,
}

/// What the messages of a datagram mean for the interface; `None` when they are about others.
///
/// While the interface exists, its name can only change hands through a message about itself.
/// While it does not, any message can be the one that brings it.
fn news(mut datagram: &[u8], ifindex: Option<u32>) -> Option<News> {
    const HEADER_BYTES: usize = 16;
    // The number stands at the same place in messages about links and in those about addresses.
    const IFINDEX_AT: usize = HEADER_BYTES + 4;
    let Some(ifindex) = ifindex else {
        return Some(News::Changed);
    };
    let mut news = None;
    while let Some(length) = datagram.first_chunk::<4>() {
        let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(usize::MAX);
        let named = datagram
            .get(IFINDEX_AT..)
            .and_then(|rest| rest.first_chunk::<4>())
            .map(|number| u32::from_ne_bytes(*number));
        match named {
            Some(named) if length >= HEADER_BYTES && named == ifindex => {
                if is_deletion(datagram) {
                    return Some(News::Deleted);
                }
                news = Some(News::Changed);
            }
            Some(_) if length >= HEADER_BYTES => {}
            // A message that cannot be understood may be about anything.
            Some(_) | None => return Some(News::Changed),
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    news
}

/// Whether a message tells that a link is gone. To leave a bridge is told with the same type, and
/// with the bridges' own address family.
fn is_deletion(message: &[u8]) -> bool {
    const TYPE_AT: usize = 4;
    const FAMILY_AT: usize = 16;
    let kind = message
        .get(TYPE_AT..)
        .and_then(|rest| rest.first_chunk::<2>())
        .map(|kind| u16::from_ne_bytes(*kind));
    kind == Some(nix::libc::RTM_DELLINK) && message.get(FAMILY_AT) == Some(&0)
}

#[cfg(test)]
mod tests {
    use super::{News, news};

    fn message(ifindex: u32) -> Vec<u8> {
        let mut message = Vec::new();
        message.extend(30_u32.to_ne_bytes());
        message.extend([0; 16]);
        message.extend(ifindex.to_ne_bytes());
        message.extend([0; 8]);
        message
    }

    fn deletion(ifindex: u32, family: u8) -> Vec<u8> {
        let mut message = message(ifindex);
        message[4..6].copy_from_slice(&nix::libc::RTM_DELLINK.to_ne_bytes());
        message[16] = family;
        message
    }

    fn may_concern(datagram: &[u8], ifindex: Option<u32>) -> bool {
        news(datagram, ifindex).is_some()
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
    fn a_deletion_is_seen_wherever_it_stands() {
        let bridge = u8::try_from(nix::libc::AF_BRIDGE).unwrap();
        let made_anew = [deletion(4, 0), message(4)].concat();
        assert_eq!(news(&made_anew, Some(4)), Some(News::Deleted));
        let left_a_bridge = [message(4), deletion(4, bridge)].concat();
        assert_eq!(news(&left_a_bridge, Some(4)), Some(News::Changed));
        let another = [message(4), deletion(5, 0)].concat();
        assert_eq!(news(&another, Some(4)), Some(News::Changed));
        assert_eq!(news(&deletion(5, 0), Some(4)), None);
        assert_eq!(news(&deletion(4, 0)[..18], Some(4)), Some(News::Changed));
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
