//! File descriptors that tokio has no type for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Watches a descriptor. Call it within a tokio runtime.
///
/// # Errors
/// The descriptor cannot be polled.
#[expect(
    deprecated,
    reason = "the unsafe replacement asks that the descriptor stays the same and open, which owning it promises"
)]
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
