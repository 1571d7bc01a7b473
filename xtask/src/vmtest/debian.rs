//! Debian packages, unpacked below the checkout's own directory.
//!
//! Installing them would change the machine more than a test may: an emulator of another release, for
//! one, would have to be removed first.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::console::{note, step};
use crate::setup;
use crate::workspace::{self, Workspace};

pub(super) struct Packages<'w> {
    workspace: &'w Workspace,
    dir: PathBuf,
}

/// What to fetch of a package.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Alone,
    /// Also what it depends on, unless that is installed here.
    WithDependencies,
}

impl<'w> Packages<'w> {
    pub(super) fn new(workspace: &'w Workspace, dir: PathBuf) -> Self {
        Self { workspace, dir }
    }

    /// Returns the newest package of those named `prefix`, a number, `suffix`.
    ///
    /// # Errors
    /// When the configured sources have none.
    pub(super) fn newest(&self, prefix: &str, suffix: &str) -> Result<String> {
        let find = || -> Result<Option<String>> {
            let mut command = self.workspace.program("apt-cache");
            command.args(["pkgnames", prefix]);
            let names = workspace::output(&mut command, "this takes Debian's package manager")?;
            Ok(newest_of(&names, prefix, suffix))
        };
        let found = match find()? {
            Some(name) => Some(name),
            None => {
                self.update()?;
                find()?
            }
        };
        found.with_context(|| {
            format!("the configured sources of Debian have no package {prefix}N{suffix}")
        })
    }

    /// Returns the directory where the newest version of a package is unpacked; a new one is made
    /// ready by `prepare`. What served the same purpose before is removed.
    ///
    /// # Errors
    /// When it cannot be downloaded; the errors of `prepare`.
    pub(super) fn unpacked(
        &self,
        purpose: &str,
        name: &str,
        extent: Extent,
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let version = self.version(name)?;
        let shelf = self.dir.join(purpose);
        let place = shelf.join(format!("{name}_{version}"));
        if place.is_dir() {
            return Ok(place);
        }
        step(&format!("downloading {name} {version}"), || {
            // Kernels and emulators are large: one of each is enough.
            remove_dir(&shelf)?;
            let archives = shelf.join("partial/archives");
            let root = shelf.join("partial/root");
            // The package manager wants a directory of this name in its own.
            for dir in [&archives.join("partial"), &root] {
                fs::create_dir_all(dir)
                    .with_context(|| format!("cannot make {}", dir.display()))?;
            }
            self.download(name, extent, &archives)?;
            self.unpack(&archives, &root)?;
            prepare(&root)?;
            fs::rename(&root, &place)
                .with_context(|| format!("cannot make {}", place.display()))?;
            remove_dir(&shelf.join("partial"))
        })?;
        Ok(place)
    }

    fn version(&self, name: &str) -> Result<String> {
        let ask = || {
            let mut command = self.workspace.program("apt-cache");
            command.args(["show", "--no-all-versions", name]);
            workspace::output(&mut command, "no package of that name")
        };
        let text = match ask() {
            Ok(text) => text,
            Err(_not_in_the_lists) => {
                self.update()?;
                ask()?
            }
        };
        let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
        let version = version.with_context(|| format!("apt-cache shows no version of {name}"))?;
        // As in the names of packages' files: a colon cannot stand in a path of libraries.
        Ok(version.replace(':', "%3a"))
    }

    /// What the lists name may have been replaced on the server since they were fetched.
    fn download(&self, name: &str, extent: Extent, archives: &Path) -> Result<()> {
        if let Err(error) = self.try_download(name, extent, archives) {
            note(&format!("{error:#}"));
            self.update()?;
            self.try_download(name, extent, archives)?;
        }
        Ok(())
    }

    fn try_download(&self, name: &str, extent: Extent, archives: &Path) -> Result<()> {
        let mut command = setup::apt(self.workspace);
        // The user that downloads for root may have no way to the checkout.
        command.args(["-o", "APT::Sandbox::User=root"]);
        match extent {
            Extent::Alone => {
                command.current_dir(archives).args(["download", name]);
            }
            Extent::WithDependencies => {
                let mut place = OsString::from("Dir::Cache::archives=");
                place.push(archives);
                command
                    // Nothing is installed, so nobody has to be kept out meanwhile.
                    .args(["-o", "Debug::NoLocking=1", "-o"])
                    .arg(place)
                    .args(["install", "--download-only", "--yes"])
                    .args(["--no-install-recommends", name]);
            }
        }
        workspace::run(&mut command, "see its output above")
    }

    fn unpack(&self, archives: &Path, root: &Path) -> Result<()> {
        let context = || format!("cannot read {}", archives.display());
        let mut count = 0;
        for entry in fs::read_dir(archives).with_context(context)? {
            let archive = entry.with_context(context)?.path();
            if archive.extension().is_some_and(|found| found == "deb") {
                let mut command = self.workspace.program("dpkg-deb");
                command.arg("--extract").arg(&archive).arg(root);
                workspace::run(&mut command, "the package cannot be unpacked")?;
                count += 1;
            }
        }
        ensure!(count > 0, "apt-get has downloaded no package");
        Ok(())
    }

    fn update(&self) -> Result<()> {
        step("apt-get update (a few seconds)", || {
            let hint = "only root can fetch the lists of Debian's packages";
            workspace::run(setup::apt(self.workspace).arg("update"), hint)
        })
    }
}

fn newest_of(names: &str, prefix: &str, suffix: &str) -> Option<String> {
    let number = |name: &str| -> Option<u32> {
        let number = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
        number.parse().ok()
    };
    let numbered = names
        .lines()
        .filter_map(|name| Some((number(name)?, name.to_owned())));
    numbered.max().map(|(_, name)| name)
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_kernel_is_that_with_the_highest_number() {
        let newest = |names: &str| newest_of(names, "linux-image-6.1.0-", "-amd64");
        let names = "linux-image-6.1.0-9-amd64\nlinux-image-6.1.0-56-amd64\n\
                     linux-image-6.1.0-57-cloud-amd64\nlinux-image-6.1.0-58-amd64-dbg\n\
                     linux-image-6.1.0-59-rt-amd64\nlinux-image-6.12.0-1-amd64\n";
        assert_eq!(newest(names).unwrap(), "linux-image-6.1.0-56-amd64");
        assert_eq!(newest("linux-image-amd64\n"), None);
        assert_eq!(newest(""), None);
    }
}
