//! Verified reads of records.
//!
//! # Invariants
//! - Nothing that did not match its CRC is left in the caller's buffer (`tests/store`, `flipped_bits_are_never_returned`), unless the caller compares: then what comes
//!   with it is the CRC of what was written (`tests/store`, `who_compares_itself_is_told_what_was_written`).

use super::crc_cache::{CrcCache, Sums};
use super::disk::{self, Lost, SegmentFile};
use super::extent::Place;
use super::format::{BlockSpan, HEADER_BYTES, Header, Shape};
use fs_proto::checksum::{BLOCK_BYTES, combine, crc};
use std::io::{self, IoSliceMut};

/// Most that is read before it is verified: stays in the second level of a CPU's cache.
const PIECE_BYTES: usize = 256 << 10;

/// Who compares what is read with its CRCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// The store. It returns nothing that does not match.
    Here,
    /// Who reads, by the CRC that is returned. Only blocks that are read in part are compared here, as that CRC is known of no part.
    ByReader,
}

/// Why a record cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is not there any more: it does not match its checksum, or the device cannot read it.
    Corrupt,
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if disk::is_unreadable(&error) { Fault::Corrupt } else { Fault::Io(error) }
    }
}

/// A record in an open file.
pub(super) struct Source<'a> {
    pub file: &'a dyn SegmentFile,
    pub place: Place,
    pub store_id: u64,
}

impl<'a> Source<'a> {
    /// The data of the record with this header.
    pub fn of(file: &'a dyn SegmentFile, header: &Header, store_id: u64) -> Self {
        Source { file, place: Place { segment: header.at.segment, shape: header.shape() }, store_id }
    }
}

impl Source<'_> {
    /// Fills `out` with the record's bytes from `start` of the chunk. Returns their CRC.
    pub fn read(&self, cache: &CrcCache, start: u32, out: &mut [u8], compare: Compare) -> Result<u32, Fault> {
        let position = self.place.position();
        let table = if let Some(table) = cache.get(&position) {
            table
        } else {
            let table = Sums::decode(&self.load_table()?);
            cache.insert(position, table.clone());
            table
        };
        self.read_blocks(&table, start, out, compare).inspect_err(|_| out.fill(0))
    }

    /// All data of a record whose header is known, read and verified without the cache.
    pub fn read_whole(&self) -> Result<Vec<u8>, Fault> {
        let table = Sums::decode(&self.load_table()?);
        let mut data = vec![0; self.place.shape.data_bytes as usize];
        self.read_blocks(&table, self.place.shape.offset, &mut data, Compare::Here)?;
        Ok(data)
    }

    /// If one of the record's two headers is damaged, the other, and the byte of the file where it belongs.
    pub fn repair(&self) -> Result<Option<([u8; HEADER_BYTES], u64)>, io::Error> {
        let at = self.place.position().byte();
        let back_at = at + self.place.shape.total_bytes() - HEADER_BYTES as u64;
        let (mut front, mut back) = ([0; HEADER_BYTES], [0; HEADER_BYTES]);
        let mut lost = Lost::new();
        disk::read_around(self.file, &mut front, at, &mut lost)?;
        disk::read_around(self.file, &mut back, back_at, &mut lost)?;
        Ok(match (self.decode(&front), self.decode(&back)) {
            (Some(_), None) => Some((front, back_at)),
            (None, Some(_)) => Some((back, at)),
            _ => None,
        })
    }

    /// The record's block CRCs, verified. Their own CRC is in the header, or, if that is damaged, in its repetition.
    pub fn load_table(&self) -> Result<Vec<u8>, Fault> {
        let shape = self.place.shape;
        let at = self.place.position().byte();
        let mut front = vec![0; HEADER_BYTES + 4 * shape.blocks()];
        disk::read_padded(self.file, &mut front, at)?;
        if let Some(table) = self.table_in(&front) {
            return Ok(table.to_vec());
        }
        let mut back = [0; HEADER_BYTES];
        disk::read_padded(self.file, &mut back, at + shape.total_bytes() - HEADER_BYTES as u64)?;
        front[..HEADER_BYTES].copy_from_slice(&back);
        self.table_in(&front).map(<[u8]>::to_vec).ok_or(Fault::Corrupt)
    }

    /// The block CRCs in the begin of the record, if they match the header in it.
    pub fn table_in<'b>(&self, front: &'b [u8]) -> Option<&'b [u8]> {
        let (header, table) = front.split_first_chunk::<HEADER_BYTES>()?;
        let header = self.decode(header)?;
        (header.table_crc == crc(table)).then_some(table)
    }

    fn decode(&self, bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let is_this = |h: &Header| h.at == self.place.position() && h.shape() == self.place.shape;
        Header::decode(bytes, self.store_id).filter(is_this)
    }

    /// Reads the blocks that cover the range: those that lie wholly in it in pieces that are verified while the CPU's
    /// cache has them, the others through a block of their own.
    fn read_blocks(&self, table: &Sums, start: u32, out: &mut [u8], compare: Compare) -> Result<u32, Fault> {
        let span = BlockSpan::covering(self.place.shape, start, out.len());
        if span.head > 0 || span.tail > 0 {
            return self.read_ragged(table, &span, out, compare);
        }
        if compare == Compare::ByReader {
            let got = self.file.read_at(&mut [IoSliceMut::new(out)], self.place.shape.byte_of(start))?;
            return if got < out.len() {
                Err(Fault::Corrupt)
            } else {
                Ok(table.of_blocks(self.place.shape, span.blocks))
            };
        }
        let (mut start, mut rest, mut sum) = (start, out, 0);
        while !rest.is_empty() {
            // Every piece but the last ends with a block, wherever the record begins.
            let len = rest.len().min(PIECE_BYTES - start as usize % BLOCK_BYTES);
            let (piece, behind) = rest.split_at_mut(len);
            sum = self.read_whole_blocks(table, start, piece, sum)?;
            (start, rest) = (start + len as u32, behind);
        }
        Ok(sum)
    }

    /// Returns the CRC of what `sum` is of and these blocks together.
    fn read_whole_blocks(&self, table: &Sums, start: u32, out: &mut [u8], sum: u32) -> Result<u32, Fault> {
        let shape = self.place.shape;
        let got = self.file.read_at(&mut [IoSliceMut::new(out)], shape.byte_of(start))?;
        let (mut at, mut sum) = (0, sum);
        for block in shape.block_of(start)..=shape.block_of(start + out.len() as u32 - 1) {
            let end = at + shape.block_range(block).len();
            let known = table.of_block(block);
            if got < end || crc(&out[at..end]) != known {
                return Err(Fault::Corrupt);
            }
            sum = combine(sum, known, (end - at) as u64);
            at = end;
        }
        Ok(sum)
    }

    /// With one call, the ends that are not wanted aside.
    fn read_ragged(
        &self,
        table: &Sums,
        span: &BlockSpan,
        out: &mut [u8],
        compare: Compare,
    ) -> Result<u32, Fault> {
        let shape = self.place.shape;
        let (mut head, mut tail) = ([0; BLOCK_BYTES], [0; BLOCK_BYTES]);
        let (head, tail) = (&mut head[..span.head], &mut tail[..span.tail]);
        let want = head.len() + out.len() + tail.len();
        let mut parts = [IoSliceMut::new(head), IoSliceMut::new(out), IoSliceMut::new(tail)];
        if self.file.read_at(&mut parts, shape.byte_of(span.start))? < want {
            return Err(Fault::Corrupt);
        }
        verify(shape, span, table, [head, out, tail], compare).ok_or(Fault::Corrupt)
    }
}

/// The CRC of the second of `parts`, which laid end to end are the blocks of `span`, if all blocks match theirs that are to be compared here.
pub(super) fn verify(
    shape: Shape,
    span: &BlockSpan,
    table: &Sums,
    parts: [&[u8]; 3],
    compare: Compare,
) -> Option<u32> {
    if compare == Compare::ByReader && span.head + span.tail == 0 {
        return Some(table.of_blocks(shape, span.blocks.clone()));
    }
    let mut sum = 0;
    for block in span.blocks.clone() {
        let range = shape.block_range(block);
        let (from, to) = ((range.start - span.start) as usize, (range.end - span.start) as usize);
        let [head, middle, tail] = within(parts, from, to);
        let (is_whole, known) = (head.is_empty() && tail.is_empty(), table.of_block(block));
        let own = if is_whole && compare == Compare::ByReader { known } else { crc(middle) };
        let whole = if is_whole {
            own
        } else {
            let begin = combine(crc(head), own, middle.len() as u64);
            combine(begin, crc(tail), tail.len() as u64)
        };
        if whole != known {
            return None;
        }
        sum = combine(sum, own, middle.len() as u64);
    }
    Some(sum)
}

/// What of the parts laid end to end is in bytes `from..to`.
fn within(parts: [&[u8]; 3], from: usize, to: usize) -> [&[u8]; 3] {
    let mut begin = 0;
    parts.map(|part| {
        let at = |place: usize| place.clamp(begin, begin + part.len()) - begin;
        let here = &part[at(from)..at(to)];
        begin += part.len();
        here
    })
}
