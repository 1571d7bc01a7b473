//! The connect prober: opens connection after connection to one address, as a client's kernel does, and records
//! which were granted.
//!
//! Whom it asks is up to the neighbour table of its namespace: with a pinned entry it is one node, whoever else has
//! the address. It is the strict sibling of the [port prober](super::ports): no frame is made by hand.

use std::io::ErrorKind;
use std::net::SocketAddrV4;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Socket, Type};

use super::prober::{PRIORITY, make_realtime};
use crate::net::netns::Namespace;

/// The prober's usual grid.
pub const CONNECT_INTERVAL: Duration = Duration::from_millis(5);
/// Well before the kernel repeats a SYN, which it does after a second: an attempt is one question at one time.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(50);
/// Half an hour at the usual grid; a scenario that is longer is a mistake.
const ATTEMPTS_MAX: usize = 400_000;

/// A connection that came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Right before it was asked for.
    pub asked: Instant,
    /// Right after it was there.
    pub at: Instant,
}

/// All attempts, oldest first.
#[derive(Clone, Debug, Default)]
pub struct ConnectLog {
    asked: Vec<Instant>,
    grants: Vec<Grant>,
}

impl ConnectLog {
    /// How many attempts began between two times.
    pub fn attempts(&self, from: Instant, to: Instant) -> usize {
        let within = self.asked.iter().filter(|at| **at >= from && **at <= to);
        within.count()
    }

    /// The attempts that began between two times and were granted.
    pub fn granted(&self, from: Instant, to: Instant) -> Vec<Grant> {
        let within = |grant: &&Grant| grant.asked >= from && grant.asked <= to;
        self.grants.iter().filter(within).copied().collect()
    }
}

#[derive(Debug, Default)]
struct Switches {
    stop: AtomicBool,
    pause: AtomicBool,
}

/// A running connect prober; it stops when dropped.
#[derive(Debug)]
pub struct ConnectProber {
    switches: Arc<Switches>,
    log: Arc<Mutex<ConnectLog>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl ConnectProber {
    /// Starts to connect from `namespace` to `target`, once in each `interval`.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the thread not be prioritized.
    pub fn start(namespace: &Namespace, target: SocketAddrV4, interval: Duration) -> Result<Self> {
        let switches = Arc::new(Switches::default());
        let log = Arc::new(Mutex::new(ConnectLog::default()));
        let (ready, started) = mpsc::channel();
        let thread = {
            let (switches, log) = (Arc::clone(&switches), Arc::clone(&log));
            let namespace = namespace.clone();
            thread::Builder::new()
                .name("connects".to_owned())
                .spawn(move || {
                    namespace.enter(|| {
                        ready.send(nix::unistd::gettid()).ok();
                        probe(target, interval, &log, &switches)
                    })
                })
                .context("start the connect prober")?
        };
        make_realtime(
            started.recv().context("the connect prober ended at once")?,
            PRIORITY,
        )?;
        Ok(Self {
            switches,
            log,
            thread: Some(thread),
        })
    }

    /// Begins no attempts until [`Self::resume`].
    pub fn pause(&self) {
        self.switches.pause.store(true, Ordering::Relaxed);
    }

    /// Goes on after [`Self::pause`].
    pub fn resume(&self) {
        self.switches.pause.store(false, Ordering::Relaxed);
    }

    /// Looks at all that was seen so far.
    ///
    /// # Errors
    /// When the prober broke off: silence would then prove nothing.
    pub fn look<T>(&self, look: impl FnOnce(&ConnectLog) -> T) -> Result<T> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            bail!("the connect prober broke off");
        }
        Ok(look(
            &self.log.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

impl Drop for ConnectProber {
    fn drop(&mut self) {
        self.switches.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A broken prober has been reported by whoever asked it.
            thread.join().ok();
        }
    }
}

/// A question that is under way.
#[derive(Debug)]
struct Attempt {
    asked: Instant,
    socket: Socket,
}

impl Attempt {
    fn begin(target: SocketAddrV4) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)
            .context("open a socket to connect")?;
        // Its end is a reset: the service is rid of it at once, and no port here waits for stragglers.
        socket
            .set_linger(Some(Duration::ZERO))
            .context("let a connection end with a reset")?;
        let asked = Instant::now();
        match socket.connect(&target.into()) {
            Ok(()) => {}
            // A refusal is an answer, which the socket keeps until it is asked.
            Err(error)
                if matches!(
                    error.raw_os_error().map(Errno::from_raw),
                    Some(Errno::EINPROGRESS | Errno::ECONNREFUSED)
                ) => {}
            Err(error) => return Err(error).with_context(|| format!("connect to {target}")),
        }
        Ok(Self { asked, socket })
    }

    /// What an answered attempt came to. One that was granted and ended at once counts.
    fn is_granted(&self) -> bool {
        let error = self.socket.take_error();
        error
            .is_ok_and(|error| error.is_none_or(|error| error.kind() == ErrorKind::ConnectionReset))
    }
}

fn probe(
    target: SocketAddrV4,
    interval: Duration,
    log: &Mutex<ConnectLog>,
    switches: &Switches,
) -> Result<()> {
    // The limit of each bounds their number.
    let mut flying: Vec<Attempt> = Vec::new();
    let mut next = Instant::now();
    while !switches.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        flying.retain(|attempt| now.saturating_duration_since(attempt.asked) < ATTEMPT_LIMIT);
        if now >= next {
            // After a pause the grid starts anew.
            next = (next + interval).max(now);
            if !switches.pause.load(Ordering::Relaxed) {
                let attempt = Attempt::begin(target)?;
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                if log.asked.len() >= ATTEMPTS_MAX {
                    bail!("the connect prober ran for too long");
                }
                log.asked.push(attempt.asked);
                flying.push(attempt);
            }
        }
        let answered = wait(&flying, next.saturating_duration_since(Instant::now()))?;
        let at = Instant::now();
        let mut answered = answered.into_iter();
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        flying.retain(|attempt| {
            let has_answer = answered.next().unwrap_or(false);
            if has_answer && attempt.is_granted() {
                let asked = attempt.asked;
                log.grants.push(Grant { asked, at });
            }
            !has_answer
        });
    }
    Ok(())
}

/// Waits at most `limit` for an answer, and says which attempts have one.
fn wait(flying: &[Attempt], limit: Duration) -> Result<Vec<bool>> {
    let mut waiting: Vec<PollFd<'_>> = flying
        .iter()
        .map(|attempt| PollFd::new(attempt.socket.as_fd(), PollFlags::POLLOUT))
        .collect();
    match ppoll(&mut waiting, Some(TimeSpec::from_duration(limit)), None) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error).context("wait for connections"),
    }
    let has_answer = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
    Ok(waiting.iter().map(has_answer).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::wait_until;
    use std::net::{Ipv4Addr, TcpListener};

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn attempts_and_grants_count_by_when_they_began() {
        let start = Instant::now();
        let ms = |count| start + Duration::from_millis(count);
        let grant = |asked, at| Grant {
            asked: ms(asked),
            at: ms(at),
        };
        let log = ConnectLog {
            asked: [0, 5, 10, 15].map(ms).to_vec(),
            grants: vec![grant(5, 6), grant(0, 12)],
        };
        assert_eq!(log.attempts(ms(5), ms(10)), 2);
        assert_eq!(log.granted(ms(1), ms(20)), [grant(5, 6)]);
    }

    #[test]
    fn a_listener_grants_and_a_closed_port_does_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let (log, switches) = (Mutex::new(ConnectLog::default()), Switches::default());
        thread::scope(|scope| {
            let running = scope.spawn(|| probe(target, CONNECT_INTERVAL, &log, &switches));
            let granted = || log.lock().unwrap().grants.len();
            wait_until("a grant", LIMIT, || Ok((granted() > 0).then_some(()))).unwrap();
            drop(listener);
            let closed = Instant::now();
            wait_until("ten more attempts", LIMIT, || {
                let attempts = log.lock().unwrap().attempts(closed, Instant::now());
                Ok((attempts >= 10).then_some(()))
            })
            .unwrap();
            switches.stop.store(true, Ordering::Relaxed);
            running.join().unwrap().unwrap();
            let log = log.lock().unwrap();
            assert_eq!(log.granted(closed, Instant::now()), []);
        });
    }
}
