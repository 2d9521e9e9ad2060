//! Every kind of crash over a simulated disk and key-value store, many in a row, against the model.

use crate::mem_kv::MemKv;
use crate::sim_disk::SimDisk;
use crate::support::{Change, Model, Rng, options, piece};
use fs_server::store::{self, ChunkStore, IoMode, LogStore, StoreOptions};
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

    fn open(&mut self) {
        // Hardly any memory and small segments: the index is saved and read all the time.
        let options =
            StoreOptions { boot_id: Some(self.boot_id), index_bytes: 2_000, io: self.io, ..options() };
        let opened = store::open_on(self.disk.clone(), STORE_ID, self.kv.clone(), options);
        self.store = Some(opened.expect("a crash never keeps a store from opening"));
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
        (self.disk, self.kv) = (self.disk.after_kill(), self.kv.after_kill());
        self.open();
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
        // subset, names come and go, the key-value store loses any tail of its unsynced batches. Crash upon crash. Records
        // alone and in groups, laid out for the page cache and for direct I/O.
        let mut world = World::new(if is_direct { IoMode::Direct } else { IoMode::Buffered });
        for step in steps {
            world.run(step);
        }
        world.lose_power(1);
        world.kill();
    }
}
