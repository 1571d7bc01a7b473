//! What the kernel heard: the records of the ring buffer and, where that was full, PEERS.

use mfs_ha_common::event::Event;
use mfs_ha_common::heartbeat::{Flags, Heartbeat};
use mfs_ha_common::peer::PEERS_MAX;
use mfs_ha_common::promotion::Phase;
use mfs_ha_common::record::{AdvertRecord, HeartbeatRecord, Record};
use mfs_ha_common::time::Timestamp;

use super::Driver;
use crate::clock;
use crate::promotion::Served;

/// The most records of one turn: as many as the ring buffer holds. A flood that refills it while it is
/// drained does not keep the node from its own deadlines.
const RECORDS_PER_TURN: usize = 8192;

impl Driver {
    pub(super) fn drain_records(&mut self) {
        for _ in 0..RECORDS_PER_TURN {
            let Some(item) = self.records.next() else {
                return;
            };
            let record = Record::parse(&item);
            drop(item);
            match record {
                Ok(Record::Advert(record)) => self.advert_received(&record),
                Ok(Record::Heartbeat(record)) => self.heartbeat_received(&record),
                Err(error) => tracing::error!(%error, "a record is not understood"),
            }
        }
    }

    fn advert_received(&mut self, record: &AdvertRecord) {
        self.note_seen(record);
        tracing::trace!(
            source = %std::net::Ipv4Addr::from(record.source),
            advbase = record.advbase,
            advskew = record.advskew,
            "advert"
        );
        self.handle(Event::AdvertReceived {
            advert: record.advert(),
            source: record.source,
            arrival: record.arrival(),
        });
    }

    fn heartbeat_received(&mut self, record: &HeartbeatRecord) {
        match record.heartbeat() {
            Ok(heartbeat) => {
                let arrival = record.arrival();
                self.note_holder(heartbeat.get());
                self.handle(Event::HeartbeatReceived { heartbeat, arrival });
            }
            Err(error) => {
                // Signed with our key, so from a member of another version.
                self.not_understood += 1;
                tracing::debug!(%error, "a heartbeat is not understood");
            }
        }
    }

    /// Standby care labels what it downloads with the epoch of whoever serves it.
    fn note_holder(&mut self, heartbeat: &Heartbeat) {
        let serves = heartbeat.phase == Phase::Active && heartbeat.flags.has(Flags::HOLDS);
        let (service, quorum) = (&self.outputs.service, &self.outputs.quorum);
        let orders = service
            .as_ref()
            .and_then(|service| service.metadata.as_ref());
        let sources = quorum.as_ref().map_or(&[][..], |quorum| &quorum.sources);
        let source = sources.iter().find(|(id, _)| *id == heartbeat.sender);
        let Some((orders, (_, source))) = orders.zip(source) else {
            return;
        };
        let served = serves.then_some(Served {
            source: *source,
            lease: heartbeat.request,
            metadata: heartbeat.metadata,
        });
        let known = *orders.served.borrow();
        let is_known = known.is_some_and(|known| known.source == *source);
        if served.is_some() || is_known {
            self.served_at = clock::now();
            self.set_served(served);
        }
    }

    /// Tells standby care what is served elsewhere. Where that ends, nothing of it is let in any more.
    fn set_served(&mut self, served: Option<Served>) {
        let service = self.outputs.service.as_ref();
        let Some(orders) = service.and_then(|service| service.metadata.as_ref()) else {
            return;
        };
        let was_served = orders.served.borrow().is_some();
        orders.served.send_if_modified(|known| {
            let is_news = *known != served;
            *known = served;
            is_news
        });
        if was_served
            && served.is_none()
            && let Some(gate) = &mut self.outputs.gate
        {
            gate.follow_holder(0);
        }
    }

    /// Who has not said so for as long as a lease lasts does not serve any more.
    pub(super) fn forget_silent_holder(&mut self, now: Timestamp) {
        let span = self.outputs.quorum.as_ref().map(|quorum| quorum.patience);
        if span.is_some_and(|span| now.since(self.served_at) > span) {
            self.set_served(None);
        }
    }

    /// Remembers the newest arrival of as many sources as PEERS can hold, whoever else floods us.
    fn note_seen(&mut self, record: &AdvertRecord) {
        if self.seen.len() < PEERS_MAX || self.seen.contains_key(&record.source) {
            self.seen.insert(record.source, record.arrival_ns);
        }
    }

    /// Adverts that found the ring buffer full are still known to PEERS.
    pub(super) fn reread_peers(&mut self) {
        let mut peers = match self.peers.read() {
            Ok(peers) => peers,
            Err(error) => {
                tracing::warn!(%error, "cannot compare with PEERS");
                return;
            }
        };
        // In the order of arrival: the last one heard is the one that counts.
        peers.sort_by_key(|(_, state)| state.last_advert_ns);
        for (key, state) in peers {
            let seen = self.seen.get(&key.source).copied().unwrap_or_default();
            if state.last_advert_ns > seen {
                self.advert_received(&AdvertRecord::from_peer(key, &state));
            }
        }
    }
}
