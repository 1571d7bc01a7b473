//! Where the workspace is, and how its cargo and other programs are started from inside `cargo run`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
}

impl Workspace {
    /// Finds the workspace that this xtask belongs to.
    ///
    /// # Errors
    /// When the directory is not there any more.
    pub(crate) fn locate() -> Result<Self> {
        // The value at run time is preferred: a moved checkout keeps a fresh binary in which the
        // compiled-in path is stale.
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .filter(|dir| dir.ends_with("xtask"))
            .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let root = manifest_dir
            .parent()
            .context("xtask's directory has no parent")?
            .to_path_buf();
        ensure!(
            root.join("Cargo.toml").is_file(),
            "no Cargo.toml in {}: call `cargo xtask` inside the checkout",
            root.display()
        );
        Ok(Self { root })
    }

    /// The directory of programs that are installed for this checkout only.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join("target/tools")
    }

    /// A cargo call in the workspace root, by the very cargo that runs xtask.
    ///
    /// `CARGO` matters: a distribution's compiler package may put another cargo on PATH.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = self.program(cargo);
        command.arg(subcommand);
        command
    }

    /// Any other program in the workspace root.
    pub(crate) fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).stdin(Stdio::null());
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(is_left_by_cargo_run) {
                command.env_remove(name);
            }
        }
        command
    }
}

/// Whether `cargo run` sets this variable for the program that it runs.
///
/// Build scripts that watch one of them would run again at each change between a plain `cargo test`
/// and `cargo xtask test`, so a child gets the environment that a shell would give it. The library
/// path points into the host compiler, which the other compiler and the daemon do without.
fn is_left_by_cargo_run(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || matches!(
            name,
            "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE" | "LD_LIBRARY_PATH"
        )
}

/// Runs a command to its end with the streams of xtask.
///
/// # Errors
/// When it cannot start or does not succeed; `hint` is what the reader can do then.
pub(crate) fn run(command: &mut Command, hint: &str) -> Result<()> {
    let status = command
        .status()
        .map_err(|error| start_error(command, error, hint))?;
    if !status.success() {
        bail!("`{}` failed ({status}): {hint}", display(command));
    }
    Ok(())
}

/// Runs a command and returns what it wrote to stdout; stderr is shown only when it fails.
///
/// # Errors
/// When it cannot start, does not succeed or writes something else than text.
pub(crate) fn output(command: &mut Command, hint: &str) -> Result<String> {
    let output = command
        .output()
        .map_err(|error| start_error(command, error, hint))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({}): {hint}\n{}",
            display(command),
            output.status,
            stderr.trim_end()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` wrote something that is not UTF-8", display(command)))
}

fn start_error(command: &Command, error: std::io::Error, hint: &str) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("cannot start `{}`: {hint}", display(command)))
}

/// The command as one would type it, without its environment.
pub(crate) fn display(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// PATH with one directory put in front.
///
/// # Errors
/// When the directory's name has a colon.
pub(crate) fn path_with(first: &Path) -> Result<OsString> {
    let rest = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(first.to_path_buf()).chain(env::split_paths(&rest)))
        .with_context(|| format!("{} cannot be part of PATH", first.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_variables_of_cargo_run_are_removed() {
        for name in [
            "CARGO_PKG_VERSION",
            "CARGO_MANIFEST_DIR",
            "CARGO_BIN_NAME",
            "LD_LIBRARY_PATH",
        ] {
            assert!(is_left_by_cargo_run(name), "{name}");
        }
        for name in [
            "CARGO",
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_INCREMENTAL",
            "RUSTFLAGS",
        ] {
            assert!(!is_left_by_cargo_run(name), "{name}");
        }
    }

    #[test]
    fn failure_names_the_command_and_the_hint() {
        let error = run(Command::new("/bin/sh").args(["-c", "exit 3"]), "do that").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c exit 3` failed (exit status: 3): do that"
        );
        let error = run(&mut Command::new("/no/such/program"), "do that").unwrap_err();
        assert_eq!(error.to_string(), "cannot start `program`: do that");
    }

    #[test]
    fn failure_of_a_captured_command_shows_its_stderr() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo reason >&2; exit 1"]);
        let error = output(&mut command, "do that").unwrap_err();
        assert!(error.to_string().ends_with("do that\nreason"), "{error}");
    }
}
