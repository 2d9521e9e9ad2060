//! Damage below the guard: single flipped bits in every file of a store, lost ends, exchanged values.

use crate::damage::{bytes_of, copy_tree, files, flip_all};
use crate::{FENCE, reboot, scan};
use fs_server::kv::{self, Batch, Kv, KvError, KvKind};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// The smallest there is: memtables are flushed and tables merged after a few thousand rows.
const CACHE_BYTES: u64 = 1 << 20;

fn open(dir: &Path) -> Result<Arc<dyn Kv>, KvError> {
    kv::open(KvKind::Fjall, dir, CACHE_BYTES)
}

fn key(n: u32) -> Vec<u8> {
    [&b"i"[..], &u64::from(n).to_be_bytes()].concat()
}

/// Rows like those of a create, rewritten and removed, so that an older state of the store is a wrong one.
fn fill(store: &dyn Kv, model: &mut Model, steps: std::ops::Range<u32>) {
    for step in steps {
        let mut batch = Batch::new();
        for (n, length) in [(step % 7, 40), (100 + step * 13 % 5_000, 150), (10_000 + step, 200)] {
            let value: Vec<u8> = (0..length).map(|at: u32| (at * 31 + step * 7 + n) as u8).collect();
            batch.put(key(n), &value);
            model.insert(key(n), value);
        }
        let gone = key(10_000 + step / 2);
        if step % 3 == 0 {
            batch.delete(&gone);
            model.remove(&gone);
        }
        store.commit(batch).unwrap();
    }
}

/// A closed store that has several tables, sealed journals' successors and a journal with batches in it.
fn closed_store(dir: &Path) -> Model {
    let mut model = Model::new();
    let store = open(dir).unwrap();
    fill(&*store, &mut model, 0..9_000);
    store.sync().unwrap();
    drop(store);
    let store = open(dir).unwrap();
    fill(&*store, &mut model, 9_000..9_300);
    store.sync().unwrap();
    model
}

/// Opens and reads everything, by scan and by key: it must be the model, or an error. Answers whether there was one.
fn is_told(opened: Result<Arc<dyn Kv>, KvError>, model: &Model, what: &str) -> bool {
    let Ok(store) = opened else { return true };
    let mut seen = Model::new();
    let scanned = store.scan(&[], &[0xff], &mut |key, value| {
        seen.insert(key.to_vec(), value.to_vec());
        std::ops::ControlFlow::Continue(())
    });
    let mut has_told = scanned.is_err();
    assert!(has_told || seen == *model, "{what}: a scan shows something else, and no error");
    for (key, value) in &seen {
        assert!(
            model.get(key) == Some(value),
            "{what}: a scan shows a wrong value before it ends with an error"
        );
    }
    for (key, value) in model.iter().step_by(17) {
        match store.get(key) {
            Ok(found) => {
                assert!(found.as_deref() == Some(value.as_slice()), "{what}: {key:?} is wrong or missing");
            }
            Err(_) => has_told = true,
        }
    }
    has_told
}

#[test]
fn flipped_bits_are_told_or_harmless() {
    // Goal: a bit flips in any file of a closed store; whatever is read afterwards is right, or an error. Every region of
    // every file is sampled, under the same boot and under another.
    let source = tempfile::tempdir().unwrap();
    let model = closed_store(source.path());
    let per_file = if std::env::var_os("HAYATE_TEST_LONG").is_some() { 400 } else { 8 };
    for is_rebooted in [false, true] {
        let judge = |dir: &Path, what: &str| is_told(open(dir), &model, what);
        let (told, harmless) = flip_all(source.path(), Path::new(""), per_file, is_rebooted, judge);
        assert!(told > 50, "told {told}, harmless {harmless}");
    }
}

#[test]
fn flipped_bits_of_sled_are_told_or_harmless() {
    // Goal: the same for sled, which sometimes tells by a panic.
    let source = tempfile::tempdir().unwrap();
    let open = |dir: &Path| kv::open(KvKind::Sled, dir, CACHE_BYTES);
    let mut model = Model::new();
    for steps in [0..300, 300..400] {
        let store = open(source.path()).unwrap();
        fill(&*store, &mut model, steps);
        store.sync().unwrap();
    }
    for is_rebooted in [false, true] {
        let judge = |dir: &Path, what: &str| {
            let opened = std::panic::catch_unwind(|| open(dir));
            opened.is_err() || is_told(opened.unwrap(), &model, what)
        };
        let (told, harmless) = flip_all(source.path(), Path::new(""), 40, is_rebooted, judge);
        assert!(told > 10, "told {told}, harmless {harmless}");
    }
}

#[test]
fn flips_of_sequence_numbers_are_told_or_harmless() {
    // Goal: fjall does not check a batch's sequence number; a lower one would put an old value over a new. The low bits and some higher
    // ones of the first numbers of the journal, and of some behind them, are flipped.
    let source = tempfile::tempdir().unwrap();
    let model = closed_store(source.path());
    let journal =
        files(source.path()).into_iter().rfind(|path| path.extension().is_some_and(|e| e == "jnl")).unwrap();
    let whole = bytes_of(&journal);
    // A batch ends in the trailer; its successor begins with a tag and the count of items.
    let ends = whole.windows(4).enumerate().filter(|(_, w)| *w == b"FJL\x03").map(|(at, _)| at + 4);
    let starts: Vec<usize> = std::iter::once(0).chain(ends).filter(|at| whole.get(*at) == Some(&1)).collect();
    assert!(starts.len() > 200);
    let work = tempfile::tempdir().unwrap();
    let mut told = 0;
    for start in [starts[0], starts[1], starts[starts.len() - 20], starts[starts.len() - 1]] {
        for bit in (0..8).chain((8..64).step_by(5)) {
            let dir = work.path().join("store");
            copy_tree(source.path(), &dir);
            let mut flipped = whole.clone();
            flipped[start + 5 + bit / 8] ^= 1 << (bit % 8);
            std::fs::write(dir.join(journal.file_name().unwrap()), flipped).unwrap();
            let what = format!("bit {bit} of the number at {start} in {}", journal.display());
            told += u32::from(is_told(open(&dir), &model, &what));
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }
    assert!(told > 30, "{told}");
}

/// Zeroes the second half of the last journal's batches: what a file system may leave, and fjall takes for a torn end.
fn cut_journal(dir: &Path) {
    let journal =
        files(dir).into_iter().rfind(|path| path.extension().is_some_and(|end| end == "jnl")).unwrap();
    let mut bytes = bytes_of(&journal);
    let half = bytes.len() / 2;
    bytes[half..].fill(0);
    std::fs::write(journal, bytes).unwrap();
}

fn is_told_as_lost(dir: &Path, what: &str) -> bool {
    match open(dir) {
        Err(KvError::Corrupt(text)) => text.contains("lost") && text.contains(what) && text.contains(FENCE),
        Err(other) => panic!("{other}"),
        Ok(_) => false,
    }
}

#[test]
fn a_lost_end_is_told() {
    // Goal: the end of the journal is gone under the same boot: the store says how much was lost and what to do, says so
    // again, and opens with what is left once the fence is deleted.
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::new();
    let store = open(dir.path()).unwrap();
    fill(&*store, &mut model, 0..100);
    drop(store);
    cut_journal(dir.path());
    assert!(is_told_as_lost(dir.path(), "acknowledged"));
    assert!(is_told_as_lost(dir.path(), "acknowledged"));
    std::fs::remove_file(dir.path().join(FENCE)).unwrap();
    let store = open(dir.path()).unwrap();
    let left = scan(&*store, &[], &[0xff], usize::MAX).len();
    assert!(left > 0 && left < model.len(), "{left}");
    fill(&*store, &mut model, 100..110);
    drop(store);
    assert!(open(dir.path()).is_ok());
}

#[test]
fn a_lost_synced_end_is_told() {
    // Goal: under another boot, only what was synced is due: an end that was not may be lost without a word, one that was
    // may not.
    for is_synced in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        fill(&*store, &mut Model::new(), 0..100);
        if is_synced {
            store.sync().unwrap();
        }
        drop(store);
        cut_journal(dir.path());
        reboot(dir.path());
        assert_eq!(is_told_as_lost(dir.path(), "synced"), is_synced);
    }
}

#[test]
fn a_refused_store_keeps_its_journal() {
    // Goal: one bit of the journal flips where a batch begins, so that all behind it looks torn and was due. The store is refused, and its
    // journal is as it was, to the byte: with the bit flipped back, nothing is missing. At the first batch nothing in the journals says what
    // is lost, and fjall itself has opened what was left.
    for (part, is_rebooted) in [(0, false), (2, false), (0, true), (2, true)] {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::new();
        let store = open(dir.path()).unwrap();
        fill(&*store, &mut model, 0..100);
        store.sync().unwrap();
        drop(store);
        if is_rebooted {
            reboot(dir.path());
        }
        let is_journal = |path: &PathBuf| path.extension().is_some_and(|end| end == "jnl");
        let journal = files(dir.path()).into_iter().rfind(is_journal).unwrap();
        let whole = bytes_of(&journal);
        let ends = whole.windows(4).enumerate().filter(|(_, w)| *w == b"FJL\x03").map(|(at, _)| at + 4);
        let starts: Vec<_> = std::iter::once(0).chain(ends).collect();
        let mut flipped = whole.clone();
        flipped[starts[part * starts.len() / 4]] ^= 4;
        std::fs::write(&journal, &flipped).unwrap();
        for _ in 0..2 {
            assert!(is_told_as_lost(dir.path(), "at least"), "{part}, {is_rebooted}");
            assert!(bytes_of(&journal) == flipped, "{part}, {is_rebooted}: the journal was changed");
        }
        std::fs::write(&journal, &whole).unwrap();
        assert!(!is_told(open(dir.path()), &model, "flipped back"), "{part}, {is_rebooted}");
    }
}

#[test]
fn a_value_under_another_key_is_told() {
    // Goal: values that the engine finds in good order, but under the wrong key or without a check, are errors for get and
    // scan, and are named when everything is verified. An engine is written to behind the guard's back.
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut model = Model::new();
    fill(&*store, &mut model, 0..50);
    store.sync().unwrap();
    drop(store);
    {
        let database = fjall::Database::builder(dir.path()).open().unwrap();
        let tree = database.keyspace("namespace", fjall::KeyspaceCreateOptions::default).unwrap();
        let other = tree.get(key(10_030)).unwrap().unwrap();
        tree.insert(key(10_040), other).unwrap();
        tree.insert(key(10_041), b"abc").unwrap();
        database.persist(fjall::PersistMode::SyncAll).unwrap();
    }
    let store = open(dir.path()).unwrap();
    for n in [10_040, 10_041] {
        assert!(matches!(store.get(&key(n)), Err(KvError::Corrupt(text)) if text.contains("kind 'i'")));
    }
    assert!(matches!(
        store.scan(&[], &[0xff], &mut |_, _| std::ops::ControlFlow::Continue(())),
        Err(KvError::Corrupt(_))
    ));
    let report = store.verify().unwrap();
    assert_eq!(report.damaged, [key(10_040), key(10_041)]);
    assert!(!report.is_clean() && report.unreadable.is_empty());
    // The lane of this thread is read as well.
    assert_eq!(report.keys as usize, model.len() - 2 + 1);
}

#[test]
fn a_damaged_table_is_verified_around() {
    // Goal: a block of a table that cannot be read costs only its neighbourhood; verifying goes on behind it.
    let dir = tempfile::tempdir().unwrap();
    let model = closed_store(dir.path());
    let is_table = |path: &PathBuf| path.parent().unwrap().ends_with("tables");
    let table = files(dir.path())
        .into_iter()
        .filter(is_table)
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 2;
    std::fs::write(&table, bytes).unwrap();
    let report = open(dir.path()).unwrap().verify().unwrap();
    assert!(!report.unreadable.is_empty());
    let hidden = model.len() as u64 + 1 - report.keys;
    assert!(hidden > 0 && hidden < 500, "{hidden} of {}", model.len());
}
