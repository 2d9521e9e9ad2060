//! Opening: from segment files to an index.
//!
//! Headers of all segments are scanned. A record is *sound* if both its headers are there and it was written under this
//! boot or lies before the durable mark. Any other is *suspect*, and its data is read:
//!
//! | data matches | before the durable mark | what it is | what is done |
//! |---|---|---|---|
//! | yes | either | a whole record, a header perhaps damaged | kept, the header written again |
//! | no | yes | damage of what was safe | kept: reads of it fail, older data below does not show |
//! | no | no | what a crash left of a write that nobody was told of, or that was not synced | made void |
//!
//! Gaps are made void too, so that a later opening does not judge by a newer durable mark what this one has judged.
//! A gap before the durable mark, and a remove record with damaged data, are damage that can only be told and counted.
//!
//! Crash cases: voiding and repairing are idempotent, so an opening that is killed is simply repeated. The void header
//! overwrites only a header that was judged; a torn void header leaves a gap, which is judged the same.

use super::ChunkKey;
use super::device;
use super::extent::{Extent, Place};
use super::format::{self, HEADER_BYTES, Header, Kind, Position};
use super::index::{Deletion, Index};
use super::log::{Limits, Resume};
use super::reader::{Fault, Source};
use super::scan::{self, Found, Scan};
use super::segment::{Segment, Segments};
use fs_proto::ids::{ChunkIndex, InodeId};
use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// What an opening found.
pub(super) struct Recovered {
    pub resume: Resume,
    pub damage: u64,
}

struct Opened {
    segment: Arc<Segment>,
    file: Arc<File>,
    scan: Scan,
}

/// Rebuilds `index` and the counters of `segments` from the files.
pub(super) fn recover(limits: &Limits, segments: &Segments, index: &Index) -> io::Result<Recovered> {
    let mut opened = Vec::new();
    for id in Segments::list_files(segments.dir())? {
        let segment = segments.add(id, 1, None);
        let file = segments.file_of(&segment)?;
        let scan = scan::scan(&file, id, limits.store_id)?;
        opened.push(Opened { segment, file, scan });
    }
    let durable =
        opened.iter().flat_map(|o| &o.scan.records).map(|r| r.header.durable).max().unwrap_or_default();
    let mut judge = Judge { limits, durable, damage: 0, kept: Vec::new() };
    for one in &opened {
        judge.segment(one)?;
        one.segment.set_units(one.scan.end_unit);
        segments.trim(&one.segment)?;
    }
    let (damage, mut kept) = (judge.damage, judge.kept);
    kept.sort_unstable_by_key(|h| (h.sequence, h.at));
    let damage = damage + apply(limits, segments, index, &kept)?;
    let top_sequence = kept.last().map_or(0, |h| h.sequence);
    let top_segment = opened.last().map_or(0, |o| o.segment.id).max(durable.segment);
    // What was not known to be durable is synced with the first sync.
    let is_unsafe = |o: &Opened| Position { segment: o.segment.id, unit: o.scan.end_unit } > durable;
    let dirty = opened.into_iter().filter(is_unsafe).map(|o| o.segment).collect();
    let resume = Resume { next_segment: top_segment + 1, next_sequence: top_sequence + 1, durable, dirty };
    Ok(Recovered { resume, damage })
}

struct Judge<'a> {
    limits: &'a Limits,
    durable: Position,
    damage: u64,
    kept: Vec<Header>,
}

impl Judge<'_> {
    fn segment(&mut self, one: &Opened) -> io::Result<()> {
        let same_boot = one.scan.boot_id == Some(self.limits.boot_id) && self.limits.boot_id != 0;
        for (unit, units) in &one.scan.gaps {
            let at = Position { segment: one.segment.id, unit: *unit };
            if at < self.durable {
                self.tell(at, "a record is missing");
            }
            self.write_header(one, &format::void(at, *units), at)?;
        }
        for found in &one.scan.records {
            let is_safe = found.header.at < self.durable;
            let is_sound = found.has_front && found.has_back && (same_boot || is_safe);
            one.segment.add_record(&found.header);
            match found.header.kind {
                Kind::Void => {}
                _ if is_sound => self.kept.push(found.header),
                _ => self.suspect(one, found, is_safe)?,
            }
        }
        Ok(())
    }

    fn suspect(&mut self, one: &Opened, found: &Found, is_safe: bool) -> io::Result<()> {
        let header = found.header;
        let source = source(&one.file, &header, self.limits.store_id);
        match if header.data_bytes == 0 { Ok(Vec::new()) } else { source.read_whole() } {
            Ok(_) => self.repair(one, found)?,
            Err(Fault::Io(error)) => return Err(error),
            Err(Fault::Corrupt) if is_safe => self.tell(header.at, "a record does not match its checksum"),
            Err(Fault::Corrupt) => {
                let void = format::void(header.at, header.units());
                return self.write_header(one, &void, header.at);
            }
        }
        self.kept.push(header);
        Ok(())
    }

    fn repair(&mut self, one: &Opened, found: &Found) -> io::Result<()> {
        let header = found.header;
        if !found.has_front {
            self.write_header(one, &header, header.at)?;
        }
        if !found.has_back {
            let at = header.end().byte() - HEADER_BYTES as u64;
            let bytes = header.encode(self.limits.store_id);
            device::write_all_at(&one.file, &mut [IoSlice::new(&bytes)], at)?;
        }
        Ok(())
    }

    fn write_header(&self, one: &Opened, header: &Header, at: Position) -> io::Result<()> {
        let bytes = header.encode(self.limits.store_id);
        device::write_all_at(&one.file, &mut [IoSlice::new(&bytes)], at.byte())
    }

    fn tell(&mut self, at: Position, what: &str) {
        self.damage += 1;
        tracing::error!(segment = at.segment, byte = at.byte(), "chunk store: {what}");
    }
}

/// The data of a record.
pub(super) fn source<'a>(file: &'a File, header: &Header, store_id: u64) -> Source<'a> {
    Source { file, place: Place { segment: header.at.segment, shape: header.shape() }, store_id }
}

/// Enters records into the index, in the order of their sequences. Returns how many were damaged.
fn apply(limits: &Limits, segments: &Segments, index: &Index, kept: &[Header]) -> io::Result<u64> {
    let mut damage = 0;
    for header in kept {
        let key = ChunkKey { ino: header.ino, chunk: header.chunk };
        match header.kind {
            Kind::Void => {}
            Kind::Data => {
                let place = Place { segment: header.at.segment, shape: header.shape() };
                let new = Extent::whole(header.sequence, place);
                index.insert(&mut index.write(key.ino), key, new, &mut |id, bytes| segments.book(id, bytes));
            }
            Kind::Truncate => {
                delete(segments, index, key, header.offset, header.sequence);
            }
            Kind::Remove => match removed(limits, segments, header) {
                Ok(inos) => inos.into_iter().for_each(|ino| {
                    delete(segments, index, ChunkKey { ino, chunk: ChunkIndex(0) }, 0, header.sequence);
                }),
                Err(Fault::Io(error)) => return Err(error),
                Err(Fault::Corrupt) => {
                    tracing::error!(
                        segment = header.at.segment,
                        byte = header.at.byte(),
                        "a list of removed files is damaged"
                    );
                    damage += 1;
                    delete(
                        segments,
                        index,
                        ChunkKey { ino: header.ino, chunk: ChunkIndex(0) },
                        0,
                        header.sequence,
                    );
                }
            },
        }
    }
    Ok(damage)
}

fn delete(segments: &Segments, index: &Index, key: ChunkKey, keep: u32, sequence: u64) {
    let deletion = Deletion { ino: key.ino, chunk: key.chunk, keep, sequence };
    let mut shard = index.write(key.ino);
    index.delete(&mut shard, deletion, u64::MAX, &mut |id, bytes| segments.book(id, bytes));
}

/// The inodes that a remove record lists.
pub(super) fn removed(limits: &Limits, segments: &Segments, header: &Header) -> Result<Vec<InodeId>, Fault> {
    let file = segments.file(header.at.segment)?;
    let data = source(&file, header, limits.store_id).read_whole()?;
    let (inos, _) = data.as_chunks::<8>();
    Ok(inos.iter().map(|ino| InodeId(u64::from_le_bytes(*ino))).collect())
}
