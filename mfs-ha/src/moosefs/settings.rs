//! What mfs-ha has to know of `mfsmaster.cfg` and `mfsmetalogger.cfg`.
//!
//! The files are read as MooseFS reads them: lines `KEY = VALUE`, of several the last one counts,
//! `#` begins a comment at the start of a line only. A key that MooseFS does not find has its
//! default. Lines about other keys are not judged.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Group, Uid, User, getegid, geteuid};

/// The sample with all comments has 10 KB; anything larger is a wrong file.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Why a configuration file of MooseFS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} has more than {FILE_BYTES_MAX} bytes, so it is no configuration file", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// MooseFS would ignore a line and take the default.
    #[error(
        "{} line {line}: MooseFS ignores this line about {key}: it has to be `{key} = VALUE`",
        path.display()
    )]
    Definition {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key.
        key: &'static str,
    },
    /// The value makes no sense.
    #[error("{} line {line}: `{key} = {value}` has to be {want}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key.
        key: &'static str,
        /// What stands there.
        value: String,
        /// What would be right.
        want: &'static str,
    },
    /// Nobody has that name.
    #[error("{key} = {name}: there is no such {what} on this machine")]
    Nobody {
        /// The key.
        key: &'static str,
        /// The name.
        name: String,
        /// `user` or `group`.
        what: &'static str,
    },
}

/// `mfsmaster.cfg`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterSettings {
    /// `DATA_PATH`, absolute.
    pub data_path: PathBuf,
    /// `WORKING_USER`: a name, or `#` and a number.
    pub working_user: String,
    /// `WORKING_GROUP`: as the user; empty for the user's own group.
    pub working_group: String,
    /// Where metaloggers connect.
    pub matoml: Listener,
    /// Where chunkservers connect.
    pub matocs: Listener,
    /// Where clients connect.
    pub matocl: Listener,
    /// `CHANGELOG_SAVE_MODE = 0`, the default: changes are written by another process, after they were
    /// acknowledged.
    pub saves_later: bool,
}

/// An address that mfsmaster listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// `*` for every address.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

/// `mfsmetalogger.cfg`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaloggerSettings {
    /// `DATA_PATH`, absolute.
    pub data_path: PathBuf,
    /// `WORKING_USER`: a name, or `#` and a number.
    pub working_user: String,
    /// `WORKING_GROUP`: as the user; empty for the user's own group.
    pub working_group: String,
    /// `MASTER_HOST`: with a VIP, that.
    pub master_host: String,
    /// `MASTER_PORT`
    pub master_port: u16,
    /// `MASTER_RECONNECTION_DELAY`, in seconds.
    pub reconnection_delay: u32,
}

/// Reads the configuration of mfsmaster.
///
/// # Errors
/// It cannot be read, or says something that mfs-ha cannot work with.
pub fn read_master(path: &Path) -> Result<MasterSettings, SettingsError> {
    master(&Entries::read(path)?)
}

/// Reads the configuration of mfsmetalogger.
///
/// # Errors
/// It cannot be read, or says something that mfs-ha cannot work with.
pub fn read_metalogger(path: &Path) -> Result<MetaloggerSettings, SettingsError> {
    metalogger(&Entries::read(path)?)
}

impl MasterSettings {
    /// The ports for metaloggers, chunkservers and clients.
    pub fn ports(&self) -> [u16; 3] {
        [self.matoml.port, self.matocs.port, self.matocl.port]
    }

    /// What MooseFS accepts and a failover does not work with; each says what would be right.
    pub fn problems(&self) -> Vec<String> {
        let listeners = [
            ("MATOML", &self.matoml),
            ("MATOCS", &self.matocs),
            ("MATOCL", &self.matocl),
        ];
        let mut problems = Vec::new();
        for (name, listener) in listeners {
            if listener.host != "*" {
                problems.push(format!(
                    "{name}_LISTEN_HOST = {} has to be *: mfsmaster is started before the VIP is \
                     here, and is asked on 127.0.0.1 whether it works",
                    listener.host
                ));
            }
        }
        let [matoml, matocs, matocl] = self.ports();
        if matoml == matocs || matocs == matocl || matocl == matoml {
            problems.push(format!(
                "the ports {matoml}, {matocs} and {matocl} of MATOML_LISTEN_PORT, \
                 MATOCS_LISTEN_PORT and MATOCL_LISTEN_PORT have to differ"
            ));
        }
        if self.saves_later {
            problems.push(
                "CHANGELOG_SAVE_MODE = 0, the default, should be 1: a mfsmaster that crashes may leave \
                 the last acknowledged changes unwritten, and is restarted without them"
                    .to_owned(),
            );
        }
        problems
    }

    /// User and group that mfsmaster works as, and that its files belong to. May ask a directory
    /// service, so it may block.
    ///
    /// # Errors
    /// There is no such user or group.
    pub fn owner(&self) -> Result<(u32, u32), SettingsError> {
        owner(&self.working_user, &self.working_group)
    }
}

impl MetaloggerSettings {
    /// As [`MasterSettings::owner`].
    ///
    /// # Errors
    /// There is no such user or group.
    pub fn owner(&self) -> Result<(u32, u32), SettingsError> {
        owner(&self.working_user, &self.working_group)
    }
}

fn master(entries: &Entries) -> Result<MasterSettings, SettingsError> {
    let clients = |key, old| {
        // Deprecated, and heeded where the new keys are missing altogether.
        let is_old = !entries.has("MATOCL_LISTEN_HOST") && !entries.has("MATOCL_LISTEN_PORT");
        if is_old && entries.has(old) { old } else { key }
    };
    Ok(MasterSettings {
        data_path: entries.data_path()?,
        working_user: entries.text("WORKING_USER", "mfs")?,
        working_group: entries.text("WORKING_GROUP", "mfs")?,
        matoml: Listener {
            host: entries.text("MATOML_LISTEN_HOST", "*")?,
            port: entries.port("MATOML_LISTEN_PORT", 9419)?,
        },
        matocs: Listener {
            host: entries.text("MATOCS_LISTEN_HOST", "*")?,
            port: entries.port("MATOCS_LISTEN_PORT", 9420)?,
        },
        matocl: Listener {
            host: entries.text(clients("MATOCL_LISTEN_HOST", "MATOCU_LISTEN_HOST"), "*")?,
            port: entries.port(clients("MATOCL_LISTEN_PORT", "MATOCU_LISTEN_PORT"), 9421)?,
        },
        saves_later: entries.parsed("CHANGELOG_SAVE_MODE", 0, "0, 1 or 2", |text| {
            text.parse::<u8>().ok().filter(|mode| *mode <= 2)
        })? == 0,
    })
}

fn metalogger(entries: &Entries) -> Result<MetaloggerSettings, SettingsError> {
    let delay = "MASTER_RECONNECTION_DELAY";
    Ok(MetaloggerSettings {
        data_path: entries.data_path()?,
        working_user: entries.text("WORKING_USER", "mfs")?,
        working_group: entries.text("WORKING_GROUP", "mfs")?,
        master_host: entries.text("MASTER_HOST", "mfsmaster")?,
        master_port: entries.port("MASTER_PORT", 9419)?,
        reconnection_delay: entries.parsed(
            delay,
            5,
            "a number of seconds, at least 1",
            |text| text.parse().ok().filter(|seconds| *seconds >= 1),
        )?,
    })
}

fn owner(user: &str, group: &str) -> Result<(u32, u32), SettingsError> {
    if !geteuid().is_root() {
        // Then MooseFS stays who it is.
        return Ok((geteuid().as_raw(), getegid().as_raw()));
    }
    let no_user = || SettingsError::Nobody {
        key: "WORKING_USER",
        name: user.to_owned(),
        what: "user",
    };
    let no_group = || SettingsError::Nobody {
        key: "WORKING_GROUP",
        name: group.to_owned(),
        what: "group",
    };
    let by_number = |text: &str| {
        text.strip_prefix('#')
            .and_then(|number| number.parse().ok())
    };
    let known = || match by_number(user) {
        Some(uid) => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
        None => User::from_name(user).ok().flatten(),
    };
    let uid = match by_number(user) {
        Some(uid) => uid,
        None => known().ok_or_else(no_user)?.uid.as_raw(),
    };
    let gid = match by_number(group) {
        Some(gid) => gid,
        None if group.is_empty() => known().ok_or_else(no_user)?.gid.as_raw(),
        None => Group::from_name(group)
            .ok()
            .flatten()
            .ok_or_else(no_group)?
            .gid
            .as_raw(),
    };
    Ok((uid, gid))
}

/// The lines of a file, by key.
struct Entries {
    path: PathBuf,
    /// Line and value; of a line that MooseFS ignores no value.
    entries: HashMap<String, (usize, Option<String>)>,
}

impl Entries {
    fn read(path: &Path) -> Result<Self, SettingsError> {
        let failed = |source| SettingsError::Read {
            path: path.to_owned(),
            source,
        };
        let mut content = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content))
            .map_err(failed)?;
        if u64::try_from(content.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
            return Err(SettingsError::TooLong {
                path: path.to_owned(),
            });
        }
        Ok(Self::parse(path, &content))
    }

    fn parse(path: &Path, content: &[u8]) -> Self {
        let mut entries = HashMap::new();
        for (number, line) in (1..).zip(content.split(|byte| *byte == b'\n')) {
            if let Some((key, value)) = parse_line(line) {
                entries.insert(key, (number, value));
            }
        }
        Self {
            path: path.to_owned(),
            entries,
        }
    }

    fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    fn data_path(&self) -> Result<PathBuf, SettingsError> {
        let default = PathBuf::from("/var/lib/mfs");
        self.parsed("DATA_PATH", default, "an absolute path", |text| {
            Some(PathBuf::from(text)).filter(|path| path.is_absolute())
        })
    }

    fn port(&self, key: &'static str, default: u16) -> Result<u16, SettingsError> {
        self.parsed(key, default, "a port number, 1 to 65535", |text| {
            text.parse().ok().filter(|port| *port != 0)
        })
    }

    fn text(&self, key: &'static str, default: &str) -> Result<String, SettingsError> {
        let any = |text: &str| Some(text.to_owned());
        self.parsed(key, default.to_owned(), "a text", any)
    }

    fn parsed<T>(
        &self,
        key: &'static str,
        default: T,
        want: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, SettingsError> {
        let Some((line, value)) = self.entries.get(key) else {
            return Ok(default);
        };
        let Some(value) = value else {
            return Err(SettingsError::Definition {
                path: self.path.clone(),
                line: *line,
                key,
            });
        };
        parse(value).ok_or_else(|| SettingsError::Value {
            path: self.path.clone(),
            line: *line,
            key,
            value: value.clone(),
            want,
        })
    }
}

/// Key and value of a line as MooseFS (`cfg.c`) cuts it; no value when it would ignore the line.
fn parse_line(line: &[u8]) -> Option<(String, Option<String>)> {
    if line.first() == Some(&b'#') {
        return None;
    }
    let (key, rest) = cut(blanks_off(line), |byte| {
        byte.is_ascii_graphic() && byte != b'='
    });
    let key = (!key.is_empty()).then(|| String::from_utf8_lossy(key).into_owned())?;
    let Some((b'=', rest)) = blanks_off(rest).split_first() else {
        return Some((key, None));
    };
    // The blanks in a value belong to it, and so does a `#`; only a tab ends it.
    let (value, rest) = cut(blanks_off(rest), |byte| (32..128).contains(&byte));
    let is_whole = matches!(blanks_off(rest).first(), None | Some(b'\r' | b'#' | 0));
    let value = String::from_utf8_lossy(value);
    Some((
        key,
        is_whole.then(|| value.trim_end_matches(' ').to_owned()),
    ))
}

fn blanks_off(text: &[u8]) -> &[u8] {
    cut(text, |byte| matches!(byte, b' ' | b'\t')).1
}

fn cut(text: &[u8], belongs: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let length = text.iter().take_while(|byte| belongs(**byte)).count();
    text.split_at(length)
}

#[cfg(test)]
mod tests;
