//! Large files on Lustre: aligned parts, each object written by one server, whatever happens meanwhile. Not on a real one: the adapter makes its
//! system calls to a fake that answers as Lustre does, keeps layouts, and writes down who wrote what; the bytes go to a local directory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fs_proto::ServerId;
use fs_server::ServerConfig;
use fs_server::tier::Tier;
use fs_server::tier::posix::Posix;
use fs_server::tier::posix::lustre::{Calls, Kernel, LUSTRE};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, fstat};
use rustix::io::{self, Errno};

use crate::client::{Client, ROOT};
use crate::cluster::Cluster;

const MIB: u64 = 1 << 20;
const STRIPE: u64 = 16 * MIB;

/// A call of write(2).
#[derive(Debug, Clone, Copy)]
struct Write {
    server: ServerId,
    /// Which file of all that were made: numbers of the file system are used again.
    file: usize,
    offset: u64,
    len: u64,
    is_direct: bool,
}

type Before = Box<dyn Fn(&Write) -> io::Result<()> + Send + Sync>;

/// The file system behind all mounts.
struct Lustre {
    /// Files have so many objects, whatever is asked for; 0: layouts are composite, and tell nothing of objects.
    objects: u16,
    layouts: Mutex<HashMap<u64, Vec<u8>>>,
    /// Files that were made; which of them has a number now.
    made: Mutex<(usize, HashMap<u64, usize>)>,
    writes: Mutex<Vec<Write>>,
    /// How often each file was opened past the cache, by server.
    direct_opens: Mutex<BTreeMap<(usize, ServerId), usize>>,
    before: Before,
    /// Bytes that are being written now, and at most, of each server.
    under_way: Mutex<HashMap<ServerId, (u64, u64)>>,
}

/// One server's mount of it.
struct Mount {
    server: ServerId,
    lustre: Arc<Lustre>,
}

fn number(file: &OwnedFd) -> u64 {
    fstat(file).unwrap().st_ino
}

impl Lustre {
    fn new(objects: u16, before: impl Fn(&Write) -> io::Result<()> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Lustre {
            objects,
            layouts: Mutex::default(),
            made: Mutex::default(),
            writes: Mutex::default(),
            direct_opens: Mutex::default(),
            before: Box::new(before),
            under_way: Mutex::default(),
        })
    }

    fn launch(self: &Arc<Self>, cluster: &mut Cluster) {
        cluster.launch_on(&|config: &ServerConfig| {
            let mount = Mount { server: config.id, lustre: Arc::clone(self) };
            let tier = Posix::open_with(config.tier.as_ref()?, config, Arc::new(mount)).unwrap();
            Some(Arc::new(tier) as Arc<dyn Tier>)
        });
    }

    fn note_made(&self, number: u64) {
        let (made, which) = &mut *self.made.lock();
        *made += 1;
        which.insert(number, *made);
        self.layouts.lock().remove(&number);
    }

    fn which(&self, number: u64) -> usize {
        self.made.lock().1[&number]
    }

    /// What was written into a published file, by offset.
    fn writes_to(&self, cluster: &Cluster, name: &str) -> Vec<Write> {
        let file = self.which(std::fs::metadata(cluster.at(name)).unwrap().ino());
        let mut writes = self.writes.lock().clone();
        writes.retain(|write| write.file == file);
        writes.sort_by_key(|write| write.offset);
        writes
    }
}

impl Calls for Mount {
    fn fs_type(&self, _: &OwnedFd) -> io::Result<u64> {
        Ok(LUSTRE)
    }
    fn create(&self, dir: &OwnedFd, name: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        // Without objects until there is a layout; such flags mean something else on other file systems.
        let delayed = OFlags::from_bits_retain((libc::O_NOCTTY | libc::O_ASYNC) as u32);
        let file = Kernel.create(dir, name, flags.difference(delayed), mode)?;
        self.lustre.note_made(number(&file));
        Ok(file)
    }
    fn set(&self, file: &OwnedFd, blob: &[u8]) -> io::Result<()> {
        let mut blob = blob.to_vec();
        if self.lustre.objects == 0 {
            blob[..4].copy_from_slice(&0x0BD6_0BD0_u32.to_le_bytes());
        }
        blob[28..30].copy_from_slice(&self.lustre.objects.to_le_bytes());
        self.lustre.layouts.lock().insert(number(file), blob);
        Ok(())
    }
    fn get(&self, file: &OwnedFd, blob: &mut [u8]) -> io::Result<usize> {
        let layouts = self.lustre.layouts.lock();
        let kept = layouts.get(&number(file)).ok_or(Errno::NODATA)?;
        blob[..kept.len()].copy_from_slice(kept);
        Ok(kept.len())
    }
    fn open(&self, dir: &OwnedFd, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let opened = Kernel.open(dir, name, flags);
        if !flags.contains(OFlags::DIRECT) {
            return opened;
        }
        // Where the directory's file system cannot do that, alignment is checked here alone.
        let file = opened.or_else(|_| Kernel.open(dir, name, flags.difference(OFlags::DIRECT)))?;
        let which = self.lustre.which(number(&file));
        *self.lustre.direct_opens.lock().entry((which, self.server)).or_default() += 1;
        Ok(file)
    }
    fn write(&self, file: &OwnedFd, data: &[u8], offset: u64, is_direct: bool) -> io::Result<usize> {
        let len = data.len() as u64;
        if is_direct {
            assert!(offset.is_multiple_of(4096) && len.is_multiple_of(4096));
            assert!(data.as_ptr().addr().is_multiple_of(4096));
        }
        let file_number = self.lustre.which(number(file));
        let write = Write { server: self.server, file: file_number, offset, len, is_direct };
        {
            let mut under_way = self.lustre.under_way.lock();
            let (now, most) = under_way.entry(self.server).or_default();
            *now += len;
            *most = (*most).max(*now);
        }
        let done = (self.lustre.before)(&write).and_then(|()| Kernel.write(file, data, offset, is_direct));
        self.lustre.under_way.lock().get_mut(&self.server).unwrap().0 -= len;
        if done.is_ok() {
            self.lustre.writes.lock().push(write);
        }
        done
    }
}

/// Bytes that are others in each 4 KiB.
fn pattern(bytes: u64, seed: u8) -> Vec<u8> {
    let mut data = vec![seed; bytes as usize];
    for (page, chunk) in data.chunks_mut(4096).enumerate() {
        let stamp = (page as u64).to_le_bytes();
        let len = chunk.len().min(stamp.len());
        chunk[..len].copy_from_slice(&stamp[..len]);
    }
    data
}

/// Checks that writes are of whole pieces of `piece` bytes, cover the file, and that each object has one writer; answers the writers.
fn check_writes(writes: &[Write], size: u64, piece: u64, objects: u64) -> BTreeSet<ServerId> {
    let mut owners: BTreeMap<u64, ServerId> = BTreeMap::new();
    let mut end = 0;
    for write in writes {
        assert_eq!(write.offset, end, "each byte once: {writes:#?}");
        assert!(write.offset.is_multiple_of(piece), "{write:?}");
        assert_eq!(write.len, piece.min(size - write.offset), "{write:?}");
        end += write.len;
        let owner = *owners.entry(write.offset / STRIPE % objects).or_insert(write.server);
        assert_eq!(owner, write.server, "object {}", write.offset / STRIPE % objects);
    }
    assert_eq!(end, size);
    owners.into_values().collect()
}

fn roomy(config: &mut ServerConfig) {
    config.memory_bytes = 512 << 20;
}

/// No staging, and nothing but what has a name.
fn check_tidy(cluster: &Cluster, names: usize) {
    assert_eq!(std::fs::read_dir(cluster.tier()).unwrap().count(), names);
}

#[test]
fn a_large_file_goes_to_lustre_in_parts_one_server_an_object() {
    // Goal: four servers gather and write parts of a stripe of 16 MiB, aligned, each object one server, past the cache but for the last, by one
    // descriptor an object; the copy is the file. Method: a file of seven stripes over four objects, chunks of which lie with all servers.
    let mut cluster = Cluster::prepared_with(4, roomy);
    let lustre = Lustre::new(4, |_| Ok(()));
    lustre.launch(&mut cluster);
    let client = Client::connect(&cluster.file);
    let size = 6 * STRIPE + 12_345;
    client.write_file(ROOT, "large", &pattern(size, 3));
    cluster.check(&client);
    let writes = lustre.writes_to(&cluster, "large");
    let writers = check_writes(&writes, size, STRIPE, 4);
    assert_eq!(writers.len(), 4, "{writes:#?}");
    assert!(writes.iter().all(|write| write.is_direct == (write.len == STRIPE)), "{writes:#?}");
    let file = writes[0].file;
    let opens = lustre.direct_opens.lock();
    let opens: Vec<_> = opens.iter().filter(|((opened, _), _)| *opened == file).collect();
    assert!(opens.len() == 4 && opens.iter().all(|(_, times)| **times == 1), "{opens:?}");
}

#[test]
fn with_little_memory_pieces_are_smaller() {
    // Goal: a server with 4 MiB for parts writes pieces of 4 MiB, at multiples of them, one at a time, and each object has one writer still.
    let mut cluster = Cluster::prepared_with(2, |config| config.memory_bytes = 64 << 20);
    let lustre = Lustre::new(2, |_| Ok(()));
    lustre.launch(&mut cluster);
    let client = Client::connect(&cluster.file);
    let size = 2 * STRIPE + 9 * MIB + 1;
    client.write_file(ROOT, "large", &pattern(size, 4));
    cluster.check(&client);
    let writes = lustre.writes_to(&cluster, "large");
    assert_eq!(check_writes(&writes, size, 4 * MIB, 2).len(), 2, "{writes:#?}");
    let under_way = lustre.under_way.lock();
    assert!(under_way.values().all(|(_, most)| *most <= 4 * MIB), "{under_way:?}");
}

#[test]
fn a_write_that_fails_makes_a_new_copy() {
    // Goal: what a failure leaves is thrown away and reported, and the next copy is whole. Method: the third write of all fails, and one after that.
    let count = AtomicUsize::new(0);
    let lustre = Lustre::new(2, move |_| match count.fetch_add(1, Ordering::SeqCst) {
        2 | 5 => Err(Errno::IO),
        _ => Ok(()),
    });
    let mut cluster = Cluster::prepared_with(2, roomy);
    lustre.launch(&mut cluster);
    let client = Client::connect(&cluster.file);
    let size = 5 * STRIPE;
    client.write_file(ROOT, "large", &pattern(size, 5));
    let accounts = cluster.check(&client);
    assert!(accounts.iter().map(|account| account.failures).sum::<u64>() > 0);
    check_writes(&lustre.writes_to(&cluster, "large"), size, STRIPE, 2);
    let files: BTreeSet<_> = lustre.writes.lock().iter().map(|write| write.file).collect();
    assert!(files.len() > 1, "a copy that failed is not gone on with");
    check_tidy(&cluster, 1);
}

#[test]
fn servers_that_end_in_the_middle_of_a_large_file_copy_it_after_their_start() {
    // Goal: nothing of a copy that was cut off is under the name, and the next start removes it and copies anew. Method: a Lustre that takes so many
    // writes and no more; all servers are started again on one that works.
    for taken in [0, 1, 3] {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let lustre = Lustre::new(2, move |_| {
            if counter.fetch_add(1, Ordering::SeqCst) < taken { Ok(()) } else { Err(Errno::IO) }
        });
        let mut cluster = Cluster::prepared_with(2, roomy);
        lustre.launch(&mut cluster);
        let client = Client::connect(&cluster.file);
        let size = 4 * STRIPE + 1;
        client.write_file(ROOT, "large", &pattern(size, 6));
        cluster.wait(&client, "a failure", |accounts| accounts.iter().any(|account| account.failures > 0));
        assert!(count.load(Ordering::SeqCst) > taken && !cluster.at("large").exists());
        drop(client);
        cluster.stop();
        let again = Lustre::new(2, |_| Ok(()));
        again.launch(&mut cluster);
        let client = Client::connect(&cluster.file);
        cluster.drain(&client);
        cluster.compare(&client);
        check_writes(&again.writes_to(&cluster, "large"), size, STRIPE, 2);
        check_tidy(&cluster, 1);
    }
}

#[test]
fn a_large_file_that_changes_while_it_is_copied_is_copied_again() {
    // Goal: what is published is one version. Method: the first copy stops at its writes until the file was written to and closed again.
    let is_shut = Arc::new(AtomicBool::new(true));
    let came = Arc::new(AtomicBool::new(false));
    let gate = (Arc::clone(&is_shut), Arc::clone(&came));
    let lustre = Lustre::new(2, move |_| {
        gate.1.store(true, Ordering::Release);
        while gate.0.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    });
    let mut cluster = Cluster::prepared_with(2, roomy);
    lustre.launch(&mut cluster);
    let client = Client::connect(&cluster.file);
    let size = 3 * STRIPE;
    let ino = client.write_file(ROOT, "large", &pattern(size, 7));
    let began = Instant::now();
    while !came.load(Ordering::Acquire) {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing is written");
        std::thread::yield_now();
    }
    client.open_file(ROOT, "large");
    for at in [0, STRIPE, 2 * STRIPE + 5 * MIB] {
        client.write(ino, at, b"changed while it was copied");
    }
    client.close(ino, size);
    is_shut.store(false, Ordering::Release);
    cluster.check(&client);
    check_writes(&lustre.writes_to(&cluster, "large"), size, STRIPE, 2);
    let files: BTreeSet<_> = lustre.writes.lock().iter().map(|write| write.file).collect();
    assert!(files.len() > 1, "the copy that was begun before is not the one");
}

#[test]
fn holes_stay_holes_on_lustre() {
    // Goal: a chunk that was never written takes no space and no write there.
    let mut cluster = Cluster::prepared_with(3, roomy);
    let lustre = Lustre::new(4, |_| Ok(()));
    lustre.launch(&mut cluster);
    let client = Client::connect(&cluster.file);
    let ino = client.open_file(ROOT, "sparse");
    client.write(ino, 0, &pattern(2 * MIB, 8));
    client.write(ino, 5 * STRIPE + 3 * MIB, &pattern(MIB, 9));
    client.close(ino, 9 * STRIPE);
    cluster.check(&client);
    let writes = lustre.writes_to(&cluster, "sparse");
    let ranges: Vec<_> = writes.iter().map(|write| (write.offset / MIB, write.len / MIB)).collect();
    assert_eq!(ranges, [(0, 2), (83, 1)]);
    assert!(std::fs::metadata(cluster.at("sparse")).unwrap().blocks() * 512 < 4 * MIB);
}

#[test]
fn without_a_layout_that_tells_objects_servers_write_what_they_hold() {
    // Goal: a composite layout is no reason to fail, nor one to gather: chunks are written by who holds them.
    let mut cluster = Cluster::prepared_with(3, roomy);
    let lustre = Lustre::new(0, |_| Ok(()));
    lustre.launch(&mut cluster);
    let client = Client::connect(&cluster.file);
    client.write_file(ROOT, "large", &pattern(30 * MIB, 10));
    let accounts = cluster.check(&client);
    assert!(accounts.iter().all(|account| account.copied_bytes == 10 * MIB), "{accounts:?}");
    assert!(lustre.writes_to(&cluster, "large").iter().all(|write| write.len <= MIB));
}
