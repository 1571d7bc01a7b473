use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown};

use mfs_ha_common::cluster::Timing;
use mfs_ha_common::freshness::Freshness;
use mfs_ha_common::heartbeat::Ballot;

use super::*;
use crate::config::Configuration;

/// A cluster of these members, all candidates but those whose number is above 7.
fn cluster(state_dir: &Path, generation: u32, ids: &[u8], keys: &str) -> Cluster {
    let mut text = format!(
        "interface = \"eth0\"\nvip = \"10.9.0.100/24\"\n[carp]\nvhid = 1\npassword_file = \"/p\"\n\
         [cluster]\nname = \"a\"\nnode = 1\nsecret_file = \"/s\"\ngeneration = {generation}\n\
         state_dir = \"{}\"\n{keys}\n",
        state_dir.display()
    );
    for id in ids {
        let role = if *id > 7 { "witness" } else { "candidate" };
        text += &format!(
            "[[cluster.members]]\nid = {id}\nrole = \"{role}\"\naddresses = [\"10.9.0.{id}\"]\n"
        );
    }
    let parsed = Configuration::parse(&text, Path::new("test.toml")).unwrap();
    parsed.cluster().unwrap().clone()
}

const DURABLE: Durable = Durable {
    boot: 7,
    granted: Ballot {
        epoch: u64::MAX,
        candidate: 2,
    },
    seen: Freshness {
        epoch: 3,
        version: 1 << 60,
    },
    attempts: 1,
    membership: Membership {
        generation: 0,
        digest: 0,
    },
};

fn stored(cluster: &Cluster) -> Durable {
    Durable {
        membership: cluster.membership(),
        ..DURABLE
    }
}

/// Leaves [`DURABLE`] under the list of `cluster`.
fn store(cluster: &Cluster) {
    let (state, _) = StateDir::open(cluster, "default").unwrap();
    state.store(&stored(cluster)).unwrap();
}

fn begin_with(cluster: &Cluster) -> Result<Beginning, StateError> {
    StateDir::open(cluster, "default").map(|(_, beginning)| beginning)
}

fn refused(cluster: &Cluster) -> String {
    match begin_with(cluster) {
        Err(StateError::Members { source, .. }) => source.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_life_begins_with_nothing_but_its_members() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(&directory.path().join("deep/state"), 4, &[1, 2, 3], "");
    assert_eq!(look(&cluster, "default").unwrap(), None);
    let beginning = begin_with(&cluster).unwrap();
    assert_eq!(
        beginning,
        Beginning {
            durable: Durable {
                boot: 1,
                membership: cluster.membership(),
                ..Durable::default()
            },
            previous: None,
            wait: None,
        }
    );
    let mode = fs::metadata(dir(&cluster, "default")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn what_was_stored_is_what_the_next_life_begins_with() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(directory.path(), 4, &[1, 2, 9], "");
    store(&cluster);
    let expected = Beginning {
        durable: Durable {
            boot: 8,
            ..stored(&cluster)
        },
        previous: None,
        wait: None,
    };
    assert_eq!(begin_with(&cluster).unwrap(), expected);
    // Nothing but the look itself happened: the number of a life counts when it is stored.
    assert_eq!(look(&cluster, "default").unwrap(), Some(expected));
    let content = fs::read_to_string(directory.path().join("default/state.json")).unwrap();
    assert_eq!(
        content,
        "{\"format\":1,\"boot\":7,\"granted\":{\"epoch\":18446744073709551615,\"candidate\":2},\
         \"seen\":{\"epoch\":3,\"version\":1152921504606846976},\"attempts\":1,\"lease_ms\":300,\
         \"members\":{\"generation\":4,\"heartbeat_interval_ms\":50,\"lease_ms\":300,\"list\":[\
         {\"id\":1,\"role\":\"candidate\"},{\"id\":2,\"role\":\"candidate\"},{\"id\":9,\"role\":\"witness\"}]}}\n"
    );
}

#[test]
fn one_daemon_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(directory.path(), 1, &[1, 2, 3], "");
    let first = StateDir::open(&cluster, "default").unwrap();
    let error = begin_with(&cluster).unwrap_err();
    assert!(matches!(error, StateError::Locked { .. }), "{error:?}");
    assert!(StateDir::open(&cluster, "other").is_ok());
    drop(first);
    assert!(begin_with(&cluster).is_ok());
}

#[test]
fn a_list_follows_by_one_voter_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let of = |generation, ids: &[u8]| cluster(directory.path(), generation, ids, "");
    let old = of(4, &[1, 2, 3]);
    store(&old);
    for next in [of(5, &[1, 2, 3, 4]), of(5, &[1, 2]), of(5, &[1, 2, 3])] {
        let beginning = begin_with(&next).unwrap();
        assert_eq!(beginning.previous, Some((old.list, old.membership())));
        assert_eq!(beginning.durable.membership, old.membership());
    }
    let text = refused(&of(5, &[1, 2, 4]));
    assert!(
        text.contains("from generation 4 to 5 member 3 is gone, member 4 is new")
            && text.contains("one member at a time"),
        "{text}"
    );
    let text = refused(&of(4, &[1, 2, 3, 4]));
    assert!(
        text.contains("is 4 as before, but member 4 is new: set it to 5"),
        "{text}"
    );
    for other in [3, 6] {
        let text = refused(&of(other, &[1, 2, 3]));
        assert!(
            text.contains(&format!("is {other} and 4 is in force: it must be 4, or 5")),
            "{text}"
        );
    }
}

#[test]
fn the_new_list_is_stored_when_the_core_says_that_it_is_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let old = cluster(directory.path(), 4, &[1, 2, 3], "");
    let new = cluster(directory.path(), 5, &[1, 2, 3, 4], "");
    store(&old);
    let (state, _) = StateDir::open(&new, "default").unwrap();
    state.store(&stored(&old)).unwrap();
    drop(state);
    assert!(begin_with(&new).unwrap().previous.is_some());
    assert!(
        begin_with(&old).is_ok(),
        "the change can still be taken back"
    );
    let (state, _) = StateDir::open(&new, "default").unwrap();
    state.store(&stored(&new)).unwrap();
    let error = state.store(&DURABLE).unwrap_err();
    assert!(matches!(
        error,
        StateError::UnknownMembers { generation: 0 }
    ));
    drop(state);
    assert_eq!(begin_with(&new).unwrap().previous, None);
    assert!(refused(&old).contains("is 4 and 5 is in force"));
}

#[test]
fn other_times_are_another_generation_and_shorter_leases_are_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let slow = cluster(directory.path(), 1, &[1, 2, 3], "lease_ms = 3000");
    let same = cluster(directory.path(), 1, &[1, 2, 3], "lease_ms = 300");
    let fast = cluster(directory.path(), 2, &[1, 2, 3], "lease_ms = 300");
    store(&slow);
    let text = refused(&same);
    assert!(
        text.contains("lease_ms is 50/300 and was 50/3000"),
        "{text}"
    );
    let beginning = begin_with(&fast).unwrap();
    assert_eq!(beginning.wait, Some(Duration::from_secs(3)));
    assert_eq!(begin_with(&slow).unwrap().wait, None);
    // From then on it grants for the shorter time, whichever list is in force.
    let (state, _) = StateDir::open(&fast, "default").unwrap();
    state.store(&stored(&slow)).unwrap();
    drop(state);
    assert_eq!(begin_with(&fast).unwrap().wait, None);
    assert_eq!(
        slow.timing,
        Timing {
            lease: Duration::from_secs(3),
            ..Timing::DEFAULT
        }
    );
}

#[test]
fn damage_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(directory.path(), 1, &[1, 2, 3], "");
    store(&cluster);
    let file = directory.path().join("default/state.json");
    let good = fs::read_to_string(&file).unwrap();
    let damaged = [
        String::new(),
        "\0".repeat(good.len()),
        good[..good.len() / 2].to_owned(),
        good.replace("\"boot\":7,", ""),
        good.replace("\"boot\":7", "\"boot\":-7"),
        good.replace("\"attempts\"", "\"attempt\""),
        good.replace("\"id\":2", "\"id\":1"),
        good.replace("\"id\":2", "\"id\":0"),
        good.replace("candidate\"}", "witness\"}"),
        good.replace("\"format\":1", "\"format\":2"),
        format!("{good}{}", " ".repeat(70_000)),
    ];
    for content in damaged {
        assert_ne!(content, good);
        fs::write(&file, &content).unwrap();
        let error = begin_with(&cluster).unwrap_err();
        assert!(
            matches!(error, StateError::Damaged { .. }),
            "{content}: {error:?}"
        );
        assert!(
            error.to_string().contains("move it away and start"),
            "{error}"
        );
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            content,
            "it was changed"
        );
    }
}

#[test]
fn a_directory_that_others_could_change_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(directory.path(), 1, &[1, 2, 3], "");
    store(&cluster);
    let dir = dir(&cluster, "default");
    fs::set_permissions(&dir, Permissions::from_mode(0o770)).unwrap();
    let error = begin_with(&cluster).unwrap_err().to_string();
    assert!(
        error.contains("mode 0770") && error.contains("chmod 0700"),
        "{error}"
    );
    fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
    chown(&dir, Some(4242), None).expect("this test needs root");
    let error = begin_with(&cluster).unwrap_err().to_string();
    assert!(error.contains("belongs to user 4242: chown 0"), "{error}");
    chown(&dir, Some(0), None).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    fs::write(&dir, "").unwrap();
    let error = begin_with(&cluster).unwrap_err();
    assert!(
        matches!(error, StateError::NotADirectory { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_writer_stores_the_latest_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(directory.path(), 1, &[1, 2, 3], "");
    let (state, _) = StateDir::open(&cluster, "default").unwrap();
    let (facts, mut told) = tokio::sync::mpsc::channel(4);
    let writer = spawn(state, facts).unwrap();
    // The disk refuses for a while: something is in the way of the temporary file.
    let obstacle = directory.path().join("default/state.tmp");
    fs::create_dir(&obstacle).unwrap();
    let at = |boot| Durable {
        boot,
        ..stored(&cluster)
    };
    writer.wanted.send_replace(Some(at(1)));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while writer.views.get().failures < 2 {
        assert!(std::time::Instant::now() < deadline, "no failure is shown");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(writer.views.get().problem.unwrap().contains("state.tmp"));
    assert!(told.try_recv().is_err());
    writer.wanted.send_replace(Some(at(2)));
    fs::remove_dir(&obstacle).unwrap();
    let fact = told.recv().await.unwrap();
    assert!(
        matches!(fact, crate::driver::Fact::Stored(durable) if durable == at(2)),
        "{fact:?}"
    );
    let view = writer.views.get();
    assert_eq!((view.stored, view.writes), (Some(at(2)), 1));
    assert_eq!(view.problem, None);
    // Without anybody who wants something the thread ends, and with it the lock.
    drop(writer);
    assert!(told.recv().await.is_none());
    assert_eq!(begin_with(&cluster).unwrap().durable.boot, 3);
}
