//! Who asks for what: what makes it hot.
//!
//! A table of fixed size, a place for each hash. A place that is taken by another thing keeps that one while it may become hot: this is about what
//! very many ask for, which comes again.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::time::Instant;

use fs_proto::ServerId;
use parking_lot::Mutex;

use super::{HOT_SERVERS, WINDOW};

/// Things that are watched at once, at most.
const PLACES: usize = 512;

/// The table.
pub struct Watch<K> {
    places: Vec<Mutex<Place<K>>>,
}

struct Place<K> {
    key: Option<K>,
    since: Instant,
    /// Servers that asked since, by their numbers' last six bits.
    servers: u64,
}

impl<K> Default for Watch<K> {
    fn default() -> Self {
        let place = || Mutex::new(Place { key: None, since: Instant::now(), servers: 0 });
        Watch { places: std::iter::repeat_with(place).take(PLACES).collect() }
    }
}

impl<K: Copy + Eq + Hash> Watch<K> {
    /// A client asked for some of it through `server`; answers whether it is hot.
    pub fn note(&self, key: K, server: ServerId, now: Instant) -> bool {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        let mut place = self.places[hash as usize % PLACES].lock();
        let is_over = now.saturating_duration_since(place.since) > WINDOW;
        if place.key != Some(key) && !is_over && place.servers.count_ones() > 1 {
            return false;
        }
        if place.key != Some(key) || is_over {
            *place = Place { key: Some(key), since: now, servers: 0 };
        }
        place.servers |= 1 << (server.0 % 64);
        place.servers.count_ones() >= HOT_SERVERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hot::PieceKey;
    use fs_proto::{ChunkIndex, InodeId};

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
