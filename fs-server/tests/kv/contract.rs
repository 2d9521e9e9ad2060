//! What every engine must do, alone and when reopened.

use crate::{for_each_engine, open, scan};
use fs_server::kv::{self, Batch, KvError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

fn pair(key: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    (key.to_vec(), value.to_vec())
}

#[test]
fn last_operation_on_a_key_wins() {
    // Goal: order within a batch counts, at once and after the journal was replayed.
    for_each_engine(|kind, dir| {
        let store = open(kind, dir);
        let mut batch = Batch::new();
        batch.put(b"kept", b"1");
        batch.delete(b"kept");
        batch.put(b"kept", b"2");
        batch.put(b"gone", b"1");
        batch.delete(b"gone");
        batch.put(b"empty", b"");
        store.commit(batch).unwrap();
        let check = |store: &dyn kv::Kv| {
            assert_eq!(store.get(b"kept").unwrap().as_deref(), Some(&b"2"[..]), "{kind}");
            assert_eq!(store.get(b"gone").unwrap(), None, "{kind}");
            assert_eq!(store.get(b"empty").unwrap().as_deref(), Some(&b""[..]), "{kind}");
        };
        check(&*store);
        drop(store);
        check(&*open(kind, dir));
    });
}

#[test]
fn scan_is_ascending_half_open_and_stops() {
    // Goal: bounds are [from, to), order is that of the bytes, a break ends the scan, an empty range is empty.
    for_each_engine(|kind, dir| {
        let store = open(kind, dir);
        let mut batch = Batch::new();
        for key in [&b"b"[..], b"a\xff", b"a", b"c", b"a\x00"] {
            batch.put(key, key);
        }
        store.commit(batch).unwrap();
        let all: Vec<_> = [&b"a"[..], b"a\x00", b"a\xff", b"b"].map(|k| pair(k, k)).into();
        assert_eq!(scan(&*store, b"a", b"c", usize::MAX), all, "{kind}");
        assert_eq!(scan(&*store, b"a", b"c", 2), all[..2], "{kind}");
        assert_eq!(scan(&*store, b"a\x00", b"a\xff", usize::MAX), all[1..2], "{kind}");
        assert_eq!(scan(&*store, b"c", b"a", usize::MAX), [], "{kind}");
        assert_eq!(scan(&*store, b"a", b"a", usize::MAX), [], "{kind}");
    });
}

#[test]
fn everything_is_there_after_reopening() {
    // Goal: a few thousand pairs, overwritten and deleted over several openings, equal a map. Values reach over the
    // engines' thresholds for inline and large values.
    for_each_engine(|kind, dir| {
        let mut model = BTreeMap::new();
        for round in 0..4_u32 {
            let store = open(kind, dir);
            for step in 0..40_u32 {
                let mut batch = Batch::new();
                for i in 0..25_u32 {
                    let n = round * 7_919 + step * 104_729 + i * 31;
                    let key = (n % 1_500).to_be_bytes().to_vec();
                    if n % 5 == 0 {
                        batch.delete(&key);
                        model.remove(&key);
                    } else {
                        let value = vec![n as u8; (n % 9_000) as usize];
                        batch.put(&key, &value);
                        model.insert(key, value);
                    }
                }
                store.commit(batch).unwrap();
            }
            store.sync().unwrap();
            let seen: BTreeMap<_, _> = scan(&*store, &[], &[0xff; 5], usize::MAX).into_iter().collect();
            assert!(seen == model, "{kind}, round {round}");
            assert!(store.disk_bytes() > 0, "{kind}");
        }
        let store = open(kind, dir);
        for (key, value) in &model {
            assert_eq!(store.get(key).unwrap().as_deref(), Some(&value[..]), "{kind}");
        }
    });
}

#[test]
fn an_empty_batch_is_no_change() {
    // Goal: committing nothing is allowed, and syncing an empty store as well.
    for_each_engine(|kind, dir| {
        let store = open(kind, dir);
        store.commit(Batch::new()).unwrap();
        store.sync().unwrap();
        assert_eq!(scan(&*store, &[], &[0xff], usize::MAX), [], "{kind}");
    });
}

#[test]
fn a_second_opening_says_in_use() {
    // Goal: two handles on one directory would destroy it; the second opening must fail clearly, and the first go on.
    for_each_engine(|kind, dir| {
        let store = open(kind, dir);
        let second = kv::open(kind, dir, 1 << 20);
        assert!(matches!(second, Err(KvError::InUse(ref path)) if path == dir), "{kind}: {:?}", second.err());
        let mut batch = Batch::new();
        batch.put(b"k", b"v");
        store.commit(batch).unwrap();
        drop(store);
        assert_eq!(open(kind, dir).get(b"k").unwrap().as_deref(), Some(&b"v"[..]), "{kind}");
    });
}

#[test]
fn scans_see_whole_batches() {
    // Goal: a scan beside a writer never sees half a batch. Every batch writes one number under 20 keys.
    for_each_engine(|kind, dir| {
        let store = open(kind, dir);
        let write = |n: u32| {
            let mut batch = Batch::new();
            for key in 0..20_u8 {
                batch.put([key], n.to_le_bytes());
            }
            store.commit(batch).unwrap();
        };
        write(0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (1..200).for_each(write);
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                let seen = scan(&*store, &[0], &[20], usize::MAX);
                assert_eq!(seen.len(), 20, "{kind}");
                assert!(seen.iter().all(|p| p.1 == seen[0].1), "{kind}: {seen:?}");
            }
        });
        assert_eq!(store.get(&[7]).unwrap().as_deref(), Some(&199_u32.to_le_bytes()[..]), "{kind}");
    });
}

#[test]
fn engines_have_names() {
    // Goal: names go to engines and back; others are refused with the choice named.
    for kind in kv::KvKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    assert!("rocks".parse::<kv::KvKind>().unwrap_err().contains("fjall or sled"));
}
