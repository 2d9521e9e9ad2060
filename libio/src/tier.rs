//! The shared tier, read directly: its tree is that of the file system, so what a cluster left there can be restarted from when that
//! cluster, or a part of it, is gone.
//!
//! Only a tier that is a directory which this process can see; a bucket is not read here.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

/// The tier's directory.
#[derive(Debug, Clone)]
pub(crate) struct Tier(Arc<Path>);

impl Tier {
    /// The tier that a cluster names, if it can be looked into from here.
    pub fn seen(named: Option<&Path>) -> Option<Tier> {
        named.filter(|dir| dir.is_absolute() && dir.is_dir()).map(|dir| Tier(dir.into()))
    }

    fn place(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// The bytes at `path`, if it exists.
    pub fn read_raw(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(mut file) = self.open(path)? else { return Ok(None) };
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|e| self.failed(path, &e))?;
        Ok(Some(text))
    }

    /// Opens a file for reading, if it exists.
    pub fn open(&self, path: &str) -> Result<Option<File>> {
        match File::open(self.place(path)) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed(path, &e)),
        }
    }

    /// Bytes of the file at `path`; none if there is none.
    pub fn size(&self, path: &str) -> Option<u64> {
        std::fs::metadata(self.place(path)).ok().map(|meta| meta.len())
    }

    /// The names in a directory; none if it does not exist.
    pub fn list(&self, path: &str) -> Result<Vec<Vec<u8>>> {
        let entries = match std::fs::read_dir(self.place(path)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(self.failed(path, &e)),
        };
        let names = entries.map(|entry| Ok(entry?.file_name().into_encoded_bytes()));
        names.collect::<std::io::Result<_>>().map_err(|e| self.failed(path, &e))
    }

    /// Fills `buf` from `offset` of an open file; `path` is for the error.
    pub fn fill(&self, file: &File, path: &str, buf: &mut [u8], offset: u64) -> Result<()> {
        file.read_exact_at(buf, offset).map_err(|e| self.failed(path, &e))
    }

    fn failed(&self, path: &str, e: &std::io::Error) -> Error {
        Error::Tier {
            path: self.place(path).display().to_string(),
            reason: e.to_string(),
            errno: e.raw_os_error(),
        }
    }
}
