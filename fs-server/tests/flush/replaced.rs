//! Goal: a server that comes back with an empty store gives no zeros for what it held: bytes of the shared tier where they are of the present version, else
//! errors; and what is lost never replaces what the tier has. Method: three servers, one loses its store; every chunk of every file is read, changed,
//! flushed.

use fs_proto::placement::chunk_partition;
use fs_proto::{ChunkIndex, InodeId, PartitionMap, ServerId, Status};

use crate::client::{Client, ROOT};
use crate::cluster::{Cluster, plain};
use crate::reading::content;

const CHUNK: usize = 1 << 20;
const SIZE: usize = 9 * CHUNK + 100;
/// Of each kind.
const FILES: u64 = 6;

/// A server that is home of neither the root nor a directory `dir`: names stay.
fn victim(map: &PartitionMap, dir: InodeId) -> ServerId {
    let homes = [ROOT, dir].map(|ino| map.owner(ino.partition()));
    (0..3).map(ServerId).find(|id| !homes.contains(id)).expect("one of three")
}

struct Scene {
    cluster: Cluster,
    client: Client,
    map: PartitionMap,
    lost: ServerId,
    flushed: Vec<(InodeId, Vec<u8>)>,
    kept_back: Vec<(InodeId, Vec<u8>)>,
}

/// Files in the tier and files that are not, and then a server that comes back without its store.
fn lose() -> Scene {
    let mut cluster = Cluster::prepared(3);
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let map = cluster.file.map().unwrap();
    let dir = client.mkdir(ROOT, "never");
    client.setxattr(dir, "user.hayate.flush", "never");
    let write = |parent, seed| {
        let data = content(seed, SIZE);
        (client.write_file(parent, &format!("file{seed}"), &data), data)
    };
    let flushed: Vec<_> = (0..FILES).map(|seed| write(ROOT, seed)).collect();
    let kept_back: Vec<_> = (100..100 + FILES).map(|seed| write(dir, seed)).collect();
    // A hole of before is as good as lost where its server is new.
    cluster.wait(&client, "flushing", |accounts| accounts.iter().map(|a| a.files).sum::<u64>() == FILES);
    let lost = victim(&map, dir);
    drop(client);
    cluster.stop();
    cluster.lose(lost);
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    Scene { cluster, client, map, lost, flushed, kept_back }
}

impl Scene {
    fn is_lost(&self, ino: InodeId, chunk: ChunkIndex) -> bool {
        self.map.owner(chunk_partition(ino, chunk)) == self.lost
    }

    /// What is read of a chunk is what was there, or an error.
    fn read(&self, ino: InodeId, data: &[u8], chunk: u64) -> Result<(), Status> {
        let at = chunk as usize * CHUNK;
        let got = self.client.try_read_chunk(ino, ChunkIndex(chunk))?;
        assert!(*got == data[at..(at + CHUNK).min(data.len())], "{ino:?}, chunk {chunk}");
        Ok(())
    }
}

#[test]
fn a_store_that_was_lost_is_no_hole() {
    let mut it = lose();
    let (mut from_tier, mut lost) = (0, 0);
    for (ino, data) in &it.flushed {
        for chunk in 0..SIZE.div_ceil(CHUNK) as u64 {
            it.read(*ino, data, chunk).expect("it is in the tier");
            from_tier += u32::from(it.is_lost(*ino, ChunkIndex(chunk)));
        }
    }
    for (ino, data) in &it.kept_back {
        for chunk in 0..SIZE.div_ceil(CHUNK) as u64 {
            let is_lost = it.is_lost(*ino, ChunkIndex(chunk));
            assert_eq!(it.read(*ino, data, chunk), if is_lost { Err(Status::Io) } else { Ok(()) }, "{chunk}");
            lost += u32::from(is_lost);
        }
    }
    assert!(from_tier > 0 && lost > 0);
    // What is known stays known.
    drop(std::mem::replace(&mut it.client, Client::connect(&it.cluster.file)));
    it.cluster.restart(&plain);
    it.client = Client::connect(&it.cluster.file);
    let (ino, data) = &it.kept_back[0];
    let chunk = (0..10).find(|chunk| it.is_lost(*ino, ChunkIndex(*chunk))).unwrap();
    assert_eq!(it.read(*ino, data, chunk), Err(Status::Io));
    // Part of a lost chunk cannot be written; all of it can, and then it is a chunk as any other.
    let attr = it.client.attr(*ino);
    let write =
        |offset: u32, data: &[u8]| it.client.try_write_in_chunk(&attr, ChunkIndex(chunk), offset, data);
    assert_eq!(write(5, b"part"), Err(Status::Io));
    write(0, &content(7, CHUNK)).unwrap();
    write(5, b"part").unwrap();
    let mut expected = content(7, CHUNK);
    expected[5..9].copy_from_slice(b"part");
    assert!(it.client.read_chunk(*ino, ChunkIndex(chunk)) == expected);
    // What is cut off is no loss any more.
    let (ino, _) = &it.kept_back[1];
    it.client.truncate(*ino, 0);
    it.client.truncate(*ino, SIZE as u64);
    assert!(it.client.read(&it.client.attr(*ino)).iter().all(|byte| *byte == 0));
    // Holes of new files are holes.
    let new = it.client.write_file(ROOT, "new", &content(8, SIZE));
    it.client.truncate(new, 3 * SIZE as u64);
    let mut expected = content(8, SIZE);
    expected.resize(3 * SIZE, 0);
    assert!(it.client.read(&it.client.attr(new)) == expected);
}

#[test]
fn what_is_lost_does_not_reach_the_tier() {
    let it = lose();
    // A file of the tier that is changed elsewhere gets there with everything, if its home was asked before.
    let (ino, data) = &it.flushed[0];
    let gone = (0..10).find(|chunk| it.is_lost(*ino, ChunkIndex(*chunk))).unwrap();
    it.read(*ino, data, gone).unwrap();
    let here = (0..10).find(|chunk| !it.is_lost(*ino, ChunkIndex(*chunk))).unwrap();
    it.client.open_file(ROOT, "file0");
    it.client.write(*ino, here * CHUNK as u64, b"changed");
    it.client.close(*ino, SIZE as u64);
    it.cluster.settle(&it.client);
    let mut expected = data.clone();
    expected[here as usize * CHUNK..][..7].copy_from_slice(b"changed");
    assert!(std::fs::read(it.cluster.at("file0")).unwrap() == expected);
    // One that was never there does not come with holes.
    let dir = it.client.lookup(ROOT, "never").unwrap();
    it.client.setxattr(dir, "user.hayate.flush", "close");
    for (ino, _) in &it.kept_back {
        // Whatever makes it due.
        it.client.chmod(*ino, 0o600);
    }
    it.cluster.wait(&it.client, "a failure", |accounts| {
        accounts.iter().map(|account| account.failures).sum::<u64>() >= FILES
    });
    for seed in 100..100 + FILES {
        assert!(!it.cluster.at(format!("never/file{seed}")).exists(), "{seed}");
    }
}
