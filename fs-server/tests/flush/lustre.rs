//! Large files on Lustre: aligned parts, each object written by one server, whatever happens meanwhile. Not on a real one: the adapter makes its
//! system calls to a fake that answers as Lustre does, keeps layouts, and writes down who wrote what; the bytes go to a local directory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::msg::tier::{EvictNow, FlushChunks, PartsOf};
use fs_proto::{Layout, ServerId, Status};
use fs_server::ServerConfig;
use fs_server::flush::Patience;
use fs_server::tier::posix::Posix;
use fs_server::tier::posix::lustre::{Calls, Kernel, LUSTRE};
use fs_server::tier::{Tier, TierError, staged_prefix, staging_name};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, fstat};
use rustix::io::{self, Errno};

use crate::client::{Client, ROOT};
use crate::cluster::Cluster;
use crate::evicting::figure;
use crate::fake::{Fake, Gate};
use crate::policies::until;

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
    /// How often each file was opened past the cache, by server; and to be written through it.
    direct_opens: Mutex<BTreeMap<(usize, ServerId), usize>>,
    opens: Mutex<BTreeMap<(usize, ServerId), usize>>,
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
            opens: Mutex::default(),
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
            if let Ok(file) = &opened
                && flags.contains(OFlags::WRONLY)
            {
                let which = self.lustre.which(number(file));
                *self.lustre.opens.lock().entry((which, self.server)).or_default() += 1;
            }
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

/// The one file in staging, and who makes it.
fn staged(cluster: &Cluster) -> (ServerId, Bytes) {
    let found = [0, 1].map(ServerId).into_iter().find_map(|server| {
        let names = std::fs::read_dir(cluster.tier().join(staging_name("flush-test", server))).ok()?;
        let mut names = names.map(|entry| entry.unwrap().file_name().into_encoded_bytes());
        let name = names.find(|name| name.starts_with(staged_prefix(server).as_bytes()))?;
        Some((server, Bytes::from(name)))
    });
    found.expect("a file in staging")
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
fn a_write_that_fails_is_made_again_and_no_other() {
    // Goal: what was gathered is written when the tier takes it again: one copy, each byte once, nothing to report. Method: every third write of all fails.
    let count = AtomicUsize::new(0);
    let lustre =
        Lustre::new(
            2,
            move |_| {
                if count.fetch_add(1, Ordering::SeqCst) % 3 == 2 { Err(Errno::IO) } else { Ok(()) }
            },
        );
    let mut cluster = Cluster::prepared_with(2, roomy);
    lustre.launch(&mut cluster);
    let client = Client::connect(&cluster.file);
    let size = 9 * STRIPE;
    client.write_file(ROOT, "large", &pattern(size, 5));
    let accounts = cluster.check(&client);
    assert_eq!(accounts.iter().map(|account| account.failures).sum::<u64>(), 0, "{accounts:?}");
    check_writes(&lustre.writes_to(&cluster, "large"), size, STRIPE, 2);
    let files: BTreeSet<_> = lustre.writes.lock().iter().map(|write| write.file).collect();
    assert_eq!(files.len(), 1, "the copy that was begun is the one");
    check_tidy(&cluster, 1);
}

#[test]
fn a_share_that_fails_goes_on_where_it_was() {
    // Goal: an object that cannot be written for longer than a piece is tried is written when it can be: what was written of it, and the other object, are not written
    // again. Method: of the fifth stripe, the third of its object, one write more fails than a piece is tried.
    let tries = AtomicUsize::new(0);
    let lustre = Lustre::new(2, move |write| {
        let fails = write.offset == 4 * STRIPE && tries.fetch_add(1, Ordering::SeqCst) < 5;
        if fails { Err(Errno::IO) } else { Ok(()) }
    });
    let mut cluster = Cluster::prepared_with(2, roomy);
    lustre.launch(&mut cluster);
    let client = Client::connect(&cluster.file);
    let size = 7 * STRIPE + 9;
    client.write_file(ROOT, "large", &pattern(size, 5));
    let accounts = cluster.check(&client);
    assert_eq!(accounts.iter().map(|account| account.failures).sum::<u64>(), 0, "{accounts:?}");
    check_writes(&lustre.writes_to(&cluster, "large"), size, STRIPE, 2);
    let files: BTreeSet<_> = lustre.writes.lock().iter().map(|write| write.file).collect();
    assert_eq!(files.len(), 1, "the copy that was begun is the one");
    let mut opens: Vec<_> = lustre.direct_opens.lock().values().copied().collect();
    opens.sort_unstable();
    assert_eq!(opens, [1, 2], "after a share failed its file is opened again");
}

#[test]
fn a_sync_that_fails_loses_all_shares() {
    // Goal: all that was written through a descriptor of which a sync failed is written again: the kernel tells one share only. Method: a server that writes two objects;
    // the first sync fails when all of both is written.
    let lustre = Lustre::new(2, |_| Ok(()));
    let mut cluster = Cluster::prepared_with(1, roomy);
    let syncs = Arc::new(AtomicUsize::new(0));
    cluster.launch_on(&|config: &ServerConfig| {
        let mount = Mount { server: config.id, lustre: Arc::clone(&lustre) };
        let tier = Posix::open_with(config.tier.as_ref()?, config, Arc::new(mount)).unwrap();
        let (lustre, syncs) = (Arc::clone(&lustre), Arc::clone(&syncs));
        let on_sync = move || {
            if syncs.fetch_add(1, Ordering::SeqCst) > 0 {
                return Ok(());
            }
            let began = Instant::now();
            while lustre.writes.lock().len() < 4 && began.elapsed() < Duration::from_secs(60) {
                std::thread::yield_now();
            }
            Err(TierError::Failed("Input/output error (os error 5)".to_owned()))
        };
        let fake = Fake::before(tier, |_, _| Ok(()));
        Some(Arc::new(Fake { is_remote: true, on_sync: Arc::new(on_sync), ..fake }) as Arc<dyn Tier>)
    });
    let client = Client::connect(&cluster.file);
    client.write_file(ROOT, "large", &pattern(4 * STRIPE, 5));
    let accounts = cluster.check(&client);
    assert_eq!(accounts[0].failures, 0, "{accounts:?}");
    let stripes: Vec<_> =
        lustre.writes_to(&cluster, "large").iter().map(|write| write.offset / STRIPE).collect();
    assert_eq!(stripes, [0, 0, 1, 1, 2, 2, 3, 3]);
}

#[test]
fn an_object_that_cannot_be_written_makes_a_new_copy() {
    // Goal: what a lasting failure leaves is thrown away and reported, and the next copy is whole; until then what could be written is written once. Method: in
    // the first file all writes of one object fail.
    let first = AtomicUsize::new(0);
    let lustre = Lustre::new(2, move |write| {
        let _ = first.compare_exchange(0, write.file, Ordering::SeqCst, Ordering::SeqCst);
        let fails = write.file == first.load(Ordering::SeqCst) && write.offset / STRIPE % 2 == 1;
        if fails { Err(Errno::IO) } else { Ok(()) }
    });
    let mut cluster = Cluster::prepared_with(2, roomy);
    lustre.launch(&mut cluster);
    let client = Client::connect(&cluster.file);
    let size = 5 * STRIPE;
    client.write_file(ROOT, "large", &pattern(size, 5));
    let accounts = cluster.check(&client);
    assert!(accounts.iter().map(|account| account.failures).sum::<u64>() > 0);
    check_writes(&lustre.writes_to(&cluster, "large"), size, STRIPE, 2);
    let writes = lustre.writes.lock().clone();
    let files: BTreeSet<_> = writes.iter().map(|write| write.file).collect();
    assert_eq!(files.len(), 2, "a copy that failed is not gone on with");
    let mut of_first: Vec<_> =
        writes.iter().filter(|write| Some(&write.file) == files.first()).map(|write| write.offset).collect();
    of_first.sort_unstable();
    assert_eq!(of_first, [0, 2 * STRIPE, 4 * STRIPE]);
    check_tidy(&cluster, 1);
}

#[test]
fn a_file_of_two_thousand_objects_is_opened_once_by_each_server() {
    // Goal: descriptors are of the file, and not of each object. Method: a file of 31 GiB, nearly all of it a hole, with data in every eighth object.
    const OBJECTS: u16 = 2_000;
    let mut cluster = Cluster::prepared_with(3, roomy);
    let lustre = Lustre::new(OBJECTS, |_| Ok(()));
    lustre.launch(&mut cluster);
    let client = Client::connect(&cluster.file);
    let ino = client.open_file(ROOT, "huge");
    let (size, data) = (u64::from(OBJECTS) * STRIPE, pattern(MIB, 8));
    let places = (0..u64::from(OBJECTS)).step_by(8).map(|object| object * STRIPE + 3 * MIB);
    for at in places.clone() {
        client.write(ino, at, &data);
    }
    client.close(ino, size);
    cluster.settle(&client);
    let copy = std::fs::File::open(cluster.at("huge")).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), size);
    let mut read = vec![0; MIB as usize];
    for at in places.clone() {
        std::os::unix::fs::FileExt::read_exact_at(&copy, &mut read, at).unwrap();
        assert!(read == data, "at {at}");
    }
    let writes = lustre.writes_to(&cluster, "huge");
    assert!(writes.iter().map(|write| write.offset).eq(places), "each byte once");
    let file = writes[0].file;
    let of_file = |opens: &Mutex<BTreeMap<(usize, ServerId), usize>>| -> Vec<usize> {
        opens.lock().iter().filter(|((opened, _), _)| *opened == file).map(|(_, times)| *times).collect()
    };
    assert_eq!(of_file(&lustre.direct_opens), [1, 1, 1]);
    // And once by who publishes it, for the sync.
    let mut opens = of_file(&lustre.opens);
    opens.sort_unstable();
    assert_eq!(opens, [1, 1, 2]);
}

#[test]
fn a_file_that_is_gathered_is_claimed() {
    // Goal: while a file is gathered its holders refuse another copy of it, tell that to who asks, and no longer than that; and its director tells them that it goes on.
    // Method: writes that wait; requests as another server's, and one as the director's, which ends its claims.
    let gate = Gate::shut();
    let at_writes = Arc::clone(&gate);
    let lustre = Lustre::new(2, move |_| {
        at_writes.pass();
        Ok(())
    });
    let mut cluster = Cluster::prepared_with(2, roomy);
    lustre.launch(&mut cluster);
    let client = Client::connect(&cluster.file);
    let size = 3 * STRIPE;
    let ino = client.write_file(ROOT, "large", &pattern(size, 7));
    gate.await_somebody();
    let server = Client::connect_as(&cluster.file, Some(ServerId(1)));
    let ask_as = |director: ServerId, staging: &Bytes, parts: PartsOf| {
        let request = FlushChunks {
            ino,
            server: director,
            staging: staging.clone(),
            layout: Layout::default(),
            size,
            parts: Some(parts),
        };
        [0, 1].map(|to| server.ask_server(ServerId(to), &request).map(drop))
    };
    let ask = |parts: PartsOf| ask_as(ServerId(9), &Bytes::from_static(b"f-9-aa-0"), parts);
    assert_eq!(ask(PartsOf::NONE), [Err(Status::Busy), Err(Status::Busy)]);
    let (director, staging) = staged(&cluster);
    assert_eq!(ask_as(director, &staging, PartsOf::DONE), [Ok(()), Ok(())]);
    let began = Instant::now();
    // Between two looks nobody has it, so who goes on gets it again.
    while ask(PartsOf::NONE) != [Err(Status::Busy), Err(Status::Busy)] {
        assert!(began.elapsed() < Duration::from_secs(60), "the director does not tell that it goes on");
        let _ = ask(PartsOf::DONE);
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = ask(PartsOf::IN_VAIN);
    gate.open();
    cluster.check(&client);
    check_writes(&lustre.writes_to(&cluster, "large"), size, STRIPE, 2);
    assert_eq!(ask(PartsOf::NONE), [Ok(()), Ok(())]);
    let _ = ask(PartsOf::DONE);
}

#[test]
fn a_director_that_hangs_leaves_nothing_dirty() {
    // Goal: when a director hangs for so long that a holder gives its copy up, while that does its share, and then goes on, the file is in the tier as it is, was copied once, and all of
    // it may leave the stores: none of them takes it for dirty. Method: short patience; the director's thread stops where it asks for the tier's facts, from when the other has begun to
    // write until that has no claim any more.
    let (gate, director) = (Gate::shut(), Arc::new(OnceLock::new()));
    gate.open();
    let (door, directs, has_begun) = (Arc::clone(&gate), Arc::clone(&director), AtomicBool::new(false));
    let lustre = Lustre::new(2, move |write| {
        if directs.get() == Some(&write.server) {
            // Else it might be through before the other has begun.
            until("the other's write", || has_begun.load(Ordering::Acquire));
        } else if !has_begun.load(Ordering::Acquire) {
            door.close();
            has_begun.store(true, Ordering::Release);
        }
        Ok(())
    });
    let mut cluster = Cluster::prepared_with(2, roomy);
    let [renew, lease, gone] = [100, 300, 600].map(Duration::from_millis);
    cluster.patience = Patience { renew, lease, gone };
    cluster.launch_on(&|config: &ServerConfig| {
        let mount = Mount { server: config.id, lustre: Arc::clone(&lustre) };
        let tier = Posix::open_with(config.tier.as_ref()?, config, Arc::new(mount)).unwrap();
        let (me, directs) = (config.id, Arc::clone(&director));
        let fake = Fake::before(tier, move |what, name| {
            if what == "make" && name.starts_with(b"f-") {
                directs.get_or_init(|| me);
            }
            Ok(())
        });
        let (gate, directs) = (Arc::clone(&gate), Arc::clone(&director));
        let on_facts = move || {
            if directs.get() == Some(&me) {
                gate.pass();
            }
        };
        Some(Arc::new(Fake { on_facts: Box::new(on_facts), ..fake }) as Arc<dyn Tier>)
    });
    let client = Client::connect(&cluster.file);
    let size = 8 * STRIPE;
    let ino = client.write_file(ROOT, "large", &pattern(size, 7));
    gate.await_somebody();
    let of_other = |write: &&Write| director.get() != Some(&write.server);
    until("the other's share", || lustre.writes.lock().iter().filter(of_other).count() == 4);
    // Somebody who says that he goes on gets a claim where nobody has one, and changes nothing by it.
    let server = Client::connect_as(&cluster.file, Some(ServerId(1)));
    let (layout, staging) = (Layout::default(), Bytes::from_static(b"f-9-aa-0"));
    let request =
        FlushChunks { ino, server: ServerId(9), staging, layout, size, parts: Some(PartsOf::STILL) };
    let other = ServerId(u16::from(director.get() == Some(&ServerId(0))));
    until("the end of the claim", || server.ask_server(other, &request).is_ok());
    server.ask_server(other, &FlushChunks { parts: Some(PartsOf::DONE), ..request }).unwrap();
    gate.open();
    let accounts = cluster.check(&client);
    assert_eq!(accounts.iter().map(|account| account.failures).sum::<u64>(), 0, "{accounts:?}");
    let writes = lustre.writes_to(&cluster, "large");
    check_writes(&writes, size, STRIPE, 2);
    assert_eq!(lustre.writes.lock().len(), writes.len(), "it was copied once");
    for home in [0, 1].map(ServerId) {
        server.ask_server(home, &EvictNow { bytes: size, server: ServerId(0) }).unwrap();
    }
    assert_eq!(figure(&client, "evicted_bytes"), size, "a holder keeps what it has of {ino:?}");
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
    let gate = Gate::shut();
    let at_writes = Arc::clone(&gate);
    let lustre = Lustre::new(2, move |_| {
        at_writes.pass();
        Ok(())
    });
    let mut cluster = Cluster::prepared_with(2, roomy);
    lustre.launch(&mut cluster);
    let client = Client::connect(&cluster.file);
    let size = 3 * STRIPE;
    let ino = client.write_file(ROOT, "large", &pattern(size, 7));
    gate.await_somebody();
    client.open_file(ROOT, "large");
    for at in [0, STRIPE, 2 * STRIPE + 5 * MIB] {
        client.write(ino, at, b"changed while it was copied");
    }
    client.close(ino, size);
    gate.open();
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
