//! The new format: blocks, of which three kinds hold packets; the others are stepped over.

use std::io::Read;

use super::{CaptureError, Input, LINKTYPE_ETHERNET, Order, Record};

/// Reads the same in both byte orders.
pub(super) const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const OPTION_TIMESTAMP_RESOLUTION: u16 = 9;
const OPTION_TIMESTAMP_OFFSET: u16 = 14;

/// Far more than any host has; keeps the list of them small.
const INTERFACES_MAX: usize = 1024;

/// An interface's block holds a few names and addresses.
const INTERFACE_BYTES_MAX: u32 = 65_536;

/// Type and length in front of a block, and its length again behind it.
const BLOCK_FRAME_BYTES: u32 = 12;

#[derive(Debug)]
pub(super) struct PcapNg {
    order: Order,
    interfaces: Vec<Interface>,
}

#[derive(Debug, Clone, Copy)]
struct Interface {
    link_type: u32,
    snap_length: u32,
    clock: Clock,
}

impl PcapNg {
    /// Reads the first section header, whose type has been read.
    pub(super) fn open(input: &mut Input<impl Read>) -> Result<Self, CaptureError> {
        let mut capture = Self {
            order: Order::Little,
            interfaces: Vec::new(),
        };
        capture.section(input)?;
        Ok(capture)
    }

    pub(super) fn next(
        &mut self,
        input: &mut Input<impl Read>,
    ) -> Result<Option<Record>, CaptureError> {
        while let Some(block_type) = input.array_or_end()? {
            if block_type == SECTION_HEADER {
                self.section(input)?;
                continue;
            }
            let length = self.order.u32(input.array()?);
            let body = body_length(length, input)?;
            let record = match self.order.u32(block_type) {
                INTERFACE_DESCRIPTION => {
                    self.interface(body, input)?;
                    None
                }
                ENHANCED_PACKET => Some(self.packet(body, false, input)?),
                OBSOLETE_PACKET => Some(self.packet(body, true, input)?),
                SIMPLE_PACKET => Some(self.simple_packet(body, input)?),
                _ => {
                    input.skip(body)?;
                    None
                }
            };
            self.block_end(length, input)?;
            if record.is_some() {
                return Ok(record);
            }
        }
        Ok(None)
    }

    /// A section begins: its byte order is its own, and so are its interfaces.
    fn section(&mut self, input: &mut Input<impl Read>) -> Result<(), CaptureError> {
        let length: [u8; 4] = input.array()?;
        let magic: [u8; 4] = input.array()?;
        self.order = [Order::Little, Order::Big]
            .into_iter()
            .find(|order| order.u32(magic) == BYTE_ORDER_MAGIC)
            .ok_or_else(|| input.damaged("a section header without its byte-order mark"))?;
        let major = self.order.u16(input.array()?);
        let minor = self.order.u16(input.array()?);
        if major != 1 {
            return Err(CaptureError::Version {
                format: "pcapng",
                major,
                minor,
            });
        }
        let length = self.order.u32(length);
        // Byte-order mark and version have been read.
        let rest = body_length(length, input)?
            .checked_sub(8)
            .ok_or_else(|| input.damaged("a section header that is too short"))?;
        input.skip(rest)?;
        self.interfaces.clear();
        self.block_end(length, input)
    }

    fn interface(&mut self, body: u32, input: &mut Input<impl Read>) -> Result<(), CaptureError> {
        if !(8..=INTERFACE_BYTES_MAX).contains(&body) {
            return Err(input.damaged("an interface description of impossible length"));
        }
        if self.interfaces.len() == INTERFACES_MAX {
            return Err(input.damaged("more than 1024 interfaces"));
        }
        let link_type = self.order.u16(input.array()?);
        let _reserved: [u8; 2] = input.array()?;
        let snap_length = self.order.u32(input.array()?);
        let options = input.bytes(body - 8)?;
        self.interfaces.push(Interface {
            link_type: u32::from(link_type),
            snap_length,
            clock: Clock::parse(&options, self.order),
        });
        Ok(())
    }

    /// An enhanced packet block, or the older one with a counter of drops.
    fn packet(
        &self,
        body: u32,
        obsolete: bool,
        input: &mut Input<impl Read>,
    ) -> Result<Record, CaptureError> {
        let room = body
            .checked_sub(20)
            .ok_or_else(|| input.damaged("a packet block that is too short"))?;
        let interface = if obsolete {
            let interface = self.order.u16(input.array()?);
            let _drops: [u8; 2] = input.array()?;
            u32::from(interface)
        } else {
            self.order.u32(input.array()?)
        };
        let interface = self.ethernet(interface, input)?;
        let [high, low, length, original_length] = self.order.u32s(input)?;
        let after = room
            .checked_sub(length)
            .ok_or_else(|| input.damaged("a packet that is longer than its block"))?;
        let bytes = input.packet(length)?;
        input.skip(after)?;
        Ok(Record {
            index: input.index,
            timestamp_ns: interface.clock.ns(u64::from(high) << 32 | u64::from(low)),
            link_type: interface.link_type,
            bytes,
            original_length,
        })
    }

    /// A packet of the first interface, without a time and without its captured length.
    fn simple_packet(
        &self,
        body: u32,
        input: &mut Input<impl Read>,
    ) -> Result<Record, CaptureError> {
        let room = body
            .checked_sub(4)
            .ok_or_else(|| input.damaged("a packet block that is too short"))?;
        let interface = self.ethernet(0, input)?;
        let original_length = self.order.u32(input.array()?);
        // A snap length of 0 sets no limit.
        let snap_length = match interface.snap_length {
            0 => u32::MAX,
            limit => limit,
        };
        let length = original_length.min(snap_length);
        let after = room
            .checked_sub(length)
            .ok_or_else(|| input.damaged("a packet that is longer than its block"))?;
        let bytes = input.packet(length)?;
        input.skip(after)?;
        Ok(Record {
            index: input.index,
            timestamp_ns: None,
            link_type: interface.link_type,
            bytes,
            original_length,
        })
    }

    fn ethernet(
        &self,
        interface: u32,
        input: &Input<impl Read>,
    ) -> Result<Interface, CaptureError> {
        let interface = usize::try_from(interface)
            .ok()
            .and_then(|index| self.interfaces.get(index))
            .ok_or_else(|| input.damaged("a packet of an interface that was not described"))?;
        if interface.link_type == LINKTYPE_ETHERNET {
            Ok(*interface)
        } else {
            Err(CaptureError::NotEthernet {
                link_type: interface.link_type,
            })
        }
    }

    fn block_end(&self, length: u32, input: &mut Input<impl Read>) -> Result<(), CaptureError> {
        if self.order.u32(input.array()?) == length {
            Ok(())
        } else {
            Err(input.damaged("the two lengths of a block differ"))
        }
    }
}

fn body_length(length: u32, input: &Input<impl Read>) -> Result<u32, CaptureError> {
    length
        .checked_sub(BLOCK_FRAME_BYTES)
        .filter(|body| body % 4 == 0)
        .ok_or_else(|| input.damaged("a block of impossible length"))
}

/// What an interface's time stamps count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Clock {
    /// A power of ten, or with the highest bit set a power of two, below a second.
    resolution: u8,
    offset_s: i64,
}

impl Clock {
    /// Reads an interface's options; what is cut off or unknown is left alone.
    fn parse(mut options: &[u8], order: Order) -> Self {
        let mut clock = Self {
            resolution: 6,
            offset_s: 0,
        };
        while let Some((&[code_0, code_1, length_0, length_1], rest)) = options.split_first_chunk()
        {
            let length = usize::from(order.u16([length_0, length_1]));
            let Some(value) = rest.get(..length) else {
                break;
            };
            match order.u16([code_0, code_1]) {
                OPTION_TIMESTAMP_RESOLUTION => {
                    if let [resolution] = value {
                        clock.resolution = *resolution;
                    }
                }
                OPTION_TIMESTAMP_OFFSET => {
                    if let Ok(seconds) = value.try_into() {
                        clock.offset_s = order.i64(seconds);
                    }
                }
                _ => {}
            }
            options = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        clock
    }

    /// Nanoseconds since 1970; `None` when that is not between 1970 and 2554.
    fn ns(self, ticks: u64) -> Option<u64> {
        let ticks = i128::from(ticks);
        let exponent = u32::from(self.resolution & 0x7f);
        let ns = if self.resolution & 0x80 == 0 {
            match exponent.checked_sub(9) {
                None | Some(0) => ticks * 10_i128.pow(9 - exponent),
                // Below a nanosecond; 10^39 is more than any number of ticks.
                Some(finer) => 10_i128.checked_pow(finer).map_or(0, |unit| ticks / unit),
            }
        } else {
            (ticks * 1_000_000_000).checked_shr(exponent).unwrap_or(0)
        };
        u64::try_from(ns + i128::from(self.offset_s) * 1_000_000_000).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, Order};

    #[test]
    fn time_stamps_of_every_resolution_become_nanoseconds() {
        let ns = |resolution, ticks| {
            Clock {
                resolution,
                offset_s: 0,
            }
            .ns(ticks)
        };
        assert_eq!(ns(0, 3), Some(3_000_000_000));
        assert_eq!(ns(3, 3), Some(3_000_000));
        assert_eq!(ns(6, 3), Some(3_000));
        assert_eq!(ns(9, 3), Some(3));
        assert_eq!(ns(12, 3_999), Some(3));
        assert_eq!(ns(127, u64::MAX), Some(0));
        assert_eq!(ns(0x80, 3), Some(3_000_000_000));
        assert_eq!(ns(0x80 | 10, 512), Some(500_000_000));
        assert_eq!(ns(0xff, u64::MAX), Some(0));
        assert_eq!(ns(0, u64::MAX), None);
        let early = Clock {
            resolution: 9,
            offset_s: -1,
        };
        assert_eq!(early.ns(0), None);
        assert_eq!(early.ns(1_000_000_005), Some(5));
        assert_eq!(
            Clock {
                resolution: 9,
                offset_s: i64::MAX
            }
            .ns(u64::MAX),
            None
        );
    }

    #[test]
    fn options_are_found_in_both_byte_orders_and_broken_ones_are_left_alone() {
        let little = [
            2, 0, 5, 0, b'e', b't', b'h', b'0', b'!', 0, 0, 0, // if_name, padded
            9, 0, 1, 0, 9, 0, 0, 0, // nanoseconds
            14, 0, 8, 0, 2, 0, 0, 0, 0, 0, 0, 0, // two seconds
            0, 0, 0, 0,
        ];
        let expected = Clock {
            resolution: 9,
            offset_s: 2,
        };
        assert_eq!(Clock::parse(&little, Order::Little), expected);
        let big = [0, 9, 0, 1, 9, 0, 0, 0, 0, 14, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2];
        assert_eq!(Clock::parse(&big, Order::Big), expected);
        let default = Clock {
            resolution: 6,
            offset_s: 0,
        };
        for broken in [
            &[][..],
            &[9, 0],
            &[9, 0, 1, 0],
            &[9, 0, 255, 255, 9],
            &[9, 0, 2, 0, 9, 9, 0, 0],
            &[14, 0, 4, 0, 1, 1, 1, 1],
        ] {
            assert_eq!(Clock::parse(broken, Order::Little), default, "{broken:?}");
        }
    }
}
