//! What is staged for an object store: nothing lies under a name there before it is whole.
//!
//! A small file, a link or a pipe is a note in memory until it is published. A larger file is a multipart upload to the key that it will
//! have; which upload is written down below the server's staging prefix, so that other servers find it, and a restart gives it up.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fs_proto::FileKind;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::client::{Client, Meta, failed};
use crate::tier::{Attributes, TierError, TierFile, TierResult};

/// Largest file that waits in memory: twice as many requests for a larger one.
pub const SMALL: u64 = 256 << 10;

/// An upload as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where the object will be.
    pub key: String,
    /// The server's name of the upload.
    pub upload: String,
    /// Bytes of each part but the last.
    pub part_bytes: u64,
    /// Number of the copy that it will be.
    pub id: u64,
}

impl Record {
    /// The record in an object.
    pub fn from_json(at: &str, text: &[u8]) -> TierResult<Self> {
        serde_json::from_slice(text).map_err(|error| failed("read", at, &error.to_string()))
    }

    /// As an object.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A part that was written: number, bytes, tag.
type Part = (u16, u64, String);

/// What will be published.
#[derive(Debug, Clone)]
pub enum What {
    /// A file in memory.
    Small(Vec<u8>),
    /// A file in parts, by number.
    Upload(Record, BTreeMap<u16, (u64, String)>),
    /// A symbolic link.
    Symlink(Bytes),
    /// A pipe, socket or device.
    Special(FileKind, u32),
    /// A copy of another object, which has the same number; of another tool's, what is stored with the copy.
    Link(String, Option<Meta>),
}

/// Something staged.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Number of the copy.
    pub id: u64,
    /// What it is.
    pub what: What,
    /// What is stored with it.
    pub attributes: Option<Attributes>,
}

impl Draft {
    /// Bytes that are there.
    pub fn size(&self) -> u64 {
        match &self.what {
            What::Small(data) => data.len() as u64,
            What::Upload(_, parts) => parts.values().map(|(len, _)| len).sum(),
            What::Symlink(_) | What::Special(..) | What::Link(..) => 0,
        }
    }

    /// Takes over what a server says that it wrote: see [`PartFile::receipt`].
    pub fn collect(&mut self, receipt: &[u8]) -> TierResult<()> {
        let What::Upload(record, parts) = &mut self.what else { return Ok(()) };
        let written: Vec<Part> = serde_json::from_slice(receipt)
            .map_err(|error| failed("take parts of", &record.key, &error.to_string()))?;
        parts.extend(written.into_iter().map(|(number, len, tag)| (number, (len, tag))));
        Ok(())
    }
}

/// A file in memory that is being filled.
pub struct SmallFile {
    /// All drafts, of which this is one.
    pub drafts: Arc<Mutex<BTreeMap<String, Draft>>>,
    /// Which.
    pub at: String,
}

impl TierFile for SmallFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> TierResult<()> {
        let mut drafts = self.drafts.lock();
        let Some(Draft { what: What::Small(content), .. }) = drafts.get_mut(&self.at) else {
            return Err(TierError::Missing(format!("{:?} is not staged any more", self.at)));
        };
        let end = offset as usize + data.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> TierResult<()> {
        Ok(())
    }

    fn receipt(&self) -> Bytes {
        Bytes::new()
    }
}

/// An upload that this server writes parts of.
pub struct PartFile {
    /// The server.
    pub client: Arc<Client>,
    /// Which upload.
    pub record: Record,
    /// What was written.
    pub written: Mutex<Vec<Part>>,
}

impl TierFile for PartFile {
    /// `data` is a whole part.
    fn write_at(&self, offset: u64, data: &[u8]) -> TierResult<()> {
        let Record { key, upload, part_bytes, .. } = &self.record;
        if !offset.is_multiple_of(*part_bytes) || data.len() as u64 > *part_bytes {
            return Err(failed("write", key, "what is written is not one part"));
        }
        let number = u16::try_from(offset / part_bytes + 1)
            .map_err(|_| failed("write", key, "an object has at most 10,000 parts"))?;
        let tag = self.client.put_part(key, upload, number, data)?;
        self.written.lock().push((number, data.len() as u64, tag));
        Ok(())
    }

    /// A part is durable when it is answered.
    fn sync(&self) -> TierResult<()> {
        Ok(())
    }

    fn receipt(&self) -> Bytes {
        serde_json::to_vec(&*self.written.lock()).unwrap_or_default().into()
    }
}
