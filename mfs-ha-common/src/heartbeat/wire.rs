//! Heartbeats as bytes: big endian, fixed size, no padding.

use core::time::Duration;

use super::{Ballot, Echo, Flags, Grant, Heartbeat, Stamp};
use crate::cluster::{Membership, NodeId, Role, Timing};
use crate::freshness::{Freshness, Metadata};
use crate::priority::Priority;
use crate::promotion::Phase;
use crate::time::Timestamp;

/// UDP port, source and destination.
pub const PORT: u16 = 9429;
/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"mfHA";
/// The format that is described here. A change of the bytes is a new one.
pub const VERSION: u8 = 1;
/// The fifth byte after the magic: the only kind there is.
pub const KIND_HEARTBEAT: u8 = 1;
/// Bytes that the tag covers.
pub const BODY_LEN: usize = 152;
/// Offset of the phase in the body.
pub const PHASE_AT: usize = 73;
/// The phase of a node that serves.
pub const PHASE_ACTIVE: u8 = 3;
/// Offset of the flags in the body.
pub const FLAGS_AT: usize = 74;
/// Offset of the lease epoch that the sender asks for or holds.
pub const REQUEST_AT: usize = 88;
/// Bytes of the tag.
pub const TAG_LEN: usize = 16;
/// Bytes of a whole datagram.
pub const DATAGRAM_LEN: usize = BODY_LEN + TAG_LEN;

/// Why a body is no heartbeat, although it has the right length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatError {
    /// Other first bytes.
    Magic,
    /// Another version.
    Version(u8),
    /// Another kind.
    Kind(u8),
    /// Sender or receiver 0.
    Node,
    /// A role that is not known.
    Role(u8),
    /// A phase that is not known.
    Phase(u8),
    /// Bits without a meaning.
    Flags(u16),
    /// Reserved bytes that are not zero.
    Reserved,
}

impl core::fmt::Display for HeartbeatError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Magic => f.write_str("not a heartbeat: other first bytes"),
            Self::Version(version) => write!(f, "heartbeat of version {version}, not {VERSION}"),
            Self::Kind(kind) => write!(f, "kind {kind} is not known"),
            Self::Node => f.write_str("sender or receiver is 0"),
            Self::Role(role) => write!(f, "role {role} is not known"),
            Self::Phase(phase) => write!(f, "phase {phase} is not known"),
            Self::Flags(flags) => write!(f, "flags {flags:#06x} are not known"),
            Self::Reserved => f.write_str("reserved bytes are not zero"),
        }
    }
}

impl core::error::Error for HeartbeatError {}

/// Reads fields one after the other. The sum of the widths is checked by a test.
struct Reader<'a> {
    bytes: &'a [u8; BODY_LEN],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let end = self.at.saturating_add(N);
        let field = self
            .bytes
            .get(self.at..end)
            .and_then(|field| field.try_into().ok());
        self.at = end;
        field.unwrap_or([0; N])
    }

    fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.take())
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    fn stamp(&mut self) -> Stamp {
        Stamp {
            boot: self.u64(),
            sequence: self.u64(),
        }
    }

    fn metadata(&mut self) -> Metadata {
        Metadata {
            id: self.u64(),
            freshness: Freshness {
                epoch: self.u64(),
                version: self.u64(),
            },
        }
    }
}

/// Writes fields one after the other.
struct Writer {
    bytes: [u8; BODY_LEN],
    at: usize,
}

impl Writer {
    fn put(&mut self, field: &[u8]) {
        let end = self.at.saturating_add(field.len());
        if let Some(free) = self.bytes.get_mut(self.at..end) {
            free.copy_from_slice(field);
        }
        self.at = end;
    }

    fn stamp(&mut self, stamp: Stamp) {
        self.put(&stamp.boot.to_be_bytes());
        self.put(&stamp.sequence.to_be_bytes());
    }
}

/// Whole milliseconds, at most what two bytes hold. The configuration allows less.
fn millis(time: Duration) -> u16 {
    u16::try_from(time.as_millis()).unwrap_or(u16::MAX)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Heartbeat {
    /// Reads a body. It says nothing about who wrote it: the tag does.
    ///
    /// # Errors
    /// Bytes that no sender of this version writes.
    pub fn parse(bytes: &[u8; BODY_LEN]) -> Result<Self, HeartbeatError> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take() != MAGIC {
            return Err(HeartbeatError::Magic);
        }
        let version = reader.u8();
        if version != VERSION {
            return Err(HeartbeatError::Version(version));
        }
        let kind = reader.u8();
        if kind != KIND_HEARTBEAT {
            return Err(HeartbeatError::Kind(kind));
        }
        let sender = NodeId::new(reader.u8()).ok_or(HeartbeatError::Node)?;
        let receiver = NodeId::new(reader.u8()).ok_or(HeartbeatError::Node)?;
        let cluster = reader.u64();
        let stamp = reader.stamp();
        let sent_at = Timestamp::from_nanos(reader.u64());
        let echo = Echo {
            stamp: reader.stamp(),
            held: Duration::from_nanos(reader.u64()),
        };
        let membership = Membership {
            generation: reader.u32(),
            digest: reader.u32(),
        };
        let role = role(reader.u8())?;
        let phase = phase(reader.u8())?;
        let flags = reader.u16();
        if flags & !Flags::KNOWN != 0 {
            return Err(HeartbeatError::Flags(flags));
        }
        let priority = Priority::new(reader.u8(), reader.u8());
        let heard = reader.u8();
        let holder = reader.u8();
        let lease = Duration::from_millis(reader.u16().into());
        let interval = Duration::from_millis(reader.u16().into());
        let candidate = reader.u8();
        let granted_to = reader.u8();
        if reader.take::<2>() != [0; 2] {
            return Err(HeartbeatError::Reserved);
        }
        Ok(Self {
            cluster,
            sender,
            receiver,
            stamp,
            sent_at,
            echo,
            membership,
            timing: Timing { interval, lease },
            role,
            phase,
            flags: Flags(flags),
            priority,
            heard,
            holder,
            request: reader.u64(),
            grant: Grant {
                ballot: Ballot {
                    epoch: reader.u64(),
                    candidate,
                },
                request: reader.stamp(),
            },
            epoch: reader.u64(),
            granted_to,
            metadata: reader.metadata(),
        })
    }

    /// Writes a body.
    #[must_use]
    pub fn emit(&self) -> [u8; BODY_LEN] {
        let mut writer = Writer {
            bytes: [0; BODY_LEN],
            at: 0,
        };
        writer.put(&MAGIC);
        writer.put(&[
            VERSION,
            KIND_HEARTBEAT,
            self.sender.get(),
            self.receiver.get(),
        ]);
        writer.put(&self.cluster.to_be_bytes());
        writer.stamp(self.stamp);
        writer.put(&self.sent_at.as_nanos().to_be_bytes());
        writer.stamp(self.echo.stamp);
        writer.put(&nanos(self.echo.held).to_be_bytes());
        writer.put(&self.membership.generation.to_be_bytes());
        writer.put(&self.membership.digest.to_be_bytes());
        writer.put(&[role_code(self.role), phase_code(self.phase)]);
        writer.put(&self.flags.to_wire());
        writer.put(&[
            self.priority.advbase(),
            self.priority.advskew(),
            self.heard,
            self.holder,
        ]);
        writer.put(&millis(self.timing.lease).to_be_bytes());
        writer.put(&millis(self.timing.interval).to_be_bytes());
        writer.put(&[self.grant.ballot.candidate, self.granted_to, 0, 0]);
        writer.put(&self.request.to_be_bytes());
        writer.put(&self.grant.ballot.epoch.to_be_bytes());
        writer.stamp(self.grant.request);
        writer.put(&self.epoch.to_be_bytes());
        writer.put(&self.metadata.id.to_be_bytes());
        writer.put(&self.metadata.freshness.epoch.to_be_bytes());
        writer.put(&self.metadata.freshness.version.to_be_bytes());
        writer.bytes
    }
}

const fn role_code(role: Role) -> u8 {
    match role {
        Role::Candidate => 1,
        Role::Witness => 2,
    }
}

const fn role(code: u8) -> Result<Role, HeartbeatError> {
    match code {
        1 => Ok(Role::Candidate),
        2 => Ok(Role::Witness),
        _ => Err(HeartbeatError::Role(code)),
    }
}

const fn phase_code(phase: Phase) -> u8 {
    match phase {
        Phase::Standby => 1,
        Phase::Promoting => 2,
        Phase::Active => PHASE_ACTIVE,
        Phase::Resigning => 4,
        Phase::Stuck => 5,
    }
}

const fn phase(code: u8) -> Result<Phase, HeartbeatError> {
    match code {
        1 => Ok(Phase::Standby),
        2 => Ok(Phase::Promoting),
        PHASE_ACTIVE => Ok(Phase::Active),
        4 => Ok(Phase::Resigning),
        5 => Ok(Phase::Stuck),
        _ => Err(HeartbeatError::Phase(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Heartbeat {
        Heartbeat {
            cluster: 0x0102_0304_0506_0708,
            sender: NodeId::new(1).unwrap(),
            receiver: NodeId::new(2).unwrap(),
            stamp: Stamp {
                boot: 0x11,
                sequence: 0x1213,
            },
            sent_at: Timestamp::from_nanos(0x1415_1617),
            echo: Echo {
                stamp: Stamp {
                    boot: 0x21,
                    sequence: 0x2223,
                },
                held: Duration::from_nanos(0x2425),
            },
            membership: Membership {
                generation: 0x31,
                digest: 0x3233_3435,
            },
            timing: Timing::DEFAULT,
            role: Role::Candidate,
            phase: Phase::Active,
            flags: Flags::READY.with(Flags::HELD, true),
            priority: Priority::new(1, 50),
            heard: 3,
            holder: 1,
            request: 0x41,
            grant: Grant {
                ballot: Ballot {
                    epoch: 0x51,
                    candidate: 1,
                },
                request: Stamp {
                    boot: 0x52,
                    sequence: 0x5354,
                },
            },
            epoch: 0x61,
            granted_to: 4,
            metadata: Metadata {
                id: 0x71,
                freshness: Freshness {
                    epoch: 0x72,
                    version: 0x7374,
                },
            },
        }
    }

    const BYTES: &str = "6d66484101010102 0102030405060708 0000000000000011 0000000000001213 \
        0000000014151617 0000000000000021 0000000000002223 0000000000002425 \
        00000031 32333435 0103 0005 0132 0301 012c 0032 01040000 \
        0000000000000041 0000000000000051 0000000000000052 0000000000005354 \
        0000000000000061 0000000000000071 0000000000000072 0000000000007374";

    fn bytes() -> [u8; BODY_LEN] {
        let digits: std::string::String = BYTES.split_whitespace().collect();
        let bytes: std::vec::Vec<u8> = (0..digits.len() / 2)
            .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        bytes.try_into().unwrap()
    }

    #[test]
    fn a_body_is_written_as_documented() {
        assert_eq!(example().emit(), bytes());
    }

    #[test]
    fn a_body_is_read_as_documented() {
        assert_eq!(Heartbeat::parse(&bytes()), Ok(example()));
    }

    #[test]
    fn what_the_kernel_reads_by_itself_lies_where_it_looks() {
        let bytes = bytes();
        assert_eq!(bytes[PHASE_AT], PHASE_ACTIVE);
        let flags = example().flags.to_wire();
        assert_eq!(bytes[FLAGS_AT..FLAGS_AT + 2], flags);
        let request = example().request.to_be_bytes();
        assert_eq!(bytes[REQUEST_AT..REQUEST_AT + 8], request);
    }

    #[test]
    fn what_no_sender_writes_is_refused_by_name() {
        let with = |at: usize, byte: u8| {
            let mut changed = bytes();
            changed[at] = byte;
            Heartbeat::parse(&changed).unwrap_err()
        };
        assert_eq!(with(0, b'M'), HeartbeatError::Magic);
        assert_eq!(with(4, 2), HeartbeatError::Version(2));
        assert_eq!(with(5, 9), HeartbeatError::Kind(9));
        assert_eq!(with(6, 0), HeartbeatError::Node);
        assert_eq!(with(7, 0), HeartbeatError::Node);
        assert_eq!(with(72, 3), HeartbeatError::Role(3));
        assert_eq!(with(73, 0), HeartbeatError::Phase(0));
        assert_eq!(with(74, 0x80), HeartbeatError::Flags(0x8005));
        assert_eq!(with(86, 1), HeartbeatError::Reserved);
    }

    #[test]
    fn every_byte_has_a_meaning() {
        // Whatever is changed is noticed: it is another heartbeat, or none.
        for at in 0..BODY_LEN {
            let mut changed = bytes();
            changed[at] ^= 0x40;
            assert_ne!(Heartbeat::parse(&changed), Ok(example()), "byte {at}");
        }
    }

    #[test]
    fn times_that_do_not_fit_are_cut() {
        let heartbeat = Heartbeat {
            timing: Timing {
                interval: Duration::from_secs(100),
                lease: Duration::MAX,
            },
            ..example()
        };
        let read = Heartbeat::parse(&heartbeat.emit()).unwrap();
        assert_eq!(read.timing.lease, Duration::from_millis(65_535));
    }
}
