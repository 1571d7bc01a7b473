//! Raw Ethernet: an AF_PACKET socket inside a namespace, with kernel arrival times.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, sendmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};

use super::netns::Namespace;

/// Room for a burst while the reader is off the processor.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a socket hears. Neither kind hears what its own namespace sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtherType {
    /// IPv4 frames.
    Ipv4,
    /// ARP frames.
    Arp,
}

impl EtherType {
    /// Its two bytes on the wire.
    pub const fn bytes(self) -> [u8; 2] {
        match self {
            Self::Ipv4 => [0x08, 0x00],
            Self::Arp => [0x08, 0x06],
        }
    }
}

/// One received frame.
#[derive(Debug)]
pub struct Received<'b> {
    /// When the kernel saw it.
    pub at: Instant,
    /// The frame from its destination address on.
    pub frame: &'b [u8],
}

/// A raw socket on a namespace's `eth0`.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    link: LinkAddr,
    mac: Mac,
}

impl PacketSocket {
    /// Opens a socket that hears the frames of one kind and sends any through the namespace's `eth0`.
    ///
    /// # Errors
    /// When the namespace has no `eth0` or the socket cannot be opened.
    pub fn open(namespace: &Namespace, kind: EtherType) -> Result<Self> {
        namespace.enter(|| {
            // packet(7) takes the type in network byte order.
            let protocol = Protocol::from(i32::from(u16::from_ne_bytes(kind.bytes())));
            let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol))
                .context("open a packet socket")?;
            setsockopt(&socket, sockopt::RxqOvfl, &1).context("ask for lost frames")?;
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true)
                .context("ask for kernel timestamps")?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)
                .context("enlarge the receive buffer")?;
            let link = getifaddrs()
                .context("list interfaces")?
                .filter(|interface| interface.interface_name == "eth0")
                .find_map(|interface| interface.address?.as_link_addr().copied())
                .with_context(|| format!("no eth0 in {}", namespace.name()))?;
            let mac = Mac(link.addr().context("eth0 has no Ethernet address")?);
            Ok(Self { socket, link, mac })
        })
    }

    /// The address of the socket's interface.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Sends one whole frame.
    ///
    /// # Errors
    /// When the kernel refuses it, or has no room for it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        ensure!(self.offer(frame)?, "no room to send a frame");
        Ok(())
    }

    /// Sends one whole frame if the kernel has room for it, and says whether it had.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn offer(&self, frame: &[u8]) -> Result<bool> {
        let sent = sendmsg(
            self.socket.as_raw_fd(),
            &[IoSlice::new(frame)],
            &[],
            MsgFlags::empty(),
            Some(&self.link),
        );
        if sent == Err(Errno::EAGAIN) {
            return Ok(false);
        }
        let sent = sent.context("send a frame")?;
        ensure!(sent == frame.len(), "sent {sent} of {} bytes", frame.len());
        Ok(true)
    }

    /// Waits at most `limit` for the next frame.
    ///
    /// # Errors
    /// When the socket fails; a link that went down meanwhile is no failure.
    pub fn receive<'b>(
        &self,
        buffer: &'b mut [u8],
        limit: Duration,
    ) -> Result<Option<Received<'b>>> {
        let mut waiting = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut waiting, Some(TimeSpec::from_duration(limit)), None) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error).context("wait for a frame"),
        }
        let mut control = nix::cmsg_space!(TimeSpec, u32);
        let mut slices = [IoSliceMut::new(buffer)];
        let message = match recvmsg::<LinkAddr>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::empty(),
        ) {
            Ok(message) => message,
            // ENETDOWN reports once that the link went down.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(None),
            Err(error) => return Err(error).context("receive a frame"),
        };
        let mut stamp = None;
        for item in message.cmsgs().context("read the arrival time")? {
            if let ControlMessageOwned::ScmTimestampns(time) = item {
                stamp = Some(time);
            } else if let ControlMessageOwned::RxqOvfl(lost) = item {
                // A judge with holes in its record must not judge.
                ensure!(lost == 0, "{lost} frames were lost before the judge");
            }
        }
        let at = monotonic(stamp.context("the kernel stamped no arrival time")?)?;
        let length = message.bytes;
        let frame = buffer
            .get(..length)
            .context("frame longer than its buffer")?;
        Ok(Some(Received { at, frame }))
    }
}

/// Converts a kernel arrival time, which is wall clock, by its age: a clock step between arrival and
/// reading is the only error, and the age of a frame is microseconds to milliseconds.
fn monotonic(stamp: TimeSpec) -> Result<Instant> {
    let now = Instant::now();
    let wall = clock_gettime(ClockId::CLOCK_REALTIME).context("read the clock")?;
    Ok(before(now, Duration::from(wall), Duration::from(stamp)))
}

fn before(now: Instant, wall: Duration, stamp: Duration) -> Instant {
    now.checked_sub(wall.saturating_sub(stamp)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrival_is_now_less_the_age() {
        let now = Instant::now();
        let at = before(
            now,
            Duration::from_millis(5_007),
            Duration::from_millis(5_000),
        );
        assert_eq!(now - at, Duration::from_millis(7));
    }

    #[test]
    fn a_stamp_from_the_future_is_now() {
        let now = Instant::now();
        assert_eq!(
            before(now, Duration::from_secs(1), Duration::from_secs(2)),
            now
        );
    }

    #[test]
    fn addresses_print_as_people_write_them() {
        assert_eq!(
            Mac([2, 0, 0x0a, 0x4d, 0, 1]).to_string(),
            "02:00:0a:4d:00:01"
        );
    }
}
