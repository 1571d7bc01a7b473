//! Changelogs: one change of the metadata a line, `number: unixtime|OPERATION(arguments)[:result]`.
//!
//! mfsmaster writes parentheses in names as `%28` and `%29`. So where a second `number: unixtime|OPERATION(`
//! follows within a line, two lines ran into one: a program died within a line and its successor appended.

pub mod merge;
mod source;
pub mod tail;
pub mod walk;

use std::io::{self, BufRead, Read as _};

/// Longest line that is taken: mfsmaster writes at most 200 000 bytes of text after the number.
pub const LINE_BYTES_MAX: usize = 200_064;

/// A complete line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'b> {
    /// Number of the change.
    pub number: u64,
    /// What stands after `number: `, without the line feed.
    pub text: &'b [u8],
}

impl<'b> Line<'b> {
    /// Reads one line without its line feed.
    ///
    /// # Errors
    /// It is not what mfsmaster writes.
    pub fn parse(bytes: &'b [u8]) -> Result<Self, Damage> {
        let damage = || Damage {
            number: last_start(bytes).or_else(|| leading_number(bytes).map(|(number, _)| number)),
        };
        let (number, text) = numbered(bytes).ok_or_else(damage)?;
        let arguments = operation(text).ok_or_else(damage)?;
        // No change can follow the highest number, so it is not one that mfsmaster gave.
        if number == u64::MAX || !arguments.contains(&b')') || last_start(arguments).is_some() {
            return Err(damage());
        }
        Ok(Self { number, text })
    }

    /// When it was made, by the clock of its master; for people.
    pub fn unix_s(&self) -> Option<u64> {
        leading_number(self.text).map(|(time, _)| time)
    }

    /// The id that a `SETMETAID(id)` gives to the file system.
    pub fn metadata_id(&self) -> Option<u64> {
        let (_, operation) = split_while(self.text, u8::is_ascii_digit);
        let id = operation.strip_prefix(b"|SETMETAID(")?.strip_suffix(b")")?;
        leading_number(id)
            .filter(|(_, rest)| rest.is_empty())
            .map(|(id, _)| id)
    }
}

/// A line that mfsmaster did not write so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The highest change that the line can have had, where a number is left: of the last one, where several
    /// ran into one. Digits of the line that was cut may stand before those of the number.
    pub number: Option<u64>,
}

/// What comes next in a changelog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'b> {
    /// A complete line.
    Line(Line<'b>),
    /// A line that is damaged or too long.
    Damaged(Damage),
    /// The rest of the file, without a line feed: so many bytes. Nothing follows.
    Partial(u64),
}

/// Reads a changelog line by line, holding one of them.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    complete: u64,
}

impl<R: BufRead> Lines<R> {
    /// Reads from where `reader` stands, which is the beginning of a line.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
            complete: 0,
        }
    }

    /// Bytes of the complete lines that were read.
    pub fn complete_bytes(&self) -> u64 {
        self.complete
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// The reader's.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece<'_>>> {
        self.buffer.clear();
        let limit = LINE_BYTES_MAX as u64 + 1;
        let mut bytes = (&mut self.reader)
            .take(limit)
            .read_until(b'\n', &mut self.buffer)? as u64;
        if bytes == 0 {
            return Ok(None);
        }
        let is_too_long = bytes == limit && self.buffer.last() != Some(&b'\n');
        let is_complete = if is_too_long {
            let (skipped, is_complete) = skip_line(&mut self.reader)?;
            bytes = bytes.saturating_add(skipped);
            is_complete
        } else {
            self.buffer.pop_if(|last| *last == b'\n').is_some()
        };
        if !is_complete {
            return Ok(Some(Piece::Partial(bytes)));
        }
        self.complete = self.complete.saturating_add(bytes);
        if is_too_long {
            return Ok(Some(Piece::Damaged(Damage { number: None })));
        }
        Ok(Some(match Line::parse(&self.buffer) {
            Ok(line) => Piece::Line(line),
            Err(damage) => Piece::Damaged(damage),
        }))
    }
}

/// Reads on to the next line feed without keeping anything.
fn skip_line(reader: &mut impl BufRead) -> io::Result<(u64, bool)> {
    let mut skipped = 0_u64;
    loop {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return Ok((skipped, false));
        }
        let line_feed = available.iter().position(|byte| *byte == b'\n');
        let used = line_feed.map_or(available.len(), |at| at.saturating_add(1));
        reader.consume(used);
        skipped = skipped.saturating_add(used as u64);
        if line_feed.is_some() {
            return Ok((skipped, true));
        }
    }
}

/// Splits `number: text`.
fn numbered(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = leading_number(bytes)?;
    Some((number, rest.strip_prefix(b": ")?))
}

/// What follows `unixtime|OPERATION(`.
fn operation(text: &[u8]) -> Option<&[u8]> {
    let (time, rest) = split_while(text, u8::is_ascii_digit);
    let (name, rest) = split_while(rest.strip_prefix(b"|")?, |byte| {
        byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_'
    });
    let arguments = rest.strip_prefix(b"(")?;
    (!time.is_empty() && !name.is_empty()).then_some(arguments)
}

/// The number of the last `number: unixtime|OPERATION(` within `bytes`.
fn last_start(bytes: &[u8]) -> Option<u64> {
    let mut rest = bytes;
    while let Some(at) = rest.windows(2).rposition(|pair| pair == b": ") {
        let (before, after) = rest.split_at_checked(at)?;
        let digits = before.iter().rev().take_while(|byte| byte.is_ascii_digit());
        let number_at = before.len().saturating_sub(digits.count());
        let number = before.get(number_at..).and_then(leading_number);
        let text = after.strip_prefix(b": ");
        if let (Some((number, _)), Some(_)) = (number, text.and_then(operation)) {
            return Some(number);
        }
        rest = before;
    }
    None
}

fn leading_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = split_while(bytes, u8::is_ascii_digit);
    let number = str::from_utf8(number).ok()?.parse().ok()?;
    Some((number, rest))
}

fn split_while(bytes: &[u8], belongs: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| !belongs(byte));
    bytes
        .split_at_checked(end.unwrap_or(bytes.len()))
        .unwrap_or((bytes, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(content: &[u8]) -> (Vec<String>, u64) {
        let mut lines = Lines::new(content);
        let mut found = Vec::new();
        while let Some(piece) = lines.next_piece().unwrap() {
            found.push(match piece {
                Piece::Line(line) => format!("{} {}", line.number, line.text.escape_ascii()),
                Piece::Damaged(damage) => format!("damaged {:?}", damage.number),
                Piece::Partial(bytes) => format!("partial {bytes}"),
            });
        }
        (found, lines.complete_bytes())
    }

    #[test]
    fn lines_are_read_and_a_rest_without_line_feed_is_told() {
        let content = b"1: 17|SETMETAID(7)\n2: 18|CREATE(1,a|b: c,1,438,18,0,0,0):2\n3: 18|UNL";
        let (found, complete) = pieces(content);
        assert_eq!(
            found,
            [
                "1 17|SETMETAID(7)",
                "2 18|CREATE(1,a|b: c,1,438,18,0,0,0):2",
                "partial 9"
            ]
        );
        assert_eq!(complete, content.len() as u64 - 9);
    }

    #[test]
    fn lines_that_ran_into_one_are_damaged_wherever_the_first_was_cut() {
        let first = "6473: 1795350923|WRITE(18700,0,1,0):18668";
        let second = "17556: 1795350999|CREATE(1,q: 5|w,1,438,18,0,0,0):2";
        // Cut within its number, only the order of the numbers tells.
        for cut in "6473".len() + 1..=first.len() {
            let line = format!("{}{second}\n", &first[..cut]);
            let (found, _) = pieces(line.as_bytes());
            let is_joined = first[..cut].ends_with(|byte: char| byte.is_ascii_digit());
            assert_eq!(found.len(), 1);
            assert!(found[0].starts_with("damaged Some("), "{line} {found:?}");
            assert!(
                is_joined || found[0] == "damaged Some(17556)",
                "{line} {found:?}"
            );
        }
    }

    #[test]
    fn anything_else_is_damaged() {
        for (line, number) in [
            ("", None),
            ("17", Some(17)),
            ("17:18|A()", Some(17)),
            ("17: |A()", Some(17)),
            ("17: 5|()", Some(17)),
            ("17: 5|create()", Some(17)),
            ("17: 5|CREATE(1,a", Some(17)),
            ("18446744073709551616: 5|A()", None),
            ("18446744073709551615: 5|A()", Some(u64::MAX)),
            ("\0\0\0\0", None),
            ("\0\0\x0019: 5|A()", Some(19)),
        ] {
            assert_eq!(
                Line::parse(line.as_bytes()),
                Err(Damage { number }),
                "{line:?}"
            );
        }
        let highest = Line::parse(b"18446744073709551614: 5|A()").unwrap();
        assert_eq!(highest.number, u64::MAX - 1);
    }

    #[test]
    fn a_line_of_any_length_takes_bounded_memory() {
        let mut content = b"5: 1|A(".to_vec();
        content.resize(3 * LINE_BYTES_MAX, b'x');
        content.extend(b")\n6: 1|B()\n7: 1|C(");
        content.resize(content.len() + 2 * LINE_BYTES_MAX, b'y');
        let (found, complete) = pieces(&content);
        let rest = 2 * LINE_BYTES_MAX + "7: 1|C(".len();
        assert_eq!(
            found,
            ["damaged None", "6 1|B()", &format!("partial {rest}")]
        );
        assert_eq!(complete, (content.len() - rest) as u64);
        let mut lines = Lines::new(content.as_slice());
        while lines.next_piece().unwrap().is_some() {
            assert!(lines.buffer.capacity() <= 2 * LINE_BYTES_MAX);
        }
    }

    #[test]
    fn the_id_of_a_file_system_is_read() {
        let id = |line: &str| Line::parse(line.as_bytes()).unwrap().metadata_id();
        assert_eq!(
            id("1: 17|SETMETAID(7711255644775619258)"),
            Some(7_711_255_644_775_619_258)
        );
        assert_eq!(id("1: 17|SETMETAID()"), None);
        assert_eq!(id("2: 17|SETMETAIDS(7)"), None);
    }
}
