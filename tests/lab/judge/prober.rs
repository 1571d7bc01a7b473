//! The ARP prober: asks the whole segment "who has the VIP?" and records who answers, and when.
//!
//! A thread with real-time priority does it, so that a load on the machine blurs neither clock nor grid.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::unistd::Pid;

use super::analysis::{Announcement, Answer, Observations};
use crate::VIP;
use crate::net::netns::{Namespace, run};
use crate::net::packet::{EtherType, Mac, PacketSocket};

/// The prober's usual grid, and thereby the resolution of its verdicts.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(5);
/// Questions come from addresses .200 to .249 in turn, so that a reply names its question even when it is late.
const ASKER_FIRST: u8 = 200;
const ASKERS: u8 = 50;
/// Half an hour at the usual grid; a scenario that is longer is a mistake.
const PROBES_MAX: usize = 400_000;
const ANSWERS_MAX: usize = 4 * PROBES_MAX;
/// Above every daemon and load of the lab, below the kernel's own threads.
pub(crate) const PRIORITY: &str = "80";

/// A running prober; it stops when dropped.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Observations>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Prober {
    /// Starts to ask from `observer`, once in each `interval`.
    ///
    /// # Errors
    /// When the socket cannot be opened or the thread not be prioritized.
    pub fn start(observer: &Namespace, interval: Duration) -> Result<Self> {
        let socket = PacketSocket::open(observer, EtherType::Arp)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Observations::default()));
        let (ready, started) = mpsc::channel();
        let thread = {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            thread::Builder::new()
                .name("prober".to_owned())
                .spawn(move || {
                    ready.send(nix::unistd::gettid()).ok();
                    probe(&socket, interval, &seen, &stop)
                })
                .context("start the prober")?
        };
        make_realtime(
            started.recv().context("the prober ended at once")?,
            PRIORITY,
        )?;
        Ok(Self {
            stop,
            seen,
            thread: Some(thread),
        })
    }

    /// A copy of all that was seen so far.
    ///
    /// # Errors
    /// When the prober broke off: silence would then prove nothing.
    pub fn observations(&self) -> Result<Observations> {
        self.check()?;
        Ok(self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    /// Looks at all that was seen so far without copying it.
    ///
    /// # Errors
    /// As [`Self::observations`].
    pub fn look<T>(&self, look: impl FnOnce(&Observations) -> T) -> Result<T> {
        self.check()?;
        Ok(look(
            &self.seen.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    fn check(&self) -> Result<()> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            bail!("the prober broke off");
        }
        Ok(())
    }

    /// Ends the prober and returns all that it saw.
    ///
    /// # Errors
    /// When it had broken off.
    pub fn finish(mut self) -> Result<Observations> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .map_err(|_panic| anyhow!("the prober panicked"))??;
        }
        Ok(std::mem::take(
            &mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A broken prober has been reported by whoever asked it for a verdict.
            thread.join().ok();
        }
    }
}

/// Puts one thread of ours under SCHED_FIFO at that priority; its children do not inherit that.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn make_realtime(thread: Pid, priority: &str) -> Result<()> {
    run(Command::new("chrt").args([
        "--fifo",
        "--reset-on-fork",
        "--pid",
        priority,
        &thread.to_string(),
    ]))
    .context("give a judge real-time priority")
    .map(drop)
}

fn probe(
    socket: &PacketSocket,
    interval: Duration,
    seen: &Mutex<Observations>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut buffer = [0; 2048];
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            let index = {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.probes.len() >= PROBES_MAX || seen.answers.len() >= ANSWERS_MAX {
                    bail!("the prober ran for too long");
                }
                seen.probes.push(now);
                seen.probes.len() - 1
            };
            socket.send(&question(socket.mac(), asker(index)))?;
            // After a pause the grid starts anew: a burst would answer nothing that one question does not.
            next = if next + interval > now {
                next + interval
            } else {
                now + interval
            };
        }
        let wait = next.saturating_duration_since(Instant::now());
        let Some(received) = socket.receive(&mut buffer, wait)? else {
            continue;
        };
        let at = received.at;
        let Some(claim) = claim(received.frame) else {
            continue;
        };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = seen.probes.len();
        match claim.asker.and_then(|asker| probe_of(asker, asked)) {
            Some(probe) => seen.answers.push(Answer {
                at,
                mac: claim.mac,
                probe,
            }),
            None => seen.announcements.push(Announcement { at, mac: claim.mac }),
        }
    }
    Ok(())
}

/// Who claims the VIP in an ARP frame, and whose question that answers, if anyone's.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    mac: Mac,
    asker: Option<Ipv4Addr>,
}

fn claim(frame: &[u8]) -> Option<Claim> {
    let arp = frame.get(14..42)?;
    let is_arp_for_ipv4 =
        frame.get(12..14)? == EtherType::Arp.bytes() && arp[..6] == [0, 1, 8, 0, 6, 4];
    if !is_arp_for_ipv4 || arp[14..18] != VIP.octets() {
        return None;
    }
    let mac = Mac(arp[8..14].try_into().ok()?);
    let target = Ipv4Addr::from(<[u8; 4]>::try_from(&arp[24..28]).ok()?);
    let is_reply = arp[6..8] == [0, 2];
    Some(Claim {
        mac,
        asker: is_reply.then_some(target),
    })
}

fn question(mac: Mac, asker: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend_from_slice(&Mac::BROADCAST.0);
    frame.extend_from_slice(&mac.0);
    frame.extend_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&mac.0);
    frame.extend_from_slice(&asker.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&VIP.octets());
    frame
}

fn asker(probe: usize) -> Ipv4Addr {
    let [a, b, c, _] = VIP.octets();
    let turn = u8::try_from(probe % usize::from(ASKERS)).unwrap_or(0);
    Ipv4Addr::new(a, b, c, ASKER_FIRST + turn)
}

/// The latest of `asked` questions that came from `asker`.
fn probe_of(asker: Ipv4Addr, asked: usize) -> Option<usize> {
    let [a, b, c, host] = asker.octets();
    let turn = host
        .checked_sub(ASKER_FIRST)
        .filter(|turn| *turn < ASKERS)?;
    if VIP.octets()[..3] != [a, b, c] {
        return None;
    }
    let latest = asked.checked_sub(1)?;
    let cycle = usize::from(ASKERS);
    let back = (latest % cycle + cycle - usize::from(turn)) % cycle;
    latest.checked_sub(back)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Mac = Mac([2, 0, 0x0a, 0x4d, 0, 1]);

    fn reply(operation: u8, to: Ipv4Addr) -> Vec<u8> {
        let mut frame = question(OWNER, VIP);
        frame[21] = operation;
        frame[38..42].copy_from_slice(&to.octets());
        frame
    }

    #[test]
    fn every_asker_leads_back_to_its_latest_question() {
        for asked in 1..200_usize {
            for probe in asked.saturating_sub(usize::from(ASKERS))..asked {
                assert_eq!(probe_of(asker(probe), asked), Some(probe));
            }
        }
    }

    #[test]
    fn strangers_and_questions_never_asked_lead_nowhere() {
        assert_eq!(probe_of(Ipv4Addr::new(10, 77, 0, 199), 500), None);
        assert_eq!(probe_of(Ipv4Addr::new(10, 77, 0, 250), 500), None);
        assert_eq!(probe_of(Ipv4Addr::new(10, 78, 0, 200), 500), None);
        assert_eq!(probe_of(asker(0), 0), None);
        assert_eq!(probe_of(asker(5), 5), None);
    }

    #[test]
    fn a_reply_is_a_claim_that_names_its_question() {
        assert_eq!(
            claim(&reply(2, asker(7))),
            Some(Claim {
                mac: OWNER,
                asker: Some(asker(7))
            })
        );
    }

    #[test]
    fn a_gratuitous_request_is_a_claim_without_a_question() {
        assert_eq!(
            claim(&reply(1, VIP)),
            Some(Claim {
                mac: OWNER,
                asker: None
            })
        );
    }

    #[test]
    fn frames_that_claim_nothing_are_ignored() {
        assert_eq!(claim(&question(OWNER, asker(1))), None);
        let whole = reply(2, asker(1));
        for length in 0..whole.len() {
            assert_eq!(claim(&whole[..length]), None);
        }
        let mut not_arp = whole;
        not_arp[13] = 0x00;
        assert_eq!(claim(&not_arp), None);
    }
}
