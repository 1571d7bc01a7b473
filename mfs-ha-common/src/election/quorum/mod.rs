//! The election of `mode = "quorum"`: a lease that a majority grants.

mod settings;
mod status;

pub use settings::{COLD_START_WAIT, MAX_LAG, Settings};
pub use status::{LeaseStatus, MemberStatus, Obstacle};
