//! The extents of one chunk: which bytes are where. Pure.
//!
//! # Invariants
//! - Extents are sorted, not empty, and do not overlap (`any_order_gives_the_same_extents`).
//! - The result does not depend on the order in which records are inserted: the higher sequence wins
//!   (`any_order_gives_the_same_extents`).

use super::format::{Position, Shape};

/// The record that holds an extent's bytes: a name and a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub segment: u32,
    pub shape: Shape,
}

impl Place {
    pub fn position(self) -> Position {
        Position { segment: self.segment, unit: self.shape.unit }
    }
}

/// A part of a chunk, `start..end`, that is read from one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub start: u32,
    pub end: u32,
    pub sequence: u64,
    pub place: Place,
}

impl Extent {
    /// All of a record.
    pub fn whole(sequence: u64, place: Place) -> Self {
        let start = place.shape.offset;
        Extent { start, end: start + place.shape.data_bytes, sequence, place }
    }

    pub fn bytes(&self) -> u64 {
        u64::from(self.end - self.start)
    }

    /// The part within `start..end`; the caller knows that there is one.
    pub fn clip(self, start: u32, end: u32) -> Extent {
        Extent { start: self.start.max(start), end: self.end.min(end), ..self }
    }
}

/// Live bytes that a segment gains or loses.
pub(super) type Ledger<'a> = dyn FnMut(u32, i64) + 'a;

/// Indexes of the extents that overlap `start..end`.
pub(super) fn overlapping(extents: &[Extent], start: u32, end: u32) -> std::ops::Range<usize> {
    let first = extents.partition_point(|e| e.end <= start);
    let after = first + extents[first..].partition_point(|e| e.start < end);
    first..after
}

/// Puts `new` over what has a lower or the same sequence, and under what has a higher one.
pub(super) fn insert(extents: &mut Vec<Extent>, new: Extent, ledger: &mut Ledger) {
    let range = overlapping(extents, new.start, new.end);
    if range.is_empty() {
        ledger(new.place.segment, new.bytes() as i64);
        extents.insert(range.start, new);
        return;
    }
    let mut merged = Vec::with_capacity(range.len() + 2);
    let mut cursor = new.start;
    let mut tail = None;
    for old in &extents[range.clone()] {
        if old.sequence > new.sequence {
            push_part(&mut merged, new, cursor, old.start, ledger);
            cursor = cursor.max(old.end);
            merged.push(*old);
            continue;
        }
        let dead = old.clip(new.start, new.end);
        ledger(old.place.segment, -(dead.bytes() as i64));
        if old.start < new.start {
            merged.push(old.clip(0, new.start));
        }
        if old.end > new.end {
            tail = Some(old.clip(new.end, u32::MAX));
        }
    }
    push_part(&mut merged, new, cursor, new.end, ledger);
    merged.extend(tail);
    extents.splice(range, merged);
}

fn push_part(merged: &mut Vec<Extent>, new: Extent, start: u32, end: u32, ledger: &mut Ledger) {
    if start < end {
        let part = new.clip(start, end);
        ledger(part.place.segment, part.bytes() as i64);
        merged.push(part);
    }
}

/// Drops bytes of `from..to` that are older than `sequence`.
pub(super) fn cut(extents: &mut Vec<Extent>, from: u32, to: u32, sequence: u64, ledger: &mut Ledger) {
    let range = overlapping(extents, from, to);
    let mut kept = Vec::new();
    for old in &extents[range.clone()] {
        if old.sequence > sequence {
            kept.push(*old);
            continue;
        }
        let dead = old.clip(from, to);
        ledger(old.place.segment, -(dead.bytes() as i64));
        if old.start < from {
            kept.push(old.clip(0, from));
        }
        if old.end > to {
            kept.push(old.clip(to, u32::MAX));
        }
    }
    extents.splice(range, kept);
}

/// Whether every byte of `start..end` is read from one of `sources`.
pub(super) fn is_unchanged(extents: &[Extent], start: u32, end: u32, sources: &[Extent]) -> bool {
    let mut cursor = start;
    for now in &extents[overlapping(extents, start, end)] {
        if now.start > cursor || !comes_from(now, sources) {
            return false;
        }
        cursor = now.end;
    }
    cursor >= end
}

/// Makes `new` the place of what is still read from one of `sources` within its range: its content is the same.
pub(super) fn relocate(extents: &mut Vec<Extent>, sources: &[Extent], new: Extent, ledger: &mut Ledger) {
    let range = overlapping(extents, new.start, new.end);
    let mut moved: Vec<Extent> = Vec::with_capacity(range.len() + 2);
    for old in &extents[range.clone()] {
        if !comes_from(old, sources) {
            moved.push(*old);
            continue;
        }
        if old.start < new.start {
            moved.push(old.clip(0, new.start));
        }
        let part = new.clip(old.start, old.end);
        ledger(old.place.segment, -(part.bytes() as i64));
        ledger(new.place.segment, part.bytes() as i64);
        match moved.last_mut() {
            Some(last) if last.place == part.place && last.end == part.start => last.end = part.end,
            _ => moved.push(part),
        }
        if old.end > new.end {
            moved.push(old.clip(new.end, u32::MAX));
        }
    }
    extents.splice(range, moved);
}

fn comes_from(now: &Extent, sources: &[Extent]) -> bool {
    sources.iter().any(|s| s.place == now.place && s.start <= now.start && now.end <= s.end)
}

#[cfg(test)]
#[path = "extent_tests.rs"]
mod tests;
