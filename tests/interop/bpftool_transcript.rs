//! What `docs/bpftool.md` shows is what bpftool says about the maps of real nodes.
//!
//! Names, types and sizes have to agree; values, ids and the number of CPUs may differ. A field that is
//! added, removed or renamed fails the test until the document is renewed:
//! `MFS_HA_BLESS=1 cargo test -p mfs-ha-tests --test bpftool_transcript` writes the new transcripts.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails as the test does, with its line"
)]

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mfs_ha_lab::net::netns::run;
use mfs_ha_lab::net::topology::Topology;
use mfs_ha_lab::requirements::{find_tool, require_tools};
use mfs_ha_lab::serial;
use mfs_ha_lab::software::mfsha::{MfsHa, MfsHaOptions, number_at};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

const SETTLE: Duration = Duration::from_secs(15);
/// So much older than the dump the last advert of a living master may be on a busy machine.
const FRESH: Duration = Duration::from_secs(5);
/// Stands for the instance, which has another name in each run.
const INSTANCE: &str = "INSTANCE";
const PINS: &str = "/sys/fs/bpf/mfs-ha";
const BLESS: &str = "MFS_HA_BLESS";

/// Name of a transcript in the document, and how its output is compared.
const TRANSCRIPTS: [(&str, Comparison); 6] = [
    ("pins", Comparison::Text),
    ("peers-map", Comparison::Definition),
    ("peers", Comparison::Structure),
    ("lease", Comparison::Structure),
    ("stats-map", Comparison::Definition),
    ("stats", Comparison::Structure),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    /// Word for word.
    Text,
    /// `bpftool map show`: kind, name and sizes of a map.
    Definition,
    /// `bpftool map dump`: names and types of the fields.
    Structure,
}

/// A command and what it printed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Transcript {
    command: String,
    output: String,
}

fn command_of(name: &str, instance: &str) -> String {
    let pin = |map: &str| format!("{PINS}/{instance}/{map}");
    match name {
        "pins" => format!("ls {PINS}/{instance}"),
        "peers-map" => format!("bpftool map show pinned {}", pin("peers")),
        "peers" => format!("bpftool map dump pinned {}", pin("peers")),
        "lease" => format!("bpftool map dump pinned {}", pin("lease")),
        "stats-map" => format!("bpftool map show pinned {}", pin("stats")),
        "stats" => format!("bpftool map dump pinned {}", pin("stats")),
        other => panic!("no command for the transcript {other}"),
    }
}

fn take(name: &str, instance: &str) -> Transcript {
    let command = command_of(name, instance);
    let mut words = command.split(' ');
    let program = words.next().unwrap();
    let output = run(Command::new(find_tool(program).unwrap()).args(words)).unwrap();
    Transcript { command, output }
}

/// What two outputs have to have in common, piece by piece.
fn essence(comparison: Comparison, output: &str) -> BTreeSet<String> {
    match comparison {
        Comparison::Text => output.lines().map(str::to_owned).collect(),
        Comparison::Definition => {
            // `17: hash  name PEERS  flags 0x0  key 4B  value 32B  max_entries 64  memlock …`
            let words: Vec<&str> = output
                .split_whitespace()
                .skip(1)
                .take_while(|word| *word != "memlock")
                .collect();
            BTreeSet::from([words.join(" ")])
        }
        Comparison::Structure => {
            let dump = serde_json::from_str(output).unwrap_or_else(|error| {
                panic!("bpftool's dump is no JSON ({error}), so the map has no BTF:\n{output}")
            });
            let mut fields = BTreeSet::new();
            collect_fields("", &dump, &mut fields);
            fields
        }
    }
}

/// Lists a dump without its values, as `[].value.reserved[5]: number`.
fn collect_fields(path: &str, value: &Value, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(record) => {
            for (name, value) in record {
                collect_fields(&format!("{path}.{name}"), value, fields);
            }
        }
        // Entries, or CPUs: any number of records that are alike.
        Value::Array(items) if items.iter().all(Value::is_object) => {
            let path = format!("{path}[]");
            let mut records = items.iter().map(|item| {
                let mut record = BTreeSet::new();
                collect_fields(&path, item, &mut record);
                record
            });
            let first = records.next();
            assert!(
                records.all(|record| Some(&record) == first.as_ref()),
                "records of one map differ: {value}"
            );
            fields.extend(first.unwrap_or_else(|| BTreeSet::from([format!("{path}: none")])));
        }
        Value::Array(items) => {
            for item in items {
                collect_fields(&format!("{path}[{}]", items.len()), item, fields);
            }
        }
        Value::Number(_) => add(fields, path, "number"),
        Value::String(_) => add(fields, path, "text"),
        Value::Null | Value::Bool(_) => add(fields, path, "neither number nor text"),
    }
}

fn add(fields: &mut BTreeSet<String>, path: &str, kind: &str) {
    fields.insert(format!("{path}: {kind}"));
}

/// # Panics
/// When the document shows something else than bpftool.
fn assert_alike(name: &str, comparison: Comparison, shown: &Transcript, taken: &Transcript) {
    assert_eq!(anonymous(&shown.command), anonymous(&taken.command));
    let (shown, taken) = (
        essence(comparison, &shown.output),
        essence(comparison, &taken.output),
    );
    assert!(
        shown == taken,
        "the transcript {name:?} is out of date.\n\
         Only docs/bpftool.md has {:#?}\nOnly bpftool has {:#?}\n\
         {BLESS}=1 renews the document.",
        shown.difference(&taken).collect::<Vec<_>>(),
        taken.difference(&shown).collect::<Vec<_>>()
    );
}

/// Where a transcript stands: after its marker, between the fences.
fn place(document: &str, name: &str) -> (usize, usize) {
    let marker = format!("<!-- transcript: {name} -->\n```console\n");
    let begin = document
        .find(&marker)
        .unwrap_or_else(|| panic!("docs/bpftool.md has no transcript {name:?}"))
        + marker.len();
    let length = document[begin..].find("```\n").unwrap();
    (begin, begin + length)
}

fn documented(document: &str, name: &str) -> Transcript {
    let (begin, end) = place(document, name);
    let text = document[begin..end].strip_prefix("# ").unwrap_or_else(|| {
        panic!("the transcript {name:?} does not begin with `# ` and a command")
    });
    let (command, output) = text.split_once('\n').unwrap();
    Transcript {
        command: command.to_owned(),
        output: output.to_owned(),
    }
}

fn renewed(document: &str, name: &str, transcript: &Transcript) -> String {
    let (begin, end) = place(document, name);
    let Transcript { command, output } = transcript;
    // Nothing of the output may end the block early.
    assert!(!output.contains("```"));
    format!(
        "{}# {command}\n{}\n{}",
        &document[..begin],
        output.trim_end(),
        &document[end..]
    )
}

/// Replaces the instance name, the directory after the last but one slash of a pin.
fn anonymous(command: &str) -> String {
    let Some((before, rest)) = command.split_once(&format!("{PINS}/")) else {
        return command.to_owned();
    };
    let map = rest.split_once('/').map(|(_, map)| format!("/{map}"));
    format!("{before}{PINS}/{INSTANCE}{}", map.unwrap_or_default())
}

fn document_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bpftool.md")
}

/// The dumps show what happened, and not only something of the right form.
fn assert_true(peers: &Transcript, stats: &Transcript, accepted: (u64, u64)) {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap());
    let peers: Value = serde_json::from_str(&peers.output).unwrap();
    let entry = |address: [u8; 4]| {
        let entries = peers.as_array().unwrap();
        let source = serde_json::json!(address);
        let found = entries.iter().find(|it| it["key"]["source"] == source);
        found.unwrap_or_else(|| panic!("no {address:?} in {peers}"))["value"].clone()
    };
    let heard = entry([10, 77, 0, 1]);
    assert_eq!(
        (&heard["advbase"], &heard["advskew"]),
        (&0.into(), &10.into())
    );
    let arrival = Duration::from_nanos(heard["last_advert_ns"].as_u64().unwrap());
    assert!(
        arrival <= now && now - arrival < FRESH,
        "{arrival:?} {now:?}"
    );
    // A configured peer that was never heard has an entry as well.
    assert_eq!(entry([10, 77, 0, 3])["adverts"], 0);

    let stats: Value = serde_json::from_str(&stats.output).unwrap();
    let cpus = stats[0]["values"].as_array().unwrap();
    let sum: u64 = cpus
        .iter()
        .map(|cpu| cpu["value"]["accepted"].as_u64().unwrap())
        .sum();
    assert!(
        (accepted.0..=accepted.1).contains(&sum),
        "{accepted:?} {sum}"
    );
}

#[test]
fn the_documented_maps_are_those_of_real_nodes() {
    let _serial = serial();
    require_tools(&["bpftool", "ls"]).unwrap();
    let topology = Topology::new(2).unwrap();
    let mut master = MfsHa::start(&topology, 1, &MfsHaOptions::with_timing(0, 10)).unwrap();
    master.wait_state("master", SETTLE).unwrap();
    let options = MfsHaOptions {
        peers: vec![Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 3)],
        ..MfsHaOptions::with_timing(0, 20)
    };
    let mut backup = MfsHa::start(&topology, 2, &options).unwrap();
    let status = backup
        .wait_status("n2 to have heard n1", SETTLE, |status| {
            number_at(status, "/counters/accepted").is_ok_and(|count| count >= 50)
        })
        .unwrap();
    let before = number_at(&status, "/counters/accepted").unwrap();
    let taken = TRANSCRIPTS.map(|(name, _)| take(name, &topology.instance(2)));
    let after = backup.counter("accepted").unwrap();
    let [_, _, peers, _, _, stats] = &taken;
    assert_true(peers, stats, (before, after));

    let path = document_path();
    let mut document = fs::read_to_string(&path).unwrap();
    if std::env::var_os(BLESS).is_some() {
        for ((name, _), transcript) in TRANSCRIPTS.iter().zip(&taken) {
            document = renewed(&document, name, transcript);
        }
        fs::write(&path, &document).unwrap();
        println!("docs/bpftool.md: transcripts renewed");
    }
    for ((name, comparison), transcript) in TRANSCRIPTS.iter().zip(&taken) {
        let shown = documented(&document, name);
        assert_alike(name, *comparison, &shown, transcript);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = r#"[{
        "key": {"source": [10,77,0,1]},
        "value": {"last_advert_ns": 5, "adverts": 17}
    }]"#;

    fn structure(dump: &str) -> BTreeSet<String> {
        essence(Comparison::Structure, dump)
    }

    #[test]
    fn values_and_the_number_of_entries_may_differ() {
        let entry = DUMP.trim_start_matches('[').trim_end_matches(']');
        assert_eq!(structure(DUMP), structure(&DUMP.replace("17", "18")));
        assert_eq!(structure(DUMP), structure(&format!("[{entry},{entry}]")));
    }

    #[test]
    fn a_field_that_is_added_removed_renamed_or_retyped_is_seen() {
        for (from, to) in [
            ("\"adverts\": 17", "\"adverts\": 17, \"demote\": 0"),
            (", \"adverts\": 17", ""),
            ("adverts", "seen"),
            ("17", "\"17\""),
            ("17", "[1,7]"),
            ("17", "{\"sum\": 17}"),
            ("[10,77,0,1]", "[10,77,0,1,0]"),
        ] {
            let changed = DUMP.replace(from, to);
            assert_ne!(changed, DUMP, "{from}");
            assert_ne!(structure(&changed), structure(DUMP), "{from} -> {to}");
        }
    }

    #[test]
    fn the_size_of_a_map_is_compared_and_its_id_is_not() {
        let shown =
            "17: hash  name PEERS  flags 0x0\n\tkey 4B  value 32B  max_entries 64  memlock 9B\n";
        let definition = |text: &str| essence(Comparison::Definition, text);
        assert_eq!(definition(shown), definition(&shown.replace("17:", "9:")));
        assert_eq!(definition(shown), definition(&shown.replace("9B", "8B")));
        assert_ne!(definition(shown), definition(&shown.replace("32B", "40B")));
    }

    #[test]
    fn a_transcript_is_found_and_replaced() {
        let document = "a\n<!-- transcript: x -->\n```console\n# ls /old\nold\n```\nb\n";
        let new = Transcript {
            command: "ls /new".to_owned(),
            output: "new\n".to_owned(),
        };
        let document = renewed(document, "x", &new);
        assert_eq!(documented(&document, "x"), new);
        assert!(document.starts_with("a\n<!--") && document.ends_with("new\n```\nb\n"));
    }

    #[test]
    fn the_name_of_the_instance_does_not_count() {
        for (command, expected) in [
            (
                "ls /sys/fs/bpf/mfs-ha/mh1-0-n2",
                "ls /sys/fs/bpf/mfs-ha/INSTANCE",
            ),
            (
                "bpftool map dump pinned /sys/fs/bpf/mfs-ha/a/peers",
                "bpftool map dump pinned /sys/fs/bpf/mfs-ha/INSTANCE/peers",
            ),
        ] {
            assert_eq!(anonymous(command), expected);
        }
    }
}
