use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::moosefs::lost::{Certainty, LOST_FILE};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: HistoryArgs,
}

/// A data directory whose archives are made as the daemon makes them.
struct Bench {
    directory: TempDir,
    layout: Layout,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path()).unwrap();
        layout.prepare().unwrap();
        Self { directory, layout }
    }

    /// An archive of this epoch, made in this second.
    fn archive(&self, label: &str, epoch: u64) -> PathBuf {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_416_120 + epoch);
        let path = self.layout.new_archive(label, epoch, now).unwrap();
        fs::write(
            path.join("changelog.0.mfs"),
            "20: 17|A()\n21: 17|B()\n22: 17|C()\n",
        )
        .unwrap();
        path
    }

    fn run(&self, options: &[&str]) -> (Exit, String) {
        let data = self.layout.data().to_str().unwrap();
        let (exit, out) = run_with(&[&[data], options].concat()).unwrap();
        (exit, out.replace(data, "DATA"))
    }
}

fn run_with(arguments: &[&str]) -> Result<(Exit, String), Failure> {
    let cli = Cli::try_parse_from([&["history"], arguments].concat()).unwrap();
    let mut out = Vec::new();
    let exit = run(&cli.args, &mut out)?;
    Ok((exit, String::from_utf8(out).unwrap()))
}

fn lost(certainty: Certainty, changes: u64) -> Lost {
    Lost {
        reaches: 23,
        live_reaches: 40,
        parted_at: (changes > 0).then_some(23 - changes),
        changes,
        certainty,
        first_unix_s: (changes > 0).then_some(17),
        last_unix_s: (changes > 0).then_some(17),
    }
}

fn write_down(archive: &Path, lost: &Lost) {
    fs::write(archive.join(LOST_FILE), serde_json::to_vec(lost).unwrap()).unwrap();
}

/// Archives of each kind.
fn bench() -> Bench {
    let bench = Bench::new();
    let replaced = bench.archive("", 1);
    let packed = replaced.join("changelog.0.mfs");
    fs::rename(&packed, packed.with_extension("mfs.zst")).unwrap();
    write_down(&bench.archive("quarantine", 2), &lost(Certainty::Exact, 2));
    write_down(&bench.archive("quarantine", 3), &lost(Certainty::Exact, 0));
    write_down(&bench.archive("quarantine", 4), &lost(Certainty::AtMost, 3));
    bench.archive("snapshot", 5);
    let record = EpochRecord {
        epoch: 6,
        base: 23,
        state: EpochState::Committed,
        id: 0xAB,
        previous: Some(4),
    };
    epoch::write(&bench.layout, &record).unwrap();
    bench
}

#[test]
fn all_archives_are_shown_the_oldest_first() {
    let (exit, text) = bench().run(&[]);
    assert_eq!(exit, Exit::Ok);
    let expected = "\
DATA
epoch 6, committed, base 23, file system 0x00000000000000AB, before it epoch 4
1-20261123T064201Z
     replaced, 2026-11-23T06:42:01Z, epoch 1, 1 file with 33 bytes, compressed
     not compared
2-20261123T064202Z-quarantine
     quarantine, 2026-11-23T06:42:02Z, epoch 2, 1 file with 33 bytes, plain
     no complete image, changelogs from 20 on, the next change is 23
     lost: exactly 2 changes, 21 to 22, of 1970-01-01T00:00:17Z
3-20261123T064203Z-quarantine
     quarantine, 2026-11-23T06:42:03Z, epoch 3, 1 file with 33 bytes, plain
     no complete image, changelogs from 20 on, the next change is 23
     nothing was lost
4-20261123T064204Z-quarantine
     quarantine, 2026-11-23T06:42:04Z, epoch 4, 1 file with 33 bytes, plain
     no complete image, changelogs from 20 on, the next change is 23
     lost: at most 3 changes, 20 to 22, of 1970-01-01T00:00:17Z
5-20261123T064205Z-snapshot
     snapshot, 2026-11-23T06:42:05Z, epoch 5, 1 file with 33 bytes, plain
     no complete image, changelogs from 20 on, the next change is 23
";
    assert_eq!(text, expected);
}

#[test]
fn what_was_lost_is_shown_with_its_place_and_a_remedy() {
    let (exit, text) = bench().run(&["--lost"]);
    assert_eq!(exit, Exit::Failure);
    let remedy = "     do: copy it elsewhere before the retention removes it; to look at it, or to serve it in place \
                  of what is served now, see \"Going back by hand\" in docs/promotion.md\n";
    let expected = format!(
        "\
1-20261123T064201Z: not compared
2-20261123T064202Z-quarantine: lost: exactly 2 changes, 21 to 22, of 1970-01-01T00:00:17Z
     kept in DATA/mfs-ha/archive/2-20261123T064202Z-quarantine
{remedy}4-20261123T064204Z-quarantine: lost: at most 3 changes, 20 to 22, of 1970-01-01T00:00:17Z
     kept in DATA/mfs-ha/archive/4-20261123T064204Z-quarantine
{remedy}"
    );
    assert_eq!(text, expected);
}

#[test]
fn the_document_has_the_same() {
    let bench = bench();
    let (exit, text) = bench.run(&["--json"]);
    assert_eq!(exit, Exit::Ok);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["data_path"], "DATA");
    assert_eq!(
        document["epoch"],
        json!({"epoch": 6, "base": 23, "state": "committed", "id": "00000000000000ab", "previous": 4})
    );
    assert_eq!(document["archives"].as_array().unwrap().len(), 5);
    assert_eq!(
        document["archives"][1],
        json!({
            "name": "2-20261123T064202Z-quarantine",
            "path": "DATA/mfs-ha/archive/2-20261123T064202Z-quarantine",
            "epoch": 2,
            "label": "quarantine",
            "made": "2026-11-23T06:42:02Z",
            "files": 1,
            "bytes": 33,
            "form": "plain",
            "span": {"image": null, "first": 20, "reaches": 23},
            "is_copy": false,
            "lost": {
                "reaches": 23,
                "live_reaches": 40,
                "parted_at": 21,
                "changes": 2,
                "certainty": "exact",
                "first_unix_s": 17,
                "last_unix_s": 17
            },
            "problem": null
        })
    );
    let (exit, text) = bench.run(&["--lost", "--json"]);
    assert_eq!(exit, Exit::Failure);
    let document: Value = serde_json::from_str(&text).unwrap();
    let epochs: Vec<_> = document["archives"]
        .as_array()
        .unwrap()
        .iter()
        .map(|archive| archive["epoch"].as_u64().unwrap())
        .collect();
    assert_eq!(epochs, [1, 2, 4]);
}

#[test]
fn nothing_lost_is_said_and_so_is_what_cannot_be_read() {
    let bench = Bench::new();
    assert_eq!(
        bench.run(&[]),
        (
            Exit::Ok,
            "DATA\nno epoch yet: nothing was promoted here\nno archives\n".to_owned()
        )
    );
    let nothing = (Exit::Ok, "no change is known to be lost\n".to_owned());
    assert_eq!(bench.run(&["--lost"]), nothing);
    let archive = bench.archive("quarantine", 2);
    write_down(&archive, &lost(Certainty::Exact, 0));
    assert_eq!(bench.run(&["--lost"]), nothing);
    fs::write(archive.join(LOST_FILE), "{").unwrap();
    let (exit, text) = bench.run(&["--lost"]);
    assert_eq!(exit, Exit::Failure);
    assert!(text.contains("lost.json is damaged"), "{text}");

    // Where no daemon ever ran.
    let directory = tempfile::tempdir().unwrap();
    let (exit, text) = run_with(&[directory.path().to_str().unwrap()]).unwrap();
    assert_eq!(exit, Exit::Ok);
    assert!(text.ends_with("no archives\n"), "{text}");
    let nowhere = directory.path().join("nowhere");
    let failure = run_with(&[nowhere.to_str().unwrap()]).unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
}

#[test]
fn the_directory_is_that_of_the_configuration() {
    let bench = Bench::new();
    bench.archive("quarantine", 2);
    let own = tempfile::tempdir().unwrap();
    let path = |name: &str| own.path().join(name).display().to_string();
    let master = format!("DATA_PATH = {}\n", bench.directory.path().display());
    fs::write(path("mfsmaster.cfg"), master).unwrap();
    let config = "interface = \"v0\"\nvip = \"10.0.0.100/24\"\n[carp]\nvhid = 7\npassword_file = \"/etc/secret\"\n\
                  peers = [\"10.0.0.2\"]\n";
    let moosefs = format!("[moosefs]\nmaster_config = \"{}\"\n", path("mfsmaster.cfg"));
    fs::write(path("mfs-ha.toml"), format!("{config}{moosefs}")).unwrap();
    let (_, text) = run_with(&["-c", &path("mfs-ha.toml"), "--lost"]).unwrap();
    assert!(text.contains("-quarantine: not compared\n"), "{text}");

    fs::write(path("mfs-ha.toml"), config).unwrap();
    let failure = run_with(&["-c", &path("mfs-ha.toml")]).unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.error.to_string().contains("no table [moosefs]"));
    let both = ["history", "-c", "x", "y"];
    assert!(Cli::try_parse_from(both).is_err());
}

#[test]
fn archives_made_now_are_found() {
    let bench = Bench::new();
    bench
        .layout
        .new_archive("quarantine", 1, SystemTime::now())
        .unwrap();
    let (_, text) = bench.run(&[]);
    assert!(text.contains("     no changes\n"), "{text}");
}
