//! The name of an archive: what makes a directory one of ours.

use std::cmp::Ordering;
use std::ops::Range;

/// `<epoch>-<utc>[-n][-label]`, in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveName {
    /// The epoch that was current.
    pub epoch: u64,
    /// When it was made, like `20261123T064200Z`; for people.
    pub utc: String,
    /// Counts the archives of one second, from 1.
    pub number: u32,
    /// Why it was made; empty for what an installation replaced.
    pub label: String,
}

impl ArchiveName {
    /// Takes a name apart; `None` when it is not of the form that mfs-ha gives.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let epoch = number(parts.next()?)?;
        let utc = parts.next().filter(|utc| is_utc(utc))?.to_owned();
        let mut number_of_second = 1;
        let mut label = parts.next();
        if let Some(number) = label.and_then(number) {
            number_of_second = u32::try_from(number).ok()?;
            label = parts.next();
        }
        let label = label.map_or(Some(""), |label| Some(label).filter(|l| is_label(l)))?;
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            epoch,
            utc,
            number: number_of_second,
            label: label.to_owned(),
        })
    }

    /// When it was made, as other times are written; for people.
    pub fn made(&self) -> String {
        let part = |range: Range<usize>| self.utc.get(range).unwrap_or_default();
        let (year, month, day) = (part(0..4), part(4..6), part(6..8));
        let (hour, minute, second) = (part(9..11), part(11..13), part(13..15));
        format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z")
    }

    /// Orders archives of one epoch whose directories are of the same age.
    pub(super) fn compare_made(&self, other: &Self) -> Ordering {
        (&self.utc, self.number).cmp(&(&other.utc, other.number))
    }
}

fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok())?
}

fn is_utc(text: &str) -> bool {
    let form = |(at, byte): (usize, u8)| match at {
        8 => byte == b'T',
        15 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    text.len() == 16 && text.bytes().enumerate().all(form)
}

fn is_label(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let name = ArchiveName::parse("7-20261123T064200Z").unwrap();
        assert_eq!((name.epoch, name.number, name.label.as_str()), (7, 1, ""));
        assert_eq!(name.made(), "2026-11-23T06:42:00Z");
        let name = ArchiveName::parse("18446744073709551615-20261123T064200Z-12-undone").unwrap();
        assert_eq!(
            (name.epoch, name.number, name.label.as_str()),
            (u64::MAX, 12, "undone")
        );
    }

    #[test]
    fn other_names_are_not_ours() {
        for name in [
            "",
            "lost+found",
            "7",
            "7-",
            "-20261123T064200Z",
            "+7-20261123T064200Z",
            "18446744073709551616-20261123T064200Z",
            "7-20261123t064200z",
            "7-20261123T064200Z-",
            "7-20261123T064200Z-2-",
            "7-20261123T064200Z-4294967296",
            "7-20261123T064200Z-undone-2",
            "7-20261123T064200Z-undone-by-hand",
            "7-20261123T064200Z-Undone",
            "7-20261123T064200Z.removing",
            "7-20261123T064200Z/..",
        ] {
            assert_eq!(ArchiveName::parse(name), None, "{name}");
        }
    }
}
