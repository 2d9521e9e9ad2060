//! Goal: no read returns what was overwritten before it began, whatever is kept where.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

const SERVERS: u16 = 6;
/// A server with direct I/O and two devices: the last.
const DIRECT: u16 = SERVERS - 1;
const FILES: usize = 6;
/// Bytes that are written at once, in one piece.
const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 20;

/// One block: the number of its write, everywhere.
fn block(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(BLOCK as usize / 8)
}

fn number_of(block: &[u8]) -> u64 {
    let number = u64::from_le_bytes(block[..8].try_into().expect("eight bytes"));
    assert!(block.chunks(8).all(|word| word == number.to_le_bytes()), "a block is written as a whole");
    number
}

/// Method: writers number what they write to each block, and say the number once the write has returned. Readers on all nodes note what was said, then read:
/// the block has that number or a later one. Writers pause until everybody has read the file again and again, so that it becomes hot between two bursts.
#[test]
fn no_read_returns_what_was_overwritten_before_it_began() {
    let cluster = cluster(SERVERS);
    let maker = on_node(&cluster, DIRECT);
    local_directory(&maker);
    let said: Vec<Vec<AtomicU64>> =
        (0..FILES).map(|_| (0..BLOCKS).map(|_| AtomicU64::new(1)).collect()).collect();
    for path in 0..FILES {
        file(&maker, &format!("/d/{path}"), &block(1).repeat(BLOCKS as usize));
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for server in 0..DIRECT {
            let (cluster, said, is_over) = (&cluster, &said, &is_over);
            scope.spawn(move || {
                let client = trusting(cluster, server);
                let files: Vec<_> = (0..FILES).map(|path| reading(&client, &format!("/d/{path}"))).collect();
                let mut turn = u64::from(server);
                while !is_over.load(Ordering::Relaxed) {
                    turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let (path, at) = ((turn >> 33) as usize % FILES, (turn >> 40) % BLOCKS);
                    let before = said[path][at as usize].load(Ordering::SeqCst);
                    let read = files[path].read_bytes_at(BLOCK as usize, at * BLOCK).expect("read");
                    let number = number_of(&read);
                    assert!(
                        number >= before,
                        "file {path}, block {at}: {number}, after {before} was written"
                    );
                }
            });
        }
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (cluster, said, maker) = (&cluster, &said, &maker);
                scope.spawn(move || write_when_hot(cluster, said, maker, writer))
            })
            .collect();
        let done: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        for writer in done {
            writer.expect("a writer ends");
        }
    });
    assert!(hot(&maker, DIRECT, "recalls") > 0, "leases were out when it was written");
    assert!((0..DIRECT).all(|server| hot(&maker, server, "hits") > 0), "and much was read from what is kept");
}

/// Each writer has its own blocks of every file, and writes them in three bursts each: while it is hot, while it cools, while it is hot again.
fn write_when_hot(cluster: &Cluster, said: &[Vec<AtomicU64>], maker: &Client, writer: u64) {
    let client = on_node(cluster, writer as u16);
    let files: Vec<_> = (0..FILES).map(|path| open(&client, &format!("/d/{path}"))).collect();
    let mut number = 1;
    for burst in 0..3 {
        if burst != 1 {
            hayate_tests::until("most files are hot", || {
                hot(maker, DIRECT, "files_lent") * 2 >= FILES as u64
            });
        }
        for (path, file) in files.iter().enumerate() {
            for at in (writer..BLOCKS).step_by(2) {
                number += 1;
                file.write_at(&block(number), at * BLOCK).expect("write");
                said[path][at as usize].store(number, Ordering::SeqCst);
            }
        }
    }
}

/// A kind of change: its name, and how it changes the file (with another one's help) and what is expected of it.
type Kind = (&'static str, fn(&File, &File, &mut Vec<u8>));

/// Method: each kind of change, of a file that all nodes keep; right after it every node reads what it should.
#[test]
fn every_kind_of_change_is_seen_at_once() {
    let cluster = cluster(SERVERS);
    let maker = on_node(&cluster, HOLDER);
    local_directory(&maker);
    let kinds: [Kind; 7] = [
        ("write", |file, _, model| {
            file.write_at(&[9; 1_000], MIB - 500).expect("write");
            model[(MIB - 500) as usize..][..1_000].fill(9);
        }),
        ("cut", |file, _, model| {
            file.set_len(MIB + 7).expect("cut");
            file.set_len(2 * MIB).expect("grow");
            model[(MIB + 7) as usize..].fill(0);
            model.resize(2 * MIB as usize, 0);
        }),
        ("empty", |file, _, model| {
            file.set_len(0).expect("cut");
            model.clear();
        }),
        ("punch", |file, _, model| {
            file.punch(100..MIB + 100).expect("punch");
            model[100..(MIB + 100) as usize].fill(0);
        }),
        ("zero", |file, _, model| {
            file.zero_range(5_000..9_000, true).expect("zero");
            model[5_000..9_000].fill(0);
        }),
        ("append", |file, _, model| {
            file.append(&vec![8; 70_000]).expect("append");
            model.resize(model.len() + 70_000, 8);
        }),
        ("copy", |file, other, model| {
            assert_eq!(other.copy_range_to(0, file, 3_000, 50_000).expect("copy"), 50_000);
            model[3_000..53_000].fill(7);
        }),
    ];
    file(&maker, "/d/other", &vec![7; 50_000]);
    let other = reading(&maker, "/d/other");
    let clients: Vec<_> = (1..SERVERS).map(|server| on_node(&cluster, server)).collect();
    for (kind, change) in kinds {
        let path = format!("/d/{kind}");
        let mut model = full(2 * MIB + 900, kind.len() as u8);
        file(&maker, &path, &model);
        let files: Vec<_> = clients.iter().map(|client| reading(client, &path)).collect();
        heat(&maker, &[1, 2, 3, 4, 5], &files, &model);
        let recalls = hot(&maker, HOLDER, "recalls");
        change(&open(&maker, &path), &other, &mut model);
        for (server, file) in files.iter().enumerate() {
            let read = file.read_bytes_at(model.len() + 1, 0).expect("read");
            assert!(read == model, "{kind}: on node {}", server + 1);
        }
        assert!(hot(&maker, HOLDER, "recalls") > recalls, "{kind}: it was hot");
    }
}
