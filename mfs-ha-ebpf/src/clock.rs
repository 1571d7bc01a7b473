//! The kernel's clock.

use mfs_ha_common::time::Timestamp;

/// Returns the time of `CLOCK_BOOTTIME`.
#[inline(always)]
#[expect(unsafe_code, reason = "the helper is declared unsafe")]
pub(crate) fn now() -> Timestamp {
    // SAFETY: the helper takes no argument, has no precondition and only reads a clock.
    Timestamp::from_nanos(unsafe { aya_ebpf::helpers::bpf_ktime_get_boot_ns() })
}
