//! Enough of Rust's lexical grammar to tell code from comments and literals.

/// Replaces comments and the inside of literals by spaces, so that what is left is code only.
///
/// Line breaks stay where they are: line numbers keep their meaning.
pub(super) fn code_only(text: &str) -> String {
    let mut lexer = Lexer {
        rest: text,
        code: String::with_capacity(text.len()),
    };
    while !lexer.rest.is_empty() {
        lexer.step();
    }
    lexer.code
}

struct Lexer<'a> {
    rest: &'a str,
    code: String,
}

impl Lexer<'_> {
    fn step(&mut self) {
        if self.rest.starts_with("//") {
            self.blank(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.blank(block_comment(self.rest));
        } else if let Some(length) = raw_string(self.rest).filter(|_| !self.is_inside_word()) {
            self.blank(length);
        } else if self.rest.starts_with('"') {
            self.blank(quoted(self.rest, '"'));
        } else if is_char_literal(self.rest) {
            self.blank(quoted(self.rest, '\''));
        } else {
            let length = self.rest.chars().next().map_or(0, char::len_utf8);
            let (kept, rest) = self.rest.split_at(length);
            self.code.push_str(kept);
            self.rest = rest;
        }
    }

    fn blank(&mut self, length: usize) {
        let (blanked, rest) = self.rest.split_at(length);
        self.code
            .extend(blanked.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        self.rest = rest;
    }

    /// The `r` of `for"` is not the start of a raw string.
    fn is_inside_word(&self) -> bool {
        self.code.chars().next_back().is_some_and(is_word)
    }
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_u32;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a raw string literal of any kind, when the text starts with one.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r"]
        .into_iter()
        .find(|prefix| text.starts_with(prefix))?;
    let after = text.get(prefix.len()..)?;
    let hashes = after.chars().take_while(|&c| c == '#').count();
    let body = after.get(hashes..)?.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let body_length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(prefix.len() + hashes + 1 + body_length)
}

/// The length of a literal with escapes, both quotes included.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_char_literal(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next() == Some('\'')
        && match chars.next() {
            Some('\\') => true,
            Some(_) => chars.next() == Some('\''),
            None => false,
        }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The lines, counted from 1, on which a whole word stands, once for each time.
pub(super) fn lines_with_word(code: &str, word: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for (index, line) in code.lines().enumerate() {
        for (at, _) in line.match_indices(word) {
            let before = line.get(..at).and_then(|text| text.chars().next_back());
            let after = line
                .get(at + word.len()..)
                .and_then(|text| text.chars().next());
            if !before.is_some_and(is_word) && !after.is_some_and(is_word) {
                lines.push(index + 1);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        for (text, expected) in [
            ("a // b", "a     "),
            ("a /* b /* c */ d */ e", "a                   e"),
            ("a(\"b\\\"c\")", "a(      )"),
            ("r\"b\" x", "     x"),
            ("br#\"b\"c\"# x", "          x"),
            ("for\"b\"", "for   "),
            ("'b' 'c x", "    'c x"),
            ("'\\'' x", "     x"),
            ("\"//\" x", "     x"),
            ("// \"\nx \"y\"", "    \nx    "),
            ("\"never closed", "             "),
            ("/* never closed", "               "),
            ("r#ident", "r#ident"),
        ] {
            assert_eq!(code_only(text), expected, "{text:?}");
        }
    }

    #[test]
    fn line_numbers_survive() {
        let code = code_only("/* 1\n2 */ word\n\"3\n4\" word");
        assert_eq!(lines_with_word(&code, "word"), [2, 4]);
    }

    #[test]
    fn only_whole_words_count() {
        let code = "unsafe_code\nunsafe { unsafe }\nx_unsafe\n#[unsafe(no_mangle)]";
        assert_eq!(lines_with_word(code, "unsafe"), [2, 2, 4]);
    }
}
