//! Opening: what the last save has, and the log from its mark on.
//!
//! Headers of the segments that reach behind the mark are scanned. A record is *sound* if both its headers are there and
//! it lies before the durable mark. Any other is *suspect*, and its data is read. *Told* is what lies before the durable
//! mark, and what has both headers under the boot that wrote it: its writer may have been told that it is there.
//!
//! | data matches | told | what it is | what is done |
//! |---|---|---|---|
//! | yes | either | a whole record, a header perhaps damaged | kept, the header written again |
//! | no | yes | damage | kept: reads of it fail, older data below does not show |
//! | no | no | what a crash left of a write that nobody was told of, or that was not synced | made void |
//!
//! Gaps are made void too, so that a later opening does not judge by a newer durable mark what this one has judged.
//! A gap before the durable mark, and a remove record with damaged data, are damage that can only be told and counted.
//!
//! Then each segment that reaches behind the durable mark is copied to a new file, which takes its place: if a sync of it
//! has failed, in this boot and perhaps in a process that is gone, the kernel shows its bytes, takes them for written, and
//! would answer the next sync without having written them. Writing them again in place does not help (decision 0044).
//!
//! Crash cases: voiding and repairing are idempotent, so an opening that is killed is simply repeated. The void header
//! overwrites only a header that was judged; a torn void header leaves a gap, which is judged the same. The new file is
//! synced before it gets the name.
//!
//! # Invariants
//! - A sync that is answered covers what earlier processes wrote, also if theirs had failed (`tests/store`,
//!   `a_sync_after_a_failed_one_covers_what_that_lost`).
//! - A segment is never counted by what was kept of another that had its number (`tests/store`,
//!   `a_number_is_not_used_twice`).

use super::ChunkKey;
use super::StoreError;
use super::disk::{self, SegmentFile};
use super::extent::{Extent, Place};
use super::format::{self, HEADER_BYTES, Header, Kind, Position};
use super::index::Index;
use super::log::{Files, Limits, Resume};
use super::reader::{Fault, Source};
use super::rows::SegmentRow;
use super::save::{Saved, Saver};
use super::scan::{self, Found, Scan};
use super::segment::{Segment, Segments};
use super::shard::{Deletion, Reach};
use fs_proto::ids::{ChunkIndex, InodeId};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// What an opening found.
pub(super) struct Recovered {
    pub resume: Resume,
    pub damage: u64,
}

struct Opened {
    segment: Arc<Segment>,
    file: Arc<dyn SegmentFile>,
    scan: Scan,
}

impl Opened {
    /// The first byte that is not known to be durable.
    fn first_unsafe(&self, durable: Position) -> u64 {
        match durable.segment.cmp(&self.segment.id) {
            Ordering::Less => 0,
            Ordering::Equal => durable.byte(),
            Ordering::Greater => u64::MAX,
        }
    }
}

/// Brings `index` and the counters of `segments` to what the log says.
pub(super) fn recover(
    limits: &Limits,
    segments: &Segments,
    index: &Index,
    saver: &Saver,
    saved: Saved,
) -> Result<Recovered, StoreError> {
    let mark = saved.checkpoint.at;
    // A number is not used again while anything is kept of its last segment: it may be the name alone that was lost.
    let top_row = saved.segments.last_key_value().map_or(0, |(id, _)| *id);
    let (mut opened, missing) = enter_segments(limits, segments, saver, mark, saved.segments)?;
    let records = opened.iter().flat_map(|o| &o.scan.records);
    let durable = records.map(|r| r.header.durable).max().unwrap_or_default().max(mark);
    let mut judge = Judge { limits, durable, damage: missing, kept: Vec::new() };
    for one in &mut opened {
        judge.segment(one)?;
        one.segment.set_units(one.scan.end_unit);
        segments.trim(&one.segment)?;
        if one.first_unsafe(durable) < one.segment.used_bytes() {
            one.file = segments.renew(&one.segment).map_err(disk::lift)?;
        }
    }
    let (damage, mut kept) = (judge.damage, judge.kept);
    kept.retain(|h| h.at >= mark);
    kept.sort_unstable_by_key(|h| (h.sequence, h.at));
    let top_segment = opened.last().map_or(0, |o| o.segment.id).max(durable.segment).max(top_row);
    let next_sequence = kept.last().map_or(1, |h| h.sequence + 1).max(saved.checkpoint.next_sequence);
    // What was not known to be durable is synced with the first sync.
    let is_unsafe = |o: &&Opened| o.first_unsafe(durable) < o.segment.used_bytes();
    let dirty: Files = opened.iter().filter(is_unsafe).map(|o| (o.segment.id, o.file.clone())).collect();
    let mut replay = Replay { limits, segments, index, saver, unsynced: dirty.clone() };
    let damage = damage + replay.apply(&kept)?;
    let resume = Resume { next_segment: top_segment + 1, next_sequence, durable, dirty };
    Ok(Recovered { resume, damage })
}

/// Enters all segments, and scans those that reach behind the mark. Also returns how many are missing.
fn enter_segments(
    limits: &Limits,
    segments: &Segments,
    saver: &Saver,
    mark: Position,
    mut rows: BTreeMap<u32, SegmentRow>,
) -> io::Result<(Vec<Opened>, u64)> {
    let mut opened = Vec::new();
    for id in segments.disk().list()? {
        match rows.remove(&id) {
            Some(row) if id < mark.segment => segments.add(id, 1, None).restore(&row),
            // Unlinked before the last save; the removal of its name did not reach the device.
            None if id < mark.segment => segments.disk().remove(id)?,
            row => {
                let segment = segments.add(id, 1, None);
                row.inspect(|row| segment.restore_live(row));
                let file = segments.file_of(&segment)?;
                let scan = scan::scan(&*file, id, limits.store_id)?;
                opened.push(Opened { segment, file, scan });
            }
        }
    }
    let mut missing = 0;
    for (id, row) in rows {
        saver.note_gone(id);
        if row.live_bytes > 0 {
            missing += 1;
            tracing::error!(segment = id, bytes = row.live_bytes, "chunk store: a segment file is missing");
        }
    }
    Ok((opened, missing))
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
            let is_whole = found.has_front && found.has_back;
            one.segment.add_record(&found.header);
            match found.header.kind {
                Kind::Void => {}
                _ if is_whole && is_safe => self.kept.push(found.header),
                _ => self.suspect(one, found, is_safe || (is_whole && same_boot))?,
            }
        }
        Ok(())
    }

    fn suspect(&mut self, one: &Opened, found: &Found, is_told: bool) -> io::Result<()> {
        let header = found.header;
        let source = source(&*one.file, &header, self.limits.store_id);
        match if header.shape().data_bytes == 0 { Ok(Vec::new()) } else { source.read_whole() } {
            Ok(_) => self.repair(one, found)?,
            Err(Fault::Io(error)) => return Err(error),
            Err(Fault::Corrupt) if is_told => self.tell(header.at, "a record does not match its checksum"),
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
            one.file.write_at(&mut [IoSlice::new(&bytes)], at)?;
        }
        Ok(())
    }

    fn write_header(&self, one: &Opened, header: &Header, at: Position) -> io::Result<()> {
        let bytes = header.encode(self.limits.store_id);
        one.file.write_at(&mut [IoSlice::new(&bytes)], at.byte())
    }

    fn tell(&mut self, at: Position, what: &str) {
        self.damage += 1;
        tracing::error!(segment = at.segment, byte = at.byte(), "chunk store: {what}");
    }
}

/// The data of a record.
pub(super) fn source<'a>(file: &'a dyn SegmentFile, header: &Header, store_id: u64) -> Source<'a> {
    Source { file, place: Place { segment: header.at.segment, shape: header.shape() }, store_id }
}

/// Enters records into the index.
struct Replay<'a> {
    limits: &'a Limits,
    segments: &'a Segments,
    index: &'a Index,
    saver: &'a Saver,
    unsynced: Files,
}

impl Replay<'_> {
    /// Enters `kept`, which are in the order of their sequences. Returns how many were damaged.
    fn apply(&mut self, kept: &[Header]) -> Result<u64, StoreError> {
        let mut damage = 0;
        for header in kept {
            let key = ChunkKey { ino: header.ino, chunk: header.chunk };
            match header.kind {
                Kind::Void => {}
                Kind::Data => self.insert(key, header)?,
                Kind::Truncate => self.delete(key, header, Reach::End)?,
                Kind::Punch => self.delete(key, header, Reach::Byte(header.offset + header.data_bytes))?,
                Kind::Remove => damage += self.remove(header)?,
            }
            self.relieve()?;
        }
        Ok(damage)
    }

    fn insert(&self, key: ChunkKey, header: &Header) -> Result<(), StoreError> {
        let place = Place { segment: header.at.segment, shape: header.shape() };
        let new = Extent::whole(header.sequence, place);
        self.index.edit(key)?.insert(new, &mut |id, bytes| self.segments.book(id, bytes));
        Ok(())
    }

    fn delete(&mut self, key: ChunkKey, header: &Header, reach: Reach) -> Result<(), StoreError> {
        let sequence = header.sequence;
        let deletion = Deletion { ino: key.ino, chunk: key.chunk, from: header.offset, reach, sequence };
        let (index, segments) = (self.index, self.segments);
        // In the order of sequences nothing older can come: none is remembered.
        index.delete(&deletion, u64::MAX, &mut |id, bytes| segments.book(id, bytes), &mut || self.relieve())
    }

    /// Returns 1 if the list of what is removed is damaged.
    fn remove(&mut self, header: &Header) -> Result<u64, StoreError> {
        let (inos, damage) = match removed(self.limits, self.segments, header) {
            Ok(inos) => (inos, 0),
            Err(Fault::Io(error)) => return Err(error.into()),
            Err(Fault::Corrupt) => {
                let (segment, byte) = (header.at.segment, header.at.byte());
                tracing::error!(segment, byte, "a list of removed files is damaged");
                (vec![header.ino], 1)
            }
        };
        for ino in inos {
            self.delete(ChunkKey { ino, chunk: ChunkIndex(0) }, header, Reach::End)?;
        }
        Ok(damage)
    }

    /// Keeps the index within its memory.
    fn relieve(&mut self) -> Result<(), StoreError> {
        if !self.index.wants_save() {
            return Ok(());
        }
        let unsynced = std::mem::take(&mut self.unsynced);
        for file in unsynced.values() {
            file.sync()?;
        }
        if !unsynced.is_empty() {
            // Also the names: rows must not refer to files that a loss of power takes along.
            self.segments.disk().sync_names()?;
        }
        self.saver.save_rows(self.segments, self.index)
    }
}

/// The inodes that a remove record lists.
fn removed(limits: &Limits, segments: &Segments, header: &Header) -> Result<Vec<InodeId>, Fault> {
    let file = segments.file(header.at.segment)?;
    let data = source(&*file, header, limits.store_id).read_whole()?;
    let (inos, _) = data.as_chunks::<8>();
    Ok(inos.iter().map(|ino| InodeId(u64::from_le_bytes(*ino))).collect())
}
