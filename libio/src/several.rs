//! The same for each of many ranks, by a few threads: whoever reads all seals of a large group would else wait for one answer after the other.
//!
//! # Invariants
//! - Answers come in the order of ranks, and the first error in that order is the whole's (`answers_keep_their_order`).

use std::num::NonZero;
use std::thread::available_parallelism;

use crate::error::{Error, Result};

/// Fewer ranks than this are not worth a thread.
const RANKS_EACH: u32 = 16;
/// Threads wait for servers, so there may be more than cores.
const THREADS_MAX: u32 = 16;

/// `work` for ranks 0 to `count` - 1.
pub(crate) fn for_ranks<T: Send>(count: u32, work: impl Fn(u32) -> Result<T> + Sync) -> Result<Vec<T>> {
    let cores = available_parallelism().map_or(1, NonZero::get) as u32;
    let threads = (count / RANKS_EACH).clamp(1, THREADS_MAX.min(cores * 4));
    if threads == 1 {
        return (0..count).map(work).collect();
    }
    let (each, work) = (count.div_ceil(threads), &work);
    let parts = std::thread::scope(|scope| {
        let ranges = (0..count).step_by(each as usize).map(|from| from..(from + each).min(count));
        let running: Vec<_> =
            ranges.map(|ranks| scope.spawn(move || ranks.map(work).collect::<Result<Vec<T>>>())).collect();
        let panicked = |_| Err(Error::Invalid("a thread that read seals panicked".to_owned()));
        running.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect::<Result<Vec<_>>>()
    })?;
    Ok(parts.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what the module promises. Method: groups of many sizes, and errors at two ranks.
    #[test]
    fn answers_keep_their_order() {
        for count in [0, 1, 15, 31, 32, 33, 100, 1000, 1025] {
            assert_eq!(for_ranks(count, Ok).unwrap(), (0..count).collect::<Vec<_>>());
            let fails = |rank: u32| {
                if rank % 50 == 40 { Err(Error::corrupt("p", rank.to_string())) } else { Ok(rank) }
            };
            let failed = for_ranks(count, fails).err().map(|e| e.to_string().contains("40"));
            assert_eq!(failed, (count > 40).then_some(true), "{count}");
        }
    }
}
