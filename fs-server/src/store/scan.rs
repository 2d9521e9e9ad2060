//! Reading the headers of a segment, however damaged it is. Data is not read. Blocks that the device cannot read count as zeros.
//!
//! # Invariants
//! - A record is found if its header or the repetition at its end is whole and it lies between whole neighbours or gaps;
//!   whatever is between records is told as a gap (`tests/store`, `torn_tails_keep_every_whole_record`).
//! - Every step moves forward: any bytes end the scan.

use super::disk::{self, Lost, SegmentFile};
use super::format::{self, HEADER_BYTES, Header, Kind, UNIT_BYTES};
use fs_proto::checksum::BLOCK_BYTES;
use std::cell::RefCell;
use std::io;

/// A record as the scan found it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub header: Header,
    /// The header at its begin was whole.
    pub has_front: bool,
    /// The repetition at its end was whole, so that all of it was written before its process died.
    pub has_back: bool,
}

/// A segment as the scan found it.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The boot that wrote it; `None` if its head is damaged.
    pub boot_id: Option<u128>,
    /// Records in the order of their positions.
    pub records: Vec<Found>,
    /// What lies between records: first unit and number of units.
    pub gaps: Vec<(u32, u32)>,
    /// Where a record behind the last would begin.
    pub end_unit: u32,
    /// Blocks that could not be read.
    pub lost: Lost,
}

/// Scans a segment.
pub(super) fn scan(file: &dyn SegmentFile, segment: u32, store_id: u64) -> io::Result<Scan> {
    let (mut bytes, mut lost) = ([0; UNIT_BYTES as usize], Lost::new());
    disk::read_around(file, &mut bytes, 0, &mut lost)?;
    let boot_id = format::decode_segment_head(&bytes, segment);
    let units = file.bytes()?.div_ceil(UNIT_BYTES) as u32;
    let scanner =
        Scanner { file, segment, store_id, units, window: RefCell::default(), lost: RefCell::new(lost) };
    let begin = format::FIRST_UNIT;
    let mut out = Scan { boot_id, end_unit: begin, ..Scan::default() };
    let (_, mut next) = scanner.joint(begin)?;
    while out.end_unit < units {
        let found = if let Some(header) = next {
            let (back, after) = scanner.joint(header.end().unit)?;
            next = after;
            let has_back = !has_repetition(&header) || back == Some(header);
            Found { header, has_front: true, has_back }
        } else {
            let Some((found, after)) = scanner.search(out.end_unit)? else { break };
            next = after;
            found
        };
        let at = found.header.at.unit;
        if at > out.end_unit {
            out.gaps.push((out.end_unit, at - out.end_unit));
        }
        out.end_unit = found.header.end().unit;
        out.records.push(found);
    }
    out.lost = scanner.lost.into_inner();
    Ok(out)
}

fn has_repetition(header: &Header) -> bool {
    header.kind != Kind::Void
}

struct Scanner<'a> {
    file: &'a dyn SegmentFile,
    segment: u32,
    store_id: u64,
    units: u32,
    /// What was read last, and from where: a void record that fills up a block is beside the record before it.
    window: RefCell<(u64, Vec<u8>)>,
    lost: RefCell<Lost>,
}

/// Bytes of the window: the block in which a record ends, and the begin of the next.
const WINDOW_BYTES: usize = 2 * BLOCK_BYTES;

/// Units looked at with one read when searching.
const WINDOW_UNITS: u32 = 256;

impl Scanner<'_> {
    /// What is around the end of a record at `unit`: its repetition before it, and the header of the next.
    fn joint(&self, unit: u32) -> io::Result<(Option<Header>, Option<Header>)> {
        let at = u64::from(unit) * UNIT_BYTES - HEADER_BYTES as u64;
        let (from, bytes) = &mut *self.window.borrow_mut();
        if at < *from || at + 2 * HEADER_BYTES as u64 > *from + bytes.len() as u64 {
            *from = at / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
            bytes.resize(WINDOW_BYTES, 0);
            disk::read_around(self.file, bytes, *from, &mut self.lost.borrow_mut())?;
        }
        let joint = &bytes[(at - *from) as usize..][..2 * HEADER_BYTES];
        let (back, front) = joint.split_at(HEADER_BYTES);
        Ok((self.back(back, unit), self.front(front, unit)))
    }

    fn decode(&self, bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
        Header::decode(bytes, self.store_id).filter(|h| h.at.segment == self.segment && h.at.unit > 0)
    }

    fn front(&self, bytes: &[u8], unit: u32) -> Option<Header> {
        self.decode(bytes).filter(|h| h.at.unit == unit)
    }

    fn back(&self, bytes: &[u8], unit: u32) -> Option<Header> {
        self.decode(bytes).filter(|h| has_repetition(h) && h.end().unit == unit)
    }

    /// The next record behind a place where none begins, and the header that follows it.
    fn search(&self, from: u32) -> io::Result<Option<(Found, Option<Header>)>> {
        let mut window = vec![0; HEADER_BYTES + WINDOW_UNITS as usize * UNIT_BYTES as usize];
        let mut base = from + 1;
        while base <= self.units {
            let at = u64::from(base) * UNIT_BYTES - HEADER_BYTES as u64;
            disk::read_around(self.file, &mut window, at, &mut self.lost.borrow_mut())?;
            for index in 0..WINDOW_UNITS {
                let unit = base + index;
                let joint = &window[index as usize * UNIT_BYTES as usize..][..2 * HEADER_BYTES];
                let (back, front) = joint.split_at(HEADER_BYTES);
                if let Some(header) = self.back(back, unit).filter(|h| h.at.unit >= from) {
                    let found = Found { header, has_front: false, has_back: true };
                    return Ok(Some((found, self.front(front, unit))));
                }
                if let Some(header) = self.front(front, unit) {
                    let (back, after) = self.joint(header.end().unit)?;
                    let has_back = !has_repetition(&header) || back == Some(header);
                    return Ok(Some((Found { header, has_front: true, has_back }, after)));
                }
            }
            base += WINDOW_UNITS;
        }
        Ok(None)
    }
}
