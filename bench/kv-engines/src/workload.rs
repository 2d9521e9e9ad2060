//! What a server does to its store, with its own keys and records. File n belongs to thread n / 10,000 mod 2, so that the
//! threads work in directories of their own, as the locks of a server would have it.

use bytes::Bytes;
use fs_proto::attr::{FileKind, Layout, TimeNs};
use fs_proto::op::Op;
use fs_proto::record::{EntryRecord, InodeRecord, RequestResult};
use fs_proto::{ClientId, InodeId, Partition, ServerId, Status};
use fs_server::kv::{Batch, Kv, KvError};
use fs_server::namespace::{NewInode, encode_record, keys, new_inode};
use std::ops::ControlFlow;

pub const THREADS: u64 = 2;
pub const DIR_FILES: u64 = 10_000;

/// Scrambles a number: every run draws the same.
pub fn mix(mut n: u64) -> u64 {
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// The directory of file n: partitions are drawn by hash, as a server's are.
fn dir_of(n: u64) -> InodeId {
    let dir = n / DIR_FILES;
    InodeId::allocate(Partition(mix(dir) as u16), ServerId(1), 1_000 + dir).expect("fits")
}

fn inode_of(n: u64) -> InodeId {
    InodeId::allocate(dir_of(n).partition(), ServerId(1), 1 << 30 | n).expect("fits")
}

fn name_of(n: u64) -> String {
    format!("file.mdtest.{}.{n}", n / DIR_FILES)
}

fn record(ino: InodeId, kind: FileKind, parent: InodeId, name: &str, n: u64) -> InodeRecord {
    new_inode(NewInode {
        ino,
        kind,
        mode: 0o644,
        uid: 1_000,
        gid: 1_000,
        parent,
        name: Bytes::copy_from_slice(name.as_bytes()),
        layout: Layout::default(),
        now: 1_700_000_000_000_000_000 + n as TimeNs * 1_000,
    })
}

fn touch_and_remember(batch: &mut Batch, n: u64, op: Op) {
    let dir = dir_of(n);
    batch.put(keys::inode(dir), encode_record(&record(dir, FileKind::Directory, InodeId::ROOT, "mdtest", n)));
    let result = RequestResult { count: n, op, status: Status::Ok, ino: inode_of(n) };
    batch.put(keys::remembered(ClientId(77), (n / DIR_FILES % THREADS) as u16), encode_record(&result));
}

/// An entry, an inode, the touched parent, and what the client's lane asked last: one batch.
pub fn create(kv: &dyn Kv, n: u64) -> Result<(), KvError> {
    let (dir, ino, name) = (dir_of(n), inode_of(n), name_of(n));
    let mut batch = Batch::new();
    batch.put(keys::entry(dir, name.as_bytes()), encode_record(&EntryRecord { ino, kind: FileKind::File }));
    batch.put(keys::inode(ino), encode_record(&record(ino, FileKind::File, dir, &name, n)));
    touch_and_remember(&mut batch, n, Op::Create);
    kv.commit(batch)
}

pub fn delete(kv: &dyn Kv, n: u64) -> Result<(), KvError> {
    let mut batch = Batch::new();
    batch.delete(keys::entry(dir_of(n), name_of(n).as_bytes()));
    batch.delete(keys::inode(inode_of(n)));
    touch_and_remember(&mut batch, n, Op::Unlink);
    kv.commit(batch)
}

/// Whether file n is there, entry and inode.
pub fn lookup(kv: &dyn Kv, n: u64) -> Result<bool, KvError> {
    let Some(_) = kv.get(&keys::entry(dir_of(n), name_of(n).as_bytes()))? else { return Ok(false) };
    Ok(kv.get(&keys::inode(inode_of(n)))?.is_some_and(|inode| inode.len() > 100))
}

/// Entries of the directory of file n, each with its inode.
pub fn list(kv: &dyn Kv, n: u64) -> Result<u64, KvError> {
    let dir = dir_of(n);
    let mut found = Vec::new();
    kv.scan(&keys::entries_after(dir, 0), &keys::entries_end(dir), &mut |_, value| {
        // Version, then the inode's number.
        found.push(u64::from_le_bytes(value[1..9].try_into().expect("an entry")));
        ControlFlow::Continue(())
    })?;
    for ino in &found {
        assert!(kv.get(&keys::inode(InodeId(*ino)))?.is_some(), "an entry without inode");
    }
    Ok(found.len() as u64)
}
