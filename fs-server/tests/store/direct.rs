//! Direct mode: the same store through O_DIRECT, by the calls that block and by those that do not.

use crate::support::{Change, Model, Rng, abandon, key, open_with, options, pattern};
use bytes::Bytes;
use fs_net::BufferPool;
use fs_proto::checksum::crc;
use fs_proto::ids::InodeId;
use fs_server::store::{
    BlockSums, ChunkKey, ChunkStore, ChunkWrite, Compare, IoMode, LogStore, StoreError, StoreOptions,
};
use std::fmt::Write as _;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::runtime::LocalRuntime;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

const INOS: u64 = 4;

fn direct() -> StoreOptions {
    StoreOptions { io: IoMode::Direct, segment_bytes: 4 << 20, ..options() }
}

/// Opens a store in direct mode, or notes that this file system does not take it.
fn open(dir: &Path) -> Option<Arc<LogStore>> {
    let store = open_with(dir, direct()).unwrap();
    if !store.is_direct() {
        crate::skip::note("no direct I/O here");
        return None;
    }
    Some(store)
}

fn on_a_worker<F: Future<Output = ()>>(body: F) {
    LocalRuntime::new().unwrap().block_on(body);
}

/// Changes that are under way at once on one worker, and done when this returns; none may touch what another does.
fn apply_at_once(store: &Arc<LogStore>, model: &mut Model, changes: impl Iterator<Item = Change>) {
    on_a_worker(async {
        let pool = BufferPool::new(64 << 20);
        let mut tasks = tokio::task::JoinSet::new();
        for change in changes {
            model.apply(&change);
            let (store, pool) = (store.clone(), pool.clone());
            tasks.spawn_local(async move { apply(&store, &pool, &change, true).await });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
}

/// A directory on the disk: file systems in memory may only seem to take direct I/O.
fn disk_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn random_change(rng: &mut Rng) -> Change {
    let (ino, chunk) = (rng.below(INOS), rng.below(3));
    // Around all that alignment may turn on: blocks, pages of records, the size from which data lies on pages.
    let offset = match rng.below(3) {
        0 => rng.below(50) as u32 * 4096,
        1 => rng.below(200_000) as u32,
        _ => 0,
    };
    let len = match rng.below(5) {
        0 => 1 + rng.below(600),
        1 => 4096 * (1 + rng.below(40)),
        2 => 65_536 - 3 + rng.below(6),
        3 => 1 + rng.below(300_000),
        _ => 4096,
    };
    match rng.below(14) {
        0 => Change::Truncate { ino, chunk, keep: offset },
        1 => Change::Remove { inos: vec![ino] },
        2 => Change::Punch { ino, chunk, offset, len: len as u32 },
        _ => Change::Write { ino, chunk, offset, len: len as usize, seed: rng.below(u64::MAX >> 34) },
    }
}

/// A buffer of a pool, or one that does not begin where direct I/O wants it.
async fn bytes_of(pool: &BufferPool, data: &[u8], is_aligned: bool) -> Bytes {
    let shift = usize::from(!is_aligned);
    let mut buffer = pool.get(data.len() + shift).await.unwrap();
    buffer[shift..].copy_from_slice(data);
    buffer.freeze().slice(shift..)
}

fn write_of(key: ChunkKey, offset: u32, data: Bytes) -> ChunkWrite {
    ChunkWrite { key, offset, sums: BlockSums::of(offset, &data), data }
}

async fn apply(store: &Arc<LogStore>, pool: &BufferPool, change: &Change, is_aligned: bool) {
    match change {
        Change::Write { ino, chunk, offset, len, seed } => {
            let data = bytes_of(pool, &pattern(*seed, *len), is_aligned).await;
            store.write_bytes(write_of(key(*ino, *chunk), *offset, data)).await.unwrap();
        }
        other => other.apply(&**store).unwrap(),
    }
}

async fn check_read(store: &LogStore, pool: &BufferPool, model: &Model, rng: &mut Rng) {
    let (ino, chunk) = (rng.below(INOS), rng.below(3));
    let all = model.bytes(ino, chunk);
    let offset = if rng.below(2) == 0 { rng.below(60) * 4096 } else { rng.below(250_000) } as usize;
    let len = if rng.below(2) == 0 { 4096 * (1 + rng.below(30)) } else { 1 + rng.below(200_000) } as usize;
    let mut buffer = pool.get(len).await.unwrap();
    buffer.fill(0xaa);
    let compare = if rng.below(2) == 0 { Compare::Here } else { Compare::ByReader };
    let read = store.read_buffer(key(ino, chunk), offset as u32, len, buffer, compare).await.unwrap();
    let want = &all[offset.min(all.len())..(offset + len).min(all.len()).max(offset.min(all.len()))];
    assert_eq!(read.data.len(), want.len(), "inode {ino} chunk {chunk} {offset} {len}");
    assert!(read.data == *want, "inode {ino} chunk {chunk} {offset} {len}");
    assert_eq!(read.crc, crc(want), "inode {ino} chunk {chunk} {offset} {len}");
}

#[test]
fn direct_mode_behaves_like_the_model() {
    // Goal: changes and reads of every alignment by the calls of the workers agree with the model; so do the blocking
    // calls, a reopening after a kill, and a reopening in the other mode; compaction moves what was written directly.
    let dir = disk_dir();
    let Some(mut store) = open(dir.path()) else { return };
    let (mut rng, mut model) = (Rng(3), Model::default());
    for round in 0..6 {
        on_a_worker(async {
            let pool = BufferPool::new(64 << 20);
            for n in 0..120 {
                let change = random_change(&mut rng);
                apply(&store, &pool, &change, n % 2 == 0).await;
                model.apply(&change);
                check_read(&store, &pool, &model, &mut rng).await;
            }
        });
        store.compact().unwrap();
        model.check(&*store, INOS);
        if round % 2 == 0 {
            abandon(store);
        } else {
            drop(store);
        }
        if round == 3 {
            let buffered = open_with(dir.path(), StoreOptions { io: IoMode::Buffered, ..direct() }).unwrap();
            model.check(&*buffered, INOS);
            let change = Change::Write { ino: 1, chunk: 1, offset: 77, len: 5_000, seed: 1 };
            change.apply(&*buffered).unwrap();
            model.apply(&change);
        }
        store = open(dir.path()).unwrap();
        model.check(&*store, INOS);
    }
    assert_eq!(store.stats().crc_failures, 0);
}

#[test]
fn writes_that_are_under_way_do_not_wait_for_each_other() {
    // Goal: a hundred writes and reads of one worker are under way at once and all end as the model says.
    let dir = disk_dir();
    let Some(store) = open(dir.path()) else { return };
    let mut model = Model::default();
    let changes = (0..100_u64).map(|n| Change::Write {
        ino: n % 4,
        chunk: n / 4,
        offset: 0,
        len: if n % 3 == 0 { 70_000 } else { 9_000 + n as usize },
        seed: n,
    });
    apply_at_once(&store, &mut model, changes);
    model.check(&*store, INOS);
}

#[test]
fn small_writes_share_blocks() {
    // Goal: writes of one worker that come at the same time are written together: a hundred of 600 bytes take no block
    // each, as they would alone.
    let dir = disk_dir();
    let Some(store) = open(dir.path()) else { return };
    let before = store.stats().written_bytes;
    let mut model = Model::default();
    let changes = (0..100_u64).map(|n| Change::Write { ino: 1, chunk: n, offset: 7, len: 600, seed: n });
    apply_at_once(&store, &mut model, changes);
    model.check(&*store, INOS);
    let taken = store.stats().written_bytes - before;
    assert!(taken <= 100 * 1024 + 2 * 4096, "{taken} bytes of log");
    abandon(store);
    model.check(&*open(dir.path()).unwrap(), INOS);
}

#[test]
fn sums_are_those_of_what_was_read() {
    // Goal: in both modes the CRC that comes with a read is of its bytes, holes and blocks that are read in part included.
    for io in [IoMode::Buffered, IoMode::Direct] {
        let dir = disk_dir();
        let store = open_with(dir.path(), StoreOptions { io, ..direct() }).unwrap();
        for (n, begin) in [(0, 10), (1, 300_000), (2, 340_007), (3, 500_000)] {
            store.write(key(1, 0), begin, &pattern(n, 100_001)).unwrap();
        }
        let mut all = vec![0; 600_001];
        assert_eq!(store.read(key(1, 0), 0, &mut all).unwrap(), all.len());
        on_a_worker(async {
            let (pool, mut rng) = (BufferPool::new(64 << 20), Rng(9));
            for compare in [Compare::Here, Compare::ByReader].repeat(100) {
                let from = rng.below(600_000) as usize;
                let to = (from + 1 + rng.below(400_000) as usize).min(all.len());
                let buffer = pool.get(to - from).await.unwrap();
                let read =
                    store.read_buffer(key(1, 0), from as u32, to - from, buffer, compare).await.unwrap();
                assert!(read.data == all[from..to] && read.crc == crc(&all[from..to]), "{io} {from}..{to}");
            }
            assert_eq!(pool.stats().used, 0, "a buffer did not come back");
        });
    }
}

#[test]
fn an_abandoned_write_is_whole_or_absent() {
    // Goal: a request whose client is gone is dropped at any moment; its write is there wholly or not at all, the log
    // goes on, and what was synced afterwards is what a reopening finds, without damage.
    let dir = disk_dir();
    let Some(store) = open(dir.path()) else { return };
    on_a_worker(async {
        let pool = BufferPool::new(64 << 20);
        for n in 0..200_u64 {
            let data = bytes_of(&pool, &pattern(n, 20_000), n % 2 == 0).await;
            let mut writing = Box::pin(store.write_bytes(write_of(key(n, 0), 0, data)));
            for _ in 0..n % 4 {
                if (&mut writing).now_or_never().await {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(writing);
        }
        store.sync().unwrap();
    });
    let last = Change::Write { ino: 1_000, chunk: 0, offset: 0, len: 10, seed: 1 };
    last.apply(&*store).unwrap();
    store.sync().unwrap();
    let state = |store: &LogStore| (0..200).map(|n| whole_or_absent(store, n)).collect::<Vec<_>>();
    let before = state(&store);
    abandon(store);
    let store = open(dir.path()).unwrap();
    for (n, (was, is)) in before.iter().zip(state(&store)).enumerate() {
        assert!(is || !was, "write {n} was there and is not");
    }
    assert_eq!(store.stats().crc_failures, 0);
}

trait PollOnce {
    async fn now_or_never(self) -> bool;
}

impl<F: Future + Unpin> PollOnce for F {
    /// Polls once; true at the end.
    async fn now_or_never(mut self) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut self).poll(cx).is_ready()))
            .await
    }
}

fn whole_or_absent(store: &LogStore, n: u64) -> bool {
    let mut out = vec![0; 20_000];
    match store.read(key(n, 0), 0, &mut out).unwrap() {
        0 => store.chunks(InodeId(n)).unwrap().is_empty().then_some(false).unwrap(),
        got => {
            assert!(got == 20_000 && out == pattern(n, 20_000), "write {n} is torn: {got} bytes");
            true
        }
    }
}

#[test]
fn damage_is_told_in_direct_mode() {
    // Goal: a flipped bit in data and in both headers is Corrupt for the calls of the workers, and nothing of it is left
    // in the buffer; with one header damaged the other serves.
    let dir = disk_dir();
    let Some(store) = open(dir.path()) else { return };
    let data = pattern(1, 1 << 20);
    for n in 0..3 {
        store.write(key(n, 0), 0, &data).unwrap();
    }
    abandon(store);
    let file = crate::support::segment_files(dir.path()).remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let begin = |n: usize| 4096 + n * (4096 + (1 << 20) + 4096);
    bytes[begin(0) + 4096 + 500_000] ^= 1;
    bytes[begin(1) + 10] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    // No log is read, so that nothing is repaired by the opening.
    let store = open(dir.path()).unwrap();
    on_a_worker(async {
        let pool = BufferPool::new(64 << 20);
        let buffer = || async { pool.get(1 << 20).await.unwrap() };
        let damaged = store.read_buffer(key(0, 0), 0, 1 << 20, buffer().await, Compare::Here).await;
        assert!(matches!(damaged, Err(StoreError::Corrupt { .. })));
        for n in 1..3 {
            let read = store.read_buffer(key(n, 0), 0, 1 << 20, buffer().await, Compare::Here).await.unwrap();
            assert!(read.data == data && read.crc == crc(&data), "{n}");
        }
    });
}

#[test]
fn who_compares_itself_is_told_what_was_written() {
    // Goal: in both modes, a read that its reader compares comes with the CRC of what was written, whatever lies there by now; where it is of a part of the damaged block the store
    // itself says so. Method: one bit flips in records of whole blocks and of others, and ranges around it are read.
    for io in [IoMode::Direct, IoMode::Buffered] {
        let dir = disk_dir();
        let options = StoreOptions { io, ..direct() };
        let store = open_with(dir.path(), options.clone()).unwrap();
        let data = pattern(7, 300_000);
        store.write(key(1, 0), 0, &data).unwrap();
        store.sync().unwrap();
        drop(store);
        let file = crate::support::segment_files(dir.path()).remove(0);
        let mut bytes = std::fs::read(&file).unwrap();
        let block = &data[20 * 4096..21 * 4096];
        let at = bytes.windows(4096).position(|window| window == block).unwrap();
        bytes[at + 99] ^= 4;
        std::fs::write(&file, &bytes).unwrap();
        let store = open_with(dir.path(), options).unwrap();
        on_a_worker(async {
            let pool = BufferPool::new(64 << 20);
            let mut seen = [0; 3];
            for (from, to) in ranges_around(20 * 4096 + 99, data.len()) {
                let buffer = pool.get(to - from).await.unwrap();
                let read =
                    store.read_buffer(key(1, 0), from as u32, to - from, buffer, Compare::ByReader).await;
                let has_damage = (from..to).contains(&(20 * 4096 + 99));
                match read {
                    Ok(read) => {
                        assert_eq!(read.crc, crc(&data[from..to]), "{io:?} {from}..{to}");
                        assert_eq!(read.data == data[from..to], !has_damage, "{io:?} {from}..{to}");
                        seen[usize::from(has_damage)] += 1;
                    }
                    Err(error) => {
                        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
                        let is_whole = from <= 20 * 4096 && to >= 21 * 4096;
                        assert!(!is_whole && from < 21 * 4096 && to > 20 * 4096, "{io:?} {from}..{to}");
                        seen[2] += 1;
                    }
                }
            }
            assert!(seen.iter().all(|count| *count > 3), "{seen:?}");
        });
    }
}

/// Ranges that begin and end in and at blocks before, at and behind a byte.
fn ranges_around(byte: usize, len: usize) -> Vec<(usize, usize)> {
    let block = byte / 4096 * 4096;
    let begins = [0, 4096, block - 4096, block - 5, block, block + 3, byte + 1, block + 4096, block + 9000];
    let ends = [block - 4096, block, block + 50, byte + 1, block + 4096, block + 4099, block + 40_960, len];
    let pairs = begins.into_iter().flat_map(|from| ends.into_iter().map(move |to| (from, to)));
    pairs.filter(|(from, to)| from < to).collect()
}

/// Keeps the warnings and errors of a thread.
#[derive(Default, Clone)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

#[test]
fn without_direct_io_a_store_warns_and_uses_the_page_cache() {
    // Goal: where the file system takes no direct I/O a store in direct mode opens all the same, warns once, says that it is not direct, and keeps what is written, which a
    // store that can finds. Of the file systems of a recent kernel only those without a size refuse (tmpfs takes it), and on those a store finds no room. So the file that it
    // is tried on alone lies on one, as a link.
    let dir = disk_dir();
    std::os::unix::fs::symlink("/proc/self/comm", dir.path().join("direct-probe")).unwrap();
    let warnings = Warnings::default();
    let open_here = || open_with(dir.path(), direct()).unwrap();
    let store = tracing::subscriber::with_default(warnings.clone(), open_here);
    assert!(!store.is_direct());
    let said = std::mem::take(&mut *warnings.0.lock().unwrap());
    assert_eq!(said.len(), 1, "{said:?}");
    for word in ["WARN", "no direct I/O here", "--io buffered", dir.path().to_str().unwrap()] {
        assert!(said[0].contains(word), "{word} is not in {}", said[0]);
    }
    let (mut rng, mut model) = (Rng(5), Model::default());
    for _ in 0..100 {
        let change = random_change(&mut rng);
        change.apply(&*store).unwrap();
        model.apply(&change);
    }
    model.check(&*store, INOS);
    abandon(store);
    let store = tracing::subscriber::with_default(warnings.clone(), open_here);
    assert!(warnings.0.lock().unwrap().is_empty() == store.is_direct(), "the link went with the attempt");
    model.check(&*store, INOS);
}
