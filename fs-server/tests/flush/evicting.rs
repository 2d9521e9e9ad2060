//! Goal: files that are safe in the shared tier make room for others, and come back when they are read; nothing else goes.
//! Method: stores with a small capacity, more written than they hold, every byte read again; faults by the fake.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fs_proto::msg::small::Spill;
use fs_proto::{ChunkIndex, InodeId, ServerId, Status};
use fs_server::ServerConfig;
use fs_server::tier::{Tier, TierError};

use crate::adversity::is_long;
use crate::client::{Client, ROOT};
use crate::cluster::{Cluster, plain};
use crate::fake::{Fake, Gate};
use crate::reading::content;

const CHUNK: usize = 1 << 20;
const SERVERS: u16 = 2;
const CAPACITY: u64 = 24 << 20;

fn small(config: &mut ServerConfig) {
    config.capacity = Some(CAPACITY);
}

/// A figure of all servers together.
pub fn figure(client: &Client, name: &str) -> u64 {
    let of = |id| {
        let json = client.status(ServerId(id));
        json["backing"][name].as_u64().unwrap_or_else(|| panic!("no {name}: {json}"))
    };
    (0..SERVERS).map(of).sum()
}

/// Name of a file of a working set.
pub fn name(n: usize) -> String {
    format!("file{n}")
}

/// Changes the first files of a working set, evicted or not, in each way: written, renamed, unlinked, cut. `end`: bytes of the first.
pub fn change_some(client: &Client, end: u64) {
    let first = client.open_file(ROOT, &name(0));
    client.write(first, CHUNK as u64 - 5, b"0123456789");
    client.close(first, end);
    client.rename(ROOT, &name(1), ROOT, "moved");
    client.unlink(ROOT, &name(2));
    client.truncate(client.lookup(ROOT, &name(3)).unwrap(), 10);
}

#[test]
fn a_working_set_of_three_times_the_stores_is_written_and_read() {
    const FILE: usize = 4 * CHUNK + 77;
    let files = 3 * CAPACITY as usize * usize::from(SERVERS) / FILE;
    let mut cluster = Cluster::prepared_with(SERVERS, small);
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    for n in 0..files {
        client.write_file(ROOT, &name(n), &content(n as u64, FILE));
    }
    assert!(figure(&client, "evicted_bytes") > CAPACITY, "{}", figure(&client, "evicted_bytes"));
    for n in 0..files {
        let attr = client.open_for_reading(client.lookup(ROOT, &name(n)).unwrap());
        assert!(client.read(&attr) == content(n as u64, FILE), "file {n}");
        client.release(attr.ino);
    }
    assert!(figure(&client, "fetched_bytes") > CAPACITY);
    // What was evicted is changed like anything else.
    change_some(&client, 0);
    cluster.check(&client);
    let mut changed = content(0, FILE);
    changed[CHUNK - 5..CHUNK + 5].copy_from_slice(b"0123456789");
    assert!(std::fs::read(cluster.at(name(0))).unwrap() == changed);
    drop(client);
    cluster.restart(&plain);
    let client = Client::connect(&cluster.file);
    cluster.compare(&client);
}

#[test]
fn what_is_dirty_or_pinned_stays() {
    let mut cluster = Cluster::prepared_with(SERVERS, small);
    let away = Arc::new(AtomicBool::new(false));
    cluster.launch(&|tier| -> Arc<dyn Tier> {
        let away = Arc::clone(&away);
        Arc::new(Fake::before(tier, move |what, _| match what {
            "read" if away.load(Ordering::Acquire) => Err(TierError::Failed("away".to_owned())),
            _ => Ok(()),
        }))
    });
    let client = Client::connect(&cluster.file);
    let (never, pinned) = (client.mkdir(ROOT, "never"), client.mkdir(ROOT, "pinned"));
    client.setxattr(never, "user.hayate.flush", "never");
    client.setxattr(pinned, "user.hayate.pin", "yes");
    assert!(!client.try_setxattr(pinned, "user.hayate.pin", "maybe"));
    let kept: Vec<_> = [never, pinned]
        .into_iter()
        .map(|dir| client.write_file(dir, "kept", &content(dir.0, 5 * CHUNK)))
        .collect();
    for n in 0..30 {
        client.write_file(ROOT, &name(n), &content(n as u64, 3 * CHUNK));
    }
    assert!(figure(&client, "evicted_files") > 0);
    away.store(true, Ordering::Release);
    for (ino, dir) in kept.iter().zip([never, pinned]) {
        assert!(client.read(&client.attr(*ino)) == content(dir.0, 5 * CHUNK), "{dir:?}");
    }
    away.store(false, Ordering::Release);
}

#[test]
fn what_nobody_announced_stays() {
    // Goal: a holder drops nothing of a file that was written to since it was copied, whatever its home believes.
    // Method: a write by who has not opened the file, as by a client that was taken for dead; then more than the stores hold.
    let mut cluster = Cluster::prepared_with(SERVERS, small);
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let mut data = content(90, 3 * CHUNK);
    let ino = client.write_file(ROOT, "file", &data);
    cluster.settle(&client);
    data[..CHUNK].copy_from_slice(&content(91, CHUNK));
    client.try_write_chunk(ino, &data[..CHUNK]).unwrap();
    for n in 0..40 {
        client.write_file(ROOT, &name(n), &content(n as u64, 3 * CHUNK));
    }
    assert!(figure(&client, "evicted_files") > 0);
    assert!(client.read(&client.attr(ino)) == data);
}

#[test]
fn a_copy_that_others_change_while_it_is_read_is_taken_over_later() {
    // Goal: who opens the file waits for a holder that cannot drop its chunks yet, and gets neither an error nor a mixture.
    // Method: a read of the first chunk that hangs in the tier at its holder, while another holder has dropped what it had.
    let gate = Gate::shut();
    let mut cluster = Cluster::prepared_with(SERVERS, |config| config.tier_check_ms = 0);
    std::fs::write(cluster.at("file"), content(1, 8 * CHUNK)).unwrap();
    cluster.launch(&gate.wrap("read"));
    let (file, client) = (&cluster.file, Client::connect(&cluster.file));
    let ino = client.lookup(ROOT, "file").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(Client::connect(file).try_read_chunk(ino, ChunkIndex(0))));
        gate.await_somebody();
        std::fs::write(cluster.at("file"), content(2, 9 * CHUNK)).unwrap();
        let reader = scope.spawn(move || {
            let client = Client::connect(file);
            client.read(&client.open_for_reading(ino))
        });
        let began = Instant::now();
        while figure(&client, "evicted_files") == 0 && began.elapsed() < Duration::from_secs(60) {}
        gate.open();
        assert!(reader.join().unwrap() == content(2, 9 * CHUNK));
    });
}

#[test]
fn what_was_copied_past_a_full_store_is_read() {
    // Goal: after a flush that had no room for all of a file, an opening for writing takes nothing away. Method: a file larger than the stores, which is
    // pinned, so that nothing but its publication tells where its chunks are.
    const FILE: usize = 44 << 20;
    let mut cluster = Cluster::prepared_with(SERVERS, |config| config.capacity = Some(16 << 20));
    let mut data = content(5, FILE);
    std::fs::write(cluster.at("file"), &data).unwrap();
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let ino = client.open_file(ROOT, "file");
    client.setxattr(ino, "user.hayate.pin", "yes");
    data[50..150].copy_from_slice(&content(6, 100));
    client.write(ino, 50, &data[50..150]);
    client.close(ino, FILE as u64);
    cluster.settle(&client);
    assert!(std::fs::read(cluster.at("file")).unwrap() == data);
    client.open_file(ROOT, "file");
    assert!(client.read(&client.attr(ino)) == data);
    client.close(ino, FILE as u64);
    cluster.check(&client);
}

#[test]
fn a_store_full_of_what_must_stay_is_full() {
    // Goal: waiting ends when nothing can be evicted or flushed.
    let mut cluster = Cluster::prepared_with(SERVERS, small);
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let never = client.mkdir(ROOT, "never");
    client.setxattr(never, "user.hayate.flush", "never");
    assert_fills_up(&client, never);
}

/// Files are taken, of which each chunk stays, and then there is no space.
fn assert_fills_up(client: &Client, dir: InodeId) {
    let full = (0..60).find(|n| {
        let ino = client.open_file(dir, &name(*n));
        let written = client.try_write_chunk(ino, &content(*n as u64, CHUNK));
        client.close(ino, CHUNK as u64);
        assert!(matches!(written, Ok(()) | Err(Status::NoSpace)), "{written:?}");
        written.is_err()
    });
    assert!(full.is_some_and(|n| n > 20), "{full:?}");
}

/// How long the tier is away from full stores: longer than a server lets a request wait, and than movement keeps up hope.
const AWAY: Duration = Duration::from_secs(16);

/// More than the stores hold, by a writer that any error would end, while the tier is away for a time; then all is there.
fn write_while_away(cluster: &Cluster, back: impl FnOnce()) {
    let file = &cluster.file;
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let client = Client::connect(file);
            for n in 0..40 {
                client.write_file(ROOT, &name(n), &content(n as u64, 2 * CHUNK));
            }
        });
        // The outage itself, not a wait for something.
        std::thread::sleep(AWAY);
        let is_early = writer.is_finished();
        back();
        assert!(!is_early, "all was taken at once, or an error ended it");
        writer.join().unwrap();
    });
    cluster.check(&Client::connect(file));
}

#[test]
fn writers_wait_for_a_tier_that_is_away() {
    // Goal: a tier that fails while the stores are full counts as one that has room: writers get no error, whatever it takes.
    let away = Arc::new(AtomicBool::new(true));
    let mut cluster = Cluster::prepared_with(SERVERS, small);
    cluster.launch(&|tier| -> Arc<dyn Tier> {
        let away = Arc::clone(&away);
        Arc::new(Fake::before(tier, move |what, _| match what {
            "make" | "look" | "open_dir" if away.load(Ordering::Acquire) => {
                Err(TierError::Failed("Transport endpoint is not connected (os error 107)".to_owned()))
            }
            _ => Ok(()),
        }))
    });
    write_while_away(&cluster, || away.store(false, Ordering::Release));
}

#[test]
fn writers_wait_for_a_tier_that_hangs() {
    // Goal: the same of one that neither answers nor fails.
    let gate = Gate::shut();
    let mut cluster = Cluster::prepared_with(SERVERS, small);
    cluster.launch(&gate.wrap("make"));
    write_while_away(&cluster, || gate.open());
}

#[test]
fn who_finds_no_room_has_what_rests_flushed() {
    // Goal: with a delay of an hour, what is closed is flushed and leaves once somebody finds no room, wherever names, directories and chunks live.
    // Method: more than the stores hold, in directories of all servers.
    let mut cluster = Cluster::prepared_with(SERVERS, |config| {
        small(config);
        config.flush_delay_ms = 3_600_000;
    });
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let dirs: Vec<_> = (0..8).map(|n| client.mkdir(ROOT, &format!("dir{n}"))).collect();
    for n in 0..40 {
        client.write_file(dirs[n % dirs.len()], &name(n), &content(n as u64, 2 * CHUNK));
    }
    assert!(figure(&client, "evicted_bytes") > CAPACITY / 2);
    cluster.drain(&client);
    cluster.compare(&client);
}

#[test]
fn a_full_tier_makes_no_hope() {
    // Goal: a writer for whom no store has room, nor the tier, is told so. Method: a tier that has no space.
    let mut cluster = Cluster::prepared_with(SERVERS, small);
    let full = Arc::new(AtomicBool::new(true));
    cluster.launch(&|tier| -> Arc<dyn Tier> {
        let full = Arc::clone(&full);
        Arc::new(Fake::before(tier, move |what, _| match what {
            "make" if full.load(Ordering::Acquire) => {
                Err(TierError::Full("No space left on device (os error 28)".to_owned()))
            }
            _ => Ok(()),
        }))
    });
    let client = Client::connect(&cluster.file);
    assert_fills_up(&client, ROOT);
    full.store(false, Ordering::Release);
    cluster.settle(&client);
    client.write_file(ROOT, "later", &content(7, 3 * CHUNK));
    cluster.check(&client);
}

#[test]
fn files_that_the_tier_refuses_make_no_hope() {
    // Goal: a tier that answers and takes none of what lies here, for a reason that no waiting mends, is no reason to wait: writers are told after a time, the files are
    // named with the reason, and once it takes them all is well. Method: a tier that refuses each file where it would be shown; and one that refuses it where it is
    // written, which other servers do as well.
    for (call, start) in [("rename", &b"file"[..]), ("open_file", b"f-")] {
        let mut cluster = Cluster::prepared_with(SERVERS, small);
        let refuses = Arc::new(AtomicBool::new(true));
        cluster.launch(&|tier| -> Arc<dyn Tier> {
            let refuses = Arc::clone(&refuses);
            Arc::new(Fake::before(tier, move |what, name| {
                if what == call && refuses.load(Ordering::Acquire) && name.starts_with(start) {
                    return Err(TierError::Refused("File too large (os error 27)".to_owned()));
                }
                Ok(())
            }))
        });
        let client = Client::connect(&cluster.file);
        assert_fills_up(&client, ROOT);
        let failing: Vec<_> =
            (0..SERVERS).map(|id| client.status(ServerId(id))["flush"]["failing"].to_string()).collect();
        let failing = failing.concat();
        assert!(
            failing.contains("/file1") && failing.contains("too large") && failing.contains("makes no room"),
            "{failing}"
        );
        refuses.store(false, Ordering::Release);
        cluster.settle(&client);
        client.write_file(ROOT, "later", &content(7, 3 * CHUNK));
        cluster.check(&client);
    }
}

#[test]
fn who_writes_right_after_the_closing_waits() {
    // Goal: what nobody could wait for while it was open is waited for from the moment on at which it is closed. Method: a file that fills the stores, whose
    // writer was told so; another that is written without a pause after the first is closed.
    let mut cluster = Cluster::prepared_with(SERVERS, small);
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let [large, other] = ["large", "other"].map(|name| {
        let ino = client.open_file(ROOT, name);
        client.ask_home(ino, &Spill { ino })
    });
    let try_write =
        |attr, chunk| client.try_write_in_chunk(attr, ChunkIndex(chunk), 0, &content(chunk, CHUNK));
    let chunks = (0..60).find(|chunk| try_write(&large, *chunk).is_err()).unwrap();
    // What the servers said of the file while it was open is as new as can be.
    assert_eq!(try_write(&large, chunks).err(), Some(Status::NoSpace));
    client.close(large.ino, chunks * CHUNK as u64);
    for chunk in 0..8 {
        assert_eq!(try_write(&other, chunk), Ok(()), "chunk {chunk}");
    }
    client.close(other.ino, 8 * CHUNK as u64);
    cluster.check(&client);
}

#[test]
fn one_file_that_is_larger_than_the_stores_has_no_space() {
    // Goal: the limit: a file cannot go before it is closed, so that one which is larger than all stores ends with ENOSPC, not with a wait for itself; what was written
    // of it is kept, and others find room once it is closed.
    let mut cluster = Cluster::prepared_with(SERVERS, small);
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let ino = client.open_file(ROOT, "large");
    let attr = client.ask_home(ino, &Spill { ino });
    let written = |chunk: u64| {
        client.try_write_in_chunk(&attr, ChunkIndex(chunk), 0, &content(chunk, CHUNK)).inspect_err(|status| {
            assert_eq!(*status, Status::NoSpace);
        })
    };
    let chunks = (0..60).find(|chunk| written(*chunk).is_err()).unwrap();
    assert!(chunks > 20, "{chunks}");
    client.close(ino, chunks * CHUNK as u64);
    cluster.settle(&client);
    client.write_file(ROOT, "other", &content(99, 8 * CHUNK));
    cluster.check(&client);
    let first = &std::fs::read(cluster.at("large")).unwrap()[..CHUNK];
    assert!(first == content(0, CHUNK));
}

/// Numbers that repeat from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Longest file of the stress.
const LONGEST: u64 = 5 << 20;

/// One step of the stress on a file, and on what it should be. The file is open while it is changed.
fn step(client: &Client, dice: &mut Dice, dir: InodeId, name: &str, twin: &mut Vec<u8>) {
    let ino = client.open_file(dir, name);
    match dice.below(8) {
        0 => {
            let size = dice.below(LONGEST);
            client.truncate(ino, size);
            twin.resize(size as usize, 0);
        }
        1 if twin.len() > 2 * CHUNK => {
            let (chunk, offset) = (dice.below(2), dice.below(CHUNK as u64 / 2) as u32);
            let len = dice.below(CHUNK as u64 / 2) as u32 + 1;
            // Whatever lies with the inode goes to chunks first, as a client sees to.
            client.ask_home(ino, &Spill { ino });
            client.punch(ino, ChunkIndex(chunk), offset, len);
            let start = chunk as usize * CHUNK + offset as usize;
            twin[start..start + len as usize].fill(0);
        }
        2..=5 => {
            let (offset, len) = (dice.below(LONGEST - (1 << 20)), dice.below(1 << 20) + 1);
            let data = content(dice.below(1 << 20), len as usize);
            client.write(ino, offset, &data);
            let end = (offset + len) as usize;
            twin.resize(twin.len().max(end), 0);
            twin[offset as usize..end].copy_from_slice(&data);
        }
        _ => {}
    }
    client.close(ino, twin.len() as u64);
}

fn stress(client: &Client, seed: u64, time: Duration) {
    const FILES: usize = 12;
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (seed + 1) << 20);
    let dir = client.mkdir(ROOT, &format!("dir{seed}"));
    let mut twins = vec![Vec::new(); FILES];
    let began = Instant::now();
    while began.elapsed() < time {
        let which = dice.below(FILES as u64) as usize;
        step(client, &mut dice, dir, &name(which), &mut twins[which]);
        let which = dice.below(FILES as u64) as usize;
        if let Some(ino) = client.lookup(dir, &name(which)) {
            let read = client.read(&client.open_for_reading(ino));
            client.release(ino);
            let differs = read.iter().zip(&twins[which]).position(|(a, b)| a != b);
            assert!(
                read == twins[which],
                "seed {seed}, file {which}: {} bytes of {}, from {differs:?}",
                read.len(),
                twins[which].len()
            );
        }
    }
}

#[test]
fn a_stress_of_changes_and_evictions_ends_equal() {
    // Goal: whatever is written, cut, punched and read while files come and go, every read is right, and so is the tier in the end.
    // Method: threads with files of their own and what these should be, three times the stores' capacity; seeds are fixed.
    let time = Duration::from_secs(if is_long() { 180 } else { 12 });
    let mut cluster = Cluster::prepared_with(SERVERS, |config| config.capacity = Some(16 << 20));
    cluster.launch(&plain);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let file = &cluster.file;
            scope.spawn(move || stress(&Client::connect(file), seed, time));
        }
    });
    let client = Client::connect(&cluster.file);
    assert!(figure(&client, "evicted_files") > 0 && figure(&client, "fetched_bytes") > 0);
    cluster.check(&client);
}
