//! What standby care knows from one look to the next: whose files these are, and whether another node
//! has served something that they lack.
//!
//! ```text
//!               follows, connected, download complete · took over
//!   Unknown ──────────────────────────────────────────────────────▶ Complete
//!      │                                                            │     ▲
//!      │ another node was seen to serve                             │     │ the same
//!      │ and these files did not follow it                          ▼     │
//!      └──────────────────────────────────────────────────────────▶ Lacking
//! ```
//!
//! It has to be remembered, not computed: when the master is dead, a node that had followed it to the end
//! sees the same as one that had lost its connection before. That a node is master is not enough to make
//! others lack something: it may fail before it serves.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use crate::moosefs::followed::Followed;

/// How long a daemon that starts listens before it believes that there is no master. One that lives
/// speaks every advbase seconds and a bit.
const LISTEN: Duration = Duration::from_secs(2);

/// How long a daemon that starts knocks at the ports of a master that it hears before it believes that
/// nothing is served there.
const KNOCK: Duration = Duration::from_secs(3);

/// How long a running mfsmetalogger may have nothing that could be promoted before its files are
/// archived and it downloads everything anew. Doubles with each time, up to [`RENEW_AFTER_MAX`].
const RENEW_AFTER: Duration = Duration::from_secs(30);
const RENEW_AFTER_MAX: Duration = Duration::from_secs(1920);

/// The same for what does not mend itself, the first time.
const HOPELESS_AFTER: Duration = Duration::from_secs(2);

/// What standby care remembers.
#[derive(Debug)]
pub(super) struct Care {
    started: Instant,
    /// Who was heard for longer than this has served, seen from here or not: no promotion and no restart
    /// in place takes so long.
    serves_after: Duration,
    judges: Judges,
    files: Files,
    /// The master that was heard last, and since when.
    heard: Option<(Ipv4Addr, Instant)>,
    /// It was asked for long enough, and did not serve.
    is_denied: bool,
    /// The metalogger's last start.
    followed: Option<Followed>,
    has_metalogger: bool,
    connection: Option<u16>,
    unconnected_since: Option<Instant>,
    has_downloaded: bool,
    /// The directory has an image of a master: it is not a download that was begun.
    is_former_master: bool,
    /// Bytes of what is being downloaded.
    downloading: Option<u64>,
    unready: Option<Unready>,
    renew_after: Duration,
}

/// Who judges whether files are older than what was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judges {
    /// This node, by what it has seen of others: in carp mode nobody else does.
    Care,
    /// Voters, by versions (rules L1 and L1e).
    Voters,
    /// The same, and the operator gives up what this node lacks, so that a download which its master did not
    /// live to complete does not keep it from serving what it had.
    VotersAcceptingLoss,
}

/// A look at what mfsmetalogger downloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Download {
    /// Nothing is missing.
    pub(super) is_complete: bool,
    /// Bytes of the part that is under way.
    pub(super) downloading: Option<u64>,
    /// The directory has an image of a master.
    pub(super) is_former_master: bool,
}

/// What is known of the files here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    /// Nothing: this daemon has just started.
    Unknown,
    /// They have everything that was served.
    Complete,
    /// Something was served that they lack.
    Lacking,
}

/// Since when a running metalogger has had nothing to promote.
#[derive(Clone, Copy, Debug)]
struct Unready {
    since: Instant,
    /// No download and no change mends it.
    is_hopeless: bool,
}

impl Care {
    pub(super) fn new(followed: Option<Followed>, serves_after: Duration, judges: Judges) -> Self {
        Self {
            started: Instant::now(),
            serves_after,
            judges,
            files: Files::Unknown,
            heard: None,
            is_denied: false,
            followed,
            has_metalogger: false,
            connection: None,
            unconnected_since: None,
            has_downloaded: false,
            is_former_master: false,
            downloading: None,
            unready: None,
            renew_after: RENEW_AFTER,
        }
    }

    /// Another node is master.
    pub(super) fn heard(&mut self, master: Option<Ipv4Addr>) {
        self.heard = master.map(|master| (master, Instant::now()));
        self.is_denied = false;
    }

    /// The master that was heard last.
    pub(super) fn master(&self) -> Option<Ipv4Addr> {
        self.heard.map(|(master, _)| master)
    }

    /// This node takes over, and what it has is not stale: nobody serves but itself from here on.
    pub(super) fn took_over(&mut self) {
        self.files = Files::Complete;
        self.heard = None;
        self.is_denied = false;
    }

    /// The metalogger's last start.
    pub(super) const fn followed(&self) -> Option<Followed> {
        self.followed
    }

    /// The metalogger was seen, or seen to be absent. Returns whether it has just lost its connection.
    pub(super) fn metalogger_seen(&mut self, runs: bool, connection: Option<u16>) -> bool {
        let is_lost = self.connection.is_some() && connection.is_none();
        self.has_metalogger = runs;
        self.connection = connection;
        if connection.is_some() || !runs {
            self.unconnected_since = None;
        } else if self.unconnected_since.is_none() {
            self.unconnected_since = Some(Instant::now());
        }
        is_lost
    }

    /// The metalogger's first connection is known now.
    pub(super) const fn connected(&mut self, followed: Followed) {
        self.followed = Some(followed);
    }

    /// Says whether a running metalogger works on files of the present master's history, and over the
    /// connection that it downloaded over. Another one is to another master, or to the same one after a
    /// restart, which may have lost the last changes.
    pub(super) fn follows(&self) -> bool {
        let Some((followed, (master, _))) = self.followed.zip(self.heard) else {
            return false;
        };
        let is_first = match (followed.connection, self.connection) {
            (Some(first), Some(now)) => first == now,
            (None, _) | (_, None) => true,
        };
        self.has_metalogger && followed.master == master && is_first
    }

    /// Whether the present master was seen to serve from here.
    pub(super) fn probed(&mut self, serves: bool) {
        let has_had_time = self
            .heard
            .is_some_and(|(_, since)| since.elapsed() >= KNOCK);
        self.is_denied = !serves && has_had_time;
        let since = if self.follows() {
            self.unconnected_since
        } else {
            self.heard.map(|(_, since)| since)
        };
        let must_have_served = since.is_some_and(|since| since.elapsed() > self.serves_after);
        if serves || must_have_served {
            self.files = Files::Lacking;
        }
    }

    /// The metalogger is started for the present master.
    pub(super) fn begins_to_follow(&mut self, followed: Followed) {
        if self.must_renew() {
            self.renew_after = (self.renew_after * 2).min(RENEW_AFTER_MAX);
        }
        self.followed = Some(followed);
        self.files = Files::Lacking;
        self.connection = None;
        self.unconnected_since = None;
        self.has_downloaded = false;
        self.unready = None;
    }

    /// How far the download is.
    pub(super) fn download_seen(&mut self, download: Download) {
        let Download {
            is_complete,
            downloading,
            is_former_master,
        } = download;
        self.is_former_master = is_former_master;
        // A download that goes on is left alone.
        if downloading.is_some() && downloading != self.downloading {
            self.unready = None;
        }
        self.downloading = downloading;
        self.has_downloaded = is_complete;
        if self.follows() && self.connection.is_some() && is_complete {
            self.files = Files::Complete;
        }
    }

    /// Whether the directory could be promoted as it is; where not, whether that is without hope.
    pub(super) fn looked(&mut self, obstacle: Option<bool>) {
        let is_waiting = self.follows() && !self.has_downloaded;
        let obstacle = obstacle.or_else(|| is_waiting.then_some(false));
        let Some(is_hopeless) = obstacle.filter(|_| self.has_metalogger) else {
            self.unready = None;
            self.renew_after = RENEW_AFTER;
            return;
        };
        let since = self
            .unready
            .map_or_else(Instant::now, |unready| unready.since);
        self.unready = Some(Unready { since, is_hopeless });
    }

    /// Says whether the metalogger has had nothing to promote for too long.
    pub(super) fn must_renew(&self) -> bool {
        self.unready.is_some_and(|unready| {
            let is_first = self.renew_after == RENEW_AFTER;
            let patience = if unready.is_hopeless && is_first {
                HOPELESS_AFTER
            } else {
                self.renew_after
            };
            unready.since.elapsed() > patience
        })
    }

    /// Says whether a metalogger that runs was started for nobody that is heard.
    pub(super) fn follows_nobody(&self) -> bool {
        self.judges != Judges::Care && self.heard.is_none() && self.started.elapsed() >= LISTEN
    }

    /// Says whether changes of the present master arrive, after all that it had before.
    pub(super) fn is_fed(&self) -> bool {
        self.follows() && self.connection.is_some() && self.has_downloaded
    }

    /// Says whether everything was downloaded from the master that was followed last, living or not.
    pub(super) const fn has_whole_download(&self) -> bool {
        self.followed.is_some() && self.has_downloaded
    }

    /// The files are not of the history that they were taken for: everything is downloaded again.
    pub(super) const fn follow_anew(&mut self) {
        self.followed = None;
        self.has_downloaded = false;
    }

    /// Says why the files must not be offered, whatever is in them, where a majority compares versions:
    /// they are a mix of two histories, or may still change.
    fn what_is_unfinished(&self) -> Option<String> {
        let has_begun = self.followed.is_some() && !self.has_downloaded;
        let is_given_up = self.judges == Judges::VotersAcceptingLoss && self.heard.is_none();
        if has_begun && !self.is_former_master && !is_given_up {
            return Some(
                "mfsmetalogger has not downloaded all metadata of its master yet".to_owned(),
            );
        }
        let may_write = self.has_metalogger && self.heard.is_none();
        may_write.then(|| "mfsmetalogger runs and no master is known yet".to_owned())
    }

    /// Says why the files may be older than what another node has served, if they may. In quorum mode that
    /// is not judged here: voters refuse who is behind, by numbers.
    pub(super) fn staleness(&self) -> Option<String> {
        if self.judges != Judges::Care {
            return self.what_is_unfinished();
        }
        match self.files {
            Files::Complete => None,
            Files::Lacking => Some(self.what_is_missing()),
            Files::Unknown => self.what_is_unknown(),
        }
    }

    fn what_is_unknown(&self) -> Option<String> {
        match self.master() {
            None if self.started.elapsed() < LISTEN => {
                Some("has just started and listens for a master".to_owned())
            }
            Some(master) if !self.is_denied => Some(format!(
                "{master} is master, and whether it has served is not known yet"
            )),
            // As far as can be seen nobody has served since this daemon started.
            None | Some(_) => None,
        }
    }

    fn what_is_missing(&self) -> String {
        let Some(master) = self.master() else {
            return "another node has served since".to_owned();
        };
        if !self.follows() {
            format!("{master} is master and mfsmetalogger does not follow it yet")
        } else if !self.has_downloaded {
            format!("mfsmetalogger has not downloaded the metadata of {master} yet")
        } else {
            format!(
                "{master} serves and mfsmetalogger is not connected to it: see its log, MASTER_HOST in \
                 its configuration, and whether the port can be reached"
            )
        }
    }
}

#[cfg(test)]
mod tests;
