//! What `check` finds on a real host: each test in a network of its own. Needs root.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on panics"
)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use mfs_ha::cli::check::{Finding, Level, Probes, Report, System, examine};
use mfs_ha::lock::InstanceLock;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use common::{in_namespace, ip, xdp_object};

/// A directory in which everything is as it must be, until a test changes it.
struct Bench {
    directory: tempfile::TempDir,
    config: String,
    probes: Probes,
    system: System,
}

impl Bench {
    /// Call it on the thread of the test: it sees a mount of its own.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("bpf")).unwrap();
        fs::create_dir(path("run")).unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(
            Some("bpf"),
            &path("bpf"),
            Some("bpf"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        for (name, content, mode) in [
            ("secret", "secret\n", 0o600),
            ("up", "#!/bin/sh\n", 0o755),
            ("down", "#!/bin/sh\n", 0o755),
            ("btf", "", 0o644),
            ("jit", "1\n", 0o644),
        ] {
            fs::write(path(name), content).unwrap();
            fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
        }
        let config = format!(
            "interface = \"v0\"\nvip = \"10.0.0.100/24\"\nrun_dir = \"{0}/run\"\n\
             [carp]\nvhid = 7\npassword_file = \"{0}/secret\"\npeers = [\"10.0.0.2\"]\n\
             [hooks]\nup = \"{0}/up\"\ndown = \"{0}/down\"\n",
            directory.path().display()
        );
        let probes = Probes {
            privileges: || Ok(()),
            load_program: || Ok(()),
            program_name: |_| Some("somebody".to_owned()),
            become_realtime: || Ok(()),
        };
        let system = System {
            bpf_fs: path("bpf"),
            btf: path("btf"),
            jit: path("jit"),
        };
        ip("addr add 10.0.0.1/24 dev v0");
        Self {
            directory,
            config,
            probes,
            system,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn change(&mut self, from: &str, to: &str) {
        assert!(self.config.contains(from), "{from}");
        self.config = self.config.replace(from, to);
    }

    fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    async fn report(&self) -> Report {
        let path = self.path("mfs-ha.toml");
        if !path.exists() {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        }
        fs::write(&path, &self.config).unwrap();
        examine(&path, &self.system, &self.probes).await
    }

    /// The report has exactly one finding that is not ok, and it is this one.
    async fn finds(&self, level: Level, name: &str, pieces: &[&str]) -> Finding {
        let report = self.report().await;
        let mut bad = report
            .findings
            .iter()
            .filter(|finding| finding.level != Level::Ok);
        let finding = bad
            .next()
            .unwrap_or_else(|| panic!("nothing was found: {}", text(&report)));
        assert_eq!(bad.next(), None, "{}", text(&report));
        assert_eq!((finding.level, finding.name), (level, name), "{finding:?}");
        for piece in pieces {
            assert!(
                finding.message.contains(piece),
                "{piece:?} is not in {finding:?}"
            );
        }
        assert!(finding.hint.is_some(), "{finding:?}");
        assert_eq!(report.has_failed(), level == Level::Fail);
        finding.clone()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Else the directory could not be removed.
        let unmounted = nix::mount::umount(&self.path("bpf"));
        assert!(
            unmounted.is_ok() || std::thread::panicking(),
            "{unmounted:?}"
        );
    }
}

fn text(report: &Report) -> String {
    let mut text = Vec::new();
    report.write_text(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn where_all_is_well_nothing_but_ok_is_said() {
    in_namespace(async || {
        let bench = Bench::new();
        let report = bench.report().await;
        let text = text(&report);
        assert!(text.lines().all(|line| line.starts_with("ok   ")), "{text}");
        for line in [
            "ok   privileges: sufficient",
            "ok   source address: 10.0.0.1",
            "ok   VIP: 10.0.0.100/24",
            "ok   XDP: no other program is on v0",
            "ok   native XDP: the driver of v0 has it",
            "ok   VLAN: untagged",
            "ok   pinned maps: none are left over",
            "ok   real-time priority: permitted",
            "ok   BPF compiler: switched on",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line:?} is not in\n{text}"
            );
        }
        assert!(
            !bench.path("run/default.lock").exists(),
            "a check must make nothing"
        );
    });
}

#[test]
fn a_wrong_configuration_is_told_problem_by_problem() {
    in_namespace(async || {
        let mut bench = Bench::new();
        bench.change("vhid = 7", "vhid = 0\nvhdi = 1");
        let report = bench.report().await;
        let fails: Vec<&Finding> = report
            .findings
            .iter()
            .filter(|finding| finding.level == Level::Fail)
            .collect();
        assert_eq!(fails.len(), 2, "{}", text(&report));
        assert!(
            fails[0]
                .message
                .contains("mfs-ha.toml:5:8: `carp.vhid` is 0"),
            "{fails:?}"
        );
        assert!(
            fails[1].message.contains("did you mean `carp.vhid`"),
            "{fails:?}"
        );

        let absent = bench.path("absent.toml");
        let report = examine(&absent, &bench.system, &bench.probes).await;
        assert!(report.has_failed());
        assert!(
            report.findings[0]
                .message
                .contains("absent.toml: No such file"),
            "{report:?}"
        );
    });
}

#[test]
fn files_that_others_can_change_fail() {
    in_namespace(async || {
        let bench = Bench::new();
        bench.report().await;
        bench.chmod("mfs-ha.toml", 0o666);
        let finding = bench
            .finds(Level::Fail, "configuration", &["others can write"])
            .await;
        assert!(finding.hint.unwrap().starts_with("chmod go-w "));
        bench.chmod("mfs-ha.toml", 0o644);

        bench.chmod("secret", 0o644);
        bench
            .finds(Level::Fail, "password", &["mode 0644", "chmod 0600"])
            .await;
        bench.chmod("secret", 0o600);

        bench.chmod("up", 0o757);
        bench
            .finds(
                Level::Fail,
                "up hook",
                &["others can write", "runs as root"],
            )
            .await;
        bench.chmod("up", 0o644);
        bench
            .finds(Level::Fail, "up hook", &["not executable"])
            .await;
        bench.chmod("up", 0o755);

        bench.chmod("run", 0o777);
        bench.finds(Level::Fail, "instance", &["mode 0777"]).await;
    });
}

#[test]
fn files_that_are_missing_or_odd_are_named() {
    in_namespace(async || {
        let bench = Bench::new();
        fs::remove_file(bench.path("down")).unwrap();
        bench
            .finds(
                Level::Fail,
                "down hook",
                &["/down cannot be run", "No such file"],
            )
            .await;
        fs::create_dir(bench.path("down")).unwrap();
        bench
            .finds(Level::Fail, "down hook", &["it is no file"])
            .await;
        fs::remove_dir(bench.path("down")).unwrap();
        fs::write(bench.path("down"), "").unwrap();
        bench.chmod("down", 0o755);

        fs::write(bench.path("secret"), "secret\r\n").unwrap();
        bench.finds(Level::Warn, "password", &["ends in CR"]).await;
        fs::write(bench.path("secret"), "").unwrap();
        bench.finds(Level::Fail, "password", &["it is empty"]).await;
    });
}

#[test]
fn an_interface_that_cannot_be_used_fails() {
    in_namespace(async || {
        let mut bench = Bench::new();
        ip("link set v1 down");
        bench
            .finds(Level::Warn, "interface", &["v0 has no carrier"])
            .await;
        bench.change("[carp]", "[carp]\nignore_link_state = true");
        assert!(!text(&bench.report().await).contains("warn"));
        ip("link set v0 down");
        let finding = bench
            .finds(Level::Fail, "interface", &["v0 is switched off"])
            .await;
        assert_eq!(finding.hint.unwrap(), "ip link set v0 up");
        bench.change("\"v0\"", "\"absent0\"");
        bench
            .finds(Level::Fail, "interface", &["absent0 does not exist"])
            .await;
        bench.change("\"absent0\"", "\"lo\"");
        let report = text(&bench.report().await);
        assert!(
            report.contains("fail interface: lo is not an Ethernet interface"),
            "{report}"
        );
        assert!(
            report.contains("fail source address: lo has no IPv4 address"),
            "{report}"
        );
        assert!(
            report.contains("warn native XDP: the driver of lo does not have it"),
            "{report}"
        );
        bench.change("[hooks]", "[xdp]\nmode = \"native\"\n[hooks]");
        let report = text(&bench.report().await);
        assert!(
            report.contains("fail native XDP: the driver of lo does not have it"),
            "{report}"
        );
    });
}

#[test]
fn addresses_that_do_not_fit_are_told() {
    in_namespace(async || {
        let mut bench = Bench::new();
        ip("addr add 10.0.0.100/32 dev v1");
        let finding = bench
            .finds(Level::Warn, "VIP", &["10.0.0.100/32 is also on v1"])
            .await;
        assert_eq!(finding.hint.unwrap(), "ip addr del 10.0.0.100/32 dev v1");
        ip("addr del 10.0.0.100/32 dev v1");

        ip("addr add 10.0.0.100/24 dev v0");
        bench
            .finds(Level::Warn, "VIP", &["on v0 although no daemon runs"])
            .await;
        let lock = InstanceLock::acquire(&bench.path("run"), "default").unwrap();
        assert!(!text(&bench.report().await).contains("warn"));
        drop(lock);
        ip("addr del 10.0.0.100/24 dev v0");

        bench.change("10.0.0.100/24", "10.0.0.100/25");
        bench
            .finds(
                Level::Warn,
                "VIP",
                &["10.0.0.100/25 fits to no address", "10.0.0.1/24"],
            )
            .await;
        bench.change("10.0.0.100/25", "10.0.0.100/24");

        bench.change("10.0.0.2", "10.0.0.1");
        bench
            .finds(
                Level::Fail,
                "source address",
                &["10.0.0.1", "stands in `carp.peers`"],
            )
            .await;
        bench.change("10.0.0.1\"", "10.0.0.2\"");
        bench.change("[carp]", "source = \"10.0.0.9\"\n[carp]");
        bench
            .finds(
                Level::Fail,
                "source address",
                &["v0 does not have 10.0.0.9"],
            )
            .await;
        bench.change("10.0.0.9", "10.0.0.1");
        assert!(!bench.report().await.has_failed());
    });
}

#[test]
fn another_xdp_program_fails_and_that_of_the_running_daemon_does_not() {
    in_namespace(async || {
        let mut bench = Bench::new();
        let object = bench.path("pass.bpf.o");
        fs::write(&object, xdp_object()).unwrap();
        ip(&format!(
            "link set dev v0 xdpgeneric obj {} sec xdp",
            object.display()
        ));
        let finding = bench
            .finds(
                Level::Fail,
                "XDP",
                &["another program", "(somebody)", "generic"],
            )
            .await;
        assert!(
            finding
                .hint
                .unwrap()
                .contains("ip link set v0 xdpgeneric off")
        );

        bench.probes.program_name = |_| Some("mfs_ha".to_owned());
        bench
            .finds(Level::Fail, "XDP", &["another program", "(mfs_ha)"])
            .await;
        let _lock = InstanceLock::acquire(&bench.path("run"), "default").unwrap();
        let report = text(&bench.report().await);
        assert!(report.contains("ok   XDP: id "), "{report}");
        assert!(report.contains("is that of the running daemon"), "{report}");
        bench.probes.program_name = |_| None;
        bench
            .finds(Level::Fail, "XDP", &["another program is on v0: id "])
            .await;
    });
}

#[test]
fn a_tag_that_the_driver_takes_off_fails() {
    in_namespace(async || {
        let mut bench = Bench::new();
        bench.change("[carp]", "vlan = 5\n[carp]");
        let finding = bench
            .finds(Level::Fail, "VLAN", &["v0 takes the tag off"])
            .await;
        assert_eq!(finding.hint.unwrap(), "ethtool -K v0 rxvlan off");
    });
}

#[test]
fn what_the_kernel_lacks_is_told() {
    in_namespace(async || {
        let mut bench = Bench::new();
        fs::write(bench.path("jit"), "0\n").unwrap();
        let finding = bench
            .finds(Level::Warn, "BPF compiler", &["switched off"])
            .await;
        assert_eq!(finding.hint.unwrap(), "sysctl net.core.bpf_jit_enable=1");
        fs::remove_file(bench.path("jit")).unwrap();
        bench
            .finds(Level::Warn, "BPF compiler", &["cannot read"])
            .await;
        fs::write(bench.path("jit"), "2\n").unwrap();

        fs::remove_file(bench.path("btf")).unwrap();
        bench
            .finds(Level::Warn, "kernel type information", &["does not exist"])
            .await;
        fs::write(bench.path("btf"), "").unwrap();

        bench.system.bpf_fs = bench.path("run");
        let finding = bench
            .finds(Level::Fail, "BPF file system", &["not mounted"])
            .await;
        assert!(finding.hint.unwrap().starts_with("mount -t bpf bpf "));
    });
}

#[test]
fn what_was_tried_in_vain_is_told() {
    in_namespace(async || {
        let mut bench = Bench::new();
        let right = bench.probes;
        bench.probes.privileges = || Err("missing CAP_BPF".to_owned());
        bench
            .finds(Level::Fail, "privileges", &["missing CAP_BPF"])
            .await;
        bench.probes = right;
        bench.probes.load_program = || Err("the verifier refused it".to_owned());
        bench
            .finds(Level::Fail, "eBPF program", &["the verifier refused it"])
            .await;
        bench.probes = right;
        bench.probes.become_realtime = || Err("EPERM".to_owned());
        bench
            .finds(
                Level::Warn,
                "real-time priority",
                &["EPERM", "delay adverts"],
            )
            .await;
        bench.change("[hooks]", "[scheduling]\nrealtime = false\n[hooks]");
        assert!(!text(&bench.report().await).contains("real-time"));
    });
}

#[test]
fn pins_of_a_dead_daemon_are_a_warning_and_those_of_a_living_one_are_not() {
    in_namespace(async || {
        let bench = Bench::new();
        // A directory in it stands for a map: both are entries of the directory.
        fs::create_dir_all(bench.path("bpf/mfs-ha/default/peers")).unwrap();
        bench
            .finds(
                Level::Warn,
                "pinned maps",
                &["left over from an earlier run"],
            )
            .await;
        let _lock = InstanceLock::acquire(&bench.path("run"), "default").unwrap();
        let report = text(&bench.report().await);
        let pid = std::process::id();
        assert!(report.contains(&format!(
            "ok   instance: default is running as process {pid}"
        )));
        assert!(report.contains("ok   pinned maps: in "), "{report}");
    });
}

/// A bench whose node is to serve metadata; the programs are the real ones.
fn moosefs_bench() -> Bench {
    let mut bench = Bench::new();
    let data = bench.path("data");
    fs::create_dir(&data).unwrap();
    let shared = format!("DATA_PATH = {}\n", data.display());
    fs::write(
        bench.path("mfsmaster.cfg"),
        format!("{shared}CHANGELOG_SAVE_MODE = 1\n"),
    )
    .unwrap();
    fs::write(
        bench.path("mfsmetalogger.cfg"),
        format!("{shared}MASTER_HOST = 10.0.0.100\n"),
    )
    .unwrap();
    bench.config += &format!(
        "[moosefs]\nmaster_config = \"{0}/mfsmaster.cfg\"\nmetalogger_config = \"{0}/mfsmetalogger.cfg\"\n",
        bench.directory.path().display()
    );
    bench
}

#[test]
fn a_directory_without_metadata_is_a_warning() {
    in_namespace(async || {
        let bench = moosefs_bench();
        bench
            .finds(Level::Warn, "metadata", &["is not promotable", "data"])
            .await;
    });
}

#[test]
fn a_program_that_is_not_there_fails() {
    in_namespace(async || {
        let mut bench = moosefs_bench();
        bench.config += "master_program = \"/nowhere/mfsmaster\"\n";
        let bench_text = text(&bench.report().await);
        assert!(
            bench_text.contains("fail mfsmaster: /nowhere/mfsmaster: No such file"),
            "{bench_text}"
        );
    });
}

#[test]
fn two_data_directories_fail() {
    in_namespace(async || {
        let bench = moosefs_bench();
        fs::write(bench.path("mfsmaster.cfg"), "DATA_PATH = /elsewhere\n").unwrap();
        let bench_text = text(&bench.report().await);
        assert!(
            bench_text.contains("fail data path: /elsewhere"),
            "{bench_text}"
        );
        assert!(bench_text.contains("CHANGELOG_SAVE_MODE"), "{bench_text}");
    });
}

#[test]
fn a_metalogger_has_to_follow_the_vip() {
    in_namespace(async || {
        let bench = moosefs_bench();
        let file = bench.path("mfsmetalogger.cfg");
        let data = bench.path("data");
        for (host, says) in [
            (
                "10.0.0.1",
                "fail mfsmetalogger's file: MASTER_HOST is 10.0.0.1",
            ),
            (
                "mfsmaster",
                "warn mfsmetalogger's file: MASTER_HOST is the name",
            ),
        ] {
            let text_of_file = format!("DATA_PATH = {}\nMASTER_HOST = {host}\n", data.display());
            fs::write(&file, text_of_file).unwrap();
            let bench_text = text(&bench.report().await);
            assert!(bench_text.contains(says), "{bench_text}");
        }
    });
}
