//! Packet memory as a [`Frame`].

use core::hint::black_box;
use core::marker::PhantomData;

use aya_ebpf::programs::XdpContext;
use mfs_ha_common::net::Frame;

/// The frame that the program was called for.
pub(crate) struct PacketMemory<'a> {
    // Both bounds are read from the context once: its fields are 32 bits wide, and a widening in a
    // function that takes them as arguments makes plain numbers of what the verifier knows as pointers.
    start: usize,
    end: usize,
    _packet: PhantomData<&'a XdpContext>,
}

impl<'a> PacketMemory<'a> {
    /// Wraps the context's packet.
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
            _packet: PhantomData,
        }
    }
}

impl Frame for PacketMemory<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "packet memory is reached through a raw pointer")]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.start + offset;
        // In a loop the compiler would rather calculate with the end, which the verifier lets nobody do.
        if black_box(start + N) > self.end {
            return None;
        }
        // SAFETY: `offset` comes from `validate`, where it is at most some header lengths and a heartbeat
        // (18 + 60 + 8 + 168), so `start` does not wrap. `start + N <= self.end`, so the N bytes lie in the packet,
        // which the kernel keeps mapped and unchanged while the program runs; a byte array has alignment
        // 1 and no invalid values. The verifier proves the same bound again at load.
        Some(unsafe { (start as *const [u8; N]).read() })
    }
}
