//! Loss of power: of the journal behind what was synced any sectors may be missing, and its end.

use crate::damage::copy_tree;
use crate::kill::{check, numbered};
use crate::{FENCE, open, reboot};
use fs_server::kv::{Kv, KvKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Bytes that a device writes wholly or not at all.
const SECTOR_BYTES: u64 = 512;

/// A store as a kill leaves it, of whose journal a part is synced.
struct Left {
    dir: TempDir,
    /// Where the synced part of the journal ends.
    synced_end: u64,
    /// The last batch in it.
    synced: u32,
    /// Where each of the batches behind it ends.
    ends: Vec<u64>,
}

fn temporary() -> TempDir {
    // In memory, if that is possible: a store is opened hundreds of times.
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn commit(store: &dyn Kv, numbers: Range<u32>) {
    numbers.for_each(|n| store.commit(numbered(n)).unwrap());
}

/// The last journal of a store.
fn journal(dir: &Path) -> PathBuf {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    entries.filter(|path| path.extension().is_some_and(|end| end == "jnl")).max_by_key(number).unwrap()
}

fn journal_bytes(dir: &Path) -> u64 {
    journal(dir).metadata().unwrap().len()
}

/// Commits `synced` batches, syncs, and commits the others.
fn leave(synced: u32, all: u32) -> Left {
    let dir = temporary();
    commit(&*open(KvKind::Fjall, dir.path()), 0..2);
    // Opened again, a journal ends where its last batch does; a new one has zeros behind.
    let store = open(KvKind::Fjall, dir.path());
    commit(&*store, 2..synced);
    store.sync().unwrap();
    let synced_end = journal_bytes(dir.path());
    let one = |n| {
        commit(&*store, n..n + 1);
        journal_bytes(dir.path())
    };
    let ends = (synced..all).map(one).collect();
    drop(store);
    Left { dir, synced_end, synced: synced - 1, ends }
}

impl Left {
    /// The last batch that is whole if the journal is as it was up to `end`.
    fn whole_before(&self, end: u64) -> u32 {
        self.synced + self.ends.iter().filter(|batch_end| **batch_end <= end).count() as u32
    }

    /// Opens a copy, with another journal, under another boot: the batches are there up to `at_least`, and some that follow. Then
    /// the store goes on, and all is still there when it is opened twice more.
    fn check(&self, bytes: &[u8], at_least: u32, has_fence: bool) -> u32 {
        let copy = temporary();
        copy_tree(self.dir.path(), copy.path());
        std::fs::write(journal(copy.path()), bytes).unwrap();
        reboot(copy.path());
        if !has_fence {
            std::fs::remove_file(copy.path().join(FENCE)).unwrap();
        }
        let newest = check(KvKind::Fjall, copy.path(), at_least);
        commit(&*open(KvKind::Fjall, copy.path()), newest + 1..newest + 4);
        assert_eq!(check(KvKind::Fjall, copy.path(), newest + 3), newest + 3);
        newest
    }
}

#[test]
fn power_loss_leaves_what_was_synced_and_a_prefix() {
    // Goal: whatever a loss of power leaves of the journal behind what was synced, the store opens, with the synced batches and
    // a prefix of the others, each wholly; and it goes on from there. The journal ends anywhere: at the borders of batches,
    // beside them, and in between, cut or with zeros behind. Then sectors in its middle are missing, in any number.
    let left = leave(9, 20);
    let whole = std::fs::read(journal(left.dir.path())).unwrap();
    let all = *left.ends.last().unwrap();
    assert_eq!(whole.len() as u64, all);
    let borders = std::iter::once(left.synced_end).chain(left.ends.iter().copied());
    let cuts = borders.flat_map(|at| [at - 1, at, at + 1]).chain((left.synced_end..all).step_by(7_001));
    for (round, cut) in cuts.filter(|cut| (left.synced_end..=all).contains(cut)).enumerate() {
        let mut bytes = whole[..cut as usize].to_vec();
        if round % 2 == 0 {
            bytes.resize(whole.len(), 0);
        }
        let expected = left.whole_before(cut);
        assert_eq!(left.check(&bytes, expected, round % 3 != 0), expected, "cut at {cut}");
    }
    let first = left.synced_end.next_multiple_of(SECTOR_BYTES);
    let begins = std::iter::once(left.synced_end).chain((first..all).step_by(11 * SECTOR_BYTES as usize));
    for (round, begin) in begins.enumerate() {
        let sectors = [1, 2, 8, 40][round % 4] * SECTOR_BYTES;
        let end = (begin / SECTOR_BYTES * SECTOR_BYTES + sectors).min(all);
        let mut bytes = whole.clone();
        bytes[begin as usize..end as usize].fill(0);
        left.check(&bytes, left.whole_before(begin), round % 3 != 0);
    }
}

#[test]
fn power_loss_of_a_journal_that_tables_are_ahead_of() {
    // Goal: as above, where batches that the journal has lost were flushed to tables, which are synced by themselves.
    let left = leave(9, 160);
    let whole = std::fs::read(journal(left.dir.path())).unwrap();
    assert_eq!(whole.len() as u64, *left.ends.last().unwrap(), "all is in one journal");
    let mut ahead = 0;
    for cut in [left.synced_end, left.synced_end + 700, left.ends[4], left.ends[80], left.ends[140]] {
        let expected = left.whole_before(cut);
        let newest = left.check(&whole[..cut as usize], expected, true);
        ahead += u32::from(newest > expected);
    }
    assert!(ahead > 0, "no table was ahead of its journal: this shows nothing");
}
