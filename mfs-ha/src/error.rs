//! Errors as people read them.

use std::error::Error;

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Some libraries repeat the cause in the error.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::chain;
    use crate::config::ConfigError;

    #[test]
    fn an_error_is_told_with_its_causes() {
        let error = ConfigError::Read {
            path: "/x".into(),
            source: io::Error::other("the disk is gone"),
        };
        assert_eq!(
            chain(&error),
            "cannot read the configuration /x: the disk is gone"
        );
    }
}
