//! Any bytes as changelogs: no panic, changes without a hole, each as it stands in a file, and the same
//! however the files are read.

#![no_main]

use std::io::{BufRead, BufReader};
use std::sync::atomic::AtomicBool;

#[path = "../../mfs-ha/src/moosefs"]
mod moosefs {
    #[expect(
        dead_code,
        unreachable_pub,
        reason = "a module of the daemon, of which one part is used"
    )]
    pub(crate) mod changelog;
}

use libfuzzer_sys::fuzz_target;
use moosefs::changelog::Line;
use moosefs::changelog::merge::{Merged, merge};

/// Ends a file in the input: no byte of UTF-8.
const SEPARATOR: u8 = 0xff;

/// Number and text of each change.
type Changes = Vec<(u64, Vec<u8>)>;

fuzz_target!(|input: &[u8]| {
    let Some((base, input)) = input.split_first() else {
        return;
    };
    let base = u64::from(*base);
    let files: Vec<&[u8]> = input.split(|byte| *byte == SEPARATOR).take(8).collect();
    let (merged, changes) = merge_all(&files, base);

    assert_eq!(merged.lines, changes.len() as u64);
    assert_eq!(merged.next, base + merged.lines);
    for (expected, (number, text)) in (base..).zip(&changes) {
        assert_eq!(*number, expected);
        let line = [format!("{number}: ").as_bytes(), text].concat();
        assert_eq!(Line::parse(&line).map(|line| line.number), Ok(expected));
        let is_there = |file: &&[u8]| {
            file.split_inclusive(|byte| *byte == b'\n')
                .any(|found| is_line(found, expected, text))
        };
        assert!(files.iter().any(is_there), "a change that is in no file");
    }

    let slow = files
        .iter()
        .map(|file| BufReader::with_capacity(3, *file))
        .collect();
    assert_eq!(merge_all_of(slow, base), (merged, changes));
});

/// Whether this is that change; its number may have zeros in front.
fn is_line(found: &[u8], number: u64, text: &[u8]) -> bool {
    found
        .strip_suffix(b"\n")
        .and_then(|line| Line::parse(line).ok())
        .is_some_and(|line| line.number == number && line.text == text)
}

fn merge_all(files: &[&[u8]], base: u64) -> (Merged, Changes) {
    merge_all_of(files.to_vec(), base)
}

fn merge_all_of<R: BufRead>(files: Vec<R>, base: u64) -> (Merged, Changes) {
    let files = files
        .into_iter()
        .enumerate()
        .map(|(index, file)| (index.to_string(), file))
        .collect();
    let mut changes = Vec::new();
    let merged = merge(files, base, &AtomicBool::new(false), &mut |line| {
        changes.push((line.number, line.text.to_vec()));
        Ok(())
    });
    match merged {
        Ok(merged) => (merged, changes),
        Err(error) => unreachable!("nothing can fail in memory: {error}"),
    }
}
