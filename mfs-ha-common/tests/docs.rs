//! `docs/protocol.md` says what the code does: every counter in the table of frame classes, every rule.

#![expect(
    clippy::unwrap_used,
    reason = "a file that cannot be read fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use mfs_ha_common::carp::trailer::TRAILER_LEN;
use mfs_ha_common::heartbeat::DATAGRAM_LEN;
use mfs_ha_common::promotion::{PROMOTION, RESIGNATION};
use mfs_ha_common::stats::{DropReason, GateReason, PassReason, Stats};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn protocol() -> String {
    fs::read_to_string(root().join("docs/protocol.md")).unwrap()
}

fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(&format!("\n## {heading}\n")).unwrap();
    let rest = &text[start + 1..];
    let end = rest[1..].find("\n## ").map_or(rest.len(), |end| end + 1);
    &rest[..end]
}

/// Returns the cells of all rows of a section's tables.
fn rows(section: &str) -> Vec<Vec<&str>> {
    section
        .lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|---"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[test]
fn every_counter_is_documented_once_under_its_verdict() {
    let text = protocol();
    let mut documented: BTreeMap<&str, &str> = BTreeMap::new();
    for row in rows(section(&text, "Frame classes")).into_iter().skip(1) {
        let [_, verdict, counter, _] = row[..] else {
            panic!("four cells: {row:?}");
        };
        let counter = counter
            .strip_prefix('`')
            .unwrap()
            .strip_suffix('`')
            .unwrap();
        assert_eq!(documented.insert(counter, verdict), None, "{counter} twice");
    }
    let passes = PassReason::ALL.iter().map(|reason| (reason.name(), "PASS"));
    let drops = DropReason::ALL.iter().map(|reason| (reason.name(), "DROP"));
    let expected: BTreeMap<&str, &str> = passes
        .chain(drops)
        .chain(["accepted", "accepted_heartbeats"].map(|name| (name, "ACCEPT")))
        .collect();
    assert_eq!(documented, expected);
}

/// The rows stand in the order in which the code asks, which is that of the lists in `stats.rs` within
/// either verdict.
#[test]
fn the_table_is_in_the_order_of_the_checks() {
    let text = protocol();
    let table = rows(section(&text, "Frame classes"));
    let counters: Vec<&str> = table
        .iter()
        .skip(1)
        .map(|row| row[2].trim_matches('`'))
        .collect();
    let drops: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    let first_drop = counters.iter().position(|name| *name == drops[0]).unwrap();
    assert_eq!(counters[first_drop..first_drop + drops.len()], drops);
    let accepted = ["accepted", "accepted_heartbeats"];
    assert_eq!(counters[first_drop + drops.len()..], accepted);
}

/// The widths of a section's byte table add up, and it has these many bytes.
fn require_bytes(heading: &str, len: usize) {
    let text = protocol();
    let mut end = 0;
    for row in rows(section(&text, heading)).into_iter().skip(1) {
        assert_eq!(row[0].parse(), Ok(end), "{row:?}");
        end += row[1].parse::<usize>().unwrap();
    }
    assert_eq!(end, len, "{heading}");
}

#[test]
fn the_byte_tables_have_no_hole() {
    require_bytes("Heartbeats", DATAGRAM_LEN);
    require_bytes("Signed trailer", TRAILER_LEN);
}

#[test]
fn the_counters_of_accepted_adverts_are_explained() {
    let text = protocol();
    let classes = section(&text, "Frame classes");
    for (name, _) in Stats::default().fields() {
        assert!(classes.contains(&format!("`{name}`")), "{name}");
    }
    let gate = section(&text, "The gate");
    for reason in GateReason::ALL {
        let name = reason.name();
        assert!(gate.contains(&format!("`{name}`")), "{name}");
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Collects what stands behind "rule E", or another letter.
fn cited(text: &str, letter: char) -> Vec<String> {
    let lead = format!("rule {}", letter.to_ascii_lowercase());
    text.to_lowercase()
        .split(&lead)
        .skip(1)
        .map(|rest| {
            rest.chars()
                .take_while(char::is_ascii_alphanumeric)
                .collect()
        })
        .filter(|rule: &String| rule.starts_with(|c: char| c.is_ascii_digit()))
        .collect()
}

fn require_rules(heading: &str, letter: char, count: usize) {
    let text = protocol();
    let stated: BTreeSet<String> = rows(section(&text, heading))
        .iter()
        .filter_map(|row| {
            row[0]
                .strip_prefix(&format!("**{letter}"))?
                .split_once("**")
        })
        .map(|(digits, _)| digits.to_string())
        .collect();
    assert_eq!(stated.len(), count, "{stated:?}");
    let mut files = Vec::new();
    for folder in ["mfs-ha-common/src", "mfs-ha/src", "mfs-ha-ebpf/src"] {
        sources(&root().join(folder), &mut files);
    }
    let mut cited_in_code = BTreeSet::new();
    for file in files {
        for rule in cited(&fs::read_to_string(&file).unwrap(), letter) {
            let place = file.display();
            // A part of a rule that has no row of its own is cited with its letter.
            let whole = rule.trim_end_matches(|c: char| c.is_ascii_lowercase());
            let row = if stated.contains(&rule) { &rule } else { whole };
            assert!(stated.contains(row), "{place}: rule {letter}{rule}");
            cited_in_code.insert(row.to_owned());
        }
    }
    assert_eq!(
        cited_in_code, stated,
        "each rule is cited where it is carried out"
    );
}

#[test]
fn every_rule_is_stated_and_cited() {
    require_rules("Election in carp mode", 'E', 11);
    require_rules("Election in quorum mode", 'L', 14);
    require_rules("The gate", 'G', 9);
    require_rules("Serving metadata", 'M', 6);
}

/// The steps, in the order in which they are done, with the limits of the code.
#[test]
fn the_steps_are_those_of_the_code() {
    let text = protocol();
    let documented: Vec<Vec<&str>> = rows(section(&text, "Serving metadata"))
        .into_iter()
        .filter(|row| row.len() == 4 && row[0] != "id")
        .collect();
    let steps: Vec<_> = PROMOTION.iter().chain(&RESIGNATION).collect();
    assert_eq!(documented.len(), steps.len());
    for (row, step) in documented.iter().zip(steps) {
        let info = step.info();
        let limit = if info.limit.subsec_millis() == 0 {
            format!("{} s", info.limit.as_secs())
        } else {
            format!("{} ms", info.limit.as_millis())
        };
        assert_eq!(row[0], info.id);
        assert_eq!(row[1], format!("`{}`", info.name));
        let first = row[2].split([',', '(']).next().unwrap();
        assert_eq!(first.split(" for ").next(), Some(limit.as_str()), "{row:?}");
        assert_eq!(row[3], info.undo, "{}", info.id);
    }
}
