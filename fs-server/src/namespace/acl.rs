//! POSIX access control lists: what they say, and how they change with the mode. Pure.
//!
//! A list is kept as the extended attribute that Linux passes to file systems, validated before it is stored:
//!
//! ```text
//! version:u32 = 2, then entries: tag:u16 perm:u16 id:u32                    little-endian
//! tags: 0x01 owner, 0x02 user, 0x04 owning group, 0x08 group, 0x10 mask, 0x20 others; id of user and group only
//! ```
//!
//! # Invariants
//! - A stored access list has named entries or a mask; what mode bits say alone is kept in mode bits alone
//!   (`a_list_that_mode_bits_say_is_not_kept`).
//! - Mode bits and list agree: owner and others are equal, the group's bits are the mask
//!   (`the_mode_and_the_list_follow_each_other`). Against the lists of a local file system: `tests/e2e/acl.py`.

use bytes::{BufMut, Bytes, BytesMut};
use fs_proto::Status;
use fs_proto::msg::Caller;

use crate::error::{OpError, OpResult};

/// The attribute that says who may use an object.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of a directory that says what is made in it begins with.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const HEADER: usize = 4;
const ENTRY: usize = 8;
const VERSION: u32 = 2;
/// What Linux takes through FUSE: a page.
const BYTES_MAX: usize = 4096;

const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHERS: u16 = 0x20;
/// The id of entries that need none.
const NO_ID: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

fn entries(list: &[u8]) -> impl Iterator<Item = Entry> + '_ {
    list.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY).map(|raw| Entry {
        tag: u16::from_le_bytes([raw[0], raw[1]]),
        perm: u16::from_le_bytes([raw[2], raw[3]]),
        id: u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]),
    })
}

fn encode(entries: impl Iterator<Item = Entry>) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_u32_le(VERSION);
    for entry in entries {
        out.put_u16_le(entry.tag);
        out.put_u16_le(entry.perm);
        out.put_u32_le(entry.id);
    }
    out.freeze()
}

/// The list that a caller gives, as it is stored; None if it is empty.
///
/// # Errors
/// Invalid if it is not a list by the rules of POSIX 1003.1e; out of range if it has more than 511 entries.
pub fn validated(value: &[u8]) -> OpResult<Option<Bytes>> {
    const BAD: OpError = OpError::new(Status::Invalid, "not a valid access control list");
    if value.len() > BYTES_MAX {
        return Err(OpError::new(Status::OutOfRange, "an access control list has at most 511 entries"));
    }
    let version = value.first_chunk::<HEADER>().map(|raw| u32::from_le_bytes(*raw));
    if version != Some(VERSION) || !(value.len() - HEADER).is_multiple_of(ENTRY) {
        return Err(BAD);
    }
    if value.len() == HEADER {
        return Ok(None);
    }
    if !is_in_order(value) {
        return Err(BAD);
    }
    let plain = |entry: Entry| {
        if matches!(entry.tag, USER | GROUP) { entry } else { Entry { id: NO_ID, ..entry } }
    };
    Ok(Some(encode(entries(value).map(plain))))
}

/// One owner, users, one owning group, groups, a mask (not without need), one for others.
fn is_in_order(list: &[u8]) -> bool {
    let (mut last, mut seen) = (0, 0);
    for Entry { tag, perm, id } in entries(list) {
        let named = matches!(tag, USER | GROUP);
        let known = named || matches!(tag, OWNER | OWNING_GROUP | MASK | OTHERS);
        let again = tag == last && !named;
        if !known || perm > 7 || tag < last || again || (named && id == NO_ID) {
            return false;
        }
        last = tag;
        seen |= tag;
    }
    let base = OWNER | OWNING_GROUP | OTHERS;
    let needs_mask = seen & (USER | GROUP) != 0;
    seen & base == base && (!needs_mask || seen & MASK != 0)
}

/// The permission bits (0777) that a list shows as, and whether it says more than they do.
pub fn mode_of(list: &[u8]) -> (u32, bool) {
    let (mut mode, mut mask, mut more) = (0, None, false);
    for Entry { tag, perm, .. } in entries(list) {
        let perm = u32::from(perm);
        match tag {
            OWNER => mode |= perm << 6,
            OWNING_GROUP => mode |= perm << 3,
            OTHERS => mode |= perm,
            MASK => (mask, more) = (Some(perm), true),
            _ => more = true,
        }
    }
    (mask.map_or(mode, |mask| mode & 0o707 | mask << 3), more)
}

/// A list after chmod: the group's bits are the mask's, if there is one.
pub fn with_mode(list: &[u8], mode: u32) -> Bytes {
    let has_mask = entries(list).any(|entry| entry.tag == MASK);
    encode(entries(list).map(|entry| match class_bits(entry.tag, has_mask, mode) {
        Some(perm) => Entry { perm, ..entry },
        None => entry,
    }))
}

/// The bits of `mode` that stand for entries of a tag.
fn class_bits(tag: u16, has_mask: bool, mode: u32) -> Option<u16> {
    let group = if has_mask { MASK } else { OWNING_GROUP };
    let shift = match tag {
        OWNER => 6,
        OTHERS => 0,
        _ if tag == group => 3,
        _ => return None,
    };
    Some((mode >> shift & 7) as u16)
}

/// What is made in a directory with default list `list`, asked for with `mode`: its access list, unless its mode says all, and its mode.
pub fn born_with(list: &[u8], mode: u32) -> (Option<Bytes>, u32) {
    let has_mask = entries(list).any(|entry| entry.tag == MASK);
    let access = encode(entries(list).map(|entry| match class_bits(entry.tag, has_mask, mode) {
        Some(asked) => Entry { perm: entry.perm & asked, ..entry },
        None => entry,
    }));
    let (bits, more) = mode_of(&access);
    (more.then_some(access), mode & !0o777 | bits)
}

/// Whether `caller`, who is neither the owner nor root, may do all of `want` by the list of an object of group `gid`.
pub fn permits(list: &[u8], caller: &Caller, gid: u32, want: u32) -> bool {
    let wanted = want as u16;
    let mask = entries(list).find(|entry| entry.tag == MASK).map_or(7, |entry| entry.perm);
    let mut in_a_group = false;
    for Entry { tag, perm, id } in entries(list) {
        let fits = match tag {
            USER => id == caller.uid,
            OWNING_GROUP => caller.in_group(gid),
            GROUP => caller.in_group(id),
            OTHERS => return !in_a_group && perm & wanted == wanted,
            _ => false,
        };
        if fits && (tag == USER || perm & wanted == wanted) {
            return perm & mask & wanted == wanted;
        }
        in_a_group |= fits;
    }
    false
}

#[cfg(test)]
#[path = "acl_tests.rs"]
mod tests;
