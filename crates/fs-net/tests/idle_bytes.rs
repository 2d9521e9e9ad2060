//! What an idle connection takes of a server's memory: below 1,024 bytes, the event loop's part included.
//!
//! Method: the allocator of this program counts, per thread, what the system's allocator gives and gets back, by its own account (whole blocks
//! with their heads). A server runs on one thread, its clients on another; after each of many connections of one client has asked something
//! once, what the server's thread holds is divided by their number. So it has tables that grow with connections, too, and everything that an
//! assertion on the size of a structure does not see.

mod support;

use bytes::Bytes;
use fs_net::{Address, Connection, Secret};
use fs_proto::Op;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use support::{LONG, Server, client, env, over_each_socket, request, run};
use tokio::sync::{mpsc, oneshot};

/// What the requirement says.
const BOUND: isize = 1024;
/// Connections that are there before the first measurement, so that what is there once is.
const BEFORE: usize = 100;
/// Connections that are measured.
const MEASURED: usize = 1000;
/// Sizes of blocks that are told apart when the bound is missed: multiples of 16 bytes.
const SIZES: usize = 64;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static BLOCKS: [Cell<i32>; SIZES] = const { [const { Cell::new(0) }; SIZES] };
}

/// The system's allocator, counted.
struct Counted;

#[global_allocator]
static COUNTED: Counted = Counted;

/// Counts a block that this thread got (1) or gave back (-1). Blocks change threads here hardly ever.
fn count(block: *mut u8, sign: isize) {
    // SAFETY: the block was got from the system's allocator and has not been given back.
    let bytes = unsafe { libc::malloc_usable_size(block.cast()) } + size_of::<usize>();
    // A thread that ends has no counters any more.
    let _ = HELD.try_with(|held| held.set(held.get() + sign * bytes as isize));
    let _ = BLOCKS.try_with(|blocks| {
        let of_size = &blocks[(bytes / 16).min(SIZES - 1)];
        of_size.set(of_size.get() + sign as i32);
    });
}

// SAFETY: everything is the system's allocator's, which keeps the contract.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            count(block, 1);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(block, -1);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

/// What a thread holds: bytes, and blocks by their size.
struct Held {
    bytes: isize,
    blocks: Vec<i32>,
}

impl Held {
    fn now() -> Held {
        let blocks = BLOCKS.with(|blocks| blocks.iter().map(Cell::get).collect());
        Held { bytes: HELD.get(), blocks }
    }

    /// Sizes of the blocks of which there are about as many more as there are connections, with how many of each.
    fn blocks_since(&self, before: &Held) -> BTreeMap<usize, i32> {
        let more = self.blocks.iter().zip(&before.blocks).enumerate();
        more.map(|(n, (now, before))| (n * 16, now - before))
            .filter(|(_, more)| *more > MEASURED as i32 / 2)
            .collect()
    }
}

/// A server on a thread of its own. Where it listens, and who asks it what it holds.
fn server(listen: Address, secret: Secret) -> (Address, mpsc::UnboundedSender<oneshot::Sender<Held>>) {
    let (ask, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<Held>>();
    let (started, listens) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        run(async {
            let server = Server::start(0, &listen, &secret);
            started.send(server.address.clone()).expect("the test waits");
            while let Some(answer) = asked.recv().await {
                answer.send(Held::now()).unwrap_or_else(|_| panic!("the test waits"));
            }
        });
    });
    (listens.recv().expect("it listens"), ask)
}

#[test]
fn an_idle_connection_takes_less_than_a_kibibyte() {
    check_the_meter();
    allow_descriptors(2 * (BEFORE + MEASURED) as u64 + 100);
    over_each_socket(measure);
}

async fn measure(listen: Address) {
    let secret = Secret::random();
    let kind = if matches!(listen, Address::Tcp(_)) { "tcp" } else { "unix" };
    let (address, ask) = server(listen, secret.clone());
    let (env, who, mut open) = (env(), client(&secret), Vec::new());
    let mut held = Vec::new();
    for target in [BEFORE, BEFORE + MEASURED] {
        while open.len() < target {
            let connection = Connection::connect(&address, &who, &env, LONG).await.expect("connected");
            let answer = connection.call(request(Op::Ping), Bytes::new(), Bytes::new()).await;
            drop(answer.expect("an answer"));
            open.push(connection);
        }
        let (answer, holds) = oneshot::channel();
        ask.send(answer).expect("it runs");
        held.push(holds.await.expect("it runs"));
    }
    let bytes = (held[1].bytes - held[0].bytes) / MEASURED as isize;
    let blocks = held[1].blocks_since(&held[0]);
    println!("{kind}: {bytes} bytes for each idle connection; blocks of bytes, how many: {blocks:?}");
    assert!(bytes < BOUND, "{kind}: {bytes} bytes, at most {BOUND}; blocks of bytes, how many: {blocks:?}");
    assert!(bytes > 300, "{kind}: {bytes} bytes cannot be all");
    assert!(open.iter().all(|connection| !connection.is_closed()));
}

/// A meter that shows nothing would let everything pass.
fn check_the_meter() {
    let before = HELD.get();
    let block = std::hint::black_box(Box::new([7_u8; 1000]));
    assert!((1008..1032).contains(&(HELD.get() - before)), "{}", HELD.get() - before);
    drop(block);
    assert_eq!(HELD.get(), before);
}

fn allow_descriptors(wanted: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        setrlimit(Resource::Nofile, limit)
            .expect("the hard limit on open files is higher: raise it (ulimit -Hn)");
    }
}
