//! What the programs cost per packet, next to the same HMAC in native code in the same run.
//!
//! Of verdicts each figure is the least of several interleaved rounds of `BPF_PROG_TEST_RUN`, which leaves other
//! load on the machine out as far as possible. It includes the kernel's own loop around the program,
//! which the first line shows. The gate is measured in between, in a way of its own. Run it with
//! `cargo xtask bench xdp`; it needs root.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "../tests/common/mod.rs"]
mod common;
mod figures;
#[path = "xdp/gate.rs"]
mod gate;

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use aya::{TestRun as _, TestRunOptions};
use hmac::{Hmac, KeyInit as _, Mac as _};
use mfs_ha::bpf;
use mfs_ha_common::carp::auth::HmacKey;
use mfs_ha_common::carp::frame::Sender;
use mfs_ha_common::carp::trailer::Trailer;
use mfs_ha_common::carp::{Advert, Vhid};
use mfs_ha_common::cluster::NodeId;
use mfs_ha_common::filter::{ClusterConfig, FilterConfig, HEARTBEATS, TRAILERS};
use mfs_ha_common::freshness::Freshness;
use mfs_ha_common::heartbeat::{BODY_LEN, KIND_HEARTBEAT, MAGIC, PORT, Stamp, TagKey, VERSION};
use mfs_ha_common::priority::Priority;
use sha1::Sha1;

const ROUNDS: usize = 15;
const PACKETS_PER_ROUND: u32 = 200_000;
const PASSWORD: &[u8] = b"benchmark";
const VIP: [u8; 4] = [10, 77, 0, 100];

/// One kind of frame.
struct Class {
    name: &'static str,
    counter: &'static str,
    frame: Vec<u8>,
    least: Duration,
}

fn main() -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "needs root: it loads an eBPF program into the kernel"
    );
    let others = [node(2)?];
    let configured = bpf::Configured {
        peers: &[],
        members: &others,
    };
    let (program, mut maps) = bpf::load(None, &configured).context("load the program")?;
    maps.config.write(filter()?)?;
    maps.cluster.write(CLUSTER)?;
    let xdp = program.xdp()?;
    let mut classes = classes()?;
    let mut native = [Duration::MAX; 2];
    let mut gate = gate::Gate::new()?;
    for _ in 0..ROUNDS {
        for class in &mut classes {
            let before = maps.stats.read()?;
            let result = xdp.test_run(TestRunOptions {
                data_in: Some(&class.frame),
                repeat: PACKETS_PER_ROUND,
                ..TestRunOptions::default()
            })?;
            class.least = class.least.min(result.duration);
            let after = maps.stats.read()?;
            let counted = |stats: &mfs_ha_common::stats::Stats| {
                stats.fields().find(|(name, _)| *name == class.counter)
            };
            ensure!(
                counted(&after) > counted(&before),
                "{} is not counted as {}",
                class.name,
                class.counter
            );
            // An advert is only written into the ring while there is room.
            while maps.records.next().is_some() {}
        }
        native[0] = native[0].min(time_native(&mut same_code()?));
        native[1] = native[1].min(time_native(&mut rustcrypto()?));
        gate.round(&program, &mut maps)?;
    }
    print(&classes, native);
    gate.print();
    Ok(())
}

fn print(classes: &[Class], native: [Duration; 2]) {
    let hmac = native[0].as_nanos().max(1);
    println!("least of {ROUNDS} rounds of {PACKETS_PER_ROUND} packets");
    println!(
        "{:<44} {:>6} {:>16}",
        "XDP, per packet", "ns", "of native HMAC"
    );
    for class in classes {
        let nanos = class.least.as_nanos();
        println!("{:<44} {nanos:>6} {:>15} %", class.name, nanos * 100 / hmac);
    }
    println!("{:<44} {:>6}", "native, this HMAC (two compressions)", hmac);
    println!(
        "{:<44} {:>6}",
        "native, RustCrypto HMAC-SHA1 (two compressions)",
        native[1].as_nanos()
    );
}

fn filter() -> anyhow::Result<FilterConfig> {
    Ok(FilterConfig {
        vip: VIP,
        group: [224, 0, 0, 18],
        source: [10, 77, 0, 9],
        vhid: 10,
        vip_count: 1,
        vlan: 0,
        policy: 0,
        key: HmacKey::new(PASSWORD)?,
    })
}

/// One key; heartbeats and trailers are read.
const CLUSTER: ClusterConfig = ClusterConfig {
    cluster: 1,
    keys: [TagKey::new([7; 16]); 2],
    policy: HEARTBEATS | TRAILERS,
    vlan: 0,
    node: 1,
    reserved: 0,
};
/// A tag that is right would be so once, and then be a replay: what is measured is a wrong one.
const FOREIGN_KEY: TagKey = TagKey::new([8; 16]);

fn node(id: u8) -> anyhow::Result<NodeId> {
    NodeId::new(id).context("node")
}

/// A heartbeat over IPv4 of the sender's life `boot`.
fn heartbeat_frame(boot: u8) -> Vec<u8> {
    let [m0, m1, m2, m3] = MAGIC;
    let mut body = [0; BODY_LEN];
    let words = [
        [m0, m1, m2, m3, VERSION, KIND_HEARTBEAT, 2, 1],
        CLUSTER.cluster.to_be_bytes(),
        u64::from(boot).to_be_bytes(),
    ];
    for (free, byte) in body.iter_mut().zip(words.as_flattened()) {
        *free = *byte;
    }
    let [port_high, port_low] = PORT.to_be_bytes();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 196, 0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend([10, 77, 0, 2, 10, 77, 0, 1]);
    frame.extend([port_high, port_low, port_high, port_low, 0, 176, 0, 0]);
    frame.extend(FOREIGN_KEY.seal(&body));
    frame
}

fn sender() -> anyhow::Result<Sender> {
    Ok(Sender {
        mac: [2, 0, 0, 0, 0, 1],
        source: [10, 77, 0, 1],
        group: [224, 0, 0, 18],
        broadcast: false,
        vlan: 0,
        vhid: Vhid::new(10).context("vhid")?,
        vip: VIP,
    })
}

const ADVERT: Advert = Advert {
    vhid: 10,
    priority: Priority::new(1, 0),
    demote: 0,
    counter: [7; 8],
};

fn advert_frame() -> anyhow::Result<Vec<u8>> {
    let frame = sender()?.advert(&HmacKey::new(PASSWORD)?, &ADVERT, 1);
    Ok(frame.as_bytes().to_vec())
}

fn extended_frame() -> anyhow::Result<Vec<u8>> {
    let trailer = Trailer {
        cluster: CLUSTER.cluster,
        node: node(2)?,
        stamp: Stamp {
            boot: 1,
            sequence: 1,
        },
        epoch: 0,
        freshness: Freshness::default(),
    };
    let key = HmacKey::new(PASSWORD)?;
    let frame = sender()?.extended_advert(&key, &ADVERT, 1, &FOREIGN_KEY, &trailer);
    Ok(frame.as_bytes().to_vec())
}

fn classes() -> anyhow::Result<Vec<Class>> {
    let advert = advert_frame()?;
    let changed = |at: usize, value: u8| {
        let mut frame = advert.clone();
        if let Some(byte) = frame.get_mut(at) {
            *byte = value;
        }
        frame
    };
    let mut arp = advert.clone();
    arp.splice(12..14, [8, 6]);
    let mut other_port = heartbeat_frame(1);
    other_port.splice(36..38, [0, 53]);
    let class = |name, counter, frame| Class {
        name,
        counter,
        frame,
        least: Duration::MAX,
    };
    Ok(vec![
        class("not ours: ARP", "not_carp", arp),
        class("not ours: TCP over IPv4", "not_carp", changed(23, 6)),
        class("not ours: UDP over IPv4", "not_carp", other_port),
        class("not ours: VRRP version 3", "vrrp", changed(34, 0x31)),
        class("not ours: other vhid", "other_vhid", changed(35, 11)),
        class("dropped: TTL 254", "bad_ttl", changed(22, 254)),
        class("dropped: authlen", "bad_authlen", changed(37, 12)),
        class("dropped: IP checksum", "bad_ip_sum", changed(24, 0)),
        class("dropped: CARP checksum", "bad_sum", changed(40, 0)),
        class("dropped: digest", "bad_auth", forged(&advert)?),
        class("accepted advert", "accepted", advert),
        class(
            "dropped: trailer's tag",
            "trailer_bad_tag",
            extended_frame()?,
        ),
        class(
            "dropped: replayed heartbeat",
            "replayed",
            heartbeat_frame(0),
        ),
        class("dropped: heartbeat's tag", "bad_tag", heartbeat_frame(1)),
    ])
}

/// The advert with another digest and the checksum for it.
fn forged(advert: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut frame = advert.to_vec();
    let header = frame.get_mut(34..70).context("header")?;
    header[20] ^= 1;
    header[6..8].fill(0);
    let sum = mfs_ha_common::carp::checksum::compute::<36>((&*header).try_into()?);
    header[6..8].copy_from_slice(&sum);
    Ok(frame)
}

fn same_code() -> anyhow::Result<impl FnMut(u64)> {
    let key = HmacKey::new(PASSWORD)?;
    Ok(move |counter: u64| {
        black_box(key.digest(10, black_box(VIP), counter.to_be_bytes()));
    })
}

fn rustcrypto() -> anyhow::Result<impl FnMut(u64)> {
    let keyed = Hmac::<Sha1>::new_from_slice(PASSWORD)?;
    Ok(move |counter: u64| {
        let mut mac = keyed.clone();
        mac.update(&[2, 1, 10]);
        mac.update(&black_box(VIP));
        mac.update(&counter.to_be_bytes());
        black_box(mac.finalize());
    })
}

fn time_native(run: &mut impl FnMut(u64)) -> Duration {
    let begin = Instant::now();
    for counter in 0..u64::from(PACKETS_PER_ROUND) {
        run(counter);
    }
    begin.elapsed() / PACKETS_PER_ROUND
}
