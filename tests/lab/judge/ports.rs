//! The port prober: asks every node in turn, by its Ethernet address, whether it takes connections on VIP:port.
//!
//! It sends a bare SYN and resets what is granted, as a port scanner does, so that a master sees neither
//! connection nor load, and an answer names its node whatever anybody's ARP table says.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::prober::{PRIORITY, make_realtime};
use super::segment::{Flags, Segment};
use crate::VIP;
use crate::net::netns::Namespace;
use crate::net::packet::{EtherType, Mac, PacketSocket};

/// The prober's grid.
pub const PORT_PROBE_INTERVAL: Duration = Duration::from_millis(10);
/// Questions come from these ports in turn.
const SOURCE_PORT_FIRST: u16 = 20_000;
const SOURCE_PORTS: usize = 20_000;
/// Half an hour with three nodes; a scenario that is longer is a mistake.
const QUESTIONS_MAX: usize = 600_000;

/// A node's answer to a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAnswer {
    /// Arrival.
    pub at: Instant,
    /// When the question was sent.
    pub asked: Instant,
    /// Who answered.
    pub mac: Mac,
    /// The round of questions that it belongs to.
    pub round: usize,
    /// Whether the port is open there; else it was refused.
    pub accepted: bool,
}

/// All answers, oldest first.
#[derive(Clone, Debug, Default)]
pub struct PortLog {
    questions: Vec<Instant>,
    answers: Vec<PortAnswer>,
}

impl PortLog {
    /// The first grant to a question that was asked at or after `after`, by a node that `counts`.
    pub fn first_accept(&self, after: Instant, counts: impl Fn(Mac) -> bool) -> Option<PortAnswer> {
        self.answers
            .iter()
            .find(|answer| answer.accepted && answer.asked >= after && counts(answer.mac))
            .copied()
    }

    /// Who granted a question that was asked between two times.
    pub fn accepting(&self, from: Instant, to: Instant) -> BTreeSet<Mac> {
        self.grants(from, to).map(|answer| answer.mac).collect()
    }

    /// The most nodes that granted questions of **one and the same** round between two times.
    pub fn servers_max(&self, from: Instant, to: Instant) -> usize {
        let mut most = 0;
        let mut current = (usize::MAX, BTreeSet::new());
        for answer in self.grants(from, to) {
            if answer.round != current.0 {
                current = (answer.round, BTreeSet::new());
            }
            current.1.insert(answer.mac);
            most = most.max(current.1.len());
        }
        most
    }

    fn grants(&self, from: Instant, to: Instant) -> impl Iterator<Item = &PortAnswer> {
        self.answers
            .iter()
            .filter(move |answer| answer.accepted && answer.asked >= from && answer.asked <= to)
    }
}

/// A running port prober; it stops when dropped.
#[derive(Debug)]
pub struct PortProber {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<PortLog>>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Who asks, and whom, and for what.
#[derive(Debug)]
struct Questioner {
    socket: PacketSocket,
    address: Ipv4Addr,
    nodes: Vec<Mac>,
    port: u16,
}

impl PortProber {
    /// Starts to ask `nodes` for `port` of the VIP, from `observer` with its own `address`.
    ///
    /// # Errors
    /// When the socket cannot be opened or the thread not be prioritized.
    pub fn start(
        observer: &Namespace,
        address: Ipv4Addr,
        nodes: Vec<Mac>,
        port: u16,
    ) -> Result<Self> {
        let questioner = Questioner {
            socket: PacketSocket::open(observer, EtherType::Ipv4)?,
            address,
            nodes,
            port,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(PortLog::default()));
        let (ready, started) = mpsc::channel();
        let thread = {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            thread::Builder::new()
                .name("ports".to_owned())
                .spawn(move || {
                    ready.send(nix::unistd::gettid()).ok();
                    questioner.run(&seen, &stop)
                })
                .context("start the port prober")?
        };
        make_realtime(
            started.recv().context("the port prober ended at once")?,
            PRIORITY,
        )?;
        Ok(Self {
            stop,
            seen,
            thread: Some(thread),
        })
    }

    /// Looks at all that was seen so far.
    ///
    /// # Errors
    /// When the prober broke off: silence would then prove nothing.
    pub fn look<T>(&self, look: impl FnOnce(&PortLog) -> T) -> Result<T> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            bail!("the port prober broke off");
        }
        Ok(look(
            &self.seen.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

impl Drop for PortProber {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A broken prober has been reported by whoever asked it.
            thread.join().ok();
        }
    }
}

impl Questioner {
    fn run(&self, seen: &Mutex<PortLog>, stop: &AtomicBool) -> Result<()> {
        let mut buffer = [0; 2048];
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now >= next {
                self.ask_all(now, seen)?;
                // After a pause the grid starts anew.
                next = (next + PORT_PROBE_INTERVAL).max(now);
            }
            let wait = next.saturating_duration_since(Instant::now());
            let Some(received) = self.socket.receive(&mut buffer, wait)? else {
                continue;
            };
            let Some(segment) = Segment::from_frame(received.frame) else {
                continue;
            };
            self.take(received.at, segment, seen)?;
        }
        Ok(())
    }

    fn ask_all(&self, now: Instant, seen: &Mutex<PortLog>) -> Result<()> {
        for node in &self.nodes {
            let question = {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.questions.len() >= QUESTIONS_MAX {
                    bail!("the port prober ran for too long");
                }
                seen.questions.push(now);
                seen.questions.len() - 1
            };
            let turn = u16::try_from(question % SOURCE_PORTS).unwrap_or(0);
            let syn = Segment {
                macs: (self.socket.mac(), *node),
                addresses: (self.address, VIP),
                ports: (SOURCE_PORT_FIRST + turn, self.port),
                // The answer acknowledges this number plus one, and so names its question.
                sequence: u32::try_from(question).unwrap_or(u32::MAX),
                acknowledged: 0,
                flags: Flags::SYN,
            };
            self.socket.send(&syn.to_frame())?;
        }
        Ok(())
    }

    fn take(&self, at: Instant, segment: Segment, seen: &Mutex<PortLog>) -> Result<()> {
        let from_service = segment.addresses == (VIP, self.address) && segment.ports.0 == self.port;
        let accepted = segment.flags == Flags::SYN_ACK;
        if !from_service || !(accepted || segment.flags == Flags::RST_ACK) {
            return Ok(());
        }
        if accepted {
            // Without this the half-open connections would fill the queue of the service. The kernel of
            // the observer refuses as well, but to wherever its own ARP table points.
            self.socket.send(&segment.refusal().to_frame())?;
        }
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let question = usize::try_from(segment.acknowledged.wrapping_sub(1)).unwrap_or(usize::MAX);
        let Some(asked) = seen.questions.get(question).copied() else {
            return Ok(());
        };
        seen.answers.push(PortAnswer {
            at,
            asked,
            mac: segment.macs.0,
            round: question / self.nodes.len().max(1),
            accepted,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

    /// A round every 10 ms; each entry lists who answered it and how, 1 ms later.
    fn log(start: Instant, rounds: &[&[(Mac, bool)]]) -> PortLog {
        let mut log = PortLog::default();
        for (round, answers) in rounds.iter().enumerate() {
            let asked = start + PORT_PROBE_INTERVAL * u32::try_from(round).unwrap();
            for (mac, accepted) in *answers {
                log.answers.push(PortAnswer {
                    at: asked + Duration::from_millis(1),
                    asked,
                    mac: *mac,
                    round,
                    accepted: *accepted,
                });
            }
        }
        log
    }

    #[test]
    fn the_first_grant_after_a_refusal_is_found() {
        let start = Instant::now();
        let log = log(start, &[&[(A, true)], &[(A, false)], &[(A, true)]]);
        let after = start + Duration::from_millis(5);
        let first = log.first_accept(after, |mac| mac == A).unwrap();
        assert_eq!(first.at, start + Duration::from_millis(21));
        assert_eq!(log.first_accept(start, |mac| mac == B), None);
    }

    #[test]
    fn two_grants_in_one_round_are_two_servers() {
        let start = Instant::now();
        let end = start + Duration::from_secs(1);
        let handover = log(start, &[&[(A, true)], &[(B, true)]]);
        assert_eq!(handover.servers_max(start, end), 1);
        assert_eq!(handover.accepting(start, end), BTreeSet::from([A, B]));
        let both = log(start, &[&[(A, true)], &[(A, true), (B, true)]]);
        assert_eq!(both.servers_max(start, end), 2);
        let refused = log(start, &[&[(A, true), (B, false)]]);
        assert_eq!(refused.servers_max(start, end), 1);
        assert_eq!(PortLog::default().servers_max(start, end), 0);
    }
}
