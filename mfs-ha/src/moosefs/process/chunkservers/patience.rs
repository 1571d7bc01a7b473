//! For how long a mfsmaster that took over is given time for its chunkservers: decided from what it told so far.
//!
//! No clock and no I/O: the time of a look comes with it.

use std::time::Duration;

/// After the last one came, the others have all tried: each does so once a second with the recommended
/// `MASTER_RECONNECTION_DELAY = 1`, on a tick of its own. Those that are still missing are not there, most likely since
/// before the failover, and must not cost each failover the whole limit.
const SETTLE: Duration = Duration::from_millis(1200);

/// A chunkserver reports 10 000 chunks in a packet, the first up to 100 ms after it began to register, and mfsmaster
/// takes some 7 million in a second: when the count stands still for so long, what is missing does not come. Copies that
/// are damaged or of an old version never do, and what a chunkserver says that it has can be a second old.
const STILL: Duration = Duration::from_millis(200);

/// Looks in a row without a change that this takes too: after a moment in which the whole machine stood still.
const STILL_LOOKS: u32 = 5;

/// What a mfsmaster told of its chunkservers at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Look {
    /// Chunkservers that are waited for.
    pub(super) known: usize,
    /// How many of them are connected.
    pub(super) connected: usize,
    /// Copies of chunks that all connected chunkservers say they have.
    pub(super) copies: u64,
    /// Copies of chunks that the master can already send a client to.
    pub(super) reported: u64,
}

/// Why the wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There is nobody to wait for.
    NoneKnown,
    /// All that were waited for have registered.
    All,
    /// Those that came have registered; for a while no other came.
    RestAbsent,
    /// The limit ran out.
    OutOfTime,
}

/// What was seen change so far, and when.
#[derive(Debug, Default)]
pub(super) struct Patience {
    last: Look,
    last_came: Option<Duration>,
    last_change: Duration,
    looks_since: u32,
}

impl Patience {
    /// Takes note of a look, at a time after the begin of the wait; says when it was the last that is needed.
    pub(super) fn after(&mut self, at: Duration, look: Look) -> Option<Outcome> {
        if look.connected > self.last.connected {
            self.last_came = Some(at);
        }
        if (look.connected, look.reported) != (self.last.connected, self.last.reported) {
            self.last_change = at;
            self.looks_since = 0;
        } else {
            self.looks_since = self.looks_since.saturating_add(1);
        }
        self.last = look;
        if look.known == 0 {
            return Some(Outcome::NoneKnown);
        }
        let stands_still =
            at.saturating_sub(self.last_change) >= STILL && self.looks_since >= STILL_LOOKS;
        if look.reported < look.copies && !stands_still {
            return None;
        }
        if look.connected >= look.known {
            return Some(Outcome::All);
        }
        self.last_came
            .is_some_and(|came| at.saturating_sub(came) >= SETTLE)
            .then_some(Outcome::RestAbsent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of chunkservers with 100 copies each.
    fn look(known: usize, connected: usize, reported: u64) -> Look {
        let copies = 100 * u64::try_from(connected).unwrap();
        Look {
            known,
            connected,
            copies,
            reported,
        }
    }

    /// The same looks each 15 ms from one time to the other.
    fn looks(from: u64, to: u64, look: Look) -> Vec<(u64, Look)> {
        (from..to)
            .step_by(15)
            .chain([to])
            .map(|at| (at, look))
            .collect()
    }

    /// Goes on until the last look, at these milliseconds, which decides.
    #[track_caller]
    fn decides(history: &[Vec<(u64, Look)>], outcome: Option<Outcome>) {
        let history = history.concat();
        let mut patience = Patience::default();
        let (last, before) = history.split_last().unwrap();
        for (at, look) in before {
            let early = patience.after(Duration::from_millis(*at), *look);
            assert_eq!(early, None, "at {at} ms: {look:?}");
        }
        let (at, look) = last;
        assert_eq!(patience.after(Duration::from_millis(*at), *look), outcome);
    }

    fn once(at: u64, look: Look) -> Vec<(u64, Look)> {
        vec![(at, look)]
    }

    #[test]
    fn nobody_is_waited_for_where_nobody_is_known() {
        decides(&[once(0, look(0, 0, 0))], Some(Outcome::NoneKnown));
    }

    #[test]
    fn all_are_there_at_the_first_look() {
        decides(&[once(0, look(3, 3, 300))], Some(Outcome::All));
    }

    #[test]
    fn the_last_that_comes_ends_the_wait() {
        let history = [
            looks(0, 690, look(3, 0, 0)),
            looks(700, 1400, look(3, 2, 200)),
            once(1500, look(3, 3, 300)),
        ];
        decides(&history, Some(Outcome::All));
    }

    #[test]
    fn one_that_was_dead_before_costs_only_a_while() {
        let mut history = vec![
            once(0, look(3, 0, 0)),
            once(600, look(3, 1, 100)),
            looks(900, 2099, look(3, 2, 200)),
        ];
        decides(&history, None);
        history.push(once(2100, look(3, 2, 200)));
        decides(&history, Some(Outcome::RestAbsent));
    }

    #[test]
    fn those_that_were_there_at_the_first_look_count_as_come() {
        let history = [looks(5, 1205, look(2, 1, 100))];
        decides(&history, Some(Outcome::RestAbsent));
    }

    #[test]
    fn as_long_as_nobody_comes_all_are_waited_for() {
        decides(&[looks(0, 600_000, look(2, 0, 0))], None);
    }

    #[test]
    fn one_that_is_lost_again_has_to_come_again() {
        let history = [
            once(0, look(2, 1, 100)),
            once(1000, look(2, 0, 100)),
            looks(1100, 2299, look(2, 1, 100)),
        ];
        decides(&history, None);
    }

    #[test]
    fn a_chunkserver_that_is_connected_has_not_reported_its_chunks() {
        let history = [
            looks(0, 180, look(2, 2, 0)),
            looks(190, 370, look(2, 2, 50)),
            looks(380, 389, look(2, 2, 199)),
            once(390, look(2, 2, 200)),
        ];
        decides(&history, Some(Outcome::All));
    }

    #[test]
    fn copies_that_do_not_come_cost_only_a_while() {
        let mut history = vec![looks(0, 199, look(2, 2, 199))];
        decides(&history, None);
        history.push(once(200, look(2, 2, 199)));
        decides(&history, Some(Outcome::All));

        let mut absent = vec![
            looks(0, 1140, look(3, 2, 199)),
            looks(1150, 1199, look(3, 2, 199)),
        ];
        decides(&absent, None);
        absent.push(once(1200, look(3, 2, 199)));
        decides(&absent, Some(Outcome::RestAbsent));
    }

    #[test]
    fn chunks_are_waited_for_also_when_the_rest_is_absent() {
        let mut history = vec![
            looks(0, 1140, look(3, 2, 100)),
            looks(1150, 1349, look(3, 2, 160)),
        ];
        decides(&history, None);
        history.push(once(1350, look(3, 2, 160)));
        decides(&history, Some(Outcome::RestAbsent));
    }

    #[test]
    fn a_machine_that_stood_still_is_no_count_that_does() {
        let mut history = vec![once(0, look(1, 1, 10)), looks(5000, 5045, look(1, 1, 10))];
        decides(&history, None);
        history.push(once(5060, look(1, 1, 10)));
        decides(&history, Some(Outcome::All));
    }

    #[test]
    fn one_without_chunks_has_nothing_to_report() {
        let empty = Look {
            copies: 0,
            ..look(1, 1, 0)
        };
        decides(&[once(0, empty)], Some(Outcome::All));
    }
}
