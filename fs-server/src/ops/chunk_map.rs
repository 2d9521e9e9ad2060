//! Which chunks of a file are here, and where they have data: what seeking for data and holes needs, many chunks in one answer.
//!
//! # Invariants
//! - An answer is bounded, whatever is asked: [`CHUNKS_MAX`], and [`RANGES_MAX`] of one chunk. Where a chunk has more, its smallest holes
//!   are told as data, never data as a hole (`the_smallest_holes_go_first`).

use std::rc::Rc;

use fs_proto::msg::chunk::{ChunkMap, ChunkMapPage};
use fs_proto::{ChunkIndex, InodeId, META_MAX};

use crate::backing::fetch;
use crate::error::OpResult;
use crate::node::Node;
use crate::overflow::{self, access};
use crate::store::{ChunkKey, ChunkStore};
use crate::worker::{Context, Worker};

/// Most chunks of one answer.
const CHUNKS_MAX: usize = 4096;
/// Most ranges that are told of one chunk; an answer has less than twice as many.
const RANGES_MAX: usize = 64 << 10;
const _: () = assert!(2 * RANGES_MAX * 8 + CHUNKS_MAX * 12 + 64 < META_MAX as usize);

type Ranges = Vec<(u32, u32)>;

/// A page of the chunks that are here.
pub async fn chunk_map(worker: &Rc<Worker>, _: &Context, request: ChunkMap) -> OpResult<ChunkMapPage> {
    let (node, ino) = (&worker.node, request.ino);
    let limit = (request.limit as usize).clamp(1, CHUNKS_MAX);
    let used = node.backing.enter(ino).await;
    // One more than is told says whether there are more. Those in the shared tier have data, as far as is known.
    let held = || held(node, ino, request.from, limit + 1);
    let first = held()?;
    let last = first.get(limit).copied().unwrap_or(ChunkIndex(u64::MAX));
    let within = request.from..last;
    let elsewhere = fetch::all_elsewhere(worker, &used, ino, within, limit + 1).await?;
    // Again: what was fetched meanwhile is in neither.
    let here = if node.backing.concerns(ino) { held()? } else { first };
    let here = here.into_iter().map(|chunk| (chunk, None));
    let mut here: Vec<_> = here.chain(elsewhere.into_iter().map(|(c, bytes)| (c, Some(bytes)))).collect();
    here.sort_unstable();
    here.dedup_by_key(|(chunk, _)| *chunk);
    let (mut chunks, mut told) = (Vec::new(), 0);
    for &(chunk, bytes) in here.iter().take(limit) {
        if told >= RANGES_MAX {
            break;
        }
        let ranges = match bytes {
            Some(bytes) => vec![(0, bytes)],
            None => ranges(worker, ChunkKey { ino, chunk }).await?,
        };
        told += ranges.len();
        chunks.push((chunk, ranges));
    }
    let end = chunks.len() == here.len();
    Ok(ChunkMapPage { chunks, end })
}

/// Up to `limit` chunks of a file that are here, or with their keepers, ascending.
fn held(node: &Node, ino: InodeId, from: ChunkIndex, limit: usize) -> OpResult<Vec<ChunkIndex>> {
    let mut chunks: Vec<_> =
        node.store.chunks_from(ino, from, limit)?.into_iter().map(|(chunk, _)| chunk).collect();
    chunks.extend(overflow::list(node, ino, from, limit)?.into_iter().map(|(chunk, _)| chunk));
    chunks.sort_unstable();
    chunks.dedup();
    chunks.truncate(limit);
    Ok(chunks)
}

/// Where a chunk has data.
pub async fn ranges(worker: &Rc<Worker>, key: ChunkKey) -> OpResult<Ranges> {
    let ranges = access::ranges(worker, key).await?;
    Ok(bounded(ranges.into_iter().map(|range| (range.start, range.end)).collect(), RANGES_MAX))
}

/// At most `limit` ranges: with the smallest holes filled, until it is few enough.
fn bounded(mut ranges: Ranges, limit: usize) -> Ranges {
    let mut hole = 1;
    while ranges.len() > limit.max(1) {
        ranges.dedup_by(|next, last| {
            let joins = next.0 - last.1 <= hole;
            last.1 = if joins { next.1 } else { last.1 };
            joins
        });
        hole *= 2;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_holes_go_first() {
        let ranges = vec![(0, 1), (2, 10), (110, 120), (123, 130)];
        assert_eq!(bounded(ranges.clone(), 4), ranges);
        assert_eq!(bounded(ranges.clone(), 3), [(0, 10), (110, 120), (123, 130)]);
        assert_eq!(bounded(ranges.clone(), 2), [(0, 10), (110, 130)]);
        assert_eq!(bounded(ranges, 1), [(0, 130)]);
    }
}
