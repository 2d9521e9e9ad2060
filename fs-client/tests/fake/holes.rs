//! Goal: holes are made where they were asked for and nowhere else, data and holes are found as lseek(2) says, in few messages however
//! large the file. Method: files of small chunks against a model in memory, and the servers' notes.

use std::collections::BTreeMap;

use fs_client::{Caller, Client, File, InodeId, OpenFlags};
use fs_proto::Op;
use fs_proto::msg::inode::Publish;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::FakeCluster;
use crate::world::request;

const WHO: Caller = Caller::ROOT;
const CHUNK: u64 = 64 << 10;
const LAST: u64 = i64::MAX as u64;

fn open(client: &Client, name: &str) -> File {
    client.create_open(&WHO, InodeId::ROOT, name.as_bytes(), 0o644, OpenFlags::READ_WRITE, false).unwrap().0
}

fn counts(ops: &[Op]) -> BTreeMap<Op, usize> {
    let mut counts = BTreeMap::new();
    for op in ops {
        *counts.entry(*op).or_default() += 1;
    }
    counts
}

/// What is at or after `offset` in a model whose data are the bytes that are not zero.
fn in_model(model: &[u8], offset: u64, data: bool) -> Option<u64> {
    let from = usize::try_from(offset).ok().filter(|from| *from < model.len())?;
    let found = model[from..].iter().position(|byte| (*byte != 0) == data).map(|at| offset + at as u64);
    if data { found } else { found.or(Some(model.len() as u64)) }
}

#[test]
fn random_holes_agree_with_a_model() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let file = open(&client, "a");
    let mut model: Vec<u8> = Vec::new();
    let mut rng = SmallRng::seed_from_u64(5);
    for round in 0..200u64 {
        let offset = rng.random_range(0..40 * CHUNK);
        let end = offset + rng.random_range(1..=if round % 3 == 0 { 30 * CHUNK } else { CHUNK });
        let size = model.len() as u64;
        let within = offset.min(size) as usize..end.min(size) as usize;
        match rng.random_range(0..8) {
            0..3 => {
                let data = vec![1 + (round % 250) as u8; (end - offset) as usize];
                file.write_at(&data, offset).unwrap();
                model.resize(size.max(end) as usize, 0);
                model[offset as usize..end as usize].copy_from_slice(&data);
            }
            3 | 4 => {
                file.punch(offset..end).unwrap();
                model[within].fill(0);
            }
            5 => {
                let keep = round % 2 == 0;
                file.zero_range(offset..end, keep).unwrap();
                model[within].fill(0);
                model.resize(if keep { size } else { size.max(end) } as usize, 0);
            }
            6 => {
                file.set_len(offset).unwrap();
                model.resize(offset as usize, 0);
            }
            _ => file.flush().unwrap(),
        }
        assert_eq!(file.attr().unwrap().size, model.len() as u64, "round {round}");
        let at = rng.random_range(0..50 * CHUNK);
        assert_eq!(file.seek_data(at).unwrap(), in_model(&model, at, true), "round {round}, data from {at}");
        assert_eq!(file.seek_hole(at).unwrap(), in_model(&model, at, false), "round {round}, hole from {at}");
        if round % 20 == 0 {
            assert!(file.read_bytes_at(model.len(), 0).unwrap() == model, "round {round}");
        }
    }
}

#[test]
fn a_hole_is_a_message_a_chunk_and_published_as_a_write() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let file = open(&client, "a");
    file.write_at(&vec![7; 4 * CHUNK as usize], 0).unwrap();
    file.flush().unwrap();
    cluster.control.take_seen();
    file.punch(CHUNK - 10..2 * CHUNK + 10).unwrap();
    let ops = cluster.control.take_ops();
    assert_eq!(counts(&ops), [(Op::Getattr, 1), (Op::PunchChunk, 3)].into());
    let before = file.known_attr();
    file.flush().unwrap();
    let seen = cluster.control.take_seen();
    let publish: Publish = request(&seen[0].meta);
    assert!(publish.mtime.is_some() && publish.end == 0);
    assert!(file.known_attr().version > before.version && file.known_attr().size == before.size);
    file.punch(9 * CHUNK..10 * CHUNK).unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::Getattr], "there is nothing beyond the end");
    file.flush().unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::Publish], "but the time is another");
}

#[test]
fn the_largest_file_costs_few_messages() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let file = open(&client, "a");
    let far = LAST / 2;
    file.write_at(b"x", 5).unwrap();
    file.write_at(b"y", far).unwrap();
    file.set_len(LAST).unwrap();
    cluster.control.take_seen();
    assert_eq!(file.seek_data(6).unwrap(), Some(far));
    assert_eq!(
        counts(&cluster.control.take_ops()),
        [(Op::Getattr, 1), (Op::ChunkRanges, 1), (Op::ChunkMap, 3)].into()
    );
    assert_eq!(file.seek_hole(far).unwrap(), Some(far + 1));
    assert_eq!(file.seek_data(far + 1).unwrap(), None);
    assert_eq!(file.seek_hole(LAST - 1).unwrap(), Some(LAST - 1));
    assert_eq!((file.seek_hole(LAST).unwrap(), file.seek_data(LAST).unwrap()), (None, None));
    cluster.control.take_seen();
    file.punch(0..LAST).unwrap();
    let ops = cluster.control.take_ops();
    assert_eq!(counts(&ops), [(Op::Getattr, 1), (Op::ChunkMap, 3), (Op::PunchChunk, 2)].into());
    assert_eq!(file.seek_data(0).unwrap(), None);
}

#[test]
fn what_was_written_and_not_published_counts() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let file = open(&client, "a");
    file.write_at(b"data", 3 * CHUNK).unwrap();
    assert_eq!(file.seek_data(0).unwrap(), Some(3 * CHUNK));
    assert_eq!(file.seek_hole(3 * CHUNK).unwrap(), Some(3 * CHUNK + 4), "the file ends with a hole");
    assert!(!cluster.control.take_ops().contains(&Op::Publish));
}

#[test]
fn small_files_are_data_and_their_holes_zeros() {
    let cluster = FakeCluster::start(3);
    cluster.control.world.lock().inline_limit = 1000;
    let client = cluster.client();
    let file = open(&client, "a");
    file.write_at(&[7; 100], 0).unwrap();
    cluster.control.take_seen();
    file.punch(10..50).unwrap();
    file.zero_range(90..200, false).unwrap();
    file.zero_range(60..300, true).unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::PunchInline, Op::WriteInline, Op::PunchInline]);
    let mut model = [0; 200];
    model[..10].fill(7);
    model[50..60].fill(7);
    assert_eq!(file.read_bytes_at(1000, 0).unwrap(), model[..]);
    assert_eq!((file.seek_data(20).unwrap(), file.seek_hole(20).unwrap()), (Some(20), Some(200)));
    assert_eq!((file.seek_data(200).unwrap(), file.seek_hole(200).unwrap()), (None, None));
    file.zero_range(150..5000, false).unwrap();
    assert_eq!(file.attr().unwrap().size, 5000);
    assert!(!file.known_attr().inline, "it has grown out of its inode");
    assert_eq!(file.read_bytes_at(300, 0).unwrap()[..200], model);
}

#[test]
fn a_file_that_left_its_inode_unheard_is_punched_where_it_lies() {
    let cluster = FakeCluster::start(3);
    cluster.control.world.lock().inline_limit = 1000;
    let (client, other) = (cluster.client(), cluster.client());
    let file = open(&client, "a");
    file.write_at(&[7; 100], 0).unwrap();
    let theirs = open(&other, "a");
    theirs.write_at(&[8; 2000], 100).unwrap();
    theirs.flush().unwrap();
    file.punch(50..150).unwrap();
    assert_eq!(file.seek_hole(0).unwrap(), Some(50));
    let bytes = theirs.read_bytes_at(200, 0).unwrap();
    assert!(bytes[..50] == [7; 50] && bytes[50..150] == [0; 100] && bytes[150..] == [8; 50]);
}

#[test]
fn allocating_reaches_cuts_nothing_and_minds_the_space() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let file = open(&client, "a");
    file.write_at(&[7; 1000], 0).unwrap();
    file.allocate(0..500, false).unwrap();
    file.allocate(900..1100, true).unwrap();
    assert_eq!(file.attr().unwrap().size, 1000);
    file.allocate(900..1100, false).unwrap();
    assert_eq!(file.attr().unwrap().size, 1100);
    // The three servers have 60 bytes each.
    assert_eq!(file.allocate(0..1281, false).unwrap_err().errno(), libc::ENOSPC);
    assert_eq!(file.allocate(5000..5181, true).unwrap_err().errno(), libc::ENOSPC);
    assert_eq!(file.attr().unwrap().size, 1100);
    file.allocate(0..1280, false).unwrap();
    assert_eq!(file.read_bytes_at(1000, 0).unwrap(), [7; 1000][..]);
}

#[test]
#[allow(clippy::reversed_empty_ranges)] // What a caller may get wrong.
fn ranges_that_make_no_sense_are_refused() {
    let cluster = FakeCluster::start(1);
    let client = cluster.client();
    let file = open(&client, "a");
    assert_eq!(file.punch(5..5).unwrap_err().errno(), libc::EINVAL);
    assert_eq!(file.zero_range(5..4, true).unwrap_err().errno(), libc::EINVAL);
    assert_eq!(file.punch(5..LAST + 1).unwrap_err().errno(), libc::EFBIG);
    assert_eq!(file.allocate(5..LAST + 1, true).unwrap_err().errno(), libc::EFBIG);
    let reading = client.open(&WHO, file.ino(), OpenFlags::READ).unwrap();
    assert_eq!(reading.punch(0..1).unwrap_err().errno(), libc::EBADF);
    assert_eq!(reading.allocate(0..1, false).unwrap_err().errno(), libc::EBADF);
}
