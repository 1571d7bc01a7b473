//! `mfs-ha decode`: the verdict of the very validation code on each packet of a capture.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use mfs_ha_common::carp::auth::HmacKey;
use mfs_ha_common::carp::wire::{HEADER_LEN, Packet};
use mfs_ha_common::filter::{
    ACCEPT_TRAILING_BYTES, FilterConfig, REJECT_REPEATED_COUNTER, VLAN_ANY,
};
use mfs_ha_common::net::{
    ETHERTYPE_IPV4, ETHERTYPE_VLAN, Frame as _, Ipv4, Ipv4Header, LinkLayer, Mac, PROTOCOL_CARP,
};
use mfs_ha_common::peer::{LastAdvert, PEERS_MAX, Peers};
use mfs_ha_common::priority::Priority;
use mfs_ha_common::validate::{Verdict, validate};
use serde::Serialize;

use super::{Exit, ExitWith as _, Failure, written_out};
use crate::capture::{self, Record};
use crate::secret::Password;

/// A password file is not longer; more of it is not read.
const PASSWORD_FILE_BYTES_MAX: u64 = 4096;

/// Arguments of `decode`.
#[derive(Debug, Args)]
pub struct DecodeArgs {
    /// A pcap or pcapng file with Ethernet packets
    file: PathBuf,
    /// Virtual host id
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    vhid: u8,
    /// File with the password: its bytes without exactly one final newline
    #[arg(long, value_name = "FILE")]
    password_file: PathBuf,
    /// Virtual address that the digest covers; several are possible, but then adverts pass unread
    #[arg(long, required = true, value_name = "IP")]
    vip: Vec<IpAddr>,
    /// Destination address of adverts
    #[arg(
        long,
        alias = "multicast-group",
        value_name = "IP",
        default_value = "224.0.0.18"
    )]
    mcast_ip: Ipv4Addr,
    /// Own source address: adverts from it are dropped as reflected
    #[arg(
        long,
        value_name = "IP",
        default_value = "255.255.255.255",
        hide_default_value = true
    )]
    local_ip: Ipv4Addr,
    /// What to do with bytes after the 36-byte header
    #[arg(long, value_enum, default_value_t = Policy::Reject)]
    trailing_bytes: Policy,
    /// What to do with the counter of the last accepted advert of the same source
    #[arg(long, value_enum, default_value_t = Policy::Accept)]
    repeated_counter: Policy,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// A position of a policy key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Policy {
    Accept,
    Reject,
}

/// One packet and what became of it. Fields that the packet is too short for are absent.
#[derive(Debug, Serialize)]
struct Decoded {
    index: u64,
    verdict: &'static str,
    reason: &'static str,
    timestamp_ns: Option<u64>,
    length: usize,
    original_length: u32,
    #[serde(flatten)]
    link: Option<LinkFields>,
    #[serde(flatten)]
    ip: Option<IpFields>,
    #[serde(flatten)]
    carp: Option<CarpFields>,
}

#[derive(Debug, Serialize)]
struct LinkFields {
    src_mac: String,
    dst_mac: String,
    vlan: Option<u16>,
    ethertype: String,
}

#[derive(Debug, Serialize)]
struct IpFields {
    src_ip: Ipv4Addr,
    dst_ip: Ipv4Addr,
    ttl: u8,
    total_length: u16,
}

#[derive(Debug, Serialize)]
struct CarpFields {
    version: u8,
    r#type: u8,
    vhid: u8,
    advskew: u8,
    authlen: u8,
    demote: u8,
    advbase: u8,
    counter: u64,
    counter_hex: String,
    md: String,
    bow_out: bool,
}

/// Remembers last adverts as the PEERS map does.
#[derive(Debug, Default)]
struct HostPeers(BTreeMap<Ipv4, LastAdvert>);

impl Peers for HostPeers {
    fn find(&self, source: Ipv4) -> Option<LastAdvert> {
        self.0.get(&source).copied()
    }
}

impl HostPeers {
    fn remember(&mut self, source: Ipv4, counter: [u8; 8]) {
        if self.0.len() >= PEERS_MAX && !self.0.contains_key(&source) {
            return;
        }
        let last = self.0.entry(source).or_insert(LastAdvert {
            adverts: 0,
            counter: 0,
        });
        last.adverts += 1;
        last.counter = u64::from_be_bytes(counter);
    }
}

/// Decodes a capture to `out`; warnings go to `err`.
///
/// # Errors
/// An unreadable capture or password file. What comes before a damaged place is decoded.
pub fn run(args: &DecodeArgs, out: &mut impl Write, err: &mut impl Write) -> Result<(), Failure> {
    let filter = filter(args, err)?;
    let records = capture::open(&args.file)
        .with_context(|| format!("cannot decode {}", args.file.display()))
        .exit_with(Exit::Usage)?;
    let mut peers = HostPeers::default();
    for record in records {
        let record = record
            .with_context(|| format!("cannot decode all of {}", args.file.display()))
            .exit_with(Exit::Failure)?;
        let decoded = decode(&record, &filter, &mut peers);
        let written = if args.json {
            write_json(out, &decoded)
        } else {
            write_text(out, &decoded)
        };
        match written {
            // The reader of a pipe has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.exit_with(Exit::Failure)?,
        }
    }
    written_out(out.flush())
}

fn filter(args: &DecodeArgs, err: &mut impl Write) -> Result<FilterConfig, Failure> {
    let password = read_password(args, err).exit_with(Exit::Usage)?;
    let key = HmacKey::new(password.as_bytes()).exit_with(Exit::Usage)?;
    let first = args.vip.iter().find_map(|vip| match vip {
        IpAddr::V4(vip) => Some(*vip),
        IpAddr::V6(_) => None,
    });
    let mut policy = 0;
    if args.trailing_bytes == Policy::Accept {
        policy |= ACCEPT_TRAILING_BYTES;
    }
    if args.repeated_counter == Policy::Reject {
        policy |= REJECT_REPEATED_COUNTER;
    }
    Ok(FilterConfig {
        // With IPv6 addresses only, adverts pass unread whatever stands here.
        vip: first.unwrap_or(Ipv4Addr::UNSPECIFIED).octets(),
        group: args.mcast_ip.octets(),
        source: args.local_ip.octets(),
        vhid: args.vhid,
        vip_count: if first.is_some() {
            u8::try_from(args.vip.len()).unwrap_or(u8::MAX)
        } else {
            0
        },
        vlan: VLAN_ANY,
        policy,
        key,
    })
}

/// Reads the password. This is a tool for captures at a desk: unlike the daemon it takes a file that
/// others can read, and says so.
fn read_password(args: &DecodeArgs, err: &mut impl Write) -> anyhow::Result<Password> {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;
    let path = args.password_file.display();
    let file = std::fs::File::open(&args.password_file)
        .with_context(|| format!("cannot open the password file {path}"))?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        writeln!(
            err,
            "warning: others can use the password file {path}; the daemon will refuse it: chmod 600 {path}"
        )?;
    }
    let mut content = Vec::new();
    file.take(PASSWORD_FILE_BYTES_MAX)
        .read_to_end(&mut content)
        .with_context(|| format!("cannot read the password file {path}"))?;
    Password::parse(&content).with_context(|| format!("cannot use the password file {path}"))
}

fn decode(record: &Record, filter: &FilterConfig, peers: &mut HostPeers) -> Decoded {
    let frame = record.bytes.as_slice();
    let (verdict, reason) = match validate(frame, filter, peers, &()) {
        Verdict::Pass(reason) => ("pass", reason.name()),
        Verdict::Drop(reason) | Verdict::Mismatch(reason, _) => ("drop", reason.name()),
        Verdict::Heartbeat(_) => ("accept", "accepted_heartbeats"),
        Verdict::Accept(accepted) => {
            peers.remember(accepted.source, accepted.advert.get().counter);
            ("accept", "accepted")
        }
    };
    let link = LinkLayer::parse(frame);
    let ip = link.and_then(|link| ip_header(frame, link));
    Decoded {
        index: record.index,
        verdict,
        reason,
        timestamp_ns: record.timestamp_ns,
        length: frame.len(),
        original_length: record.original_length,
        link: link.and_then(|link| link_fields(frame, link)),
        ip: ip.map(|(ip, _)| IpFields {
            src_ip: ip.source().into(),
            dst_ip: ip.destination().into(),
            ttl: ip.ttl(),
            total_length: ip.total_len(),
        }),
        carp: ip.and_then(|(_, payload_at)| carp_fields(frame, payload_at)),
    }
}

fn link_fields(frame: &[u8], link: LinkLayer) -> Option<LinkFields> {
    let is_tagged = frame.load(12) == Some(ETHERTYPE_VLAN);
    Some(LinkFields {
        dst_mac: mac(frame.load(0)?),
        src_mac: mac(frame.load(6)?),
        vlan: is_tagged.then_some(link.vlan),
        ethertype: format!("0x{}", hex(&link.ethertype)),
    })
}

fn ip_header(frame: &[u8], link: LinkLayer) -> Option<(Ipv4Header, usize)> {
    if link.ethertype != ETHERTYPE_IPV4 {
        return None;
    }
    let ip = Ipv4Header::new(frame.load(link.network_at)?);
    let [protocol] = frame.load(link.network_at + 9)?;
    let header_len = 4 * usize::from(ip.header_words().max(5));
    (protocol == PROTOCOL_CARP).then_some((ip, link.network_at + header_len))
}

fn carp_fields(frame: &[u8], payload_at: usize) -> Option<CarpFields> {
    let packet = Packet::new(frame.load::<HEADER_LEN>(payload_at)?);
    Some(CarpFields {
        version: packet.version(),
        r#type: packet.packet_type(),
        vhid: packet.vhid(),
        advskew: packet.priority().advskew(),
        authlen: packet.auth_words(),
        demote: packet.demote(),
        advbase: packet.priority().advbase(),
        counter: u64::from_be_bytes(packet.counter()),
        counter_hex: hex(&packet.counter()),
        md: hex(&packet.md()),
        bow_out: packet.priority() == Priority::BOW_OUT,
    })
}

fn write_json(out: &mut impl Write, decoded: &Decoded) -> io::Result<()> {
    serde_json::to_writer(&mut *out, decoded)?;
    out.write_all(b"\n")
}

fn write_text(out: &mut impl Write, decoded: &Decoded) -> io::Result<()> {
    let Decoded {
        index,
        verdict,
        reason,
        ..
    } = decoded;
    write!(out, "{index:>5}  {verdict:<6} {reason:<16}")?;
    if let Some(ip) = &decoded.ip {
        write!(out, " {} > {}", ip.src_ip, ip.dst_ip)?;
    }
    if let Some(carp) = &decoded.carp {
        write!(
            out,
            " vhid {} advbase {} advskew {} counter {}",
            carp.vhid, carp.advbase, carp.advskew, carp.counter_hex
        )?;
        if carp.bow_out {
            write!(out, " bow-out")?;
        }
    }
    writeln!(out)
}

fn mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
