//! Frames of a machine that means no good: as many as one sender can send, and what it overheard before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::netns::Namespace;
use super::packet::{EtherType, PacketSocket};
use super::topology::{Node, Topology};
use crate::judge::wire::checksum;

/// More than a minute of a quiet segment holds.
const OVERHEARD_MAX: usize = 200_000;
/// How many frames go out before the sender looks whether it should stop.
const BATCH: usize = 64;

/// A sender at full speed; it stops when dropped, and by itself after its limit.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Sends `frames` from `namespace`, over and over, for at most `limit`. Their Ethernet source is made that of the
    /// sender: the switch would else learn that everybody stands there, and cut all others off. Nothing above a switch
    /// can withstand that.
    ///
    /// # Errors
    /// When there is nothing to send or the socket cannot be opened.
    pub fn start(namespace: &Namespace, mut frames: Vec<Vec<u8>>, limit: Duration) -> Result<Self> {
        ensure!(!frames.is_empty(), "a flood of nothing");
        let socket = PacketSocket::open(namespace, EtherType::Ipv4)?;
        for frame in &mut frames {
            let source = frame.get_mut(6..12).context("a frame that short")?;
            source.copy_from_slice(&socket.mac().0);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let thread = {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            let end = Instant::now() + limit;
            thread::Builder::new()
                .name("flood".to_owned())
                .spawn(move || pour(&socket, &frames, end, &stop, &sent))
                .context("start the flood")?
        };
        Ok(Self {
            stop,
            sent,
            thread: Some(thread),
        })
    }

    /// Ends it and returns how many frames were sent.
    ///
    /// # Errors
    /// When a frame was refused.
    pub fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .map_err(|_panic| anyhow!("the flood panicked"))??;
        }
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn pour(
    socket: &PacketSocket,
    frames: &[Vec<u8>],
    end: Instant,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    let mut frames = frames.iter().cycle();
    while !stop.load(Ordering::Relaxed) && Instant::now() < end {
        let mut taken = 0;
        for frame in frames.by_ref().take(BATCH) {
            taken += u64::from(socket.offer(frame)?);
        }
        sent.fetch_add(taken, Ordering::Relaxed);
    }
    Ok(())
}

/// Makes the switch a hub for a while, and returns all IPv4 frames that a host overhears.
///
/// # Errors
/// When there is no such machine, or frames were lost.
pub fn overhear(topology: &Topology, host: &str, duration: Duration) -> Result<Vec<Vec<u8>>> {
    let socket = PacketSocket::open(&topology.host(host)?.namespace, EtherType::Ipv4)?;
    topology.forget_addresses(true)?;
    let end = Instant::now() + duration;
    let mut frames = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        if let Some(received) = socket.receive(&mut buffer, left.min(Duration::from_millis(50)))? {
            ensure!(
                frames.len() < OVERHEARD_MAX,
                "more than {OVERHEARD_MAX} frames"
            );
            frames.push(received.frame.to_vec());
        }
    }
    topology.forget_addresses(false)?;
    Ok(frames)
}

/// A UDP datagram between two nodes, as a frame; its checksum is left out, which IPv4 allows.
///
/// # Errors
/// When the payload is too long.
pub fn datagram((from, to): (&Node, &Node), port: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let udp = u16::try_from(8 + payload.len()).context("a datagram that long")?;
    let total = udp.checked_add(20).context("a datagram that long")?;
    let mut ip = vec![0x45, 0];
    ip.extend_from_slice(&total.to_be_bytes());
    ip.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend_from_slice(&from.address.octets());
    ip.extend_from_slice(&to.address.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::new();
    frame.extend_from_slice(&to.mac.0);
    frame.extend_from_slice(&from.mac.0);
    frame.extend_from_slice(&EtherType::Ipv4.bytes());
    frame.extend(ip);
    frame.extend_from_slice(&port.to_be_bytes());
    frame.extend_from_slice(&port.to_be_bytes());
    frame.extend_from_slice(&udp.to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(payload);
    Ok(frame)
}
