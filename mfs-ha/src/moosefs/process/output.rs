//! What a program prints: into the log within limits, and the last lines kept for error messages.
//!
//! A program that goes on without us must not be held up by its output. mfsmaster ignores that
//! nobody reads any more, but it hangs in the middle of its work when a pipe is full. Its end of
//! the pipe therefore does not block: what does not fit is lost.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::{self, Receiver};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// The rest of a longer line is left out.
const LINE_BYTES_MAX: usize = 1024;

/// Lines that are kept.
const TAIL_LINES: usize = 20;

/// So many lines at once go into the log, and then one each interval. The start of mfsmaster alone
/// prints about 60.
const LINES_AT_ONCE: u32 = 200;
const LINE_INTERVAL: Duration = Duration::from_millis(100);

/// What was printed before the end has long arrived within this time.
const DRAIN_MAX: Duration = Duration::from_millis(200);

/// How the program's end of the pipe behaves when nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::moosefs) enum WhenFull {
    /// The program goes on, lines are lost.
    Lose,
    /// The program waits: what most programs expect.
    Wait,
}

/// Makes a pipe: its writing end for the program, its reading end for [`Output::follow`].
pub(in crate::moosefs) fn pipe(when_full: WhenFull) -> io::Result<(OwnedFd, Receiver)> {
    let (sender, receiver) = pipe::pipe()?;
    let writing = match when_full {
        WhenFull::Lose => sender.into_nonblocking_fd()?,
        WhenFull::Wait => sender.into_blocking_fd()?,
    };
    Ok((writing, receiver))
}

/// The reader of a program's output; it stops reading when dropped.
#[derive(Debug)]
pub(in crate::moosefs) struct Output {
    tail: Arc<Mutex<Tail>>,
    reader: JoinHandle<()>,
}

impl Output {
    /// Reads on beside until everybody has closed the writing end.
    pub(in crate::moosefs) fn follow(receiver: Receiver, program: String) -> Self {
        let tail = Arc::new(Mutex::new(Tail::new(Instant::now())));
        let reader = tokio::spawn(read(receiver, program, tail.clone()));
        Self { tail, reader }
    }

    /// The last lines, oldest first.
    pub(in crate::moosefs) fn last_lines(&self) -> Vec<String> {
        lock(&self.tail).lines.iter().cloned().collect()
    }

    /// Nobody can write any more, and all was read.
    pub(in crate::moosefs) fn is_closed(&self) -> bool {
        self.reader.is_finished()
    }

    /// Waits a moment for the rest of what a program has written that has ended.
    pub(in crate::moosefs) async fn drained(&mut self) {
        if !self.reader.is_finished() && timeout(DRAIN_MAX, &mut self.reader).await.is_err() {
            tracing::debug!("what a program left running holds its output");
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(mut receiver: Receiver, program: String, tail: Arc<Mutex<Tail>>) {
    let mut lines = Lines::default();
    let mut buffer = [0; 4096];
    let mut take = |line: &str| {
        let verdict = lock(&tail).take(line, Instant::now());
        match verdict {
            Verdict::Log => tracing::info!(program, line, "output"),
            Verdict::LogAfter(left_out) => {
                tracing::warn!(program, left_out, "the program prints too many lines");
                tracing::info!(program, line, "output");
            }
            Verdict::Skip => {}
        }
    };
    loop {
        match receiver.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => lines.push(buffer.get(..length).unwrap_or_default(), &mut take),
            Err(error) => {
                tracing::warn!(
                    program,
                    error = &error as &dyn std::error::Error,
                    "cannot read the output"
                );
                break;
            }
        }
    }
    lines.end(&mut take);
}

fn lock(tail: &Mutex<Tail>) -> MutexGuard<'_, Tail> {
    // It is whole after every statement.
    tail.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What becomes of a line in the log.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Log,
    /// So many were left out before.
    LogAfter(u64),
    Skip,
}

/// The last lines, and how many more may be logged.
#[derive(Debug)]
struct Tail {
    lines: VecDeque<String>,
    budget: u32,
    refilled_at: Instant,
    left_out: u64,
}

impl Tail {
    fn new(now: Instant) -> Self {
        Self {
            lines: VecDeque::with_capacity(TAIL_LINES),
            budget: LINES_AT_ONCE,
            refilled_at: now,
            left_out: 0,
        }
    }

    fn take(&mut self, line: &str, now: Instant) -> Verdict {
        let line = without_ident(line);
        // In the foreground MooseFS prints each message twice: for syslog, and for the terminal.
        if self.lines.back().is_some_and(|last| last == line) {
            return Verdict::Skip;
        }
        // What mfsmaster does after an error would push the error out.
        if !line.starts_with("cleaning ") {
            if self.lines.len() == TAIL_LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(line.to_owned());
        }
        let intervals =
            now.saturating_duration_since(self.refilled_at).as_millis() / LINE_INTERVAL.as_millis();
        if intervals > 0 {
            let more = u32::try_from(intervals).unwrap_or(u32::MAX);
            self.budget = self.budget.saturating_add(more).min(LINES_AT_ONCE);
            self.refilled_at = now;
        }
        let Some(rest) = self.budget.checked_sub(1) else {
            self.left_out += 1;
            return Verdict::Skip;
        };
        self.budget = rest;
        match std::mem::take(&mut self.left_out) {
            0 => Verdict::Log,
            left_out => Verdict::LogAfter(left_out),
        }
    }
}

/// The message behind `NAME[PID]: `.
fn without_ident(line: &str) -> &str {
    let Some((ident, message)) = line.split_once("]: ") else {
        return line;
    };
    match ident.split_once('[') {
        Some((name, pid))
            if !name.contains(' ') && pid.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            message
        }
        Some(_) | None => line,
    }
}

/// Cuts bytes into lines of bounded length.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    too_long: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], take: &mut impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let content = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
            self.line.extend(content.iter().take(room));
            self.too_long |= content.len() > room;
            if content.len() < piece.len() {
                self.flush(take);
            }
        }
    }

    fn end(&mut self, take: &mut impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.flush(take);
        }
    }

    fn flush(&mut self, take: &mut impl FnMut(&str)) {
        let mut line = printable(&self.line);
        if self.too_long {
            line.push('…');
        }
        take(&line);
        self.line.clear();
        self.too_long = false;
    }
}

/// Text that cannot steer a terminal.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut printable = String::with_capacity(text.len());
    for character in text.trim_end().chars() {
        if character.is_control() && character != '\t' {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn lines_are_kept_and_a_message_counts_once() {
        let (writing, receiver) = pipe(WhenFull::Wait).unwrap();
        let mut output = Output::follow(receiver, "test".to_owned());
        let mut file = File::from(writing);
        file.write_all(b"first\nmfsmaster[77]: can't\x1b[1m\ncan't\x1b[1m\ncleaning x\nhalf")
            .unwrap();
        drop(file);
        output.drained().await;
        assert!(output.is_closed());
        assert_eq!(output.last_lines(), ["first", "can't\\u{1b}[1m", "half"]);
    }

    #[tokio::test]
    async fn the_last_lines_are_few_and_short() {
        let (writing, receiver) = pipe(WhenFull::Wait).unwrap();
        let mut output = Output::follow(receiver, "test".to_owned());
        let writer = std::thread::spawn(move || {
            let mut file = File::from(writing);
            for number in 0..500 {
                writeln!(file, "{number} {}", "x".repeat(5000)).unwrap();
            }
        });
        while !output.is_closed() {
            output.drained().await;
        }
        writer.join().unwrap();
        let lines = output.last_lines();
        assert_eq!(lines.len(), TAIL_LINES);
        assert!(lines[0].starts_with("480 x") && lines[0].ends_with("x…"));
        assert_eq!(lines[0].chars().count(), LINE_BYTES_MAX + 1);
    }

    #[tokio::test]
    async fn a_program_is_not_held_up_by_a_full_pipe() {
        let (writing, _receiver) = pipe(WhenFull::Lose).unwrap();
        let mut file = File::from(writing);
        let full = (0..10_000).find_map(|_| file.write_all(&[b'x'; 4096]).err());
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_log_gets_a_burst_and_then_a_trickle() {
        let start = Instant::now();
        let mut tail = Tail::new(start);
        let mut number = 0;
        let mut logged = |tail: &mut Tail, count: u32, now| {
            let verdicts = (0..count).map(|_| {
                number += 1;
                tail.take(&number.to_string(), now)
            });
            verdicts.filter(|verdict| *verdict != Verdict::Skip).count()
        };
        assert_eq!(logged(&mut tail, 1000, start), 200);
        let later = start + Duration::from_millis(350);
        assert_eq!(logged(&mut tail, 10, later), 3);
        assert_eq!(tail.left_out, 7);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(tail.take("next", much_later), Verdict::LogAfter(7));
    }

    #[test]
    fn only_the_ident_of_syslog_is_taken_off() {
        assert_eq!(without_ident("mfsmaster[77]: text"), "text");
        for line in ["text", "a b[7]: x", "x[y]: z", "changelog_ml.0.mfs: [7]: x"] {
            assert_eq!(without_ident(line), line);
        }
    }
}
