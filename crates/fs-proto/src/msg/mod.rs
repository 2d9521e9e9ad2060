//! The messages, one file a family. Every request names its reply in a `request!` table at the end of its file.
//!
//! A request's meta part is a [`Caller`] followed by the request itself; a reply's is the reply, or a `String` for
//! people when the status is not `Ok`.

pub mod admin;
pub mod chunk;
pub mod hot;
pub mod inode;
pub mod lock;
pub mod name;
pub mod node;
pub mod overflow;
pub mod scrub;
pub mod session;
pub mod small;
pub mod tier;
pub mod transaction;
pub mod vault;

use crate::wire::wire_struct;

wire_struct! {
    /// On whose behalf a request is made.
    pub struct Caller {
        /// User.
        pub uid: u32,
        /// Primary group.
        pub gid: u32,
        /// Supplementary groups.
        pub groups: Vec<u32>,
    }
}

impl Caller {
    /// The superuser, for what servers do of themselves.
    pub const ROOT: Caller = Caller { uid: 0, gid: 0, groups: Vec::new() };

    /// Whether mode bits do not bind this caller.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether the caller is a member of `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}
