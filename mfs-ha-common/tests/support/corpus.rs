//! The committed inputs of the fuzz targets, which are made of what the tests check.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Compares the corpus of a target, by name and content; `MFS_HA_BLESS=1` writes it.
pub(crate) fn assert_corpus(target: &str, expected: &BTreeMap<String, Vec<u8>>) {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let folder = corpora.join(target);
    if std::env::var("MFS_HA_BLESS").is_ok_and(|value| value == "1") {
        fs::create_dir_all(&folder).unwrap();
        for (name, input) in expected {
            fs::write(folder.join(name), input).unwrap();
        }
    }
    let entries = fs::read_dir(&folder).unwrap().map(Result::unwrap);
    let found: BTreeMap<String, Vec<u8>> = entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    let names = |corpus: &BTreeMap<String, Vec<u8>>| corpus.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(expected));
    assert!(
        found == *expected,
        "an input differs from what it is made of"
    );
}
