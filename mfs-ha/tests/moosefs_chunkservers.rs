//! What a real mfsmaster tells of its chunkservers before, while and after they register.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use mfs_ha::moosefs::process::chunkservers::{
    Chunkserver, Outcome, Registered, list, wait_registered,
};
use mfs_ha::moosefs::process::probe::ProbeError;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use self::common::moosefs::{MASTER_ADDRESS, MooseFs};
use self::common::{DEADLINE, in_namespace};

const CLIENTS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9421);

const PORTS: [u16; 2] = [9422, 9522];

/// Waits until the list is as it should be, and returns it in the order of the ports.
async fn listed(what: &str, is_right: impl Fn(&[Chunkserver]) -> bool) -> Vec<Chunkserver> {
    let end = Instant::now() + DEADLINE;
    loop {
        let mut found = list(CLIENTS, DEADLINE).await.unwrap();
        found.sort_by_key(|one| one.address);
        if is_right(&found) {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}: {found:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn waited(limit: Duration) -> Registered {
    wait_registered(CLIENTS, limit).await.unwrap()
}

fn are_connected(list: &[Chunkserver], wanted: [bool; 2]) -> bool {
    list.iter().map(|one| one.is_connected).eq(wanted)
}

#[test]
fn a_master_that_took_over_knows_its_chunkservers_and_they_come() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        moosefs.give_master_address();
        let data = moosefs.new_file_system("n1");
        let master = moosefs.master(&data, &["-a"]);
        assert_eq!(list(CLIENTS, DEADLINE).await.unwrap(), []);
        let nobody = waited(DEADLINE).await;
        assert_eq!((nobody.known, nobody.outcome), (0, Outcome::NoneKnown));

        let first = moosefs.chunkserver("c1", PORTS[0]);
        let second = moosefs.chunkserver("c2", PORTS[1]);
        let found = listed("both register", |list| are_connected(list, [true; 2])).await;
        let address = MASTER_ADDRESS.parse().unwrap();
        let addresses = PORTS.map(|port| SocketAddrV4::new(address, port));
        assert!(
            found.iter().map(|one| one.address).eq(addresses),
            "{found:?}"
        );
        assert!(found.iter().all(|one| !one.is_maintained), "{found:?}");

        let both = waited(DEADLINE).await;
        assert_eq!((both.connected, both.outcome), (2, Outcome::All));

        // Before it has read its disks, nothing is stored on it.
        let have_space = |list: &[Chunkserver]| list.iter().all(|one| one.space > 0);
        listed("the disks are read", have_space).await;
        // One chunk each, two copies of it.
        let mount = moosefs.mount();
        for number in 0..10 {
            fs::write(mount.path().join(format!("f{number}")), "content").unwrap();
        }
        drop(mount);
        let all_counted = |list: &[Chunkserver]| list.iter().all(|one| one.copies == 10);
        listed("the chunks are counted", all_counted).await;

        first.freeze();
        second.freeze();
        master.kill();
        let master = moosefs.master(&data, &["-a"]);
        let found = list(CLIENTS, DEADLINE).await.unwrap();
        assert!(are_connected(&found, [false; 2]), "{found:?}");
        let in_vain = waited(Duration::from_millis(300)).await;
        assert_eq!((in_vain.known, in_vain.connected), (2, 0));
        assert_eq!(in_vain.outcome, Outcome::OutOfTime);

        first.signal(Signal::SIGCONT);
        second.signal(Signal::SIGCONT);
        let both = waited(DEADLINE).await;
        assert_eq!((both.known, both.connected), (2, 2), "{both:?}");
        assert_eq!((both.copies, both.reported), (20, 20), "{both:?}");
        assert_eq!(both.outcome, Outcome::All);
        master.kill();
    });
}

#[test]
fn a_chunkserver_that_was_dead_before_the_failover_is_not_waited_for_to_the_end() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        moosefs.give_master_address();
        let data = moosefs.new_file_system("n1");
        let master = moosefs.master(&data, &["-a"]);
        let first = moosefs.chunkserver("c1", PORTS[0]);
        let second = moosefs.chunkserver("c2", PORTS[1]);
        listed("both register", |list| are_connected(list, [true; 2])).await;
        second.kill();
        let is_alone = |list: &[Chunkserver]| are_connected(list, [true, false]);
        let found = listed("its death is noticed", is_alone).await;
        assert!(found.iter().all(|one| !one.is_maintained), "{found:?}");

        master.kill();
        let master = moosefs.master(&data, &["-a"]);
        let one = waited(DEADLINE).await;
        assert_eq!((one.known, one.connected), (2, 1), "{one:?}");
        assert_eq!(one.outcome, Outcome::RestAbsent);
        assert!(one.waited < DEADLINE / 2, "{one:?}");

        // One that says good-bye will be back: nobody waits for it.
        first.terminate();
        let has_left = |list: &[Chunkserver]| are_connected(list, [false; 2]);
        let found = listed("it has left", has_left).await;
        assert!(
            found.iter().map(|one| one.is_maintained).eq([true, false]),
            "{found:?}"
        );
        master.kill();
        let master = moosefs.master(&data, &["-a"]);
        let nobody = waited(Duration::from_millis(100)).await;
        assert_eq!((nobody.known, nobody.connected), (1, 0), "{nobody:?}");
        assert_eq!(nobody.outcome, Outcome::OutOfTime);
        master.kill();
    });
}

/// A chunkserver that goes only as far as the test wants: the real one leaves no time between the steps.
struct Pretended(TcpStream);

impl Pretended {
    /// Begins to register; says that it has so many chunks.
    async fn begin(port: u16, chunks: u32) -> Self {
        let stream = TcpStream::connect((MASTER_ADDRESS, 9420)).await.unwrap();
        let mut content = vec![60];
        content.extend([0, 3, 0, 234]); // its version
        content.extend([0; 4]); // its address: that of the connection
        content.extend(port.to_be_bytes());
        content.extend(60_u16.to_be_bytes()); // its timeout
        content.extend([0; 2]); // no id yet
        content.extend(0_u64.to_be_bytes()); // used
        content.extend((1_u64 << 40).to_be_bytes());
        content.extend(chunks.to_be_bytes());
        content.extend([0; 20]); // nothing to be removed
        let mut this = Self(stream);
        this.send(&content).await;
        this.acknowledged().await;
        this
    }

    /// Reports chunks, and waits until the master has taken note.
    async fn report(&mut self, chunks: impl Iterator<Item = u64>) {
        let mut content = vec![61];
        for chunk in chunks {
            content.extend(chunk.to_be_bytes());
            content.extend(1_u32.to_be_bytes());
        }
        self.send(&content).await;
        self.acknowledged().await;
    }

    async fn send(&mut self, content: &[u8]) {
        let length = u32::try_from(content.len()).unwrap();
        self.0.write_u32(100).await.unwrap();
        self.0.write_u32(length).await.unwrap();
        self.0.write_all(content).await.unwrap();
    }

    async fn acknowledged(&mut self) {
        loop {
            let kind = self.0.read_u32().await.unwrap();
            let length = self.0.read_u32().await.unwrap();
            let mut content = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut content).await.unwrap();
            if kind == 104 {
                return;
            }
        }
    }
}

#[test]
fn a_chunkserver_is_connected_before_its_chunks_are_known() {
    in_namespace(async || {
        let moosefs = MooseFs::new();
        moosefs.give_master_address();
        let data = moosefs.new_file_system("n1");
        let master = moosefs.master(&data, &["-a"]);
        let mut chunkserver = Pretended::begin(PORTS[0], 3).await;
        let found = list(CLIENTS, DEADLINE).await.unwrap();
        assert!(
            matches!(&found[..], [one] if one.is_connected && one.copies == 3),
            "{found:?}"
        );
        let begun = waited(DEADLINE).await;
        assert_eq!((begun.known, begun.connected), (1, 1));
        assert_eq!((begun.copies, begun.reported), (3, 0));
        assert!(begun.waited >= Duration::from_millis(200), "{begun:?}");

        chunkserver.report(1..=2).await;
        let part = waited(DEADLINE).await;
        assert_eq!((part.copies, part.reported), (3, 2));
        assert!(part.waited >= Duration::from_millis(200), "{part:?}");

        // All is known before the end of the registration is told.
        chunkserver.report(3..=3).await;
        let all = waited(DEADLINE).await;
        assert_eq!((all.copies, all.reported), (3, 3));
        assert_eq!(all.outcome, Outcome::All);

        master.freeze();
        let error = wait_registered(CLIENTS, Duration::from_millis(100)).await;
        let error = error.unwrap_err();
        assert!(matches!(error, ProbeError::NoAnswer { .. }), "{error:?}");
        master.kill();
        let error = wait_registered(CLIENTS, DEADLINE).await.unwrap_err();
        assert!(matches!(error, ProbeError::Refused { .. }), "{error:?}");
    });
}
