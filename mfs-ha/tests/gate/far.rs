//! The other end of a cable: a thread in a network namespace of its own.

use std::net::Ipv4Addr;
use std::sync::mpsc;

use nix::sched::{CloneFlags, unshare};

use crate::common::ip;

type Work = Box<dyn FnOnce() + Send>;

/// Runs things at the other end. Clones share it; it ends with the last one.
#[derive(Clone)]
pub(crate) struct Far(mpsc::Sender<Work>);

impl Far {
    /// Moves `interface` to a network namespace of its own and gives it an address there.
    pub(crate) fn at_the_other_end(interface: &'static str, address: Ipv4Addr) -> Self {
        let (work, works) = mpsc::channel::<Work>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("another network namespace");
            tell.send(nix::unistd::gettid()).unwrap();
            for work in works {
                work();
            }
        });
        let thread = told.recv().unwrap();
        ip(&format!("link set {interface} netns {thread}"));
        let far = Self(work);
        far.run(move || {
            ip(&format!("addr add {address}/24 dev {interface}"));
            ip(&format!("link set {interface} up"));
        });
        far
    }

    /// Runs something there and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let work = move || {
            // The asker waits.
            tell.send(work()).ok();
        };
        self.0.send(Box::new(work)).unwrap();
        told.recv().expect("the work at the other end panicked")
    }
}
