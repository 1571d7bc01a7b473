//! The judges: what the segment itself says, whatever a daemon claims.

pub mod address_log;
pub mod analysis;
pub mod connects;
pub mod cost;
pub mod histories;
pub mod ports;
pub mod prober;
pub mod segment;
pub mod stalls;
pub mod wire;
