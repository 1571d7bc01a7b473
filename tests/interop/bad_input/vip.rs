//! A VIP that somebody takes away, and one that the kernel does not take.

use std::time::{Duration, Instant};

use mfs_ha_lab::net::addresses::holds;
use mfs_ha_lab::net::packet::{EtherType, Mac, PacketSocket};
use mfs_ha_lab::scenario::Arena;
use mfs_ha_lab::software::mfsha::{MfsHa, MfsHaOptions, number_at};
use mfs_ha_lab::wait::wait_until;
use mfs_ha_lab::{VIP, serial};

use super::bench::{SETTLE, end, options, text, wait_log};

/// Hears the gratuitous ARPs of the segment.
struct Announcements(PacketSocket);

impl Announcements {
    fn listen(arena: &Arena) -> Self {
        Self(PacketSocket::open(arena.topology().observer(), EtherType::Arp).unwrap())
    }

    /// Waits for one of `mac` that arrived after `since`.
    fn wait(&self, mac: Mac, since: Instant) -> Instant {
        let mut buffer = [0; 2048];
        wait_until("a gratuitous ARP", SETTLE, || {
            while let Some(received) = self.0.receive(&mut buffer, Duration::from_millis(10))? {
                let sender = received.frame.get(22..28) == Some(&mac.0);
                let addresses = (received.frame.get(28..32), received.frame.get(38..42));
                let vip = VIP.octets();
                let about_vip = addresses == (Some(&vip), Some(&vip));
                if sender && about_vip && received.at > since {
                    return Ok(Some(received.at));
                }
            }
            Ok(None)
        })
        .unwrap()
    }
}

#[test]
fn a_vip_that_is_taken_away_comes_back_and_is_announced() {
    let _serial = serial();
    let arena = Arena::new(1).unwrap();
    let topology = arena.topology();
    let node = topology.node(1).unwrap();
    let mut daemon = MfsHa::start(topology, 1, &options()).unwrap();
    daemon.wait_state("master", SETTLE).unwrap();
    arena.wait_owner(1, SETTLE).unwrap();
    let announcements = Announcements::listen(&arena);
    // The schedule after a takeover is two adverts long; what comes later has another reason.
    let taken_over = Instant::now();
    let sent = number_at(&daemon.status().unwrap(), "/adverts/sent").unwrap();
    daemon
        .wait_status("the end of the announcements", SETTLE, |status| {
            number_at(status, "/adverts/sent").unwrap() > sent + 5
        })
        .unwrap();

    let removed = Instant::now();
    topology.remove_vip(1).unwrap();
    let announced = announcements.wait(node.mac, removed);
    assert!(holds(&node.namespace, VIP).unwrap());
    println!(
        "taken {:?} after the start, announced again {:?} after the removal",
        removed - taken_over,
        announced - removed
    );
    assert!(announced - removed < Duration::from_millis(500));
    wait_log(&mut daemon, "somebody else had changed the VIP");
    let status = daemon.status().unwrap();
    assert_eq!(text(&status, "/state"), "master");
    assert_eq!(text(&status, "/vip/problem"), "");
    end(topology, 1, &mut daemon);
}

/// Each time it stays a little longer, because nobody fights at the speed of the processor; the gate is there.
#[test]
fn a_vip_that_is_brought_to_a_backup_again_and_again_answers_nobody() {
    let _serial = serial();
    let arena = Arena::new(2).unwrap();
    let topology = arena.topology();
    let mut master = MfsHa::start(topology, 1, &MfsHaOptions::with_timing(0, 20)).unwrap();
    arena.wait_owner(1, SETTLE).unwrap();
    let mut backup = MfsHa::start(topology, 2, &MfsHaOptions::with_timing(0, 40)).unwrap();
    backup.wait_state("backup", SETTLE).unwrap();
    let vip = format!("{VIP}/24");
    let bring = || {
        let node = topology.node(2).unwrap();
        node.namespace
            .run("ip", &["addr", "add", &vip, "dev", "eth0"])
            .unwrap();
        arena.wait_vip(2, false, SETTLE).unwrap();
    };
    bring();
    wait_log(&mut backup, "somebody else had changed the VIP");
    let begin = Instant::now();
    for _ in 0..6 {
        bring();
    }
    let stayed = arena.addresses().unwrap().overlap(begin, Instant::now());
    let finding = arena.judge(begin, Instant::now()).unwrap();
    println!("two had it for {stayed:?}: {finding}");
    assert!(stayed > Duration::from_millis(300));
    assert_eq!(finding.owners_max, 1);
    end(topology, 2, &mut backup);
    end(topology, 1, &mut master);
}

/// The kernel refuses (EINVAL) an address whose scope differs from that of another one of its prefix.
#[test]
fn a_master_that_cannot_take_the_vip_makes_room() {
    let _serial = serial();
    let arena = Arena::new(2).unwrap();
    let topology = arena.topology();
    let node = topology.node(1).unwrap();
    let own = format!("{}/24", node.address);
    let ip = |words: &[&str]| node.namespace.run("ip", words).unwrap();
    ip(&["addr", "del", &own, "dev", "eth0"]);
    ip(&["addr", "add", &own, "dev", "eth0", "scope", "link"]);

    let begin = Instant::now();
    let mut unable = MfsHa::start(topology, 1, &MfsHaOptions::with_timing(0, 20)).unwrap();
    // Its turn comes first.
    unable.wait_state("backup", SETTLE).unwrap();
    let mut able = MfsHa::start(topology, 2, &MfsHaOptions::with_timing(0, 40)).unwrap();
    arena.wait_owner(2, SETTLE).unwrap();
    let status = able.wait_state("master", SETTLE).unwrap();
    assert_eq!(text(&status, "/reason"), "master_bowed_out");
    let status = unable.wait_state("backup", SETTLE).unwrap();
    assert_eq!(text(&status, "/reason"), "vip_failed");
    assert_eq!(text(&status, "/demotion/0"), "vip_failure");
    assert_eq!(number_at(&status, "/effective_skew").unwrap(), 240);
    wait_log(&mut unable, "EINVAL");
    wait_log(&mut unable, "cannot change the VIP");
    let log = unable.process().log_text().unwrap();
    println!("n1: {log}");
    let bow_out = arena.sniffer().adverts_since(begin).unwrap();
    assert!(
        bow_out
            .iter()
            .any(|seen| seen.advert.source == node.address && seen.advert.is_bow_out())
    );
    let finding = arena.judge(begin, Instant::now()).unwrap();
    assert_eq!((finding.owners_max, finding.moves), (1, 1));

    // Once the address is repaired, the node is of use again.
    ip(&["addr", "del", &own, "dev", "eth0"]);
    ip(&["addr", "add", &own, "dev", "eth0"]);
    unable.wait_state("backup", SETTLE).unwrap();
    end(topology, 2, &mut able);
    arena.wait_owner(1, SETTLE).unwrap();
    let status = unable.wait_state("master", SETTLE).unwrap();
    assert_eq!(status.pointer("/demotion"), Some(&serde_json::json!([])));
    end(topology, 1, &mut unable);
}
