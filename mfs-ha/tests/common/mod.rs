//! A network of its own for a test, and what is put into it.
#![allow(dead_code, reason = "each test program uses its part")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on panics; and dead code differs from program to program"
)]

pub(crate) mod moosefs;

use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

/// Within this time anything that is waited for must have happened.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a test on a thread with its own network, where `v0` and `v1` are the ends of a cable.
pub(crate) fn in_namespace<F>(test: F)
where
    F: AsyncFnOnce() + Send + 'static,
{
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("a network namespace of its own: this test needs root");
        ip("link set lo up");
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        // The kernel notices a carrier a moment after there is one.
        moosefs::wait_until("the cable carries", || {
            ["v0", "v1"].map(|end| ip_shows(&format!("link show dev {end}"), "state UP"))
                == [true, true]
        });
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async {
                tokio::time::timeout(DEADLINE * 3, test())
                    .await
                    .expect("the test hangs");
            });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in the namespace of this thread, which a child inherits.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("ip of iproute2");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs `ip` where it does not matter whether there was anything to do.
pub(crate) fn ip_may_fail(arguments: &str) {
    Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("ip of iproute2");
}

pub(crate) fn ip_shows(arguments: &str, piece: &str) -> bool {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("ip of iproute2");
    String::from_utf8_lossy(&output.stdout).contains(piece)
}

/// Name, type, flags, content, linked section, first global symbol, size of an entry.
type Section<'s> = (u32, u32, u64, &'s [u8], u32, u32, u64);

/// An object file with one XDP program that passes everything (`r0 = 2; exit`), as a compiler
/// would write it.
pub(crate) fn xdp_object() -> Vec<u8> {
    const NAMES: &[u8] = b"\0.strtab\0xdp\0license\0.symtab\0pass_all\0";
    const CODE: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    const LICENSE: &[u8] = b"GPL\0";
    let name = |wanted: &str| {
        let at = NAMES
            .windows(wanted.len())
            .position(|piece| piece == wanted.as_bytes());
        u32::try_from(at.unwrap()).unwrap()
    };
    let mut symbols = vec![0; 24];
    symbols.extend(name("pass_all").to_le_bytes());
    symbols.extend([0x12, 0]); // a global function
    symbols.extend(2_u16.to_le_bytes()); // in the second section
    symbols.extend(0_u64.to_le_bytes());
    symbols.extend((CODE.len() as u64).to_le_bytes());

    let sections: [Section<'_>; 4] = [
        (name(".strtab"), 3, 0, NAMES, 0, 0, 0),
        (name("xdp\0"), 1, 6, &CODE, 0, 0, 0),
        (name("license"), 1, 3, LICENSE, 0, 0, 0),
        (name(".symtab"), 2, 0, &symbols, 1, 1, 24),
    ];
    let mut content = Vec::new();
    let mut table = vec![0; 64];
    for (name, kind, flags, bytes, link, info, entry) in sections {
        content.resize(content.len().next_multiple_of(8), 0);
        table.extend(name.to_le_bytes());
        table.extend(kind.to_le_bytes());
        for value in [flags, 0, 64 + content.len() as u64, bytes.len() as u64] {
            table.extend(value.to_le_bytes());
        }
        table.extend(link.to_le_bytes());
        table.extend(info.to_le_bytes());
        for value in [8, entry] {
            table.extend(value.to_le_bytes());
        }
        content.extend(bytes);
    }
    content.resize(content.len().next_multiple_of(8), 0);

    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [1_u16, 247] {
        file.extend(half.to_le_bytes()); // relocatable, for BPF
    }
    file.extend(1_u32.to_le_bytes());
    for value in [0, 0, 64 + content.len() as u64] {
        file.extend(value.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 0, 0, 64, 5, 1] {
        file.extend(half.to_le_bytes());
    }
    file.extend(content);
    file.extend(table);
    file
}
