//! `cargo xtask setup`: installs what is missing, as a system administrator would by hand.
//!
//! It changes the system only on Debian and as root, never removes a package, and does nothing when
//! nothing is missing. Anywhere else it says exactly what to install and fails.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::console::{note, step};
use crate::packages::{LLVM_PREFIX, Need, PACKAGES, Package};
use crate::toolchain::{
    COMPILER_VARIABLE, Compiler, LINKER_VARIABLE, LINKER_VERSION, find_compiler, find_linker,
};
use crate::workspace::{self, Workspace, path_with};

const BPFFS: &str = "/sys/fs/bpf";

/// Installs everything.
///
/// # Errors
/// When something is missing and cannot be installed here; the message says what to do.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let missing = select_missing(PACKAGES, is_missing(workspace)?);
    install_packages(workspace, &missing)?;
    ebpf_tools(workspace)?;
    mount_bpffs(workspace)?;
    for component in ["fmt", "clippy"] {
        require_component(workspace, component)?;
    }
    note("setup: everything is there");
    Ok(())
}

/// Reports what is there and what is missing, and changes nothing.
///
/// # Errors
/// When something is missing.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let is_missing = is_missing(workspace)?;
    let mut lines: Vec<(bool, &str, String)> = PACKAGES
        .iter()
        .map(|package| {
            (
                !is_missing(package),
                package.name,
                package.purpose.to_string(),
            )
        })
        .collect();
    let compiler = find_compiler()?;
    let compiler_text = compiler.as_ref().map(Compiler::description);
    lines.push((
        compiler.is_some(),
        "eBPF compiler",
        compiler_text.unwrap_or_default(),
    ));
    let linker = find_linker(workspace)?.map(|linker| linker.display().to_string());
    lines.push((linker.is_some(), "eBPF linker", linker.unwrap_or_default()));
    lines.push((bpffs_is_mounted()?, "bpf file system", BPFFS.to_string()));
    for component in ["fmt", "clippy"] {
        let found = require_component(workspace, component);
        let text = found
            .as_ref()
            .map_or_else(|error| format!("{error:#}"), |()| String::new());
        lines.push((found.is_ok(), component, text));
    }
    for (ok, name, text) in &lines {
        println!("{:8} {name:24} {text}", if *ok { "ok" } else { "missing" });
    }
    let count = lines.iter().filter(|(ok, ..)| !ok).count();
    if count > 0 {
        bail!("{count} missing: `cargo xtask setup` as root on Debian installs them");
    }
    Ok(())
}

/// The compiler and the linker of the XDP program, installed first where that is possible.
///
/// # Errors
/// When one is missing and cannot be installed here.
pub(crate) fn ebpf_tools(workspace: &Workspace) -> Result<(Compiler, PathBuf)> {
    let compiler = match find_compiler()? {
        Some(compiler) => compiler,
        None => {
            install_packages(
                workspace,
                &packages_for(&[Need::BpfCompiler, Need::BpfLint]),
            )?;
            find_compiler()?.with_context(|| no_compiler("the packages are installed, but"))?
        }
    };
    let linker = match find_linker(workspace)? {
        Some(linker) => linker,
        None => install_linker(workspace)?,
    };
    Ok((compiler, linker))
}

fn packages_for(needs: &[Need]) -> Vec<&'static Package> {
    PACKAGES
        .iter()
        .filter(|package| needs.contains(&package.need))
        .collect()
}

/// Tells of each package whether this machine lacks what it is needed for.
fn is_missing(workspace: &Workspace) -> Result<impl Fn(&Package) -> bool> {
    let compiler = find_compiler()?;
    let no_linker = find_linker(workspace)?.is_none();
    let no_lint = compiler
        .as_ref()
        .is_none_or(|compiler| compiler.cargo_clippy().is_none());
    Ok(move |package: &Package| match package.need {
        Need::Host | Need::Lab => !package.is_present(),
        Need::BpfCompiler => compiler.is_none(),
        // A nightly has its lints from rustup, not from Debian.
        Need::BpfLint => no_lint && compiler.as_ref().is_none_or(is_debian_compiler),
        Need::BpfLinker => no_linker && !package.is_present(),
    })
}

/// The packages of one compiler carry the same version: when one is missing all are asked for, so
/// that the package manager brings the others to that version as well.
fn select_missing(
    packages: &'static [Package],
    is_missing: impl Fn(&Package) -> bool,
) -> Vec<&'static Package> {
    let is_compiler = |package: &Package| matches!(package.need, Need::BpfCompiler | Need::BpfLint);
    let whole_compiler = packages
        .iter()
        .any(|package| is_compiler(package) && is_missing(package));
    packages
        .iter()
        .filter(|package| is_missing(package) || (whole_compiler && is_compiler(package)))
        .collect()
}

fn is_debian_compiler(compiler: &Compiler) -> bool {
    compiler.sysroot == Path::new("/usr")
}

fn install_packages(workspace: &Workspace, packages: &[&Package]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    for package in packages {
        note(&format!("missing: {:24} {}", package.name, package.purpose));
    }
    let names: Vec<_> = packages.iter().map(|package| package.name).collect();
    let by_hand = format!(
        "apt-get install --no-install-recommends {}",
        names.join(" ")
    );
    if !is_debian() {
        bail!("this is not Debian:{}", not_debian(packages));
    }
    if !is_root()? {
        bail!("only root can install packages: run `cargo xtask setup` as root, or\n    {by_hand}");
    }
    step("apt-get update (a few seconds)", || {
        // A source that cannot be reached does not matter when the packages come from another one.
        if let Err(error) = workspace::run(apt(workspace).arg("update"), "going on without") {
            note(&format!("{error:#}"));
        }
        Ok(())
    })?;
    if packages
        .iter()
        .any(|package| package.need == Need::BpfCompiler)
    {
        require_debian_compiler(workspace)?;
    }
    step(
        &format!(
            "installing {} Debian packages (a minute or two)",
            names.len()
        ),
        || {
            let mut command = apt(workspace);
            command
                .args(["install", "--yes", "--no-install-recommends", "--no-remove"])
                .args(&names);
            workspace::run(
                &mut command,
                &format!("see its output above; by hand: {by_hand}"),
            )
        },
    )?;
    let absent: Vec<_> = packages
        .iter()
        .filter(|package| !package.is_present())
        .map(|package| format!("{} ({})", package.name, package.proof))
        .collect();
    if !absent.is_empty() {
        bail!(
            "installed, but what proves it is not there: {}",
            absent.join(", ")
        );
    }
    Ok(())
}

pub(crate) fn apt(workspace: &Workspace) -> std::process::Command {
    let mut command = workspace.program("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Another package manager, an automatic upgrade for one, may be at work.
        .args([
            "-qq",
            "-o",
            "DPkg::Lock::Timeout=300",
            "-o",
            "Dpkg::Use-Pty=0",
        ]);
    command
}

/// Not every Debian release has a compiler with a prebuilt `core` for BPF.
fn require_debian_compiler(workspace: &Workspace) -> Result<()> {
    for package in packages_for(&[Need::BpfCompiler]) {
        let mut command = workspace.program("apt-cache");
        command.args(["show", "--no-all-versions", package.name]);
        if workspace::output(&mut command, "no package of that name").is_err() {
            bail!(no_compiler("this Debian release has none, and"));
        }
    }
    Ok(())
}

fn no_compiler(where_we_looked: &str) -> String {
    format!(
        "no compiler for BPF: {where_we_looked} nothing else was found.\n{}",
        elsewhere()
    )
}

/// The names of Debian's packages help elsewhere only where another system has the same programs.
fn not_debian(packages: &[&Package]) -> String {
    let (ordinary, bpf): (Vec<&Package>, Vec<&Package>) = packages
        .iter()
        .partition(|package| matches!(package.need, Need::Host | Need::Lab));
    let mut advice = String::new();
    for package in ordinary {
        let (name, purpose, proof) = (package.name, package.purpose, package.proof);
        advice.push_str(&format!(
            "\n    install {proof}, which Debian has in {name}: {purpose}"
        ));
    }
    if !bpf.is_empty() {
        advice.push('\n');
        advice.push_str(&elsewhere());
    }
    advice
}

/// What to do on a machine that cannot be set up by itself.
fn elsewhere() -> String {
    format!(
        "The XDP program needs either\n\
         \x20   Debian 12 with its security updates: rustc-web and libstd-rust-web-dev-bpf, or\n\
         \x20   rustup toolchain install nightly --component rust-src --component clippy, or\n\
         \x20   {COMPILER_VARIABLE}=/path/to/rustc with one of the two in its sysroot;\n\
         and bpf-linker {LINKER_VERSION} or newer, built on at least the LLVM of that compiler, on PATH or as\n\
         \x20   {LINKER_VARIABLE}=/path/to/bpf-linker."
    )
}

/// Builds the linker into the checkout's own directory: nothing else on the machine changes.
fn install_linker(workspace: &Workspace) -> Result<PathBuf> {
    let llvm: Vec<_> = packages_for(&[Need::BpfLinker])
        .into_iter()
        .filter(|package| !package.is_present())
        .collect();
    install_packages(workspace, &llvm)?;
    step("building bpf-linker (about a minute)", || {
        let mut command = workspace.cargo("install");
        command
            .env("LLVM_PREFIX", LLVM_PREFIX)
            // Cargo advises to add the directory to PATH unless it is there; nobody needs to.
            .env("PATH", path_with(&workspace.tools().join("bin"))?)
            .args([
                "bpf-linker",
                "--version",
                LINKER_VERSION,
                "--locked",
                "--force",
            ])
            .args(["--no-default-features", "--features", "llvm-22", "--root"])
            .arg(workspace.tools());
        workspace::run(
            &mut command,
            &format!("see its output above.\n{}", elsewhere()),
        )
    })?;
    find_linker(workspace)?.context("bpf-linker is installed but does not run")
}

fn mount_bpffs(workspace: &Workspace) -> Result<()> {
    if bpffs_is_mounted()? {
        return Ok(());
    }
    let by_hand = format!("mount -t bpf bpf {BPFFS}");
    if !is_root()? {
        bail!("no bpf file system on {BPFFS}; as root: {by_hand}");
    }
    step(&format!("mounting the bpf file system on {BPFFS}"), || {
        let mut command = workspace.program("mount");
        command.args(["-t", "bpf", "bpf", BPFFS]);
        workspace::run(
            &mut command,
            "this kernel or container has no BPF file system",
        )
    })
}

fn bpffs_is_mounted() -> Result<bool> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("cannot read the list of mounts")?;
    Ok(has_bpffs(&mounts))
}

fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

fn require_component(workspace: &Workspace, component: &str) -> Result<()> {
    let mut command = workspace.cargo(component);
    command.arg("--version");
    let hint = "install it with `rustup component add rustfmt clippy`";
    workspace::output(&mut command, hint).map(drop)
}

fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && crate::packages::find_program("apt-get").is_some()
}

fn is_root() -> Result<bool> {
    // A process owns its own directory there with its effective user id.
    let owner = fs::metadata("/proc/self").context("cannot read /proc/self")?;
    Ok(owner.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpffs_is_recognised_by_place_and_type() {
        assert!(has_bpffs(
            "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n"
        ));
        assert!(has_bpffs("none /sys/fs/bpf bpf rw 0 0\n"));
        assert!(!has_bpffs("bpf /other/bpf bpf rw 0 0\n"));
        assert!(!has_bpffs("tmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
        assert!(!has_bpffs(""));
    }

    #[test]
    fn packages_of_one_compiler_are_asked_for_together() {
        let names = |is_missing: fn(&Package) -> bool| -> Vec<_> {
            select_missing(PACKAGES, is_missing)
                .into_iter()
                .map(|package| package.name)
                .collect()
        };
        let compiler = ["rustc-web", "libstd-rust-web-dev-bpf", "rust-web-clippy"];
        assert_eq!(names(|package| package.need == Need::BpfLint), compiler);
        assert_eq!(names(|package| package.need == Need::BpfCompiler), compiler);
        assert_eq!(names(|package| package.name == "ucarp"), ["ucarp"]);
        assert!(names(|_| false).is_empty());
    }

    #[test]
    fn advice_without_debian_names_programs_and_ways_to_compile() {
        let lab = not_debian(&packages_for(&[Need::Lab]));
        assert!(lab.contains("install the program `nft`"), "{lab}");
        assert!(!lab.contains("rust-src"), "{lab}");
        let bpf = not_debian(&packages_for(&[Need::BpfCompiler, Need::BpfLint]));
        assert!(
            bpf.contains("rust-src") && !bpf.contains("install the"),
            "{bpf}"
        );
    }

    #[test]
    fn advice_for_other_systems_names_every_way() {
        let advice = elsewhere();
        for way in [
            "rustc-web",
            "rust-src",
            COMPILER_VARIABLE,
            LINKER_VARIABLE,
            "0.13.0",
        ] {
            assert!(advice.contains(way), "{way}");
        }
    }
}
