//! Opening: what the last save has, and the log from its mark on.
//!
//! Headers of the segments that reach behind the mark are scanned. A record is *sound* if both its headers are there and
//! it lies before the durable mark, or was written under this boot. Any other is *suspect*, and its data is read. *Told* is what
//! lies before the durable mark, and what has its end under the boot that wrote it: its writer may have been told that it
//! is there. So after a kill only headers are read; data that does not match is found later, and kept all the same.
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
//! A block that the device cannot read counts as zeros, which match nothing: it costs the records in it, and is told if what was
//! there may have been promised.
//!
//! Segments that reach behind the durable mark are not written to: headers that belong into them go into the copies that are
//! made before a sync promises anything (`doubt`). Others are repaired in place.
//!
//! Crash cases: judging is idempotent, and until a copy has taken a segment's place no newer durable mark is written. So an
//! opening that is killed is simply repeated. The new file is synced before it gets the name.
//!
//! # Invariants
//! - What cannot be read costs the records in it, never the opening (`tests/store`, `an_unreadable_block_costs_what_is_in_it`).
//! - A segment is never counted by what was kept of another that had its number (`tests/store`,
//!   `a_number_is_not_used_twice`).

use super::ChunkKey;
use super::StoreError;
use super::disk::{self, Patch, SegmentFile};
use super::doubt::{self, InDoubt};
use super::extent::{Extent, Place};
use super::format::{self, HEADER_BYTES, Header, Kind, Position, UNIT_BYTES};
use super::index::Index;
use super::log::{Limits, Resume};
use super::reader::{Fault, Source};
use super::rows::SegmentRow;
use super::save::{Saved, Saver};
use super::scan::{self, Found, Scan};
use super::segment::{Segment, Segments};
use super::shard::{Deletion, Reach};
use fs_proto::checksum::BLOCK_BYTES;
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
    scan: Scan,
    /// To read what is suspect.
    file: Arc<dyn SegmentFile>,
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

    /// Whether a record may have been written to its end: the repetition of its header is there, or cannot be read.
    fn may_have_ended(&self, found: &Found) -> bool {
        let back = found.header.end().byte() - HEADER_BYTES as u64;
        found.has_back || self.scan.lost.contains(&(back - back % BLOCK_BYTES as u64))
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
    let (opened, missing) = enter_segments(limits, segments, saver, mark, saved.segments)?;
    let records = opened.iter().flat_map(|o| &o.scan.records);
    let durable = records.map(|r| r.header.durable).max().unwrap_or_default().max(mark);
    let mut judge = Judge { limits, durable, damage: missing, kept: Vec::new(), patches: Vec::new() };
    let mut in_doubt = Vec::new();
    for one in &opened {
        judge.segment(one)?;
        one.segment.set_units(one.scan.end_unit);
        trim(segments, &one.segment)?;
        let patches = std::mem::take(&mut judge.patches);
        if one.first_unsafe(durable) < one.segment.used_bytes() {
            let unread_from = judge.is_same_boot(one).then_some(durable);
            in_doubt.push(InDoubt { segment: Arc::clone(&one.segment), patches, unread_from });
        } else {
            patch(one, &patches)?;
        }
    }
    let (damage, mut kept) = (judge.damage, judge.kept);
    kept.retain(|h| h.at >= mark);
    kept.sort_unstable_by_key(|h| (h.sequence, h.at));
    let top_segment = opened.last().map_or(0, |o| o.segment.id).max(durable.segment).max(top_row);
    let next_sequence = kept.last().map_or(1, |h| h.sequence + 1).max(saved.checkpoint.next_sequence);
    let mut replay = Replay { limits, segments, index, saver, in_doubt, damage };
    replay.apply(&kept)?;
    let Replay { in_doubt, damage, .. } = replay;
    let resume = Resume { next_segment: top_segment + 1, next_sequence, durable, in_doubt };
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
                opened.push(Opened { segment, scan, file });
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

/// Gives back the space behind the last record.
fn trim(segments: &Segments, segment: &Segment) -> io::Result<()> {
    match segments.trim(segment) {
        // A file ends within a block by reading that. The copy ends where it should.
        Err(error) if disk::is_unreadable(&error) => Ok(()),
        other => other,
    }
}

/// Repairs a segment in place.
fn patch(one: &Opened, patches: &[Patch]) -> io::Result<()> {
    for patch in patches {
        match one.file.write_at(&mut [IoSlice::new(&patch.bytes)], patch.at) {
            // A part of a block is written by reading it. What is around it was told, and will be again.
            Err(error) if disk::is_unreadable(&error) => {}
            written => written?,
        }
    }
    Ok(())
}

struct Judge<'a> {
    limits: &'a Limits,
    durable: Position,
    damage: u64,
    kept: Vec<Header>,
    /// What belongs into the segment that is judged.
    patches: Vec<Patch>,
}

impl Judge<'_> {
    fn is_same_boot(&self, one: &Opened) -> bool {
        one.scan.boot_id == Some(self.limits.boot_id) && self.limits.boot_id != 0
    }

    fn segment(&mut self, one: &Opened) -> io::Result<()> {
        let same_boot = self.is_same_boot(one);
        // Who wrote it cannot be read: it may have been under this boot.
        let is_due = same_boot || one.scan.lost.contains(&0);
        for byte in &one.scan.lost {
            let at = Position { segment: one.segment.id, unit: (byte / UNIT_BYTES) as u32 };
            if at < self.durable || is_due {
                self.tell(at, "a block cannot be read; what was in it is lost");
            }
        }
        for (unit, units) in &one.scan.gaps {
            let at = Position { segment: one.segment.id, unit: *unit };
            if at < self.durable {
                self.tell(at, "a record is missing");
            }
            self.put_header(&format::void(at, *units), at.byte());
        }
        for found in &one.scan.records {
            let is_safe = found.header.at < self.durable;
            let is_whole = found.has_front && found.has_back;
            one.segment.add_record(&found.header);
            match found.header.kind {
                Kind::Void => {}
                _ if is_whole && (is_safe || same_boot) => self.kept.push(found.header),
                _ => self.suspect(one, found, is_safe || (is_due && one.may_have_ended(found)))?,
            }
        }
        Ok(())
    }

    fn suspect(&mut self, one: &Opened, found: &Found, is_told: bool) -> io::Result<()> {
        let header = found.header;
        let source = Source::of(&*one.file, &header, self.limits.store_id);
        match if header.shape().data_bytes == 0 { Ok(Vec::new()) } else { source.read_whole() } {
            Ok(_) => self.repair(found),
            Err(Fault::Io(error)) => return Err(error),
            Err(Fault::Corrupt) if is_told => self.tell(header.at, "a record does not match its checksum"),
            Err(Fault::Corrupt) => {
                self.put_header(&format::void(header.at, header.units()), header.at.byte());
                return Ok(());
            }
        }
        self.kept.push(header);
        Ok(())
    }

    fn repair(&mut self, found: &Found) {
        let header = found.header;
        if !found.has_front {
            self.put_header(&header, header.at.byte());
        }
        if !found.has_back {
            self.put_header(&header, header.end().byte() - HEADER_BYTES as u64);
        }
    }

    fn put_header(&mut self, header: &Header, at: u64) {
        self.patches.push(Patch { at, bytes: header.encode(self.limits.store_id) });
    }

    fn tell(&mut self, at: Position, what: &str) {
        self.damage += 1;
        doubt::tell(at, what);
    }
}

/// Enters records into the index.
struct Replay<'a> {
    limits: &'a Limits,
    segments: &'a Segments,
    index: &'a Index,
    saver: &'a Saver,
    in_doubt: Vec<InDoubt>,
    damage: u64,
}

impl Replay<'_> {
    /// Enters `kept`, which are in the order of their sequences.
    fn apply(&mut self, kept: &[Header]) -> Result<(), StoreError> {
        for header in kept {
            let key = ChunkKey { ino: header.ino, chunk: header.chunk };
            match header.kind {
                Kind::Void => {}
                Kind::Data => self.insert(key, header)?,
                Kind::Truncate => self.delete(key, header, Reach::End)?,
                Kind::Punch => self.delete(key, header, Reach::Byte(header.offset + header.data_bytes))?,
                Kind::Remove => self.remove(header)?,
            }
            self.relieve()?;
        }
        Ok(())
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

    fn remove(&mut self, header: &Header) -> Result<(), StoreError> {
        let inos = match removed(self.limits, self.segments, header) {
            Ok(inos) => inos,
            Err(Fault::Io(error)) => return Err(error.into()),
            Err(Fault::Corrupt) => {
                doubt::tell(header.at, "a list of removed files is damaged");
                self.damage += 1;
                vec![header.ino]
            }
        };
        for ino in inos {
            self.delete(ChunkKey { ino, chunk: ChunkIndex(0) }, header, Reach::End)?;
        }
        Ok(())
    }

    /// Keeps the index within its memory.
    fn relieve(&mut self) -> Result<(), StoreError> {
        if !self.index.wants_save() {
            return Ok(());
        }
        // Rows must not refer to what a loss of power takes along: data, or the names of files.
        if !self.in_doubt.is_empty() {
            let (damage, settled) = doubt::settle(self.segments, self.limits.store_id, &mut self.in_doubt);
            self.damage += damage;
            settled.map_err(disk::lift)?;
            self.segments.disk().sync_names()?;
        }
        self.saver.save_rows(self.segments, self.index)
    }
}

/// The inodes that a remove record lists.
fn removed(limits: &Limits, segments: &Segments, header: &Header) -> Result<Vec<InodeId>, Fault> {
    let file = segments.file(header.at.segment)?;
    let data = Source::of(&*file, header, limits.store_id).read_whole()?;
    let (inos, _) = data.as_chunks::<8>();
    Ok(inos.iter().map(|ino| InodeId(u64::from_le_bytes(*ino))).collect())
}
