//! Files for `decode`: those that hold adverts, and those that hold something else or end too early.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use mfs_ha_lab::net::topology::{Node, Topology};
use mfs_ha_lab::serial;
use mfs_ha_lab::software::mfsha::{Outcome, number_at, text_at};
use serde_json::Value;

use super::bench::{FAILURE, OK, USAGE, command, complains, nothing_left};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors");
/// Four adverts of vhid 1 for 10.77.0.100 with the password "secret".
const CAPTURE: &str = "01_single_short.pcap";
const FRAMES: usize = 4;
const FILE_HEADER_LENGTH: usize = 24;
const RECORD_HEADER_LENGTH: usize = 16;
const ETHERNET: u32 = 1;
const LINUX_SLL: u32 = 113;

fn vector(name: &str) -> PathBuf {
    Path::new(VECTORS).join(name)
}

fn password_file(topology: &Topology, name: &str, password: &str, mode: u32) -> String {
    let path = topology.directory().join(name);
    mfs_ha_lab::software::write_file(&path, mode, &format!("{password}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The packets of a pcap file of this machine's byte order, with their times.
fn packets(capture: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut rest = &capture[FILE_HEADER_LENGTH..];
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[8..12].try_into().unwrap());
        let end = RECORD_HEADER_LENGTH + usize::try_from(length).unwrap();
        packets.push(rest[RECORD_HEADER_LENGTH..end].to_vec());
        rest = &rest[end..];
    }
    packets
}

fn pcap(link_type: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    file.extend([2, 0, 4, 0]);
    for word in [0, 0, 65535, link_type] {
        file.extend(word.to_le_bytes());
    }
    for packet in packets {
        let length = u32::try_from(packet.len()).unwrap();
        for word in [1_u32, 0, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(packet);
    }
    file
}

fn pcapng(packets: &[Vec<u8>]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let body_length = body.len().next_multiple_of(4);
        let length = u32::try_from(body_length + 12).unwrap().to_le_bytes();
        let mut block = kind.to_le_bytes().to_vec();
        block.extend(length);
        block.extend(body);
        block.resize(8 + body_length, 0);
        block.extend(length);
        block
    };
    let mut section = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
    section.extend([1, 0, 0, 0]);
    section.extend([0xff; 8]);
    let mut file = block(0x0a0d_0d0a, &section);
    file.extend(block(1, &[1, 0, 0, 0, 0, 0, 4, 0]));
    for packet in packets {
        let length = u32::try_from(packet.len()).unwrap();
        let mut body = Vec::new();
        for word in [0, 0, 1, length, length] {
            body.extend(word.to_le_bytes());
        }
        body.extend(packet);
        file.extend(block(6, &body));
    }
    file
}

/// The objects that were printed, one a line.
fn objects(outcome: &Outcome) -> Vec<Value> {
    outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn verdicts(outcome: &Outcome) -> Vec<String> {
    objects(outcome)
        .iter()
        .map(|object| {
            let [verdict, reason] = ["/verdict", "/reason"].map(|at| text_at(object, at).unwrap());
            format!("{verdict} {reason}")
        })
        .collect()
}

/// The settings of `decode` that an advert was made with: of one capture not all adverts share them.
fn settings(advert: &Value) -> [String; 5] {
    let text = |at| text_at(advert, at).unwrap();
    [
        text("/pcap"),
        number_at(advert, "/vhid").unwrap().to_string(),
        text("/password"),
        text("/vips/0"),
        text("/mcast_group"),
    ]
}

#[test]
fn every_captured_advert_is_accepted() {
    let _serial = serial();
    let topology = Topology::new(1).unwrap();
    let node = topology.node(1).unwrap();
    let vectors = fs::read(vector("adverts.json")).unwrap();
    let vectors: Value = serde_json::from_slice(&vectors).unwrap();
    let mut runs: BTreeMap<[String; 5], Vec<&Value>> = BTreeMap::new();
    for vector in vectors["vectors"].as_array().unwrap() {
        if vector.get("pcap").is_some() {
            runs.entry(settings(vector)).or_default().push(vector);
        }
    }
    let captures: BTreeSet<&String> = runs.keys().map(|[capture, ..]| capture).collect();
    assert_eq!(captures.len(), 13);
    for ([capture, vhid, password, vip, group], adverts) in &runs {
        let password = password_file(&topology, "password", password, 0o600);
        let path = vector(capture);
        let mut words = vec!["decode", path.to_str().unwrap(), "--json", "--vhid", vhid];
        words.extend(["--password-file", &password]);
        words.extend(["--vip", vip, "--mcast-ip", group]);
        let decoded = command(node, &words);
        assert_eq!(decoded.code, Some(OK), "{capture}: {decoded:?}");
        assert_eq!(decoded.stderr, "", "{capture}");
        let objects = objects(&decoded);
        let frames = packets(&fs::read(&path).unwrap()).len();
        assert_eq!(objects.len(), frames, "{capture}");
        for (object, index) in objects.iter().zip(0..) {
            assert_eq!(number_at(object, "/index").unwrap(), index, "{capture}");
        }
        for advert in adverts {
            // Vectors count from one, as Wireshark does.
            let index = usize::try_from(number_at(advert, "/packet").unwrap()).unwrap() - 1;
            let object = &objects[index];
            assert_eq!(text_at(object, "/verdict").unwrap(), "accept", "{object}");
            for field in ["md", "counter_hex", "src_ip", "advskew", "advbase"] {
                assert_eq!(object[field], advert[field], "{field} of {object}");
            }
        }
    }
    nothing_left(&topology, 1);
}

/// `decode` of some bytes with the settings of [`CAPTURE`].
fn decode(node: &Node, directory: &Path, name: &str, content: &[u8], more: &[&str]) -> Outcome {
    let file = directory.join(name);
    fs::write(&file, content).unwrap();
    let password = directory.join("secret");
    let mut words = vec!["decode", file.to_str().unwrap(), "--vhid", "1", "--json"];
    words.extend(["--password-file", password.to_str().unwrap()]);
    words.extend(["--vip", "10.77.0.100"]);
    words.extend(more);
    command(node, &words)
}

#[test]
fn a_file_that_is_broken_is_decoded_up_to_there() {
    let _serial = serial();
    let topology = Topology::new(1).unwrap();
    let node = topology.node(1).unwrap();
    let directory = topology.directory();
    password_file(&topology, "secret", "secret", 0o600);
    let good = fs::read(vector(CAPTURE)).unwrap();
    let frames = packets(&good);
    assert_eq!(frames.len(), FRAMES);
    let decode = |name: &str, content: &[u8]| decode(node, directory, name, content, &[]);

    let whole = decode("whole", &good);
    assert_eq!(whole.code, Some(OK), "{whole:?}");
    assert_eq!(verdicts(&whole), ["accept accepted"; FRAMES]);
    let next_generation = decode("pcapng", &pcapng(&frames));
    assert_eq!(next_generation.code, Some(OK), "{next_generation:?}");
    assert_eq!(verdicts(&next_generation), ["accept accepted"; FRAMES]);
    for empty in [pcap(ETHERNET, &[]), pcapng(&[])] {
        let empty = decode("empty", &empty);
        assert_eq!(
            (empty.code, empty.stdout.as_str()),
            (Some(OK), ""),
            "{empty:?}"
        );
    }

    // Within the last packet, within its header, and within the first one.
    for (left, complete) in [(10, FRAMES - 1), (70 + 5, FRAMES - 1), (3 * 86 + 1, 0)] {
        let cut = decode("cut", &good[..good.len() - left]);
        let says = format!("within packet {complete}");
        complains(
            &cut,
            FAILURE,
            &["cannot decode all of ", "cut off at byte", &says],
        );
        assert_eq!(verdicts(&cut).len(), complete, "{cut:?}");
    }
    let header = &good[..FILE_HEADER_LENGTH - 1];
    for (content, says) in [
        (header, "cut off at byte 23"),
        (&b"\x7fELF\x02\x01\x01\0"[..], "not a pcap or pcapng file"),
        (b"", "it has less than four bytes"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "run gunzip first"),
        (
            &pcap(LINUX_SLL, &frames),
            "LINUX_SLL (cooked) packets, not Ethernet",
        ),
    ] {
        let refused = decode("refused", content);
        complains(&refused, USAGE, &["cannot decode ", "refused", says]);
        assert_eq!(refused.stdout, "");
    }
    let mut huge = pcap(ETHERNET, &frames[..1]);
    for word in [1, 0, u32::MAX, u32::MAX] {
        huge.extend(word.to_le_bytes());
    }
    let huge = decode("huge", &huge);
    complains(&huge, FAILURE, &["damaged", "longer than 262144 bytes"]);
    assert_eq!(verdicts(&huge), ["accept accepted"]);
    nothing_left(&topology, 1);
}

#[test]
fn what_is_no_advert_gets_a_verdict() {
    let _serial = serial();
    let topology = Topology::new(1).unwrap();
    let node = topology.node(1).unwrap();
    let directory = topology.directory();
    password_file(&topology, "secret", "secret", 0o600);
    let frames = packets(&fs::read(vector(CAPTURE)).unwrap());
    // Every length that is too short for some header; nothing of it is an error.
    let short: Vec<Vec<u8>> = (0..frames[0].len())
        .map(|length| frames[0][..length].to_vec())
        .collect();
    let decoded = decode(node, directory, "short", &pcap(ETHERNET, &short), &[]);
    assert_eq!(decoded.code, Some(OK), "{decoded:?}");
    let verdicts_of_short = verdicts(&decoded);
    assert_eq!(verdicts_of_short.len(), short.len());
    assert!(
        verdicts_of_short
            .iter()
            .all(|verdict| !verdict.starts_with("accept"))
    );
    assert!(
        verdicts_of_short[0].ends_with(" runt"),
        "{verdicts_of_short:?}"
    );

    let capture = pcap(ETHERNET, &frames);
    let two_vips = decode(node, directory, "vips", &capture, &["--vip", "10.77.0.101"]);
    assert_eq!(
        verdicts(&two_vips),
        ["pass unsupported_vips"; FRAMES],
        "{two_vips:?}"
    );
    let other = decode(
        node,
        directory,
        "reflected",
        &capture,
        &["--local-ip", "10.77.0.1"],
    );
    assert_eq!(verdicts(&other), ["drop own_source"; FRAMES], "{other:?}");

    // A tool at a desk takes a file that the daemon refuses, and says so.
    password_file(&topology, "secret", "secret", 0o644);
    let warned = decode(node, directory, "warned", &capture, &[]);
    complains(
        &warned,
        OK,
        &["warning: others can use the password file", "chmod 600 "],
    );
    assert_eq!(verdicts(&warned), ["accept accepted"; FRAMES]);
    password_file(&topology, "secret", "secret and more than 19", 0o600);
    let refused = decode(node, directory, "refused", &capture, &[]);
    complains(
        &refused,
        USAGE,
        &["cannot use the password file", "longer than 19 bytes"],
    );
    fs::remove_file(directory.join("secret")).unwrap();
    let refused = decode(node, directory, "refused", &capture, &[]);
    complains(
        &refused,
        USAGE,
        &["cannot open the password file", "No such file"],
    );
    nothing_left(&topology, 1);
}
