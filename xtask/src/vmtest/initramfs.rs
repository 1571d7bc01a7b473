//! What the kernel finds when it has booted: an archive of files, and the script that runs the tests.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cpio::newc::{self, ModeFileType};

use super::report::MARKER;

/// Where the script and the tests write: the first serial line.
const OUTPUT: &str = "/dev/ttyS0";

/// Rights of everything in there: root is alone.
const MODE: u32 = 0o755;

/// The archive that is written as files are added.
pub(super) struct Archive {
    out: BufWriter<File>,
    dirs: BTreeSet<String>,
}

impl Archive {
    /// Begins a new archive.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self {
            out: BufWriter::new(file),
            dirs: BTreeSet::new(),
        })
    }

    /// Adds a file of this machine at a place there.
    ///
    /// # Errors
    /// When it cannot be read, or the archive cannot be written.
    pub(super) fn copy(&mut self, file: &Path, place: &str) -> Result<()> {
        let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        self.add(place, &content)
    }

    /// Adds a file of this machine to a directory there, and returns its place.
    ///
    /// # Errors
    /// When it cannot be read, or the archive cannot be written.
    pub(super) fn copy_into(&mut self, dir: &str, file: &Path) -> Result<String> {
        let name = file.file_name().and_then(OsStr::to_str);
        let name = name.with_context(|| format!("{} has no usable name", file.display()))?;
        let place = format!("/{dir}/{name}");
        self.copy(file, &place)?;
        Ok(place)
    }

    /// Adds a file, and the directories that it is in.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub(super) fn add(&mut self, place: &str, content: &[u8]) -> Result<()> {
        let place = place.trim_start_matches('/');
        for (at, _) in place.match_indices('/') {
            let dir = place.get(..at).unwrap_or_default();
            if self.dirs.insert(dir.to_owned()) {
                self.entry(dir, ModeFileType::Directory, &[])?;
            }
        }
        self.entry(place, ModeFileType::Regular, content)
    }

    fn entry(&mut self, name: &str, kind: ModeFileType, content: &[u8]) -> Result<()> {
        let context = || format!("cannot put {name} into the archive");
        let size = u32::try_from(content.len()).with_context(context)?;
        let header = newc::Builder::new(name).mode(MODE).set_mode_file_type(kind);
        let mut writer = header.write(&mut self.out, size);
        writer.write_all(content).with_context(context)?;
        writer.finish().map(drop).with_context(context)
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn finish(mut self) -> Result<()> {
        newc::trailer(&mut self.out)
            .and_then(|out| out.flush())
            .context("cannot write the archive")
    }
}

/// What the script does.
#[derive(Default)]
pub(super) struct Plan<'a> {
    /// Files of modules, in the order in which to load them.
    pub(super) modules: Vec<String>,
    /// Names of tests, and the files that they are.
    pub(super) programs: Vec<(&'a str, String)>,
    /// Variables of the tests.
    pub(super) environment: &'a [(&'a str, &'a str)],
    /// The machine ends then, also when nobody watches it any more.
    pub(super) limit: Duration,
}

impl Plan<'_> {
    /// Writes the script that the kernel starts as its first process.
    ///
    /// # Errors
    /// When a variable cannot be written down.
    pub(super) fn script(&self) -> Result<String> {
        let limit = self.limit.as_secs();
        let mut script = format!(
            "#!/bin/busybox sh\n\
             say() {{ printf '\\n{MARKER} %s\\n' \"$*\"; }}\n\
             end() {{ sync; poweroff -f; }}\n\
             must() {{ \"$@\" || {{ say \"failed $*\"; end; }}; }}\n\
             export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/\n\
             /bin/busybox mkdir -p /proc /sys /dev /tmp /run\n\
             /bin/busybox mount -t proc proc /proc\n\
             /bin/busybox --install -s /bin\n\
             mount -t devtmpfs dev /dev\n\
             exec <{OUTPUT} >{OUTPUT} 2>&1\n\
             must stty raw\n\
             exec </dev/null\n\
             (sleep {limit}; end) &\n\
             say \"kernel $(uname -r)\"\n\
             must mount -t sysfs sys /sys\n\
             must mount -t bpf bpf /sys/fs/bpf\n\
             must mount -t tracefs trace /sys/kernel/tracing\n\
             must mount -t tmpfs tmp /tmp\n\
             must mount -t tmpfs run /run\n"
        );
        for module in &self.modules {
            script.push_str(&format!("must insmod {module}\n"));
        }
        script.push_str("must ip link set lo up\n");
        for (name, value) in self.environment {
            ensure!(!value.contains('\''), "{name}={value} has a quote in it");
            script.push_str(&format!("export {name}='{value}'\n"));
        }
        for (name, file) in &self.programs {
            script.push_str(&format!(
                "say 'begin {name}'\n{file} --test-threads=1\nsay \"end {name} $?\"\n"
            ));
        }
        script.push_str("say done\nend\n");
        Ok(script)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn archive_has_the_files_and_their_directories_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initramfs");
        let mut archive = Archive::create(&path).unwrap();
        archive.add("init", b"#!").unwrap();
        archive.add("/usr/sbin/ip", b"one").unwrap();
        archive.add("usr/lib/odd", b"").unwrap();
        archive.finish().unwrap();

        let mut rest = fs::read(&path).unwrap();
        let mut found = Vec::new();
        loop {
            let mut reader = newc::Reader::new(rest.as_slice()).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                break;
            }
            let (name, mode) = (entry.name().to_owned(), entry.mode());
            let mut content = String::new();
            reader.read_to_string(&mut content).unwrap();
            rest = reader.finish().unwrap().to_vec();
            found.push(format!("{mode:o} {name} {content}"));
        }
        let expected = [
            "100755 init #!",
            "40755 usr ",
            "40755 usr/sbin ",
            "100755 usr/sbin/ip one",
            "40755 usr/lib ",
            "100755 usr/lib/odd ",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn script_loads_modules_in_order_and_runs_each_program_between_marks() {
        let mut plan = Plan {
            modules: vec!["/a.ko".to_owned(), "/b.ko".to_owned()],
            programs: vec![("one", "/tests/one".to_owned())],
            environment: &[("SEED", "7")],
            limit: Duration::from_secs(9),
        };
        let script = plan.script().unwrap();
        let end = "must insmod /a.ko\nmust insmod /b.ko\nmust ip link set lo up\n\
                   export SEED='7'\nsay 'begin one'\n/tests/one --test-threads=1\n\
                   say \"end one $?\"\nsay done\nend\n";
        assert!(script.ends_with(end), "{script}");
        plan.environment = &[("SEED", "it's")];
        assert!(plan.script().is_err());
    }
}
