//! What the client's processes write down, one JSON object a line.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

/// An operation of the client that has ended. Times are nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What kind of worker.
    pub role: Role,
    /// Which of its kind, counted from 0.
    pub worker: usize,
    /// The file, by its name in the directory of the client.
    pub name: String,
    /// Before the first call.
    pub start_ns: u64,
    /// After the last one.
    pub end_ns: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Makes new files.
    Writer,
    /// Reads acknowledged files.
    Reader,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Acknowledged by all calls; the SHA-1 of the content that was handed over.
    Written(String),
    /// The content was that which had been acknowledged.
    Right,
    /// An acknowledged file was not there.
    Missing,
    /// An acknowledged file had another content.
    Wrong,
    /// A call failed.
    Failed(String),
}

/// The clock of all records.
///
/// # Errors
/// When the kernel has no such clock.
pub fn monotonic_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    u64::try_from(Duration::from(now).as_nanos()).context("the clock is out of range")
}

/// The SHA-1 of a content, in hexadecimal.
pub fn digest(content: &[u8]) -> String {
    let mut text = String::with_capacity(40);
    for byte in Sha1::digest(content) {
        // Writing into a String cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

/// Bytes that look random and are another sequence for each name (SplitMix64).
pub fn content(name: &str, length: usize) -> Vec<u8> {
    // FNV-1a.
    let mut state = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&next_random(&mut state).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The next number of a SplitMix64 sequence.
pub fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha1sum() {
        assert_eq!(digest(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }

    #[test]
    fn contents_differ_by_name_and_have_their_length() {
        assert_eq!(content("a", 13).len(), 13);
        assert_eq!(content("a", 0), Vec::<u8>::new());
        assert_eq!(content("a", 100), content("a", 100));
        assert_ne!(content("a", 100), content("b", 100));
    }

    #[test]
    fn a_record_is_one_line_and_reads_back() {
        let record = Record {
            role: Role::Writer,
            worker: 1,
            name: "x".to_owned(),
            start_ns: 1,
            end_ns: 2,
            outcome: Outcome::Written("ff".to_owned()),
        };
        let line = serde_json::to_string(&record).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
    }
}
