//! Every kind of crash over a simulated disk and key-value store, many in a row, against the model.

use crate::mem_kv::MemKv;
use crate::sim_disk::SimDisk;
use crate::support::{Change, Model, Rng, options, piece};
use fs_server::store::{self, ChunkStore, IoMode, LogStore, StoreError, StoreOptions};
use proptest::prelude::*;
use std::sync::Arc;

const INOS: u64 = 3;
const CHUNKS: u64 = 2;
/// Unsynced changes of one inode whose subsets are tried.
const UNSYNCED: usize = 9;
const STORE_ID: u64 = 77;

#[derive(Debug, Clone)]
enum Step {
    Change(Change),
    /// Writes by one call.
    Group(Vec<Change>),
    Sync,
    SyncKv,
    Save,
    Compact,
    Kill,
    FailSync(u64),
    PowerLoss(u64),
}

fn at() -> impl Strategy<Value = (u64, u64, u32)> {
    (0..INOS, 0..CHUNKS, 0..9_000_u32)
}

fn write() -> impl Strategy<Value = Change> {
    let len = prop_oneof![1..700_usize, Just(4096), 1..9_000_usize];
    (at(), len, any::<u64>()).prop_map(|((ino, chunk, offset), len, seed)| Change::Write {
        ino,
        chunk,
        offset,
        len,
        seed,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let truncate = at().prop_map(|(ino, chunk, keep)| Change::Truncate { ino, chunk, keep });
    let punch = (at(), 1..5_000_u32).prop_map(|((ino, chunk, offset), len)| Change::Punch {
        ino,
        chunk,
        offset,
        len,
    });
    let remove = (0..INOS).prop_map(|ino| Change::Remove { inos: vec![ino] });
    let change = prop_oneof![10 => write(), 2 => truncate, 2 => punch, 1 => remove];
    prop_oneof![
        14 => change.prop_map(Step::Change),
        4 => proptest::collection::vec(write(), 2..6).prop_map(Step::Group),
        2 => Just(Step::Sync),
        1 => Just(Step::SyncKv),
        2 => Just(Step::Save),
        2 => Just(Step::Compact),
        1 => Just(Step::Kill),
        2 => (1..u64::MAX).prop_map(Step::FailSync),
        2 => any::<u64>().prop_map(Step::PowerLoss),
    ]
}

/// A store, what it stands on, and what is known of it.
struct World {
    disk: Arc<SimDisk>,
    kv: Arc<MemKv>,
    io: IoMode,
    boot_id: u128,
    store: Option<LogStore>,
    durable: Model,
    unsynced: Vec<Change>,
}

fn ino_of(change: &Change) -> u64 {
    match change {
        Change::Write { ino, .. } | Change::Truncate { ino, .. } | Change::Punch { ino, .. } => *ino,
        Change::Remove { inos } => inos[0],
    }
}

impl World {
    fn new(io: IoMode) -> World {
        let (disk, kv) = (SimDisk::new(), MemKv::new());
        let durable = Model::default();
        let mut world = World { disk, kv, io, boot_id: 1, store: None, durable, unsynced: Vec::new() };
        world.open();
        world
    }

    fn try_open(&self) -> Result<LogStore, StoreError> {
        // Hardly any memory and small segments: the index is saved and read all the time.
        let options =
            StoreOptions { boot_id: Some(self.boot_id), index_bytes: 2_000, io: self.io, ..options() };
        store::open_on(self.disk.clone(), STORE_ID, self.kv.clone(), options)
    }

    fn open(&mut self) {
        self.store = Some(self.try_open().expect("a crash never keeps a store from opening"));
    }

    fn store(&self) -> &LogStore {
        self.store.as_ref().unwrap()
    }

    fn now(&self) -> Model {
        let mut model = self.durable.clone();
        self.unsynced.iter().for_each(|c| model.apply(c));
        model
    }

    fn sync(&mut self) {
        self.store().sync().unwrap();
        self.durable = self.now();
        self.unsynced.clear();
    }

    /// Keeps few enough changes unsynced.
    fn make_room_for(&mut self, changes: &[Change]) {
        let is_full = (0..INOS).any(|ino| {
            let of_ino = |c: &&Change| ino_of(c) == ino;
            self.unsynced.iter().chain(changes).filter(of_ino).count() > UNSYNCED
        });
        if is_full {
            self.sync();
        }
    }

    fn change(&mut self, change: Change) {
        self.make_room_for(std::slice::from_ref(&change));
        change.apply(self.store()).unwrap();
        self.unsynced.push(change);
    }

    fn write_group(&mut self, changes: Vec<Change>) {
        self.make_room_for(&changes);
        let pieces: Vec<_> = changes.iter().map(piece).collect();
        for written in self.store().write_many(&pieces) {
            written.unwrap();
        }
        self.unsynced.extend(changes);
    }

    fn kill(&mut self) {
        self.store.take().unwrap().abandon();
        self.start_again();
    }

    /// A process of the same boot on what the last one left.
    fn start_again(&mut self) {
        (self.disk, self.kv) = (self.disk.after_kill(), self.kv.after_kill());
        self.open();
        self.now().check(self.store(), INOS);
    }

    /// A sync that fails while the store runs, which is closed or killed then.
    fn fail_sync(&mut self, seed: u64) {
        self.disk.fail_next_sync(seed);
        match self.store().sync() {
            // There was nothing to sync, or only the upkeep's sync failed, before or behind this one.
            Ok(()) => {
                self.durable = self.now();
                self.unsynced.clear();
            }
            Err(_) => assert!(self.store().sync().is_err(), "it must not say that all is well now"),
        }
        if !self.disk.stop_failing() {
            return;
        }
        let store = self.store.take().unwrap();
        if seed.is_multiple_of(2) {
            store.abandon();
        } else {
            drop(store);
        }
        self.start_again();
    }

    /// A sync that fails while the store is being opened, or soon after.
    fn fail_sync_at_opening(&mut self, seed: u64) {
        self.store.take().unwrap().abandon();
        (self.disk, self.kv) = (self.disk.after_kill(), self.kv.after_kill());
        self.disk.fail_next_sync(seed);
        let opened = self.try_open();
        match (opened, self.disk.stop_failing()) {
            (Ok(store), false) => self.store = Some(store),
            (Ok(store), true) => {
                store.abandon();
                self.start_again();
            }
            (Err(StoreError::Io(_)), true) => self.start_again(),
            (Err(error), _) => panic!("{error}"),
        }
        self.now().check(self.store(), INOS);
    }

    fn lose_power(&mut self, seed: u64) {
        let mut rng = Rng(seed);
        self.store.take().unwrap().abandon();
        let kept = rng.below(self.kv.unsynced() as u64 + 1) as usize;
        (self.disk, self.kv) = (self.disk.after_power_loss(&mut rng), self.kv.after_power_loss(kept));
        self.boot_id += 1;
        self.open();
        self.find();
        assert_eq!(self.store().stats().crc_failures, 0, "what a crash leaves is not damage");
    }

    /// Finds, inode by inode, which of the unsynced changes are there; each must be so wholly or not at all.
    fn find(&mut self) {
        let mut found = self.durable.clone();
        for ino in 0..INOS {
            let changes: Vec<_> = self.unsynced.iter().filter(|c| ino_of(c) == ino).collect();
            let state = (0..1_u32 << changes.len()).rev().find_map(|subset| {
                let mut model = self.durable.clone();
                let picked = changes.iter().enumerate().filter(|(i, _)| subset & (1 << i) != 0);
                picked.for_each(|(_, c)| model.apply(c));
                model.difference_of(self.store(), ino).is_none().then_some(model)
            });
            let Some(state) = state else {
                let why = self.durable.difference_of(self.store(), ino);
                panic!("inode {ino} is not what was synced, with any of {changes:?}: {why:?}");
            };
            found.chunks.retain(|(i, _), _| *i != ino);
            found.chunks.extend(state.chunks.into_iter().filter(|((i, _), _)| *i == ino));
        }
        found.check(self.store(), INOS);
        // What a crash has left may itself not be synced, but is on this disk for good.
        (self.durable, self.unsynced) = (found, Vec::new());
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Change(change) => self.change(change),
            Step::Group(changes) => self.write_group(changes),
            Step::Sync => self.sync(),
            Step::SyncKv => fs_server::kv::Kv::sync(&*self.kv).unwrap(),
            Step::Save => self.store().save().unwrap(),
            Step::Compact => self.store().compact().unwrap(),
            Step::Kill => self.kill(),
            Step::FailSync(seed) if seed.is_multiple_of(3) => self.fail_sync_at_opening(seed),
            Step::FailSync(seed) => self.fail_sync(seed),
            Step::PowerLoss(seed) => self.lose_power(seed),
        }
    }
}

/// Cases: many more in the long tier.
fn cases() -> u32 {
    std::env::var("HAYATE_TEST_CRASHES").map_or(64, |cases| cases.parse().expect("a number of cases"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn any_crash_leaves_what_was_durable(
        steps in proptest::collection::vec(step(), 1..100),
        is_direct in any::<bool>(),
    ) {
        // Goal: what was synced is there after every loss of power, each later change wholly or not at all, never
        // anything else; after a kill everything is there. Unsynced writes tear by sectors and survive in any
        // subset, names come and go, the key-value store loses any tail of its unsynced batches. Syncs fail, at any time, and lose
        // what they should have written; the next process on the same boot still sees it. Crash upon crash. Records
        // alone and in groups, laid out for the page cache and for direct I/O.
        let mut world = World::new(if is_direct { IoMode::Direct } else { IoMode::Buffered });
        for step in steps {
            world.run(step);
        }
        world.lose_power(1);
        world.kill();
    }
}

#[test]
fn a_sync_after_a_failed_one_covers_what_that_lost() {
    // Goal: a sync fails, and the kernel takes for written what did not reach the device. The store is opened again under the
    // same boot, where all of it can be read; a sync that is answered well then must hold through a loss of power.
    let write =
        |n: u64| Change::Write { ino: n % INOS, chunk: 0, offset: 100 * n as u32, len: 6_000, seed: n };
    let mut failed = 0;
    for io in [IoMode::Buffered, IoMode::Direct] {
        for seed in 1..40 {
            let mut world = World::new(io);
            (0..3).for_each(|n| world.change(write(n)));
            world.sync();
            (3..9).for_each(|n| world.change(write(n)));
            world.run(Step::FailSync(seed));
            // The upkeep may have saved the index, and synced all, just before.
            failed += u32::from(!world.unsynced.is_empty());
            world.sync();
            world.lose_power(seed);
        }
    }
    assert!(failed > 40, "only {failed} syncs failed");
}
