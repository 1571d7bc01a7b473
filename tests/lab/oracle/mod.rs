//! The oracle: a client that writes and reads without end, and what became of everything that it was promised.
//!
//! Its work runs as processes of its own on the client's host, so that a mount that hangs cannot hang the judge.
//! An operation is *acknowledged* when write, fsync and close have returned; only then is it logged, outside of
//! the mount. The audit asks for every acknowledged file again.

pub mod audit;
pub mod client;
pub mod figures;
pub mod history;
pub mod record;
pub mod report;
pub mod trial;
pub mod worker;
