//! Names and attributes remembered for operations by path.
//!
//! # Invariants
//! - Nothing is answered after its time; a time of zero remembers nothing (`answers_end_with_their_time`).
//! - The bytes held are bounded (`stays_within_its_bytes`).
//!
//! Deliberately absent: names known not to exist.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::{Attr, FileKind, InodeId};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// Estimated bytes of an item without its name: key, value, and the cache's own.
const ITEM_BYTES: u64 = 160;
const ATTR_BYTES: u64 = 280;

type EntryKey = (InodeId, Bytes);

#[derive(Debug, Clone, Copy)]
struct EntryValue {
    ino: InodeId,
    kind: FileKind,
    until: Instant,
}

#[derive(Clone)]
struct ByName;
impl Weighter<EntryKey, EntryValue> for ByName {
    fn weight(&self, key: &EntryKey, _: &EntryValue) -> u64 {
        ITEM_BYTES + key.1.len() as u64
    }
}

#[derive(Clone)]
struct Fixed;
impl Weighter<InodeId, (Attr, Instant)> for Fixed {
    fn weight(&self, _: &InodeId, _: &(Attr, Instant)) -> u64 {
        ATTR_BYTES
    }
}

pub(crate) struct PathCache {
    entries: Cache<EntryKey, EntryValue, ByName>,
    attrs: Cache<InodeId, (Attr, Instant), Fixed>,
    entry_ttl: Duration,
    attr_ttl: Duration,
}

impl PathCache {
    /// A cache of at most about `bytes`.
    pub fn new(bytes: usize, entry_ttl: Duration, attr_ttl: Duration) -> PathCache {
        let half = bytes as u64 / 2;
        PathCache {
            entries: Cache::with_weighter((half / (ITEM_BYTES + 32)) as usize, half, ByName),
            attrs: Cache::with_weighter((half / ATTR_BYTES) as usize, half, Fixed),
            entry_ttl,
            attr_ttl,
        }
    }

    pub fn entry(&self, parent: InodeId, name: &Bytes) -> Option<(InodeId, FileKind)> {
        if self.entry_ttl.is_zero() {
            return None;
        }
        let found = self.entries.get(&(parent, name.clone()))?;
        (found.until > Instant::now()).then_some((found.ino, found.kind))
    }

    pub fn attr(&self, ino: InodeId) -> Option<Attr> {
        if self.attr_ttl.is_zero() {
            return None;
        }
        let (attr, until) = self.attrs.get(&ino)?;
        (until > Instant::now()).then_some(attr)
    }

    pub fn put_entry(&self, parent: InodeId, name: &[u8], ino: InodeId, kind: FileKind) {
        if !self.entry_ttl.is_zero() {
            let value = EntryValue { ino, kind, until: Instant::now() + self.entry_ttl };
            // A copy: a slice would keep the whole message or path that the name came in.
            self.entries.insert((parent, Bytes::copy_from_slice(name)), value);
        }
    }

    pub fn put_attr(&self, attr: &Attr) {
        if !self.attr_ttl.is_zero() {
            self.attrs.insert(attr.ino, (attr.clone(), Instant::now() + self.attr_ttl));
        }
    }

    /// The name changed; so did its directory's attributes.
    pub fn drop_entry(&self, parent: InodeId, name: &[u8]) {
        if !self.entry_ttl.is_zero() {
            self.entries.remove(&(parent, Bytes::copy_from_slice(name)));
        }
        self.drop_attr(parent);
    }

    pub fn drop_attr(&self, ino: InodeId) {
        self.attrs.remove(&ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn answers_end_with_their_time() {
        let name = Bytes::from_static(b"n");
        for (ttl, held) in [(MINUTE, true), (Duration::ZERO, false), (Duration::from_nanos(1), false)] {
            let cache = PathCache::new(1 << 20, ttl, MINUTE);
            cache.put_entry(InodeId(1), b"n", InodeId(2), FileKind::File);
            assert_eq!(cache.entry(InodeId(1), &name).is_some(), held, "{ttl:?}");
            cache.drop_entry(InodeId(1), b"n");
            assert_eq!(cache.entry(InodeId(1), &name), None);
        }
    }

    #[test]
    fn stays_within_its_bytes() {
        let cache = PathCache::new(1 << 20, MINUTE, MINUTE);
        for i in 0..100_000u64 {
            cache.put_entry(InodeId(i), &[b'x'; 200], InodeId(i), FileKind::File);
        }
        assert!(cache.entries.weight() <= 1 << 19);
        assert!(cache.entries.len() > 500);
    }
}
