//! Verdicts over what the ARP prober saw. Pure: times and addresses in, findings out.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::net::packet::Mac;

/// A reply to one of our broadcast questions "who has the VIP?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Arrival of the reply.
    pub at: Instant,
    /// Who claims the VIP.
    pub mac: Mac,
    /// Which question it answers: an index into [`Observations::probes`].
    pub probe: usize,
}

/// Any other ARP frame that names the VIP as its sender, such as a gratuitous ARP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Arrival.
    pub at: Instant,
    /// Who claims the VIP.
    pub mac: Mac,
}

/// All that a prober saw, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    /// When each question was sent.
    pub probes: Vec<Instant>,
    /// The replies.
    pub answers: Vec<Answer>,
    /// The unasked claims.
    pub announcements: Vec<Announcement>,
}

impl Observations {
    /// Everyone who answered between two times.
    pub fn owners(&self, from: Instant, to: Instant) -> BTreeSet<Mac> {
        self.answers_between(from, to)
            .map(|answer| answer.mac)
            .collect()
    }

    /// The most owners that answered **one and the same** question between two times.
    ///
    /// A broadcast reaches all nodes within microseconds, so two answers to one question are two
    /// owners at one moment, and a handover between two questions is not taken for one.
    pub fn owners_max(&self, from: Instant, to: Instant) -> usize {
        self.per_probe(from, to)
            .iter()
            .map(|(_, owners)| owners.len())
            .max()
            .unwrap_or(0)
    }

    /// How long two or more owners answered: each contested question counts up to the next question.
    pub fn overlap(&self, from: Instant, to: Instant) -> Duration {
        self.per_probe(from, to)
            .iter()
            .filter(|(_, owners)| owners.len() >= 2)
            .map(|(probe, _)| {
                let end = self.probes.get(probe + 1).copied().unwrap_or(to).min(to);
                self.probes
                    .get(*probe)
                    .map_or(Duration::ZERO, |sent| end.saturating_duration_since(*sent))
            })
            .sum()
    }

    /// The longest time without any answer, the ends of the range included.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let mut last = from;
        let mut longest = Duration::ZERO;
        for at in self
            .answers_between(from, to)
            .map(|answer| answer.at)
            .chain([to])
        {
            longest = longest.max(at.saturating_duration_since(last));
            last = at;
        }
        longest
    }

    /// The first answer at or after `after` from anyone but `old`.
    pub fn first_reply_by_other_than(&self, old: Mac, after: Instant) -> Option<Answer> {
        self.answers
            .iter()
            .find(|answer| answer.mac != old && answer.at >= after)
            .copied()
    }

    /// The first answer at or after `after` from `owner`.
    pub fn first_reply_by(&self, owner: Mac, after: Instant) -> Option<Answer> {
        self.answers
            .iter()
            .find(|answer| answer.mac == owner && answer.at >= after)
            .copied()
    }

    /// How often the answering owner changed between two times.
    pub fn changes_of_owner(&self, from: Instant, to: Instant) -> usize {
        let owners: Vec<Mac> = self
            .answers_between(from, to)
            .map(|answer| answer.mac)
            .collect();
        owners.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    /// The questions sent between two times, each with those who answered it.
    fn per_probe(&self, from: Instant, to: Instant) -> Vec<(usize, BTreeSet<Mac>)> {
        let first = self.probes.partition_point(|sent| *sent < from);
        let end = self.probes.partition_point(|sent| *sent <= to);
        let mut found: Vec<(usize, BTreeSet<Mac>)> =
            (first..end).map(|probe| (probe, BTreeSet::new())).collect();
        for answer in &self.answers {
            if let Some((_, owners)) = answer
                .probe
                .checked_sub(first)
                .and_then(|offset| found.get_mut(offset))
            {
                owners.insert(answer.mac);
            }
        }
        found
    }

    fn answers_between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Answer> {
        self.answers
            .iter()
            .filter(move |answer| answer.at >= from && answer.at <= to)
    }
}

/// Median, least and greatest of some durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The middle one, the lower of two.
    pub median: Duration,
    /// The least.
    pub min: Duration,
    /// The greatest.
    pub max: Duration,
}

impl Spread {
    /// Summarizes; `None` without data.
    pub fn of(durations: &[Duration]) -> Option<Self> {
        let mut sorted = durations.to_vec();
        sorted.sort_unstable();
        Some(Self {
            median: *sorted.get(sorted.len().saturating_sub(1) / 2)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} [{}..{}] ms",
            self.median.as_millis(),
            self.min.as_millis(),
            self.max.as_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// A question every 5 ms; each entry lists who answered it, 1 ms later.
    fn seen(start: Instant, answers: &[&[Mac]]) -> Observations {
        let mut observations = Observations::default();
        for (probe, owners) in answers.iter().enumerate() {
            let sent = start + ms(5) * u32::try_from(probe).unwrap();
            observations.probes.push(sent);
            for mac in *owners {
                observations.answers.push(Answer {
                    at: sent + ms(1),
                    mac: *mac,
                    probe,
                });
            }
        }
        observations
    }

    #[test]
    fn a_handover_between_two_questions_has_one_owner() {
        let start = Instant::now();
        let observations = seen(start, &[&[A], &[A], &[B], &[B]]);
        let end = start + ms(20);
        assert_eq!(observations.owners(start, end), BTreeSet::from([A, B]));
        assert_eq!(observations.owners_max(start, end), 1);
        assert_eq!(observations.overlap(start, end), Duration::ZERO);
        assert_eq!(observations.changes_of_owner(start, end), 1);
    }

    #[test]
    fn two_answers_to_one_question_are_two_owners() {
        let start = Instant::now();
        let observations = seen(start, &[&[A], &[A, B], &[B, A], &[B]]);
        let end = start + ms(20);
        assert_eq!(observations.owners_max(start, end), 2);
        assert_eq!(observations.overlap(start, end), ms(10));
        assert_eq!(observations.owners_max(start + ms(15), end), 1);
        assert_eq!(observations.overlap(start + ms(15), end), Duration::ZERO);
    }

    #[test]
    fn an_overlap_at_the_end_is_cut_at_the_end() {
        let start = Instant::now();
        let observations = seen(start, &[&[A, B]]);
        assert_eq!(observations.overlap(start, start + ms(3)), ms(3));
    }

    #[test]
    fn the_longest_gap_includes_both_ends() {
        let start = Instant::now();
        let observations = seen(start, &[&[A], &[], &[], &[B], &[]]);
        assert_eq!(observations.longest_gap(start, start + ms(20)), ms(15));
        assert_eq!(observations.longest_gap(start, start + ms(40)), ms(24));
        assert_eq!(
            Observations::default().longest_gap(start, start + ms(7)),
            ms(7)
        );
    }

    #[test]
    fn the_first_reply_of_a_newcomer_is_found() {
        let start = Instant::now();
        let observations = seen(start, &[&[A], &[], &[B], &[B]]);
        let first = observations.first_reply_by_other_than(A, start).unwrap();
        assert_eq!((first.mac, first.at), (B, start + ms(11)));
        assert_eq!(
            observations
                .first_reply_by(B, start + ms(12))
                .unwrap()
                .probe,
            3
        );
        assert_eq!(
            observations.first_reply_by_other_than(B, start + ms(2)),
            None
        );
    }

    #[test]
    fn a_spread_is_summed_up_and_printed() {
        let spread = Spread::of(&[ms(30), ms(10), ms(20), ms(40)]).unwrap();
        assert_eq!(spread.to_string(), "20 [10..40] ms");
        assert_eq!(Spread::of(&[]), None);
    }
}
