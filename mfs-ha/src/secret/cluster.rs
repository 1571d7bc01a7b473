//! The cluster's secret, the key that is derived of it, and the cluster's number.

use std::fmt;
use std::path::Path;

use hkdf::Hkdf;
use nix::unistd::{Uid, geteuid};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, ZeroizeOnDrop};

use super::file::{self, SecretError, SecretFile};

/// As strong as the key that is derived of it, where it was drawn at random.
pub const CLUSTER_SECRET_BYTES_MIN: usize = 16;

/// Anything larger is a wrong file.
const BYTES_MAX: usize = 1024;

/// A full secret and its newline are one byte less: what fills the buffer is too long.
const BUFFER_BYTES: usize = BYTES_MAX + 2;

/// What the derivation is bound to, so that a secret that is used elsewhere too makes another key here.
const SALT: &[u8] = b"mfs-ha cluster";
const PURPOSE: &[u8] = b"SipHash-2-4-128 of heartbeats and adverts";

const CLUSTER_SECRET: SecretFile = SecretFile {
    name: "cluster secret",
    holds: "at least 16 bytes",
};

/// The key of the tags of heartbeats and adverts: HKDF-SHA256 of the secret.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct ClusterKey([u8; 16]);

impl ClusterKey {
    /// Takes the content of a secret file: one final newline does not belong to the secret.
    ///
    /// # Errors
    /// When what remains is too short or too long.
    pub fn parse(content: &[u8]) -> Result<Self, ClusterSecretError> {
        let secret = content.strip_suffix(b"\n").unwrap_or(content);
        if secret.len() < CLUSTER_SECRET_BYTES_MIN {
            return Err(ClusterSecretError::TooShort);
        }
        if secret.len() > BYTES_MAX {
            return Err(ClusterSecretError::TooLong);
        }
        let mut key = [0; 16];
        Hkdf::<Sha256>::new(Some(SALT), secret)
            .expand(PURPOSE, &mut key)
            .map_err(|_too_much| ClusterSecretError::TooLong)?;
        Ok(Self(key))
    }

    /// The bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

/// Why some bytes are no secret of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClusterSecretError {
    /// It could be guessed.
    #[error(
        "it is shorter than {CLUSTER_SECRET_BYTES_MIN} bytes: `head -c 24 /dev/urandom | base64` makes a \
         good one"
    )]
    TooShort,
    /// A wrong file.
    #[error("it is longer than {BYTES_MAX} bytes, so this cannot be the secret")]
    TooLong,
}

/// Reads the secret of a file that only its owner, root or us, can use, and derives the key.
///
/// # Errors
/// When the file cannot be read, when others could read or write it, or when it holds no secret.
pub fn read_cluster_secret_file(path: &Path) -> Result<ClusterKey, SecretError> {
    read_owned_by(path, geteuid())
}

fn read_owned_by(path: &Path, us: Uid) -> Result<ClusterKey, SecretError> {
    let mut buffer = [0; BUFFER_BYTES];
    let key = file::read(path, CLUSTER_SECRET, us, &mut buffer).and_then(|content| {
        ClusterKey::parse(content).map_err(|source| SecretError::Cluster {
            path: path.to_owned(),
            source,
        })
    });
    buffer.zeroize();
    key
}

/// The number that heartbeats carry: the first eight bytes of the SHA-256 of the cluster's name.
#[must_use]
pub fn cluster_id(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest
        .first_chunk::<8>()
        .map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(content: &[u8], mode: u32) -> Result<ClusterKey, SecretError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        read_cluster_secret_file(&path)
    }

    const SECRET: &[u8] = b"0123456789abcdef";

    /// Computed by Python's hmac module from RFC 5869, not by this code.
    const KEY: [u8; 16] = [
        0x21, 0x46, 0x13, 0xa5, 0xcc, 0xcf, 0x82, 0x66, 0xde, 0x5b, 0x7f, 0xc0, 0xe7, 0xba, 0xda,
        0xa8,
    ];

    #[test]
    fn the_key_is_what_another_implementation_derives() {
        assert_eq!(read(SECRET, 0o600).unwrap().as_bytes(), &KEY);
    }

    #[test]
    fn exactly_one_final_newline_does_not_count() {
        let key = |content: &[u8]| *read(content, 0o600).unwrap().as_bytes();
        assert_eq!(key(b"0123456789abcdef\n"), KEY);
        assert_ne!(key(b"0123456789abcdef\n\n"), KEY);
        assert_ne!(key(b"0123456789abcdef "), KEY);
    }

    #[test]
    fn what_is_too_short_or_too_long_is_refused() {
        for (content, expected) in [
            (&b""[..], ClusterSecretError::TooShort),
            (b"0123456789abcde\n", ClusterSecretError::TooShort),
            (&[b'x'; BYTES_MAX + 1], ClusterSecretError::TooLong),
            (&[b'x'; 10 * BYTES_MAX], ClusterSecretError::TooLong),
        ] {
            match read(content, 0o600) {
                Err(SecretError::Cluster { source, .. }) => assert_eq!(source, expected),
                other => panic!("{other:?}"),
            }
        }
        assert!(read(&[b'x'; BYTES_MAX], 0o600).is_ok());
    }

    #[test]
    fn a_file_that_others_can_use_is_refused_by_its_own_name() {
        let error = read(SECRET, 0o640).unwrap_err().to_string();
        assert!(
            error.starts_with("the cluster secret /") && error.contains("mode 0640"),
            "{error}"
        );
        let error = read_cluster_secret_file(Path::new("/nonexistent/c")).unwrap_err();
        assert!(error.to_string().contains("at least 16 bytes"), "{error}");
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(
            format!("{:?}", read(SECRET, 0o600).unwrap()),
            "ClusterKey(…)"
        );
    }

    #[test]
    fn a_cluster_is_known_by_the_digest_of_its_name() {
        // printf storage-a | sha256sum
        assert_eq!(cluster_id("storage-a"), 0x0bfd_2b35_4229_7916);
        assert_ne!(cluster_id("storage-a"), cluster_id("storage-b"));
    }
}
