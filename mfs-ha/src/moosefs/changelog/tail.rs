//! The ends of a changelog, without reading what stands between them.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;

use super::{LINE_BYTES_MAX, Line, Lines, Piece};

/// Nearly every last line is shorter; where not, a longer piece is read.
const SHORT_TAIL_BYTES: u64 = 4096;
/// The last line, what follows it, and the line feed before.
const LONG_TAIL_BYTES: u64 = 2 * (LINE_BYTES_MAX as u64 + 1);

/// What stands at one end of a changelog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// No complete line.
    Nothing,
    /// A line with this number.
    Number(u64),
    /// A line that is damaged or too long.
    Damaged,
}

impl Edge {
    /// The number, where there is one.
    pub fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Nothing | Self::Damaged => None,
        }
    }
}

/// Both ends of a changelog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The first complete line.
    pub first: Edge,
    /// The last complete line.
    pub last: Edge,
    /// The id that the first line gives to the file system.
    pub id: Option<u64>,
    /// Bytes after the last line feed.
    pub partial: u64,
}

/// Reads the ends of the first `bytes` of a changelog.
///
/// # Errors
/// It cannot be read.
pub fn ends(file: &File, bytes: u64) -> io::Result<Ends> {
    let mut start = Lines::new(BufReader::new(Section::new(file, 0, bytes)));
    let (first, id) = match start.next_piece()? {
        Some(Piece::Line(line)) => (Edge::Number(line.number), line.metadata_id()),
        Some(Piece::Damaged(_)) => (Edge::Damaged, None),
        Some(Piece::Partial(_)) | None => (Edge::Nothing, None),
    };
    let mut ends = Ends {
        first,
        last: first,
        id,
        partial: bytes.saturating_sub(start.complete_bytes()),
    };
    if ends.first == Edge::Nothing || ends.partial == 0 {
        return Ok(ends);
    }
    for tail_bytes in [SHORT_TAIL_BYTES, LONG_TAIL_BYTES] {
        let at = bytes.saturating_sub(tail_bytes);
        let mut tail = Vec::new();
        Section::new(file, at, bytes).read_to_end(&mut tail)?;
        if let Some((last, partial)) = last_line(&tail, at == 0) {
            ends.last = last;
            ends.partial = partial;
            return Ok(ends);
        }
    }
    ends.last = Edge::Damaged;
    ends.partial = 0;
    Ok(ends)
}

/// The last complete line of `tail` and the bytes after it; `None` where the line begins before `tail`.
fn last_line(tail: &[u8], is_whole_file: bool) -> Option<(Edge, u64)> {
    let end = tail.iter().rposition(|byte| *byte == b'\n')?;
    let (before, after) = tail.split_at_checked(end)?;
    let partial = (after.len() as u64).saturating_sub(1);
    let start = match before.iter().rposition(|byte| *byte == b'\n') {
        Some(line_feed) => line_feed.saturating_add(1),
        None if is_whole_file => 0,
        None => return None,
    };
    let edge = before
        .get(start..)
        .filter(|line| line.len() <= LINE_BYTES_MAX)
        .and_then(|line| Line::parse(line).ok())
        .map_or(Edge::Damaged, |line| Edge::Number(line.number));
    Some((edge, partial))
}

/// A part of a file. Reading moves no offset that others share.
#[derive(Debug)]
pub struct Section<F> {
    file: F,
    at: u64,
    end: u64,
}

impl<F> Section<F> {
    /// The bytes from `at` to before `end`.
    pub fn new(file: F, at: u64, end: u64) -> Self {
        Self { file, at, end }
    }
}

impl<F: std::borrow::Borrow<File>> Read for Section<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let Some(buffer) = buffer.get_mut(..wanted) else {
            return Ok(0);
        };
        let bytes = self.file.borrow().read_at(buffer, self.at)?;
        self.at = self.at.saturating_add(bytes as u64);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn of(content: &[u8]) -> Ends {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        ends(&file, content.len() as u64).unwrap()
    }

    #[test]
    fn the_ends_are_those_that_reading_all_finds() {
        let long = format!("7: 1|A({})\n", "x".repeat(LINE_BYTES_MAX - 9));
        let longer = format!("7: 1|A({})\n", "x".repeat(LINE_BYTES_MAX + 9));
        for (content, first, last, partial) in [
            (String::new(), Edge::Nothing, Edge::Nothing, 0),
            ("5: 1|A".to_owned(), Edge::Nothing, Edge::Nothing, 6),
            ("5: 1|A()\n".to_owned(), Edge::Number(5), Edge::Number(5), 0),
            (
                "5: 1|A()\n6: 1|B()\n".to_owned(),
                Edge::Number(5),
                Edge::Number(6),
                0,
            ),
            (
                "5: 1|A()\n6: 1|B()\n7: 1".to_owned(),
                Edge::Number(5),
                Edge::Number(6),
                4,
            ),
            (
                "x\n6: 1|B()\ny\n7".to_owned(),
                Edge::Damaged,
                Edge::Damaged,
                1,
            ),
            (
                format!("5: 1|A()\n{long}8: 1|B"),
                Edge::Number(5),
                Edge::Number(7),
                6,
            ),
            (
                format!("5: 1|A()\n{longer}"),
                Edge::Number(5),
                Edge::Damaged,
                0,
            ),
        ] {
            let found = of(content.as_bytes());
            let shown = content.get(..30).unwrap_or(&content);
            assert_eq!((found.first, found.last), (first, last), "{shown}");
            assert_eq!(found.partial, partial, "{shown}");
        }
        assert_eq!(of(b"1: 17|SETMETAID(99)\n2: 17|A()\n").id, Some(99));
    }
}
