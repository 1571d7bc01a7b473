//! Any bytes as a capture file: no panic, an end, packets in order, and nothing after an error.

#![no_main]

#[path = "../../mfs-ha/src"]
mod daemon {
    #[expect(
        dead_code,
        unreachable_pub,
        reason = "a module of the daemon, of which one half is used"
    )]
    pub(crate) mod capture;
}

use daemon::capture::{CaptureReader, PACKET_BYTES_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(reader) = CaptureReader::new(input) else {
        return;
    };
    let mut expected = 0;
    let mut bytes = 0;
    let mut has_failed = false;
    for record in reader {
        assert!(!has_failed, "something follows an error");
        match record {
            Ok(record) => {
                assert_eq!(record.index, expected);
                assert!(u32::try_from(record.bytes.len()).is_ok_and(|len| len <= PACKET_BYTES_MAX));
                expected += 1;
                bytes += record.bytes.len();
            }
            Err(_) => has_failed = true,
        }
    }
    assert!(bytes <= input.len(), "more bytes than the file has");
});
