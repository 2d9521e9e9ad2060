//! Contents of small files, beside their inodes.
//!
//! # Invariants
//! - A content is only changed in one batch with its inode, under the inode's stripe: whoever holds that sees both of one state
//!   (`tests/tests/small.rs`, `racing_writers_leave_what_one_of_them_wrote`).
//! - A content is not longer than its file; what it lacks is zeros.
//! - A content whose checksum does not match is an error, never data (`damaged_content_is_an_error`).

use std::ops::{ControlFlow, Range};

use bytes::{BufMut, Bytes, BytesMut};
use fs_proto::checksum::crc;
use fs_proto::record::{InlineRecord, RECORD_VERSION};
use fs_proto::{InodeId, Status, Wire};

use super::{Namespace, decode_record, keys};
use crate::error::{OpError, OpResult};
use crate::hash::Map;

/// What the stored form of a content has besides its bytes, at most.
const BESIDES: usize = 16;

/// A content of `data`.
pub fn content(data: Bytes) -> InlineRecord {
    InlineRecord { crc: crc(&data), data }
}

/// The stored form: as any record's, without growing on the way.
pub fn encoded(record: &InlineRecord) -> Bytes {
    let mut out = BytesMut::with_capacity(BESIDES + record.data.len());
    out.put_u8(RECORD_VERSION);
    record.put(&mut out);
    out.freeze()
}

/// `record`, if its bytes are those that were written.
pub fn checked(record: InlineRecord) -> OpResult<InlineRecord> {
    if crc(&record.data) == record.crc {
        return Ok(record);
    }
    Err(OpError::new(Status::Corrupt, "the stored content of a small file does not match its checksum"))
}

/// `old` with the bytes of `new`, whose checksum was verified, written at `offset`; the file has `size` bytes before.
pub fn overwritten(
    old: Option<InlineRecord>,
    size: u64,
    offset: usize,
    new: InlineRecord,
) -> OpResult<InlineRecord> {
    if offset == 0 && new.data.len() as u64 >= size {
        return Ok(new);
    }
    let data = new.data;
    let old = old.map(checked).transpose()?.map(|record| record.data).unwrap_or_default();
    let end = offset + data.len();
    let mut whole = BytesMut::zeroed(old.len().max(end));
    whole[..old.len()].copy_from_slice(&old);
    whole[offset..end].copy_from_slice(&data);
    Ok(content(whole.freeze()))
}

/// The first `size` bytes of a content, or None if that changes nothing.
pub fn cut(old: InlineRecord, size: u64) -> OpResult<Option<InlineRecord>> {
    if old.data.len() as u64 <= size {
        return Ok(None);
    }
    Ok(Some(content(checked(old)?.data.slice(..size as usize))))
}

/// A content with a hole: cut if the hole reaches its end, as what it lacks is zeros. None if that changes nothing.
pub fn punched(old: InlineRecord, hole: Range<u64>) -> OpResult<Option<InlineRecord>> {
    let len = old.data.len() as u64;
    if hole.start >= len || hole.is_empty() {
        return Ok(None);
    }
    if hole.end >= len {
        return cut(old, hole.start);
    }
    let mut whole = BytesMut::from(&checked(old)?.data[..]);
    whole[hole.start as usize..hole.end as usize].fill(0);
    Ok(Some(content(whole.freeze())))
}

/// All `size` bytes of a file, with their checksum: as stored if nothing is missing, for the reader to check.
pub fn whole(record: Option<InlineRecord>, size: u64) -> OpResult<InlineRecord> {
    let record = record.unwrap_or_else(|| content(Bytes::new()));
    if record.data.len() as u64 == size {
        return Ok(record);
    }
    let data = checked(record)?.data;
    let mut padded = BytesMut::zeroed(size as usize);
    padded[..data.len()].copy_from_slice(&data);
    Ok(content(padded.freeze()))
}

impl Namespace {
    /// The content of a small file, for code inside a lock section; None if nothing was written.
    pub fn inline(&self, ino: InodeId) -> OpResult<Option<InlineRecord>> {
        self.record(&keys::inline(ino))
    }

    /// Those of all inodes from `first` to `last`, one behind the other in memory. None if they are more than `limit`; `bytes`: about as many as they have.
    pub fn inline_between(
        &self,
        (first, last): (InodeId, InodeId),
        limit: usize,
        bytes: usize,
    ) -> OpResult<Option<Map<InodeId, InlineRecord>>> {
        let mut room = BytesMut::with_capacity(bytes + BESIDES * limit);
        let (mut found, mut failure, mut is_more) = (Map::default(), None, false);
        let ((from, _), (_, to)) = (keys::range_of(b'f', first), keys::range_of(b'f', last));
        self.kv.scan(&from, &to, &mut |key, value| {
            is_more = found.len() == limit;
            let Some(ino) = keys::split_inode(key).filter(|_| !is_more) else {
                return ControlFlow::Break(());
            };
            room.extend_from_slice(value);
            match decode_record(room.split().freeze()) {
                Ok(record) => drop(found.insert(ino, record)),
                Err(error) => failure = Some(error),
            }
            if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failure.map_or(Ok((!is_more).then_some(found)), Err)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: contents after writes and cuts, with holes. Method: small cases by hand.
    use super::*;

    fn record(text: &'static str) -> InlineRecord {
        content(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn writes_leave_the_rest_and_fill_holes_with_zeros() {
        let write = |old, size, offset, text: &'static str| {
            overwritten(old, size, offset, record(text)).unwrap().data
        };
        assert_eq!(write(None, 0, 0, "abc"), "abc");
        assert_eq!(write(None, 0, 2, "abc"), "\0\0abc");
        assert_eq!(write(Some(record("abcdef")), 6, 2, "XY"), "abXYef");
        assert_eq!(write(Some(record("abcdef")), 6, 5, "XY"), "abcdeXY");
        assert_eq!(
            write(Some(record("ab")), 6, 0, "XYZ"),
            "XYZ",
            "what the file has beyond it is zeros already"
        );
        assert_eq!(write(Some(record("abc")), 3, 0, "XYZ"), "XYZ");
    }

    #[test]
    fn cuts_and_padding_keep_the_size() {
        assert_eq!(cut(record("abc"), 2).unwrap().unwrap().data, "ab");
        assert_eq!(cut(record("abc"), 3).unwrap(), None);
        assert_eq!(whole(Some(record("abc")), 5).unwrap(), record("abc\0\0"));
        assert_eq!(whole(None, 1).unwrap(), record("\0"));
        assert_eq!(whole(None, 0).unwrap(), record(""));
    }

    #[test]
    fn holes_are_zeros_and_none_are_stored_at_the_end() {
        let punch =
            |from, to| punched(record("abcdef"), from..to).unwrap().map(|content| content.data.to_vec());
        assert_eq!(punch(1, 3).unwrap(), b"a\0\0def");
        assert_eq!(punch(4, 6).unwrap(), b"abcd");
        assert_eq!(punch(2, u64::MAX).unwrap(), b"ab");
        assert_eq!(punch(0, 9).unwrap(), b"");
        assert_eq!((punch(6, 9), punch(2, 2)), (None, None));
    }

    #[test]
    fn damaged_content_is_an_error() {
        let damaged = InlineRecord { crc: 1, data: Bytes::from_static(b"abc") };
        let errors = [
            overwritten(Some(damaged.clone()), 3, 1, record("x")).unwrap_err(),
            cut(damaged.clone(), 1).unwrap_err(),
            whole(Some(damaged), 4).unwrap_err(),
        ];
        assert!(errors.iter().all(|error| error.status == Status::Corrupt));
    }
}
