//! An archive that is made when the first file goes into it.

use std::path::PathBuf;
use std::time::SystemTime;

use super::{Dir, Layout, StoreError};

/// Files that were moved into an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// The archive; none was needed when nothing was moved.
    pub archive: Option<PathBuf>,
    /// The files.
    pub names: Vec<String>,
}

/// Takes files into an archive of one label.
pub(crate) struct Aside<'l> {
    layout: &'l Layout,
    label: &'static str,
    epoch: u64,
    dir: Option<Dir>,
    names: Vec<String>,
}

impl<'l> Aside<'l> {
    pub(crate) fn new(layout: &'l Layout, label: &'static str, epoch: u64) -> Self {
        Self {
            layout,
            label,
            epoch,
            dir: None,
            names: Vec::new(),
        }
    }

    /// Moves a file into the archive.
    pub(crate) fn take(&mut self, from: &Dir, name: &str) -> Result<(), StoreError> {
        from.move_into(name, self.dir()?)?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// Gives a file a second name in the archive.
    pub(crate) fn link(&mut self, from: &Dir, name: &str) -> Result<(), StoreError> {
        from.link_into(name, self.dir()?)?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// The archive.
    pub(crate) fn dir(&mut self) -> Result<&Dir, StoreError> {
        let dir = match self.dir.take() {
            Some(dir) => dir,
            None => {
                let now = SystemTime::now();
                Dir::open(&self.layout.new_archive(self.label, self.epoch, now)?)?
            }
        };
        Ok(self.dir.insert(dir))
    }

    /// Makes what is in the archive last.
    pub(crate) fn finish(self) -> Result<Moved, StoreError> {
        let archive = match self.dir {
            Some(dir) => {
                dir.sync()?;
                Some(dir.path().to_owned())
            }
            None => None,
        };
        Ok(Moved {
            archive,
            names: self.names,
        })
    }
}
