use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use tokio::task::JoinHandle;

use super::*;

/// A kernel that does as told, records what it was asked and when, and fails on demand.
#[derive(Clone)]
struct FakeKernel(Arc<Mutex<Model>>);

struct Model {
    held: Held,
    failures: VecDeque<VipError>,
    /// Says yes and does nothing.
    ignores: bool,
    asked: Vec<(u128, Operation)>,
    started: Instant,
}

impl FakeKernel {
    fn holding(held: Held) -> Self {
        Self(Arc::new(Mutex::new(Model {
            held,
            failures: VecDeque::new(),
            ignores: false,
            asked: Vec::new(),
            started: Instant::now(),
        })))
    }

    fn set(&self, change: impl FnOnce(&mut Model)) {
        change(&mut self.0.lock().unwrap());
    }

    /// What was asked since the last call.
    fn asked(&self) -> Vec<Operation> {
        self.asked_at()
            .into_iter()
            .map(|(_, operation)| operation)
            .collect()
    }

    /// The same, with the milliseconds since the start.
    fn asked_at(&self) -> Vec<(u128, Operation)> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }
}

impl VipTarget for FakeKernel {
    async fn execute(
        &mut self,
        operation: Operation,
        _last_ifindex: Option<u32>,
    ) -> Result<Found, VipError> {
        let mut model = self.0.lock().unwrap();
        let at = model.started.elapsed().as_millis();
        model.asked.push((at, operation));
        if let Some(error) = model.failures.pop_front() {
            return Err(error);
        }
        match operation {
            Operation::Add if !model.ignores => model.held = Held::AsConfigured,
            Operation::Remove if !model.ignores => model.held = Held::No,
            Operation::Read | Operation::Add | Operation::Remove => {}
        }
        Ok(Found {
            held: model.held,
            ifindex: 7,
        })
    }
}

struct Bench {
    kernel: FakeKernel,
    wanted: watch::Sender<Wanted>,
    link: watch::Sender<LinkState>,
    reports: watch::Receiver<VipReport>,
    task: JoinHandle<()>,
}

impl Bench {
    fn new(held: Held, wanted: Wanted) -> Self {
        let kernel = FakeKernel::holding(held);
        let (wanted, wanted_receiver) = watch::channel(wanted);
        let (link, link_receiver) = watch::channel(LinkState::default());
        let (applier, reports) = VipApplier::new(kernel.clone(), wanted_receiver, link_receiver);
        Self {
            kernel,
            wanted,
            link,
            reports,
            task: tokio::spawn(applier.run()),
        }
    }

    fn want(&self, present: bool, generation: u64) {
        self.wanted.send_replace(Wanted {
            present,
            generation,
        });
    }

    /// The next report that is new.
    async fn report(&mut self) -> VipReport {
        tokio::time::timeout(Duration::from_secs(60), self.reports.changed())
            .await
            .expect("no report within a minute")
            .unwrap();
        self.reports.borrow_and_update().clone()
    }

    /// Lets the applier run until it has nothing to do.
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    fn somebody_changes(&self, held: Held) {
        self.kernel.set(|model| model.held = held);
        self.link.send_replace(LinkState::default());
    }
}

fn wanted(present: bool, generation: u64) -> Wanted {
    Wanted {
        present,
        generation,
    }
}

fn done(generation: u64, presence: Presence) -> VipReport {
    VipReport {
        generation,
        presence,
        error: None,
        failures: 0,
        is_contested: false,
    }
}

fn contested(generation: u64, presence: Presence) -> VipReport {
    VipReport {
        is_contested: true,
        ..done(generation, presence)
    }
}

fn refused() -> VipError {
    VipError::Netlink(NetlinkError::Refused {
        operation: "add an address",
        source: Errno::EPERM,
    })
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_is_done_and_reported() {
    let mut bench = Bench::new(Held::No, wanted(false, 1));
    assert_eq!(bench.report().await, done(1, Presence::Absent));
    assert_eq!(bench.kernel.asked(), [Operation::Read]);

    bench.want(true, 2);
    assert_eq!(bench.report().await, done(2, Presence::Present));
    assert_eq!(bench.kernel.asked(), [Operation::Read, Operation::Add]);

    bench.want(true, 3);
    assert_eq!(bench.report().await, done(3, Presence::Present));
    assert_eq!(bench.kernel.asked(), [Operation::Read]);

    bench.want(false, 4);
    assert_eq!(bench.report().await, done(4, Presence::Absent));
    assert_eq!(bench.kernel.asked(), [Operation::Read, Operation::Remove]);

    drop(bench.wanted);
    bench.task.await.unwrap();
    assert_eq!(bench.kernel.asked(), []);
}

#[tokio::test(start_paused = true)]
async fn a_vip_left_over_is_removed_at_the_start_whatever_its_prefix() {
    for held in [Held::WithOtherPrefix, Held::AsConfigured] {
        let mut bench = Bench::new(held, wanted(false, 1));
        assert_eq!(bench.report().await, done(1, Presence::Absent));
        assert_eq!(bench.kernel.asked(), [Operation::Read, Operation::Remove]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_configured_prefix_is_added_next_to_another_one() {
    let mut bench = Bench::new(Held::WithOtherPrefix, wanted(true, 1));
    assert_eq!(bench.report().await, done(1, Presence::Present));
    assert_eq!(bench.kernel.asked(), [Operation::Read, Operation::Add]);
}

#[tokio::test(start_paused = true)]
async fn only_the_latest_of_several_wishes_counts() {
    let mut bench = Bench::new(Held::No, wanted(false, 1));
    assert_eq!(bench.report().await, done(1, Presence::Absent));
    bench.kernel.asked();
    bench.want(true, 2);
    bench.want(false, 3);
    bench.want(true, 4);
    assert_eq!(bench.report().await, done(4, Presence::Present));
    assert_eq!(bench.kernel.asked(), [Operation::Read, Operation::Add]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_reported_each_and_retried_ever_more_slowly() {
    let mut bench = Bench::new(Held::No, wanted(false, 0));
    assert_eq!(bench.report().await, done(0, Presence::Absent));
    bench.kernel.asked();
    bench.kernel.set(|model| {
        model.failures.extend((0..8).map(|_| refused()));
        model.started = Instant::now();
    });
    bench.want(true, 1);
    for failures in 1..=8 {
        let report = bench.report().await;
        assert_eq!((report.generation, report.failures), (1, failures));
        assert_eq!(report.presence, Presence::Unknown);
        assert!(
            report
                .error
                .unwrap()
                .contains("refused to add an address: EPERM")
        );
    }
    assert_eq!(bench.report().await, done(1, Presence::Present));
    let times: Vec<u128> = bench
        .kernel
        .asked_at()
        .into_iter()
        .filter(|(_, operation)| *operation == Operation::Read)
        .map(|(at, _)| at)
        .collect();
    let pauses: Vec<u128> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Tokio's timers are up to a millisecond late.
    for (pause, expected) in pauses
        .iter()
        .zip([50, 100, 200, 400, 800, 1000, 1000, 1000])
    {
        assert!((expected..=expected + 1).contains(pause), "{pauses:?}");
    }
    assert_eq!(pauses.len(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_new_wish_does_not_wait_for_a_retry() {
    let mut bench = Bench::new(Held::AsConfigured, wanted(true, 1));
    assert_eq!(bench.report().await, done(1, Presence::Present));
    bench
        .kernel
        .set(|model| model.failures.extend((0..10).map(|_| refused())));
    bench.want(true, 2);
    while bench.report().await.failures < 10 {}
    let before = Instant::now();
    bench.want(false, 3);
    assert_eq!(bench.report().await, done(3, Presence::Absent));
    assert!(
        before.elapsed() < Duration::from_millis(2),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_is_gone_holds_no_vip_and_gets_it_when_it_is_back() {
    let mut bench = Bench::new(Held::AsConfigured, wanted(true, 1));
    assert_eq!(bench.report().await, done(1, Presence::Present));
    bench.kernel.set(|model| {
        model.held = Held::No;
        let gone = || VipError::InterfaceGone {
            interface: "eth0".into(),
        };
        model.failures.extend([gone(), gone()]);
    });
    bench.link.send_replace(LinkState::default());
    let report = bench.report().await;
    assert_eq!(report.presence, Presence::Absent);
    assert_eq!(report.error.as_deref(), Some("interface eth0 is gone"));
    // The second time is the retry; then the watcher tells that the interface is back.
    assert_eq!(bench.report().await.failures, 2);
    bench.link.send_replace(LinkState::default());
    assert_eq!(bench.report().await, contested(1, Presence::Present));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_effect_is_a_failure() {
    let mut bench = Bench::new(Held::No, wanted(false, 1));
    assert_eq!(bench.report().await, done(1, Presence::Absent));
    bench.kernel.set(|model| model.ignores = true);
    bench.want(true, 2);
    let report = bench.report().await;
    assert_eq!((report.generation, report.presence), (2, Presence::Absent));
    assert!(report.error.unwrap().contains("without effect"));
    // Its own attempts change the interface: they must not drive it faster than the retries.
    bench.kernel.asked();
    for _ in 0..100 {
        bench.link.send_replace(LinkState::default());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let attempts = bench.kernel.asked().len();
    assert!(attempts <= 6, "{attempts} requests within 100 ms");
    bench.kernel.set(|model| model.ignores = false);
    let mut report = bench.report().await;
    while report.error.is_some() {
        report = bench.report().await;
    }
    assert_eq!(report, done(2, Presence::Present));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_changes_is_repaired_at_once_and_then_not_in_a_hot_loop() {
    let mut bench = Bench::new(Held::No, wanted(true, 1));
    assert_eq!(bench.report().await, done(1, Presence::Present));
    bench.settle().await;
    bench.kernel.set(|model| {
        model.asked.clear();
        model.started = Instant::now();
    });
    // Somebody takes the VIP away whenever it is there; our own change is notified too.
    let mut repairs: Vec<u128> = Vec::new();
    while repairs.len() < 7 {
        let held = bench.kernel.0.lock().unwrap().held;
        bench.somebody_changes(held);
        bench.settle().await;
        bench.somebody_changes(Held::No);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let asked = bench.kernel.asked_at().into_iter();
        repairs.extend(
            asked
                .filter(|(_, what)| *what == Operation::Add)
                .map(|(at, _)| at),
        );
    }
    assert!(repairs[0] <= 1, "the first repair waits: {repairs:?}");
    let pauses: Vec<u128> = repairs.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (pause, least) in pauses.iter().zip([50, 100, 200, 400, 800, 1000]) {
        assert!((least..least + 5).contains(pause), "{pauses:?}");
    }

    // After a quiet while the next one is repaired at once again.
    tokio::time::sleep(CONTEST_OVER_AFTER + Duration::from_secs(1)).await;
    bench.kernel.set(|model| {
        model.asked.clear();
        model.started = Instant::now();
    });
    bench.reports.mark_unchanged();
    bench.somebody_changes(Held::No);
    bench.settle().await;
    let asked = bench.kernel.asked_at();
    assert_eq!(asked, [(0, Operation::Read), (0, Operation::Add)]);
    // It reads like the last report, and is one all the same: the VIP has to be announced again.
    assert!(bench.reports.has_changed().unwrap());
    assert_eq!(bench.report().await, contested(1, Presence::Present));
}

#[tokio::test(start_paused = true)]
async fn a_vip_that_appears_unasked_goes() {
    let mut bench = Bench::new(Held::No, wanted(false, 1));
    assert_eq!(bench.report().await, done(1, Presence::Absent));
    bench.kernel.asked();
    bench.somebody_changes(Held::WithOtherPrefix);
    bench.settle().await;
    assert_eq!(bench.kernel.asked(), [Operation::Read, Operation::Remove]);
    // It may come again at any time, until something else is wanted.
    assert_eq!(bench.report().await, contested(1, Presence::Absent));
    bench.somebody_changes(Held::No);
    bench.settle().await;
    assert_eq!(*bench.reports.borrow(), contested(1, Presence::Absent));
    bench.want(false, 2);
    assert_eq!(bench.report().await, done(2, Presence::Absent));
}

#[tokio::test(start_paused = true)]
async fn without_the_watcher_wishes_are_still_followed() {
    let mut bench = Bench::new(Held::No, wanted(false, 1));
    assert_eq!(bench.report().await, done(1, Presence::Absent));
    let (unused, _) = watch::channel(LinkState::default());
    drop(std::mem::replace(&mut bench.link, unused));
    bench.settle().await;
    bench.want(true, 2);
    assert_eq!(bench.report().await, done(2, Presence::Present));
    bench.settle().await;
    assert_eq!(
        bench.kernel.asked(),
        [Operation::Read, Operation::Read, Operation::Add]
    );
}

fn address(text: &str, secondary: bool) -> Address {
    let (address, prefix_len) = text.split_once('/').unwrap();
    Address {
        address: address.parse().unwrap(),
        prefix_len: prefix_len.parse().unwrap(),
        secondary,
    }
}

#[test]
fn only_the_first_address_of_a_shared_prefix_takes_others_along() {
    let vip = Ipv4Addr::new(10, 0, 0, 100);
    let first = [
        address("10.0.0.100/24", false),
        address("10.0.0.1/24", true),
    ];
    assert!(takes_others_along(&first, vip));
    let second = [
        address("10.0.0.1/24", false),
        address("10.0.0.100/24", true),
    ];
    assert!(!takes_others_along(&second, vip));
    let apart = [
        address("10.0.0.100/32", false),
        address("10.0.0.1/24", false),
        address("10.0.0.2/24", true),
    ];
    assert!(!takes_others_along(&apart, vip));
    assert!(!takes_others_along(&[address("10.0.0.100/24", false)], vip));
}

#[test]
fn what_was_lost_is_found_by_comparing() {
    let vip = Ipv4Addr::new(10, 0, 0, 100);
    let interface = |ifindex, addresses: &[Address]| Interface {
        name: "eth0".into(),
        ifindex,
        mac: None,
        mtu: 1500,
        admin_up: true,
        running: true,
        loopback: false,
        addresses: addresses.to_vec(),
        xdp: None,
    };
    let before = interface(
        7,
        &[
            address("10.0.0.100/24", false),
            address("10.0.0.1/24", true),
            address("10.1.0.1/16", false),
        ],
    );
    let promoted = interface(
        7,
        &[address("10.0.0.1/24", false), address("10.1.0.1/16", false)],
    );
    assert_eq!(lost(&before, &promoted, vip).count(), 0);
    let after = interface(7, &[address("10.1.0.1/16", false)]);
    assert_eq!(
        lost(&before, &after, vip).collect::<Vec<_>>(),
        [address("10.0.0.1/24", true)]
    );
    let anew = interface(8, &[]);
    assert_eq!(lost(&before, &anew, vip).count(), 0);
}
