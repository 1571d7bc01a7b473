//! Why frames pass or are dropped, and the counters of it: the value of the STATS map.
//!
//! One list makes the reasons, the named fields and their order, so none can be counted without having
//! a name. `docs/protocol.md` holds the same list as a table; a test compares the two.

use bytemuck::{Pod, Zeroable};

macro_rules! reasons {
    (
        pass { $($(#[$pass_doc:meta])* $pass:ident $Pass:ident,)* }
        drop { $($(#[$drop_doc:meta])* $drop:ident $Drop:ident,)* }
        gate { $($(#[$gate_doc:meta])* $gate:ident $Gate:ident,)* }
        other { $($(#[$other_doc:meta])* $other:ident,)* }
    ) => {
        /// Why a frame that mfs-ha does not elect on goes up the stack untouched.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum PassReason { $($(#[$pass_doc])* $Pass,)* }

        impl PassReason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$Pass,)*];

            /// Returns the name: counter and reason string are the same word.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$Pass => stringify!($pass),)* }
            }
        }

        /// Why a frame for us is dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason { $($(#[$drop_doc])* $Drop,)* }

        impl DropReason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$Drop,)*];

            /// Returns the name: counter and reason string are the same word.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$Drop => stringify!($drop),)* }
            }
        }

        /// Why the gate keeps a frame out, or in.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum GateReason { $($(#[$gate_doc])* $Gate,)* }

        impl GateReason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$Gate,)*];

            /// Returns the name: counter and reason string are the same word.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$Gate => stringify!($gate),)* }
            }
        }

        /// Counters since the program was loaded, one set per CPU.
        #[derive(Clone, Copy, Debug, Default, Pod, Zeroable, PartialEq, Eq)]
        #[repr(C)]
        pub struct Stats {
            $($(#[$other_doc])* pub $other: u64,)*
            $($(#[$pass_doc])* pub $pass: u64,)*
            $($(#[$drop_doc])* pub $drop: u64,)*
            $($(#[$gate_doc])* pub $gate: u64,)*
        }

        impl Stats {
            /// Counters in the record.
            pub const LEN: usize = size_of::<Self>() >> 3;

            /// Returns the counter of a pass reason, counted in `u64`s from the start of the record.
            #[inline(always)]
            #[must_use]
            pub const fn pass_slot(reason: PassReason) -> usize {
                match reason {
                    $(PassReason::$Pass => core::mem::offset_of!(Self, $pass) >> 3,)*
                }
            }

            /// Returns the counter of a drop reason, counted in `u64`s from the start of the record.
            #[inline(always)]
            #[must_use]
            pub const fn drop_slot(reason: DropReason) -> usize {
                match reason {
                    $(DropReason::$Drop => core::mem::offset_of!(Self, $drop) >> 3,)*
                }
            }

            /// Returns the counter of a reason of the gate, counted in `u64`s from the start of the record.
            #[inline(always)]
            #[must_use]
            pub const fn gate_slot(reason: GateReason) -> usize {
                match reason {
                    $(GateReason::$Gate => core::mem::offset_of!(Self, $gate) >> 3,)*
                }
            }

            /// Counts in a slot.
            #[inline(always)]
            pub fn count(&mut self, slot: usize) {
                let counters: &mut [u64; Self::LEN] = bytemuck::must_cast_mut(self);
                if let Some(counter) = counters.get_mut(slot) {
                    *counter = counter.wrapping_add(1);
                }
            }

            /// Returns name and value of each counter, in the order of the record.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [
                    $((stringify!($other), self.$other),)*
                    $((stringify!($pass), self.$pass),)*
                    $((stringify!($drop), self.$drop),)*
                    $((stringify!($gate), self.$gate),)*
                ]
                .into_iter()
            }

            /// Adds the counters of another CPU.
            pub fn add(&mut self, other: &Self) {
                $(self.$other = self.$other.wrapping_add(other.$other);)*
                $(self.$pass = self.$pass.wrapping_add(other.$pass);)*
                $(self.$drop = self.$drop.wrapping_add(other.$drop);)*
                $(self.$gate = self.$gate.wrapping_add(other.$gate);)*
            }
        }
    };
}

reasons! {
    pass {
        /// Neither IP protocol 112 nor a heartbeat of a cluster that we belong to.
        not_carp NotCarp,
        /// Ends before it can be told whether it is ours.
        runt Runt,
        /// Another VLAN than the configured one.
        other_vlan OtherVlan,
        /// VRRP, which shares protocol number and group with CARP.
        vrrp Vrrp,
        /// Another virtual host id.
        other_vhid OtherVhid,
        /// Our virtual host id, but sent to another group or to one node.
        other_group OtherGroup,
        /// CARP over IPv6 with our virtual host id.
        unsupported_ipv6 UnsupportedIpv6,
        /// The digest covers several addresses.
        unsupported_vips UnsupportedVips,
    }
    drop {
        /// IP version is not 4 or the header is shorter than five words.
        bad_ip_header BadIpHeader,
        /// The IP header carries options: no sender of CARP writes them.
        ip_options IpOptions,
        /// A fragment.
        fragment Fragment,
        /// The frame ends before the IP header's total length.
        truncated Truncated,
        /// Fewer than 36 bytes of payload.
        bad_len BadLen,
        /// TTL is not 255: the frame was forwarded or comes from afar.
        bad_ttl BadTtl,
        /// CARP version is not 2.
        bad_version BadVersion,
        /// Packet type is not 1, advertisement.
        bad_type BadType,
        /// Counter and digest are not said to be 7 words long.
        bad_authlen BadAuthlen,
        /// Our own source address: a reflected frame or a duplicate address.
        own_source OwnSource,
        /// Wrong checksum of the IP header.
        bad_ip_sum BadIpSum,
        /// Wrong checksum of the CARP header.
        bad_sum BadSum,
        /// A source that is not among the configured peers.
        unknown_peer UnknownPeer,
        /// The counter of the last accepted advert again while the policy is to refuse it.
        repeated_counter RepeatedCounter,
        /// Bytes after the CARP header that are no trailer, while the policy is to refuse them.
        trailing_bytes TrailingBytes,
        /// No signed trailer while the policy is to require one.
        extension_missing ExtensionMissing,
        /// A trailer of another cluster.
        trailer_other_cluster TrailerOtherCluster,
        /// A trailer with our own id.
        trailer_own_node TrailerOwnNode,
        /// A trailer of somebody who is not a member.
        trailer_unknown_member TrailerUnknownMember,
        /// A trailer that is not newer than the last one of its sender.
        trailer_replayed TrailerReplayed,
        /// A trailer whose tag is right under no key of ours.
        trailer_bad_tag TrailerBadTag,
        /// Wrong digest: other password, other virtual address, or forged.
        bad_auth BadAuth,
        /// Sent to the port of heartbeats, and does not begin like one.
        not_heartbeat NotHeartbeat,
        /// A heartbeat of another version.
        other_version OtherVersion,
        /// A heartbeat of another length.
        bad_heartbeat_len BadHeartbeatLen,
        /// Another kind of message than a heartbeat.
        bad_kind BadKind,
        /// A heartbeat of another cluster.
        other_cluster OtherCluster,
        /// A heartbeat for another node.
        other_receiver OtherReceiver,
        /// A heartbeat with our own id as its sender.
        own_node OwnNode,
        /// A heartbeat of somebody who is not a member.
        unknown_member UnknownMember,
        /// A heartbeat that is not newer than the last one of its sender: replayed, reordered, or come on
        /// a second way.
        replayed Replayed,
        /// A heartbeat whose tag is right under no key of ours.
        bad_tag BadTag,
    }
    gate {
        /// Sent to the VIP while this node may not serve.
        gate_in Entry,
        /// Sent from the VIP while this node may not serve.
        gate_out Exit,
        /// ARP that asks for the VIP or names it as its sender, while this node may not serve.
        gate_arp Arp,
        /// To or from a service port that is not open yet.
        gate_service Service,
        /// From the VIP's port for metaloggers, of a master that this standby does not follow.
        gate_barrier Barrier,
    }
    other {
        /// Adverts that were accepted.
        accepted,
        /// Heartbeats that were accepted.
        accepted_heartbeats,
        /// Accepted adverts and heartbeats that found the ring buffer full; PEERS and MEMBERS hold their
        /// arrival all the same.
        ring_full,
        /// Accepted adverts of a new source that found PEERS full.
        peers_full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter_of_the_same_name() {
        for reason in PassReason::ALL {
            let mut stats = Stats::default();
            stats.count(Stats::pass_slot(*reason));
            assert_eq!(sole(&stats), reason.name());
        }
        for reason in DropReason::ALL {
            let mut stats = Stats::default();
            stats.count(Stats::drop_slot(*reason));
            assert_eq!(sole(&stats), reason.name());
        }
        for reason in GateReason::ALL {
            let mut stats = Stats::default();
            stats.count(Stats::gate_slot(*reason));
            assert_eq!(sole(&stats), reason.name());
        }
        assert_eq!(
            Stats::default().fields().count(),
            Stats::LEN,
            "every counter is listed"
        );
    }

    fn sole(stats: &Stats) -> &'static str {
        let set: std::vec::Vec<_> = stats.fields().filter(|(_, value)| *value > 0).collect();
        assert_eq!(set.len(), 1);
        set[0].0
    }
}
