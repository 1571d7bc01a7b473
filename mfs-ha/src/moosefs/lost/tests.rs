use std::fs::{self, File};
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use tempfile::TempDir;

use super::*;
use crate::moosefs::layout::Layout;

const ID: u64 = 7;
static GO_ON: AtomicBool = AtomicBool::new(false);

/// A live directory, and an archive of it.
struct Scene {
    directory: TempDir,
    layout: Layout,
    archive: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path()).unwrap();
        layout.prepare().unwrap();
        let archive = layout
            .new_archive("quarantine", 7, SystemTime::now())
            .unwrap();
        Self {
            directory,
            layout,
            archive,
        }
    }

    fn live(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::write(self.directory.path().join(name), content).unwrap();
        self
    }

    fn archived(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::write(self.archive.join(name), content).unwrap();
        self
    }

    fn compare(&self) -> Result<Lost, LostError> {
        compare(&self.archive, self.layout.data(), &GO_ON)
    }

    fn lost(&self) -> Lost {
        self.compare().unwrap()
    }

    fn record(&self) -> Lost {
        record(&self.layout, &self.archive, &GO_ON).unwrap()
    }
}

/// What the master that was replaced had, and what the new one went on from: 20 to 99 are common.
fn scene() -> Scene {
    let scene = Scene::new();
    scene
        .archived("metadata.mfs.back", image(60, ID))
        .archived("changelog.1.mfs", log(20..60, "common"))
        .archived("changelog.0.mfs", log(60..100, "common"));
    scene
        .live("metadata_ml.mfs.back", image(40, ID))
        .live("changelog_ml_back.0.mfs", log(40..100, "common"));
    scene
}

fn image(version: u64, id: u64) -> Vec<u8> {
    let mut image = b"MFSM 2.0".to_vec();
    image.extend(version.to_be_bytes());
    image.extend(id.to_be_bytes());
    image.extend(b"[MFS EOF MARKER]");
    image
}

/// Each change has its number for its time, in thousands.
fn log(numbers: Range<u64>, name: &str) -> String {
    numbers
        .map(|number| format!("{number}: {number}000|CREATE({name}{number})\n"))
        .collect()
}

fn found(
    certainty: Certainty,
    changes: u64,
    parted_at: Option<u64>,
) -> (Certainty, u64, Option<u64>) {
    (certainty, changes, parted_at)
}

fn of(lost: &Lost) -> (Certainty, u64, Option<u64>) {
    (lost.certainty, lost.changes, lost.parted_at)
}

#[test]
fn nothing_is_lost_where_the_live_history_goes_on_from_the_archived_one() {
    let scene = scene();
    let expected = Lost {
        reaches: 100,
        live_reaches: 100,
        parted_at: None,
        changes: 0,
        certainty: Certainty::Exact,
        first_unix_s: None,
        last_unix_s: None,
    };
    assert_eq!(scene.lost(), expected);
    scene.live("changelog_ml.0.mfs", log(98..130, "common"));
    let lost = scene.lost();
    assert!(lost.is_nothing());
    assert_eq!((lost.reaches, lost.live_reaches), (100, 130));
    assert_eq!(lost.to_string(), "nothing was lost");
    // Without an image in the archive, and with what the old metalogger of this node had.
    fs::remove_file(scene.archive.join("metadata.mfs.back")).unwrap();
    scene.archived("changelog_ml.3.mfs", log(1..50, "common"));
    assert!(scene.lost().is_nothing());
}

#[test]
fn what_was_written_behind_the_last_common_change_is_counted() {
    let scene = scene();
    scene
        .archived(
            "changelog.0.mfs",
            log(60..100, "common") + &log(100..112, "old"),
        )
        .live("changelog_ml.0.mfs", log(100..105, "new"));
    let exact = Lost {
        reaches: 112,
        live_reaches: 105,
        parted_at: Some(100),
        changes: 12,
        certainty: Certainty::Exact,
        first_unix_s: Some(100_000),
        last_unix_s: Some(111_000),
    };
    assert_eq!(scene.lost(), exact);
    assert_eq!(
        exact.to_string(),
        "lost: exactly 12 changes, 100 to 111, of 1970-01-02T03:46:40Z to 1970-01-02T06:50:00Z"
    );
    // The live history is longer.
    scene.live("changelog_ml.0.mfs", log(100..205, "new"));
    let longer = Lost {
        live_reaches: 205,
        ..exact
    };
    assert_eq!(scene.lost(), longer);
    // One of the old changes stands in the new history again, by chance.
    let chance = log(100..105, "new") + &log(105..106, "old") + &log(106..205, "new");
    scene.live("changelog_ml.0.mfs", chance);
    assert_eq!(scene.lost(), longer);
    // One time makes another change of it.
    let later = log(60..100, "common").replace("99: 99000", "99: 99001");
    scene.archived("changelog.0.mfs", later);
    assert_eq!(of(&scene.lost()), found(Certainty::Exact, 1, Some(99)));
    assert_eq!(
        scene.lost().to_string(),
        "lost: exactly 1 change, 99, of 1970-01-02T03:30:01Z"
    );
}

#[test]
fn an_archive_that_reaches_further_has_lost_the_rest() {
    let scene = scene();
    scene.archived("changelog.0.mfs", log(60..107, "common"));
    let lost = scene.lost();
    assert_eq!(of(&lost), found(Certainty::Exact, 7, Some(100)));
    assert_eq!((lost.reaches, lost.live_reaches), (107, 100));
    // The image of the live directory has the last of its changes.
    scene.live("metadata_ml.mfs.back", image(103, ID));
    let lost = scene.lost();
    assert_eq!(of(&lost), found(Certainty::AtMost, 7, Some(100)));
    assert_eq!(lost.live_reaches, 103);
}

#[test]
fn what_only_an_image_has_cannot_be_told() {
    // The new master has saved since, and its old changelogs are gone.
    let scene = scene();
    scene
        .live("metadata_ml.mfs.back", image(300, ID))
        .live("changelog_ml_back.0.mfs", log(200..310, "new"));
    let lost = scene.lost();
    assert_eq!(of(&lost), found(Certainty::AtMost, 80, Some(20)));
    assert_eq!((lost.reaches, lost.live_reaches), (100, 310));
    assert!(
        lost.to_string()
            .starts_with("lost: at most 80 changes, 20 to 99")
    );
    fs::remove_file(scene.layout.data().join("changelog_ml_back.0.mfs")).unwrap();
    assert_eq!(
        scene.lost(),
        Lost {
            live_reaches: 300,
            ..lost
        }
    );

    // The first ones that can be compared differ already.
    scene.live("changelog_ml_back.0.mfs", log(90..310, "new"));
    assert_eq!(of(&scene.lost()), found(Certainty::AtMost, 80, Some(20)));
    scene
        .archived("changelog.1.mfs", "")
        .archived("changelog.0.mfs", log(90..100, "common"));
    assert_eq!(of(&scene.lost()), found(Certainty::AtMost, 10, Some(90)));

    // A hole in the live changelogs, where its image knows more.
    let scene = self::scene();
    scene
        .archived("changelog.0.mfs", log(60..112, "old"))
        .archived("changelog.1.mfs", log(20..60, "common"))
        .live("metadata_ml.mfs.back", image(70, ID))
        .live("changelog_ml_back.1.mfs", log(40..55, "common"))
        .live("changelog_ml_back.0.mfs", log(70..150, "new"));
    let lost = scene.lost();
    assert_eq!(of(&lost), found(Certainty::AtMost, 57, Some(55)));
    assert_eq!(
        (lost.first_unix_s, lost.last_unix_s),
        (Some(55_000), Some(111_000))
    );

    // Nothing but images.
    let scene = Scene::new();
    scene
        .archived("metadata_ml.mfs.back", image(60, ID))
        .live("metadata_ml.mfs.back", image(90, ID));
    assert_eq!(of(&scene.lost()), found(Certainty::Unknown, 0, None));
    assert!(!scene.lost().is_nothing());
}

#[test]
fn a_line_that_the_killed_master_did_not_finish_is_no_change() {
    let scene = scene();
    scene
        .archived(
            "changelog.0.mfs",
            log(60..100, "common") + "100: 100000|CREATE(ol",
        )
        .live("changelog_ml.0.mfs", log(100..105, "new"));
    assert!(scene.lost().is_nothing());
    scene.archived(
        "changelog.0.mfs",
        log(60..100, "common") + &log(100..103, "old") + "103: 10",
    );
    assert_eq!(of(&scene.lost()), found(Certainty::Exact, 3, Some(100)));
}

#[test]
fn an_archive_without_changes_has_lost_none() {
    let scene = scene();
    for name in ["metadata.mfs.back", "changelog.0.mfs", "changelog.1.mfs"] {
        fs::remove_file(scene.archive.join(name)).unwrap();
    }
    let lost = scene.lost();
    assert!(lost.is_nothing());
    assert_eq!(lost.reaches, 1);
    scene
        .archived("metadata.mfs.empty", "MFSM NEW")
        .archived("metadata.mfs", "MFSM NEW")
        .archived("changelog.0.mfs", "1: 17|SETME")
        .archived("stats.mfs", "x");
    assert!(scene.lost().is_nothing());
}

#[test]
fn a_damaged_line_leaves_no_exact_number_where_it_matters() {
    let scene = scene();
    let damage = |name: &str, number: u64, log: String| {
        log.replace(
            &format!("{number}: {number}000|CREATE({name}{number})"),
            "garbage",
        )
    };
    let old = log(60..100, "common") + &log(100..112, "old");
    scene.live("changelog_ml.0.mfs", log(100..105, "new"));
    for (name, number, expected) in [
        ("common", 80, found(Certainty::Exact, 12, Some(100))),
        ("common", 99, found(Certainty::AtMost, 13, Some(99))),
        ("old", 100, found(Certainty::AtMost, 12, Some(100))),
        ("old", 105, found(Certainty::AtMost, 12, Some(100))),
        ("old", 111, found(Certainty::AtMost, 12, Some(100))),
    ] {
        scene.archived("changelog.0.mfs", damage(name, number, old.clone()));
        assert_eq!(of(&scene.lost()), expected, "{name} {number}");
    }
    // A power failure: the end of a line, and of another one.
    scene.archived(
        "changelog.0.mfs",
        log(60..100, "common") + "100: 1101: 101000|CREATE(x)\n",
    );
    assert_eq!(of(&scene.lost()), found(Certainty::AtMost, 2, Some(100)));
    // In the live directory: an archived change that it may have.
    scene
        .archived("changelog.0.mfs", log(60..103, "common"))
        .live("changelog_ml.0.mfs", log(100..101, "common") + "garbage\n");
    assert_eq!(of(&scene.lost()), found(Certainty::AtMost, 2, Some(101)));
}

#[test]
fn an_archive_of_two_histories_gives_a_bound() {
    let scene = scene();
    scene
        .archived("changelog_ml.0.mfs", log(95..120, "new"))
        .live("changelog_ml.0.mfs", log(95..130, "new"))
        .live("changelog_ml_back.0.mfs", log(40..95, "common"));
    assert_eq!(of(&scene.lost()), found(Certainty::AtMost, 25, Some(95)));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let scene = scene();
    let fails = |expected: &str| {
        let error = scene.compare().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    scene.live("changelog_ml.0.mfs", log(95..105, "new"));
    fails("change 95 differs within");
    scene.live(
        "changelog_ml.0.mfs",
        log(60..62, "new") + &log(50..55, "new"),
    );
    let error = crate::error::chain(&scene.compare().unwrap_err());
    assert!(
        error.contains("changelog_ml.0.mfs has change 50 after change 61"),
        "{error}"
    );
    scene
        .live("changelog_ml.0.mfs", "")
        .live("metadata_ml.mfs.back", image(40, 8));
    fails("is of another file system (ids 0000000000000007 and 0000000000000008)");
    fs::remove_file(scene.layout.data().join("metadata_ml.mfs.back")).unwrap();
    fails("has no complete image");
    scene
        .live("metadata_ml.mfs.back", image(40, ID))
        .archived("metadata.mfs", image(9, 8));
    fails("is of another file system");
    fs::rename(
        scene.archive.join("metadata.mfs"),
        scene.archive.join("changelog.2.mfs.zst"),
    )
    .unwrap();
    fails("changelog.2.mfs.zst is compressed");
    fs::remove_file(scene.archive.join("changelog.2.mfs.zst")).unwrap();
    let cancelled = compare(&scene.archive, scene.layout.data(), &AtomicBool::new(true));
    assert!(matches!(cancelled, Err(LostError::Cancelled)));
    assert!(scene.lost().is_nothing());
    fs::remove_dir_all(&scene.archive).unwrap();
    fails("cannot read");
}

#[test]
fn what_was_lost_is_written_down_once() {
    let scene = scene();
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_416_120);
    File::open(&scene.archive)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    assert_eq!(read(&scene.archive).unwrap(), None);
    // Not to be told yet.
    let downloaded = fs::read(scene.layout.data().join("changelog_ml_back.0.mfs")).unwrap();
    scene
        .live("metadata_ml.mfs.back", image(300, ID))
        .live("changelog_ml_back.0.mfs", "");
    assert_eq!(of(&scene.record()), found(Certainty::AtMost, 80, Some(20)));
    let content = fs::read_to_string(scene.archive.join(LOST_FILE)).unwrap();
    assert_eq!(
        content,
        "{\"reaches\":100,\"live_reaches\":300,\"parted_at\":20,\"changes\":80,\"certainty\":\"at_most\",\
         \"first_unix_s\":null,\"last_unix_s\":99000}\n"
    );
    // A lower bound is worth more, a higher one is not.
    scene.live("changelog_ml_back.0.mfs", log(40..45, "common"));
    let bound = scene.record();
    assert_eq!(of(&bound), found(Certainty::AtMost, 55, Some(45)));
    scene.live("changelog_ml_back.0.mfs", log(40..43, "common"));
    assert_eq!(scene.record(), bound);
    assert_eq!(read(&scene.archive).unwrap(), Some(bound));

    scene
        .live("metadata_ml.mfs.back", image(40, ID))
        .live("changelog_ml_back.0.mfs", downloaded);
    let exact = scene.record();
    assert!(exact.is_nothing());
    scene.live("changelog_ml_back.0.mfs", log(40..300, "new"));
    assert_eq!(scene.record(), exact);
    assert_eq!(read(&scene.archive).unwrap(), Some(exact));
    let metadata = fs::metadata(&scene.archive).unwrap();
    assert_eq!(metadata.modified().unwrap(), modified, "its age stays");
    assert!(!scene.archive.join("lost.tmp").exists());

    fs::write(scene.archive.join(LOST_FILE), "{\"reaches\":1").unwrap();
    let error = record(&scene.layout, &scene.archive, &GO_ON).unwrap_err();
    assert!(
        error.to_string().contains("lost.json is damaged"),
        "{error}"
    );
}

#[test]
fn a_span_is_seen_at_the_ends() {
    let scene = scene();
    let expected = Span {
        image: Some(60),
        first: Some(20),
        reaches: 100,
    };
    assert_eq!(span(&scene.archive).unwrap(), expected);
    // A snapshot ends where it was made; the metalogger went on.
    let length = log(60..80, "common").len();
    scene.archived("lengths.json", format!("{{\"changelog.0.mfs\":{length}}}"));
    assert_eq!(span(&scene.archive).unwrap().reaches, 80);
}

#[test]
fn times_of_any_size_are_shown_or_not() {
    let lost = |unix_s| Lost {
        reaches: 3,
        live_reaches: 3,
        parted_at: Some(2),
        changes: 1,
        certainty: Certainty::Exact,
        first_unix_s: Some(unix_s),
        last_unix_s: Some(unix_s),
    };
    for unix_s in [UNIX_S_MAX + 1, u64::MAX] {
        assert_eq!(lost(unix_s).to_string(), "lost: exactly 1 change, 2");
    }
    assert!(
        lost(UNIX_S_MAX)
            .to_string()
            .ends_with("of 9999-12-31T23:59:59Z")
    );
}

mod histories;
