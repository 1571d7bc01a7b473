use std::collections::HashMap;

use super::*;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

fn read(bytes: &[u8]) -> (Vec<Record>, Option<CaptureError>) {
    let mut records = Vec::new();
    match CaptureReader::new(bytes) {
        Err(error) => return (records, Some(error)),
        Ok(reader) => {
            for record in reader {
                match record {
                    Ok(record) => records.push(record),
                    Err(error) => return (records, Some(error)),
                }
            }
        }
    }
    (records, None)
}

fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap()
}

/// Writes captures of either byte order.
struct Writer {
    order: Order,
    bytes: Vec<u8>,
}

impl Writer {
    fn new(order: Order) -> Self {
        Self {
            order,
            bytes: Vec::new(),
        }
    }

    fn u16(mut self, value: u16) -> Self {
        self.bytes.extend(match self.order {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        });
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.bytes.extend(match self.order {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        });
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn pcap(order: Order, magic: u32, link_type: u32) -> Self {
        Self::new(order)
            .u32(magic)
            .u16(2)
            .u16(4)
            .u32(0)
            .u32(0)
            .u32(65_535)
            .u32(link_type)
    }

    fn pcap_packet(self, seconds: u32, fraction: u32, bytes: &[u8], original: u32) -> Self {
        self.u32(seconds)
            .u32(fraction)
            .u32(len32(bytes))
            .u32(original)
            .raw(bytes)
    }

    fn block(self, block_type: u32, body: impl FnOnce(Self) -> Self) -> Self {
        let mut body = body(Self::new(self.order)).bytes;
        body.resize(body.len().next_multiple_of(4), 0);
        let length = len32(&body) + 12;
        self.u32(block_type).u32(length).raw(&body).u32(length)
    }

    fn section(self) -> Self {
        self.block(0x0a0d_0d0a, |body| {
            // Option shb_userappl, so that there is something to step over.
            body.u32(0x1a2b_3c4d)
                .u16(1)
                .u16(0)
                .u32(u32::MAX)
                .u32(u32::MAX)
                .u16(4)
                .u16(4)
                .raw(b"test")
                .u32(0)
        })
    }

    fn interface(self, link_type: u16, snap_length: u32, resolution: Option<u8>) -> Self {
        self.block(1, |body| {
            let body = body.u16(link_type).u16(0).u32(snap_length);
            match resolution {
                None => body,
                Some(unit) => body.u16(9).u16(1).raw(&[unit, 0, 0, 0]).u32(0),
            }
        })
    }

    fn enhanced(self, interface: u32, ticks: u64, bytes: &[u8]) -> Self {
        self.block(6, |body| {
            let mut body = body
                .u32(interface)
                .u32(u32::try_from(ticks >> 32).unwrap())
                .u32(u32::try_from(ticks & 0xffff_ffff).unwrap())
                .u32(len32(bytes))
                .u32(len32(bytes) + 1)
                .raw(bytes);
            body.bytes.resize(body.bytes.len().next_multiple_of(4), 0);
            // Option epb_flags.
            body.u16(2).u16(4).u32(1).u32(0)
        })
    }
}

const ORDERS: [Order; 2] = [Order::Little, Order::Big];

#[test]
fn every_recorded_capture_is_read_whole() {
    let mut files = 0;
    for entry in std::fs::read_dir(vectors()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "pcap") {
            continue;
        }
        files += 1;
        // All of them are little-endian with microseconds: the lengths can be walked by hand.
        let content = std::fs::read(&path).unwrap();
        let mut rest = &content[24..];
        let mut expected = Vec::new();
        while !rest.is_empty() {
            let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            let length = word(8) as usize;
            expected.push(Record {
                index: expected.len() as u64,
                timestamp_ns: Some(u64::from(word(0)) * 1_000_000_000 + u64::from(word(4)) * 1000),
                link_type: 1,
                bytes: rest[16..16 + length].to_vec(),
                original_length: word(12),
            });
            rest = &rest[16 + length..];
        }
        let records: Vec<Record> = open(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(records, expected, "{}", path.display());
        assert!(!records.is_empty(), "{}", path.display());
    }
    assert_eq!(files, 13);
}

#[test]
fn the_recorded_captures_hold_the_frames_of_the_vectors() {
    let text = std::fs::read_to_string(vectors().join("adverts.json")).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut frames: HashMap<String, Vec<String>> = HashMap::new();
    let mut compared = 0;
    for vector in document["vectors"].as_array().unwrap() {
        let Some(pcap) = vector["pcap"].as_str() else {
            continue;
        };
        let in_file = frames.entry(pcap.to_owned()).or_insert_with(|| {
            let path = vectors().join(Path::new(pcap).file_name().unwrap());
            open(&path)
                .unwrap()
                .map(|record| {
                    record
                        .unwrap()
                        .bytes
                        .iter()
                        .map(|byte| format!("{byte:02x}"))
                        .collect()
                })
                .collect()
        });
        // The vectors count the packets of a file from 1.
        let at = usize::try_from(vector["packet"].as_u64().unwrap()).unwrap() - 1;
        assert_eq!(
            in_file[at],
            vector["frame"].as_str().unwrap(),
            "{}",
            vector["name"]
        );
        compared += 1;
    }
    assert_eq!(compared, 133);
}

#[test]
fn pcap_of_both_orders_and_both_resolutions() {
    for order in ORDERS {
        for (magic, fraction_ns) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
            // A frame check sequence is announced above the link type.
            let file = Writer::pcap(order, magic, 0x2400_0001)
                .pcap_packet(1, 7, b"first", 5)
                .pcap_packet(u32::MAX, 999, b"", 1500)
                .bytes;
            let (records, error) = read(&file);
            assert!(error.is_none(), "{error:?}");
            assert_eq!(records.len(), 2);
            assert_eq!(records[0].bytes, b"first");
            assert_eq!(
                records[0].timestamp_ns,
                Some(1_000_000_000 + 7 * fraction_ns)
            );
            assert_eq!((records[0].index, records[1].index), (0, 1));
            assert_eq!(
                (records[1].bytes.len(), records[1].original_length),
                (0, 1500)
            );
        }
    }
}

#[test]
fn pcapng_of_both_orders_with_all_kinds_of_packets() {
    for order in ORDERS {
        let file = Writer::new(order)
            .section()
            .block(0x0bad, |body| body.raw(&[1; 9000]))
            .interface(1, 6, None)
            .interface(1, 0, Some(9))
            .enhanced(0, 0x1_0000_0002, b"micro")
            .block(4, |body| body.raw(&[0; 4]))
            .enhanced(1, 0x1_0000_0002, b"nano")
            .block(3, |body| body.u32(9).raw(b"simple")) // cut by the snap length
            .block(2, |body| {
                body.u16(1).u16(0).u32(0).u32(5).u32(3).u32(3).raw(b"old")
            })
            .block(5, |body| body.u32(0).u32(0).u32(0))
            .bytes;
        let (records, error) = read(&file);
        assert!(error.is_none(), "{error:?}");
        let seen: Vec<_> = records
            .iter()
            .map(|record| {
                (
                    record.index,
                    record.timestamp_ns,
                    &record.bytes[..],
                    record.original_length,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                (0, Some(0x1_0000_0002 * 1000), &b"micro"[..], 6),
                (1, Some(0x1_0000_0002), b"nano", 5),
                (2, None, b"simple", 9),
                (3, Some(5), b"old", 3),
            ]
        );
    }
}

#[test]
fn a_second_section_may_have_the_other_byte_order_and_has_its_own_interfaces() {
    let mut file = Writer::new(Order::Little)
        .section()
        .interface(1, 0, None)
        .enhanced(0, 1, b"one")
        .bytes;
    file.extend(
        Writer::new(Order::Big)
            .section()
            .interface(1, 0, Some(0))
            .enhanced(0, 1, b"two")
            .bytes,
    );
    let (records, error) = read(&file);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(records[0].timestamp_ns, Some(1000));
    assert_eq!(records[1].timestamp_ns, Some(1_000_000_000));

    let mut file = Writer::new(Order::Little)
        .section()
        .interface(1, 0, None)
        .bytes;
    file.extend(
        Writer::new(Order::Big)
            .section()
            .enhanced(0, 1, b"two")
            .bytes,
    );
    let (records, error) = read(&file);
    assert!(records.is_empty());
    assert!(
        error
            .unwrap()
            .to_string()
            .contains("interface that was not described")
    );
}

#[test]
fn other_link_types_are_named() {
    for (link_type, pieces) in [
        (113, ["LINUX_SLL", "not on `any`"]),
        (276, ["LINUX_SLL2", "tcpdump -i eth0"]),
        (101, ["RAW", "not Ethernet"]),
        (9999, ["link type 9999", "not Ethernet"]),
    ] {
        let file = Writer::pcap(Order::Little, 0xa1b2_c3d4, link_type).bytes;
        let (_, error) = read(&file);
        let text = error.unwrap().to_string();
        assert!(pieces.iter().all(|piece| text.contains(piece)), "{text}");
    }
    let file = Writer::new(Order::Little)
        .section()
        .interface(1, 0, None)
        .interface(113, 0, None)
        .enhanced(0, 1, b"good")
        .enhanced(1, 1, b"cooked")
        .enhanced(0, 1, b"never reached")
        .bytes;
    let (records, error) = read(&file);
    assert_eq!(records.len(), 1);
    assert!(error.unwrap().to_string().contains("LINUX_SLL"));
}

#[test]
fn a_file_that_is_cut_anywhere_yields_what_is_complete_and_says_where_it_ends() {
    let pcap = Writer::pcap(Order::Little, 0xa1b2_c3d4, 1)
        .pcap_packet(1, 0, b"first", 5)
        .pcap_packet(2, 0, b"second", 6)
        .bytes;
    let pcap_ends = [24, 24 + 21, 24 + 21 + 22];
    let ng = Writer::new(Order::Big).section().interface(1, 0, None);
    let ng_head = [ng.bytes.len() - 20, ng.bytes.len()];
    let ng = ng.enhanced(0, 1, b"first");
    let ng_first = ng.bytes.len();
    let ng = ng.enhanced(0, 2, b"second").bytes;
    let ng_ends = [ng_head[0], ng_head[1], ng_first, ng.len()];
    for (file, ends) in [(&pcap, &pcap_ends[..]), (&ng, &ng_ends[..])] {
        for cut in 0..=file.len() {
            let (records, error) = read(&file[..cut]);
            let complete = ends.iter().rev().take(2).filter(|end| cut >= **end).count();
            assert_eq!(records.len(), complete, "cut at {cut}");
            match error {
                None => assert!(ends.contains(&cut), "cut at {cut} was not noticed"),
                Some(CaptureError::NotACapture { .. }) => assert!(cut < 4),
                Some(CaptureError::Truncated { index, offset }) => {
                    assert_eq!((index, offset), (complete as u64, cut as u64));
                }
                Some(other) => panic!("cut at {cut}: {other}"),
            }
        }
    }
}

#[test]
fn what_is_no_capture_is_refused() {
    for (content, piece) in [
        (&b""[..], "less than four bytes"),
        (b"abc", "less than four bytes"),
        (b"#!/bin/sh\n", "not a pcap or pcapng file"),
        (b"\x1f\x8b\x08\x00", "gunzip"),
        (b"\x28\xb5\x2f\xfd\x00", "unzstd"),
        (
            b"\x34\xcd\xb2\xa1\x02\x00\x04\x00",
            "not a pcap or pcapng file",
        ),
        (b"\x0a\x0d\x0d\x0a\x1c\x00\x00\x00nope", "byte-order mark"),
        (
            b"\xd4\xc3\xb2\xa1\x02\x00\x03\x00",
            "version 2.3 of the pcap format",
        ),
        (
            b"\x0a\x0d\x0d\x0a\x1c\x00\x00\x00\x4d\x3c\x2b\x1a\x02\x00\x00\x00",
            "version 2.0 of the pcapng",
        ),
    ] {
        let (_, error) = read(content);
        let text = error.unwrap().to_string();
        assert!(text.contains(piece), "{content:?}: {text}");
    }
    let error = open(Path::new("/nonexistent.pcap")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent.pcap"), "{error}");
}

#[test]
fn impossible_lengths_end_the_reading_and_take_no_memory() {
    let ng = || Writer::new(Order::Little).section().interface(1, 0, None);
    let raw_block =
        |block_type: u32, length: u32| ng().u32(block_type).u32(length).raw(&[0; 64]).bytes;
    let long_packet = |block_type: u32, head: &[u32]| {
        let mut writer = ng().u32(block_type).u32(0xffff_fff0);
        for word in head {
            writer = writer.u32(*word);
        }
        writer.raw(&[0; 64]).bytes
    };
    for (file, piece) in [
        (raw_block(7, 8), "a block of impossible length"),
        (raw_block(7, 13), "a block of impossible length"),
        (raw_block(6, 28), "too short"),
        (raw_block(3, 12), "too short"),
        (raw_block(1, 16), "impossible length"),
        (raw_block(1, 0xffff_fff0), "impossible length"),
        (raw_block(7, 0xffff_fff0), "cut off"),
        (raw_block(7, 32), "lengths of a block differ"),
        (
            long_packet(6, &[0, 0, 0, 0xffff_ff00, 0]),
            "longer than 262144",
        ),
        (
            long_packet(6, &[0, 0, 0, 0xffff_ffff, 0]),
            "longer than its block",
        ),
        (long_packet(3, &[0xffff_ff00]), "longer than 262144"),
        (
            Writer::pcap(Order::Big, 0xa1b2_c3d4, 1)
                .u32(0)
                .u32(0)
                .u32(262_145)
                .u32(0)
                .bytes,
            "longer than 262144",
        ),
        (
            (0..1024)
                .fold(ng(), |writer, _| writer.interface(1, 0, None))
                .bytes,
            "more than 1024 interfaces",
        ),
    ] {
        let (records, error) = read(&file);
        assert!(records.is_empty());
        let text = error.unwrap().to_string();
        assert!(text.contains(piece), "{text}");
    }
}

#[test]
fn a_damaged_file_never_panics_and_always_ends() {
    let pcap = Writer::pcap(Order::Little, 0xa1b2_c3d4, 1)
        .pcap_packet(1, 0, b"first", 5)
        .pcap_packet(2, 0, b"second", 6)
        .bytes;
    let ng = Writer::new(Order::Little)
        .section()
        .interface(1, 0, Some(9))
        .enhanced(0, 1, b"first")
        .block(3, |body| body.u32(4).raw(b"abcd"))
        .bytes;
    for file in [pcap, ng] {
        for at in 0..file.len() {
            for bits in [0x01, 0x80, 0xff] {
                let mut damaged = file.clone();
                damaged[at] ^= bits;
                let (records, _) = read(&damaged);
                assert!(records.len() <= 2);
            }
        }
    }
}

#[test]
fn after_an_error_nothing_more_comes() {
    let mut file = Writer::pcap(Order::Little, 0xa1b2_c3d4, 1)
        .pcap_packet(1, 0, b"first", 5)
        .bytes;
    file.extend([1, 2, 3]);
    let mut reader = CaptureReader::new(&file[..]).unwrap();
    assert!(matches!(reader.next(), Some(Ok(_))));
    assert!(matches!(
        reader.next(),
        Some(Err(CaptureError::Truncated { index: 1, .. }))
    ));
    assert!(reader.next().is_none());
}

#[test]
fn short_reads_and_failures_of_the_reader_are_handled() {
    struct Slow<'b>(&'b [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::Error::other("the disk is gone"));
            }
            let piece = buffer.len().min(1);
            self.0.read(&mut buffer[..piece])
        }
    }
    let file = Writer::new(Order::Big)
        .section()
        .interface(1, 0, None)
        .enhanced(0, 1, b"first")
        .bytes;
    let mut reader = CaptureReader::new(Slow(&file)).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().bytes, b"first");
    let error = reader.next().unwrap().unwrap_err();
    assert!(matches!(error, CaptureError::Read { .. }), "{error:?}");
}
