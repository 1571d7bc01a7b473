//! One failover from end to end: a fault on the serving node, what it does to the client, and the way back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

use super::client::Client;
use super::history::{History, Resumption, Trouble};
use super::record::Role;
use super::report::{Report, steps_of};
use crate::judge::ports::PortAnswer;
use crate::net::netns::freeze;
use crate::scenario::Arena;
use crate::software::mfsha::MfsHa;
use crate::software::moosefs::cluster::{Cluster, CutOff, SETTLE};
use crate::software::moosefs::node::kill_master;
use crate::wait::{interrupted, observe_for, wait_until};

/// How long the winner is watched for a second owner once the client has gone on.
const AFTERMATH: Duration = Duration::from_secs(2);
/// How long a master may take clients without an ARP answer, to be believed that it has the VIP.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Files that must be acknowledged right before a fault: the client is at work.
const WARM_UP: usize = 10;

/// What is done to the serving node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// The link goes down, then all processes are killed: some packets in flight are lost.
    NodeDeath,
    /// All processes are killed, then the link goes down: some connections are still closed in good order.
    #[value(skip)]
    NodeDeathLinkLast,
    /// mfsmaster alone is killed.
    MasterCrash,
    /// mfs-ha alone is killed.
    DaemonKill,
    /// mfs-ha alone is stopped as by SIGSTOP, until the client went on.
    DaemonFreeze,
    /// Every process of the node is stopped as by SIGSTOP, mfs-ha and mfsmaster among them.
    #[value(skip)]
    NodeFreeze,
    /// mfs-ha is asked to end.
    Graceful,
    /// The node is cut off from everybody, though its link stays up.
    Partition,
    /// The node and the other voters are cut off from each other, while clients and chunkservers reach all of them.
    Split,
    /// The other voters do not hear its heartbeats.
    #[value(skip)]
    Mute,
    /// It does not hear the heartbeats of the other voters.
    #[value(skip)]
    Deaf,
    /// Nothing that it sends to voters, chunkservers and client arrives; what they send does.
    #[value(skip)]
    OutboundCut,
    /// Nothing that voters, chunkservers and client send to it arrives; what it sends does.
    #[value(skip)]
    InboundCut,
}

impl Fault {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeDeath => "node-death",
            Self::NodeDeathLinkLast => "node-death-link-last",
            Self::MasterCrash => "master-crash",
            Self::DaemonKill => "daemon-kill",
            Self::DaemonFreeze => "daemon-freeze",
            Self::NodeFreeze => "node-freeze",
            Self::Graceful => "graceful",
            Self::Partition => "partition",
            Self::Split => "split",
            Self::Mute => "mute",
            Self::Deaf => "deaf",
            Self::OutboundCut => "outbound-cut",
            Self::InboundCut => "inbound-cut",
        }
    }

    /// Whether the node itself may serve again.
    fn may_stay(self) -> bool {
        self == Self::MasterCrash
    }
}

/// The moment of a failure, on the clocks that it is told by.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// On the judges' clock.
    pub at: Instant,
    /// On that of a daemon's account: nanoseconds of CLOCK_BOOTTIME.
    pub boottime_ns: u64,
}

impl Mark {
    /// Now.
    ///
    /// # Errors
    /// When the kernel has no such clock.
    pub fn now() -> Result<Self> {
        let at = Instant::now();
        let boottime = clock_gettime(ClockId::CLOCK_BOOTTIME).context("read the clock")?;
        let boottime_ns = u64::try_from(Duration::from(boottime).as_nanos())
            .context("the clock is out of range")?;
        Ok(Self { at, boottime_ns })
    }
}

/// How long is waited for the client.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the failure to the first write and the first read that the new master answers.
    pub limit: Duration,
    /// From there to those of all other workers. A writer whose chunk the crash left locked needs two minutes, and
    /// a reader that came before its chunkserver ten seconds, whatever the failover did.
    pub stragglers: Duration,
}

/// Called with the time since the failure and what was just seen.
pub type News<'a> = dyn FnMut(Duration, &str) + 'a;

/// Breaks the serving node, watches the client go on, brings the node back and audits.
///
/// # Errors
/// When nobody serves to begin with, or a judge broke off. That the client did not go on, that something was lost,
/// or that the node did not come back is no error but a finding.
pub fn complete(
    cluster: &mut Cluster,
    fault: Fault,
    patience: Patience,
    news: &mut News<'_>,
) -> Result<Report> {
    let (mut report, strike) = strike(cluster, fault, patience, news)?;
    let restored = restore(cluster, fault, strike.node);
    let since = strike.mark.at.elapsed();
    match restored {
        Ok(()) => {
            report.t_back = Some(since.as_secs_f64());
            news(since, &format!("{} is back and ready", report.failed));
        }
        Err(error) if interrupted() => return Err(error),
        Err(error) => {
            news(since, &format!("{} does not come back", report.failed));
            report.not_back = Some(format!("{error:#}"));
        }
    }
    audit(cluster, &mut report, strike.mark)?;
    Ok(report)
}

/// What was broken, and when.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    /// The node.
    pub node: usize,
    /// Right before.
    pub mark: Mark,
    /// Right after.
    pub done: Instant,
}

/// Breaks the serving node and watches the client go on: [`complete`] without the way back and the audit.
///
/// # Errors
/// As [`complete`].
pub fn strike(
    cluster: &mut Cluster,
    fault: Fault,
    patience: Patience,
    news: &mut News<'_>,
) -> Result<(Report, Strike)> {
    let strike = inflict(cluster, fault)?;
    let what = format!("{} on n{}", fault.name(), strike.node);
    news(Duration::ZERO, &what);
    let report = observe(cluster, fault, strike, patience, news)?;
    Ok((report, strike))
}

/// Breaks the serving node under a client that is at work.
///
/// # Errors
/// When nobody serves to begin with, or the fault cannot be made.
pub fn inflict(cluster: &mut Cluster, fault: Fault) -> Result<Strike> {
    let node = cluster.wait_serving(SETTLE)?;
    cluster.client()?.wait_acked(WARM_UP, SETTLE)?;
    let mark = Mark::now()?;
    inflict_on(cluster, fault, node)?;
    Ok(Strike {
        node,
        mark,
        done: Instant::now(),
    })
}

fn inflict_on(cluster: &mut Cluster, fault: Fault, node: usize) -> Result<()> {
    match fault {
        Fault::NodeDeath => cluster.kill_node(node, false),
        Fault::NodeDeathLinkLast => cluster.kill_node(node, true),
        Fault::MasterCrash => kill_master(cluster.node(node)?, cluster.files(node)?),
        Fault::DaemonKill => {
            let daemon = cluster.daemon(node)?.process();
            daemon.signal(Signal::SIGKILL)?;
            daemon.wait(SETTLE).map(drop)
        }
        Fault::DaemonFreeze => freeze(&[cluster.daemon(node)?.process().pid()]),
        Fault::NodeFreeze => cluster.node(node)?.namespace.freeze(),
        Fault::Graceful => cluster.daemon(node)?.process().signal(Signal::SIGTERM),
        Fault::Partition => cluster.cut_off(node, CutOff::Alone),
        Fault::Split => cluster.cut_off(node, CutOff::Voters),
        Fault::Mute => cluster.cut_off(node, CutOff::Mute),
        Fault::Deaf => cluster.cut_off(node, CutOff::Deaf),
        Fault::OutboundCut => cluster.cut_off(node, CutOff::Outbound),
        Fault::InboundCut => cluster.cut_off(node, CutOff::Inbound),
    }
}

/// Watches what follows a fault until every worker of the client has gone on or patience is over.
///
/// # Errors
/// When a judge or the client's process broke off.
pub fn observe(
    cluster: &mut Cluster,
    fault: Fault,
    strike: Strike,
    patience: Patience,
    news: &mut News<'_>,
) -> Result<Report> {
    let Strike {
        node: failed, mark, ..
    } = strike;
    let mut report = Report {
        fault: fault.name().to_owned(),
        failed: format!("n{failed}"),
        ..Report::default()
    };
    let deadline = mark.at + patience.limit;
    if let Some(grant) = first_grant(cluster, fault, strike, deadline)? {
        let topology = cluster.arena().topology();
        let winner = topology.node_of(grant.mac);
        let winner = winner.context("a stranger takes clients on the VIP")?.index;
        report.winner = Some(format!("n{winner}"));
        report.t_listen = Some((grant.at - mark.at).as_secs_f64());
        if winner != failed {
            count_takeover(cluster.arena(), winner, mark.at, &mut report)?;
        }
        tell_of_takeover(&report, winner, news);
        wait_client(
            cluster.client()?,
            (mark.at, grant.at),
            deadline,
            patience.stragglers,
            news,
        )?;
        count_resumption(cluster.client()?.history()?, grant.at, mark.at, &mut report);
        // A daemon that does not answer is judged by what it did.
        if let Ok(status) = cluster.daemon(winner).and_then(MfsHa::status) {
            report.steps = steps_of(&status, mark.boottime_ns);
        }
    } else if let Some(owner) = new_owner(cluster.arena(), failed, mark.at)? {
        // Nobody serves, but somebody tried.
        count_takeover(cluster.arena(), owner, mark.at, &mut report)?;
        tell_of_takeover(&report, owner, news);
    }
    // Nobody may own the VIP beside the winner, once it has it.
    observe_for(AFTERMATH)?;
    count_owners(cluster, mark.at, &mut report)?;
    Ok(report)
}

/// The first time that the new master takes a client. One that goes on for a while must not be taken for it.
fn first_grant(
    cluster: &Cluster,
    fault: Fault,
    strike: Strike,
    deadline: Instant,
) -> Result<Option<PortAnswer>> {
    let failed = cluster.node(strike.node)?.mac;
    until("somebody to take clients", deadline, || {
        cluster.ports().look(|log| {
            if fault.may_stay() {
                log.first_accept(strike.done, |_| true)
            } else {
                log.first_accept(strike.mark.at, |mac| mac != failed)
            }
        })
    })
}

fn wait_client(
    client: &mut Client,
    (failure, served): (Instant, Instant),
    deadline: Instant,
    stragglers: Duration,
    news: &mut News<'_>,
) -> Result<()> {
    let mut told = BTreeSet::new();
    let mut look = |client: &mut Client| {
        let [writes, reads] = resumptions(client, served)?;
        let news_of = [
            (writes.first, "the client's next write is acknowledged"),
            (reads.first, "the client's next read is answered"),
            (writes.last, "all writers have gone on"),
            (reads.last, "all readers have gone on"),
        ];
        for (time, what) in news_of {
            if let Some(time) = time
                && told.insert(what)
            {
                news(time.saturating_duration_since(failure), what);
            }
        }
        Ok::<_, anyhow::Error>([writes, reads])
    };
    until("a write and a read to go on", deadline, || {
        let [writes, reads] = look(client)?;
        Ok(writes.first.and(reads.first))
    })?;
    until("every worker to go on", Instant::now() + stragglers, || {
        let [writes, reads] = look(client)?;
        Ok((writes.stalled + reads.stalled == 0).then_some(()))
    })?;
    Ok(())
}

/// How writers and readers went on after a moment.
fn resumptions(client: &mut Client, after: Instant) -> Result<[Resumption; 2]> {
    let history = client.history()?;
    Ok([Role::Writer, Role::Reader].map(|role| history.resumption(role, after)))
}

/// Waits for something that may never come: a missed deadline is `None`.
fn until<T>(
    what: &str,
    deadline: Instant,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    // The probe itself ends the wait; the limit is only never reached.
    let limit = deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(60);
    wait_until(what, limit, || {
        let found = probe()?;
        Ok((found.is_some() || Instant::now() >= deadline).then_some(found))
    })
}

fn count_takeover(
    arena: &Arena,
    winner: usize,
    failure: Instant,
    report: &mut Report,
) -> Result<()> {
    let since = |at: Instant| at.saturating_duration_since(failure).as_secs_f64();
    let mac = arena.topology().node(winner)?.mac;
    report.t_detect = first_advert(arena, winner, failure)?.map(since);
    // A master takes clients a moment before anybody has asked for its address again.
    let answer = until("an ARP answer", Instant::now() + ANSWER_LIMIT, || {
        arena
            .prober()
            .look(|seen| seen.first_reply_by(mac, failure))
    })?;
    report.t_vip = answer.map(|answer| since(answer.at));
    Ok(())
}

/// Who answered for the VIP after a failure, but for the failed node.
fn new_owner(arena: &Arena, failed: usize, failure: Instant) -> Result<Option<usize>> {
    let failed = arena.topology().node(failed)?.mac;
    let answer = arena
        .prober()
        .look(|seen| seen.first_reply_by_other_than(failed, failure))?;
    let node = answer.and_then(|answer| arena.topology().node_of(answer.mac));
    Ok(node.map(|node| node.index))
}

fn first_advert(arena: &Arena, node: usize, after: Instant) -> Result<Option<Instant>> {
    let source = arena.topology().node(node)?.address;
    let adverts = arena.sniffer().adverts_since(after)?;
    Ok(adverts
        .into_iter()
        .find(|seen| seen.advert.source == source && !seen.advert.is_bow_out())
        .map(|seen| seen.at))
}

fn tell_of_takeover(report: &Report, winner: usize, news: &mut News<'_>) {
    for (time, what) in [
        (
            report.t_detect,
            format!("n{winner} has noticed: its first advert"),
        ),
        (report.t_vip, format!("n{winner} answers ARP for the VIP")),
        (
            report.t_listen,
            format!("the mfsmaster of n{winner} takes clients"),
        ),
    ] {
        if let Some(time) = time {
            news(Duration::from_secs_f64(time), &what);
        }
    }
}

fn count_resumption(history: &History, served: Instant, failure: Instant, report: &mut Report) {
    let since = |at: Option<Instant>| Some(at?.saturating_duration_since(failure).as_secs_f64());
    let writes = history.resumption(Role::Writer, served);
    let reads = history.resumption(Role::Reader, served);
    report.t_write = since(writes.first);
    report.t_write_all = since(writes.last);
    report.writers_stalled = writes.stalled;
    report.t_read = since(reads.first);
    report.t_read_all = since(reads.last);
    report.readers_stalled = reads.stalled;
}

fn count_owners(cluster: &mut Cluster, failure: Instant, report: &mut Report) -> Result<()> {
    let (client, arena, ports) = cluster.judges()?;
    let now = Instant::now();
    let finding = arena.judge(failure, now)?;
    report.owners_max = finding.owners_max;
    report.two_owners_s = finding.overlap.as_secs_f64();
    report.servers_max = ports.look(|log| log.servers_max(failure, now))?;
    let history = client.history()?;
    report.write_gap_s = history
        .longest_gap(Role::Writer, failure, now)
        .as_secs_f64();
    report.read_gap_s = history
        .longest_gap(Role::Reader, failure, now)
        .as_secs_f64();
    report.acked = history.acked();
    Ok(())
}

/// Brings the node back as a candidate with its old directories, and waits until all who do not serve could: a
/// standby that lost its way is found here, not at the next failure.
///
/// # Errors
/// When the fault cannot be ended, or a node does not get ready in time.
pub fn restore(cluster: &mut Cluster, fault: Fault, node: usize) -> Result<()> {
    match fault {
        Fault::NodeDeath | Fault::NodeDeathLinkLast => drop(cluster.bring_back(node)?),
        Fault::MasterCrash => {}
        Fault::Partition
        | Fault::Split
        | Fault::Mute
        | Fault::Deaf
        | Fault::OutboundCut
        | Fault::InboundCut => cluster.arena().topology().heal()?,
        Fault::DaemonFreeze => cluster.daemon(node)?.process().signal(Signal::SIGCONT)?,
        Fault::NodeFreeze => cluster.node(node)?.namespace.thaw()?,
        Fault::DaemonKill | Fault::Graceful => {
            cluster.daemon(node)?.process().wait(SETTLE)?;
            cluster.start_node(node)?;
        }
    }
    cluster.wait_all_ready(SETTLE)
}

/// Asks for what was acknowledged since the last audit and completes the report of the failover at `mark`.
///
/// # Errors
/// When the audit does not come to an end.
pub fn audit(cluster: &mut Cluster, report: &mut Report, mark: Mark) -> Result<()> {
    let client = cluster.client()?;
    let audit = client.audit_new()?;
    let history = client.history()?;
    let names = |troubles: &[Trouble]| -> BTreeSet<String> {
        let since = troubles.iter().filter(|trouble| trouble.at >= mark.at);
        since.map(|trouble| trouble.name.clone()).collect()
    };
    let seen = (names(&history.missing), names(&history.wrong));
    report.client_errors = names(&history.failures).len();
    report.add_audit(&audit, (&seen.0, &seen.1));
    Ok(())
}

/// Asks for everything that was ever acknowledged, after a row of failovers, and adds what is lost to the last
/// report.
///
/// # Errors
/// As [`audit`].
pub fn conclude(cluster: &mut Cluster, last: &mut Report) -> Result<()> {
    let audit = cluster.client()?.audit()?;
    last.acked = audit.acked;
    last.missing = last.missing.max(audit.missing.len());
    last.wrong = last.wrong.max(audit.wrong.len());
    last.unreadable = last.unreadable.max(audit.unreadable.len());
    Ok(())
}
