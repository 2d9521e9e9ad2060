//! A key-value store in memory that a test can crash: what was not synced is lost from some batch on.

use bytes::Bytes;
use fs_server::kv::{Batch, Change, Kv, KvError, ScanVisitor};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
/// A put, or without a value a delete.
type Step = (Vec<u8>, Option<Vec<u8>>);

#[derive(Default, Clone)]
struct State {
    map: Map,
    synced: Map,
    unsynced: Vec<Vec<Step>>,
    is_full: bool,
}

#[derive(Default)]
pub struct MemKv(Mutex<State>);

fn apply(map: &mut Map, steps: &[Step]) {
    for (key, value) in steps {
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
}

impl MemKv {
    pub fn new() -> Arc<MemKv> {
        Arc::default()
    }

    /// What the next process finds after a kill: everything, as little of it on the device as before.
    pub fn after_kill(&self) -> Arc<MemKv> {
        let state = self.0.lock().unwrap();
        Arc::new(MemKv(Mutex::new(State { is_full: false, ..state.clone() })))
    }

    /// From now on there is no room for batches, or there is again.
    pub fn set_full(&self, is_full: bool) {
        self.0.lock().unwrap().is_full = is_full;
    }

    /// Batches that a loss of power may lose.
    pub fn unsynced(&self) -> usize {
        self.0.lock().unwrap().unsynced.len()
    }

    /// What is there after a loss of power that left the first `kept` of the unsynced batches.
    pub fn after_power_loss(&self, kept: usize) -> Arc<MemKv> {
        let state = self.0.lock().unwrap();
        let mut map = state.synced.clone();
        state.unsynced[..kept].iter().for_each(|steps| apply(&mut map, steps));
        Arc::new(MemKv(Mutex::new(State { synced: map.clone(), map, ..State::default() })))
    }
}

impl Kv for MemKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(self.0.lock().unwrap().map.get(key).cloned().map(Bytes::from))
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        let steps: Vec<Step> = batch
            .changes()
            .map(|change| match change {
                Change::Put { key, value } => (key.to_vec(), Some(value.to_vec())),
                Change::Delete { key } => (key.to_vec(), None),
            })
            .collect();
        let mut state = self.0.lock().unwrap();
        if state.is_full {
            return Err(KvError::NoSpace);
        }
        apply(&mut state.map, &steps);
        state.unsynced.push(steps);
        Ok(())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut ScanVisitor<'_>) -> Result<(), KvError> {
        if from >= to {
            return Ok(());
        }
        let found: Vec<_> = {
            let state = self.0.lock().unwrap();
            state.map.range(from.to_vec()..to.to_vec()).map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        let _ = found.iter().try_for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn sync(&self) -> Result<(), KvError> {
        let mut state = self.0.lock().unwrap();
        state.synced = state.map.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }

    fn memory_bytes(&self) -> u64 {
        0
    }
}
