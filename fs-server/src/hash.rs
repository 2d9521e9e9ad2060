//! Tables whose look-ups are on the way of every request: hashed by a few multiplications instead of the standard library's SipHash, which took 4 % of what a
//! small file costs on its way to the shared tier. Seeded anew in each process, so nobody who chooses names knows which collide.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use quick_cache::UnitWeighter;

/// A map.
pub type Map<K, V> = HashMap<K, V, RandomState>;

/// A bounded cache.
pub type Cache<K, V> = quick_cache::sync::Cache<K, V, UnitWeighter, RandomState>;

/// A cache of so many items.
pub fn cache<K: Eq + std::hash::Hash, V: Clone>(items: usize) -> Cache<K, V> {
    let lifecycle = quick_cache::sync::DefaultLifecycle::default();
    quick_cache::sync::Cache::with(items, items as u64, UnitWeighter, RandomState::default(), lifecycle)
}
