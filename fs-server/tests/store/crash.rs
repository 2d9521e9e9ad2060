//! What a crash may leave: files cut or torn behind what was synced.

use crate::support::{
    Change, Model, Rng, abandon, apply_all, copy_dir, fast_dir, open, open_with, options, put_segment,
    segment_files,
};
use fs_server::store::StoreOptions;
use fs_server::store::format::{self, Header};
use std::path::Path;

const INOS: u64 = 4;

/// Where a record is, in bytes of its segment.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub start: usize,
    pub data_end: usize,
    pub end: usize,
}

/// Changes before the sync, and those after it. They overlap, so that one that is lost shows what was below.
fn changes() -> (Vec<Change>, Vec<Change>) {
    let write = |chunk, offset, len, seed| Change::Write { ino: 1, chunk, offset, len, seed };
    let synced = vec![
        write(0, 0, 3_000, 1),
        write(1, 100, 5_000, 2),
        Change::Write { ino: 2, chunk: 0, offset: 0, len: 700, seed: 3 },
        write(0, 500, 100, 4),
    ];
    let tail = vec![
        write(0, 200, 900, 5),
        Change::Truncate { ino: 1, chunk: 0, keep: 2_000 },
        write(1, 0, 300, 6),
        Change::Remove { inos: vec![2] },
        write(0, 600, 100, 7),
    ];
    (synced, tail)
}

/// A store with these changes in one segment, the first ones synced, killed. Returns the places of the records of the
/// others.
fn build(dir: &Path) -> Vec<Span> {
    let store = open(dir);
    let (synced, tail) = changes();
    apply_all(&synced, &*store);
    fs_server::store::ChunkStore::sync(&*store).unwrap();
    apply_all(&tail, &*store);
    abandon(store);
    let files = segment_files(dir);
    assert_eq!(files.len(), 1);
    let bytes = std::fs::read(&files[0]).unwrap();
    let records = records(dir, &bytes);
    std::fs::write(&files[0], &bytes[..records.last().unwrap().end]).unwrap();
    assert_eq!(records.len(), synced.len() + tail.len());
    records[synced.len()..].to_vec()
}

/// Where the records of a segment are.
pub fn records(dir: &Path, bytes: &[u8]) -> Vec<Span> {
    let store_id = format::decode_store_file(&std::fs::read(dir.join("store")).unwrap()).unwrap();
    let (mut at, mut found) = (512, Vec::new());
    while at < bytes.len() {
        let Some(header) = Header::decode(bytes[at..at + 64].try_into().unwrap(), store_id) else { break };
        let end = header.end().byte() as usize;
        let data_end = at + header.shape().data_at() as usize + header.data_bytes as usize;
        found.push(Span { start: at, data_end, end });
        at = end;
    }
    found
}

fn boot(boot_id: u128) -> StoreOptions {
    StoreOptions { boot_id: Some(boot_id), ..options() }
}

/// Opens what is left and checks that it is the synced changes and some of the others: all in `sure`, none in `never`.
fn check_left(dir: &Path, boot_id: u128, sure: &[bool], never: &[bool], what: &str) {
    let (synced, tail) = changes();
    let store = open_with(dir, boot(boot_id)).unwrap();
    let mut differences = Vec::new();
    for subset in 0..1_u32 << tail.len() {
        let has = |i: usize| subset & (1 << i) != 0;
        if (0..tail.len()).any(|i| (sure[i] && !has(i)) || (never[i] && has(i))) {
            continue;
        }
        let picked = tail.iter().enumerate().filter(|(i, _)| has(*i)).map(|(_, c)| c);
        match Model::of(synced.iter().chain(picked)).difference(&*store, INOS) {
            None => return,
            Some(difference) => differences.push(difference),
        }
    }
    panic!("{what}: no allowed state, {differences:#?}");
}

#[test]
fn torn_tails_keep_every_whole_record() {
    // Goal: the file is cut at every byte behind what was synced. Records that are wholly there are kept and no others,
    // the content below shows, under the same boot (processes were killed) and another (power was lost).
    let source = fast_dir();
    let tail = build(source.path());
    let name = segment_files(source.path())[0].file_name().unwrap().to_owned();
    let whole = std::fs::read(source.path().join(&name)).unwrap();
    let dir = fast_dir();
    copy_dir(source.path(), dir.path());
    for cut in tail[0].start..=whole.len() {
        put_segment(source.path(), dir.path(), &name, &whole[..cut]);
        let sure: Vec<_> = tail.iter().map(|r| r.end <= cut).collect();
        // With its data there and only the end missing, a record is found whole by its checksums. The same if all that
        // was cut off is zero, as behind the end of a file.
        let is_lost = |r: &Span| (cut..r.data_end).any(|at| whole[at] != 0);
        let never: Vec<_> = tail.iter().map(is_lost).collect();
        check_left(dir.path(), 1 + cut as u128 % 2, &sure, &never, &format!("cut at {cut}"));
    }
}

#[test]
fn tears_in_the_middle_lose_only_what_they_hit() {
    // Goal: after a loss of power any pages behind the last sync may be missing. Zeros or rubbish over a random range of
    // the tail lose at most the records that they touch, and a second opening (by a later boot) finds the same.
    let source = fast_dir();
    let tail = build(source.path());
    let name = segment_files(source.path())[0].file_name().unwrap().to_owned();
    let whole = std::fs::read(source.path().join(&name)).unwrap();
    let mut rng = Rng(42);
    for round in 0..600 {
        let dir = fast_dir();
        copy_dir(source.path(), dir.path());
        let begin = tail[0].start + rng.below((whole.len() - tail[0].start) as u64) as usize;
        let end = (begin + 1 + rng.below(1_500) as usize).min(whole.len());
        let mut torn = whole.clone();
        let is_zero = rng.below(2) == 0;
        torn[begin..end].iter_mut().for_each(|b| *b = if is_zero { 0 } else { rng.below(256) as u8 });
        std::fs::write(dir.path().join(&name), &torn).unwrap();
        let sure: Vec<_> = tail.iter().map(|r| r.end <= begin || r.start >= end).collect();
        let what = format!("round {round}: {begin}..{end}, zeros {is_zero}");
        check_left(dir.path(), 2, &sure, &[false; 5], &what);
        check_left(dir.path(), 3, &sure, &[false; 5], &what);
    }
}

#[test]
fn a_store_goes_on_after_a_torn_tail() {
    // Goal: what was void at one opening stays void when later syncs make everything before them safe.
    let dir = fast_dir();
    let tail = build(dir.path());
    let file = segment_files(dir.path()).remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[tail[0].start + 300] ^= 0xff;
    bytes[tail[2].start..tail[2].end].fill(0);
    std::fs::write(&file, &bytes).unwrap();
    let (synced, later) = changes();
    let mut model = Model::of(synced.iter().chain([&later[1], &later[3], &later[4]]));
    for boot_id in 2..6 {
        let store = open_with(dir.path(), boot(boot_id)).unwrap();
        model.check(&*store, INOS);
        let change = Change::Write { ino: 3, chunk: boot_id as u64, offset: 5, len: 2_000, seed: 99 };
        change.apply(&*store).unwrap();
        fs_server::store::ChunkStore::sync(&*store).unwrap();
        change.apply(&*store).unwrap();
        model.apply(&change);
    }
}
