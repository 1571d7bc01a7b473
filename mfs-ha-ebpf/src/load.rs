//! Packet memory and socket buffers as a [`Frame`].

use core::hint::black_box;
use core::marker::PhantomData;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_hdr_start_off;
use aya_ebpf::helpers::bpf_skb_load_bytes_relative;
use aya_ebpf::programs::{TcContext, XdpContext};
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

/// Ethernet with two tags, the longest IPv4 header and the ports.
const HEADERS_MAX: u32 = 22 + 60 + 4;

/// What a socket buffer holds from its network header on, whatever the link layer is: a VLAN tag may have been
/// taken out of it, and a tunnel has none.
pub(crate) struct NetworkLayer<'a>(&'a TcContext);

impl<'a> NetworkLayer<'a> {
    /// Wraps the context's packet.
    #[inline(always)]
    pub(crate) const fn new(ctx: &'a TcContext) -> Self {
        Self(ctx)
    }

    /// Returns what kind of network header it is, as it stands on the wire.
    #[inline(always)]
    pub(crate) fn ethertype(&self) -> [u8; 2] {
        let [first, second, ..] = self.0.skb.protocol().to_ne_bytes();
        [first, second]
    }
}

impl Frame for NetworkLayer<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        usize::try_from(self.0.len()).unwrap_or_default()
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.copy(offset).or_else(|| {
            // Some drivers leave headers outside the linear part, which is all that the helper reads.
            self.0.pull_data(self.0.len().min(HEADERS_MAX)).ok()?;
            self.copy(offset)
        })
    }
}

impl NetworkLayer<'_> {
    #[inline(always)]
    #[expect(unsafe_code, reason = "the helper writes through a raw pointer")]
    fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let (offset, len) = (u32::try_from(offset).ok()?, u32::try_from(N).ok()?);
        // SAFETY: the context is the one that the kernel handed to this program, and `bytes` has the `len` bytes
        // that the helper writes: all of them, or it returns an error.
        let result = unsafe {
            bpf_skb_load_bytes_relative(
                self.0.as_ptr(),
                offset,
                bytes.as_mut_ptr().cast(),
                len,
                bpf_hdr_start_off::BPF_HDR_START_NET,
            )
        };
        (result == 0).then_some(bytes)
    }
}
