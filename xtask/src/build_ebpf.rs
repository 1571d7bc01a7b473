//! `cargo xtask build-ebpf`: compiles the XDP program and puts the object where the daemon embeds it.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::console::note;
use crate::setup;
use crate::toolchain::{BPF_TARGET, cargo_for_bpf};
use crate::workspace::{self, Workspace};

/// Where the daemon's build script looks.
const OBJECT: &str = "mfs-ha/ebpf/mfs-ha.bpf.o";

/// Compiles what changed; the object is written only when its content is new, so that the daemon is
/// not compiled again for nothing.
///
/// # Errors
/// When a tool is missing or the program does not compile.
pub(crate) fn run(workspace: &Workspace, force: bool) -> Result<()> {
    let (compiler, linker) = setup::ebpf_tools(workspace)?;
    if force {
        let dir = workspace.root.join("target/ebpf").join(BPF_TARGET);
        remove_dir(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    note(&format!(
        "compiling the XDP program: {}",
        compiler.description()
    ));
    let mut command = cargo_for_bpf(workspace, &compiler, &linker, None, "build");
    workspace::run(&mut command, "the XDP program does not compile, see above")?;

    let built = workspace
        .root
        .join("target/ebpf")
        .join(BPF_TARGET)
        .join("ebpf/mfs-ha-ebpf");
    let object = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    require_bpf_elf(&object).with_context(|| built.display().to_string())?;
    if replace_when_different(&workspace.root.join(OBJECT), &object)? {
        note(&format!("{OBJECT}: {} bytes written", object.len()));
    } else {
        note(&format!("{OBJECT}: up to date"));
    }
    Ok(())
}

/// Catches an empty program, or one for another machine, before the daemon embeds it.
fn require_bpf_elf(object: &[u8]) -> Result<()> {
    const ELF_64_BIT_LITTLE_ENDIAN: &[u8] = b"\x7fELF\x02\x01";
    const MACHINE_BPF: &[u8] = &247_u16.to_le_bytes();
    ensure!(
        object.starts_with(ELF_64_BIT_LITTLE_ENDIAN),
        "not a little-endian ELF object"
    );
    match object.get(18..20) {
        Some(MACHINE_BPF) => Ok(()),
        Some(other) => bail!("an ELF object for machine {other:?} instead of BPF"),
        None => bail!("an ELF object without a whole header"),
    }
}

/// Writes the file unless it has this content already; readers see the old one or the new one whole.
fn replace_when_different(path: &Path, content: &[u8]) -> Result<bool> {
    let context = || format!("cannot write {}", path.display());
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    let dir = path.parent().with_context(context)?;
    fs::create_dir_all(dir).with_context(context)?;
    let temporary = path.with_extension(format!("{}.tmp.o", std::process::id()));
    fs::write(&temporary, content).with_context(context)?;
    fs::rename(&temporary, path).with_context(context)?;
    Ok(true)
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn only_bpf_objects_pass() {
        let mut object = b"\x7fELF\x02\x01".to_vec();
        object.resize(64, 0);
        assert!(require_bpf_elf(&object).is_err());
        object[18] = 247;
        require_bpf_elf(&object).unwrap();
        object[18] = 62;
        assert!(
            require_bpf_elf(&object)
                .unwrap_err()
                .to_string()
                .contains("machine")
        );
        assert!(
            require_bpf_elf(&object[..19])
                .unwrap_err()
                .to_string()
                .contains("header")
        );
        object[5] = 2;
        assert!(require_bpf_elf(&object).is_err());
        assert!(require_bpf_elf(b"").is_err());
    }

    #[test]
    fn object_is_replaced_only_when_different() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("sub/object.o");
        assert!(replace_when_different(&path, b"one").unwrap());
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(!replace_when_different(&path, b"one").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written);
        assert!(replace_when_different(&path, b"two").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let names = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "no temporary file stays");
    }
}
