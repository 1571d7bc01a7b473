//! The network of the lab: namespaces, one Ethernet segment, raw sockets and address events.

pub mod addresses;
pub mod flood;
pub mod neighbours;
pub mod netns;
pub mod packet;
pub mod topology;
pub mod xdp;
