//! Contents of small files that came with their opening, to be read once.
//!
//! # Invariants
//! - All of a client together stay within their bytes (`contents_stay_within_their_bytes`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

/// The bytes that all contents may have, and have.
#[derive(Debug)]
pub(crate) struct Contents {
    held: Arc<AtomicUsize>,
    limit: usize,
}

/// One content, counted until it goes.
#[derive(Debug)]
pub(crate) struct Content {
    data: Bytes,
    /// Version of the file that it is of.
    pub version: u64,
    at: Instant,
    held: Arc<AtomicUsize>,
}

impl Contents {
    /// At most `limit` bytes.
    pub fn new(limit: usize) -> Contents {
        Contents { held: Arc::default(), limit }
    }

    /// A copy, because a slice would hold the message's buffer. None if there are too many.
    pub fn copy(&self, data: &[u8], version: u64) -> Option<Content> {
        let before = self.held.fetch_add(data.len(), Ordering::Relaxed);
        let (data, held) = (Bytes::copy_from_slice(data), Arc::clone(&self.held));
        let content = Content { data, version, at: Instant::now(), held };
        (before + content.data.len() <= self.limit).then_some(content)
    }
}

impl Content {
    /// Up to `len` bytes from `offset` if it is younger than `ttl`, and whether there is more to read. What begins at the end has to be
    /// asked for, but of an empty file the end is what there is.
    pub fn read(&self, offset: u64, len: usize, ttl: Duration) -> (Option<Bytes>, bool) {
        let end = self.data.len();
        let from = usize::try_from(offset).ok().filter(|from| *from < end.max(1));
        let Some(from) = from.filter(|_| self.at.elapsed() < ttl) else { return (None, false) };
        let to = from.saturating_add(len).min(end);
        (Some(self.data.slice(from..to)), to < end)
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.held.fetch_sub(self.data.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_stay_within_their_bytes() {
        let contents = Contents::new(10);
        let first = contents.copy(b"12345678", 1);
        assert!(first.is_some() && contents.copy(b"123", 1).is_none());
        drop(first);
        assert!(contents.copy(b"123", 1).is_some());
        assert_eq!(contents.held.load(Ordering::Relaxed), 0);
    }
}
