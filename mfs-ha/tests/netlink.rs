//! The netlink adapters against a real kernel, each test in a network namespace of its own thread.
//!
//! Needs root. Nothing outside the namespaces is touched; they end with their threads.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on panics"
)]

mod common;

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use mfs_ha::interface::{AttachMode, LinkState};
use mfs_ha::netlink::offload::{self, FeatureError};
use mfs_ha::netlink::vip::{
    NetlinkTarget, Presence, VipApplier, VipReport, Wanted, remove_vip_now,
};
use mfs_ha::netlink::{Netlink, Owner, watch};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::sync::watch::{self as channel, Receiver};

use common::{DEADLINE, in_namespace, ip, ip_shows, xdp_object};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// Waits until what a channel publishes fulfils the condition.
async fn until<T: Clone + std::fmt::Debug>(
    receiver: &mut Receiver<T>,
    what: &str,
    condition: impl FnMut(&T) -> bool,
) -> T {
    let found = tokio::time::timeout(DEADLINE, receiver.wait_for(condition))
        .await
        .map(|found| found.expect("the task ended").clone())
        .ok();
    found.unwrap_or_else(|| panic!("{what}: still {:?}", *receiver.borrow()))
}

#[test]
fn an_interface_is_described() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        assert_eq!(netlink.interface("absent0").await.unwrap(), None);

        ip("link set v0 address 02:00:00:00:00:07 mtu 1400");
        ip("addr add 10.0.0.1/24 dev v0");
        ip("addr add 10.0.0.100/24 dev v0");
        ip("addr add 192.168.7.1/32 dev v0");
        ip("-6 addr add fd00::1/64 dev v0");
        let found = netlink.interface("v0").await.unwrap().unwrap();
        assert_eq!(found.name, "v0");
        assert_eq!(found.ifindex, nix::net::if_::if_nametoindex("v0").unwrap());
        assert_eq!(found.mac, Some([2, 0, 0, 0, 0, 7]));
        assert_eq!(found.mtu, 1400);
        assert!(found.admin_up && found.running && !found.loopback);
        assert_eq!(found.xdp, None);
        let mut addresses: Vec<_> = found
            .addresses
            .iter()
            .map(|held| (held.to_string(), held.secondary))
            .collect();
        addresses.sort();
        assert_eq!(
            addresses,
            [
                ("10.0.0.1/24".to_owned(), false),
                ("10.0.0.100/24".to_owned(), true),
                ("192.168.7.1/32".to_owned(), false),
            ]
        );
        assert_eq!(found.source(VIP), Some(OWN));

        ip("link set v1 down");
        wait_until("no carrier", || !ip_shows("link show dev v0", "state UP")).await;
        let cut = netlink.interface("v0").await.unwrap().unwrap();
        assert!(cut.admin_up && !cut.running, "{cut:?}");
        ip("link set v0 down");
        let down = netlink.interface("v0").await.unwrap().unwrap();
        assert!(!down.admin_up && !down.running, "{down:?}");
        assert!(netlink.interface("lo").await.unwrap().unwrap().loopback);
    });
}

#[test]
fn addresses_are_added_and_removed_and_doing_it_twice_is_fine() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        let ifindex = netlink.interface("v0").await.unwrap().unwrap().ifindex;
        for _ in 0..2 {
            netlink.add_address(ifindex, VIP, 24).await.unwrap();
            assert!(ip_shows(
                "-4 addr show dev v0",
                "inet 10.0.0.100/24 brd 10.0.0.255 scope global"
            ));
            assert!(
                ip_shows("route show dev v0", "10.0.0.0/24"),
                "no route for the prefix"
            );
        }
        for _ in 0..2 {
            netlink.remove_address(ifindex, VIP, 24).await.unwrap();
            assert!(!ip_shows("-4 addr show dev v0", "inet "));
        }
        netlink.remove_address(9999, VIP, 24).await.unwrap();
        let error = netlink.add_address(9999, VIP, 24).await.unwrap_err();
        assert_eq!(error.errno(), Some(nix::errno::Errno::ENODEV), "{error}");
        let error = netlink.add_address(ifindex, VIP, 77).await.unwrap_err();
        assert_eq!(error.errno(), Some(nix::errno::Errno::EINVAL), "{error}");
    });
}

#[test]
fn the_owners_of_an_address_are_found_on_all_interfaces() {
    in_namespace(async || {
        let netlink = Netlink::connect().unwrap();
        assert_eq!(netlink.owners_of(VIP).await.unwrap(), []);
        ip("addr add 10.0.0.1/24 dev v0");
        ip("addr add 10.0.0.100/24 dev v0");
        ip("addr add 10.0.0.100/32 dev v1");
        let mut owners = netlink.owners_of(VIP).await.unwrap();
        owners.sort_by(|a, b| a.interface.cmp(&b.interface));
        let owner = |interface: &str, prefix_len| Owner {
            interface: interface.to_owned(),
            ifindex: nix::net::if_::if_nametoindex(interface).unwrap(),
            prefix_len,
        };
        assert_eq!(owners, [owner("v0", 24), owner("v1", 32)]);
    });
}

#[test]
fn the_watcher_follows_everything_that_happens_to_a_name() {
    in_namespace(async || {
        let (watcher, mut state) = watch::watch("v0").await.unwrap();
        let first = state.borrow().ifindex().unwrap();
        assert!(state.borrow().running());
        let task = tokio::spawn(watcher.run());

        ip("addr add 10.0.0.1/24 dev v0");
        until(&mut state, "an address", |state| {
            state.addresses().len() == 1
        })
        .await;
        ip("addr del 10.0.0.1/24 dev v0");
        until(&mut state, "no address", |state| {
            state.addresses().is_empty()
        })
        .await;
        ip("link set v1 down");
        until(&mut state, "no carrier", |state| {
            state.admin_up() && !state.running()
        })
        .await;
        ip("link set v1 up");
        until(&mut state, "carrier", LinkState::running).await;
        ip("link set v0 down");
        until(&mut state, "switched off", |state| !state.admin_up()).await;
        ip("link set v0 name other0");
        until(&mut state, "renamed away", |state| {
            state.ifindex().is_none()
        })
        .await;
        ip("link set other0 name v0");
        until(&mut state, "renamed back", |state| {
            state.ifindex() == Some(first)
        })
        .await;
        ip("link set v0 address 02:00:00:00:00:09");
        until(&mut state, "another MAC", |state| {
            state.interface.as_ref().unwrap().mac == Some([2, 0, 0, 0, 0, 9])
        })
        .await;
        ip("link del v0");
        until(&mut state, "deleted", |state| state.interface.is_none()).await;
        ip("link add v0 type veth peer name v1");
        let again = until(&mut state, "made again", |state| state.ifindex().is_some()).await;
        assert_ne!(again.ifindex(), Some(first));
        // Deleted and made again in one go: only the last state counts.
        ip("link del v0");
        ip("link add v0 type veth peer name v1");
        let second = again.ifindex();
        until(&mut state, "made a third time", |state| {
            state.ifindex().is_some() && state.ifindex() != second
        })
        .await;

        drop(state);
        tokio::time::timeout(DEADLINE, task)
            .await
            .expect("ends without listeners")
            .unwrap();
    });
}

#[test]
fn what_happens_to_other_interfaces_is_not_published() {
    in_namespace(async || {
        let (watcher, mut state) = watch::watch("v0").await.unwrap();
        let task = tokio::spawn(watcher.run());
        ip("link add w0 type veth peer name w1");
        ip("addr add 10.9.0.1/24 dev w0");
        ip("link set w0 up");
        ip("link del w0");
        // What comes after them tells that they were seen.
        ip("addr add 10.0.0.1/24 dev v0");
        until(&mut state, "an address", |state| {
            state.addresses().len() == 1
        })
        .await;
        let published = state.borrow().clone();
        assert_eq!(published.addresses()[0].address, OWN);
        assert!(
            !state.has_changed().unwrap(),
            "more than one state was published"
        );
        task.abort();
    });
}

#[test]
fn lost_notifications_do_not_matter() {
    in_namespace(async || {
        let (watcher, mut state) = watch::watch("v0").await.unwrap();
        let task = tokio::spawn(watcher.run());
        // While this thread is busy the watcher cannot read, and the socket's buffer overflows: what
        // is lost is the only notification that is about v0.
        let directory = tempfile::tempdir().unwrap();
        let batch = directory.path().join("batch");
        let mut lines = String::new();
        for round in 0..2000 {
            let host = round % 200 + 1;
            lines.push_str(&format!("addr add 10.77.0.{host}/32 dev v1\n"));
            lines.push_str(&format!("addr del 10.77.0.{host}/32 dev v1\n"));
        }
        lines.push_str("addr add 10.0.0.1/24 dev v0\n");
        std::fs::write(&batch, lines).unwrap();
        ip(&format!("-batch {}", batch.display()));
        assert!(
            notifications_lost() > 0,
            "the flood was too small to lose anything"
        );
        until(&mut state, "the last address", |state| {
            state.addresses().iter().any(|held| held.address == OWN) && state.addresses().len() == 1
        })
        .await;
        // And it goes on after that.
        ip("addr del 10.0.0.1/24 dev v0");
        until(&mut state, "no address", |state| {
            state.addresses().is_empty()
        })
        .await;
        task.abort();
    });
}

/// The sum of the drops of the netlink sockets of this thread's namespace.
fn notifications_lost() -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let mut lines = table.lines();
    let column = lines
        .next()
        .unwrap()
        .split_whitespace()
        .position(|name| name == "Drops")
        .expect("a column of drops");
    lines
        .map(|line| {
            line.split_whitespace()
                .nth(column)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum()
}

struct Applier {
    wanted: channel::Sender<Wanted>,
    reports: Receiver<VipReport>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Applier {
    async fn on(interface: &str, prefix_len: u8) -> Self {
        let (watcher, link) = watch::watch(interface).await.unwrap();
        let target = NetlinkTarget {
            interface: interface.to_owned(),
            vip: VIP,
            prefix_len,
        };
        let (wanted, receiver) = channel::channel(Wanted {
            present: false,
            generation: 0,
        });
        let (applier, reports) = VipApplier::new(target, receiver, link);
        let tasks = vec![tokio::spawn(watcher.run()), tokio::spawn(applier.run())];
        Self {
            wanted,
            reports,
            tasks,
        }
    }

    fn want(&self, present: bool, generation: u64) {
        self.wanted.send_replace(Wanted {
            present,
            generation,
        });
    }

    async fn reports(&mut self, generation: u64, presence: Presence) {
        until(&mut self.reports, "a report", |report| {
            (report.generation, report.presence) == (generation, presence) && report.error.is_none()
        })
        .await;
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Waits for what the kernel has, which nobody publishes.
async fn wait_until(what: &str, mut probe: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !probe() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn the_vip_is_where_it_is_wanted_whatever_others_do() {
    in_namespace(async || {
        let shows = |piece: &'static str| move || ip_shows("-4 addr show dev v0", piece);
        ip("addr add 10.0.0.1/24 dev v0");
        ip("addr add 10.0.0.100/32 dev v0");
        let mut applier = Applier::on("v0", 24).await;
        // What a crashed daemon left behind goes, although its prefix is another one.
        applier.reports(0, Presence::Absent).await;
        assert!(!ip_shows("-4 addr show dev v0", "10.0.0.100"));

        applier.want(true, 1);
        applier.reports(1, Presence::Present).await;
        assert!(ip_shows("-4 addr show dev v0", "inet 10.0.0.100/24"));
        ip("addr del 10.0.0.100/24 dev v0");
        wait_until("the VIP comes back", shows("inet 10.0.0.100/24")).await;
        ip("addr flush dev v0");
        wait_until(
            "the VIP comes back after a flush",
            shows("inet 10.0.0.100/24"),
        )
        .await;

        applier.want(false, 2);
        applier.reports(2, Presence::Absent).await;
        assert!(!ip_shows("-4 addr show dev v0", "10.0.0.100"));
        ip("addr add 10.0.0.100/16 dev v0");
        wait_until("an unwanted VIP goes", || {
            !ip_shows("-4 addr show dev v0", "10.0.0.100")
        })
        .await;
    });
}

#[test]
fn an_interface_that_goes_is_reported_and_gets_the_vip_when_it_is_back() {
    in_namespace(async || {
        let mut applier = Applier::on("v0", 24).await;
        applier.want(true, 1);
        applier.reports(1, Presence::Present).await;
        ip("link del v0");
        let report = until(&mut applier.reports, "a report of the loss", |report| {
            report.error.is_some()
        })
        .await;
        assert_eq!(report.presence, Presence::Absent);
        assert_eq!(report.error.as_deref(), Some("interface v0 is gone"));
        ip("link add v0 type veth peer name v1");
        applier.reports(1, Presence::Present).await;
        assert!(ip_shows("-4 addr show dev v0", "inet 10.0.0.100/24"));
        // Renamed, it is not ours any more, and must not keep the VIP.
        ip("addr add 10.0.0.1/24 dev v0");
        ip("link set v0 name other0");
        let report = until(&mut applier.reports, "a report of the renaming", |report| {
            report.error.is_some()
        })
        .await;
        assert_eq!(report.error.as_deref(), Some("interface v0 is gone"));
        assert!(!ip_shows("-4 addr show dev other0", "10.0.0.100"));
        applier.want(false, 2);
        until(&mut applier.reports, "gone", |report| {
            report.generation == 2
        })
        .await;
        ip("link set other0 name v0");
        applier.reports(2, Presence::Absent).await;
        assert!(!ip_shows("-4 addr show dev v0", "10.0.0.100"));
    });
}

#[test]
fn removing_the_vip_keeps_the_nodes_own_address() {
    in_namespace(async || {
        // The VIP came first, so the node's own address depends on it.
        ip("addr add 10.0.0.100/24 dev v0");
        ip("addr add 10.0.0.1/24 dev v0");
        assert!(ip_shows(
            "-4 addr show dev v0",
            "10.0.0.1/24 scope global secondary"
        ));
        assert!(remove_vip_now("v0", VIP).await.unwrap());
        // Kept by the kernel, and not taken away and put back.
        let promote = "/proc/sys/net/ipv4/conf/v0/promote_secondaries";
        assert_eq!(std::fs::read_to_string(promote).unwrap().trim(), "1");
        assert!(ip_shows("-4 addr show dev v0", "inet 10.0.0.1/24"));
        assert!(!ip_shows("-4 addr show dev v0", "10.0.0.100"));
        assert!(!remove_vip_now("v0", VIP).await.unwrap());
        assert!(!remove_vip_now("absent0", VIP).await.unwrap());
    });
}

#[test]
fn the_nodes_own_address_is_put_back_where_it_cannot_be_kept() {
    in_namespace(async || {
        // As in a container: /proc/sys cannot be written, seen from this thread.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let system = "/proc/sys";
        mount(Some(system), system, none, MsFlags::MS_BIND, none).unwrap();
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, system, none, read_only, none).unwrap();
        assert!(std::fs::write("/proc/sys/net/ipv4/conf/v0/promote_secondaries", "0").is_err());

        ip("addr add 10.0.0.100/24 dev v0");
        ip("addr add 10.0.0.1/24 dev v0");
        assert!(remove_vip_now("v0", VIP).await.unwrap());
        assert!(ip_shows("-4 addr show dev v0", "inet 10.0.0.1/24"));
        assert!(!ip_shows("-4 addr show dev v0", "10.0.0.100"));
    });
}

#[test]
fn a_vip_with_several_prefixes_is_removed_with_all_of_them() {
    in_namespace(async || {
        ip("addr add 10.0.0.1/24 dev v0");
        ip("addr add 10.0.0.100/24 dev v0");
        ip("addr add 10.0.0.100/32 dev v0");
        ip("addr add 10.0.0.100/16 dev v0");
        assert!(remove_vip_now("v0", VIP).await.unwrap());
        assert!(!ip_shows("-4 addr show dev v0", "10.0.0.100"));
        assert!(ip_shows("-4 addr show dev v0", "inet 10.0.0.1/24"));
    });
}

#[test]
fn what_the_driver_takes_off_is_told() {
    in_namespace(async || {
        assert!(offload::strips_vlan_tags("v0").await.unwrap());
        assert!(!offload::strips_vlan_tags("lo").await.unwrap());
        assert!(offload::strips_vlan_tags("absent0").await.is_err());
    });
}

#[test]
fn what_the_driver_runs_is_told_by_kernels_that_know_it() {
    in_namespace(async || {
        let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
        assert!(offload::has_native_xdp(9999).await.is_err());
        if kernel_version() < (6, 3) {
            let error = offload::has_native_xdp(index("v0")).await.unwrap_err();
            assert!(matches!(error, FeatureError::Refused { .. }), "{error}");
            return;
        }
        assert!(offload::has_native_xdp(index("v0")).await.unwrap());
        assert!(!offload::has_native_xdp(index("lo")).await.unwrap());
    });
}

fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn attached_xdp_programs_are_seen_with_their_mode_and_id() {
    in_namespace(async || {
        let directory = tempfile::tempdir().unwrap();
        let object = directory.path().join("pass.bpf.o");
        std::fs::write(&object, xdp_object()).unwrap();
        let netlink = Netlink::connect().unwrap();
        for (option, mode) in [
            ("xdpgeneric", AttachMode::Generic),
            ("xdpdrv", AttachMode::Native),
        ] {
            attach(option, &object);
            let xdp = netlink.interface("v0").await.unwrap().unwrap().xdp.unwrap();
            assert_eq!(xdp.mode, mode);
            assert_eq!(xdp.program_ids.len(), 1);
            assert!(
                ip_shows(
                    "-details link show dev v0",
                    &format!("prog/xdp id {}", xdp.program_ids[0])
                ),
                "{xdp:?}"
            );
            ip(&format!("link set dev v0 {option} off"));
            assert_eq!(netlink.interface("v0").await.unwrap().unwrap().xdp, None);
        }
    });
}

fn attach(option: &str, object: &Path) {
    ip(&format!(
        "link set dev v0 {option} obj {} sec xdp",
        object.display()
    ));
}
