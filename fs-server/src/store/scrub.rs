//! Scrubbing: everything that is live is read and verified, without being asked for by a reader.
//!
//! A record whose one header is damaged gets it written again from the other. Damaged data is told; it stays, so that
//! reads of it go on failing, until it is overwritten.

use super::disk;
use super::engine::Core;
use super::extent::Extent;
use super::{ChunkKey, Compare, StoreError};
use std::io::IoSlice;

/// Chunks that are listed at once.
const PAGE: usize = 256;
/// Bytes that are read at once.
const PIECE_BYTES: u32 = 1 << 20;

/// What a step of scrubbing came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubPage {
    /// Where to go on; `None` at the end.
    pub next: Option<ChunkKey>,
    /// Chunks looked at.
    pub chunks: u64,
    /// Bytes read and verified.
    pub bytes: u64,
    /// Headers that were damaged and are whole again.
    pub repaired: u64,
    /// Chunks with bytes that do not match their checksum or are gone.
    pub damaged: Vec<ChunkKey>,
}

/// Verifies chunks after `after`, about `budget_bytes` of them.
pub(super) fn scrub(
    core: &Core,
    after: Option<ChunkKey>,
    budget_bytes: u64,
) -> Result<ScrubPage, StoreError> {
    if after.is_none() {
        // Chunks are listed by their rows.
        core.saver.save(&core.log, &core.index)?;
    }
    let keys = core.index.saved_after(after, PAGE)?;
    let mut page = ScrubPage::default();
    for (number, key) in keys.iter().enumerate() {
        check_chunk(core, *key, &mut page)?;
        page.chunks += 1;
        let is_last = number + 1 == keys.len() && keys.len() < PAGE;
        if is_last || page.bytes >= budget_bytes {
            page.next = (!is_last).then_some(*key);
            return Ok(page);
        }
    }
    page.next = keys.last().copied();
    Ok(page)
}

fn check_chunk(core: &Core, key: ChunkKey, page: &mut ScrubPage) -> Result<(), StoreError> {
    let extents = match core.index.view(key) {
        Ok(chunk) => chunk.extents().to_vec(),
        Err(StoreError::Index(_)) => {
            page.damaged.push(key);
            return Ok(());
        }
        Err(other) => return Err(other),
    };
    let mut is_whole = true;
    for extent in &extents {
        is_whole &= check_extent(core, key, extent, page)?;
    }
    if !is_whole {
        page.damaged.push(key);
    }
    Ok(())
}

/// Whether an extent is as it was written, or was replaced meanwhile.
fn check_extent(
    core: &Core,
    key: ChunkKey,
    extent: &Extent,
    page: &mut ScrubPage,
) -> Result<bool, StoreError> {
    let is_live =
        || Ok::<_, StoreError>(core.index.view(key)?.extents().iter().any(|e| e.place == extent.place));
    let file = match core.log.segments.file(extent.place.segment) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(!is_live()?),
        Err(error) => return Err(error.into()),
    };
    let source = core.source(&*file, extent);
    if let Some((bytes, at)) = source.repair()? {
        if !is_live()? {
            return Ok(true);
        }
        match file.write_at(&mut [IoSlice::new(&bytes)], at) {
            // A part of a block is written by reading it. What the data come to is seen below.
            Err(error) if disk::is_unreadable(&error) => {}
            written => {
                written?;
                page.repaired += 1;
            }
        }
    }
    let mut piece = vec![0; (extent.end - extent.start).min(PIECE_BYTES) as usize];
    let mut start = extent.start;
    while start < extent.end {
        if core.upkeep.is_stopping() {
            return Err(StoreError::Refused);
        }
        let len = (extent.end - start).min(PIECE_BYTES) as usize;
        let part = extent.clip(start, start + len as u32);
        match core.read_extent(key, (&part, &*file), &mut piece[..len], Compare::Here) {
            Ok(_) => {}
            Err(StoreError::Corrupt { .. }) => return Ok(!is_live()?),
            Err(other) => return Err(other),
        }
        page.bytes += len as u64;
        start += len as u32;
    }
    Ok(true)
}

impl super::LogStore {
    /// Verifies what is stored behind `after` (from the begin without one), about `budget_bytes` of it.
    pub fn scrub(&self, after: Option<ChunkKey>, budget_bytes: u64) -> Result<ScrubPage, StoreError> {
        scrub(self.core(), after, budget_bytes)
    }
}
