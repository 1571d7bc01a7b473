//! The laboratory: network namespaces, a bridge, real daemons and independent judges.
//!
//! It starts ucarp, keepalived and mfs-ha on nodes `n1..nN` of one Ethernet segment, breaks them, and
//! judges from an observer by what the wire says (ARP answers, captured adverts, kernel address events).
//! It shares no code with mfs-ha, and what a daemon says about itself is never the verdict.
//!
//! Invariants: traffic stays inside namespaces made here; only processes inside those namespaces or
//! started here are signalled; everything is removed on drop, and by the next run after a crash.

pub mod judge;
pub mod net;
pub mod oracle;
pub mod requirements;
pub mod scenario;
pub mod software;
pub mod trial;
pub mod wait;

use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The virtual address that all daemons of the lab compete for.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// Prefix length of the lab's only subnet, for nodes and VIP alike.
pub const PREFIX_LENGTH: u8 = 24;
/// VHID (and VRID) of the lab.
pub const VHID: u8 = 77;
/// The CARP password of the lab.
pub const PASSWORD: &str = "lab-secret";

/// Lets one test of a binary run at a time, whatever `--test-threads` says: timings of labs that share
/// two cores would judge the neighbour.
pub fn serial() -> MutexGuard<'static, ()> {
    static SERIAL: Mutex<()> = Mutex::new(());
    SERIAL.lock().unwrap_or_else(PoisonError::into_inner)
}
