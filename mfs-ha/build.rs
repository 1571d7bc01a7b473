//! Names the command that makes the eBPF object when it is missing.

use std::path::Path;

fn main() {
    let object = "ebpf/mfs-ha.bpf.o";
    println!("cargo::rerun-if-changed={object}");
    if !Path::new(object).exists() {
        println!(
            "cargo::error=the eBPF object mfs-ha/{object} is missing: run `cargo xtask build-ebpf` first"
        );
    }
}
