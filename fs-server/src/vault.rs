//! Objects outside of the namespace ('y' in `namespace/keys.rs`): a key, a small value, and an inode number for chunks that lie here.
//!
//! What the checkpoint library keeps so can be found and read without any other server (decision 0024).
//!
//! # Invariants
//! - An object's number never changes while it is there, however often it is put (`an_object_keeps_its_number`).
//! - Who is neither its owner nor the superuser can neither change nor remove an object (`strangers_change_nothing`).
//! - The number of a store is drawn once, when it is first asked for (`an_object_keeps_its_number`).

use std::ops::ControlFlow;

use bytes::Bytes;
use fs_proto::msg::Caller;
use fs_proto::msg::vault::VaultObject;
use fs_proto::record::VaultRecord;
use fs_proto::{InodeId, Status};
use parking_lot::Mutex;

use crate::error::{OpError, OpResult};
use crate::kv::{Batch, Kv};
use crate::namespace::{decode_record, encode_record, keys};

const STORE: &str = "vault-store";
const NOT_YOURS: OpError = OpError::new(Status::NotPermitted, "the object is another user's");

/// Changes of one server's objects, one at a time. Reading needs no lock.
#[derive(Default)]
pub struct Vault {
    changes: Mutex<()>,
}

impl Vault {
    /// Keeps an object; a new one gets the number that `number` makes.
    pub fn put(
        &self,
        kv: &dyn Kv,
        who: &Caller,
        key: &[u8],
        value: Bytes,
        number: impl FnOnce() -> OpResult<InodeId>,
    ) -> OpResult<InodeId> {
        let key = keys::vault(key);
        let _alone = self.changes.lock();
        let there: Option<VaultRecord> = kv.get(&key)?.map(decode_record).transpose()?;
        let (uid, ino) = match there {
            Some(there) if !who.is_root() && who.uid != there.uid => return Err(NOT_YOURS),
            Some(there) => (there.uid, there.ino),
            None => (who.uid, number()?),
        };
        let mut batch = Batch::default();
        batch.put(key, encode_record(&VaultRecord { uid, ino, value }));
        kv.commit(batch)?;
        Ok(ino)
    }

    /// Up to `limit` objects whose keys begin with `prefix`, behind `after`, with their owners.
    pub fn list(
        &self,
        kv: &dyn Kv,
        prefix: &[u8],
        after: &[u8],
        limit: usize,
    ) -> OpResult<Vec<(u32, VaultObject)>> {
        let mut from = keys::vault(if after > prefix { after } else { prefix });
        if !after.is_empty() {
            from.push(0);
        }
        let (begin, mut found, mut failure) = (keys::vault(prefix), Vec::new(), None);
        // No key begins with 255: they are texts.
        let end = [&begin[..], &[u8::MAX]].concat();
        kv.scan(&from, &end, &mut |key, value| {
            match decode_record::<VaultRecord>(Bytes::copy_from_slice(value)) {
                Ok(VaultRecord { uid, ino, value }) => {
                    found.push((uid, VaultObject { key: Bytes::copy_from_slice(&key[1..]), ino, value }));
                }
                Err(error) => failure = Some(error),
            }
            if found.len() < limit && failure.is_none() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        failure.map_or(Ok(found), Err)
    }

    /// Whether somebody may remove these.
    pub fn check(&self, who: &Caller, objects: &[(u32, VaultObject)]) -> OpResult<()> {
        let theirs = who.is_root() || objects.iter().all(|(uid, _)| *uid == who.uid);
        if theirs { Ok(()) } else { Err(NOT_YOURS) }
    }

    /// Forgets objects.
    pub fn forget(&self, kv: &dyn Kv, who: &Caller, objects: &[(u32, VaultObject)]) -> OpResult<()> {
        self.check(who, objects)?;
        let mut batch = Batch::default();
        for (_, object) in objects {
            batch.delete(keys::vault(&object.key));
        }
        let _alone = self.changes.lock();
        Ok(kv.commit(batch)?)
    }

    /// The number that tells this store from another one that takes its place.
    pub fn store(&self, kv: &dyn Kv) -> OpResult<u64> {
        let key = keys::fact(STORE);
        let _alone = self.changes.lock();
        if let Some(found) = kv.get(&key)? {
            return decode_record(found);
        }
        let number: u64 = rand::random();
        let mut batch = Batch::default();
        batch.put(key, encode_record(&number));
        kv.commit(batch)?;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what the module promises. Method: a real store, reopened.
    use super::*;
    use crate::kv::{self, KvKind};

    const ONE: Caller = Caller { uid: 1, gid: 1, groups: Vec::new() };
    const OTHER: Caller = Caller { uid: 2, gid: 1, groups: Vec::new() };

    fn keys_of(found: &[(u32, VaultObject)]) -> Vec<&[u8]> {
        found.iter().map(|(_, object)| &object.key[..]).collect()
    }

    #[test]
    fn an_object_keeps_its_number() {
        let dir = tempfile::tempdir().expect("a directory");
        let vault = Vault::default();
        let kv = kv::open(KvKind::default(), dir.path(), 8 << 20).expect("a store");
        let put = |kv: &dyn Kv, key: &[u8], ino| {
            vault.put(kv, &ONE, key, Bytes::from_static(b"v"), || Ok(InodeId(ino)))
        };
        assert_eq!(put(&*kv, b"set/1", 7).expect("put"), InodeId(7));
        assert_eq!(put(&*kv, b"set/1", 8).expect("put"), InodeId(7));
        for (key, ino) in [(&b"set/2"[..], 9), (b"set/3", 10), (b"seu", 11), (b"se", 12)] {
            put(&*kv, key, ino).expect("put");
        }
        let store = vault.store(&*kv).expect("a number");
        drop(kv);
        let kv = kv::open(KvKind::default(), dir.path(), 8 << 20).expect("a store");
        assert_eq!(vault.store(&*kv).expect("a number"), store);
        let page = vault.list(&*kv, b"set/", b"", 2).expect("list");
        assert_eq!(keys_of(&page), [&b"set/1"[..], b"set/2"]);
        let rest = vault.list(&*kv, b"set/", b"set/2", 2).expect("list");
        assert_eq!((keys_of(&rest), rest[0].1.ino), (vec![&b"set/3"[..]], InodeId(10)));
    }

    #[test]
    fn strangers_change_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let vault = Vault::default();
        let kv = kv::open(KvKind::default(), dir.path(), 8 << 20).expect("a store");
        let put = |who: &Caller| vault.put(&*kv, who, b"key", Bytes::new(), || Ok(InodeId(7)));
        put(&ONE).expect("put");
        assert!(put(&OTHER).is_err());
        let found = vault.list(&*kv, b"", b"", 9).expect("list");
        assert!(vault.forget(&*kv, &OTHER, &found).is_err());
        assert_eq!(vault.list(&*kv, b"", b"", 9).expect("list"), found);
        vault.forget(&*kv, &Caller::ROOT, &found).expect("forget");
        assert_eq!(vault.list(&*kv, b"", b"", 9).expect("list"), []);
    }
}
