//! The XDP program: verdicts in the kernel, at the moment of arrival.
//!
//! It is a verdict table and nothing else; what a frame means is decided by `mfs_ha_common::validate`,
//! which the host runs too. It does not keep deadlines: silence is judged by the daemon, from the
//! arrival times that are stamped here.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod clock;
#[cfg(target_arch = "bpf")]
mod load;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod receive;

/// Keeps `cargo build --workspace` working: the program itself is made by `cargo xtask build-ebpf`.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::bindings::xdp_action;
    use aya_ebpf::macros::xdp;
    use aya_ebpf::programs::XdpContext;
    use mfs_ha_common::validate::{Delivery, Verdict};

    use crate::{maps, receive};

    /// Judges each frame that the interface receives.
    #[xdp]
    pub(crate) fn mfs_ha(ctx: XdpContext) -> u32 {
        match &receive::judge(&ctx) {
            // Before the daemon has written CONFIG nothing is ours.
            None => xdp_action::XDP_PASS,
            Some(Verdict::Pass(reason)) => {
                maps::count_pass(*reason);
                xdp_action::XDP_PASS
            }
            Some(Verdict::Drop(reason)) => {
                maps::count_drop(*reason);
                xdp_action::XDP_DROP
            }
            Some(Verdict::Mismatch(reason, claimed)) => {
                maps::count_drop(*reason);
                receive::note_mismatch(&ctx, *reason, claimed);
                xdp_action::XDP_DROP
            }
            Some(Verdict::Heartbeat(accepted)) => {
                receive::record_heartbeat(&ctx, accepted);
                xdp_action::XDP_DROP
            }
            Some(Verdict::Accept(accepted)) => {
                receive::record(&ctx, accepted);
                match accepted.delivery {
                    Delivery::PassOn => xdp_action::XDP_PASS,
                    Delivery::Consume => xdp_action::XDP_DROP,
                }
            }
        }
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program in which this can be reached.
    loop {}
}
