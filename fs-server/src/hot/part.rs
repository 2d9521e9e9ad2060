//! A part of a pool, whose figures count it: what has one part cannot use up what is another's.
//!
//! # Invariants
//! - What is got from a part never exceeds it, and is counted in the pool (`one_part_leaves_the_other_alone_and_the_pool_counts_both`).

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

use fs_net::{Budget, BufferClass, Charge, PoolStats};

/// Bytes of a table for each thing of this size that is in it, at most, if [`shrink`] is called now and then.
pub const fn in_table(bytes: usize) -> usize {
    (bytes + 1) * 16 / 7
}

/// Gives back what a table has grown by and does not need any more.
pub fn shrink<K: Eq + Hash, V, S: BuildHasher>(table: &mut HashMap<K, V, S>) {
    if table.capacity() > 2 * table.len() {
        table.shrink_to(table.len());
    }
}

/// See the module.
pub struct Part {
    own: Budget,
    pool: Budget,
}

/// Bytes of a part in use; they go back when dropped.
pub struct PartCharge {
    /// The pool's go back first: who finds room in a part finds it in the pool.
    _pool: Charge,
    _own: Charge,
}

impl Part {
    /// `bytes` of a pool, all of whose users have parts of it.
    pub fn of(pool: &Budget, bytes: u64) -> Part {
        Part { own: Budget::new(bytes as usize), pool: pool.clone() }
    }

    /// `bytes`, if there is room now.
    pub fn try_get(&self, bytes: usize) -> Option<PartCharge> {
        let own = self.own.try_get(BufferClass::Local, None, bytes)?;
        let pool = self.pool.try_get(BufferClass::Local, None, bytes)?;
        Some(PartCharge { _pool: pool, _own: own })
    }

    /// Its own figures.
    pub fn stats(&self) -> PoolStats {
        self.own.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_leaves_the_other_alone_and_the_pool_counts_both() {
        let pool = Budget::new(1_000);
        let (one, other) = (Part::of(&pool, 750), Part::of(&pool, 250));
        let held = one.try_get(750).expect("all of its part");
        assert!(one.try_get(1).is_none(), "though the pool has more");
        let all = other.try_get(250).expect("all of the other");
        assert_eq!((pool.stats().used, one.stats().used, other.stats().used), (1_000, 750, 250));
        drop((held, all));
        assert_eq!((pool.stats().used, one.stats().used, other.stats().used), (0, 0, 0));
    }
}
