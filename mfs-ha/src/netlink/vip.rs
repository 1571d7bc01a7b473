//! Keeping the VIP where it is wanted, and away from where it is not.
//!
//! The applier is level-triggered: it compares what is wanted *now* with what the kernel has, does
//! what is missing, reads the kernel again and reports. It does the same when the interface or its
//! addresses change, so a VIP that somebody removes comes back, one that appears unasked goes, and
//! an interface that is made anew gets it again. It decides nothing: whether the VIP is wanted, and
//! what a failure means, is up to the one who reads the reports.

use std::collections::HashSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Netlink, NetlinkError};
use crate::backoff::Backoff;
use crate::error::chain;
use crate::interface::{Address, Interface, LinkState};

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Changes by somebody else that lie further apart than this are repaired at once again.
const CONTEST_OVER_AFTER: Duration = Duration::from_secs(10);

/// What the kernel should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The VIP is on the interface.
    pub present: bool,
    /// Numbers the wishes, so that a report can be told from an older one.
    pub generation: u64,
}

/// What the kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The VIP is on the interface, with whatever prefix.
    Present,
    /// It is not.
    Absent,
    /// The kernel could not be asked.
    Unknown,
}

/// The outcome of the latest attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipReport {
    /// The wish that was worked on.
    pub generation: u64,
    /// What the kernel had afterwards.
    pub presence: Presence,
    /// Why the wish is not fulfilled; `None` when it is.
    pub error: Option<String>,
    /// How many attempts in a row have failed.
    pub failures: u32,
    /// Somebody else has changed the VIP since the wish was fulfilled, and may do so again.
    pub is_contested: bool,
}

/// What is done to the VIP on its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Nothing.
    Read,
    /// Add it with the configured prefix.
    Add,
    /// Remove it with every prefix it has.
    Remove,
}

/// How the interface holds the VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Not at all.
    No,
    /// Only with other prefixes than the configured one.
    WithOtherPrefix,
    /// With the configured prefix.
    AsConfigured,
}

/// What an operation found when it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// How the interface holds the VIP.
    pub held: Held,
    /// The interface's number.
    pub ifindex: u32,
}

/// Why the VIP could not be changed or looked at.
#[derive(Debug, thiserror::Error)]
pub enum VipError {
    /// There is no interface of that name.
    #[error("interface {interface} is gone")]
    InterfaceGone {
        /// The name.
        interface: String,
    },
    /// The kernel refused or did not answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel agreed, and yet has not what was asked for.
    #[error("the kernel accepted to {operation:?} the VIP without effect")]
    WithoutEffect {
        /// What was asked for.
        operation: Operation,
    },
}

/// The interface that gets the VIP; a trait so that failures which the kernel cannot be made to
/// show can be tried.
pub trait VipTarget {
    /// Does the operation and tells what the kernel has afterwards.
    ///
    /// `last_ifindex` is what the last success told: an interface that was renamed since then is
    /// not ours any more, and must not keep the VIP.
    fn execute(
        &mut self,
        operation: Operation,
        last_ifindex: Option<u32>,
    ) -> impl Future<Output = Result<Found, VipError>> + Send;
}

/// Follows the wish; see the module.
#[derive(Debug)]
pub struct VipApplier<T> {
    target: T,
    wanted: watch::Receiver<Wanted>,
    link: watch::Receiver<LinkState>,
    last_ifindex: Option<u32>,
    contest: Contest,
    reports: watch::Sender<VipReport>,
}

impl<T: VipTarget> VipApplier<T> {
    /// Joins a wish, the interface to watch, and the target; the reports start as `Unknown`.
    pub fn new(
        target: T,
        wanted: watch::Receiver<Wanted>,
        link: watch::Receiver<LinkState>,
    ) -> (Self, watch::Receiver<VipReport>) {
        let (reports, receiver) = watch::channel(VipReport {
            generation: 0,
            presence: Presence::Unknown,
            error: None,
            failures: 0,
            is_contested: false,
        });
        let applier = Self {
            target,
            wanted,
            last_ifindex: None,
            contest: Contest::new(),
            link,
            reports,
        };
        (applier, receiver)
    }

    /// Applies the latest wish, and goes on until the sender of the wishes is dropped.
    ///
    /// Not a word is taken back at the end: for a clean end wish the VIP away, wait for the report
    /// of that generation, and drop the sender then.
    ///
    /// Cancel safe in that no state is lost; but a change that was just asked for may still
    /// happen, so [`remove_vip_now`] has to follow when the VIP must not stay.
    pub async fn run(mut self) {
        let mut retry = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let mut failures = 0_u32;
        loop {
            let wanted = *self.wanted.borrow_and_update();
            // Changes from here on wake us again; those before it are in what is read now.
            self.link.mark_unchanged();
            let (retry_at, repair_at) = match self.apply(wanted).await {
                Ok(changed) => {
                    failures = 0;
                    retry.reset();
                    (None, self.contest.after(wanted.generation, changed))
                }
                Err((presence, error)) => {
                    failures = failures.saturating_add(1);
                    let words = chain(&error);
                    if failures == 1 && !matches!(error, VipError::InterfaceGone { .. }) {
                        tracing::warn!(
                            wanted = wanted.present,
                            error = words,
                            "cannot change the VIP"
                        );
                    }
                    self.report(wanted, presence, Some(words), failures);
                    let now = Instant::now();
                    let not_before = match error {
                        VipError::InterfaceGone { .. } => None,
                        // What failed may have changed the interface, which must not turn into a
                        // hot loop.
                        VipError::Netlink(_) | VipError::WithoutEffect { .. } => {
                            Some(now + RETRY_FIRST)
                        }
                    };
                    (Some(now + retry.next_delay()), not_before)
                }
            };
            tokio::select! {
                biased;
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = changed_not_before(&mut self.link, repair_at) => {}
                () = sleep_until(retry_at) => {}
            }
        }
    }

    /// Brings the kernel to what is wanted, reports it, and tells whether anything had to be done.
    async fn apply(&mut self, wanted: Wanted) -> Result<bool, (Presence, VipError)> {
        let held = self.execute(Operation::Read).await?;
        let operation = match (wanted.present, held) {
            (true, Held::AsConfigured) | (false, Held::No) => {
                self.report(wanted, presence(held), None, 0);
                return Ok(false);
            }
            (true, Held::No | Held::WithOtherPrefix) => Operation::Add,
            (false, Held::AsConfigured | Held::WithOtherPrefix) => Operation::Remove,
        };
        self.contest.note_change(wanted.generation);
        let held = self.execute(operation).await?;
        let fulfilled = match held {
            Held::AsConfigured => wanted.present,
            Held::No => !wanted.present,
            Held::WithOtherPrefix => false,
        };
        if !fulfilled {
            return Err((presence(held), VipError::WithoutEffect { operation }));
        }
        tracing::info!(
            generation = wanted.generation,
            ?operation,
            "changed the VIP"
        );
        // Also when it reads like the last one: a VIP that was put back has to be announced again.
        let report = self.report_of(wanted, presence(held), None, 0);
        self.reports.send_replace(report);
        Ok(true)
    }

    async fn execute(&mut self, operation: Operation) -> Result<Held, (Presence, VipError)> {
        match self.target.execute(operation, self.last_ifindex).await {
            Ok(found) => {
                self.last_ifindex = Some(found.ifindex);
                Ok(found.held)
            }
            Err(error) => Err((presence_after(&error), error)),
        }
    }

    fn report_of(
        &self,
        wanted: Wanted,
        presence: Presence,
        error: Option<String>,
        failures: u32,
    ) -> VipReport {
        VipReport {
            generation: wanted.generation,
            presence,
            error,
            failures,
            is_contested: self.contest.is_on(wanted.generation),
        }
    }

    fn report(&self, wanted: Wanted, presence: Presence, error: Option<String>, failures: u32) {
        let report = self.report_of(wanted, presence, error, failures);
        self.reports.send_if_modified(|published| {
            let changed = *published != report;
            if changed {
                *published = report;
            }
            changed
        });
    }
}

fn presence(held: Held) -> Presence {
    match held {
        Held::No => Presence::Absent,
        Held::WithOtherPrefix | Held::AsConfigured => Presence::Present,
    }
}

fn presence_after(error: &VipError) -> Presence {
    match error {
        // The kernel drops the addresses of an interface together with it.
        VipError::InterfaceGone { .. } => Presence::Absent,
        VipError::Netlink(_) | VipError::WithoutEffect { .. } => Presence::Unknown,
    }
}

/// Somebody who keeps undoing what we do; we must not fight at the speed of the processor.
#[derive(Debug)]
struct Contest {
    /// The wish that was fulfilled.
    generation: Option<u64>,
    /// It was undone since.
    is_on: bool,
    pauses: Backoff,
    last_repair: Option<Instant>,
    not_before: Option<Instant>,
}

impl Contest {
    fn new() -> Self {
        Self {
            generation: None,
            is_on: false,
            pauses: Backoff::new(RETRY_FIRST, RETRY_MAX),
            last_repair: None,
            not_before: None,
        }
    }

    /// Notes that something has to be done for a wish: when it was fulfilled before, somebody has undone it.
    fn note_change(&mut self, generation: u64) {
        self.is_on |= self.generation == Some(generation);
    }

    fn is_on(&self, generation: u64) -> bool {
        self.is_on && self.generation == Some(generation)
    }

    /// Tells until when the next change of the interface has to wait.
    fn after(&mut self, generation: u64, changed: bool) -> Option<Instant> {
        if self.generation != Some(generation) {
            *self = Self::new();
            self.generation = Some(generation);
        } else if changed {
            let now = Instant::now();
            if self
                .last_repair
                .is_some_and(|last| now - last > CONTEST_OVER_AFTER)
            {
                self.pauses.reset();
            }
            self.last_repair = Some(now);
            self.not_before = Some(now + self.pauses.next_delay());
            tracing::warn!(generation, "somebody else had changed the VIP; repaired");
        }
        self.not_before
    }
}

/// Waits for a change, but holds it back until `not_before`.
async fn changed_not_before(link: &mut watch::Receiver<LinkState>, not_before: Option<Instant>) {
    if link.changed().await.is_err() {
        // Nobody watches the interface any more; the wishes and the retries remain.
        std::future::pending::<()>().await;
    }
    if let Some(not_before) = not_before {
        tokio::time::sleep_until(not_before).await;
    }
}

/// Never returns for `None`.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The VIP on a real interface, found by its name each time.
#[derive(Debug, Clone)]
pub struct NetlinkTarget {
    /// The interface's name.
    pub interface: String,
    /// The VIP.
    pub vip: Ipv4Addr,
    /// The prefix that it is added with.
    pub prefix_len: u8,
}

impl VipTarget for NetlinkTarget {
    async fn execute(
        &mut self,
        operation: Operation,
        last_ifindex: Option<u32>,
    ) -> Result<Found, VipError> {
        let netlink = Netlink::connect()?;
        let Some(before) = netlink.interface(&self.interface).await? else {
            self.remove_from_renamed(&netlink, last_ifindex).await?;
            return Err(self.gone());
        };
        let after = match operation {
            Operation::Read => before,
            Operation::Add => {
                netlink
                    .add_address(before.ifindex, self.vip, self.prefix_len)
                    .await
                    .map_err(|error| self.explain(error))?;
                self.read(&netlink).await?
            }
            Operation::Remove => self.remove(&netlink, before).await?,
        };
        Ok(Found {
            held: self.held(&after),
            ifindex: after.ifindex,
        })
    }
}

impl NetlinkTarget {
    async fn read(&self, netlink: &Netlink) -> Result<Interface, VipError> {
        netlink
            .interface(&self.interface)
            .await?
            .ok_or_else(|| self.gone())
    }

    fn gone(&self) -> VipError {
        VipError::InterfaceGone {
            interface: self.interface.clone(),
        }
    }

    /// The interface can go between being found and being changed.
    fn explain(&self, error: NetlinkError) -> VipError {
        if error.errno() == Some(nix::errno::Errno::ENODEV) {
            self.gone()
        } else {
            error.into()
        }
    }

    fn held(&self, interface: &Interface) -> Held {
        let mut held = Held::No;
        for found in interface
            .addresses
            .iter()
            .filter(|found| found.address == self.vip)
        {
            if found.prefix_len == self.prefix_len {
                return Held::AsConfigured;
            }
            held = Held::WithOtherPrefix;
        }
        held
    }

    /// Removes the VIP from the interface that had our name.
    async fn remove_from_renamed(
        &self,
        netlink: &Netlink,
        last_ifindex: Option<u32>,
    ) -> Result<(), VipError> {
        for owner in netlink.owners_of(self.vip).await? {
            if Some(owner.ifindex) == last_ifindex {
                tracing::warn!(
                    interface = self.interface,
                    renamed = owner.interface,
                    "the interface was renamed; removing the VIP from it"
                );
                netlink
                    .remove_address(owner.ifindex, self.vip, owner.prefix_len)
                    .await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, netlink: &Netlink, before: Interface) -> Result<Interface, VipError> {
        if takes_others_along(&before.addresses, self.vip) {
            self.promote_secondaries();
        }
        for held in before
            .addresses
            .iter()
            .filter(|held| held.address == self.vip)
        {
            netlink
                .remove_address(before.ifindex, held.address, held.prefix_len)
                .await?;
        }
        let after = self.read(netlink).await?;
        let lost: Vec<Address> = lost(&before, &after, self.vip).collect();
        if lost.is_empty() {
            return Ok(after);
        }
        tracing::warn!(
            interface = self.interface,
            lost = %List(&lost),
            "removing the VIP took other addresses along; putting them back"
        );
        for address in lost {
            netlink
                .add_address(after.ifindex, address.address, address.prefix_len)
                .await?;
        }
        self.read(netlink).await
    }

    /// Makes the kernel keep the other addresses of the prefix when the first of them goes.
    ///
    /// Where it cannot be set (a container with a read-only `/proc/sys`), what went along is put
    /// back afterwards.
    fn promote_secondaries(&self) {
        let path: PathBuf = [
            "/proc/sys/net/ipv4/conf",
            self.interface.as_str(),
            "promote_secondaries",
        ]
        .iter()
        .collect();
        if let Err(error) = std::fs::write(&path, "1") {
            tracing::warn!(
                path = %path.display(),
                error = &error as &dyn std::error::Error,
                "cannot set promote_secondaries"
            );
        }
    }
}

/// Whether the VIP is the first address of a prefix that others share: they go with it.
fn takes_others_along(addresses: &[Address], vip: Ipv4Addr) -> bool {
    addresses
        .iter()
        .filter(|held| held.address == vip && !held.secondary)
        .any(|first| {
            addresses.iter().any(|other| {
                other.secondary && other.address != vip && other.shares_prefix_with(first)
            })
        })
}

/// The addresses, other than the VIP, that an interface had and has no more.
fn lost(before: &Interface, after: &Interface, vip: Ipv4Addr) -> impl Iterator<Item = Address> {
    let kept: HashSet<(Ipv4Addr, u8)> = after
        .addresses
        .iter()
        .map(|held| (held.address, held.prefix_len))
        .collect();
    // On an interface that was made anew in between, nothing was lost by us.
    let same = before.ifindex == after.ifindex;
    before
        .addresses
        .clone()
        .into_iter()
        .filter(move |held| same && held.address != vip)
        .filter(move |held| !kept.contains(&(held.address, held.prefix_len)))
}

struct List<'l>(&'l [Address]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            write!(f, "{}{address}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Removes the VIP, as at the start after a crash; tells whether it was there.
///
/// An interface that does not exist holds no VIP either.
///
/// # Errors
/// When the kernel refuses or does not answer.
pub async fn remove_vip_now(interface: &str, vip: Ipv4Addr) -> Result<bool, VipError> {
    let mut target = NetlinkTarget {
        interface: interface.to_owned(),
        vip,
        // Every prefix is removed.
        prefix_len: 32,
    };
    match target.execute(Operation::Read, None).await {
        Ok(Found { held: Held::No, .. }) | Err(VipError::InterfaceGone { .. }) => return Ok(false),
        Ok(_) => {}
        Err(error) => return Err(error),
    }
    match target.execute(Operation::Remove, None).await {
        Ok(Found { held: Held::No, .. }) | Err(VipError::InterfaceGone { .. }) => Ok(true),
        Ok(_) => Err(VipError::WithoutEffect {
            operation: Operation::Remove,
        }),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
