//! Failure of each single step: a fault is prepared, then the serving node dies or the fault strikes. Service
//! goes on in bounded time with everything that was acknowledged, the failed node says what failed it, keeps
//! its metadata, and comes back by itself.
//!
//! `MFS_HA_LONG=1` runs the faults that are left out of the ordinary suite for their time.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, with its line, and prints what it saw"
)]

#[path = "moosefs_faults/controls.rs"]
mod controls;
#[path = "moosefs_faults/daemon.rs"]
mod daemon;
#[path = "moosefs_faults/leftovers.rs"]
mod leftovers;
#[path = "moosefs_faults/promotion.rs"]
mod promotion;
#[path = "moosefs_faults/scene.rs"]
mod scene;
#[path = "moosefs_faults/serving.rs"]
mod serving;
