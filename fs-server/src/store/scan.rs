//! Reading the headers of a segment, however damaged it is. Data is not read.
//!
//! # Invariants
//! - A record is found if its header or the repetition at its end is whole and it lies between whole neighbours or gaps;
//!   whatever is between records is told as a gap (`tests/store`, `torn_tails_keep_every_whole_record`).
//! - Every step moves forward: any bytes end the scan.

use super::device;
use super::format::{self, HEADER_BYTES, Header, Kind, UNIT_BYTES};
use std::fs::File;
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
    /// Boot of the kernel that wrote it; `None` if the head is damaged.
    pub boot_id: Option<u128>,
    /// Records in the order of their positions.
    pub records: Vec<Found>,
    /// What lies between records: first unit and number of units.
    pub gaps: Vec<(u32, u32)>,
    /// The unit behind the last record.
    pub end_unit: u32,
}

/// Scans a segment.
pub(super) fn scan(file: &File, segment: u32, store_id: u64) -> io::Result<Scan> {
    let mut head = [0; UNIT_BYTES as usize];
    device::read_padded(file, &mut head, 0)?;
    let units = file.metadata()?.len().div_ceil(UNIT_BYTES) as u32;
    let scanner = Scanner { file, segment, store_id, units };
    let boot_id = format::decode_segment_head(&head, segment);
    let mut out = Scan { boot_id, end_unit: 1, ..Scan::default() };
    let (_, mut next) = scanner.joint(1)?;
    while out.end_unit < units {
        let found = if let Some(header) = next {
            let (back, after) = scanner.joint(header.end().unit)?;
            next = after;
            let has_back = header.kind == Kind::Void || back == Some(header);
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
    Ok(out)
}

struct Scanner<'a> {
    file: &'a File,
    segment: u32,
    store_id: u64,
    units: u32,
}

/// Units looked at with one read when searching.
const WINDOW_UNITS: u32 = 256;

impl Scanner<'_> {
    /// What is around the begin of `unit`: the repetition that ends before it, and the header that begins at it.
    fn joint(&self, unit: u32) -> io::Result<(Option<Header>, Option<Header>)> {
        let mut bytes = [0; 2 * HEADER_BYTES];
        let at = u64::from(unit) * UNIT_BYTES - HEADER_BYTES as u64;
        device::read_padded(self.file, &mut bytes, at)?;
        Ok((self.back(&bytes[..HEADER_BYTES], unit), self.front(&bytes[HEADER_BYTES..], unit)))
    }

    fn decode(&self, bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
        Header::decode(bytes, self.store_id).filter(|h| h.at.segment == self.segment && h.at.unit > 0)
    }

    fn front(&self, bytes: &[u8], unit: u32) -> Option<Header> {
        self.decode(bytes).filter(|h| h.at.unit == unit)
    }

    fn back(&self, bytes: &[u8], unit: u32) -> Option<Header> {
        self.decode(bytes).filter(|h| h.kind != Kind::Void && h.end().unit == unit)
    }

    /// The next record behind a place where none begins, and the header that follows it.
    fn search(&self, from: u32) -> io::Result<Option<(Found, Option<Header>)>> {
        let mut window = vec![0; HEADER_BYTES + WINDOW_UNITS as usize * UNIT_BYTES as usize];
        let mut base = from + 1;
        while base <= self.units {
            let at = u64::from(base) * UNIT_BYTES - HEADER_BYTES as u64;
            device::read_padded(self.file, &mut window, at)?;
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
                    let has_back = header.kind == Kind::Void || back == Some(header);
                    return Ok(Some((Found { header, has_front: true, has_back }, after)));
                }
            }
            base += WINDOW_UNITS;
        }
        Ok(None)
    }
}
