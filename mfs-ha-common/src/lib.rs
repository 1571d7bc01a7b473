//! Everything in mfs-ha that is pure: wire formats, validation, authentication and decisions.
//!
//! The XDP program, the daemon, the tests and the fuzzer build this same code, so what is tested on
//! the host is what runs in the kernel. `no_std` without an allocator and without `unsafe` lets the
//! compiler, not a reviewer, keep clocks, sockets and processes out of it.
//!
//! The rule for adding to it: a function belongs here when its result depends on its arguments only.
//! Time comes in as a [`Timestamp`](time::Timestamp), frames through the [`Frame`](net::Frame) trait,
//! and what should happen goes out as [`Action`](action::Action)s.

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::float_arithmetic,
        clippy::indexing_slicing
    )
)]

#[cfg(test)]
extern crate std;

pub mod action;
pub mod carp;
pub mod cluster;
pub mod durable;
pub mod election;
pub mod event;
pub mod filter;
pub mod freshness;
pub mod gate;
pub mod heartbeat;
pub mod member;
pub mod net;
pub mod node;
pub mod peer;
pub mod priority;
pub mod promotion;
pub mod record;
#[cfg(feature = "serde")]
pub mod recording;
pub mod stats;
pub mod time;
pub mod validate;
