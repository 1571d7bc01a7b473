//! The epoch sidecar: how often this node was promoted, and from which version on the last time.
//!
//! Every promotion begins a new epoch. It is written as pending before the master starts, and
//! committed when the node serves: a promotion that failed must not outrank the true history.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::layout::{Layout, StoreError, write_atomic};

const REMEDY: &str = "move it away; the node then counts as one of epoch 0 until it follows a \
                      master again or is promoted";

/// What the sidecar says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochRecord {
    /// Rises with each promotion; 0 before the first.
    pub epoch: u64,
    /// Number of the first change of this epoch.
    pub base: u64,
    /// Whether a node served in it.
    pub state: EpochState,
    /// Identity of the file system.
    #[serde(with = "hexadecimal")]
    pub id: u64,
    /// The epoch before, where that is not one less: newer metadata were given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
}

/// Whether an epoch counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EpochState {
    /// The promotion that began it is not over, or failed.
    Pending,
    /// The node served in it.
    Committed,
}

impl EpochRecord {
    /// A directory without a sidecar.
    pub const NONE: Self = Self {
        epoch: 0,
        base: 0,
        state: EpochState::Committed,
        id: 0,
        previous: None,
    };

    /// The epoch that the directory's history belongs to: a pending one does not count.
    pub fn effective_epoch(&self) -> u64 {
        match self.state {
            EpochState::Pending => self
                .previous
                .unwrap_or_else(|| self.epoch.saturating_sub(1)),
            EpochState::Committed => self.epoch,
        }
    }
}

/// Reads the sidecar; without one the directory is of epoch 0, [`EpochRecord::NONE`].
///
/// # Errors
/// [`StoreError::Damaged`] when it says nothing usable; when it cannot be read.
pub fn read(layout: &Layout) -> Result<EpochRecord, StoreError> {
    let path = layout.epoch_file();
    let content = match fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(EpochRecord::NONE),
        Err(error) => return Err(StoreError::io("read", &path)(error)),
    };
    serde_json::from_slice(&content).map_err(|error| StoreError::Damaged {
        path,
        why: error.to_string(),
        remedy: REMEDY,
    })
}

/// Writes the sidecar: the file has the old content or the new one, durably when this returns.
///
/// # Errors
/// When it cannot be written; the old one is still there then.
pub fn write(layout: &Layout, record: &EpochRecord) -> Result<(), StoreError> {
    let path = layout.epoch_file();
    let mut content = serde_json::to_vec(record)
        .map_err(io::Error::from)
        .map_err(StoreError::io("write", &path))?;
    content.push(b'\n');
    write_atomic(&path, &content)
}

/// 16 digits, so that two ids can be compared by eye.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{id:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(D::Error::custom(format!("id {text:?} is not hexadecimal")));
        }
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: EpochRecord = EpochRecord {
        epoch: 7,
        base: u64::MAX,
        state: EpochState::Pending,
        id: 0x0123_4567_89ab_cdef,
        previous: None,
    };

    fn layout(directory: &tempfile::TempDir) -> Layout {
        let layout = Layout::new(directory.path()).unwrap();
        layout.prepare().unwrap();
        layout
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        assert_eq!(read(&layout).unwrap(), EpochRecord::NONE);
        write(&layout, &RECORD).unwrap();
        assert_eq!(read(&layout).unwrap(), RECORD);
        assert_eq!(
            fs::read_to_string(layout.epoch_file()).unwrap(),
            "{\"epoch\":7,\"base\":18446744073709551615,\"state\":\"pending\",\
             \"id\":\"0123456789abcdef\"}\n"
        );
        let committed = EpochRecord {
            state: EpochState::Committed,
            ..RECORD
        };
        write(&layout, &committed).unwrap();
        assert_eq!(read(&layout).unwrap(), committed);
    }

    #[test]
    fn a_pending_epoch_does_not_count() {
        assert_eq!(RECORD.effective_epoch(), 6);
        let jump = EpochRecord {
            previous: Some(3),
            ..RECORD
        };
        assert_eq!(jump.effective_epoch(), 3, "nor does what it leaped over");
        let committed = EpochRecord {
            state: EpochState::Committed,
            ..RECORD
        };
        assert_eq!(committed.effective_epoch(), 7);
        assert_eq!(EpochRecord::NONE.effective_epoch(), 0);
    }

    #[test]
    fn damage_is_named_with_its_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        for content in [
            "",
            "{\"epoch\":7}",
            "{\"epoch\":7,\"base\":1,\"state\":\"pending\",\"id\":\"0x12\"}",
            "{\"epoch\":7,\"base\":1,\"state\":\"pending\",\"id\":\"+12\"}",
            "{\"epoch\":7,\"base\":1,\"state\":\"pending\",\"id\":\"10123456789abcdef0\"}",
            "{\"epoch\":-7,\"base\":1,\"state\":\"pending\",\"id\":\"12\"}",
            "{\"epoch\":7,\"base\":1,\"state\":\"served\",\"id\":\"12\"}",
        ] {
            fs::write(layout.epoch_file(), content).unwrap();
            let error = read(&layout).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{content}");
            let text = error.to_string();
            assert!(
                text.contains("epoch.json is damaged") && text.contains("move it away"),
                "{text}"
            );
        }
    }
}
