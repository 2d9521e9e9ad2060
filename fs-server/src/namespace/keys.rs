//! Keys of the namespace in the key-value store.
//!
//! ```text
//! 'd' parent:u64 cookie:u64 name...   -> EntryRecord        a directory entry, in listing order
//! 'i' ino:u64                         -> InodeRecord
//! 'l' ino:u64 parent:u64 name...      -> ()                 a further name of an inode (the first is in its record)
//! 'x' ino:u64 name...                 -> value              an extended attribute
//! 's' dir:u64                         -> ShardRecord        this server's part of a wide directory
//! 'o' ino:u64                         -> ()                 an inode without names, not removed yet
//! 'f' ino:u64                         -> InlineRecord       content of a small file, beside its inode
//! 'w' ino:u64                         -> ()                 content that is being moved from 'f' to chunk 0
//! 'z' ino:u64                         -> old and new size  a cut of chunks that has begun
//! 'r' client:u64 lane:u16             -> RequestResult      the last mutation of a client's lane
//! 'p' coordinator:u16 number:u64      -> Prepare            a transaction that was voted for
//! 'c' number:u64                      -> Vec<ServerId>      a transaction of ours that was decided, and who must hear it
//! 'q' parent:u64 cookie:u64 name...   -> ()                 a name that may differ from the shared tier
//! 'Q' dir:u64 parent:u64 name...      -> ()                 a name that is not copied, as the directory's policy is `never`: `flush/never.rs`
//! 'a' ino:u64                         -> ()                 an inode whose copy in the shared tier may differ
//! 't' parent:u64 cookie:u64 name...   -> TierEntry          what the shared tier has under a name
//! 'g' ino:u64                         -> TierLocation       a removed directory that the shared tier still has
//! (and behind the number the byte `o` -> Option<TierSource> something that has not moved from an old tier, and what it was copied from: `backing/migrate`)
//! 'm' name...                         -> value              the server's own facts
//! 'j' client:u64                      -> ()                 a client that may hold locks of files here
//! 'b' ino:u64 chunk:u64               -> ServerId           who holds a chunk of a file in layout `writer`: `pointers.rs`
//! 'h' ino:u64                         -> Option<TierSource> what chunks of a file that are not held here are fetched from: `backing/rows.rs`
//! 'n' ino:u64 chunk:u64               -> ()                 a chunk of such a file that is as it should be although nothing may be held of it
//! 'u' ino:u64 chunk:u64               -> OverflowRecord     a chunk that another server keeps, for want of room here: `overflow/`
//! 'k' lane:u8                         -> count, floor       the batches of a lane of commits: `kv/guard.rs`
//! 'y' key...                          -> VaultRecord        an object outside of the namespace: `vault.rs`
//! 'e', 'v'                                                  the index of the chunk store: `store/rows.rs`
//! ```
//! Integers are big-endian, so that keys sort by them. Values begin with [`fs_proto::record::RECORD_VERSION`]; in the
//! engine a checksum of key and value follows them (`kv/guard.rs`).
//! Inode numbers begin with their partition: what a partition holds is one range of 'd' and 'i'.

use fs_proto::msg::transaction::TransactionId;
use fs_proto::placement::{entry_cookie, name_hash};
use fs_proto::{ChunkIndex, ClientId, InodeId};

/// A key: long enough for a name of 255 bytes.
pub type Key = Vec<u8>;

fn with_ino(kind: u8, ino: InodeId, extra: usize) -> Key {
    let mut key = Vec::with_capacity(9 + extra);
    key.push(kind);
    key.extend_from_slice(&ino.0.to_be_bytes());
    key
}

fn of_chunk(kind: u8, ino: InodeId, chunk: ChunkIndex) -> Key {
    let mut key = with_ino(kind, ino, 8);
    key.extend_from_slice(&chunk.0.to_be_bytes());
    key
}

fn named(kind: u8, parent: InodeId, cookie: u64, name: &[u8]) -> Key {
    let mut key = with_ino(kind, parent, 8 + name.len());
    key.extend_from_slice(&cookie.to_be_bytes());
    key.extend_from_slice(name);
    key
}

/// A directory entry.
pub fn entry(parent: InodeId, name: &[u8]) -> Key {
    named(b'd', parent, entry_cookie(name_hash(parent, name)), name)
}

/// Where entries of `parent` after `cookie` begin.
pub fn entries_after(parent: InodeId, cookie: u64) -> Key {
    named(b'd', parent, cookie.saturating_add(1), b"")
}

/// Where the entries of `parent` end.
pub fn entries_end(parent: InodeId) -> Key {
    with_ino(b'd', InodeId(parent.0.saturating_add(1)), 0)
}

/// Cookie and name of an entry's key ('d', 'q' or 't').
pub fn split_entry(key: &[u8]) -> Option<(InodeId, u64, &[u8])> {
    let parent = u64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
    let cookie = u64::from_be_bytes(key.get(9..17)?.try_into().ok()?);
    Some((InodeId(parent), cookie, &key[17..]))
}

/// An inode.
pub fn inode(ino: InodeId) -> Key {
    with_ino(b'i', ino, 0)
}

/// A further name of an inode.
pub fn link(ino: InodeId, parent: InodeId, name: &[u8]) -> Key {
    let mut key = with_ino(b'l', ino, 8 + name.len());
    key.extend_from_slice(&parent.0.to_be_bytes());
    key.extend_from_slice(name);
    key
}

/// Parent and name of a further name's key.
pub fn split_link(key: &[u8]) -> Option<(InodeId, &[u8])> {
    let parent = u64::from_be_bytes(key.get(9..17)?.try_into().ok()?);
    Some((InodeId(parent), &key[17..]))
}

/// All keys of kind `kind` that belong to `ino`, as a range.
pub fn range_of(kind: u8, ino: InodeId) -> (Key, Key) {
    (with_ino(kind, ino, 0), with_ino(kind, InodeId(ino.0.saturating_add(1)), 0))
}

/// All keys of a kind, as a range.
pub fn range_of_kind(kind: u8) -> (Key, Key) {
    (vec![kind], vec![kind + 1])
}

/// A client that may hold locks.
pub fn lock_client(client: ClientId) -> Key {
    let mut key = vec![b'j'];
    key.extend_from_slice(&client.0.to_be_bytes());
    key
}

/// The client of such a key.
pub fn split_lock_client(key: &[u8]) -> Option<ClientId> {
    Some(ClientId(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?)))
}

/// An extended attribute.
pub fn xattr(ino: InodeId, name: &[u8]) -> Key {
    let mut key = with_ino(b'x', ino, name.len());
    key.extend_from_slice(name);
    key
}

/// This server's part of a wide directory.
pub fn shard(dir: InodeId) -> Key {
    with_ino(b's', dir, 0)
}

/// An inode without names.
pub fn orphan(ino: InodeId) -> Key {
    with_ino(b'o', ino, 0)
}

/// A cut of chunks that has begun.
pub fn cut(ino: InodeId) -> Key {
    with_ino(b'z', ino, 0)
}

/// Content of a small file.
pub fn inline(ino: InodeId) -> Key {
    with_ino(b'f', ino, 0)
}

/// Who holds a chunk.
pub fn pointer(ino: InodeId, chunk: ChunkIndex) -> Key {
    of_chunk(b'b', ino, chunk)
}

/// The chunk of such a key, or of another of one chunk.
pub fn split_chunk(key: &[u8]) -> Option<ChunkIndex> {
    Some(ChunkIndex(u64::from_be_bytes(key.get(9..17)?.try_into().ok()?)))
}

/// A chunk that another server keeps.
pub fn overflow(ino: InodeId, chunk: ChunkIndex) -> Key {
    of_chunk(b'u', ino, chunk)
}

/// What chunks of a file are fetched from.
pub fn source(ino: InodeId) -> Key {
    with_ino(b'h', ino, 0)
}

/// A chunk that is not to be fetched.
pub fn kept_chunk(ino: InodeId, chunk: ChunkIndex) -> Key {
    of_chunk(b'n', ino, chunk)
}

/// Content that is being moved to chunk 0.
pub fn spill(ino: InodeId) -> Key {
    with_ino(b'w', ino, 0)
}

/// The inode number behind a key of one inode ('i', 'o', 'z', 'a', 's').
pub fn split_inode(key: &[u8]) -> Option<InodeId> {
    Some(InodeId(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?)))
}

/// Whether a key is of one inode, or of a name in a directory: [`split_inode`] gives which.
pub fn is_of_inode(key: &[u8]) -> bool {
    key.first().is_some_and(|kind| b"dilxsfwozqQatgbhnu".contains(kind)) && key.len() >= 9
}

/// The last mutation of a client's lane.
pub fn remembered(client: ClientId, lane: u16) -> Key {
    let mut key = vec![b'r'];
    key.extend_from_slice(&client.0.to_be_bytes());
    key.extend_from_slice(&lane.to_be_bytes());
    key
}

/// A transaction that was voted for.
pub fn prepared(id: TransactionId) -> Key {
    let mut key = vec![b'p'];
    key.extend_from_slice(&id.coordinator.0.to_be_bytes());
    key.extend_from_slice(&id.number.to_be_bytes());
    key
}

/// A transaction of ours that was decided.
pub fn decided(number: u64) -> Key {
    let mut key = vec![b'c'];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The number behind a 'c' key.
pub fn split_decided(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?))
}

/// A name that may differ from the shared tier.
pub fn queued_name(parent: InodeId, name: &[u8]) -> Key {
    named(b'q', parent, entry_cookie(name_hash(parent, name)), name)
}

/// A name that waits for another policy of the directory `dir`.
pub fn kept_back(dir: InodeId, parent: InodeId, name: &[u8]) -> Key {
    let mut key = with_ino(b'Q', dir, 8 + name.len());
    key.extend_from_slice(&parent.0.to_be_bytes());
    key.extend_from_slice(name);
    key
}

/// An inode whose copy in the shared tier may differ.
pub fn queued_inode(ino: InodeId) -> Key {
    with_ino(b'a', ino, 0)
}

/// What the shared tier has under a name.
pub fn tier_entry(parent: InodeId, name: &[u8]) -> Key {
    named(b't', parent, entry_cookie(name_hash(parent, name)), name)
}

/// A removed directory that the shared tier still has.
pub fn tier_ghost(ino: InodeId) -> Key {
    with_ino(b'g', ino, 0)
}

/// Something that has not moved from the old tier yet.
pub fn moving(ino: InodeId) -> Key {
    let mut key = with_ino(b'g', ino, 1);
    key.push(b'o');
    key
}

/// The inode of such a key, if it is one.
pub fn split_moving(key: &[u8]) -> Option<InodeId> {
    if key.len() == 10 && key[9] == b'o' { split_inode(key) } else { None }
}

/// An object of the vault.
pub fn vault(key: &[u8]) -> Key {
    let mut whole = Vec::with_capacity(1 + key.len());
    whole.push(b'y');
    whole.extend_from_slice(key);
    whole
}

/// A fact of the server.
pub fn fact(name: &str) -> Key {
    let mut key = vec![b'm'];
    key.extend_from_slice(name.as_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_directory_are_one_range_in_cookie_order() {
        let dir = InodeId(77);
        let key = entry(dir, b"name:with:colons");
        let (parent, cookie, name) = split_entry(&key).unwrap();
        assert_eq!((parent, name), (dir, b"name:with:colons".as_slice()));
        assert!(key >= entries_after(dir, cookie - 1) && key < entries_after(dir, cookie));
        assert!(key < entries_end(dir));
        assert!(entry(InodeId(78), b"a") > entries_end(dir));
    }

    #[test]
    fn kinds_are_told_apart() {
        // Goal: no two tables share a first byte, the chunk store's index and the guard's lanes included.
        let text = include_str!("keys.rs");
        let table = text.lines().take_while(|line| line.starts_with("//!"));
        let mut kinds: Vec<char> = table
            .filter(|line| line.starts_with("//! '"))
            .flat_map(|line| line.split("->").next().unwrap_or("").split('\'').skip(1).step_by(2))
            .filter_map(|quoted| quoted.chars().next())
            .collect();
        let count = kinds.len();
        kinds.sort_unstable();
        kinds.dedup();
        assert!(count >= 20 && kinds.len() == count, "{kinds:?}");
    }

    #[test]
    fn further_names_are_found_from_their_key() {
        let key = link(InodeId(9), InodeId(4), b"other");
        assert_eq!(split_link(&key), Some((InodeId(4), b"other".as_slice())));
        let (from, to) = range_of(b'l', InodeId(9));
        assert!(key >= from && key < to);
    }
}
