//! The classic format: one header, then packets.

use std::io::Read;

use super::{CaptureError, Input, LINKTYPE_ETHERNET, Order, Record};

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

/// The bits above tell of frame check sequences.
const LINK_TYPE_MASK: u32 = 0x03ff_ffff;

#[derive(Debug)]
pub(super) struct Pcap {
    order: Order,
    ns_per_fraction: u64,
}

impl Pcap {
    /// Reads the rest of the file's header.
    pub(super) fn open(magic: [u8; 4], input: &mut Input<impl Read>) -> Result<Self, CaptureError> {
        let (order, ns_per_fraction) = [Order::Little, Order::Big]
            .into_iter()
            .find_map(|order| match order.u32(magic) {
                MICROSECONDS => Some((order, 1000)),
                NANOSECONDS => Some((order, 1)),
                _ => None,
            })
            .ok_or(CaptureError::NotACapture { hint: "" })?;
        let major = order.u16(input.array()?);
        let minor = order.u16(input.array()?);
        // Before 2.4 the two lengths of a packet could stand in either order.
        if (major, minor) != (2, 4) {
            return Err(CaptureError::Version {
                format: "pcap",
                major,
                minor,
            });
        }
        let [_zone, _accuracy, _snap_length, link_type] = order.u32s(input)?;
        let link_type = link_type & LINK_TYPE_MASK;
        if link_type != LINKTYPE_ETHERNET {
            return Err(CaptureError::NotEthernet { link_type });
        }
        Ok(Self {
            order,
            ns_per_fraction,
        })
    }

    pub(super) fn next(
        &self,
        input: &mut Input<impl Read>,
    ) -> Result<Option<Record>, CaptureError> {
        let Some(seconds) = input.array_or_end()? else {
            return Ok(None);
        };
        let seconds = u64::from(self.order.u32(seconds));
        let [fraction, length, original_length] = self.order.u32s(input)?;
        let bytes = input.packet(length)?;
        Ok(Some(Record {
            index: input.index,
            timestamp_ns: Some(
                seconds * 1_000_000_000 + u64::from(fraction) * self.ns_per_fraction,
            ),
            link_type: LINKTYPE_ETHERNET,
            bytes,
            original_length,
        }))
    }
}
