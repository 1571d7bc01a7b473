//! The daemon's side of the gate: what it is told, and on which interfaces it sits.
//!
//! The gate itself is in the kernel (`mfs_ha_common::gate`). Here the heartbeat thread tells it until when this
//! node may serve, and a task of the main thread keeps it on every interface. Neither decides who may serve.

mod keeper;
mod writer;

pub use keeper::keep;
pub use writer::{GateWriter, Margins, WriterView};
