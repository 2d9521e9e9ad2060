//! Goal: a mount with `--passthrough` has the kernel read hot files by itself, from a copy on its node; what is opened so is the file as it was then, whole; what is
//! opened after a change has returned shows the change; and nobody gets an error for it (decision 0052).
//! Method: mounts in this process, of servers of four nodes; what the mounts and the servers count. Where the kernel does not offer it, or the user may not, that is noted.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fs_client::{Client, ClientConfig, NetCounters, OpenOptions, Route, ServerId};
use fuse_mount::{MountOptions, Mounted};
use hayate_tests::{Cluster, full, status, until};

const SERVERS: u16 = 4;
/// The server that holds the chunks: its client makes the files.
const HOLDER: u16 = 0;
/// More than three pieces, and not a whole number of them.
const SIZE: u64 = (3 << 20) + 12_345;

struct Mount {
    client: Client,
    mounted: Option<Mounted>,
    dir: tempfile::TempDir,
}

struct Setup {
    mounts: Vec<Mount>,
    maker: Client,
    nodes: Vec<Client>,
    cluster: Cluster,
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take()
            && let Err(error) = mounted.unmount()
            && !std::thread::panicking()
        {
            panic!("{error}");
        }
    }
}

/// Mounts on `nodes`; None where passthrough is not to be had.
fn setup(nodes: &[u16]) -> Option<Setup> {
    let cluster = Cluster::start(SERVERS);
    let maker = cluster.strict_client(Route::Gateway(ServerId(HOLDER)));
    maker.mkdir_path("/d", 0o777).expect("mkdir");
    maker.setxattr_path("/d", fs_client::LAYOUT_ATTRIBUTE, b"local", false, false).expect("layout");
    let mounts = nodes.iter().map(|node| mount(&cluster, *node)).collect::<Option<Vec<_>>>()?;
    let nodes = (0..SERVERS).map(|node| cluster.strict_client(Route::Gateway(ServerId(node)))).collect();
    Some(Setup { mounts, maker, nodes, cluster })
}

fn mount(cluster: &Cluster, node: u16) -> Option<Mount> {
    let dir = tempfile::TempDir::with_prefix("hayate-mount-").expect("a directory");
    let mut config = ClientConfig::new(cluster.file().clone());
    (config.checked, config.route) = (true, Route::Gateway(ServerId(node)));
    let client = Client::connect(config).expect("a client");
    let mut options = MountOptions::new(dir.path());
    options.passthrough = true;
    match fuse_mount::mount(client.clone(), options) {
        Ok(mounted) => {
            let mount = Mount { client, mounted: Some(mounted), dir };
            // The kernel and the mount have agreed when the first operation is answered.
            fs::metadata(mount.dir.path().join("d")).expect("a directory");
            if !mount.mounted().passes_through() {
                hayate_tests::skip::note("the kernel does not offer FUSE passthrough");
                return None;
            }
            Some(mount)
        }
        Err(error) => {
            hayate_tests::skip::note(error);
            None
        }
    }
}

impl Mount {
    fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().expect("mounted")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("d").join(name)
    }

    /// Opens for reading; answers whether past the mount's process.
    fn open(&self, name: &str) -> (File, bool) {
        let before = self.mounted().passed_through();
        let file = File::open(self.path(name)).expect("open");
        (file, self.mounted().passed_through() > before)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("read")
    }

    fn messages(&self) -> u64 {
        NetCounters::read(&self.client.counters().messages_sent)
    }
}

impl Setup {
    fn make(&self, name: &str, content: &[u8]) {
        put(&self.maker, name, content);
    }

    /// Reads a file on all nodes until the mount's server has a copy, and opens that. None where the kernel does not take it.
    fn open_past(&self, mount: &Mount, name: &str) -> Option<File> {
        let files: Vec<_> = self.nodes.iter().map(|node| reading(node, name)).collect();
        let mut found = None;
        let found_it = std::cell::RefCell::new(&mut found);
        until("it is opened past the mount", || {
            for file in &files[1..] {
                drop(file.read_bytes_at(SIZE as usize, 0).expect("read"));
            }
            match mount.open(name) {
                (file, true) => **found_it.borrow_mut() = Some(file),
                (file, false) => drop(file),
            }
            found_it.borrow().is_some() || !mount.mounted().passes_through()
        });
        if found.is_none() {
            hayate_tests::skip::note("the kernel takes no copy from this file system");
        }
        found
    }

    fn copies(&self, node: u16, name: &str) -> u64 {
        status(&self.maker, ServerId(node))["hot_copies"][name].as_u64().expect("a figure")
    }
}

fn reading(client: &Client, name: &str) -> fs_client::File {
    client.open_path(format!("/d/{name}"), &OpenOptions::read_only()).expect("open")
}

fn put(client: &Client, name: &str, content: &[u8]) {
    let file = hayate_tests::open(client, &format!("/d/{name}"));
    file.write_at(content, 0).expect("write");
    file.close().expect("close");
}

fn whole(file: &File) -> Vec<u8> {
    let mut content = vec![0; SIZE as usize + 1];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut content[at..], at as u64).expect("read");
        if read == 0 {
            content.truncate(at);
            return content;
        }
        at += read;
    }
}

/// What a map of the file shows.
fn mapped(file: &File, len: usize) -> Vec<u8> {
    // SAFETY: a new map of an open file, read within its length and taken away here.
    unsafe {
        let at =
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert!(at != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        let content = std::slice::from_raw_parts(at.cast::<u8>(), len).to_vec();
        libc::munmap(at, len);
        content
    }
}

/// Writes one byte through a shared map.
fn write_by_map(file: &File, byte: u8) {
    // SAFETY: as above; it is written within the first page.
    unsafe {
        let (prot, none) = (libc::PROT_READ | libc::PROT_WRITE, std::ptr::null_mut());
        let at = libc::mmap(none, 4096, prot, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert!(at != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        at.cast::<u8>().write(byte);
        assert_eq!(libc::msync(at, 4096, libc::MS_SYNC), 0);
        libc::munmap(at, 4096);
    }
}

#[test]
fn the_kernel_reads_a_hot_file_by_itself() {
    let Some(setup) = setup(&[1]) else { return };
    let (mount, content) = (&setup.mounts[0], full(SIZE, 1));
    setup.make("hot", &content);
    let Some(file) = setup.open_past(mount, "hot") else { return };
    let before = mount.messages();
    let mut block = [0; 4096];
    for at in (0..SIZE - 4096).step_by(4096 * 3) {
        file.read_exact_at(&mut block, at).expect("read");
        assert!(block == content[at as usize..][..4096]);
    }
    assert!(whole(&file) == content && mapped(&file, content.len()) == content);
    // Now and then a client tells that it lives.
    assert!(mount.messages() - before <= 4, "{} messages", mount.messages() - before);
    let (second, is_past) = mount.open("hot");
    assert!(is_past && whole(&second) == content);
    assert_eq!(file.metadata().expect("stat").ino(), setup.maker.stat("/d/hot").expect("stat").ino.0);
    assert!(setup.copies(1, "made") == 1 && setup.copies(1, "bytes") == SIZE);
    assert!(setup.copies(1, "opened") >= 2);
    // Of a cold file there is none.
    setup.make("cold", &content);
    assert!(!mount.open("cold").1 && mount.read("cold") == content);
}

#[test]
fn programs_run_from_copies() {
    let Some(setup) = setup(&[1]) else { return };
    let mount = &setup.mounts[0];
    let program = fs::read("/bin/echo").expect("a program");
    setup.make("echo", &program);
    fs::set_permissions(mount.path("echo"), fs::Permissions::from_mode(0o755)).expect("chmod");
    let Some(file) = setup.open_past(mount, "echo") else { return };
    let before = mount.mounted().passed_through();
    let said = std::process::Command::new(mount.path("echo")).arg("hello").output().expect("it runs");
    assert_eq!(said.stdout, b"hello\n");
    assert!(mount.mounted().passed_through() > before, "from the copy");
    // Replaced in its place: the new program runs, although the old one's file is open.
    put(&setup.nodes[2], "echo", &fs::read("/bin/true").expect("a program"));
    let said = std::process::Command::new(mount.path("echo")).arg("hello").output().expect("it runs");
    assert!(said.status.success() && said.stdout.is_empty(), "{said:?}");
    drop(file);
}

#[test]
fn what_is_opened_after_a_change_shows_it() {
    let Some(setup) = setup(&[1, 2]) else { return };
    let (old, mut new) = (full(SIZE, 1), full(SIZE, 1));
    setup.make("f", &old);
    let mut open = Vec::new();
    for mount in &setup.mounts {
        let Some(file) = setup.open_past(mount, "f") else { return };
        open.push(file);
    }
    // It is written, and stays open for writing.
    let writer = hayate_tests::open(&setup.nodes[3], "/d/f");
    for round in 0..3u64 {
        let at = (round << 20) + 5;
        writer.write_at(&vec![200 + round as u8; 70_000], at).expect("write");
        // Not published: the page cache need not know of it. There is no copy any more all the same.
        assert!(setup.mounts.iter().all(|mount| !mount.open("f").1), "round {round}");
        writer.flush().expect("published");
        new[at as usize..][..70_000].fill(200 + round as u8);
        for (mount, file) in setup.mounts.iter().zip(&open) {
            let (now, is_past) = mount.open("f");
            assert!(!is_past && whole(&now) == new, "round {round}");
            assert!(mapped(&now, new.len()) == new, "round {round}, by a map");
            assert!(whole(file) == old && mapped(file, old.len()) == old, "the old opening is what it was");
            assert_eq!(now.metadata().expect("stat").ino(), file.metadata().expect("stat").ino());
        }
    }
    writer.close().expect("close");
    for mount in &setup.mounts {
        assert!(mount.read("f") == new);
    }
    assert!(setup.copies(1, "recalled") >= 1 && setup.copies(2, "recalled") >= 1);
    // By way of an old opening: what is there now.
    let again = File::open(format!("/proc/self/fd/{}", open[0].as_raw_fd())).expect("open");
    assert!(whole(&again) == new);
}

#[test]
fn writers_of_the_same_mount_are_in_nobodys_way() {
    let Some(setup) = setup(&[1]) else { return };
    let (mount, old) = (&setup.mounts[0], full(SIZE, 1));
    setup.make("f", &old);
    let Some(file) = setup.open_past(mount, "f") else { return };
    let writer = File::options().read(true).write(true).open(mount.path("f")).expect("open");
    writer.write_all_at(b"new", 1 << 20).expect("write");
    write_by_map(&writer, b'm');
    let mut new = old.clone();
    new[1 << 20..][..3].copy_from_slice(b"new");
    new[0] = b'm';
    assert!(whole(&writer) == new && mount.read("f") == new && whole(&file) == old);
    drop(writer);
    assert!(reading(&setup.nodes[3], "f").read_bytes_at(SIZE as usize, 0).expect("read") == new);
    // Through an old opening nobody writes: what its map would get would be lost.
    let by_old = format!("/proc/self/fd/{}", file.as_raw_fd());
    match File::options().write(true).open(&by_old) {
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ETXTBSY)),
        Ok(_) => panic!("it was opened"),
    }
    // Appending, cutting, and other names of the same file.
    fs::hard_link(mount.path("f"), mount.path("g")).expect("link");
    std::io::Write::write_all(&mut File::options().append(true).open(mount.path("g")).expect("open"), b"end")
        .expect("append");
    new.extend(b"end");
    assert!(mount.read("f") == new && mount.read("g") == new);
    File::create(mount.path("f")).expect("cut");
    assert!(mount.read("g").is_empty() && whole(&file) == old);
}

#[test]
fn names_come_and_go_while_copies_are_open() {
    let Some(setup) = setup(&[1]) else { return };
    let (mount, old, new) = (&setup.mounts[0], full(SIZE, 1), full(SIZE, 2));
    setup.make("f", &old);
    let Some(file) = setup.open_past(mount, "f") else { return };
    setup.make("next", &new);
    setup.nodes[2].rename_path("/d/next", "/d/f").expect("rename");
    assert!(mount.read("f") == new && whole(&file) == old, "replaced by another node");
    fs::remove_file(mount.path("f")).expect("unlink");
    assert_eq!(File::open(mount.path("f")).expect_err("gone").kind(), std::io::ErrorKind::NotFound);
    assert!(whole(&file) == old);
    setup.make("f", &old);
    assert!(mount.read("f") == old, "and is there again");
}

#[test]
fn copies_do_not_outlive_their_server() {
    let Some(mut setup) = setup(&[1]) else { return };
    let (old, new) = (full(SIZE, 1), full(SIZE, 2));
    setup.make("f", &old);
    let Some(file) = setup.open_past(&setup.mounts[0], "f") else { return };
    let dir = setup.cluster.store_dir(1).join("hot");
    assert_eq!(fs::read_dir(&dir).expect("copies").count(), 1);
    setup.cluster.stop(1);
    assert!(whole(&file) == old, "nobody is asked");
    setup.cluster.restart(1);
    until("the server answers", || setup.maker.ping(ServerId(1)).is_ok());
    assert!(fs::read_dir(&dir).map_or(0, Iterator::count) == 0, "what it had is gone");
    put(&setup.nodes[2], "f", &new);
    assert!(setup.mounts[0].read("f") == new && whole(&file) == old);
}

/// One file, written as a whole with a number again and again; the number is said when it is published. Who opens it finds that or a later one everywhere,
/// if it is opened past the mount: as each copy is of one moment. Else a read may meet a write.
#[test]
fn openings_race_with_writes() {
    let Some(setup) = setup(&[1, 2]) else { return };
    setup.make("f", &number_everywhere(1));
    for mount in &setup.mounts {
        if setup.open_past(mount, "f").is_none() {
            return;
        }
    }
    let (said, is_over) = (AtomicU64::new(1), AtomicBool::new(false));
    let paths: Vec<_> = setup.mounts.iter().map(|mount| mount.path("f")).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let (path, said, is_over) = (&paths[thread % 2], &said, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        open_and_look(path, said);
                    }
                })
            })
            .collect();
        let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| write_again(&setup, &said)));
        is_over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("a reader ends");
        }
        written.expect("all is written");
    });
    assert!(setup.copies(1, "recalled") > 0);
}

/// Each time when openings go past the mounts.
fn write_again(setup: &Setup, said: &AtomicU64) {
    let writer = hayate_tests::open(&setup.nodes[3], "/d/f");
    let passed = || setup.mounts.iter().map(|mount| mount.mounted().passed_through()).sum::<u64>();
    for number in 2..5 {
        writer.write_at(&number_everywhere(number), 0).expect("write");
        writer.flush().expect("published");
        said.store(number, Ordering::SeqCst);
        // The old copy is not opened any more.
        let before = passed();
        until("it is opened past the mounts again", || {
            for node in &setup.nodes[1..] {
                drop(reading(node, "f").read_bytes_at(SIZE as usize, 0).expect("read"));
            }
            passed() > before
        });
    }
}

fn number_everywhere(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(SIZE as usize / 8)
}

fn open_and_look(path: &Path, said: &AtomicU64) {
    let before = said.load(Ordering::SeqCst);
    let mut file = File::open(path).expect("open");
    let mut content = Vec::new();
    file.read_to_end(&mut content).expect("read");
    for word in content.chunks_exact(8).step_by(512) {
        let number = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        assert!(number >= before, "{number}, after {before} was written");
    }
}
