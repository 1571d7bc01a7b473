//! Reading one TOML table key by key, with every problem kept.
//!
//! A [`Section`] hands out each known key once and reports what is left over as unknown, so a key
//! cannot be accepted by accident and all mistakes of a file are reported together. What a value
//! means is not decided here.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The longest piece of a value that an error message repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// One mistake: where it is, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line and column, both from 1; `None` when the problem is something that is missing.
    pub position: Option<(usize, usize)>,
    /// Names the key, the value and what would be right.
    pub text: String,
}

/// The problems of one file, in the order in which they were found.
#[derive(Debug)]
pub(super) struct Problems<'t> {
    text: &'t str,
    found: RefCell<Vec<Problem>>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            found: RefCell::new(Vec::new()),
        }
    }

    pub(super) fn add_at(&self, offset: usize, text: String) {
        self.found.borrow_mut().push(Problem {
            position: Some(position(self.text, offset)),
            text,
        });
    }

    pub(super) fn add(&self, text: String) {
        self.found.borrow_mut().push(Problem {
            position: None,
            text,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// Yields the problems in the order of the file; what is missing comes last.
    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|problem| problem.position.unwrap_or((usize::MAX, 0)));
        found
    }
}

/// Line and column, both from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    let column = before
        .get(line_start..)
        .map_or(0, |rest| rest.chars().count())
        + 1;
    (line, column)
}

/// Why a value was refused.
pub(super) enum Refusal {
    /// It is not what the key holds; the message says what the key holds.
    Unexpected,
    /// It looks right but cannot be used, for this reason.
    Because(String),
}

/// A value, with the place to blame if it does not fit with the others.
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) offset: usize,
}

/// The elements of an array that were not refused.
pub(super) struct List<T> {
    pub(super) value: Vec<Placed<T>>,
    pub(super) offset: usize,
    /// Elements in the file, refused ones included.
    pub(super) count: usize,
}

/// A TOML table that is being read.
pub(super) struct Section<'t, 'p> {
    problems: &'p Problems<'p>,
    /// As in `[name]`; empty for the keys above the first table.
    name: &'static str,
    table: Option<&'t DeTable<'t>>,
    taken: Vec<&'static str>,
}

impl<'t, 'p> Section<'t, 'p> {
    pub(super) fn root(table: &'t DeTable<'t>, problems: &'p Problems<'p>) -> Self {
        Self {
            problems,
            name: "",
            table: Some(table),
            taken: Vec::new(),
        }
    }

    /// Opens `[name]`; a missing table reads like an empty one.
    pub(super) fn table(&mut self, name: &'static str) -> Self {
        let table = self.find(name).and_then(|value| {
            if let DeValue::Table(table) = value.get_ref() {
                return Some(table);
            }
            self.problems.add_at(
                value.span().start,
                format!(
                    "`{name}` is {}: expected a table, written as [{name}]",
                    Shown(value)
                ),
            );
            None
        });
        Self {
            problems: self.problems,
            name,
            table,
            taken: Vec::new(),
        }
    }

    /// Says whether the table stands in the file.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Opens each table of the array of tables `key`; messages call them `path`.
    pub(super) fn tables(&mut self, key: &'static str, path: &'static str) -> Vec<Placed<Self>> {
        let Some(list) = self.find(key) else {
            return Vec::new();
        };
        let elements = if let DeValue::Array(elements) = list.get_ref() {
            elements.iter().collect()
        } else {
            vec![list]
        };
        let mut tables = Vec::new();
        for element in elements {
            let offset = element.span().start;
            let DeValue::Table(table) = element.get_ref() else {
                self.problems.add_at(
                    offset,
                    format!(
                        "`{path}` is {}: expected tables, each written as [[{path}]]",
                        Shown(element)
                    ),
                );
                continue;
            };
            let value = Self {
                problems: self.problems,
                name: path,
                table: Some(table),
                taken: Vec::new(),
            };
            tables.push(Placed { value, offset });
        }
        tables
    }

    /// Takes the value of `key`; `None` when it is missing or was refused (then with a problem).
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Refusal>,
    ) -> Option<Placed<T>> {
        let value = self.find(key)?;
        let offset = value.span().start;
        let path = self.path(key);
        match parse(value.get_ref()) {
            Ok(value) => Some(Placed { value, offset }),
            Err(Refusal::Unexpected) => {
                self.problems.add_at(
                    offset,
                    format!("`{path}` is {}: expected {expected}", Shown(value)),
                );
                None
            }
            Err(Refusal::Because(reason)) => {
                self.problems
                    .add_at(offset, format!("`{path}` is {}: {reason}", Shown(value)));
                None
            }
        }
    }

    /// As [`Self::take`], and a missing key is a problem too.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Refusal>,
    ) -> Option<Placed<T>> {
        if self.find(key).is_none() {
            self.problems.add(format!(
                "`{}` is missing: it must be {expected}",
                self.path(key)
            ));
            return None;
        }
        self.take(key, expected, parse)
    }

    /// Takes an array and parses each element; the elements that were refused are left out.
    pub(super) fn take_list<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Refusal>,
    ) -> Option<List<T>> {
        let path = self.path(key);
        let list = self.find(key)?;
        let DeValue::Array(elements) = list.get_ref() else {
            self.problems.add_at(
                list.span().start,
                format!(
                    "`{path}` is {}: expected an array, each element {expected}",
                    Shown(list)
                ),
            );
            return None;
        };
        let mut parsed = Vec::new();
        for (index, element) in elements.iter().enumerate() {
            let offset = element.span().start;
            match parse(element.get_ref()) {
                Ok(value) => parsed.push(Placed { value, offset }),
                Err(refusal) => {
                    let reason = match refusal {
                        Refusal::Unexpected => format!("expected {expected}"),
                        Refusal::Because(reason) => reason,
                    };
                    self.problems.add_at(
                        offset,
                        format!("`{path}[{index}]` is {}: {reason}", Shown(element)),
                    );
                }
            }
        }
        Some(List {
            value: parsed,
            offset: list.span().start,
            count: elements.len(),
        })
    }

    /// Says whether the key stands in the table, whatever its value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.place(key).is_some()
    }

    /// Where the key stands.
    pub(super) fn place(&self, key: &str) -> Option<usize> {
        let (name, _) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(name.span().start)
    }

    /// Lets the key pass unread: something else was said about it.
    pub(super) fn skip(&mut self, key: &'static str) {
        self.taken.push(key);
    }

    /// Reports every key that nobody took; `explain` says what the writer may have meant.
    pub(super) fn finish(self, explain: impl Fn(&str, &str) -> String) {
        for key in self.table.iter().flat_map(|table| table.keys()) {
            let name: &str = key.get_ref();
            if !self.taken.contains(&name) {
                self.problems.add_at(
                    key.span().start,
                    format!(
                        "unknown key `{}`: {}",
                        self.path(name),
                        explain(self.name, name)
                    ),
                );
            }
        }
    }

    fn find(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        if !self.taken.contains(&key) {
            self.taken.push(key);
        }
        let (_, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(value)
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Refusal> {
    match value {
        DeValue::Boolean(value) => Ok(*value),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => Err(Refusal::Unexpected),
    }
}

/// A whole number of any base that TOML knows, within `range`.
pub(super) fn integer<T: TryFrom<u64>>(
    value: &DeValue<'_>,
    range: RangeInclusive<u64>,
) -> Result<T, Refusal> {
    let DeValue::Integer(digits) = value else {
        return Err(Refusal::Unexpected);
    };
    u64::from_str_radix(digits.as_str(), digits.radix())
        .ok()
        .filter(|number| range.contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or(Refusal::Unexpected)
}

/// A text without NUL, which neither a path nor an argument of a program can carry.
pub(super) fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Refusal> {
    let DeValue::String(text) = value else {
        return Err(Refusal::Unexpected);
    };
    if text.contains('\0') {
        return Err(Refusal::Because(
            "it contains a NUL character; remove it".to_owned(),
        ));
    }
    Ok(text)
}

/// A value as an error message repeats it.
struct Shown<'v>(&'v Spanned<DeValue<'v>>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get_ref() {
            DeValue::String(text) => {
                let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
                let cut = if shown.len() < text.len() { "…" } else { "" };
                write!(f, "{shown:?}{cut}")
            }
            DeValue::Integer(number) => write!(f, "{number}"),
            DeValue::Float(number) => write!(f, "{number}"),
            DeValue::Boolean(value) => write!(f, "{value}"),
            DeValue::Datetime(value) => write!(f, "the date {value}"),
            DeValue::Array(_) => f.write_str("an array"),
            DeValue::Table(_) => f.write_str("a table"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::position;

    #[test]
    fn position_counts_characters_from_one() {
        let text = "a = 1\nümlaut = 2\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, text.find("1").unwrap()), (1, 5));
        assert_eq!(position(text, text.find("2").unwrap()), (2, 10));
        assert_eq!(position(text, text.len()), (3, 1));
    }

    #[test]
    fn position_survives_an_offset_outside_the_text() {
        assert_eq!(position("a\nb", 1000), (2, 2));
    }
}
