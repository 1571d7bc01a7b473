//! A model of ucarp 1.5.2 as it was measured, not of mfs-ha: its state machine, the second by which it
//! reads late, the poll that its master-down timer waits for, and the scripts that stop it.

use std::time::Duration;

use mfs_ha_common::net::Ipv4;
use mfs_ha_common::priority::Priority;
use mfs_ha_common::time::Timestamp;

/// The capture library hands packets over when its block timer fires.
const BLOCK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub(crate) struct UcarpConfig {
    pub(crate) priority: Priority,
    pub(crate) deadratio: u32,
    pub(crate) preempt: bool,
    pub(crate) source: Ipv4,
    /// How long its up and its down script take.
    pub(crate) script: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UcarpState {
    Backup,
    Master,
}

/// What one run of its loop did, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Advertise(Priority),
    TakeVip,
    DropVip,
}

#[derive(Clone, Debug)]
pub(crate) struct Ucarp {
    config: UcarpConfig,
    started: Timestamp,
    state: UcarpState,
    inbox: Vec<(Timestamp, Ipv4, Priority)>,
    master_down: Option<Timestamp>,
    next_advert: Option<Timestamp>,
    /// When poll() returns at the latest.
    poll_ends: Timestamp,
    /// A script runs until then.
    busy_until: Timestamp,
}

impl Ucarp {
    pub(crate) fn new(config: UcarpConfig, now: Timestamp) -> Self {
        let mut ucarp = Self {
            config,
            started: now,
            state: UcarpState::Backup,
            inbox: Vec::new(),
            master_down: None,
            next_advert: None,
            poll_ends: now,
            busy_until: now,
        };
        ucarp.arm_master_down(now);
        ucarp.poll_ends = now.after(ucarp.poll_period());
        ucarp
    }

    pub(crate) fn state(&self) -> UcarpState {
        self.state
    }

    pub(crate) fn receive(&mut self, arrival: Timestamp, source: Ipv4, priority: Priority) {
        self.inbox.push((arrival, source, priority));
    }

    /// Returns when its loop runs next.
    pub(crate) fn wakes_at(&self) -> Timestamp {
        let delivery = self
            .inbox
            .first()
            .map(|(arrival, ..)| self.block_end(*arrival));
        let advert = self
            .next_advert
            .filter(|_| self.state == UcarpState::Master);
        [delivery, advert]
            .into_iter()
            .flatten()
            .chain([self.poll_ends])
            .min()
            .map_or(self.poll_ends, |at| at.max(self.busy_until))
    }

    /// Runs its loop once.
    pub(crate) fn wake(&mut self, now: Timestamp) -> Vec<(Timestamp, Deed)> {
        let mut deeds = Vec::new();
        if now < self.busy_until {
            return deeds;
        }
        let mut clock = now;
        while let Some((arrival, source, priority)) = self.inbox.first().copied() {
            if self.block_end(arrival) > now {
                break;
            }
            self.inbox.remove(0);
            clock = self.heard(clock, source, priority, &mut deeds);
        }
        if self.master_down.is_some_and(|at| at <= clock) {
            clock = self.become_master(clock, &mut deeds);
        }
        if self.state == UcarpState::Master && self.next_advert.is_some_and(|at| at <= clock) {
            self.advertise(clock, &mut deeds);
        }
        self.busy_until = clock;
        self.poll_ends = clock.after(self.poll_period());
        deeds
    }

    fn heard(
        &mut self,
        now: Timestamp,
        source: Ipv4,
        theirs: Priority,
        deeds: &mut Vec<(Timestamp, Deed)>,
    ) -> Timestamp {
        let mine = self.config.priority.interval();
        let their_interval = theirs.interval();
        match self.state {
            UcarpState::Master => {
                let is_lower = u32::from_le_bytes(source) < u32::from_le_bytes(self.config.source);
                if their_interval < mine || (their_interval == mine && is_lower) {
                    self.advertise(now, deeds);
                    return self.become_backup(now, deeds);
                }
                now
            }
            UcarpState::Backup => {
                let patience = Priority::new(
                    u8::try_from(u32::from(self.config.priority.advbase()) * self.config.deadratio)
                        .unwrap_or(u8::MAX),
                    self.config.priority.advskew(),
                );
                let is_preempted = self.config.preempt && mine < their_interval;
                if is_preempted || patience.interval() < their_interval {
                    return self.become_master(now, deeds);
                }
                self.arm_master_down(now);
                now
            }
        }
    }

    fn become_master(&mut self, now: Timestamp, deeds: &mut Vec<(Timestamp, Deed)>) -> Timestamp {
        let done = now.after(self.config.script);
        deeds.push((done, Deed::TakeVip));
        self.state = UcarpState::Master;
        self.master_down = None;
        self.advertise(done, deeds);
        done
    }

    fn become_backup(&mut self, now: Timestamp, deeds: &mut Vec<(Timestamp, Deed)>) -> Timestamp {
        let done = now.after(self.config.script);
        deeds.push((done, Deed::DropVip));
        self.state = UcarpState::Backup;
        self.next_advert = None;
        self.arm_master_down(done);
        done
    }

    fn advertise(&mut self, now: Timestamp, deeds: &mut Vec<(Timestamp, Deed)>) {
        deeds.push((now, Deed::Advertise(self.config.priority)));
        self.next_advert = Some(now.after(self.config.priority.interval()));
    }

    fn arm_master_down(&mut self, now: Timestamp) {
        let base = Duration::from_secs(self.config.priority.advbase().into());
        let patience = base * self.config.deadratio + self.config.priority.slot();
        self.master_down = Some(now.after(patience));
    }

    fn poll_period(&self) -> Duration {
        let skew_ms = u64::from(self.config.priority.advskew()) * 1000 / 256;
        Duration::from_millis(u64::from(self.config.priority.advbase()) * 1000 + skew_ms)
    }

    fn block_end(&self, arrival: Timestamp) -> Timestamp {
        let since = arrival.since(self.started).as_nanos();
        let blocks = since / BLOCK.as_nanos() + 1;
        self.started
            .after(BLOCK * u32::try_from(blocks).unwrap_or(u32::MAX))
    }
}
