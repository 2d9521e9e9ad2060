//! The ceiling: one ring each way in a mapped file, futexes to sleep, messages of 64 bytes, data in place. No checks, no event loop.

use crate::process::Server;
use crate::{Figure, Load, MIB};
use fs_proto::checksum::crc;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::thread::futex;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

const SLOTS: usize = 64;
const SLOT_BYTES: usize = 64;
const WORDS: usize = 4096;
const RING: usize = SLOTS * SLOT_BYTES;
const DATA_AT: usize = WORDS + 2 * RING;
const BLOCKS: usize = 4;
const BYTES: usize = DATA_AT + BLOCKS * MIB;

type Message = [u64; SLOT_BYTES / 8];

struct Memory(NonNull<u8>);

impl Memory {
    fn open(path: &Path) -> Memory {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .expect("a file");
        file.set_len(BYTES as u64).expect("sized");
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let base = unsafe { mmap(std::ptr::null_mut(), BYTES, protection, MapFlags::SHARED, &file, 0) };
        Memory(NonNull::new(base.expect("mapped").cast()).expect("not null"))
    }

    fn word(&self, n: usize) -> &AtomicU32 {
        // SAFETY: n < 8, so within the first page; both sides use it as an atomic.
        unsafe { AtomicU32::from_ptr(self.0.add(n * 128).cast().as_ptr()) }
    }

    fn slot(&self, way: usize, at: u32) -> *mut Message {
        // SAFETY: within the two rings.
        unsafe { self.0.add(WORDS + way * RING + at as usize % SLOTS * SLOT_BYTES).cast().as_ptr() }
    }

    fn block(&self, n: u64) -> *mut u8 {
        // SAFETY: within the mapping.
        unsafe { self.0.add(DATA_AT + n as usize % BLOCKS * MIB).as_ptr() }
    }

    /// The two sides write a block in turn, ordered by the rings.
    fn data(&self, n: u64) -> &[u8] {
        // SAFETY: within the mapping, and it is the caller's turn.
        unsafe { std::slice::from_raw_parts(self.block(n), MIB) }
    }

    fn fill(&self, n: u64, from: &[u8]) {
        assert_eq!(from.len(), MIB);
        // SAFETY: within the mapping, it is the caller's turn, and `from` is private memory.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.block(n), MIB) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: nobody refers to it any more.
        unsafe { munmap(self.0.as_ptr().cast(), BYTES) }.expect("unmapped");
    }
}

/// One way. The words: tail, and whether the taker sleeps.
struct Ring<'a> {
    memory: &'a Memory,
    way: usize,
    at: u32,
}

impl Ring<'_> {
    fn put(&mut self, message: Message) {
        // SAFETY: at most SLOTS messages are ever under way, so the slot is free.
        unsafe { self.memory.slot(self.way, self.at).write_volatile(message) }
        self.at = self.at.wrapping_add(1);
    }

    fn publish(&self) {
        let (tail, asleep) = (self.memory.word(2 * self.way), self.memory.word(2 * self.way + 1));
        tail.store(self.at, Ordering::Release);
        fence(Ordering::SeqCst);
        if asleep.load(Ordering::Relaxed) == 1 {
            asleep.store(0, Ordering::Relaxed);
            futex::wake(asleep, futex::Flags::empty(), 1).expect("woken");
        }
    }

    /// How many messages are there; waits for the first.
    fn wait(&self) -> u32 {
        let (tail, asleep) = (self.memory.word(2 * self.way), self.memory.word(2 * self.way + 1));
        loop {
            let there = tail.load(Ordering::Acquire).wrapping_sub(self.at);
            if there > 0 {
                return there;
            }
            asleep.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if tail.load(Ordering::Acquire) == self.at {
                // Interrupted or changed meanwhile: looked at again.
                let _ = futex::wait(asleep, futex::Flags::empty(), 1, None);
            }
            asleep.store(0, Ordering::Relaxed);
        }
    }

    fn take(&mut self) -> Message {
        // SAFETY: it was published.
        let message = unsafe { self.memory.slot(self.way, self.at).read_volatile() };
        self.at = self.at.wrapping_add(1);
        message
    }
}

/// The server process.
pub fn serve(path: &Path) {
    let memory = Memory::open(path);
    let own = vec![3; MIB];
    let (mut requests, mut replies) =
        (Ring { memory: &memory, way: 0, at: 0 }, Ring { memory: &memory, way: 1, at: 0 });
    println!("ready");
    loop {
        for _ in 0..requests.wait() {
            let mut message = requests.take();
            match message[0] {
                1 => message[2] = crc(memory.data(message[1])).into(),
                2 => memory.fill(message[1], &own),
                _ => {}
            }
            replies.put(message);
        }
        replies.publish();
    }
}

pub fn measure(dir: &Path, load: Load, depth: usize, time: Duration) -> Figure {
    let path = dir.join("bare");
    // A mapping of another run has other positions.
    drop(std::fs::remove_file(&path));
    let memory = Memory::open(&path);
    let (server, _) = Server::start(&["serve-bare", path.to_str().expect("text")]);
    let mut client = Client {
        memory: &memory,
        requests: Ring { memory: &memory, way: 0, at: 0 },
        replies: Ring { memory: &memory, way: 1, at: 0 },
        own: vec![1; MIB],
        load,
    };
    client.run(depth, time / 5);
    let (begun, cpu) = (Instant::now(), server.cpu_us());
    let mut latencies = client.run(depth, time);
    let (elapsed, cpu) = (begun.elapsed(), server.cpu_us() - cpu);
    latencies.sort_unstable();
    let n = latencies.len() as f64;
    let p50_us = latencies[latencies.len() / 2] as f64 / 1e3;
    Figure { per_second: n / elapsed.as_secs_f64(), cpu_us: cpu / n, calls: 0.0, p50_us }
}

struct Client<'a> {
    memory: &'a Memory,
    requests: Ring<'a>,
    replies: Ring<'a>,
    own: Vec<u8>,
    load: Load,
}

impl Client<'_> {
    fn ask(&mut self, block: u64) {
        let kind = match self.load {
            Load::Small => 0,
            Load::Write => {
                self.memory.fill(block, &self.own);
                1
            }
            Load::Read => 2,
        };
        self.requests.put([kind, block, 0, 0, 0, 0, 0, 0]);
    }

    fn run(&mut self, depth: usize, time: Duration) -> Vec<u64> {
        let (begun, mut latencies, mut starts) =
            (Instant::now(), Vec::new(), std::collections::VecDeque::new());
        for block in 0..depth {
            starts.push_back(Instant::now());
            self.ask(block as u64);
        }
        self.requests.publish();
        while !starts.is_empty() {
            for _ in 0..self.replies.wait() {
                let reply = self.replies.take();
                if self.load == Load::Read {
                    self.own.copy_from_slice(self.memory.data(reply[1]));
                }
                let (now, start) = (Instant::now(), starts.pop_front().expect("it was asked"));
                latencies.push(now.duration_since(start).as_nanos() as u64);
                if now.duration_since(begun) < time {
                    starts.push_back(now);
                    self.ask(reply[1]);
                }
            }
            self.requests.publish();
        }
        latencies
    }
}
