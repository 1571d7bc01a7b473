//! The adapters between the decision core of mfs-ha and the machine.

pub mod backoff;
pub mod bpf;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod control;
pub mod daemon;
pub mod driver;
mod error;
pub mod heartbeat;
pub mod hooks;
pub mod inspect;
pub mod interface;
pub mod lock;
pub mod moosefs;
pub mod netlink;
pub mod privileges;
pub mod promotion;
pub mod readiness;
pub mod secret;
pub mod signals;
pub mod state;
pub mod status;
pub mod supervisor;
pub mod transmit;
