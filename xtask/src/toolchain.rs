//! Finds the compiler and the linker of the XDP program, wherever they come from.
//!
//! The order for the compiler: the `MFS_HA_BPF_RUSTC` variable; any compiler that comes with a
//! prebuilt `core` for BPF, as Debian's does; a rustup nightly with `rust-src`, which builds `core`
//! itself. Installing is not done here but in `setup`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::packages;
use crate::workspace::{self, Workspace};

pub(crate) const COMPILER_VARIABLE: &str = "MFS_HA_BPF_RUSTC";
pub(crate) const LINKER_VARIABLE: &str = "MFS_HA_BPF_LINKER";
pub(crate) const LINKER_VERSION: &str = "0.13.0";
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// A compiler that can produce BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub(crate) sysroot: PathBuf,
    pub(crate) core: Core,
}

/// Where the compiler gets `core` for BPF from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    Prebuilt,
    FromSource,
}

impl Compiler {
    pub(crate) fn rustc(&self) -> PathBuf {
        self.sysroot.join("bin/rustc")
    }

    /// The lint driver of this very compiler: another version's cannot read its libraries.
    pub(crate) fn cargo_clippy(&self) -> Option<PathBuf> {
        Some(self.sysroot.join("bin/cargo-clippy")).filter(|path| packages::is_executable(path))
    }

    pub(crate) fn description(&self) -> String {
        let core = match self.core {
            Core::Prebuilt => "with prebuilt core",
            Core::FromSource => "building core from rust-src",
        };
        format!("{} {core}", self.rustc().display())
    }
}

/// Finds a compiler for BPF; `None` when there is none on this machine.
///
/// # Errors
/// When `MFS_HA_BPF_RUSTC` names something that cannot compile for BPF.
pub(crate) fn find_compiler() -> Result<Option<Compiler>> {
    if let Some(rustc) = env::var_os(COMPILER_VARIABLE) {
        return compiler_from_variable(Path::new(&rustc)).map(Some);
    }
    Ok(choose(&sysroots()))
}

fn compiler_from_variable(rustc: &Path) -> Result<Compiler> {
    let sysroot = sysroot_of(rustc).with_context(|| {
        format!(
            "{COMPILER_VARIABLE}={} is no rustc that runs",
            rustc.display()
        )
    })?;
    let core = if has_prebuilt_core(&sysroot) {
        Core::Prebuilt
    } else {
        ensure!(
            has_core_source(&sysroot),
            "{COMPILER_VARIABLE}={}: its sysroot {} has neither a prebuilt core for {BPF_TARGET} nor rust-src",
            rustc.display(),
            sysroot.display()
        );
        Core::FromSource
    };
    Ok(Compiler { sysroot, core })
}

/// Picks the best of several installed compilers; a prebuilt `core` beats the order of the list.
fn choose(sysroots: &[PathBuf]) -> Option<Compiler> {
    let prebuilt = sysroots
        .iter()
        .find(|sysroot| has_prebuilt_core(sysroot))
        .map(|sysroot| (sysroot, Core::Prebuilt));
    let from_source = || {
        sysroots
            .iter()
            .find(|sysroot| is_rustup_nightly(sysroot) && has_core_source(sysroot))
            .map(|sysroot| (sysroot, Core::FromSource))
    };
    let (sysroot, core) = prebuilt.or_else(from_source)?;
    Some(Compiler {
        sysroot: sysroot.clone(),
        core,
    })
}

/// The sysroots of every compiler on this machine, each once: the distribution's, those on PATH, rustup's.
fn sysroots() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let programs = std::iter::once(PathBuf::from("/usr/bin/rustc"))
        .chain(env::split_paths(&path).map(|dir| dir.join("rustc")))
        .filter(|rustc| packages::is_executable(rustc));
    let mut asked: Vec<PathBuf> = Vec::new();
    let mut sysroots: Vec<PathBuf> = Vec::new();
    for rustc in programs {
        if asked.contains(&rustc) {
            continue;
        }
        // A compiler that does not even print its sysroot is not one to build with; the next may be.
        sysroots.extend(sysroot_of(&rustc));
        asked.push(rustc);
    }
    sysroots.extend(rustup_toolchains());
    let mut seen: Vec<PathBuf> = Vec::new();
    for sysroot in sysroots {
        if !seen.contains(&sysroot) {
            seen.push(sysroot);
        }
    }
    seen
}

/// A rustup proxy on PATH answers with the sysroot of the real compiler behind it.
fn sysroot_of(rustc: &Path) -> Result<PathBuf> {
    let hint = "a Rust compiler must answer this";
    let answer = workspace::output(Command::new(rustc).args(["--print", "sysroot"]), hint)?;
    Ok(PathBuf::from(answer.trim_end()))
}

fn rustup_toolchains() -> Vec<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".rustup")));
    let Some(entries) = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok()) else {
        return Vec::new();
    };
    let mut toolchains: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    toolchains.sort();
    toolchains
}

fn is_rustup_nightly(sysroot: &Path) -> bool {
    sysroot
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("nightly"))
}

fn has_prebuilt_core(sysroot: &Path) -> bool {
    let dir = sysroot.join("lib/rustlib").join(BPF_TARGET).join("lib");
    packages::is_executable(&sysroot.join("bin/rustc"))
        && fs::read_dir(dir).is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with("libcore-") && name.ends_with(".rlib")
            })
        })
}

fn has_core_source(sysroot: &Path) -> bool {
    packages::is_executable(&sysroot.join("bin/rustc"))
        && sysroot
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .is_file()
}

/// Finds a `bpf-linker` that is new enough: the checkout's own, else one on PATH.
///
/// # Errors
/// When `MFS_HA_BPF_LINKER` names something that does not run.
pub(crate) fn find_linker(workspace: &Workspace) -> Result<Option<PathBuf>> {
    if let Some(linker) = env::var_os(LINKER_VARIABLE) {
        let linker = std::path::absolute(&linker)
            .with_context(|| format!("{LINKER_VARIABLE}={}", linker.display()))?;
        linker_version(&linker)
            .with_context(|| format!("{LINKER_VARIABLE}={} does not run", linker.display()))?;
        return Ok(Some(linker));
    }
    let own = workspace.tools().join("bin/bpf-linker");
    let candidates = [Some(own), packages::find_program("bpf-linker")];
    Ok(candidates.into_iter().flatten().find(|linker| {
        packages::is_executable(linker)
            && linker_version(linker).is_ok_and(|answer| is_new_enough(&answer))
    }))
}

fn linker_version(linker: &Path) -> Result<String> {
    workspace::output(
        Command::new(linker).arg("--version"),
        "bpf-linker must answer this",
    )
}

/// Reads "bpf-linker 0.13.0".
fn is_new_enough(answer: &str) -> bool {
    let found = answer.split_whitespace().nth(1).and_then(parse_version);
    found.is_some() && found >= parse_version(LINKER_VERSION)
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    let version = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(version)
}

/// A cargo call for the BPF target: own compiler, own target directory, own profile.
///
/// The subcommand is that of `cargo`, or of `program` when that is a `cargo-…` program.
pub(crate) fn cargo_for_bpf(
    workspace: &Workspace,
    compiler: &Compiler,
    linker: &Path,
    program: Option<&Path>,
    subcommand: &str,
) -> Command {
    // Building `core` takes the cargo that was made together with it.
    let own_cargo = Some(compiler.sysroot.join("bin/cargo"))
        .filter(|cargo| compiler.core == Core::FromSource && packages::is_executable(cargo));
    let mut command = match program.or(own_cargo.as_deref()) {
        Some(program) => {
            let mut command = workspace.program(program);
            command.arg(subcommand);
            command
        }
        None => workspace.cargo(subcommand),
    };
    command
        .args(["--package", "mfs-ha-ebpf", "--profile", "ebpf", "--locked"])
        .args(["--target", BPF_TARGET, "--target-dir", "target/ebpf"]);
    if compiler.core == Core::FromSource {
        command.args(["-Z", "build-std=core"]);
    }
    if let Some(cargo) = &own_cargo {
        command.env("CARGO", cargo);
    }
    // Flags and wrappers are meant for the host's compiler.
    for name in ["RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
        .env("RUSTC", compiler.rustc())
        // An empty value also switches off a wrapper from a configuration file.
        .env("RUSTC_WRAPPER", "")
        // BPF has no stable target: both the prebuilt core and `-Z build-std` need this on a
        // compiler that is not a nightly.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(linker));
    command
}

fn rustflags(linker: &Path) -> OsString {
    let mut flags = OsString::from("-Clinker=");
    flags.push(linker);
    // The unit separator allows a linker path with spaces. `--btf` keeps type information, which
    // names the fields of the maps. The third instruction set has 32-bit operations and is in every
    // kernel that has the ring buffer.
    flags.push("\u{1f}-Clink-arg=--btf\u{1f}-Ctarget-cpu=v3");
    flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use tempfile::TempDir;

    enum With {
        Nothing,
        PrebuiltCore,
        Source,
    }

    fn sysroot(parent: &TempDir, name: &str, with: &With) -> PathBuf {
        let sysroot = parent.path().join(name);
        fs::create_dir_all(sysroot.join("bin")).unwrap();
        let rustc = sysroot.join("bin/rustc");
        fs::write(&rustc, format!("#!/bin/sh\necho {}\n", sysroot.display())).unwrap();
        fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).unwrap();
        let file = match with {
            With::Nothing => return sysroot,
            With::PrebuiltCore => "lib/rustlib/bpfel-unknown-none/lib/libcore-0123.rlib",
            With::Source => "lib/rustlib/src/rust/library/core/Cargo.toml",
        };
        let file = sysroot.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
        sysroot
    }

    #[test]
    fn prebuilt_core_beats_a_nightly_that_comes_earlier() {
        let dir = TempDir::new().unwrap();
        let stable = sysroot(&dir, "stable-x", &With::Nothing);
        let nightly = sysroot(&dir, "nightly-x", &With::Source);
        let debian = sysroot(&dir, "usr", &With::PrebuiltCore);
        let all = [stable.clone(), nightly.clone(), debian.clone()];
        assert_eq!(
            choose(&all),
            Some(Compiler {
                sysroot: debian,
                core: Core::Prebuilt
            })
        );
        assert_eq!(
            choose(&[stable.clone(), nightly.clone()]),
            Some(Compiler {
                sysroot: nightly,
                core: Core::FromSource
            })
        );
        assert_eq!(choose(&[stable]), None);
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn only_a_nightly_builds_core_from_source() {
        let dir = TempDir::new().unwrap();
        assert_eq!(choose(&[sysroot(&dir, "stable-x", &With::Source)]), None);
    }

    #[test]
    fn sysroot_without_a_compiler_is_no_compiler() {
        let dir = TempDir::new().unwrap();
        let debian = sysroot(&dir, "usr", &With::PrebuiltCore);
        fs::remove_file(debian.join("bin/rustc")).unwrap();
        assert_eq!(choose(&[debian]), None);
    }

    #[test]
    fn named_compiler_is_taken_or_refused_but_never_replaced() {
        let dir = TempDir::new().unwrap();
        let rustc = |name, with| sysroot(&dir, name, &with).join("bin/rustc");
        let found = |rustc: &Path| compiler_from_variable(rustc).map(|compiler| compiler.core);
        assert_eq!(
            found(&rustc("a", With::PrebuiltCore)).unwrap(),
            Core::Prebuilt
        );
        assert_eq!(found(&rustc("b", With::Source)).unwrap(), Core::FromSource);
        let error = found(&rustc("c", With::Nothing)).unwrap_err();
        assert!(
            error.to_string().contains("neither a prebuilt core"),
            "{error}"
        );
        let error = found(Path::new("/no/such/rustc")).unwrap_err();
        assert!(
            error.to_string().contains("is no rustc that runs"),
            "{error}"
        );
    }

    #[test]
    fn linker_must_be_new_enough() {
        for good in [
            "bpf-linker 0.13.0\n",
            "bpf-linker 0.13.1",
            "bpf-linker 1.0.0",
        ] {
            assert!(is_new_enough(good), "{good:?}");
        }
        for bad in [
            "bpf-linker 0.9.15",
            "bpf-linker",
            "",
            "bpf-linker 0.13",
            "bpf-linker x.y.z",
        ] {
            assert!(!is_new_enough(bad), "{bad:?}");
        }
    }

    #[test]
    fn flags_keep_a_linker_path_with_spaces_whole() {
        let flags = rustflags(Path::new("/a b/bpf-linker"));
        let flags: Vec<_> = flags.to_str().unwrap().split('\u{1f}').collect();
        assert_eq!(
            flags,
            [
                "-Clinker=/a b/bpf-linker",
                "-Clink-arg=--btf",
                "-Ctarget-cpu=v3"
            ]
        );
    }
}
