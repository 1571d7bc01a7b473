//! The judge's side of the client: its mount, its worker process, and audits.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::audit::Audit;
use super::history::History;
use super::record::{Record, monotonic_ns};
use crate::net::netns::Namespace;
use crate::net::topology::Topology;
use crate::requirements::lab_binary;
use crate::software::moosefs::CLIENT;
use crate::software::moosefs::mount::Mount;
use crate::software::process::Supervised;
use crate::wait::wait_until;

/// Far more than reading some ten thousand small files takes.
const AUDIT_LIMIT: Duration = Duration::from_secs(180);
/// The directory of the client in the file system.
const DIRECTORY: &str = "oracle";

/// How busy the client is.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// Threads that make files. One of them can be locked out of its chunk for two minutes by a crash, which is
    /// MooseFS's own doing: the others show what the failover did.
    pub writers: usize,
    /// Threads that read acknowledged files.
    pub readers: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            writers: 4,
            readers: 2,
        }
    }
}

/// A mount with workers on it; dropping it ends both.
#[derive(Debug)]
pub struct Client {
    // The mount goes first: it frees a worker that hangs in a call.
    mount: Mount,
    workers: Supervised,
    namespace: Namespace,
    home: PathBuf,
    log: PathBuf,
    consumed: u64,
    history: History,
    audits: u32,
    audited: usize,
}

impl Client {
    /// Mounts the file system on the client's host and starts the workers there.
    ///
    /// # Errors
    /// When the master does not answer or the lab program is not built.
    pub fn start(topology: &Topology, options: ClientOptions) -> Result<Self> {
        let home = topology.directory().join(CLIENT);
        Self::start_in(&topology.host(CLIENT)?.namespace, &home, options)
    }

    /// Mounts the file system inside `namespace` and starts workers there, with all their files in `home`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_in(namespace: &Namespace, home: &Path, options: ClientOptions) -> Result<Self> {
        let (namespace, home) = (namespace.clone(), home.to_owned());
        fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
        let (point, log) = (home.join("mnt"), home.join("mfsmount.log"));
        let mount = Mount::start(&namespace, &point, &log, false)?;
        let log = home.join("operations.jsonl");
        File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let directory = mount.point().join(DIRECTORY);
        mount
            .launch(&namespace, "mkdir", &home.join("workers.log"), "mkdir")
            .args([Path::new("-p"), &directory])
            .spawn()?
            .wait(AUDIT_LIMIT)?;
        let workers = mount
            .launch(
                &namespace,
                "the workers",
                &home.join("workers.log"),
                lab_binary()?,
            )
            .args(["oracle", "work", "--directory"])
            .args([&directory])
            .args(["--log"])
            .args([&log])
            .args(["--writers", &options.writers.to_string()])
            .args(["--readers", &options.readers.to_string()])
            .spawn()?;
        let epoch = (Instant::now(), monotonic_ns()?);
        Ok(Self {
            mount,
            workers,
            namespace,
            home,
            log,
            consumed: 0,
            history: History::new(epoch, options.writers, options.readers),
            audits: 0,
            audited: 0,
        })
    }

    /// All that the client did so far.
    ///
    /// # Errors
    /// When its log cannot be read, or its processes have ended.
    pub fn history(&mut self) -> Result<&History> {
        self.mount.process().check_running()?;
        self.workers.check_running()?;
        let mut log = File::open(&self.log)?;
        log.seek(SeekFrom::Start(self.consumed))?;
        let mut text = String::new();
        log.read_to_string(&mut text)
            .with_context(|| format!("read {}", self.log.display()))?;
        // The last line may be half-written.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        for line in whole.lines() {
            let record: Record = serde_json::from_str(line)
                .with_context(|| format!("read the client's record {line}"))?;
            self.history.take(&record);
        }
        self.consumed += u64::try_from(whole.len()).context("length of the log")?;
        Ok(&self.history)
    }

    /// Waits until `count` more files were acknowledged than now.
    ///
    /// # Errors
    /// When that does not come about within `limit`.
    pub fn wait_acked(&mut self, count: usize, limit: Duration) -> Result<()> {
        let before = self.history()?.acked();
        wait_until(&format!("{count} acknowledged writes"), limit, || {
            Ok((self.history()?.acked() >= before + count).then_some(()))
        })
    }

    /// Reads every acknowledged file, through the client's mount and through a fresh one.
    ///
    /// # Errors
    /// When an audit does not end, or the fresh mount cannot be made.
    pub fn audit(&mut self) -> Result<Audit> {
        self.audit_from(0)
    }

    /// As [`Self::audit`], but for the files that no audit has read yet. Each failover of a long row costs as much
    /// as the one before; the row ends with an audit of everything.
    ///
    /// # Errors
    /// As [`Self::audit`].
    pub fn audit_new(&mut self) -> Result<Audit> {
        self.audit_from(self.audited)
    }

    fn audit_from(&mut self, skip: usize) -> Result<Audit> {
        self.audits += 1;
        let through_old = self.inspect(&self.mount, "old", skip)?;
        let point = self.home.join(format!("mnt-{}", self.audits));
        let log = self.home.join(format!("mfsmount-{}.log", self.audits));
        let fresh = Mount::start(&self.namespace, &point, &log, false)?;
        let through_fresh = self.inspect(&fresh, "fresh", skip)?;
        ensure!(
            through_fresh.acked >= through_old.acked,
            "acknowledged files vanished from the client's own log"
        );
        self.audited = through_old.acked;
        Ok(through_old.merge(through_fresh))
    }

    /// Runs a command where the file system is mounted; `{}` in its words stands for the client's directory.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, words: &[&str]) -> Result<()> {
        let directory = self.mount.point().join(DIRECTORY);
        let directory = directory.to_string_lossy();
        let mut words = words.iter().map(|word| word.replace("{}", &directory));
        let program = words.next().context("no command given")?;
        let mut command = self
            .mount
            .launch(
                &self.namespace,
                &program,
                &self.home.join("commands.log"),
                &program,
            )
            .args(words)
            .spawn()?;
        let status = command.wait(AUDIT_LIMIT)?;
        ensure!(
            status.success(),
            "{program}: {status}: {}",
            command.log_text()?
        );
        Ok(())
    }

    /// Names of files that were acknowledged, oldest first.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn acknowledged(&self) -> Result<Vec<String>> {
        Ok(super::audit::acknowledged(&self.log)?
            .into_iter()
            .map(|(name, _)| name)
            .collect())
    }

    fn inspect(&self, mount: &Mount, what: &str, skip: usize) -> Result<Audit> {
        let result = self.home.join(format!("audit-{}-{what}.json", self.audits));
        let mut process = mount
            .launch(&self.namespace, "the audit", &result, lab_binary()?)
            .args(["oracle", "audit", "--directory"])
            .args([mount.point().join(DIRECTORY)])
            .args(["--log"])
            .args([&self.log])
            .args(["--skip", &skip.to_string()])
            .spawn()?;
        let status = process.wait(AUDIT_LIMIT)?;
        let text = process.log_text()?;
        ensure!(status.success(), "the audit ended with {status}: {text}");
        serde_json::from_str(&text).with_context(|| format!("read the audit {text}"))
    }
}
