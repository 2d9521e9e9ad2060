//! Hayate as an ordinary directory: a FUSE adapter over [`fs_client`].
//!
//! The adapter only translates. It speaks to the kernel through `fuser` (no libfuse); every FUSE thread calls the blocking
//! client, which has connections of its own for each thread, so no request is handed from thread to thread.
//!
//! | module | what |
//! |---|---|
//! | [`options`] | how to mount |
//! | `check` | whether a directory can be mounted on, and removal of a dead mount of ours |
//! | `live` | mounting, waiting, unmounting |
//! | `kernel` | mount(2), umount2(2), fusermount3, mountinfo |
//! | `adapter` | the operations, one file a family |
//! | `translate` | attributes, modes, flags and times, as pure functions |
//! | `capabilities` | what is asked of the kernel at the start |
//! | `dir_stream` | cutting the client's large pages into the kernel's small ones |
//! | `handles` | open files and directories |
//! | `open_inodes` | which inodes are open, and which may have setuid bits |
//! | `passing` | which of the kernel's inodes are open past this process, and what others are for the same file |
//! | `lock_desk` | the thread on which locks are waited for |
//! | `recent` | a bounded map that forgets the oldest |
//! | `error` | what can go wrong when mounting; `failure`: errno of operations |
//!
//! # What a mount promises
//! - Close-to-open: what was written before a close is seen by every open after it, on any node. In between, the page cache may
//!   show data up to `attr_timeout` old; `direct_io` (or `O_DIRECT`) goes past it.
//! - Names that do not exist are never cached; names and attributes that exist are, for `entry_timeout` and `attr_timeout`.
//! - Files that are opened with `O_APPEND` bypass the page cache: the home of the inode chooses where each write goes, because other
//!   nodes may append as well.
//! - Permissions are checked by the kernel (`default_permissions`), with its cached attributes. Setuid and setgid bits fall at
//!   writes, truncation and changes of owner; programs are never started with them (`nosuid`), device nodes never opened
//!   (`nodev`).
//! - flock(2) and fcntl(2) locks are those of the whole cluster. Who gets a lock sees what those before wrote under it: what was written is
//!   published before a lock is given back, and the kernel's copy of a file that has changed is dropped before a lock is answered.
//! - Access control lists are the kernel's to check and the servers' to keep: the kernel asks for them as it asks for attributes, and an inode
//!   that has none is known by its attributes.
//! - Copies by copy_file_range(2) are made by the servers; the kernel drops its pages of the range.
//! - Holes can be made (fallocate(2)) and found (lseek(2)); what was written through a memory map and not synced is not data to a seek.
//!   Allocation is shown as the size.
//!
//! # Invariants
//! - An inode's number in FUSE is its number in Hayate, but for some with passthrough (`passing`); numbers are never used again, so the generation is always 0.
//! - A panic in an operation answers `EIO` and does not end the mount (`failure::tests::a_panic_becomes_eio`).
//! - Memory is bounded: four tables of recent inodes, and what the applications hold open.
//!
//! Deliberately absent: a write-back cache unless asked for (another node would not see what write(2) returned for), negative entries (another
//! node's new file must be found at once).

mod adapter;
mod capabilities;
mod check;
mod dir_stream;
pub mod error;
mod failure;
mod handles;
mod kernel;
mod live;
mod lock_desk;
mod open_inodes;
pub mod options;
mod passing;
mod recent;
mod translate;

pub use check::check_mount_point;
pub use error::MountError;
pub use live::{Mounted, Unmounter, mount};
pub use options::MountOptions;
