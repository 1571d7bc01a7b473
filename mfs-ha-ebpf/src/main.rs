//! The programs in the kernel: verdicts at the moment of arrival, and the gate.
//!
//! They are verdict tables and nothing else; what a frame means is decided by `mfs_ha_common::validate` and
//! `mfs_ha_common::gate`, which the host runs too. Silence is judged by the daemon, from the arrival times that
//! are stamped here; the only deadline that is kept here is the end of the lease.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod clock;
#[cfg(target_arch = "bpf")]
mod gate;
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
    use aya_ebpf::macros::{classifier, xdp};
    use aya_ebpf::programs::{TcContext, XdpContext};
    use mfs_ha_common::gate::Direction;
    use mfs_ha_common::validate::{Delivery, Verdict};

    use crate::{gate, maps, receive};

    /// Judges each frame that the interface receives.
    #[xdp]
    pub(crate) fn mfs_ha(ctx: XdpContext) -> u32 {
        if let Some(reason) = gate::entry(&ctx) {
            maps::count_gate(reason);
            return xdp_action::XDP_DROP;
        }
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

    /// Judges what comes in over interfaces without the XDP program, `lo` among them.
    #[classifier]
    pub(crate) fn mfs_ha_in(ctx: TcContext) -> i32 {
        gate::classify(&ctx, Direction::In)
    }

    /// Judges what goes out.
    #[classifier]
    pub(crate) fn mfs_ha_out(ctx: TcContext) -> i32 {
        gate::classify(&ctx, Direction::Out)
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program in which this can be reached.
    loop {}
}
