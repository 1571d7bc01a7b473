//! CARP on the wire: a sniffer that records adverts, and frames made by hand.
//!
//! Written from the protocol's description with RustCrypto's HMAC, independent of mfs-ha and of ucarp.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

use crate::net::netns::Namespace;
use crate::net::packet::{EtherType, Mac, PacketSocket};
use crate::{PASSWORD, VHID, VIP};

/// Destination group of CARP.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const GROUP_MAC: Mac = Mac([0x01, 0x00, 0x5e, 0x00, 0x00, 0x12]);
const PROTOCOL: u8 = 112;
const ETHERNET_LENGTH: usize = 14;
const IP_LENGTH: usize = 20;
/// An attack of some minutes at a thousand frames a second; a lab without one sees some thousand adverts.
const FRAMES_MAX: usize = 500_000;

/// A CARP advert, as it is made or as it was seen. Its fields are those of the wire, unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// Ethernet source.
    pub mac: Mac,
    /// IP source.
    pub source: Ipv4Addr,
    /// IP time to live.
    pub ttl: u8,
    /// Virtual host id.
    pub vhid: u8,
    /// Seconds between adverts.
    pub advbase: u8,
    /// 1/256 seconds on top.
    pub advskew: u8,
    /// The counter under the digest.
    pub counter: u64,
    /// HMAC-SHA1.
    pub digest: [u8; 20],
}

impl Advert {
    /// A valid advert of the lab's virtual host.
    ///
    /// # Errors
    /// As [`digest`].
    pub fn new(mac: Mac, source: Ipv4Addr, advbase: u8, advskew: u8, counter: u64) -> Result<Self> {
        Ok(Self {
            mac,
            source,
            ttl: 255,
            vhid: VHID,
            advbase,
            advskew,
            counter,
            digest: digest(PASSWORD, VHID, VIP, counter)?,
        })
    }

    /// Whether the digest is that of the lab's password and VIP.
    ///
    /// # Errors
    /// As [`digest`].
    pub fn is_authentic(&self) -> Result<bool> {
        Ok(digest(PASSWORD, self.vhid, VIP, self.counter)? == self.digest)
    }

    /// Whether it says that the master leaves.
    pub fn is_bow_out(&self) -> bool {
        self.advbase == 255 && self.advskew == 255
    }

    /// The whole Ethernet frame, with good checksums.
    pub fn to_frame(&self) -> Vec<u8> {
        let mut carp = vec![0x21, self.vhid, self.advskew, 7, 0, self.advbase, 0, 0];
        carp.extend_from_slice(&self.counter.to_be_bytes());
        carp.extend_from_slice(&self.digest);
        let sum = checksum(&carp);
        carp[6..8].copy_from_slice(&sum.to_be_bytes());

        let mut ip = vec![
            0x45, 0x10, 0, 56, 0x4c, 0x41, 0x40, 0, self.ttl, PROTOCOL, 0, 0,
        ];
        ip.extend_from_slice(&self.source.octets());
        ip.extend_from_slice(&GROUP.octets());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());

        let mut frame = Vec::with_capacity(ETHERNET_LENGTH + ip.len() + carp.len());
        frame.extend_from_slice(&GROUP_MAC.0);
        frame.extend_from_slice(&self.mac.0);
        frame.extend_from_slice(&EtherType::Ipv4.bytes());
        frame.extend(ip);
        frame.extend(carp);
        frame
    }

    /// Reads an untagged frame; anything that is not shaped like CARP is `None`.
    pub fn from_frame(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET_LENGTH..ETHERNET_LENGTH + IP_LENGTH)?;
        let carp: &[u8; 36] = frame.get(ETHERNET_LENGTH + IP_LENGTH..)?.first_chunk()?;
        let is_carp = frame.get(12..14)? == EtherType::Ipv4.bytes()
            && ip[0] == 0x45
            && ip[9] == PROTOCOL
            && carp[0] == 0x21
            && carp[3] == 7;
        is_carp.then_some(Self {
            mac: Mac(frame.get(6..12)?.try_into().ok()?),
            source: Ipv4Addr::from(<[u8; 4]>::try_from(&ip[12..16]).ok()?),
            ttl: ip[8],
            vhid: carp[1],
            advbase: carp[5],
            advskew: carp[2],
            counter: u64::from_be_bytes(carp[8..16].try_into().ok()?),
            digest: carp[16..36].try_into().ok()?,
        })
    }
}

/// HMAC-SHA1 over 0x02, 0x01, vhid, VIP and counter: version and type are constants of the protocol.
///
/// # Errors
/// Never for a key, which HMAC takes in any length.
pub fn digest(password: &str, vhid: u8, vip: Ipv4Addr, counter: u64) -> Result<[u8; 20]> {
    let mut hmac = Hmac::<Sha1>::new_from_slice(password.as_bytes()).context("key the digest")?;
    hmac.update(&[0x02, 0x01, vhid]);
    hmac.update(&vip.octets());
    hmac.update(&counter.to_be_bytes());
    Ok(hmac.finalize().into_bytes().into())
}

/// The Internet checksum of RFC 1071.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // The loop leaves 16 bits.
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// An advert that passed the observer.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Arrival.
    pub at: Instant,
    /// What it said.
    pub advert: Advert,
    /// The whole frame, to be replayed or altered.
    pub frame: Vec<u8>,
}

/// Records all CARP adverts of the segment, but not what the observer itself injects, until dropped.
#[derive(Debug)]
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Sniffer {
    /// Starts to listen in `observer`.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn start(observer: &Namespace) -> Result<Self> {
        let socket = PacketSocket::open(observer, EtherType::Ipv4)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let thread = {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            thread::Builder::new()
                .name("sniffer".to_owned())
                .spawn(move || listen(&socket, &seen, &stop))
                .context("start the sniffer")?
        };
        Ok(Self {
            stop,
            seen,
            thread: Some(thread),
        })
    }

    /// The adverts since `after`.
    ///
    /// # Errors
    /// When the sniffer broke off.
    pub fn adverts_since(&self, after: Instant) -> Result<Vec<Seen>> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            bail!("the sniffer broke off");
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(seen
            .iter()
            .filter(|seen| seen.at >= after)
            .cloned()
            .collect())
    }

    /// The latest advert of `source`.
    ///
    /// # Errors
    /// When the sniffer broke off.
    pub fn latest_of(&self, source: Ipv4Addr) -> Result<Option<Seen>> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            bail!("the sniffer broke off");
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(seen
            .iter()
            .rev()
            .find(|seen| seen.advert.source == source)
            .cloned())
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A broken sniffer has been reported by whoever asked it.
            thread.join().ok();
        }
    }
}

fn listen(socket: &PacketSocket, seen: &Mutex<Vec<Seen>>, stop: &AtomicBool) -> Result<()> {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Some(received) = socket.receive(&mut buffer, Duration::from_millis(50))? else {
            continue;
        };
        let Some(advert) = Advert::from_frame(received.frame) else {
            continue;
        };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= FRAMES_MAX {
            bail!("more than {FRAMES_MAX} adverts");
        }
        seen.push(Seen {
            at: received.at,
            advert,
            frame: received.frame.to_vec(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sent by a real ucarp: vhid 1, password "secret", VIP 10.77.0.100, advbase 1, skew 0.
    const CAPTURED: &str = "01005e00001200005e0000010800451000380\
        69c4000ff708a490a4d0001e000001221010007000\
        1afdeebfbc0e9602da5271937241df89da7b979af9214b97d804b5eaffaf4";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn a_captured_frame_is_read() {
        let advert = Advert::from_frame(&bytes(CAPTURED)).unwrap();
        assert_eq!(advert.source, Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!((advert.vhid, advert.advbase, advert.advskew), (1, 1, 0));
        assert_eq!(advert.counter, 0xebfb_c0e9_602d_a527);
        assert_eq!(
            digest("secret", 1, VIP, advert.counter).unwrap(),
            advert.digest
        );
    }

    #[test]
    fn a_captured_frame_is_rebuilt_but_for_its_random_ip_id() {
        let captured = bytes(CAPTURED);
        let mut rebuilt = Advert::from_frame(&captured).unwrap().to_frame();
        rebuilt[18..20].copy_from_slice(&captured[18..20]);
        rebuilt[24..26].copy_from_slice(&[0, 0]);
        let sum = checksum(&rebuilt[14..34]);
        rebuilt[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(rebuilt, captured);
    }

    #[test]
    fn a_made_advert_reads_back_authentic() {
        let made = Advert::new(Mac([2; 6]), Ipv4Addr::new(10, 77, 0, 9), 1, 5, 42).unwrap();
        let frame = made.to_frame();
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!(checksum(&frame[34..]), 0);
        let read = Advert::from_frame(&frame).unwrap();
        assert_eq!(read, made);
        assert!(read.is_authentic().unwrap());
        let forged = Advert {
            counter: 43,
            ..read
        };
        assert!(!forged.is_authentic().unwrap());
    }

    #[test]
    fn short_and_foreign_frames_are_none() {
        let frame = bytes(CAPTURED);
        for length in 0..frame.len() {
            assert_eq!(Advert::from_frame(&frame[..length]), None);
        }
        for (offset, value) in [(12, 0x86), (14, 0x46), (23, 17), (34, 0x31), (37, 5)] {
            let mut foreign = frame.clone();
            foreign[offset] = value;
            assert_eq!(Advert::from_frame(&foreign), None);
        }
    }
}
