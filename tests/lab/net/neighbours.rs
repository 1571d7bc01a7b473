//! Neighbour entries of a namespace's eth0: which Ethernet address an IPv4 address is sent to.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::netns::Namespace;
use super::packet::Mac;

/// Sends everything for `address` to `mac`, whatever ARP says.
///
/// # Errors
/// When `ip` fails.
pub fn pin(namespace: &Namespace, address: Ipv4Addr, mac: Mac) -> Result<()> {
    namespace.ip(&[format!(
        "neigh replace {address} lladdr {mac} nud permanent dev eth0"
    )])
}

/// Forgets all entries that are not pinned.
///
/// # Errors
/// When `ip` fails.
pub fn forget(namespace: &Namespace) -> Result<()> {
    namespace.ip(&["neigh flush dev eth0".to_owned()])
}

/// The Ethernet address that `address` is sent to, if that is known.
///
/// # Errors
/// When `ip` fails.
pub fn known(namespace: &Namespace, address: Ipv4Addr) -> Result<Option<String>> {
    let listing = namespace.run("ip", &["-4", "neigh", "show", "dev", "eth0"])?;
    Ok(entry(&listing, address))
}

fn entry(listing: &str, address: Ipv4Addr) -> Option<String> {
    let address = address.to_string();
    let mut lines = listing.lines().map(str::split_whitespace);
    let mut words = lines.find_map(|mut words| (words.next()? == address).then_some(words))?;
    words.find(|word| *word == "lladdr")?;
    words.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_where_there_is_one() {
        let listing = "10.77.0.1 lladdr 02:00:0a:4d:00:01 STALE\n\
            10.77.0.100 lladdr 02:00:0a:4d:00:02 REACHABLE\n\
            10.77.0.10 FAILED\n";
        let of = |octet| entry(listing, Ipv4Addr::new(10, 77, 0, octet));
        assert_eq!(of(100).as_deref(), Some("02:00:0a:4d:00:02"));
        assert_eq!(of(1).as_deref(), Some("02:00:0a:4d:00:01"));
        assert_eq!((of(10), of(2)), (None, None));
    }
}
