//! A watchdog device of the kernel: open is armed, a `V` before the close disarms it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{major, minor};

use super::settimeout::set_timeout;

/// `/dev/watchdog`, which is the first device by another number: 10 is that of miscellaneous devices.
const LEGACY: (u64, u64) = (10, 130);

/// `WDIOF_MAGICCLOSE`: a close without a `V` does not disarm.
const MAGIC_CLOSE: u32 = 0x100;

/// What `/sys` says of a device. What it does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The driver's name for it.
    pub identity: Option<String>,
    /// Whether a close can disarm it.
    pub can_disarm: Option<bool>,
    /// Whether it stays armed when the program that has it dies.
    pub outlives_holder: Option<bool>,
    /// Whether it is armed.
    pub is_armed: Option<bool>,
    /// The timeout that is set.
    pub timeout: Option<Duration>,
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is nothing of this name.
    #[error(
        "there is no {}: load the driver of this machine's watchdog, or softdog",
        path.display()
    )]
    Missing {
        /// The device.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{} is no watchdog", path.display())]
    NoWatchdog {
        /// The device.
        path: PathBuf,
    },
    /// Another program has it open.
    #[error(
        "another program has {}: `mfs-ha check` says which; a watchdog belongs to one",
        path.display()
    )]
    Busy {
        /// The device.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The driver does not take the timeout.
    #[error("the driver of {} refuses a timeout of {} s", path.display(), timeout.as_secs())]
    Timeout {
        /// The device.
        path: PathBuf,
        /// The timeout.
        timeout: Duration,
        /// What the system said.
        source: io::Error,
    },
}

/// A device that resets the machine some time after its last ping.
pub trait Device: Send {
    /// Looks at it, and changes nothing.
    ///
    /// # Errors
    /// There is no such device.
    fn facts(&self) -> Result<Facts, DeviceError>;

    /// Opens it, which arms it. Returns the timeout that the driver made of the wanted one.
    ///
    /// # Errors
    /// It cannot be used. Then it is as it was, as far as its driver can disarm it.
    fn arm(&mut self, timeout: Duration) -> Result<Duration, DeviceError>;

    /// Begins the timeout anew.
    ///
    /// # Errors
    /// What the driver says; or it is not armed.
    fn ping(&mut self) -> io::Result<()>;

    /// Disarms and closes it.
    ///
    /// # Errors
    /// What the driver says. It is closed all the same, and may be armed.
    fn disarm(&mut self) -> io::Result<()>;

    /// Closes it and leaves it armed.
    fn leave(&mut self);
}

/// A device below `/dev`.
#[derive(Debug)]
pub struct CharDevice {
    path: PathBuf,
    sysfs: PathBuf,
    file: Option<File>,
}

impl CharDevice {
    /// Names it; nothing is opened.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            sysfs: PathBuf::from("/sys"),
            file: None,
        }
    }

    /// Returns the names under which its kernel device can be opened.
    ///
    /// # Errors
    /// There is no such device.
    pub fn names(&self) -> Result<Vec<PathBuf>, DeviceError> {
        let mut names = vec![self.path.clone()];
        if self.number()? == LEGACY {
            names.push(PathBuf::from("/dev/watchdog0"));
        } else if self.path == Path::new("/dev/watchdog0") {
            names.push(PathBuf::from("/dev/watchdog"));
        }
        Ok(names)
    }

    fn number(&self) -> Result<(u64, u64), DeviceError> {
        let metadata = fs::metadata(&self.path).map_err(|source| self.cannot_open(source))?;
        if !metadata.file_type().is_char_device() {
            let path = self.path.clone();
            return Err(DeviceError::NoWatchdog { path });
        }
        Ok((major(metadata.rdev()), minor(metadata.rdev())))
    }

    fn open(&self) -> Result<File, DeviceError> {
        // Should it be something else after all, its open shall not wait for anything.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let mut options = File::options();
        options.write(true).custom_flags(flags.bits());
        options
            .open(&self.path)
            .map_err(|source| self.cannot_open(source))
    }

    fn cannot_open(&self, source: io::Error) -> DeviceError {
        let path = self.path.clone();
        if source.kind() == io::ErrorKind::NotFound {
            DeviceError::Missing { path }
        } else if source.raw_os_error() == Some(Errno::EBUSY as i32) {
            DeviceError::Busy { path }
        } else {
            DeviceError::Open { path, source }
        }
    }

    /// Sets the timeout; a driver that has one only keeps it.
    fn set(&self, file: &File, timeout: Duration) -> Result<Duration, DeviceError> {
        let path = || self.path.clone();
        let refused = |errno: Errno| DeviceError::Timeout {
            path: path(),
            timeout,
            source: errno.into(),
        };
        let seconds = i32::try_from(timeout.as_secs()).unwrap_or(i32::MAX);
        let set = set_timeout(file, seconds).map(u64::try_from);
        match set {
            Ok(Ok(seconds)) if seconds > 0 => Ok(Duration::from_secs(seconds)),
            Ok(_) => Err(refused(Errno::ERANGE)),
            Err(errno @ Errno::EOPNOTSUPP) => {
                let fixed = self.facts()?.timeout;
                fixed.ok_or_else(|| refused(errno))
            }
            Err(Errno::ENOTTY) => Err(DeviceError::NoWatchdog { path: path() }),
            Err(errno) => Err(refused(errno)),
        }
    }
}

impl Device for CharDevice {
    fn facts(&self) -> Result<Facts, DeviceError> {
        let directory = sysfs_directory(&self.sysfs, self.number()?);
        Ok(read_facts(&directory))
    }

    fn arm(&mut self, timeout: Duration) -> Result<Duration, DeviceError> {
        self.number()?;
        let mut file = self.open()?;
        match self.set(&file, timeout) {
            Ok(timeout) => {
                self.file = Some(file);
                Ok(timeout)
            }
            Err(error @ DeviceError::NoWatchdog { .. }) => Err(error),
            Err(error) => {
                // What was opened for nothing shall not fire.
                file.write_all(b"V").ok();
                Err(error)
            }
        }
    }

    fn ping(&mut self) -> io::Result<()> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        file.write_all(b"\0")
    }

    fn disarm(&mut self) -> io::Result<()> {
        let Some(mut file) = self.file.take() else {
            return Ok(());
        };
        file.write_all(b"V")?;
        drop(file);
        // The close has no way to say so.
        let is_armed = self.facts().is_ok_and(|facts| facts.is_armed == Some(true));
        if is_armed {
            return Err(io::Error::other("it is armed although it was closed"));
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.file = None;
    }
}

/// The directory of a device number: that of the older name has nothing to read.
fn sysfs_directory(sysfs: &Path, number: (u64, u64)) -> PathBuf {
    if number == LEGACY {
        sysfs.join("class/watchdog/watchdog0")
    } else {
        sysfs.join(format!("dev/char/{}:{}", number.0, number.1))
    }
}

fn read_facts(directory: &Path) -> Facts {
    let read = |name: &str| {
        let text = fs::read_to_string(directory.join(name)).ok()?;
        Some(text.trim().to_owned())
    };
    let options = read("options").and_then(|text| {
        let digits = text.trim_start_matches("0x");
        u32::from_str_radix(digits, 16).ok()
    });
    let seconds = read("timeout").and_then(|text| text.parse().ok());
    Facts {
        identity: read("identity").filter(|identity| !identity.is_empty()),
        can_disarm: read("nowayout").map(|flag| flag == "0"),
        outlives_holder: options.map(|options| options & MAGIC_CLOSE != 0),
        is_armed: read("state").map(|state| state == "active"),
        timeout: seconds.map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sysfs_says_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let files = [
            ("identity", "Software Watchdog\n"),
            ("nowayout", "0\n"),
            ("options", "0x8180\n"),
            ("state", "inactive\n"),
            ("timeout", "60\n"),
        ];
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let facts = Facts {
            identity: Some("Software Watchdog".to_owned()),
            can_disarm: Some(true),
            outlives_holder: Some(true),
            is_armed: Some(false),
            timeout: Some(Duration::from_secs(60)),
        };
        assert_eq!(read_facts(directory.path()), facts);
        for (name, content) in [
            ("nowayout", "1\n"),
            ("options", "0x8080\n"),
            ("state", "active\n"),
        ] {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let facts = Facts {
            can_disarm: Some(false),
            outlives_holder: Some(false),
            is_armed: Some(true),
            ..facts
        };
        assert_eq!(read_facts(directory.path()), facts);
    }

    #[test]
    fn a_kernel_that_says_nothing_is_no_promise() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read_facts(directory.path()), Facts::default());
    }

    #[test]
    fn the_older_name_is_looked_up_as_the_first_device() {
        let sysfs = Path::new("/sys");
        assert_eq!(
            sysfs_directory(sysfs, (10, 130)),
            Path::new("/sys/class/watchdog/watchdog0")
        );
        assert_eq!(
            sysfs_directory(sysfs, (248, 1)),
            Path::new("/sys/dev/char/248:1")
        );
    }

    #[test]
    fn what_is_no_watchdog_is_not_taken_for_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none");
        let mut none = CharDevice::new(&path);
        assert!(matches!(none.facts(), Err(DeviceError::Missing { .. })));
        let armed = none.arm(Duration::from_secs(1));
        assert!(matches!(armed, Err(DeviceError::Missing { .. })));

        fs::write(&path, "").unwrap();
        let file = CharDevice::new(&path);
        assert!(matches!(file.facts(), Err(DeviceError::NoWatchdog { .. })));

        let mut null = CharDevice::new(Path::new("/dev/null"));
        assert_eq!(null.facts().unwrap().can_disarm, None);
        let armed = null.arm(Duration::from_secs(1));
        assert!(matches!(armed, Err(DeviceError::NoWatchdog { .. })));
        assert!(null.ping().is_err());
        assert!(null.disarm().is_ok());
    }
}
