//! What the daemon has to be allowed to do.

use anyhow::{Context as _, bail};

/// Capabilities by number (`linux/capability.h`), and what each is for.
const NEEDED: [(u8, &str, &str); 4] = [
    (12, "CAP_NET_ADMIN", "the VIP and the XDP program"),
    (13, "CAP_NET_RAW", "sending adverts"),
    // Without it the verifier refuses arithmetic on packet pointers.
    (38, "CAP_PERFMON", "the XDP program"),
    (CAP_BPF, "CAP_BPF", "the XDP program and its maps"),
];

/// What running mfsmaster and mfsmetalogger needs besides.
const NEEDED_FOR_METADATA: [(u8, &str, &str); 7] = [
    (0, "CAP_CHOWN", "files of the user of mfsmaster"),
    (1, "CAP_DAC_OVERRIDE", "the metadata directory"),
    (3, "CAP_FOWNER", "files of the user of mfsmaster"),
    (5, "CAP_KILL", "ending mfsmaster"),
    (6, "CAP_SETGID", "starting mfsmaster as its user"),
    (7, "CAP_SETUID", "starting mfsmaster as its user"),
    (19, "CAP_SYS_PTRACE", "seeing the sockets of mfsmaster"),
];

const CAP_BPF: u8 = 39;
/// `CAP_SYS_ADMIN`, which included `CAP_PERFMON` and `CAP_BPF` before Linux 5.8 and still does.
const CAP_SYS_ADMIN: u8 = 21;
const IN_SYS_ADMIN: [u8; 2] = [38, 39];

/// Checks the effective capabilities of this process.
///
/// # Errors
/// Names what is missing.
pub fn require() -> anyhow::Result<()> {
    refuse(&missing(&NEEDED, effective()?))
}

/// Checks what a configuration with `[moosefs]` needs besides.
///
/// # Errors
/// Names what is missing.
pub fn require_for_metadata() -> anyhow::Result<()> {
    refuse(&missing(&NEEDED_FOR_METADATA, effective()?))
}

fn refuse(missing: &[String]) -> anyhow::Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "missing privileges: {}; run it as root, or as a service with these capabilities",
        missing.join(", ")
    )
}

fn missing(needed: &[(u8, &str, &str)], effective: u64) -> Vec<String> {
    let has = |bit: u8| effective & (1 << bit) != 0;
    needed
        .iter()
        .filter(|(bit, _, _)| !(has(*bit) || IN_SYS_ADMIN.contains(bit) && has(CAP_SYS_ADMIN)))
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect()
}

fn effective() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .context("find the capabilities in /proc/self/status")?;
    u64::from_str_radix(line.trim(), 16).context("read the capabilities in /proc/self/status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let missing = |effective: u64| missing(&NEEDED, effective);
        assert_eq!(missing(u64::MAX), Vec::<String>::new());
        assert_eq!(missing(0).len(), 4);
        assert_eq!(missing((1 << 12) | (1 << 13) | (1 << 21)).len(), 0);
        assert!(missing((1 << 12) | (1 << 38) | (1 << 39))[0].starts_with("CAP_NET_RAW"));
        assert!(missing((1 << 12) | (1 << 13) | (1 << 39))[0].starts_with("CAP_PERFMON"));
        let metadata = super::missing(&NEEDED_FOR_METADATA, u64::MAX - (1 << 5));
        assert_eq!(metadata, ["CAP_KILL (ending mfsmaster)"]);
    }
}
