//! `cargo xtask tidy`: the house rules that neither compiler nor lints check.
//!
//! Every rule is a function over the text of the files, so that its test needs no checkout.

mod rules;
mod source;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::console::note;
use crate::workspace::{self, Workspace};

/// Directories that hold what is made, not what is written.
const SKIPPED_DIRS: &[&str] = &[".git", "target", "corpus", "artifacts", "coverage"];
/// The kinds of files that the rules read.
const EXTENSIONS: &[&str] = &["rs", "md", "toml", "sh", "service", "yml", "yaml"];

/// One text file of the checkout.
struct File {
    /// Relative to the workspace root, with forward slashes.
    path: String,
    text: String,
}

/// What the rules found.
#[derive(Debug, Default)]
struct Findings {
    /// Break the suite.
    errors: Vec<String>,
    /// Are only shown.
    warnings: Vec<String>,
    /// Figures worth seeing in each run.
    facts: Vec<String>,
}

/// Checks every rule and reports all findings at once.
///
/// # Errors
/// When a rule is broken.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut files = Vec::new();
    read_files(&workspace.root, "", &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let packages = workspace_packages(workspace)?;

    let mut findings = Findings::default();
    for file in &files {
        rules::text(file, &mut findings);
        rules::code(file, &mut findings);
    }
    rules::unsafe_budget(&files, &mut findings);
    rules::manifests(&files, &packages, &mut findings);
    rules::dependencies(&packages, &mut findings);
    rules::changelog(&files, &mut findings);

    for fact in &findings.facts {
        note(&format!("tidy: {fact}"));
    }
    for warning in &findings.warnings {
        note(&format!("tidy: warning: {warning}"));
    }
    for error in &findings.errors {
        note(&format!("tidy: error: {error}"));
    }
    if !findings.errors.is_empty() {
        bail!(
            "{} house rules are broken, see above",
            findings.errors.len()
        );
    }
    note(&format!("tidy: {} files are in order", files.len()));
    Ok(())
}

/// Reads the files below one directory; `prefix` is its path from the root, ending in a slash.
fn read_files(dir: &Path, prefix: &str, files: &mut Vec<File>) -> Result<()> {
    let context = || format!("cannot read {}", dir.display());
    for entry in fs::read_dir(dir).with_context(context)? {
        let entry = entry.with_context(context)?;
        let kind = entry.file_type().with_context(context)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if kind.is_dir() && !SKIPPED_DIRS.contains(&name.as_str()) {
            read_files(&entry.path(), &format!("{path}/"), files)?;
        } else if kind.is_file() && is_read(&path) {
            let bytes = fs::read(entry.path()).with_context(|| format!("cannot read {path}"))?;
            let text = String::from_utf8(bytes).with_context(|| format!("{path} is not UTF-8"))?;
            files.push(File { path, text });
        }
    }
    Ok(())
}

fn is_read(path: &str) -> bool {
    let extension = Path::new(path).extension().and_then(OsStr::to_str);
    path.starts_with(".ci/") || extension.is_some_and(|found| EXTENSIONS.contains(&found))
}

/// A workspace member as cargo sees it.
struct Package {
    name: String,
    /// Of its manifest, relative to the workspace root.
    manifest: String,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    is_dev: bool,
}

fn workspace_packages(workspace: &Workspace) -> Result<Vec<Package>> {
    let mut command = workspace.cargo("metadata");
    command.args(["--no-deps", "--format-version", "1"]);
    let metadata = workspace::output(&mut command, "the manifests must be readable")?;
    let metadata = serde_json::from_str(&metadata).context("cargo metadata wrote no JSON")?;
    parse_packages(&metadata, &workspace.root).context("cargo metadata has an unknown form")
}

fn parse_packages(metadata: &Value, root: &Path) -> Option<Vec<Package>> {
    let packages = metadata.get("packages")?.as_array()?;
    packages
        .iter()
        .map(|package| {
            let manifest = Path::new(package.get("manifest_path")?.as_str()?);
            let dependencies = package.get("dependencies")?.as_array()?;
            let dependencies = dependencies.iter().map(|dependency| {
                Some(Dependency {
                    name: dependency.get("name")?.as_str()?.to_string(),
                    is_dev: dependency.get("kind")?.as_str() == Some("dev"),
                })
            });
            Some(Package {
                name: package.get("name")?.as_str()?.to_string(),
                manifest: manifest.strip_prefix(root).ok()?.to_str()?.to_string(),
                dependencies: dependencies.collect::<Option<_>>()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn generated_directories_and_other_kinds_of_files_are_not_read() {
        let dir = TempDir::new().unwrap();
        for path in [
            "a.rs",
            "src/b.md",
            "target/c.rs",
            "fuzz/corpus/d.rs",
            "e.pcap",
            ".ci/run",
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "text").unwrap();
        }
        let mut files = Vec::new();
        read_files(dir.path(), "", &mut files).unwrap();
        let mut paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, [".ci/run", "a.rs", "src/b.md"]);
    }

    #[test]
    fn packages_are_read_from_the_metadata_of_cargo() {
        let metadata = serde_json::json!({"packages": [{
            "name": "a", "manifest_path": "/root/a/Cargo.toml",
            "dependencies": [{"name": "b", "kind": null}, {"name": "c", "kind": "dev"}],
        }]});
        let packages = parse_packages(&metadata, Path::new("/root")).unwrap();
        assert_eq!(packages[0].name, "a");
        assert_eq!(packages[0].manifest, "a/Cargo.toml");
        let dependencies: Vec<_> = packages[0]
            .dependencies
            .iter()
            .map(|d| (d.name.as_str(), d.is_dev))
            .collect();
        assert_eq!(dependencies, [("b", false), ("c", true)]);
        assert!(parse_packages(&serde_json::json!({}), Path::new("/root")).is_none());
    }
}
