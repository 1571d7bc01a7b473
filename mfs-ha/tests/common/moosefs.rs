//! The real MooseFS programs for one test, in the network of its thread and with mounts of its own.
//!
//! Call it on a thread of [`in_namespace`](super::in_namespace): every program then meets the others on
//! 127.0.0.1 with their usual ports, and nobody else.
#![allow(dead_code, reason = "each test program uses its part")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on panics; and dead code differs from program to program"
)]

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use super::{DEADLINE, ip};

/// What a new file system begins with: 8 bytes, no id.
pub(crate) const EMPTY_IMAGE: &[u8] = b"MFSM NEW";

/// Where chunkservers find the master: it takes none that comes from 127.0.0.1.
pub(crate) const MASTER_ADDRESS: &str = "10.91.7.1";

/// Waits for a condition, asking every 5 ms; fails after [`DEADLINE`].
pub(crate) fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_true() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The programs and one directory for all that they use. It goes when this is dropped.
pub(crate) struct MooseFs {
    root: tempfile::TempDir,
    user: User,
}

impl MooseFs {
    /// Takes the mounts of this thread apart from those of the machine.
    pub(crate) fn new() -> Self {
        assert!(
            geteuid().is_root(),
            "needs root: MooseFS is mounted and its programs change their user"
        );
        for (program, package) in [
            ("mfsmaster", "moosefs-master"),
            ("mfsmetalogger", "moosefs-metalogger"),
            ("mfschunkserver", "moosefs-chunkserver"),
            ("mfsmount", "moosefs-client"),
            ("mfsmetadump", "moosefs-master"),
        ] {
            let found = std::env::var_os("PATH").is_some_and(|path| {
                std::env::split_paths(&path).any(|place| place.join(program).is_file())
            });
            assert!(
                found,
                "{program} of the package {package} 3.0.117 is missing: run `cargo xtask setup`"
            );
        }
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();

        let root = tempfile::tempdir().unwrap();
        // The programs come here as the user mfs.
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        fs::write(
            root.path().join("exports.cfg"),
            "* / rw,alldirs,admin,maproot=0:0\n",
        )
        .unwrap();
        fs::write(root.path().join("topology.cfg"), "").unwrap();
        let user = User::from_name("mfs")
            .unwrap()
            .expect("the user mfs of the package moosefs-common: run `cargo xtask setup`");
        Self { root, user }
    }

    /// A place below the directory of this test. Nothing is made.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// User and group that the programs run as.
    pub(crate) fn owner(&self) -> (u32, u32) {
        (self.user.uid.as_raw(), self.user.gid.as_raw())
    }

    /// Gives a file or directory to the user that the programs run as.
    pub(crate) fn give(&self, path: &Path) {
        let (uid, gid) = self.owner();
        chown(path, Some(uid), Some(gid)).unwrap();
    }

    /// Makes an empty data directory.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        self.give(&path);
        path
    }

    /// Makes a data directory from which `mfsmaster start` makes a new file system.
    pub(crate) fn new_file_system(&self, name: &str) -> PathBuf {
        let data = self.directory(name);
        self.write(&data.join("metadata.mfs"), EMPTY_IMAGE);
        data
    }

    /// Writes a file for the programs.
    pub(crate) fn write(&self, path: &Path, content: impl AsRef<[u8]>) {
        fs::write(path, content).unwrap();
        self.give(path);
    }

    /// Copies a directory with owners, modes and times, as an administrator would: `cp -a`.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.path(name);
        let status = Command::new("cp")
            .arg("-aT")
            .args([from, &to])
            .status()
            .unwrap();
        assert!(status.success(), "cp -aT {} {name}", from.display());
        to
    }

    /// Writes a configuration of mfsmaster for a data directory; `more` has lines `KEY = VALUE`.
    pub(crate) fn master_config(&self, data: &Path, more: &str) -> PathBuf {
        let path = self.beside(data, "master.cfg");
        let text = format!(
            "DATA_PATH = {}\nEXPORTS_FILENAME = {}\nTOPOLOGY_FILENAME = {}\n{more}",
            data.display(),
            self.path("exports.cfg").display(),
            self.path("topology.cfg").display(),
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes a configuration of mfsmetalogger for a data directory.
    pub(crate) fn metalogger_config(&self, data: &Path, more: &str) -> PathBuf {
        let path = self.beside(data, "metalogger.cfg");
        let text = format!(
            "DATA_PATH = {}\nMASTER_HOST = 127.0.0.1\nMASTER_RECONNECTION_DELAY = 1\nMASTER_TIMEOUT = 10\n{more}",
            data.display()
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// Starts `mfsmaster -f`, with `options` such as `-a`, and waits until it listens.
    pub(crate) fn master(&self, data: &Path, options: &[&str]) -> Program {
        self.try_master(data, options).unwrap_or_else(|log| {
            panic!("mfsmaster {options:?} ends in {}:\n{log}", data.display())
        })
    }

    /// The same, where it may refuse.
    ///
    /// # Errors
    /// It ended; what it wrote.
    pub(crate) fn try_master(&self, data: &Path, options: &[&str]) -> Result<Program, String> {
        let mut command = Command::new("mfsmaster");
        command
            .arg("-f")
            .args(options)
            .arg("-c")
            .arg(self.master_config(data, ""))
            .arg("start");
        Program::spawn(command, self.beside(data, "master.log"))
            .ready("mfsmaster daemon initialized properly")
    }

    /// Starts `mfsmetalogger -f` and waits until it runs; what it downloads comes later.
    pub(crate) fn metalogger(&self, data: &Path) -> Program {
        let mut command = Command::new("mfsmetalogger");
        command
            .arg("-f")
            .arg("-c")
            .arg(self.metalogger_config(data, ""))
            .arg("start");
        Program::spawn(command, self.beside(data, "metalogger.log"))
            .ready("mfsmetalogger daemon initialized properly")
            .unwrap_or_else(|log| panic!("mfsmetalogger ends in {}:\n{log}", data.display()))
    }

    /// Starts `mfschunkserver -f` with one directory as its disk, and waits until it runs; it registers later.
    ///
    /// Needs [`MooseFs::give_master_address`].
    pub(crate) fn chunkserver(&self, name: &str, port: u16) -> Program {
        let data = self.directory(name);
        let disks = self.beside(&data, "hdd.cfg");
        let disk = self.directory(&format!("{name}.disk"));
        fs::write(&disks, format!("{}\n", disk.display())).unwrap();
        let config = self.beside(&data, "chunkserver.cfg");
        let text = format!(
            "DATA_PATH = {}\nHDD_CONF_FILENAME = {}\nHDD_LEAVE_SPACE_DEFAULT = 64MiB\n\
             CSSERV_LISTEN_PORT = {port}\nMASTER_HOST = {MASTER_ADDRESS}\n\
             MASTER_RECONNECTION_DELAY = 1\nMASTER_TIMEOUT = 10\n",
            data.display(),
            disks.display(),
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("mfschunkserver");
        command.args(["-f", "-c"]).arg(&config).arg("start");
        Program::spawn(command, self.beside(&data, "chunkserver.log"))
            .ready("mfschunkserver daemon initialized properly")
            .unwrap_or_else(|log| panic!("mfschunkserver ends in {}:\n{log}", data.display()))
    }

    /// Gives the network of this thread [`MASTER_ADDRESS`].
    pub(crate) fn give_master_address(&self) {
        ip(&format!("addr add {MASTER_ADDRESS}/24 dev v0"));
    }

    /// Mounts what the master on 127.0.0.1 serves.
    pub(crate) fn mount(&self) -> Mount {
        let place = tempfile::tempdir_in(self.root.path()).unwrap();
        let mut command = Command::new("mfsmount");
        command.arg(place.path()).args(["-f", "-H", "127.0.0.1"]);
        let log = place.path().with_extension("mount.log");
        let mut program = Program::spawn(command, log);
        let needle = format!(" {} ", place.path().display());
        wait_until("MooseFS is mounted", || {
            assert!(program.exited().is_none(), "mfsmount: {}", program.log());
            fs::read_to_string("/proc/thread-self/mountinfo")
                .unwrap()
                .contains(&needle)
        });
        Mount { program, place }
    }

    /// Every name that the master on 127.0.0.1 shows.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.mount().names()
    }

    fn beside(&self, data: &Path, suffix: &str) -> PathBuf {
        let name = data.file_name().unwrap().to_str().unwrap();
        self.path(&format!("{name}.{suffix}"))
    }
}

/// A program that a test started. It is killed when this is dropped.
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it with its output in a file, so that nobody has to read along.
    pub(crate) fn spawn(mut command: Command, log: PathBuf) -> Self {
        let output = File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// What it wrote so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// How it ended, if it did.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Takes its life as a crash does, and waits until its children have written what they had.
    pub(crate) fn kill(mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Asks it to end and waits.
    pub(crate) fn terminate(mut self) {
        self.end(Signal::SIGTERM);
    }

    /// Stops it and waits until all its threads stand still.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let stat = format!("/proc/{}/stat", self.pid());
        wait_until("it has stopped", || {
            let stat = fs::read_to_string(&stat).unwrap();
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('T'))
        });
    }

    fn end(&mut self, signal: Signal) {
        let children = children(self.pid());
        if self.exited().is_none() {
            self.signal(signal);
            wait_until("the program ends", || self.exited().is_some());
        }
        // The data writer of mfsmaster goes on until it has written what came through its pipe.
        wait_until("its children end", || {
            children.iter().all(|pid| is_gone(*pid))
        });
    }

    fn ready(mut self, line: &str) -> Result<Self, String> {
        let mut has_ended = false;
        wait_until(line, || {
            has_ended = self.exited().is_some();
            has_ended || self.log().contains(line)
        });
        if has_ended { Err(self.log()) } else { Ok(self) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// A mounted MooseFS. It is unmounted when this is dropped, whether or not the master answers.
pub(crate) struct Mount {
    program: Program,
    place: tempfile::TempDir,
}

impl Mount {
    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    /// Makes empty files: one change of the metadata each, and no chunkserver is needed.
    pub(crate) fn touch(&self, prefix: &str, count: usize) {
        for number in 0..count {
            drop(File::create(self.path().join(format!("{prefix}{number}"))).unwrap());
        }
    }

    /// The paths of all files and directories in it.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut waiting = vec![self.path().to_path_buf()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                let path = entry.path();
                let name = path.strip_prefix(self.path()).unwrap();
                names.insert(name.to_str().unwrap().to_owned());
                if entry.file_type().unwrap().is_dir() {
                    waiting.push(path);
                }
            }
        }
        names
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // First the mount, or a client whose master is gone would keep it busy.
        // By force: mfsmount may be asking its own mount something, and would wait for itself after its death.
        let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH;
        umount2(self.place.path(), flags).ok();
        drop(self.program.child.kill());
        drop(self.program.child.wait());
    }
}

fn children(pid: i32) -> Vec<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Whether a process has ended; it may still wait to be collected.
fn is_gone(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
        stat.rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    })
}
