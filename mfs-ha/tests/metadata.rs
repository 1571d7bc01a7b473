//! Data directories as they are after crashes and mistakes: what `mfsmaster -a` makes of each, and what
//! mfs-ha does. With the real programs, each test in a network of its own. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;
#[path = "metadata/scene.rs"]
mod scene;
#[path = "metadata/staging.rs"]
mod staging;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use mfs_ha::moosefs::directory::{ProblemKind, inspect};
use mfs_ha::moosefs::follow::Follower;
use mfs_ha::moosefs::image;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use common::moosefs::{EMPTY_IMAGE, wait_until};
use scene::{Files, NEW_NAMES, STREAM, lines, number, scene};

const IMAGE: &str = "metadata_ml.mfs.back";

#[test]
fn the_files_of_a_metalogger_and_of_a_killed_master_give_all_names() {
    scene(|scene| {
        let followed = scene.lay("followed", &scene.base.metalogger);
        assert_eq!(scene.plain(&followed).unwrap(), scene.base.names);
        assert_eq!(scene.promoted(&followed), scene.base.names);
        let killed = scene.lay("killed", &scene.base.master);
        assert_eq!(scene.promoted(&killed), scene.base.names);
        // Both of one node, where its metalogger follows its own master.
        let mut both = scene.base.master.clone();
        both.extend(scene.base.metalogger.clone());
        let both = scene.lay("both", &both);
        assert_eq!(scene.promoted(&both), scene.base.names);
        assert_eq!(scene.ready(&both).version, scene.ready(&killed).version);
    });
}

#[test]
fn a_last_line_without_line_feed_costs_that_line_and_not_the_changelog() {
    scene(|scene| {
        let files = scene.base.with_stream(|lines| {
            lines.push("99999: 1795416618|CREATE(1,la".to_owned());
        });
        let data = scene.lay("data", &files);
        let served = scene.plain(&data).unwrap();
        assert!(
            served.len() < scene.base.names.len() - NEW_NAMES,
            "mfsmaster loses the whole changelog: {served:?}"
        );
        assert_eq!(scene.promoted(&data), scene.base.names);
        let problems = inspect(&data).unwrap().problems;
        assert_eq!(problems.len(), 1);
        assert!(problems[0].what.contains(STREAM) && !problems[0].blocks);
    });
}

#[test]
fn a_hole_is_named_with_both_its_ends() {
    scene(|scene| {
        let stream = scene.base.stream();
        let missing = number(&stream[10]);
        let files = scene.base.with_stream(|lines| {
            lines.drain(10..13);
        });
        let data = scene.lay("data", &files);
        assert!(
            scene
                .plain(&data)
                .unwrap_err()
                .contains("hole in change files")
        );
        let problem = scene.refused(&data, ProblemKind::Hole);
        assert_eq!(
            problem.what,
            format!(
                "changes {missing} to {} are missing: {STREAM} ends at {}, {STREAM} goes on at {}",
                missing + 2,
                missing - 1,
                missing + 3
            )
        );
    });
}

#[test]
fn a_changelog_that_begins_behind_the_image_is_refused() {
    scene(|scene| {
        let mut files = scene.base.with_stream(|lines| {
            lines.drain(..5);
        });
        files.retain(|name, _| name == IMAGE || name == STREAM);
        let data = scene.lay("data", &files);
        let log = scene.plain(&data).unwrap_err();
        assert!(log.contains("error applying changelogs"), "{log}");
        let base = image::read(&data.join(IMAGE)).unwrap().version;
        let problem = scene.refused(&data, ProblemKind::Hole);
        let expected = format!("changes {base} to ");
        assert!(problem.what.starts_with(&expected), "{}", problem.what);
        assert!(
            problem
                .what
                .contains(&format!("{IMAGE} ends at {}", base - 1))
        );
    });
}

#[test]
fn one_number_with_two_changes_is_refused_where_mfsmaster_mixes_them() {
    scene(|scene| {
        // Another master went on from the same state: same numbers, other names.
        let mut files = scene.base.metalogger.clone();
        let other = lines(&scene.base.master["changelog.0.mfs"])
            .concat()
            .replace("new2", "other2");
        files.insert("changelog.0.mfs".to_owned(), other.into_bytes());
        let data = scene.lay("data", &files);
        let served = scene.plain(&data).unwrap();
        assert!(
            served != scene.base.names && served.len() == scene.base.names.len(),
            "a mix of both: {served:?}"
        );
        let problem = scene.refused(&data, ProblemKind::Conflict);
        for piece in ["changelog.0.mfs", STREAM, "two histories"] {
            assert!(problem.what.contains(piece), "{}", problem.what);
        }
        assert!(
            problem
                .remedy
                .contains("move the files of the older history out")
        );
        // As it says.
        fs::rename(data.join("changelog.0.mfs"), scene.moosefs.path("away")).unwrap();
        fs::remove_dir_all(scene.moosefs.path("data-staged")).unwrap();
        assert_eq!(scene.promoted(&data), scene.base.names);
    });
}

#[test]
fn an_empty_file_system_is_never_promoted() {
    scene(|scene| {
        let only = |name: &str| Files::from([(name.to_owned(), EMPTY_IMAGE.to_vec())]);
        let data = scene.lay("package", &only("metadata.mfs.empty"));
        assert!(
            scene.plain(&data).unwrap().is_empty(),
            "a running empty file system"
        );
        let problem = scene.refused(&data, ProblemKind::EmptyFileSystem);
        assert!(problem.what.starts_with("empty file system"));

        let data = scene.lay("new", &only("metadata.mfs"));
        assert!(scene.plain(&data).unwrap().is_empty());
        scene.refused(&data, ProblemKind::EmptyFileSystem);

        let nothing = scene.moosefs.directory("nothing");
        let log = scene.plain(&nothing).unwrap_err();
        assert!(log.contains("can't find valid metadata file"), "{log}");
        scene.refused(&nothing, ProblemKind::NoImage);

        // Beside real metadata it does no harm.
        let mut files = scene.base.metalogger.clone();
        files.extend(only("metadata.mfs.empty"));
        let data = scene.lay("both", &files);
        assert_eq!(scene.promoted(&data), scene.base.names);
    });
}

#[test]
fn a_first_master_that_died_before_it_saved_anything_is_promotable() {
    scene(|scene| {
        let data = scene.moosefs.new_file_system("first");
        let master = scene.moosefs.master(&data, &[]);
        let mount = scene.moosefs.mount();
        mount.touch("a", 10);
        let names = mount.names();
        drop(mount);
        master.kill();
        assert_eq!(
            fs::read(data.join("metadata.mfs.back")).unwrap(),
            EMPTY_IMAGE
        );
        assert_eq!(scene.ready(&data).base, 1);
        assert_eq!(scene.promoted(&data), names);

        // Without its first change nobody knows which file system it is.
        let changelog = data.join("changelog.0.mfs");
        let kept = lines(&fs::read(&changelog).unwrap()).split_off(1);
        fs::write(&changelog, kept.concat()).unwrap();
        fs::remove_dir_all(scene.moosefs.path("first-staged")).unwrap();
        scene.refused(&data, ProblemKind::EmptyFileSystem);
    });
}

#[test]
fn a_truncated_image_is_not_taken_and_what_it_had_is_not_forgotten() {
    scene(|scene| {
        let base = scene.base;
        let mut files = base.metalogger.clone();
        let image = files.get_mut(IMAGE).unwrap();
        image.truncate(image.len() - 9);
        let data = scene.lay("alone", &files);
        let log = scene.plain(&data).unwrap_err();
        assert!(log.contains("can't find valid metadata file"), "{log}");
        let problem = scene.refused(&data, ProblemKind::NoImage);
        assert_eq!(problem.what, "no complete metadata image");

        // The one before it and all changes since are enough.
        files.insert(format!("{IMAGE}.1"), base.metalogger[IMAGE].clone());
        let data = scene.lay("bridged", &files);
        assert_eq!(scene.promoted(&data), base.names);

        // Not if the changes end below what it had.
        let reached = scene.ready(&data).version;
        let newer = files.get_mut(IMAGE).unwrap();
        newer[8..16].copy_from_slice(&(reached + 7).to_be_bytes());
        let data = scene.lay("behind", &files);
        assert!(scene.plain(&data).is_ok(), "mfsmaster forgets silently");
        let problem = scene.refused(&data, ProblemKind::DamagedImage);
        assert!(problem.what.contains(&format!("up to {}", reached + 6)));
    });
}

#[test]
fn missing_lines_that_the_image_has_are_no_hole() {
    scene(|scene| {
        let mut files = scene.base.metalogger.clone();
        let base = image::read(&scene.lay("base", &files).join(IMAGE))
            .unwrap()
            .version;
        let mut stream = lines(&files.remove("changelog_ml_back.0.mfs").unwrap());
        stream.retain(|line| number(line) + 8 < base || number(line) >= base);
        assert!(number(&stream[5]) + 8 < base, "older lines are there");
        stream.extend(scene.base.stream());
        files.insert(STREAM.to_owned(), stream.concat().into_bytes());
        let data = scene.lay("data", &files);
        let log = scene.plain(&data).unwrap_err();
        assert!(log.contains("hole in change files"), "a false hole: {log}");
        assert_eq!(scene.promoted(&data), scene.base.names);
    });
}

#[test]
fn files_of_another_file_system_are_refused() {
    scene(|scene| {
        let other = scene.moosefs.new_file_system("other");
        scene.moosefs.master(&other, &[]).terminate();
        let foreign = fs::read(other.join("metadata.mfs")).unwrap();
        let foreign_log = fs::read(other.join("changelog.0.mfs")).unwrap();
        assert!(foreign_log.starts_with(b"1: "));

        let mut files = scene.base.metalogger.clone();
        files.insert("metadata.mfs".to_owned(), foreign.clone());
        let data = scene.lay("image", &files);
        assert!(scene.plain(&data).is_err());
        let problem = scene.refused(&data, ProblemKind::DifferentIds);
        assert!(problem.what.contains(IMAGE) && problem.what.contains("metadata.mfs "));

        let mut files = scene.base.metalogger.clone();
        files.insert("changelog.7.mfs".to_owned(), foreign_log);
        let data = scene.lay("changelog", &files);
        let problem = scene.refused(&data, ProblemKind::DifferentIds);
        assert!(problem.what.contains("changelog.7.mfs"), "{}", problem.what);

        // A name that MooseFS does not give is not looked at; mfsmaster takes anything.
        let mut files = scene.base.metalogger.clone();
        files.insert("metadata.mfs.of-another".to_owned(), foreign);
        let data = scene.lay("name", &files);
        assert!(scene.plain(&data).is_err());
        assert_eq!(scene.promoted(&data), scene.base.names);
    });
}

#[test]
fn a_change_swallowed_by_a_killed_metalogger_is_found() {
    scene(|scene| {
        let moosefs = &scene.moosefs;
        let master_data = scene.lay("master", &scene.base.master);
        let master = moosefs.master(&master_data, &["-a"]);
        // A master that was started so has no image to give: it saves one when it is stopped.
        master.terminate();
        let master = moosefs.master(&master_data, &[]);
        let data = moosefs.directory("data");
        let mount = moosefs.mount();
        for round in 0.. {
            assert!(round < 10, "the metalogger wrote complete lines only");
            let metalogger = moosefs.metalogger(&data);
            wait_until("the metalogger downloads everything", || {
                metalogger.log().contains("changelog_1 downloaded")
            });
            // More than a block of its buffer, and then at once, before it writes the rest.
            mount.touch(&format!("round{round}-"), 120);
            let stream = data.join(STREAM);
            wait_until("a block is on disk", || {
                fs::metadata(&stream).is_ok_and(|file| file.len() >= 4096)
            });
            metalogger.kill();
            if !fs::read(&stream).unwrap().ends_with(b"\n") {
                break;
            }
        }
        let metalogger = moosefs.metalogger(&data);
        wait_until("the metalogger downloads everything", || {
            metalogger.log().contains("changelog_1 downloaded")
        });
        mount.touch("after", 3);
        let is_heard = || {
            let stream = fs::read(data.join(STREAM)).unwrap();
            String::from_utf8_lossy(&stream).contains("after2")
        };
        wait_until("the metalogger has the last change", is_heard);
        metalogger.terminate();
        drop(mount);
        master.kill();

        let inspection = inspect(&data).unwrap();
        let kinds: Vec<_> = inspection
            .problems
            .iter()
            .map(|problem| problem.kind)
            .collect();
        assert_eq!(
            kinds,
            [ProblemKind::Hole, ProblemKind::DamagedLine],
            "{inspection:?}"
        );
        let log = scene.plain(&data).unwrap_err();
        assert!(log.contains("hole in change files"), "{log}");
        let problem = scene.refused(&data, ProblemKind::Hole);
        assert!(problem.what.contains(STREAM) && problem.remedy.contains("downloads everything"));
    });
}

#[test]
fn a_running_metalogger_is_followed_and_staged_from() {
    scene(|scene| {
        let moosefs = &scene.moosefs;
        let master_data = scene.lay("master", &scene.base.master);
        moosefs.master(&master_data, &["-a"]).terminate();
        let master = moosefs.master(&master_data, &[]);
        let data = moosefs.directory("data");
        let mut follower = Follower::new(&data);
        assert!(follower.refresh().unwrap().readiness().is_err());
        let metalogger = moosefs.metalogger(&data);
        wait_until("it is ready", || {
            follower.refresh().unwrap().readiness().is_ok()
        });
        let mount = moosefs.mount();
        let full_reads = follower.full_reads();
        for round in 0..4 {
            mount.touch(&format!("round{round}-"), 50);
            follower.refresh().unwrap();
        }
        let names = mount.names();
        let mut version = || {
            let found = follower.refresh().unwrap().clone();
            found.readiness().unwrap().version
        };
        let last = || lines(&fs::read(master_data.join("changelog.0.mfs")).unwrap()).pop();
        wait_until("everything is on disk", || {
            version() == number(&last().unwrap()) + 1
        });
        assert!(
            follower.full_reads() <= full_reads + 2,
            "only what is new is read"
        );
        metalogger.signal(Signal::SIGSTOP);
        let staged = scene.staged(&data).unwrap();
        metalogger.signal(Signal::SIGCONT);
        metalogger.terminate();
        drop(mount);
        master.kill();
        let master = moosefs.master(&staged.dir, &["-a"]);
        assert_eq!(moosefs.names(), names);
        drop(master);
    });
}

#[test]
fn what_is_no_plain_file_is_refused() {
    scene(|scene| {
        for kind in ["link", "directory", "pipe"] {
            for file in ["metadata.mfs", "changelog.3.mfs"] {
                let data = scene.lay(&format!("{kind}-{file}"), &scene.base.metalogger);
                let path = data.join(file);
                match kind {
                    "link" => symlink("/etc/passwd", path).unwrap(),
                    "directory" => fs::create_dir(path).unwrap(),
                    _ => mkfifo(&path, Mode::S_IRWXU).unwrap(),
                }
                let problem = scene.refused(&data, ProblemKind::Unreadable);
                assert_eq!(problem.file.as_deref(), Some(file));
            }
        }
    });
}

#[test]
fn the_command_tells_what_it_found() {
    scene(|scene| {
        let data = scene.lay("data", &scene.base.metalogger);
        let (code, out) = metadata(&[data.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{out}");
        assert!(out.contains("metalogger  metadata_ml.mfs.back"), "{out}");
        assert!(out.ends_with("promotable: yes\n"), "{out}");

        fs::write(data.join(IMAGE), "no image").unwrap();
        let (code, out) = metadata(&[data.to_str().unwrap(), "--json"]);
        assert_eq!(code, Some(1), "{out}");
        let document: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(document["promotable"], false);
        assert_eq!(document["problems"][0]["blocks"], true);

        let (code, out) = metadata(&["/nowhere"]);
        assert_eq!(code, Some(2), "{out}");
        assert!(out.contains("cannot read /nowhere"), "{out}");
    });
}

fn metadata(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mfs-ha"))
        .arg("metadata")
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}
