//! Reading packets from capture files: pcap (microseconds and nanoseconds) and pcapng.
//!
//! A file comes from anywhere and may be broken: every length in it is checked against a limit
//! before memory is taken, and one packet is held at a time however large the file is. What the
//! packets mean is not decided here.
//!
//! Follows draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.

mod pcap;
mod pcapng;

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use self::pcap::Pcap;
use self::pcapng::PcapNg;

/// The largest packet that a capture holds; libpcap's `MAXIMUM_SNAPLEN`.
pub const PACKET_BYTES_MAX: u32 = 262_144;

const LINKTYPE_ETHERNET: u32 = 1;

/// A packet as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Counts the packets of the file, from 0.
    pub index: u64,
    /// Nanoseconds since 1970; `None` where the file does not tell.
    pub timestamp_ns: Option<u64>,
    /// Always `LINKTYPE_ETHERNET`.
    pub link_type: u32,
    /// The bytes that were captured, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// The packet's length on the wire, which can be more than was captured.
    pub original_length: u32,
}

/// Why a capture, or the rest of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Reading failed.
    #[error("cannot read the capture after byte {offset}")]
    Read {
        /// So many bytes were read.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Neither pcap nor pcapng.
    #[error("not a pcap or pcapng file{hint}")]
    NotACapture {
        /// What it seems to be; may be empty.
        hint: &'static str,
    },
    /// A version of the format that is not known.
    #[error("version {major}.{minor} of the {format} format is not known")]
    Version {
        /// The format's name.
        format: &'static str,
        /// From the file.
        major: u16,
        /// From the file.
        minor: u16,
    },
    /// Packets that do not begin with an Ethernet header.
    #[error("the capture holds {} packets, not Ethernet{}", LinkType(*link_type), hint(*link_type))]
    NotEthernet {
        /// From the file.
        link_type: u32,
    },
    /// The file ends within a record.
    #[error("the capture is cut off at byte {offset}, within packet {index}")]
    Truncated {
        /// The packet that is incomplete, counted from 0.
        index: u64,
        /// Where the file ends.
        offset: u64,
    },
    /// The file contradicts its format.
    #[error("the capture is damaged before byte {offset}, at packet {index}: {what}")]
    Damaged {
        /// The packet that was to come, counted from 0.
        index: u64,
        /// So many bytes were read.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// A link type by its name.
struct LinkType(u32);

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "NULL (BSD loopback)",
            9 => "PPP",
            101 | 12 | 14 => "RAW (bare IP)",
            105 => "IEEE802_11 (wireless)",
            108 => "LOOP (OpenBSD loopback)",
            113 => "LINUX_SLL (cooked)",
            127 => "IEEE802_11_RADIOTAP (wireless)",
            228 => "IPV4 (bare IP)",
            229 => "IPV6 (bare IP)",
            239 => "NFLOG",
            276 => "LINUX_SLL2 (cooked)",
            other => return write!(f, "link type {other}"),
        };
        f.write_str(name)
    }
}

fn hint(link_type: u32) -> &'static str {
    match link_type {
        113 | 276 => "; capture on the interface itself (tcpdump -i eth0) and not on `any`",
        _ => "",
    }
}

/// The packets of a capture, in the order of the file.
///
/// After an error nothing more comes: the packets before it were complete.
#[derive(Debug)]
pub struct CaptureReader<R> {
    input: Input<R>,
    format: Format,
    ended: bool,
}

#[derive(Debug)]
enum Format {
    Pcap(Pcap),
    PcapNg(PcapNg),
}

/// Opens a capture file.
///
/// # Errors
/// When it cannot be read, is no capture, or holds other packets than Ethernet's.
pub fn open(path: &Path) -> Result<CaptureReader<BufReader<File>>, CaptureError> {
    let file = File::open(path).map_err(|source| CaptureError::Open {
        path: path.to_owned(),
        source,
    })?;
    CaptureReader::new(BufReader::new(file))
}

impl<R: Read> CaptureReader<R> {
    /// Begins to read a capture; `input` should be buffered.
    ///
    /// # Errors
    /// When it cannot be read, is no capture, or (pcap) holds other packets than Ethernet's; a
    /// pcapng tells that with each packet.
    pub fn new(input: R) -> Result<Self, CaptureError> {
        let mut input = Input::new(input);
        let mut magic = [0; 4];
        if input.fill(&mut magic)? < magic.len() {
            return Err(CaptureError::NotACapture {
                hint: ": it has less than four bytes",
            });
        }
        let format = match magic {
            pcapng::SECTION_HEADER => Format::PcapNg(PcapNg::open(&mut input)?),
            [0x1f, 0x8b, ..] => {
                return Err(CaptureError::NotACapture {
                    hint: " but one compressed with gzip: run gunzip first",
                });
            }
            [0x28, 0xb5, 0x2f, 0xfd] => {
                return Err(CaptureError::NotACapture {
                    hint: " but one compressed with zstd: run unzstd first",
                });
            }
            _ => Format::Pcap(Pcap::open(magic, &mut input)?),
        };
        Ok(Self {
            input,
            format,
            ended: false,
        })
    }
}

impl<R: Read> Iterator for CaptureReader<R> {
    type Item = Result<Record, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let record = match &mut self.format {
            Format::Pcap(pcap) => pcap.next(&mut self.input),
            Format::PcapNg(pcapng) => pcapng.next(&mut self.input),
        }
        .transpose();
        match &record {
            Some(Ok(_)) => self.input.index += 1,
            Some(Err(_)) | None => self.ended = true,
        }
        record
    }
}

/// The bytes of the file, with the place that errors name.
#[derive(Debug)]
struct Input<R> {
    reader: R,
    /// So many bytes were read.
    offset: u64,
    /// So many packets were read.
    index: u64,
}

impl<R: Read> Input<R> {
    fn new(reader: R) -> Self {
        Self {
            reader,
            offset: 0,
            index: 0,
        }
    }

    /// Fills `buffer` as far as the file goes and tells how far.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, CaptureError> {
        let mut length = 0;
        while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match self.reader.read(rest) {
                Ok(0) => break,
                Ok(count) => {
                    length += count;
                    self.offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.offset;
                    return Err(CaptureError::Read { offset, source });
                }
            }
        }
        Ok(length)
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), CaptureError> {
        if self.fill(buffer)? < buffer.len() {
            return Err(self.truncated());
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CaptureError> {
        let mut array = [0; N];
        self.exact(&mut array)?;
        Ok(array)
    }

    /// The beginning of a record; `None` where the file ends properly.
    fn array_or_end<const N: usize>(&mut self) -> Result<Option<[u8; N]>, CaptureError> {
        let mut array = [0; N];
        match self.fill(&mut array)? {
            0 => Ok(None),
            length if length == N => Ok(Some(array)),
            _ => Err(self.truncated()),
        }
    }

    /// The bytes of a packet.
    fn packet(&mut self, length: u32) -> Result<Vec<u8>, CaptureError> {
        if length > PACKET_BYTES_MAX {
            return Err(self.damaged("a packet that is longer than 262144 bytes"));
        }
        self.bytes(length)
    }

    /// The caller bounds `length`.
    fn bytes(&mut self, length: u32) -> Result<Vec<u8>, CaptureError> {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.exact(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(&mut self, length: u32) -> Result<(), CaptureError> {
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        let mut sink = [0; 4096];
        while left > 0 {
            let piece = left.min(sink.len());
            self.exact(sink.get_mut(..piece).unwrap_or(&mut []))?;
            left -= piece;
        }
        Ok(())
    }

    fn truncated(&self) -> CaptureError {
        CaptureError::Truncated {
            index: self.index,
            offset: self.offset,
        }
    }

    fn damaged(&self, what: &'static str) -> CaptureError {
        CaptureError::Damaged {
            index: self.index,
            offset: self.offset,
            what,
        }
    }
}

/// The byte order of a file or section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    fn i64(self, bytes: [u8; 8]) -> i64 {
        match self {
            Self::Little => i64::from_le_bytes(bytes),
            Self::Big => i64::from_be_bytes(bytes),
        }
    }

    fn u32s<const N: usize>(self, input: &mut Input<impl Read>) -> Result<[u32; N], CaptureError> {
        let mut words = [0; N];
        for word in &mut words {
            *word = self.u32(input.array()?);
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests;
