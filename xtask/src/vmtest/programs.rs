//! What runs in the machine: tests that stand alone, and programs of this machine with their libraries.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::artifacts::{self, Artifact};
use crate::packages::find_program;
use crate::workspace::{self, Workspace};

/// The machine's; the flags below are then not those of build scripts, which run here.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A test and the file that it is.
pub(super) struct Built {
    pub(super) name: &'static str,
    pub(super) file: PathBuf,
}

/// Builds tests, given as (package, test), so that they need no library.
///
/// # Errors
/// When they do not compile.
pub(super) fn build(
    workspace: &Workspace,
    target_dir: &Path,
    tests: &[(&'static str, &'static str)],
) -> Result<Vec<Built>> {
    let mut command = workspace.cargo("test");
    command
        .args(["--no-run", "--locked", "--profile", "vmtest"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    for (package, test) in tests {
        command.args(["--package", package, "--test", test]);
    }
    let artifacts = artifacts::build(&mut command)?;
    let file_of = |name: &'static str| {
        let is_wanted = |found: &&Artifact| found.is_test && found.name == name;
        let found = artifacts.iter().find(is_wanted);
        let found = found.with_context(|| format!("cargo built no test `{name}`"))?;
        let file = found.path.clone();
        Ok(Built { name, file })
    };
    tests.iter().map(|(_, test)| file_of(test)).collect()
}

/// A program of this machine, and each library that it is linked with.
///
/// # Errors
/// When the program or a library is missing.
pub(super) fn with_libraries(workspace: &Workspace, name: &str) -> Result<Vec<PathBuf>> {
    let program = find_program(name)
        .with_context(|| format!("no program `{name}` here: `cargo xtask setup` installs it"))?;
    let mut command = workspace.program("ldd");
    command.arg(&program);
    let text = workspace::output(&mut command, "its libraries have to be found")?;
    let mut files = libraries(&text)?;
    files.push(program);
    Ok(files)
}

/// Reads what `ldd` prints: "name => /path (0x…)", or the path of the loader alone.
fn libraries(text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let (name, path) = line.split_once(" => ").unwrap_or((line, line));
        let path = path.split(" (").next().unwrap_or(path);
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        } else {
            // What the kernel itself provides has no file.
            let is_kernels = name.starts_with("linux-vdso.so");
            is_kernels
                .then_some(())
                .with_context(|| format!("ldd finds no library: {line}"))?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_words_of_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffe)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f30)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f31)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries(text).unwrap(), expected.map(PathBuf::from));
        let error = libraries("\tlibbpf.so.1 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libbpf.so.1"), "{error}");
    }
}
