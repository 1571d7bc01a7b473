//! Reads what the machine says. Whatever is missing in it is a failure.

use crate::counting::Tally;

/// Begins the lines of the script between those of the tests.
pub(super) const MARKER: &str = "@@ vmtest:";

/// What the machine has said so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    release: Option<String>,
    programs: Vec<Program>,
    /// What the script could not do, and lines that it does not write.
    complaints: Vec<String>,
    is_complete: bool,
}

#[derive(Debug)]
struct Program {
    name: String,
    tally: Tally,
    /// None while it runs.
    exit_code: Option<String>,
}

impl Report {
    /// Takes the next line, with or without the carriage return of a terminal.
    pub(super) fn read(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(tally) = Tally::from_line(line) {
            match self.programs.last_mut() {
                Some(program) if program.exit_code.is_none() => {
                    program.tally = program.tally.plus(tally);
                }
                _ => self.complaints.push(format!("outside a program: {line}")),
            }
        }
        let Some(said) = line.strip_prefix(MARKER) else {
            return;
        };
        let words: Vec<&str> = said.split_whitespace().collect();
        match words.as_slice() {
            ["kernel", release] if self.release.is_none() => {
                self.release = Some((*release).to_owned());
            }
            ["begin", name] => self.programs.push(Program {
                name: (*name).to_owned(),
                tally: Tally::default(),
                exit_code: None,
            }),
            ["end", name, code] => match self.programs.last_mut() {
                Some(program) if program.name == *name && program.exit_code.is_none() => {
                    program.exit_code = Some((*code).to_owned());
                }
                _ => self
                    .complaints
                    .push(format!("{name} ended and never began")),
            },
            ["done"] => self.is_complete = true,
            _ => self.complaints.push(said.trim().to_owned()),
        }
    }

    /// Notes something else that went wrong.
    pub(super) fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    /// The sum over all programs.
    pub(super) fn tally(&self) -> Tally {
        let tallies = self.programs.iter().map(|program| program.tally);
        tallies.fold(Tally::default(), Tally::plus)
    }

    /// Whether the script came to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Returns everything that was not as it must be: this kernel, and these programs with nothing but
    /// passed tests.
    pub(super) fn problems(&self, release: &str, programs: &[&str]) -> Vec<String> {
        let mut problems = self.complaints.clone();
        if self.release.as_deref() != Some(release) {
            let found = self.release.as_deref().unwrap_or("no kernel at all");
            problems.push(format!("not {release} ran but {found}"));
        }
        for name in programs {
            let runs: Vec<_> = self
                .programs
                .iter()
                .filter(|run| run.name == *name)
                .collect();
            match runs.as_slice() {
                [] => problems.push(format!("{name} did not run")),
                [run] => problems.extend(run.problem()),
                more => problems.push(format!("{name} ran {} times", more.len())),
            }
        }
        if !self.is_complete {
            problems.push("the machine ended before the tests did".to_owned());
        }
        problems
    }
}

impl Program {
    fn problem(&self) -> Option<String> {
        let name = &self.name;
        let Tally {
            passed,
            failed,
            ignored,
            ..
        } = self.tally;
        match self.exit_code.as_deref() {
            None => Some(format!("{name} did not end")),
            Some("0") if failed + ignored > 0 => {
                Some(format!("{name}: {failed} tests failed, {ignored} ignored"))
            }
            Some("0") if passed == 0 => Some(format!("{name} ran no test at all")),
            Some("0") => None,
            Some(code) => Some(format!("{name}: {failed} tests failed, exit code {code}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASE: &str = "6.1.0-56-amd64";
    const GOOD: &str = "@@ vmtest: kernel 6.1.0-56-amd64\n\
        @@ vmtest: begin one\nrunning 2 tests\n\
        test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n\
        @@ vmtest: end one 0\n\
        @@ vmtest: begin two\r\n\
        test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\r\n\
        @@ vmtest: end two 0\r\n\
        @@ vmtest: done\n";

    fn read(text: &str) -> Report {
        let mut report = Report::default();
        text.split('\n').for_each(|line| report.read(line));
        report
    }

    fn problems(text: &str) -> Vec<String> {
        read(text).problems(RELEASE, &["one", "two"])
    }

    #[test]
    fn whole_report_has_no_problem() {
        assert_eq!(problems(GOOD), Vec::<String>::new());
        let expected = Tally {
            passed: 3,
            ..Tally::default()
        };
        assert_eq!(read(GOOD).tally(), expected);
    }

    #[test]
    fn every_line_that_is_missing_is_a_problem() {
        let counted = |line: &&str| line.starts_with("@@") || line.starts_with("test result");
        for left_out in GOOD.lines().filter(counted) {
            let text: String = (GOOD.lines())
                .filter(|line| *line != left_out)
                .map(|line| format!("{line}\n"))
                .collect();
            assert!(!problems(&text).is_empty(), "without {left_out}");
        }
        assert!(!problems("").is_empty());
    }

    #[test]
    fn failures_are_told_with_their_program() {
        let one = "test result: ok. 2 passed; 0 failed; 0 ignored";
        for (from, to, says) in [
            (
                "end one 0",
                "end one 139",
                "one: 0 tests failed, exit code 139",
            ),
            (
                one,
                "test result: FAILED. 1 passed; 1 failed; 0 ignored",
                "one: 1 tests failed, 0 ignored",
            ),
            (
                one,
                "test result: ok. 1 passed; 0 failed; 1 ignored",
                "one: 0 tests failed, 1 ignored",
            ),
            (
                one,
                "test result: ok. 0 passed; 0 failed; 0 ignored",
                "one ran no test at all",
            ),
            (RELEASE, "6.18.44", "not 6.1.0-56-amd64 ran but 6.18.44"),
            (
                "begin two",
                "failed insmod x.ko\n@@ vmtest: begin two",
                "failed insmod x.ko",
            ),
            ("done", "done\n@@ vmtest: begin one", "one ran 2 times"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_eq!(problems(&text), [says], "{text}");
        }
    }

    #[test]
    fn result_outside_a_program_is_a_problem() {
        let stray = "test result: ok. 9 passed; 0 failed; 0 ignored\n";
        assert_eq!(problems(&format!("{GOOD}{stray}")).len(), 1);
        assert_eq!(read(stray).tally().passed, 0);
    }
}
