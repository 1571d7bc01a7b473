//! The configuration file: TOML text becomes a [`Configuration`] whose every value was checked.
//!
//! All mistakes of a file are reported at once, each with its line, the key, the value and what
//! would be right. What depends on the machine (does the interface exist, may the password file be
//! read, can the hooks be run) is not decided here: `check` and the start of the daemon do that.

mod cluster;
mod moosefs;
mod read;
mod section;
mod unknown;
mod values;
mod watchdog;

use std::fmt;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use self::cluster::{Cluster, ClusterMember};
pub use self::moosefs::{MooseFs, ServiceConfig};
pub use self::section::Problem;
use self::section::Problems;
pub use self::watchdog::Watchdog;

/// A configuration is a page of text; anything larger is a wrong file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// As many peers as the kernel's table of them holds.
pub const PEERS_MAX: usize = 16;

/// Where the kernel's BPF file system is mounted.
const PIN_ROOT: &str = "/sys/fs/bpf/mfs-ha";

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of them in a process"
)]
pub enum Configuration {
    /// Of a node that may become master.
    Candidate(Config),
    /// Of one that only votes.
    Witness(Witness),
}

/// How a master is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By adverts alone.
    Carp,
    /// By a majority of `[cluster]`.
    Quorum,
}

/// The configuration of a witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Names the pin directory, the control socket, the lock and the state; `[a-z0-9-]{1,32}`.
    pub instance: String,
    /// Directory of the control socket and the lock.
    pub run_dir: PathBuf,
    /// `[xdp]`
    pub xdp: Xdp,
    /// `[scheduling]`
    pub scheduling: Scheduling,
    /// `[cluster]`
    pub cluster: Cluster,
}

/// The configuration of a node that may become master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Names the pin directory, the control socket, the lock and the state; `[a-z0-9-]{1,32}`.
    pub instance: String,
    /// How a master is chosen.
    pub mode: Mode,
    /// The interface that carries the adverts and the VIP.
    pub interface: String,
    /// The 802.1Q tag of the adverts, 1 to 4094; `None` for untagged.
    pub vlan: Option<u16>,
    /// Our source address; `None` takes the first address of the interface that is not the VIP.
    pub source: Option<Ipv4Addr>,
    /// The address that moves.
    pub vip: Vip,
    /// Whether the kernel keeps this node from serving when its lease is over.
    pub gate: bool,
    /// Directory of the control socket and the lock.
    pub run_dir: PathBuf,
    /// `[carp]`
    pub carp: Carp,
    /// `[cluster]`; always there in quorum mode. In carp mode its secret signs adverts.
    pub cluster: Option<Cluster>,
    /// `[hooks]`
    pub hooks: Hooks,
    /// `[xdp]`
    pub xdp: Xdp,
    /// `[scheduling]`
    pub scheduling: Scheduling,
    /// `[watchdog]`; `None`: there is none.
    pub watchdog: Option<Watchdog>,
    /// `[moosefs]`; `None` for a plain CARP daemon.
    pub moosefs: Option<MooseFs>,
}

/// The virtual address and the prefix it is configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vip {
    /// A host address.
    pub address: Ipv4Addr,
    /// 1 to 32.
    pub prefix_len: u8,
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// `[carp]`: who we are in the election, and with whom we talk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carp {
    /// 1 to 255.
    pub vhid: u8,
    /// Holds the shared password; read by [`crate::secret`].
    pub password_file: PathBuf,
    /// Seconds between adverts.
    pub advbase: u8,
    /// 0 to 254, in 1/256 s on top of `advbase`; never 0 when `advbase` is 0.
    pub advskew: u8,
    /// Missed intervals after which a master is taken for dead; at least 1.
    pub deadratio: u8,
    /// Take over from a live master that is worse than we are.
    pub preempt: bool,
    /// Do not run the down hook at start.
    pub neutral: bool,
    /// Stay in the election without carrier.
    pub ignore_link_state: bool,
    /// IP destination of the adverts.
    pub multicast_group: Ipv4Addr,
    /// Send to the Ethernet broadcast address.
    pub broadcast: bool,
    /// Source addresses of the other nodes; empty when everybody may speak.
    pub peers: Vec<Ipv4Addr>,
    /// What to do with an advert that is longer than the CARP header.
    pub trailing_bytes: TrailingBytes,
    /// What to do with an advert that repeats its sender's last counter.
    pub repeated_counter: RepeatedCounter,
    /// Drop adverts that the cluster's secret does not sign.
    pub require_extension: bool,
}

/// `carp.trailing_bytes`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrailingBytes {
    /// Drop the advert.
    Reject,
    /// Read the header and ignore the rest.
    Accept,
}

/// `carp.repeated_counter`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepeatedCounter {
    /// OpenBSD repeats its counter for ever.
    Accept,
    /// Drop the advert.
    Reject,
}

/// `[hooks]`: programs that are told about changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Runs when this node has become master; an absolute path.
    pub up: Option<PathBuf>,
    /// Runs when this node has stopped to be master; an absolute path.
    pub down: Option<PathBuf>,
    /// Third argument of both.
    pub xparam: Option<String>,
    /// How long a hook may run.
    pub timeout_ms: u32,
}

/// `[xdp]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xdp {
    /// How the program is attached.
    pub mode: XdpMode,
}

/// `xdp.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// Native, and generic where the driver has no XDP.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the network stack.
    Generic,
}

/// `[scheduling]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduling {
    /// `SCHED_FIFO` and locked memory for the heartbeat thread, where permitted.
    pub realtime: bool,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be opened or read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is far too large for a configuration.
    #[error(
        "{}: larger than {FILE_BYTES_MAX} bytes, so this cannot be the configuration",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file was read and holds mistakes.
    #[error("{}", Listed { path, problems })]
    Invalid {
        /// The file.
        path: PathBuf,
        /// At least one, in the order of the file.
        problems: Vec<Problem>,
    },
}

/// Problems, one on a line, each with the file in front as compilers print it.
struct Listed<'e> {
    path: &'e Path,
    problems: &'e [Problem],
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match problem.position {
                Some((line, column)) => {
                    write!(
                        f,
                        "{}:{line}:{column}: {}",
                        self.path.display(),
                        problem.text
                    )?;
                }
                None => write!(f, "{}: {}", self.path.display(), problem.text)?,
            }
        }
        Ok(())
    }
}

impl Configuration {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When the file cannot be read, or with all its mistakes.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
            return Err(ConfigError::TooLarge {
                path: path.to_owned(),
            });
        }
        match String::from_utf8(bytes) {
            Ok(text) => Self::parse(&text, path),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes());
                let problems = Problems::new(&text);
                problems.add_at(valid, "not UTF-8 text, which TOML must be".to_owned());
                Err(ConfigError::Invalid {
                    path: path.to_owned(),
                    problems: problems.into_sorted(),
                })
            }
        }
    }

    /// Checks the text of a configuration; `path` only appears in the messages.
    ///
    /// # Errors
    /// With all mistakes of the text. Values are looked at only when the text is proper TOML.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let problems = Problems::new(text);
        let (document, syntax_errors) = DeTable::parse_recoverable(text);
        for error in &syntax_errors {
            let message = format!("TOML: {}", error.message());
            match error.span() {
                Some(span) => problems.add_at(span.start, message),
                None => problems.add(message),
            }
        }
        let configuration = if syntax_errors.is_empty() {
            read::document(document.get_ref(), &problems)
        } else {
            None
        };
        match configuration {
            Some(configuration) if problems.is_empty() => Ok(configuration),
            Some(_) | None => Err(ConfigError::Invalid {
                path: path.to_owned(),
                problems: problems.into_sorted(),
            }),
        }
    }

    /// Names the pin directory, the control socket, the lock and the state.
    pub fn instance(&self) -> &str {
        match self {
            Self::Candidate(config) => &config.instance,
            Self::Witness(witness) => &witness.instance,
        }
    }

    /// Directory of the control socket and the lock.
    pub fn run_dir(&self) -> &Path {
        match self {
            Self::Candidate(config) => &config.run_dir,
            Self::Witness(witness) => &witness.run_dir,
        }
    }

    /// `[xdp]`
    pub fn xdp(&self) -> Xdp {
        match self {
            Self::Candidate(config) => config.xdp,
            Self::Witness(witness) => witness.xdp,
        }
    }

    /// Whether there is a VIP, and the kernel guards it.
    pub fn is_gated(&self) -> bool {
        match self {
            Self::Candidate(config) => config.gate,
            Self::Witness(_) => false,
        }
    }

    /// `[scheduling]`
    pub fn scheduling(&self) -> Scheduling {
        match self {
            Self::Candidate(config) => config.scheduling,
            Self::Witness(witness) => witness.scheduling,
        }
    }

    /// `[cluster]`
    pub fn cluster(&self) -> Option<&Cluster> {
        match self {
            Self::Candidate(config) => config.cluster.as_ref(),
            Self::Witness(witness) => Some(&witness.cluster),
        }
    }

    /// The cluster whose majority decides; `None` in carp mode.
    pub fn quorum(&self) -> Option<&Cluster> {
        match self {
            Self::Candidate(config) => config.quorum(),
            Self::Witness(witness) => Some(&witness.cluster),
        }
    }

    /// The control socket.
    pub fn socket_path(&self) -> PathBuf {
        socket_path(self.run_dir(), self.instance())
    }

    /// The directory that holds the pinned maps and links.
    pub fn pin_dir(&self) -> PathBuf {
        pin_dir(self.instance())
    }
}

impl Config {
    /// The cluster whose majority decides; `None` in carp mode.
    pub fn quorum(&self) -> Option<&Cluster> {
        self.cluster.as_ref().filter(|_| self.mode == Mode::Quorum)
    }

    /// The control socket.
    pub fn socket_path(&self) -> PathBuf {
        socket_path(&self.run_dir, &self.instance)
    }

    /// The directory that holds the pinned maps and links.
    pub fn pin_dir(&self) -> PathBuf {
        pin_dir(&self.instance)
    }
}

fn pin_dir(instance: &str) -> PathBuf {
    Path::new(PIN_ROOT).join(instance)
}

/// The control socket of an instance.
pub fn socket_path(run_dir: &Path, instance: &str) -> PathBuf {
    run_dir.join(format!("{instance}.sock"))
}

/// Whether `name` can name an instance: `[a-z0-9-]{1,32}`.
pub fn is_instance_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;
