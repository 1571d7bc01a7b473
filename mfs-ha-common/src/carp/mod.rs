//! CARP version 2 as ucarp 1.5.2 and the BSDs speak it: `docs/protocol.md`.

pub mod auth;
pub mod checksum;
pub mod frame;
pub mod sha1;
pub mod trailer;
pub mod wire;

pub use wire::{Advert, Vhid};
