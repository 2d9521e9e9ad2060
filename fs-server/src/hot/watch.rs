//! Who asks for which piece: what makes it hot.
//!
//! A table of fixed size, a place for each hash. A place that is taken by another piece keeps that one while it may become hot: this is about files
//! that very many read, which come again.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Instant;

use fs_proto::{ChunkIndex, InodeId, ServerId};
use parking_lot::Mutex;

use super::{HOT_SERVERS, PieceKey, WINDOW};

/// Pieces that are watched at once, at most.
const PLACES: usize = 512;

/// The table.
pub struct Watch {
    places: Vec<Mutex<Place>>,
}

struct Place {
    key: PieceKey,
    since: Instant,
    /// Servers that asked since, by their numbers' last six bits.
    servers: u64,
}

impl Default for Watch {
    fn default() -> Self {
        let nobody = PieceKey { ino: InodeId(0), chunk: ChunkIndex(0), piece: 0 };
        let place = || Mutex::new(Place { key: nobody, since: Instant::now(), servers: 0 });
        Watch { places: std::iter::repeat_with(place).take(PLACES).collect() }
    }
}

impl Watch {
    /// A client read some of the piece through `server`; answers whether it is hot.
    pub fn note(&self, key: PieceKey, server: ServerId, now: Instant) -> bool {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        let mut place = self.places[hash as usize % PLACES].lock();
        let is_over = now.saturating_duration_since(place.since) > WINDOW;
        if place.key != key && !is_over && place.servers.count_ones() > 1 {
            return false;
        }
        if place.key != key || is_over {
            *place = Place { key, since: now, servers: 0 };
        }
        place.servers |= 1 << (server.0 % 64);
        place.servers.count_ones() >= HOT_SERVERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PieceKey = PieceKey { ino: InodeId(7), chunk: ChunkIndex(3), piece: 0 };

    #[test]
    fn several_servers_make_a_piece_hot_and_one_does_not() {
        let (watch, now) = (Watch::default(), Instant::now());
        assert!((0..100).all(|_| !watch.note(KEY, ServerId(1), now)));
        let hot: Vec<bool> = (2..5).map(|server| watch.note(KEY, ServerId(server), now)).collect();
        assert_eq!(hot, [false, true, true]);
        let other = PieceKey { piece: 1, ..KEY };
        assert!(!watch.note(other, ServerId(9), now), "each piece for itself");
    }

    #[test]
    fn readers_of_another_time_do_not_count() {
        let (watch, now) = (Watch::default(), Instant::now());
        watch.note(KEY, ServerId(1), now);
        watch.note(KEY, ServerId(2), now);
        assert!(!watch.note(KEY, ServerId(3), now + WINDOW * 2));
    }
}
