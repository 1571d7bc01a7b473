//! Debian's kernel package, and the order in which its modules are loaded.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::debian::{Extent, Packages};
use crate::workspace::{self, Workspace};

pub(super) struct Kernel {
    /// What `uname -r` says there.
    pub(super) release: String,
    root: PathBuf,
}

impl Kernel {
    /// Fetches the newest package of a series such as "6.1.0-".
    ///
    /// # Errors
    /// When there is none, or it cannot be downloaded.
    pub(super) fn obtain(
        workspace: &Workspace,
        packages: &Packages<'_>,
        series: &str,
        busybox: &Path,
    ) -> Result<Self> {
        const PREFIX: &str = "linux-image-";
        let name = packages.newest(&format!("{PREFIX}{series}"), "-amd64")?;
        let release = name.strip_prefix(PREFIX).unwrap_or(&name).to_owned();
        let root = packages.unpacked("kernel", &name, Extent::Alone, |root| {
            // The package has no list of what its modules need; it is made where one is installed.
            let mut command = workspace.program(busybox);
            command.args(["depmod", "-b"]).arg(root).arg(&release);
            workspace::run(&mut command, "the modules of the kernel cannot be read")
        })?;
        Ok(Self { release, root })
    }

    /// The file that boots.
    pub(super) fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// Returns the files of modules and of those that they need, in the order in which to load them.
    ///
    /// # Errors
    /// When the kernel has no module of a name, neither apart nor built in.
    pub(super) fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let dir = self.root.join("lib/modules").join(&self.release);
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let order = load_order(&read("modules.dep")?, &read("modules.builtin")?, names)?;
        Ok(order.iter().map(|module| dir.join(module)).collect())
    }
}

/// Reads modules.dep: each line has a module, a colon, and all that it needs, what comes first last.
fn load_order(dependencies: &str, builtin: &str, names: &[&str]) -> Result<Vec<String>> {
    let mut order: Vec<String> = Vec::new();
    for name in names {
        let line = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(module, _)| module_name(module) == *name);
        let Some((module, needed)) = line else {
            let is_builtin = builtin.lines().any(|line| module_name(line) == *name);
            (is_builtin.then_some(()))
                .with_context(|| format!("the kernel has no module {name}"))?;
            continue;
        };
        let first = needed.split_whitespace().rev();
        for module in first.chain([module]) {
            if !order.iter().any(|known| known == module) {
                order.push(module.to_owned());
            }
        }
    }
    Ok(order)
}

/// The name of a module by its file, with underscores as the kernel shows it.
fn module_name(path: &str) -> String {
    let file = path.rsplit_once('/').map_or(path, |(_, file)| file);
    let stem = file.split_once(".ko").map_or(file, |(stem, _)| stem);
    stem.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/net/netfilter/nf_nat.ko: kernel/net/netfilter/nf_conntrack.ko kernel/lib/libcrc32c.ko\n\
         kernel/net/netfilter/nf_conntrack.ko: kernel/lib/libcrc32c.ko\n\
         kernel/lib/libcrc32c.ko:\n\
         kernel/drivers/net/veth.ko:\n\
         kernel/net/8021q/odd-name.ko.xz: kernel/drivers/net/veth.ko\n";

    fn order(names: &[&str]) -> Result<Vec<String>> {
        let builtin = "kernel/net/packet/af_packet.ko\n";
        let order = load_order(DEPENDENCIES, builtin, names)?;
        Ok(order.iter().map(|module| module_name(module)).collect())
    }

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_once() {
        assert_eq!(order(&["veth"]).unwrap(), ["veth"]);
        let expected = ["libcrc32c", "nf_conntrack", "nf_nat", "veth", "odd_name"];
        assert_eq!(
            order(&["nf_nat", "nf_conntrack", "odd_name"]).unwrap(),
            expected
        );
    }

    #[test]
    fn built_in_module_is_not_loaded_and_a_missing_one_is_an_error() {
        assert!(order(&["af_packet"]).unwrap().is_empty());
        let error = order(&["veth", "absent"]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no module absent");
    }
}
