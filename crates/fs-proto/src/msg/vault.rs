//! Objects that one server keeps outside of the namespace, for copies that must survive the loss of another server.
//!
//! An object is a key, a small value, and chunks under an inode number that no name leads to. Its bytes are written and read with the
//! operations on chunks, sent to that server.

use bytes::Bytes;

use crate::ids::InodeId;
use crate::op::request;
use crate::wire::wire_struct;

/// Longest key, in bytes.
pub const VAULT_KEY_MAX: usize = 1024;
/// Longest value, in bytes.
pub const VAULT_VALUE_MAX: usize = 4096;

wire_struct! {
    /// Keep an object under this key; the value replaces that of an object that is there, whose chunks stay. Goes to a server.
    pub struct VaultPut {
        /// Its name.
        pub key: Bytes,
        /// What is remembered with it.
        pub value: Bytes,
    }
}

wire_struct! {
    /// Objects whose keys begin so, in the order of keys. Goes to a server.
    pub struct VaultList {
        /// How keys begin.
        pub prefix: Bytes,
        /// Only those behind this key; empty for the first page.
        pub after: Bytes,
    }
}

wire_struct! {
    /// A page of objects.
    pub struct VaultPage {
        /// A number that the server drew when its store was made: a store that was lost and made anew has another.
        pub store: u64,
        /// The objects.
        pub objects: Vec<VaultObject>,
        /// There are no more.
        pub end: bool,
    }
}

wire_struct! {
    /// An object of a server.
    pub struct VaultObject {
        /// Its name.
        pub key: Bytes,
        /// Where its chunks are.
        pub ino: InodeId,
        /// What is remembered with it.
        pub value: Bytes,
    }
}

wire_struct! {
    /// Remove objects whose keys begin so, with their chunks: some thousands. The answer says whether there are none left. Goes to a server.
    pub struct VaultDrop {
        /// How keys begin; not empty.
        pub prefix: Bytes,
    }
}

request! {
    VaultPut => VaultPut -> InodeId;
    VaultList => VaultList -> VaultPage;
    VaultDrop => VaultDrop -> bool;
}
