//! A bounded map that forgets what was not used for longest, roughly.
//!
//! Two generations: a full young one becomes the old one, and the old one is dropped. A hit in the old one moves to the
//! young one. So at most twice the capacity is kept, without a list of uses.
//!
//! # Invariants
//! - At most `2 * capacity` entries (`holds_at_most_two_generations`).

use std::collections::HashMap;
use std::hash::Hash;

/// See the module.
pub(crate) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    capacity: usize,
}

impl<K: Hash + Eq + Copy, V: Copy> Recent<K, V> {
    /// An empty map of generations of `capacity` entries.
    pub(crate) fn new(capacity: usize) -> Self {
        Recent { young: HashMap::new(), old: HashMap::new(), capacity }
    }

    /// The value of `key`, if it is still known.
    pub(crate) fn get(&mut self, key: K) -> Option<V> {
        if let Some(value) = self.young.get(&key) {
            return Some(*value);
        }
        let value = self.old.remove(&key)?;
        self.put(key, value);
        Some(value)
    }

    /// Sets the value of `key`.
    pub(crate) fn put(&mut self, key: K, value: V) {
        if self.young.len() >= self.capacity && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Drops what is known of `key`.
    pub(crate) fn forget(&mut self, key: K) {
        self.young.remove(&key);
        self.old.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_what_was_used_lately() {
        let mut map = Recent::new(2);
        map.put(1, 'a');
        map.put(2, 'b');
        map.put(3, 'c'); // 1 and 2 are old now.
        assert_eq!(map.get(1), Some('a')); // Young again.
        map.put(4, 'd'); // 3 and 1 are old now, 2 is gone.
        assert_eq!((map.get(2), map.get(1), map.get(4)), (None, Some('a'), Some('d')));
    }

    #[test]
    fn holds_at_most_two_generations() {
        let mut map = Recent::new(8);
        for key in 0..1000 {
            map.put(key, key);
            map.get(key / 2);
            assert!(map.young.len() + map.old.len() <= 16);
        }
    }

    #[test]
    fn a_new_value_hides_the_old_one() {
        let mut map = Recent::new(1);
        map.put(1, 'a');
        map.put(2, 'x');
        map.put(1, 'b');
        assert_eq!(map.get(1), Some('b'));
    }
}
