//! What the kernel says about a network interface, as plain values.
//!
//! Nothing here talks to the kernel; [`crate::netlink`] fills these in.

use std::fmt;
use std::net::Ipv4Addr;

/// A network interface at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The name it was asked for by.
    pub name: String,
    /// The kernel's number; another one after the interface was deleted and made again.
    pub ifindex: u32,
    /// Its Ethernet address; `None` on interfaces that have none.
    pub mac: Option<[u8; 6]>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// `IFF_UP`: switched on by the administrator.
    pub admin_up: bool,
    /// `IFF_RUNNING`: on, and the carrier is there.
    pub running: bool,
    /// `IFF_LOOPBACK`
    pub loopback: bool,
    /// The IPv4 addresses, in the kernel's order.
    pub addresses: Vec<Address>,
    /// The XDP programs on it; `None` when there are none.
    pub xdp: Option<AttachedXdp>,
}

impl Interface {
    /// The address from which adverts are sent when the configuration names none: the first one
    /// that is not the VIP.
    pub fn source(&self, vip: Ipv4Addr) -> Option<Ipv4Addr> {
        self.addresses
            .iter()
            .map(|held| held.address)
            .find(|address| *address != vip && !address.is_loopback())
    }

    /// Whether `address` is on the interface, with whatever prefix.
    pub fn holds(&self, address: Ipv4Addr) -> bool {
        self.addresses.iter().any(|held| held.address == address)
    }
}

/// An IPv4 address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: Ipv4Addr,
    /// The length of its prefix.
    pub prefix_len: u8,
    /// `IFA_F_SECONDARY`: another address of the same prefix was there before. It goes away
    /// together with that one unless `promote_secondaries` is set.
    pub secondary: bool,
}

impl Address {
    /// Whether both are in the same network, as the kernel counts it for `IFA_F_SECONDARY`.
    pub fn shares_prefix_with(&self, other: &Self) -> bool {
        let mask = u32::MAX
            .checked_shl(32_u32.saturating_sub(u32::from(self.prefix_len)))
            .unwrap_or(0);
        self.prefix_len == other.prefix_len
            && self.address.to_bits() & mask == other.address.to_bits() & mask
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// The XDP programs on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedXdp {
    /// Where they run.
    pub mode: AttachMode,
    /// The programs' ids, as `bpftool prog show id N` takes them.
    pub program_ids: Vec<u32>,
}

/// Where XDP programs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
    /// In the network card.
    Hardware,
    /// In more than one of these places.
    Several,
    /// In a place that the kernel numbers so.
    Unknown(u8),
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("native"),
            Self::Generic => f.write_str("generic"),
            Self::Hardware => f.write_str("hardware"),
            Self::Several => f.write_str("several modes"),
            Self::Unknown(number) => write!(f, "mode {number}"),
        }
    }
}

/// The interface of a name as it is watched; the name can lose its interface and get another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkState {
    /// `None` while no interface has the name.
    pub interface: Option<Interface>,
    /// Counts the interfaces that went while they had the name. One that was made anew can have the
    /// number of the old one, and be there before anybody looked.
    pub deletions: u64,
}

impl LinkState {
    /// The interface's number.
    pub fn ifindex(&self) -> Option<u32> {
        self.interface.as_ref().map(|interface| interface.ifindex)
    }

    /// `IFF_RUNNING` of an interface that exists.
    pub fn running(&self) -> bool {
        self.interface
            .as_ref()
            .is_some_and(|interface| interface.running)
    }

    /// `IFF_UP` of an interface that exists.
    pub fn admin_up(&self) -> bool {
        self.interface
            .as_ref()
            .is_some_and(|interface| interface.admin_up)
    }

    /// Its IPv4 addresses.
    pub fn addresses(&self) -> &[Address] {
        self.interface
            .as_ref()
            .map_or(&[], |interface| &interface.addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        let (address, prefix_len) = text.split_once('/').unwrap();
        Address {
            address: address.parse().unwrap(),
            prefix_len: prefix_len.parse().unwrap(),
            secondary: false,
        }
    }

    #[test]
    fn a_prefix_is_shared_only_with_the_same_length() {
        let shares = |a, b| address(a).shares_prefix_with(&address(b));
        assert!(shares("10.0.0.1/24", "10.0.0.100/24"));
        assert!(!shares("10.0.0.1/24", "10.0.0.100/25"));
        assert!(!shares("10.0.0.1/24", "10.0.1.1/24"));
        assert!(shares("10.0.0.1/32", "10.0.0.1/32"));
        assert!(!shares("10.0.0.1/32", "10.0.0.2/32"));
        assert!(shares("10.0.0.1/0", "192.168.0.1/0"));
    }

    #[test]
    fn the_source_is_the_first_address_that_is_not_the_vip() {
        let vip = Ipv4Addr::new(10, 0, 0, 100);
        let mut interface = Interface {
            name: "eth0".into(),
            ifindex: 1,
            mac: None,
            mtu: 1500,
            admin_up: true,
            running: true,
            loopback: false,
            addresses: vec![
                address("10.0.0.100/24"),
                address("10.0.0.1/24"),
                address("10.0.0.2/24"),
            ],
            xdp: None,
        };
        assert_eq!(interface.source(vip), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert!(interface.holds(vip));
        interface.addresses.truncate(1);
        assert_eq!(interface.source(vip), None);
    }
}
