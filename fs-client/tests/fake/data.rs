//! Goal: data arrives whole, in parallel and in few messages; sizes are right at every moment. Method: files of small chunks
//! against a model in memory, and the servers' notes.

use std::collections::BTreeSet;
use std::time::Duration;

use fs_client::{Caller, Client, Error, File, InodeId, OpenFlags};
use fs_proto::Op;
use fs_proto::msg::chunk::ReadChunk;
use fs_proto::msg::inode::Publish;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::{FakeCluster, Fault};
use crate::world::request;

const WHO: Caller = Caller::ROOT;
const CHUNK: usize = 64 << 10;

fn open(client: &Client, name: &str) -> File {
    client.create_open(&WHO, InodeId::ROOT, name.as_bytes(), 0o644, OpenFlags::READ_WRITE, false).unwrap().0
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; len];
    SmallRng::seed_from_u64(seed).fill(&mut data[..]);
    data
}

#[test]
fn random_reads_and_writes_agree_with_a_model() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let file = open(&client, "a");
    let mut model: Vec<u8> = Vec::new();
    let mut rng = SmallRng::seed_from_u64(11);
    for round in 0..300u64 {
        let offset = rng.random_range(0..5 * CHUNK);
        let len = rng.random_range(0..3 * CHUNK);
        match rng.random_range(0..10) {
            0..4 => {
                let data = pattern(len, round);
                file.write_at(&data, offset as u64).unwrap();
                if len > 0 {
                    model.resize(model.len().max(offset + len), 0);
                    model[offset..offset + len].copy_from_slice(&data);
                }
            }
            4..7 => {
                let mut buf = vec![0xee; len];
                let got = file.read_at(&mut buf, offset as u64).unwrap();
                let want = model.get(offset..model.len().min(offset + len)).unwrap_or_default();
                assert_eq!(&buf[..got], want, "round {round}: {len} at {offset}");
            }
            7 => {
                let got = file.read_bytes_at(len, offset as u64).unwrap();
                assert_eq!(got, model.get(offset..model.len().min(offset + len)).unwrap_or_default());
            }
            8 => {
                file.set_len(offset as u64).unwrap();
                model.resize(offset, 0);
            }
            _ => file.flush().unwrap(),
        }
        assert_eq!(file.attr().unwrap().size, model.len() as u64, "round {round}");
    }
}

#[test]
fn a_large_write_has_many_pieces_under_way() {
    let cluster = FakeCluster::start(4);
    let client = cluster.client();
    let file = open(&client, "a");
    let data = pattern(200 * CHUNK, 1);
    file.write_at(&data, 0).unwrap();
    assert!(cluster.control.most_running() >= 12, "{}", cluster.control.most_running());
    let seen = cluster.control.take_seen();
    assert_eq!(seen.iter().filter(|s| s.header.op == Op::WriteChunk).count(), 200);
    let mut back = vec![0; data.len()];
    assert_eq!(file.read_at(&mut back, 0).unwrap(), data.len());
    assert!(back == data);
    assert_eq!(file.read_bytes_at(data.len(), 0).unwrap(), data);
}

#[test]
fn a_write_larger_than_the_memory_goes_through() {
    let cluster = FakeCluster::start(2);
    cluster.control.world.lock().chunk_log2 = 20;
    let client = cluster.client_with(|config| config.memory_bytes = 8 << 20);
    let file = open(&client, "a");
    let data = pattern(24 << 20, 2);
    file.write_at(&data, 100).unwrap();
    assert!(file.read_bytes_at(data.len(), 100).unwrap() == data);
}

#[test]
fn a_small_read_is_one_message() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client_with(|config| config.attr_ttl = Duration::from_secs(60));
    let file = open(&client, "a");
    file.write_at(&pattern(1000, 1), 0).unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::Create, Op::WriteChunk]);
    let mut buf = [0; 1000];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 1000);
    assert_eq!(cluster.control.take_ops(), [Op::ReadChunk]);
    assert_eq!(file.read_at(&mut buf, 500).unwrap(), 500);
    let asked: BTreeSet<Op> = cluster.control.take_ops().into_iter().collect();
    assert_eq!(asked, [Op::Getattr, Op::ReadChunk].into(), "beyond the known size the home is asked");
}

#[test]
fn with_no_time_to_trust_every_read_asks() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client_with(|config| config.attr_ttl = Duration::ZERO);
    let file = open(&client, "a");
    file.write_at(&pattern(1000, 1), 0).unwrap();
    file.flush().unwrap();
    cluster.control.take_seen();
    assert_eq!(file.read_bytes_at(10, 0).unwrap().len(), 10);
    let asked: BTreeSet<Op> = cluster.control.take_ops().into_iter().collect();
    assert_eq!(asked, [Op::Getattr, Op::ReadChunk].into());
}

#[test]
fn what_another_client_appended_is_read() {
    let cluster = FakeCluster::start(3);
    let (one, two) = (cluster.client(), cluster.client());
    let (mine, theirs) = (open(&one, "a"), open(&two, "a"));
    mine.write_at(b"1234", 0).unwrap();
    mine.flush().unwrap();
    assert_eq!(theirs.read_bytes_at(100, 0).unwrap(), "1234");
    mine.write_at(b"5678", 4).unwrap();
    mine.flush().unwrap();
    assert_eq!(theirs.read_bytes_at(100, 2).unwrap(), "345678");
    assert_eq!(theirs.append(b"9").unwrap(), 8);
}

#[test]
fn holes_are_zeros() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let file = open(&client, "a");
    file.write_at(b"x", 3 * CHUNK as u64).unwrap();
    let mut buf = vec![0xee; 4 * CHUNK];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 3 * CHUNK + 1);
    assert!(buf[..3 * CHUNK].iter().all(|byte| *byte == 0) && buf[3 * CHUNK] == b'x');
}

#[test]
fn damage_on_the_way_is_read_again_once() {
    let cluster = FakeCluster::start(2);
    let client = cluster.client();
    let file = open(&client, "a");
    file.write_at(b"precious", 0).unwrap();
    cluster.control.fail(Op::ReadChunk, &[Fault::FlipBit]);
    cluster.control.take_seen();
    assert_eq!(file.read_bytes_at(8, 0).unwrap(), "precious");
    // The second time the server compares, too: it knows what it has lost.
    let seen = cluster.control.take_seen().into_iter();
    let reads = seen.filter(|seen| seen.header.op == Op::ReadChunk);
    assert_eq!(
        reads.map(|seen| request::<ReadChunk>(&seen.meta).compared).collect::<Vec<_>>(),
        [false, true]
    );
    cluster.control.fail(Op::ReadChunk, &[Fault::FlipBit, Fault::FlipBit]);
    let error = file.read_bytes_at(8, 0).unwrap_err();
    assert!(matches!(error, Error::Corrupt { offset: 0, .. }), "{error:?}");
    assert_eq!(error.errno(), libc::EIO);
}

#[test]
fn a_cut_connection_does_not_break_a_write() {
    let cluster = FakeCluster::start(2);
    let client = cluster.client();
    let file = open(&client, "a");
    cluster.control.fail(Op::WriteChunk, &[Fault::CutBefore, Fault::CutAfter, Fault::CutAfter]);
    let data = pattern(20 * CHUNK, 3);
    file.write_at(&data, 7).unwrap();
    cluster.control.fail(Op::ReadChunk, &[Fault::CutBefore, Fault::CutAfter]);
    assert!(file.read_bytes_at(data.len(), 7).unwrap() == data);
}

#[test]
fn closing_a_written_file_is_one_message_and_publishes() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let file = open(&client, "a");
    let ino = file.ino();
    file.write_at(b"1234", 0).unwrap();
    cluster.control.take_seen();
    file.close().unwrap();
    let seen = cluster.control.take_seen();
    assert_eq!(seen.len(), 1);
    let publish: Publish = request(&seen[0].meta);
    assert!(publish.close && publish.mtime.is_some());
    assert_eq!((publish.end, publish.since), (4, 1));
    let world = cluster.control.world.lock();
    assert!(world.opens.is_empty());
    assert_eq!(world.inodes[&ino].size, 4);
}

#[test]
fn dropping_the_last_clone_closes() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let file = open(&client, "a");
    file.write_at(b"1234", 0).unwrap();
    cluster.control.take_seen();
    let clone = file.clone();
    file.close().unwrap();
    assert_eq!(cluster.control.take_ops(), []);
    drop(clone);
    assert_eq!(cluster.control.take_ops(), [Op::Publish]);
}

#[test]
fn an_inode_is_announced_once_and_given_back_in_a_batch() {
    let cluster = FakeCluster::start(1);
    // Where the kernel has not checked permissions each opening asks.
    let client = cluster.client_with(|config| config.checked = true);
    let inos: Vec<_> = (0..70)
        .map(|i| cluster.control.world.lock().add(InodeId::ROOT, &format!("f{i}"), fs_client::FileKind::File))
        .collect();
    let first = client.open(&WHO, inos[0], OpenFlags::READ).unwrap();
    let second = client.open(&WHO, inos[0], OpenFlags::READ).unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::OpenRead]);
    let third = client.open(&WHO, inos[0], OpenFlags::WRITE).unwrap();
    let fourth = client.open(&WHO, inos[0], OpenFlags::WRITE).unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::Open], "write access is added once");
    drop((first, second, third, fourth));
    let files: Vec<_> = inos.iter().map(|ino| client.open(&WHO, *ino, OpenFlags::READ).unwrap()).collect();
    assert_eq!(cluster.control.world.lock().opens.len(), 70);
    cluster.control.take_seen();
    drop(files);
    cluster.control.wait_for(Op::Release);
    drop(client);
    assert!(cluster.control.world.lock().opens.is_empty());
    let releases = cluster.control.take_ops();
    assert!(releases.iter().all(|op| *op == Op::Release) && releases.len() <= 3, "{releases:?}");
}

#[test]
fn unpublished_sizes_show_here_and_are_published_in_the_background() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let file = open(&client, "a");
    file.write_at(b"1234", 10).unwrap();
    assert_eq!(client.getattr(&WHO, file.ino()).unwrap().size, 14);
    assert_eq!(client.lookup(&WHO, InodeId::ROOT, b"a").unwrap().size, 14);
    assert_eq!(file.known_attr().size, 14);
    let seen = cluster.control.wait_for(Op::Publish);
    assert!(!request::<Publish>(&seen.meta).close);
}

#[test]
fn sync_reaches_the_servers_that_hold_the_data() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let file = open(&client, "a");
    file.write_at(b"1234", 0).unwrap();
    cluster.control.take_seen();
    file.sync().unwrap();
    let seen = cluster.control.take_seen();
    assert_eq!(seen.iter().map(|s| s.header.op).collect::<Vec<_>>(), [Op::SyncChunks, Op::Publish]);
    assert!(request::<Publish>(&seen[1].meta).sync);
    file.sync().unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::Publish], "the data is synced already");
    file.close().unwrap();
    cluster.control.wait_for(Op::Release);
    // Somebody who did not write it cannot know: all who hold it are asked.
    let other = cluster.client();
    let ino = other.lookup(&WHO, InodeId::ROOT, b"a").unwrap().ino;
    let file = other.open(&WHO, ino, OpenFlags::READ).unwrap();
    cluster.control.take_seen();
    file.sync().unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::SyncChunks, Op::Publish]);
}

#[test]
fn files_are_used_as_they_were_opened() {
    let cluster = FakeCluster::start(1);
    let client = cluster.client();
    let ino = open(&client, "a").ino();
    let reading = client.open(&WHO, ino, OpenFlags::READ).unwrap();
    let writing = client.open(&WHO, ino, OpenFlags::WRITE).unwrap();
    assert_eq!(reading.write_at(b"x", 0).unwrap_err().errno(), libc::EBADF);
    assert_eq!(reading.set_len(0).unwrap_err().errno(), libc::EBADF);
    assert_eq!(writing.read_bytes_at(1, 0).unwrap_err().errno(), libc::EBADF);
    assert_eq!(writing.write_at(b"xy", i64::MAX as u64 - 1).unwrap_err().errno(), libc::EFBIG);
    let truncate = OpenFlags { truncate: true, ..OpenFlags::WRITE };
    writing.write_at(b"x", 0).unwrap();
    assert_eq!(client.open(&WHO, ino, truncate).unwrap().attr().unwrap().size, 0);
}
