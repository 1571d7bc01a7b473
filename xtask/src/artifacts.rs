//! Builds programs with cargo and learns where they are.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::workspace::display;

/// A program that cargo built.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Artifact {
    pub(crate) name: String,
    /// Whether it has the tests of that name, rather than being the program of that name.
    pub(crate) is_test: bool,
    pub(crate) path: PathBuf,
}

/// Runs a command of cargo that builds, and returns what it built.
///
/// # Errors
/// When something does not compile.
pub(crate) fn build(command: &mut Command) -> Result<Vec<Artifact>> {
    command.arg("--message-format=json-render-diagnostics");
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut built = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read cargo's output")?;
        built.extend(built_program(&line));
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("`{}` failed ({status}): see above", display(command));
    }
    Ok(built)
}

/// Reads one of cargo's messages: a program that is ready.
fn built_program(message: &str) -> Option<Artifact> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message.get("reason")?.as_str()? != "compiler-artifact" {
        return None;
    }
    Some(Artifact {
        name: message.get("target")?.get("name")?.as_str()?.to_owned(),
        is_test: message.get("profile")?.get("test")?.as_bool()?,
        path: PathBuf::from(message.get("executable")?.as_str()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read_from_the_messages_of_cargo() {
        for is_test in [false, true] {
            let program = format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["bin"],"name":"lab"}},"profile":{{"test":{is_test}}},"executable":"/t/lab"}}"#
            );
            let expected = Artifact {
                name: "lab".to_owned(),
                is_test,
                path: PathBuf::from("/t/lab"),
            };
            assert_eq!(built_program(&program), Some(expected));
        }
        for other in [
            r#"{"reason":"compiler-artifact","target":{"name":"mfs_ha"},"profile":{"test":false},"executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
            r#"{"reason":"build-script-executed","package_id":"x"}"#,
            "not json",
            "",
        ] {
            assert_eq!(built_program(other), None, "{other}");
        }
    }
}
