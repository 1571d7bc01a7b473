//! What hooks print, line by line into the log, within limits of length and number.
//!
//! A process that a hook leaves running may hold the output open for ever. Nobody waits for that;
//! the reading goes on beside, so that writing does not kill such a process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Hook;

/// The rest of a longer line is left out.
const LINE_BYTES_MAX: usize = 1024;

/// So many lines at once, and then one each interval.
const LINES_AT_ONCE: u32 = 100;
const LINE_INTERVAL: Duration = Duration::from_millis(100);

/// What was printed before the end has long arrived within this time.
const DRAIN_MAX: Duration = Duration::from_millis(200);

/// Outputs of hooks that ended, held open by what they left running.
const LINGERING_MAX: usize = 8;

/// The readers of a hook's two outputs; they end when it is dropped.
#[derive(Debug)]
pub(super) struct Output {
    hook: Hook,
    readers: Vec<JoinHandle<()>>,
    budget: Arc<Mutex<Budget>>,
}

impl Output {
    pub(super) fn follow(
        hook: Hook,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
    ) -> Self {
        let budget = Arc::new(Mutex::new(Budget::new(Instant::now())));
        let mut readers = Vec::with_capacity(2);
        if let Some(stdout) = stdout {
            readers.push(tokio::spawn(log_lines(
                stdout,
                hook,
                "stdout",
                budget.clone(),
            )));
        }
        if let Some(stderr) = stderr {
            readers.push(tokio::spawn(log_lines(
                stderr,
                hook,
                "stderr",
                budget.clone(),
            )));
        }
        Self {
            hook,
            readers,
            budget,
        }
    }

    /// Nobody can write any more, and all was read.
    pub(super) fn is_closed(&self) -> bool {
        self.readers.iter().all(JoinHandle::is_finished)
    }

    /// Waits a moment for the end of the output, and tells what was left out so far.
    pub(super) async fn drained(mut self) -> Self {
        let all = async {
            for reader in &mut self.readers {
                // A reader that panicked has read what it has read.
                if let Err(error) = reader.await {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the output of a hook was lost"
                    );
                }
            }
        };
        if tokio::time::timeout(DRAIN_MAX, all).await.is_err() {
            tracing::debug!(hook = %self.hook, "the hook left processes that hold its output");
        }
        let left_out = lock(&self.budget).take_left_out();
        if left_out > 0 {
            tracing::warn!(hook = %self.hook, left_out, "the hook printed too many lines");
        }
        self
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.readers.iter().for_each(JoinHandle::abort);
    }
}

/// The outputs of ended hooks that are still held open, the newest few.
#[derive(Debug, Default)]
pub(super) struct Lingering(VecDeque<Output>);

impl Lingering {
    pub(super) fn keep(&mut self, output: Output) {
        self.0.retain(|output| !output.is_closed());
        if output.is_closed() {
            return;
        }
        if self.0.len() == LINGERING_MAX {
            self.0.pop_front();
        }
        self.0.push_back(output);
    }
}

/// How many lines may be logged.
#[derive(Debug)]
struct Budget {
    lines: u32,
    refilled_at: Instant,
    left_out: u64,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            lines: LINES_AT_ONCE,
            refilled_at: now,
            left_out: 0,
        }
    }

    /// Takes one line, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let intervals =
            now.saturating_duration_since(self.refilled_at).as_millis() / LINE_INTERVAL.as_millis();
        if intervals > 0 {
            let more = u32::try_from(intervals).unwrap_or(u32::MAX);
            self.lines = self.lines.saturating_add(more).min(LINES_AT_ONCE);
            self.refilled_at = now;
        }
        match self.lines.checked_sub(1) {
            Some(rest) => {
                self.lines = rest;
                true
            }
            None => {
                self.left_out += 1;
                false
            }
        }
    }

    fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

fn lock(budget: &Mutex<Budget>) -> std::sync::MutexGuard<'_, Budget> {
    // A budget is whole after every statement.
    budget.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn log_lines(
    mut from: impl AsyncRead + Unpin,
    hook: Hook,
    stream: &'static str,
    budget: Arc<Mutex<Budget>>,
) {
    let mut lines = Lines::default();
    let mut buffer = [0; 4096];
    let mut log = |line: &str| {
        if lock(&budget).take(Instant::now()) {
            tracing::info!(%hook, stream, line, "hook output");
        }
    };
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => lines.push(buffer.get(..length).unwrap_or(&[]), &mut log),
            Err(error) => {
                tracing::warn!(
                    %hook,
                    stream,
                    error = &error as &dyn std::error::Error,
                    "cannot read the hook's output"
                );
                break;
            }
        }
    }
    lines.end(&mut log);
}

/// Cuts bytes into lines of bounded length.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    too_long: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], log: &mut impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (content, ends) = match piece.strip_suffix(b"\n") {
                Some(content) => (content, true),
                None => (piece, false),
            };
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
            self.line.extend(content.iter().take(room));
            self.too_long |= content.len() > room;
            if ends {
                self.flush(log);
            }
        }
    }

    fn end(&mut self, log: &mut impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.flush(log);
        }
    }

    fn flush(&mut self, log: &mut impl FnMut(&str)) {
        let mut line = printable(&self.line);
        if self.too_long {
            line.push('…');
        }
        log(&line);
        self.line.clear();
        self.too_long = false;
    }
}

/// Text that cannot steer a terminal.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut printable = String::with_capacity(text.len());
    for character in text.trim_end_matches('\r').chars() {
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
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut found = Vec::new();
        let mut lines = Lines::default();
        let mut log = |line: &str| found.push(line.to_owned());
        for piece in pieces {
            lines.push(piece, &mut log);
        }
        lines.end(&mut log);
        found
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        assert_eq!(
            lines(&[b"one\ntw", b"o\n", b"\nend"]),
            ["one", "two", "", "end"]
        );
        assert_eq!(lines(&[b"a\r\n"]), ["a"]);
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn long_lines_are_cut_and_marked() {
        let long = vec![b'x'; 5000];
        let found = lines(&[&long, &long, b"\nnext\n"]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].chars().count(), LINE_BYTES_MAX + 1);
        assert!(found[0].ends_with("x…"));
        assert_eq!(found[1], "next");
        let exact = vec![b'x'; LINE_BYTES_MAX];
        assert!(!lines(&[&exact, b"\n"])[0].ends_with('…'));
    }

    #[test]
    fn what_steers_a_terminal_is_shown_and_not_done() {
        assert_eq!(
            lines(&[b"\x1b[31mred\x07\tx\xff\n"]),
            ["\\u{1b}[31mred\\u{7}\tx\u{fffd}"]
        );
    }

    #[test]
    fn the_budget_allows_a_burst_and_then_a_trickle() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let taken = (0..1000).filter(|_| budget.take(start)).count();
        assert_eq!(taken, 100);
        assert_eq!(budget.take_left_out(), 900);
        let later = start + Duration::from_millis(350);
        assert_eq!((0..10).filter(|_| budget.take(later)).count(), 3);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| budget.take(much_later)).count(), 100);
    }
}
