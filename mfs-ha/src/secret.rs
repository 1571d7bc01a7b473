//! The shared secrets: read from files that nobody else can read, wiped from memory when dropped.
//!
//! A secret is the file's bytes without exactly one final newline and without any other
//! trimming. All checks look at the opened file, so it cannot be exchanged between check and read.

mod cluster;
mod file;

use std::fmt;
use std::path::Path;

use nix::unistd::{Uid, geteuid};
use zeroize::{Zeroize, ZeroizeOnDrop};

pub use cluster::{
    CLUSTER_SECRET_BYTES_MIN, ClusterKey, ClusterSecretError, cluster_id, read_cluster_secret_file,
};
pub use file::{SecretError, SecretFile};

/// CARP keys its HMAC with a zero-terminated string in 20 bytes.
pub const PASSWORD_BYTES_MAX: usize = 19;

/// A full password and its newline are one byte less: what fills the buffer is too long.
const BUFFER_BYTES: usize = PASSWORD_BYTES_MAX + 2;

const PASSWORD_FILE: SecretFile = SecretFile {
    name: "password file",
    holds: "1 to 19 bytes",
};

/// The key of the adverts' HMAC, 1 to 19 bytes without NUL.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    bytes: [u8; PASSWORD_BYTES_MAX],
    length: usize,
}

impl Password {
    /// Takes the content of a password file: one final newline does not belong to the password.
    ///
    /// # Errors
    /// When what remains cannot be a CARP password.
    pub fn parse(content: &[u8]) -> Result<Self, PasswordError> {
        let password = content.strip_suffix(b"\n").unwrap_or(content);
        if password.is_empty() {
            return Err(PasswordError::Empty);
        }
        if password.contains(&0) {
            return Err(PasswordError::Nul);
        }
        let mut bytes = [0; PASSWORD_BYTES_MAX];
        bytes
            .get_mut(..password.len())
            .ok_or(PasswordError::TooLong)?
            .copy_from_slice(password);
        Ok(Self {
            bytes,
            length: password.len(),
        })
    }

    /// The bytes that key the HMAC.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }

    /// What is legal here and yet probably not what was meant.
    pub fn warnings(&self) -> Vec<PasswordWarning> {
        let bytes = self.as_bytes();
        let mut warnings = Vec::new();
        if bytes.ends_with(b"\r") {
            warnings.push(PasswordWarning::EndsInCr);
        }
        if bytes.contains(&b'\n') {
            warnings.push(PasswordWarning::SeveralLines);
        }
        if bytes.starts_with(b" ") || bytes.ends_with(b" ") {
            warnings.push(PasswordWarning::Blank);
        }
        warnings
    }
}

impl Zeroize for Password {
    fn zeroize(&mut self) {
        self.bytes.zeroize();
        self.length.zeroize();
    }
}

impl Drop for Password {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl ZeroizeOnDrop for Password {}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Why some bytes are no password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Nothing but perhaps a newline.
    #[error("it is empty: write 1 to {PASSWORD_BYTES_MAX} bytes into it")]
    Empty,
    /// More than fits into CARP's key.
    #[error("it is longer than {PASSWORD_BYTES_MAX} bytes, which is all that CARP can use")]
    TooLong,
    /// Other implementations end the key at a NUL.
    #[error("it contains a NUL byte, where other CARP implementations end the password")]
    Nul,
}

/// A doubt about a password that is legal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordWarning {
    /// The file was written with DOS line ends.
    EndsInCr,
    /// ucarp reads the first line only.
    SeveralLines,
    /// Begins or ends with a blank.
    Blank,
}

impl fmt::Display for PasswordWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndsInCr => {
                "the password ends in CR (a DOS line end?): ucarp keeps it too, so all nodes need it"
            }
            Self::SeveralLines => {
                "the password contains a newline: ucarp would use only its first line"
            }
            Self::Blank => "the password begins or ends with a blank, which belongs to it",
        })
    }
}

/// Reads the password of a file that only its owner, root or us, can use.
///
/// # Errors
/// When the file cannot be read, when others could read or write it, or when it holds no password.
pub fn read_password_file(path: &Path) -> Result<Password, SecretError> {
    read_owned_by(path, geteuid())
}

fn read_owned_by(path: &Path, us: Uid) -> Result<Password, SecretError> {
    let mut buffer = [0; BUFFER_BYTES];
    let password = file::read(path, PASSWORD_FILE, us, &mut buffer).and_then(|content| {
        Password::parse(content).map_err(|source| SecretError::Password {
            path: path.to_owned(),
            source,
        })
    });
    buffer.zeroize();
    password
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;

    use super::*;

    fn file_with(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("carp.secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    fn read(content: &[u8]) -> Result<Password, SecretError> {
        let (_directory, path) = file_with(content, 0o600);
        read_password_file(&path)
    }

    #[test]
    fn exactly_one_final_newline_is_removed() {
        for (content, password) in [
            (&b"secret"[..], &b"secret"[..]),
            (b"secret\n", b"secret"),
            (b"secret\n\n", b"secret\n"),
            (b"secret\r\n", b"secret\r"),
            (b" secret ", b" secret "),
            (b"\n\n", b"\n"),
            (b"1234567890123456789", b"1234567890123456789"),
            (b"1234567890123456789\n", b"1234567890123456789"),
            ("pässwörd\n".as_bytes(), "pässwörd".as_bytes()),
            (b"\xff\xfe", b"\xff\xfe"),
        ] {
            assert_eq!(read(content).unwrap().as_bytes(), password, "{content:?}");
        }
    }

    #[test]
    fn bytes_that_cannot_be_a_password_are_refused() {
        for (content, expected) in [
            (&b""[..], PasswordError::Empty),
            (b"\n", PasswordError::Empty),
            (b"12345678901234567890", PasswordError::TooLong),
            (b"12345678901234567890\n", PasswordError::TooLong),
            (b"1234567890123456789\n\n", PasswordError::TooLong),
            (&[b'x'; 10_000], PasswordError::TooLong),
            (b"sec\0ret", PasswordError::Nul),
            (b"secret\0", PasswordError::Nul),
        ] {
            match read(content) {
                Err(SecretError::Password { source, .. }) => {
                    assert_eq!(source, expected, "{content:?}");
                }
                other => panic!("{content:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn doubts_are_told_and_do_not_refuse() {
        assert_eq!(
            read(b"secret\r\n").unwrap().warnings(),
            [PasswordWarning::EndsInCr]
        );
        assert_eq!(
            read(b"one\ntwo\n").unwrap().warnings(),
            [PasswordWarning::SeveralLines]
        );
        assert_eq!(
            read(b"secret \n").unwrap().warnings(),
            [PasswordWarning::Blank]
        );
        assert_eq!(read(b"secret\n").unwrap().warnings(), []);
        assert!(
            PasswordWarning::EndsInCr
                .to_string()
                .contains("ucarp keeps it too")
        );
    }

    #[test]
    fn a_file_that_others_can_use_is_refused_with_the_command_that_helps() {
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o777, 0o644] {
            let (_directory, path) = file_with(b"secret\n", mode);
            let error = read_password_file(&path).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&format!("mode {mode:04o}")), "{text}");
            assert!(
                text.ends_with(&format!("chmod 0600 {}", path.display())),
                "{text}"
            );
            assert!(!text.contains("secret\n"), "{text}");
        }
        for mode in [0o600, 0o400, 0o700] {
            let (_directory, path) = file_with(b"secret\n", mode);
            assert!(read_password_file(&path).is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn only_root_and_we_may_own_it() {
        let (_directory, path) = file_with(b"secret\n", 0o600);
        let owner = fs::metadata(&path).unwrap().uid();
        if owner == 0 {
            assert!(
                read_owned_by(&path, Uid::from_raw(4242)).is_ok(),
                "root may own it"
            );
            std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
            assert!(
                read_owned_by(&path, Uid::from_raw(4242)).is_ok(),
                "we may own it"
            );
        }
        let error = read_owned_by(&path, Uid::from_raw(4243)).unwrap_err();
        assert!(
            matches!(error, SecretError::ForeignOwner { us: 4243, .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("chown 4243"), "{error}");
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [directory.path(), &pipe, Path::new("/dev/null")] {
            let error = read_password_file(path).unwrap_err();
            assert!(matches!(error, SecretError::NotRegular { .. }), "{error:?}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_password_file(Path::new("/nonexistent/carp.secret")).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/carp.secret"),
            "{error}"
        );
    }

    #[test]
    fn debug_shows_nothing() {
        let shown = format!("{:?}", read(b"hunter2").unwrap());
        assert_eq!(shown, "Password(…)");
    }

    #[test]
    fn zeroize_wipes_the_bytes() {
        let mut password = read(b"hunter2").unwrap();
        password.zeroize();
        assert_eq!(password.bytes, [0; PASSWORD_BYTES_MAX]);
        assert_eq!(password.as_bytes(), b"");
    }
}
