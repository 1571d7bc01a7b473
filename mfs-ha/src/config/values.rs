//! What single values may be: names, paths, addresses.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::section::{Refusal, text};
use super::{Vip, is_instance_name};

pub(super) fn choice<T: Copy, const N: usize>(
    value: &DeValue<'_>,
    choices: [(&str, T); N],
) -> Result<T, Refusal> {
    let word = text(value)?;
    choices
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, choice)| *choice)
        .ok_or(Refusal::Unexpected)
}

pub(super) fn instance_name(value: &DeValue<'_>) -> Result<String, Refusal> {
    let name = text(value)?;
    if is_instance_name(name) {
        Ok(name.to_owned())
    } else {
        Err(Refusal::Unexpected)
    }
}

/// What the kernel takes for an interface name.
pub(super) fn interface_name(value: &DeValue<'_>) -> Result<String, Refusal> {
    let name = text(value)?;
    if !(1..=15).contains(&name.len()) {
        return Err(Refusal::Because(
            "an interface name has 1 to 15 bytes".to_owned(),
        ));
    }
    let foreign = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if matches!(name, "." | "..") || name.contains(foreign) {
        return Err(Refusal::Because(
            "an interface name has no blanks, no / and no :, and is not a dot".to_owned(),
        ));
    }
    Ok(name.to_owned())
}

pub(super) fn absolute_path(value: &DeValue<'_>) -> Result<PathBuf, Refusal> {
    let path = Path::new(text(value)?);
    if path.is_absolute() {
        Ok(path.to_owned())
    } else {
        Err(Refusal::Unexpected)
    }
}

fn address(value: &str) -> Result<Ipv4Addr, Refusal> {
    value.parse().ok().ok_or(Refusal::Unexpected)
}

/// An address that one host can own.
pub(super) fn host_address(value: &DeValue<'_>) -> Result<Ipv4Addr, Refusal> {
    let address = address(text(value)?)?;
    match why_not_a_host(address) {
        None => Ok(address),
        Some(what) => Err(Refusal::Because(format!(
            "{what}; a host's own address is needed"
        ))),
    }
}

fn why_not_a_host(address: Ipv4Addr) -> Option<&'static str> {
    let [first, ..] = address.octets();
    if address.is_unspecified() {
        Some("that is no address at all")
    } else if first == 0 {
        Some("addresses that begin with 0 belong to no host")
    } else if address.is_loopback() {
        Some("that is a loopback address, which never leaves this host")
    } else if address.is_multicast() {
        Some("that is a multicast address")
    } else if address.is_broadcast() {
        Some("that is the broadcast address")
    } else {
        None
    }
}

pub(super) fn vip(value: &DeValue<'_>) -> Result<Vip, Refusal> {
    let text = text(value)?;
    let Some((host, prefix)) = text.split_once('/') else {
        let address = address(text)?;
        return Err(Refusal::Because(format!(
            "the prefix length is missing; write \"{address}/24\" for a netmask of 255.255.255.0"
        )));
    };
    let address = address(host)?;
    let prefix_len = prefix
        .parse::<u8>()
        .ok()
        .filter(|length| (1..=32).contains(length) && !prefix.starts_with('+'))
        .ok_or_else(|| Refusal::Because("the prefix length must be from 1 to 32".to_owned()))?;
    if let Some(what) = why_not_a_host(address) {
        return Err(Refusal::Because(format!(
            "{what}; a VIP must be an address of your network"
        )));
    }
    // A /31 and a /32 have neither a network nor a broadcast address.
    let host_mask = u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
    let host_bits = address.to_bits() & host_mask;
    let reserved = if prefix_len > 30 {
        None
    } else if host_bits == 0 {
        Some("network")
    } else if host_bits == host_mask {
        Some("broadcast")
    } else {
        None
    };
    match reserved {
        None => Ok(Vip {
            address,
            prefix_len,
        }),
        Some(kind) => Err(Refusal::Because(format!(
            "{address} is the {kind} address of that prefix; choose an address of a host in it"
        ))),
    }
}

pub(super) fn advert_destination(
    value: &DeValue<'_>,
    broadcast: bool,
) -> Result<Ipv4Addr, Refusal> {
    let address = address(text(value)?)?;
    if address.is_multicast() || (broadcast && !address.is_unspecified()) {
        return Ok(address);
    }
    Err(Refusal::Because(
        "expected an IPv4 multicast address, such as \"224.0.0.18\"; \
         any other needs `broadcast = true` on all nodes"
            .to_owned(),
    ))
}
