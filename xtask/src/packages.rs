//! The Debian packages that this project needs, why, and how to see that one is there.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

/// What a package is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Compiling host programs.
    Host,
    /// Compiling the XDP program.
    BpfCompiler,
    /// Building the linker of the XDP program.
    BpfLinker,
    /// Linting the XDP program with the lints of its own compiler.
    BpfLint,
    /// The test network, the interoperation tests and the demo.
    Lab,
}

/// How to see that a package is installed, on any distribution.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    /// A program on PATH or in the administrator's directories.
    Program(&'static str),
    /// A file; needed where another package has a program of the same name.
    File(&'static str),
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(name) => write!(f, "the program `{name}`"),
            Self::File(path) => write!(f, "the file {path}"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) need: Need,
    pub(crate) purpose: &'static str,
    pub(crate) proof: Proof,
}

/// Where Debian's LLVM 22 lives: `bpf-linker` is built against it.
pub(crate) const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

#[rustfmt::skip]
pub(crate) const PACKAGES: &[Package] = &[
    package("gcc", Need::Host, "links every Rust program", Proof::Program("cc")),
    package("libc6-dev", Need::Host, "C library to link against", Proof::File("/usr/include/stdio.h")),
    package("g++", Need::Host, "compiles libFuzzer for the fuzz targets", Proof::Program("c++")),
    package("rustc-web", Need::BpfCompiler, "compiles the XDP program", Proof::File("/usr/bin/rustc")),
    package("libstd-rust-web-dev-bpf", Need::BpfCompiler, "Rust's core library for BPF",
        Proof::File("/usr/lib/rustlib/bpfel-unknown-none/lib")),
    package("rust-web-clippy", Need::BpfLint, "lints the XDP program", Proof::File("/usr/bin/cargo-clippy")),
    package("llvm-22-dev", Need::BpfLinker, "LLVM that bpf-linker is built on",
        Proof::File("/usr/lib/llvm-22/include/llvm-c/Core.h")),
    package("libpolly-22-dev", Need::BpfLinker, "part of LLVM that bpf-linker links",
        Proof::File("/usr/lib/llvm-22/lib/libPolly.a")),
    package("bpftool", Need::Lab, "shows pinned maps and programs", Proof::Program("bpftool")),
    package("ethtool", Need::Lab, "shows and changes VLAN offload", Proof::Program("ethtool")),
    package("fuse3", Need::Lab, "mounts MooseFS on the client of the test network", Proof::Program("fusermount3")),
    package("iproute2", Need::Lab, "makes namespaces, bridges and veth pairs", Proof::Program("ip")),
    // Debian's `arping` package has another program of that name, with other options.
    package("iputils-arping", Need::Lab, "asks from outside who owns the virtual IP", Proof::File("/usr/bin/arping")),
    package("keepalived", Need::Lab, "VRRP daemon that figures are compared with", Proof::Program("keepalived")),
    // None of these starts a daemon when it is installed; /etc/mfs stays empty.
    package("moosefs-cgiserv", Need::Lab, "MooseFS's web monitor, a service that mfs-ha can start",
        Proof::Program("mfscgiserv")),
    package("moosefs-chunkserver", Need::Lab, "stores what the client of the test network writes",
        Proof::Program("mfschunkserver")),
    package("moosefs-cli", Need::Lab, "asks a MooseFS master what it knows", Proof::Program("mfscli")),
    package("moosefs-client", Need::Lab, "mounts MooseFS", Proof::Program("mfsmount")),
    package("moosefs-master", Need::Lab, "real MooseFS master that mfs-ha promotes", Proof::Program("mfsmaster")),
    package("moosefs-metalogger", Need::Lab, "keeps a copy of the metadata on every node",
        Proof::Program("mfsmetalogger")),
    package("nftables", Need::Lab, "cuts links in one direction", Proof::Program("nft")),
    package("strace", Need::Lab, "ends a program at each of its system calls", Proof::Program("strace")),
    package("stress-ng", Need::Lab, "loads the CPUs", Proof::Program("stress-ng")),
    package("tcpdump", Need::Lab, "records what was on the wire", Proof::Program("tcpdump")),
    package("ucarp", Need::Lab, "real CARP daemon to interoperate with", Proof::Program("ucarp")),
    package("util-linux", Need::Lab, "nsenter, taskset and chrt", Proof::Program("nsenter")),
];

const fn package(name: &'static str, need: Need, purpose: &'static str, proof: Proof) -> Package {
    Package {
        name,
        need,
        purpose,
        proof,
    }
}

impl Package {
    pub(crate) fn is_present(&self) -> bool {
        match self.proof {
            Proof::Program(name) => find_program(name).is_some(),
            Proof::File(path) => Path::new(path).exists(),
        }
    }
}

/// Finds a program as an administrator's shell would: an ordinary user's PATH has no `sbin`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

pub(crate) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_each_package_once() {
        let mut names: Vec<_> = PACKAGES.iter().map(|package| package.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn proofs_name_a_program_or_an_absolute_path() {
        for package in PACKAGES {
            match package.proof {
                Proof::Program(name) => assert!(!name.contains('/'), "{name}"),
                Proof::File(path) => assert!(path.starts_with('/'), "{path}"),
            }
        }
    }

    #[test]
    fn programs_are_found_and_missing_ones_are_not() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-program-has-this-name"), None);
    }
}
