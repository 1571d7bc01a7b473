//! The XDP programs on the interfaces of a namespace, as iproute2 and bpftool see them.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::netns::Namespace;

/// A program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The interface.
    pub interface: String,
    /// The program's number.
    pub id: u64,
}

/// The programs on all interfaces of a namespace.
///
/// # Errors
/// When `ip` fails or prints something else than before.
pub fn attached(namespace: &Namespace) -> Result<Vec<Attached>> {
    let listing = namespace.run("ip", &["-json", "link", "show"])?;
    let links: Vec<Value> = serde_json::from_str(&listing).context("read the list of links")?;
    links
        .iter()
        .filter_map(|link| link.get("xdp").map(|xdp| (link, xdp)))
        .map(|(link, xdp)| {
            let interface = link.get("ifname").and_then(Value::as_str);
            let id = xdp.pointer("/prog/id").and_then(Value::as_u64);
            Ok(Attached {
                interface: interface.context("a link without a name")?.to_owned(),
                id: id.with_context(|| format!("no program in {xdp}"))?,
            })
        })
        .collect()
}

/// Puts a loaded program on `eth0` in generic mode, as somebody else's tool would.
///
/// # Errors
/// When there is no such program, or something is attached already.
pub fn attach(namespace: &Namespace, id: u64) -> Result<()> {
    let id = id.to_string();
    let words = ["net", "attach", "xdpgeneric", "id", &id, "dev", "eth0"];
    namespace.run("bpftool", &words).map(drop)
}

/// Takes off what [`attach`] put on.
///
/// # Errors
/// When nothing is attached.
pub fn detach(namespace: &Namespace) -> Result<()> {
    let words = ["net", "detach", "xdpgeneric", "dev", "eth0"];
    namespace.run("bpftool", &words).map(drop)
}
