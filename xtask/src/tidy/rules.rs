//! The rules themselves.

use super::source::{code_only, lines_with_word};
use super::{File, Findings, Package};

/// Where the lints of Rust let `unsafe` through, how many times at most, and what for.
#[rustfmt::skip]
const UNSAFE_MAX: &[(&str, usize, &str)] = &[
    ("mfs-ha-ebpf/src/clock.rs", 1, "kernel clock helper"),
    ("mfs-ha-ebpf/src/load.rs", 2, "loads from the frame after the bounds check, and by the helper for socket buffers"),
    ("mfs-ha-ebpf/src/maps.rs", 5, "map values; section and symbol of the licence"),
    ("mfs-ha/src/bpf/plain.rs", 1, "hands plain records to the BPF library"),
    ("mfs-ha/src/watchdog/settimeout.rs", 1, "the timeout of a watchdog, a request that no library has"),
    ("mfs-ha/src/packet.rs", 2, "socket options that the system call library lacks"),
];

/// Literal texts that name a place on one machine, put together so that this file has none of them.
const PLACES: &[&str] = &[concat!("/wo", "rk/"), concat!("/tmp/pl", "an")];

/// Marks a known wrong behaviour: such a thing is repaired, not released.
const KNOWN_WRONG: &str = concat!("TODO(", "correctness)");

/// Macros that compile and then fail at run time.
const UNFINISHED: &[&str] = &["todo", "unimplemented"];

/// A file longer than this is split by duty, unless one duty needs it.
const LINES_MAX: usize = 500;

/// Which workspace crates a crate may depend on, also for its tests.
const ALLOWED_INTERNAL: &[(&str, &[&str])] = &[
    // Its tests turn its own feature on.
    ("mfs-ha-common", &["mfs-ha-common"]),
    ("mfs-ha-ebpf", &["mfs-ha-common"]),
    ("mfs-ha", &["mfs-ha-common"]),
    ("mfs-ha-tests", &["mfs-ha-common", "mfs-ha"]),
    ("xtask", &[]),
];

/// What the code that also runs in the kernel may build on; serde only on request, for the flight recorder.
const COMMON_DEPENDENCIES: &[&str] = &["bytemuck", "serde"];

/// Rules for every text file.
pub(super) fn text(file: &File, findings: &mut Findings) {
    for (index, line) in file.text.lines().enumerate() {
        let place = || format!("{}:{}", file.path, index + 1);
        for word in PLACES {
            if line.contains(word) {
                findings.errors.push(format!(
                    "{}: names `{word}`, a place on one machine",
                    place()
                ));
            }
        }
        if line.contains(KNOWN_WRONG) {
            findings
                .errors
                .push(format!("{}: {KNOWN_WRONG} is left", place()));
        }
    }
}

/// Rules for Rust sources.
pub(super) fn code(file: &File, findings: &mut Findings) {
    if !file.path.ends_with(".rs") {
        return;
    }
    let code = code_only(&file.text);
    for name in UNFINISHED {
        for line in lines_with_word(&code, &format!("{name}!")) {
            findings
                .errors
                .push(format!("{}:{line}: `{name}!` is left", file.path));
        }
    }
    for (index, line) in code.lines().enumerate() {
        if line.trim_start().starts_with("#[ignore") {
            let place = format!("{}:{}", file.path, index + 1);
            findings.errors.push(format!(
                "{place}: an ignored test looks green and tests nothing"
            ));
        }
    }
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        findings.warnings.push(format!(
            "{}: {lines} lines, more than {LINES_MAX}",
            file.path
        ));
    }
}

/// `unsafe` stands only where it is expected, and not more often.
pub(super) fn unsafe_budget(files: &[File], findings: &mut Findings) {
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let lines = lines_with_word(&code_only(&file.text), "unsafe");
        let allowed = UNSAFE_MAX.iter().find(|(path, ..)| *path == file.path);
        match (allowed, lines.as_slice()) {
            (None, []) => {}
            (None, found) => findings.errors.push(format!(
                "{}: `unsafe` outside the files that may have it; on lines {found:?}",
                file.path
            )),
            (Some((path, max, purpose)), found) => {
                findings.facts.push(format!(
                    "{path}: {} of {max} unsafe ({purpose})",
                    found.len()
                ));
                if found.len() > *max {
                    findings.errors.push(format!(
                        "{path}: {} unsafe, {max} allowed; on lines {found:?}",
                        found.len()
                    ));
                }
            }
        }
    }
}

/// Every manifest takes part in the lints.
pub(super) fn manifests(files: &[File], packages: &[Package], findings: &mut Findings) {
    for file in files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"))
    {
        let is_member = packages.iter().any(|package| package.manifest == file.path);
        if is_member && !has_line_in_table(&file.text, "[lints]", "workspace = true") {
            findings
                .errors
                .push(format!("{}: [lints] has no `workspace = true`", file.path));
        }
        // A package outside the workspace cannot inherit.
        if !is_member && !has_lints_table(&file.text) {
            findings
                .errors
                .push(format!("{}: has no table of lints", file.path));
        }
    }
}

fn has_line_in_table(manifest: &str, table: &str, wanted: &str) -> bool {
    let mut inside = false;
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            inside = line == table;
        }
        inside && line == wanted
    })
}

fn has_lints_table(manifest: &str) -> bool {
    manifest
        .lines()
        .map(str::trim)
        .any(|line| line.starts_with("[lints") || line.starts_with("[workspace.lints"))
}

/// The crates depend on each other in one direction, and the kernel's part on next to nothing.
pub(super) fn dependencies(packages: &[Package], findings: &mut Findings) {
    for package in packages {
        let Some((_, allowed)) = ALLOWED_INTERNAL
            .iter()
            .find(|(name, _)| *name == package.name)
        else {
            let name = &package.name;
            findings.errors.push(format!(
                "{name}: tidy does not know which crates it may use"
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let is_internal = packages.iter().any(|other| other.name == dependency.name);
            if is_internal && !allowed.contains(&dependency.name.as_str()) {
                let (name, used) = (&package.name, &dependency.name);
                findings
                    .errors
                    .push(format!("{name} must not depend on {used}"));
            }
            if package.name == "mfs-ha-common"
                && !dependency.is_dev
                && !COMMON_DEPENDENCIES.contains(&dependency.name.as_str())
            {
                let used = &dependency.name;
                findings.errors.push(format!(
                    "mfs-ha-common also runs in the kernel: no `{used}`"
                ));
            }
        }
    }
}

/// What users notice is written down as it happens.
pub(super) fn changelog(files: &[File], findings: &mut Findings) {
    match files.iter().find(|file| file.path == "CHANGELOG.md") {
        None => findings.errors.push("CHANGELOG.md is missing".to_string()),
        Some(file) => {
            let heading = |line: &str| line == "## [Unreleased]" || line == "## Unreleased";
            if !file.text.lines().map(str::trim).any(heading) {
                findings
                    .errors
                    .push("CHANGELOG.md: has no section \"Unreleased\"".to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Dependency;
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.to_string(),
            text: text.to_string(),
        }
    }

    fn package(name: &str, dependencies: &[(&str, bool)]) -> Package {
        let dependencies = dependencies
            .iter()
            .map(|(name, is_dev)| Dependency {
                name: name.to_string(),
                is_dev: *is_dev,
            })
            .collect();
        Package {
            name: name.to_string(),
            manifest: format!("{name}/Cargo.toml"),
            dependencies,
        }
    }

    fn errors(rule: impl FnOnce(&mut Findings)) -> Vec<String> {
        let mut findings = Findings::default();
        rule(&mut findings);
        findings.errors
    }

    #[test]
    fn places_and_known_faults_are_refused_in_any_text() {
        let found = errors(|findings| {
            text(&file("a.md", &format!("x\nsee {}x\n", PLACES[0])), findings);
            text(&file("b.toml", &format!("# {}.md", PLACES[1])), findings);
            text(&file("c.rs", &format!("// {KNOWN_WRONG}: x")), findings);
            text(
                &file("d.rs", "// TODO(perf): x, in a session of a network"),
                findings,
            );
        });
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("a.md:2: "), "{found:?}");
    }

    #[test]
    fn unfinished_code_and_ignored_tests_are_refused() {
        let found = errors(|findings| {
            let unfinished: String = UNFINISHED
                .iter()
                .map(|name| format!("{name}!();"))
                .collect();
            code(&file("a.rs", &unfinished), findings);
            code(
                &file(
                    "b.rs",
                    &format!("// {unfinished}\nlet x = \"{unfinished}\";"),
                ),
                findings,
            );
            code(
                &file("c.rs", "#[test]\n#[ignore = \"slow\"]\nfn a() {}"),
                findings,
            );
            code(&file("d.md", "#[ignore]"), findings);
        });
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[2].starts_with("c.rs:2: "), "{found:?}");
    }

    #[test]
    fn long_file_is_only_a_warning() {
        let mut findings = Findings::default();
        code(&file("a.rs", &"\n".repeat(LINES_MAX)), &mut findings);
        assert!(findings.warnings.is_empty());
        code(&file("a.rs", &"\n".repeat(LINES_MAX + 1)), &mut findings);
        assert_eq!(findings.warnings.len(), 1);
        assert!(findings.errors.is_empty());
    }

    #[test]
    fn unsafe_is_refused_elsewhere_and_counted_where_allowed() {
        let (path, max, _) = UNSAFE_MAX[0];
        let block = "unsafe { x }\n";
        let check = |path: &str, text: &str| {
            errors(|findings| unsafe_budget(&[file(path, text)], findings))
        };
        assert!(check(path, &block.repeat(max)).is_empty());
        assert_eq!(check(path, &block.repeat(max + 1)).len(), 1);
        assert_eq!(check("mfs-ha/src/main.rs", block).len(), 1);
        assert_eq!(check("mfs-ha/src/main.rs", "#[unsafe(no_mangle)]").len(), 1);
        assert!(
            check(
                "mfs-ha/src/main.rs",
                "#![deny(unsafe_code)] // unsafe\n\"unsafe\""
            )
            .is_empty()
        );
        assert!(check("README.md", block).is_empty());
    }

    #[test]
    fn every_manifest_has_lints() {
        let packages = [package("a", &[])];
        let check = |path: &str, text: &str| {
            errors(|findings| manifests(&[file(path, text)], &packages, findings))
        };
        assert!(check("a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n").is_empty());
        assert_eq!(check("a/Cargo.toml", "[package]\n").len(), 1);
        assert_eq!(
            check("a/Cargo.toml", "[lints]\n[x]\nworkspace = true").len(),
            1
        );
        assert_eq!(
            check("a/Cargo.toml", "[lints.rust]\nunsafe_code = \"deny\"").len(),
            1
        );
        assert!(check("fuzz/Cargo.toml", "[lints.rust]\nunsafe_code = \"deny\"").is_empty());
        assert!(check("fuzz/Cargo.toml", "[workspace.lints.rust]\n").is_empty());
        assert_eq!(check("fuzz/Cargo.toml", "[package]\n").len(), 1);
    }

    #[test]
    fn crates_depend_in_one_direction() {
        let check = |packages: &[Package]| errors(|findings| dependencies(packages, findings));
        let good = [
            package("mfs-ha-common", &[("bytemuck", false), ("proptest", true)]),
            package(
                "mfs-ha-ebpf",
                &[("mfs-ha-common", false), ("aya-ebpf", false)],
            ),
            package("mfs-ha", &[("mfs-ha-common", false), ("tokio", false)]),
            package(
                "mfs-ha-tests",
                &[("mfs-ha", false), ("mfs-ha-common", true)],
            ),
            package("xtask", &[("clap", false)]),
        ];
        assert_eq!(check(&good), Vec::<String>::new());
        let all = |changed: Package| {
            let mut packages = vec![changed];
            packages
                .extend(["mfs-ha-common", "mfs-ha", "mfs-ha-tests"].map(|name| package(name, &[])));
            packages
        };
        assert_eq!(check(&all(package("xtask", &[("mfs-ha", false)]))).len(), 1);
        assert_eq!(
            check(&all(package("mfs-ha-ebpf", &[("mfs-ha", false)]))).len(),
            1
        );
        assert_eq!(check(&all(package("stranger", &[]))).len(), 1);
        assert_eq!(
            check(&[package("mfs-ha-common", &[("tokio", false)])]).len(),
            1
        );
        let tests_in_daemon = [
            package("mfs-ha", &[("mfs-ha-tests", true)]),
            package("mfs-ha-tests", &[]),
        ];
        assert_eq!(check(&tests_in_daemon).len(), 1);
    }

    #[test]
    fn changelog_has_an_open_section() {
        let check = |files: &[File]| errors(|findings| changelog(files, findings));
        assert!(check(&[file("CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n")]).is_empty());
        assert_eq!(
            check(&[file("CHANGELOG.md", "# Changelog\n\n## 0.1.0\n")]).len(),
            1
        );
        assert_eq!(check(&[]).len(), 1);
    }
}
