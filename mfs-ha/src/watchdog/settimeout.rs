//! The one request of a watchdog device that is no read, no write and no file below `/sys`.

use std::ffi::c_int;
use std::fs::File;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;

// WDIOC_SETTIMEOUT of linux/watchdog.h.
nix::ioctl_readwrite!(
    /// Sets the timeout and hands back the one that the driver made of it.
    wdioc_settimeout,
    b'W',
    6,
    c_int
);

/// Sets the timeout and returns the one that the driver made of it, both in seconds.
///
/// # Errors
/// The device is no watchdog, or its driver takes no timeout, or not this one.
pub(super) fn set_timeout(device: &File, seconds: c_int) -> Result<c_int, Errno> {
    let mut seconds = seconds;
    #[expect(unsafe_code, reason = "no library has this request in safe words")]
    // SAFETY: the request's number encodes that it reads and writes one `c_int`, which `seconds` is. It lives
    // and is borrowed by nobody else until the call returns, and the kernel keeps no pointer to it. The
    // descriptor is open for as long as `device` is borrowed. A driver that is no watchdog refuses the number:
    // the magic 'W' with 6 and this size belongs to linux/watchdog.h alone.
    unsafe { wdioc_settimeout(device.as_raw_fd(), &raw mut seconds) }?;
    Ok(seconds)
}
