//! From the kernel's messages to plain values.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "rtnetlink's enums list every attribute that the kernel may send, and will grow"
)]

use std::net::IpAddr;

use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp, XdpAttached};

use super::Link;
use crate::interface::{Address, AttachMode, AttachedXdp, Interface};

/// The interface that a message is about.
pub(super) fn interface(name: &str, message: &LinkMessage, addresses: Vec<Address>) -> Interface {
    let flags = message.header.flags;
    let mut interface = Interface {
        name: name.to_owned(),
        ifindex: message.header.index,
        mac: None,
        mtu: 0,
        admin_up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        loopback: flags.contains(LinkFlags::Loopback),
        addresses,
        xdp: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => interface.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Xdp(xdp) => interface.xdp = attached(xdp),
            _ => {}
        }
    }
    interface
}

/// The interface that a message is about, if it has a name.
pub(super) fn link(message: &LinkMessage) -> Option<Link> {
    Some(Link {
        name: name(message)?,
        ifindex: message.header.index,
        loopback: message.header.flags.contains(LinkFlags::Loopback),
    })
}

fn attached(attributes: &[LinkXdp]) -> Option<AttachedXdp> {
    let mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::None) => None,
        LinkXdp::Attached(XdpAttached::Driver) => Some(AttachMode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(AttachMode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(AttachMode::Hardware),
        LinkXdp::Attached(XdpAttached::Multiple) => Some(AttachMode::Several),
        LinkXdp::Attached(XdpAttached::Other(number)) => Some(AttachMode::Unknown(*number)),
        _ => None,
    })?;
    let mut program_ids: Vec<u32> = attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkXdp::ProgId(id)
            | LinkXdp::DrvProgId(id)
            | LinkXdp::SkbProgId(id)
            | LinkXdp::HwProgId(id) => Some(*id),
            _ => None,
        })
        .collect();
    // The kernel names a single program twice.
    program_ids.sort_unstable();
    program_ids.dedup();
    Some(AttachedXdp { mode, program_ids })
}

/// The interface's number and the address of a message about IPv4.
pub(super) fn address(message: &AddressMessage) -> Option<(u32, Address)> {
    // IFA_LOCAL is our own end; on a point-to-point interface IFA_ADDRESS is the other one.
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
    let address = Address {
        address: local?,
        prefix_len: message.header.prefix_len,
        secondary: message.header.flags.contains(AddressHeaderFlags::Secondary),
    };
    Some((message.header.index, address))
}

/// The name of the interface that a message is about.
pub(super) fn name(message: &LinkMessage) -> Option<String> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_xdp_attribute_means_no_program() {
        assert_eq!(attached(&[]), None);
        assert_eq!(attached(&[LinkXdp::Attached(XdpAttached::None)]), None);
    }

    #[test]
    fn the_modes_and_ids_of_programs_are_told() {
        let one = [
            LinkXdp::Attached(XdpAttached::SocketBuffer),
            LinkXdp::ProgId(7),
            LinkXdp::SkbProgId(7),
        ];
        let expected = AttachedXdp {
            mode: AttachMode::Generic,
            program_ids: vec![7],
        };
        assert_eq!(attached(&one), Some(expected));
        let two = [
            LinkXdp::Attached(XdpAttached::Multiple),
            LinkXdp::SkbProgId(9),
            LinkXdp::DrvProgId(8),
        ];
        let expected = AttachedXdp {
            mode: AttachMode::Several,
            program_ids: vec![8, 9],
        };
        assert_eq!(attached(&two), Some(expected));
        let new = attached(&[LinkXdp::Attached(XdpAttached::Other(5))]).unwrap();
        assert_eq!(new.mode.to_string(), "mode 5");
    }
}
