//! What runs in the machine: tests and programs of this machine, with their libraries.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::artifacts::{self, Artifact};
use crate::packages::find_program;
use crate::workspace::{self, Workspace};

/// A test and the file that it is.
pub(super) struct Built {
    pub(super) name: &'static str,
    pub(super) file: PathBuf,
}

/// Builds tests, given as (package, test), as `cargo test` builds them here, and puts them into a directory
/// without what only a debugger reads.
///
/// # Errors
/// When they do not compile.
pub(super) fn build(
    workspace: &Workspace,
    dir: &Path,
    tests: &[(&'static str, &'static str)],
) -> Result<Vec<Built>> {
    let mut command = workspace.cargo("test");
    command.args(["--no-run", "--locked"]);
    for (package, test) in tests {
        command.args(["--package", package, "--test", test]);
    }
    let artifacts = artifacts::build(&mut command)?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let stripped = |name: &'static str| {
        let is_wanted = |found: &&Artifact| found.is_test && found.name == name;
        let found = artifacts.iter().find(is_wanted);
        let found = found.with_context(|| format!("cargo built no test `{name}`"))?;
        let file = dir.join(name);
        let mut command = workspace.program("strip");
        command.arg("-o").args([&file, &found.path]);
        workspace::run(
            &mut command,
            "strip belongs to binutils, as the linker does",
        )?;
        Ok(Built { name, file })
    };
    tests.iter().map(|(_, test)| stripped(test)).collect()
}

/// A program that is called by its name here, and each library that it is linked with.
///
/// # Errors
/// When the program or a library is missing.
pub(super) fn with_libraries(workspace: &Workspace, name: &str) -> Result<Vec<PathBuf>> {
    let program = find_program(name)
        .with_context(|| format!("no program `{name}` here: `cargo xtask setup` installs it"))?;
    let mut files = libraries_of(workspace, &program)?;
    files.push(program);
    Ok(files)
}

/// Each library that a program is linked with.
///
/// # Errors
/// When one is missing.
pub(super) fn libraries_of(workspace: &Workspace, program: &Path) -> Result<Vec<PathBuf>> {
    let mut command = workspace.program("ldd");
    command.arg(program);
    let text = workspace::output(&mut command, "its libraries have to be found")?;
    libraries(&text)
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
