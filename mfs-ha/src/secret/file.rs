//! Reading a file that only its owner, root or we ourselves, can use.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use super::{ClusterSecretError, PasswordError};

/// What a file is for, as messages call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretFile {
    /// Such as "password file".
    pub name: &'static str,
    /// How much has to be in it.
    pub holds: &'static str,
}

/// Why a file with a secret cannot be used. No variant carries any of its content.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be opened or read.
    #[error("cannot read the {} {}, which has to hold {}", what.name, path.display(), what.holds)]
    Read {
        /// What it is for.
        what: SecretFile,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, device, pipe or socket.
    #[error(
        "the {} {} is not a regular file: put {} into one",
        what.name,
        path.display(),
        what.holds
    )]
    NotRegular {
        /// What it is for.
        what: SecretFile,
        /// The file.
        path: PathBuf,
    },
    /// Somebody who is neither root nor we ourselves could change it.
    #[error(
        "the {1} {0} belongs to user {owner}: chown {us} {0}",
        path.display(),
        what.name
    )]
    ForeignOwner {
        /// What it is for.
        what: SecretFile,
        /// The file.
        path: PathBuf,
        /// Its user id.
        owner: u32,
        /// Our user id.
        us: u32,
    },
    /// Others may read or write it.
    #[error(
        "the {1} {0} has mode {mode:04o}, so others can use it: chmod 0600 {0}",
        path.display(),
        what.name
    )]
    Exposed {
        /// What it is for.
        what: SecretFile,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file was read, and what is in it is no password.
    #[error("the password file {}", path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PasswordError,
    },
    /// The file was read, and what is in it is no secret of a cluster.
    #[error("the cluster secret {}", path.display())]
    Cluster {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ClusterSecretError,
    },
}

/// Reads as much of the file as `buffer` holds, and returns that.
///
/// # Errors
/// When the file cannot be read, or when others could read or write it.
pub(super) fn read<'b>(
    path: &Path,
    what: SecretFile,
    us: Uid,
    buffer: &'b mut [u8],
) -> Result<&'b [u8], SecretError> {
    let failed = |source| SecretError::Read {
        what,
        path: path.to_owned(),
        source,
    };
    // Without O_NONBLOCK a pipe would be waited for.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(SecretError::NotRegular {
            what,
            path: path.to_owned(),
        });
    }
    let owner = metadata.uid();
    if owner != 0 && owner != us.as_raw() {
        return Err(SecretError::ForeignOwner {
            what,
            path: path.to_owned(),
            owner,
            us: us.as_raw(),
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed {
            what,
            path: path.to_owned(),
            mode,
        });
    }
    let length = read_up_to(&file, buffer).map_err(failed)?;
    Ok(buffer.get(..length).unwrap_or_default())
}

fn read_up_to(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
