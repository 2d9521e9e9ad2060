//! Goal: small files cost one message for what is done to them, and are right whoever moves them to chunks meanwhile. Method: files
//! around the limit, against a model in memory and the servers' notes.

use std::time::Duration;

use fs_client::{Bring, Caller, Client, Error, File, FileKind, InodeId, OpenFlags, OpenOptions, Status};
use fs_proto::Op;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::support::{FakeCluster, Fault};

const WHO: Caller = Caller::ROOT;
const LIMIT: usize = 1000;
const ROOT: InodeId = InodeId::ROOT;

fn start(servers: u16) -> FakeCluster {
    let cluster = FakeCluster::start(servers);
    cluster.control.world.lock().inline_limit = LIMIT as u32;
    cluster
}

fn create(client: &Client, name: &str) -> File {
    client.create_open(&WHO, ROOT, name.as_bytes(), 0o644, OpenFlags::READ_WRITE, false).unwrap().0
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; len];
    SmallRng::seed_from_u64(seed).fill(&mut data[..]);
    data
}

fn read_all(file: &File) -> Vec<u8> {
    file.read_bytes_at(1 << 20, 0).unwrap().to_vec()
}

#[test]
fn a_small_file_is_two_messages_to_make_and_one_to_read() {
    let cluster = start(3);
    let client = cluster.client();
    let file = create(&client, "a");
    file.write_at(b"small", 0).unwrap();
    file.flush().unwrap();
    let ino = file.ino();
    file.close().unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::Create, Op::WriteInline]);
    assert_eq!(client.stat("/a").unwrap().size, 5);
    cluster.control.wait_for(Op::Release);
    cluster.control.take_seen();
    let file = client.open(&WHO, ino, OpenFlags::READ).unwrap();
    assert_eq!(file.read_bytes_at(4096, 0).unwrap(), "small");
    assert_eq!(cluster.control.take_ops(), [Op::OpenRead], "the content came along");
    assert_eq!(file.read_bytes_at(4096, 0).unwrap(), "small");
    assert_eq!(file.read_bytes_at(4096, 5).unwrap(), "");
    assert_eq!(cluster.control.take_ops(), [Op::ReadInline, Op::ReadInline], "one answer has bytes and size");
}

#[test]
fn who_wants_no_content_is_not_sent_it() {
    let cluster = start(1);
    let client = cluster.client();
    client.put("/a", b"small", 0o644).unwrap();
    let attr = client.stat("/a").unwrap();
    for bring in [Bring::Unless(attr.version), Bring::Nothing] {
        let file = client.open_bringing(&WHO, attr.ino, OpenFlags::READ, bring).unwrap();
        cluster.control.take_seen();
        assert_eq!(file.read_bytes_at(10, 0).unwrap(), "small");
        assert_eq!(cluster.control.take_ops(), [Op::ReadInline], "{bring:?}");
        file.close().unwrap();
        cluster.control.wait_for(Op::Release);
    }
}

#[test]
fn put_and_get_are_one_message_each() {
    let cluster = start(3);
    let client = cluster.client_with(|config| config.attr_ttl = Duration::from_secs(60));
    for content in [&b"first"[..], b"", b"second one"] {
        assert_eq!(client.put("/a", content, 0o600).unwrap().size, content.len() as u64);
        assert_eq!(client.get("/a").unwrap(), content);
        assert_eq!(client.stat("/a").unwrap().size, content.len() as u64);
    }
    assert_eq!(cluster.control.take_ops(), [Op::Put, Op::Get].repeat(3));
    assert_eq!(client.put_at(&WHO, ROOT, b"a", b"", 0o600, true).unwrap_err().code(), Some(Status::Exists));
    assert_eq!(client.get("/b").unwrap_err().errno(), libc::ENOENT);
}

#[test]
fn files_of_any_size_are_put_and_got() {
    let cluster = start(3);
    let (client, other) = (cluster.client(), cluster.client());
    for (round, len) in [0, 1, LIMIT - 1, LIMIT, LIMIT + 1, 200_000, 10, 70_000, 0].into_iter().enumerate() {
        let content = pattern(len, round as u64);
        for name in ["/same", &format!("/own{round}")] {
            client.put(name, &content, 0o644).unwrap();
            assert!(other.get(name).unwrap() == content, "{name} with {len} bytes");
        }
    }
    client.symlink_path("/same", "/link").unwrap();
    client.put("/link", b"through it", 0o644).unwrap();
    assert_eq!(other.get("/link").unwrap(), "through it");
    assert_eq!(other.get("/same").unwrap(), "through it");
    client.mkdir_path("/dir", 0o755).unwrap();
    for path in ["/dir", "/dir/", "/"] {
        assert_eq!(client.put(path, b"", 0o644).unwrap_err().errno(), libc::EISDIR, "{path}");
        assert_eq!(client.get(path).unwrap_err().errno(), libc::EISDIR, "{path}");
    }
}

#[test]
fn a_file_grows_out_of_its_inode_under_everybodys_eyes() {
    let cluster = start(3);
    let (one, two) = (cluster.client(), cluster.client());
    let (mine, theirs) = (create(&one, "a"), create(&two, "a"));
    mine.write_at(&[1; LIMIT], 0).unwrap();
    theirs.write_at(&[2; 10], 0).unwrap();
    cluster.control.take_seen();
    mine.write_at(&[3; 10], LIMIT as u64).unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::Spill, Op::WriteChunk]);
    theirs.write_at(&[4; 10], 20).unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::WriteInline, Op::WriteChunk], "it is told, and goes on");
    theirs.write_at(&[4; 10], 30).unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::WriteChunk]);
    mine.flush().unwrap();
    let mut model = vec![1; LIMIT + 10];
    model[..10].fill(2);
    model[20..40].fill(4);
    model[LIMIT..].fill(3);
    assert!(read_all(&mine) == model && read_all(&theirs) == model);
}

#[test]
fn a_reader_that_believes_it_inline_reads_chunks() {
    let cluster = start(3);
    let (one, two) = (cluster.client(), cluster.client());
    let mine = create(&one, "a");
    mine.write_at(b"abc", 0).unwrap();
    let theirs = two.open(&WHO, mine.ino(), OpenFlags::READ).unwrap();
    assert_eq!(read_all(&theirs), b"abc");
    mine.write_at(&[7; LIMIT], 3).unwrap();
    mine.flush().unwrap();
    let mut model = b"abc".to_vec();
    model.extend([7; LIMIT]);
    assert!(read_all(&theirs) == model);
}

#[test]
fn the_servers_limit_is_learnt_from_the_first_answer() {
    let cluster = start(1);
    let client = cluster.client();
    let medium = pattern(LIMIT + 500, 1);
    client.put("/a", &medium, 0o644).unwrap();
    assert_eq!(cluster.control.take_ops()[0], Op::Put, "it might have fitted");
    client.put("/b", &medium, 0o644).unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::Create, Op::Spill, Op::WriteChunk, Op::Publish]);
}

#[test]
fn without_inline_files_nothing_is_different() {
    let cluster = FakeCluster::start(1);
    let client = cluster.client();
    client.put("/a", b"abc", 0o644).unwrap();
    client.put("/b", b"abc", 0o644).unwrap();
    assert_eq!(cluster.control.take_ops()[4..], [Op::Create, Op::WriteChunk, Op::Publish]);
    assert_eq!(client.get("/b").unwrap(), "abc");
}

#[test]
fn a_repeated_put_is_executed_once() {
    let cluster = start(2);
    let client = cluster.client();
    cluster.control.fail(Op::Put, &[Fault::CutBefore, Fault::CutAfter]);
    let version = client.put("/a", b"abc", 0o644).unwrap().version;
    assert_eq!(client.stat("/a").unwrap().version, version);
    cluster.control.fail(Op::Put, &[Fault::CutAfter]);
    assert!(client.put_at(&WHO, ROOT, b"b", b"x", 0o644, true).is_ok(), "its own file is no obstacle");
}

#[test]
fn damage_on_the_way_is_noticed() {
    let cluster = start(1);
    let client = cluster.client();
    let ino = client.put("/a", b"precious", 0o644).unwrap().ino;
    cluster.control.fail(Op::Get, &[Fault::FlipBit]);
    assert_eq!(client.get("/a").unwrap(), "precious");
    cluster.control.fail(Op::Get, &[Fault::FlipBit, Fault::FlipBit]);
    assert!(matches!(client.get("/a").unwrap_err(), Error::Corrupt { .. }));
    cluster.control.fail(Op::OpenRead, &[Fault::FlipBit]);
    let file = client.open(&WHO, ino, OpenFlags::READ).unwrap();
    cluster.control.fail(Op::ReadInline, &[Fault::FlipBit]);
    assert_eq!(read_all(&file), b"precious");
    cluster.control.fail(Op::ReadInline, &[Fault::FlipBit, Fault::FlipBit]);
    assert_eq!(file.read_bytes_at(8, 0).unwrap_err().errno(), libc::EIO);
    cluster.control.fail(Op::GetMany, &[Fault::FlipBit]);
    assert_eq!(client.get_many(&WHO, ROOT, &[b"a"]).unwrap()[0].as_ref().unwrap(), "precious");
}

/// Contents of `count` files, some too large, some of which are other things already.
fn mixed(cluster: &FakeCluster, dir: InodeId, count: usize) -> Vec<(String, Vec<u8>)> {
    let mut world = cluster.control.world.lock();
    world.add(dir, "f3", FileKind::Directory);
    let ino = world.add(dir, "f5", FileKind::File);
    world.spill(ino);
    let ino = world.add(dir, "f7", FileKind::File);
    world.remote.insert(ino);
    let len = |i: usize| if i % 50 == 9 { LIMIT + i } else { i % 90 };
    (0..count).map(|i| (format!("f{i}"), pattern(len(i), i as u64))).collect()
}

fn check_many(cluster: &FakeCluster, client: &Client, dir: InodeId, most: [usize; 2]) {
    let files = mixed(cluster, dir, 300);
    let parts: Vec<(&[u8], &[u8])> = files.iter().map(|(name, data)| (name.as_bytes(), &data[..])).collect();
    let names: Vec<&[u8]> = parts.iter().map(|(name, _)| *name).collect();
    let count = |ops: &[Op], op| ops.iter().filter(|is| **is == op).count();
    cluster.control.take_seen();
    let put = client.put_many(&WHO, dir, &parts, 0o644).unwrap();
    let ops = cluster.control.take_ops();
    assert!(count(&ops, Op::PutMany) <= most[0] && count(&ops, Op::Put) < 10, "{ops:?}");
    let got = client.get_many(&WHO, dir, &names).unwrap();
    let ops = cluster.control.take_ops();
    assert!(count(&ops, Op::GetMany) <= most[1] && count(&ops, Op::Get) < 10, "{ops:?}");
    for (i, ((_, data), (put, got))) in files.iter().zip(put.iter().zip(&got)).enumerate() {
        if i == 3 {
            assert_eq!(put.as_ref().unwrap_err().errno(), libc::EISDIR);
            assert_eq!(got.as_ref().unwrap_err().errno(), libc::EISDIR);
            continue;
        }
        assert_eq!(put.as_ref().unwrap().size, data.len() as u64, "f{i}");
        assert!(got.as_ref().unwrap() == data, "f{i}");
    }
}

#[test]
fn many_of_a_narrow_directory_go_to_one_server() {
    let cluster = start(4);
    let client = cluster.client();
    let dir = cluster.control.world.lock().add(ROOT, "d", FileKind::Directory);
    // 300 names in parts of 128; about 13 KB in answers of 4,000 bytes.
    check_many(&cluster, &client, dir, [3, 12]);
}

#[test]
fn many_of_a_wide_directory_go_to_all_servers() {
    let cluster = start(4);
    let client = cluster.client();
    let dir = cluster.control.world.lock().add(ROOT, "d", FileKind::Directory);
    cluster.control.world.lock().widen(dir);
    // First all to its home, which says that it is wide.
    check_many(&cluster, &client, dir, [3 + 4, 24]);
}

#[test]
fn results_are_in_the_order_of_the_request() {
    let cluster = start(2);
    let client = cluster.client();
    let put = client
        .put_many(&WHO, ROOT, &[(b"x", b"1"), (b"a/b", b"2"), (b"x", b"3"), (b"y", b"4")], 0o644)
        .unwrap();
    assert_eq!(put.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, true]);
    let got = client.get_many(&WHO, ROOT, &[b"y", b"none", b"x", b"y"]).unwrap();
    let texts: Vec<_> = got.iter().map(|got| got.as_ref().map(|bytes| bytes[0]).ok()).collect();
    assert_eq!(texts, [Some(b'4'), None, Some(b'3'), Some(b'4')], "of one name the last stays");
    assert_eq!(client.put_many(&WHO, ROOT, &[], 0o644).unwrap().len(), 0);
}

#[test]
fn random_reads_and_writes_around_the_limit_agree_with_a_model() {
    let cluster = start(3);
    for seed in 0..20 {
        let strict = |config: &mut fs_client::ClientConfig| {
            (config.attr_ttl, config.entry_ttl) = (Duration::ZERO, Duration::ZERO);
        };
        let clients = [cluster.client_with(strict), cluster.client_with(strict)];
        let name = format!("f{seed}");
        let files = clients.each_ref().map(|client| create(client, &name));
        let mut model: Vec<u8> = Vec::new();
        let mut rng = SmallRng::seed_from_u64(seed);
        for round in 0..60 {
            let file = &files[rng.random_range(0..2)];
            // Mostly small: it stays inline for a while.
            let bound = if round < 40 { LIMIT / 2 } else { LIMIT };
            let (offset, len) = (rng.random_range(0..bound), rng.random_range(0..bound));
            match rng.random_range(0..8) {
                0..3 => {
                    let data = pattern(len, seed * 100 + round);
                    file.write_at(&data, offset as u64).unwrap();
                    file.flush().unwrap();
                    if len > 0 {
                        model.resize(model.len().max(offset + len), 0);
                        model[offset..offset + len].copy_from_slice(&data);
                    }
                }
                3 => {
                    file.set_len(offset as u64).unwrap();
                    model.resize(offset, 0);
                }
                4 => {
                    let path = format!("/{name}");
                    assert!(
                        clients[round as usize % 2].get(path).unwrap() == model,
                        "seed {seed} round {round}"
                    );
                }
                _ => {
                    let mut buf = vec![0xee; len];
                    let got = file.read_at(&mut buf, offset as u64).unwrap();
                    let want = model.get(offset..model.len().min(offset + len)).unwrap_or_default();
                    assert_eq!(&buf[..got], want, "seed {seed} round {round}: {len} at {offset}");
                }
            }
            assert_eq!(file.attr().unwrap().size, model.len() as u64, "seed {seed} round {round}");
        }
    }
}

#[test]
fn options_of_opening_work_on_small_files() {
    let cluster = start(1);
    let client = cluster.client();
    client.put("/a", b"abcdef", 0o644).unwrap();
    let append = OpenOptions { append: true, ..OpenOptions::default() };
    assert_eq!(client.open_path("/a", &append).unwrap().append(b"gh").unwrap(), 6);
    assert_eq!(client.get("/a").unwrap(), "abcdefgh");
    let file = client.open_path("/a", &OpenOptions::create_truncate()).unwrap();
    file.write_at(b"x", 2).unwrap();
    file.sync().unwrap();
    assert_eq!(client.get("/a").unwrap(), &b"\0\0x"[..]);
}
