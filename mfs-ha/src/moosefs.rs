//! MooseFS: the metadata that a node keeps, and the programs that work on it.
//!
//! ```text
//!  image + changelogs ──▶ directory (inspect) ──▶ stage ──▶ install ──▶ process::master
//!        ▲                      │                              │
//!   follow (incremental)        └─▶ readiness                  └─▶ layout, journal, epoch, archive
//! ```
//!
//! `docs/promotion.md` states what is measured of the real programs and what follows from it.

pub mod archive;
pub mod changelog;
pub mod directory;
pub mod emergency;
pub mod epoch;
pub mod follow;
pub mod followed;
pub mod image;
pub mod install;
pub mod journal;
pub mod layout;
pub mod lost;
pub mod process;
pub mod repair;
pub mod services;
pub mod settings;
pub mod snapshot;
pub mod stage;
