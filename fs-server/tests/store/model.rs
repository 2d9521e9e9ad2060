//! Any sequence of operations, with reopenings and compaction between them, against the model.

use crate::support::{Change, Model, abandon, key, open, open_with, options};
use fs_server::store::{ChunkStore, StoreOptions};
use proptest::prelude::*;

const INOS: u64 = 4;
const CHUNK_BYTES: u32 = 40 << 10;

#[derive(Debug, Clone)]
enum Step {
    Change(Change),
    Read { ino: u64, chunk: u64, offset: u32, len: usize },
    Reopen,
    Kill,
    Sync,
    Save,
    Compact,
}

fn write() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1..600_usize, 4000..4200_usize, Just(8192), 1..20_000_usize];
    let offset = prop_oneof![0..CHUNK_BYTES, (0..10_u32).prop_map(|b| b * 4096)];
    (0..INOS, 0..3_u64, offset, len, any::<u64>()).prop_map(|(ino, chunk, offset, len, seed)| {
        let len = len.min((CHUNK_BYTES + 4096 - offset) as usize);
        Step::Change(Change::Write { ino, chunk, offset, len, seed })
    })
}

fn step() -> impl Strategy<Value = Step> {
    let truncate = (0..INOS, 0..3_u64, 0..CHUNK_BYTES);
    let truncate =
        truncate.prop_map(|(ino, chunk, keep)| Step::Change(Change::Truncate { ino, chunk, keep }));
    let remove = proptest::collection::vec(0..INOS, 1..3);
    let punch = (0..INOS, 0..3_u64, 0..CHUNK_BYTES, 1..9000_u32);
    let punch = punch.prop_map(|(ino, chunk, offset, len)| Change::Punch { ino, chunk, offset, len });
    let read = (0..INOS, 0..3_u64, 0..CHUNK_BYTES, 1..9000_usize);
    prop_oneof![
        12 => write(),
        2 => truncate,
        2 => punch.prop_map(Step::Change),
        1 => remove.prop_map(|inos| Step::Change(Change::Remove { inos })),
        6 => read.prop_map(|(ino, chunk, offset, len)| Step::Read { ino, chunk, offset, len }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => Just(Step::Sync),
        1 => Just(Step::Save),
        1 => Just(Step::Compact),
    ]
}

fn check_read(model: &Model, store: &dyn ChunkStore, at: (u64, u64), offset: u32, len: usize) {
    let mut out = vec![0xaa; len];
    let got = store.read(key(at.0, at.1), offset, &mut out).unwrap();
    let all = model.bytes(at.0, at.1);
    let begin = (offset as usize).min(all.len());
    let end = (offset as usize + len).min(all.len()).max(begin);
    assert_eq!(got, end - begin);
    assert!(out[..got] == all[begin..end], "{at:?} {offset} {len}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(steps in proptest::collection::vec(step(), 1..120)) {
        // Goal: after every step reads agree with the model, and at every reopening all of it does, counters included;
        // whether the store was closed and had saved its index, or was killed. Memory for the index is next to nothing.
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        let tight = || StoreOptions { index_bytes: 4_000, ..options() };
        let mut store = open_with(dir.path(), tight()).unwrap();
        for step in steps {
            match step {
                Step::Change(change) => {
                    change.apply(&*store).unwrap();
                    model.apply(&change);
                }
                Step::Read { ino, chunk, offset, len } => check_read(&model, &*store, (ino, chunk), offset, len),
                Step::Sync => store.sync().unwrap(),
                Step::Save => store.save().unwrap(),
                Step::Compact => store.compact().unwrap(),
                Step::Reopen => {
                    model.check(&*store, INOS);
                    drop(store);
                    store = open_with(dir.path(), tight()).unwrap();
                    model.check(&*store, INOS);
                }
                Step::Kill => {
                    abandon(store);
                    store = open_with(dir.path(), tight()).unwrap();
                    model.check(&*store, INOS);
                }
            }
        }
        model.check(&*store, INOS);
        drop(store);
        model.check(&*open(dir.path()), INOS);
    }
}
