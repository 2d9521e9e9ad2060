//! Goal: whatever sequence of operations several clients carry out, the cluster answers and looks as a small model in memory does.
//! Method: generated sequences (shrunk on failure, replayable by proptest's seed) on a three-server cluster whose directories become
//! wide at six entries, through two clients without caches in turn, with restarts of servers in between; after each sequence the whole
//! tree is compared.

use std::collections::BTreeMap;
use std::time::Duration;

use fs_client::{Client, ClientConfig, File, OpenOptions, Result, Route};
use fs_proto::{FileKind, ServerId};
use hayate_tests::{Cluster, ClusterOptions};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Mkdir(String),
    Write(String, u64, Vec<u8>),
    Put(String, Vec<u8>),
    /// Opens a file and keeps it open, in one of a few places.
    Keep(String, usize),
    /// Writes to what is kept there, whatever became of its name.
    WriteKept(usize, u64, Vec<u8>),
    /// Reads so many bytes of what is kept there.
    ReadKept(usize, u64, usize),
    /// Zeros from an offset on, so many.
    Zero(String, u64, u64, Zeros),
    Truncate(String, u64),
    Remove(String),
    Rmdir(String),
    Rename(String, String),
    Link(String, String),
    Restart(u16),
}

/// How zeros are made.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Zeros {
    Punch,
    KeepSize,
    Reach,
}

/// What the model knows of a name: a directory, or which file.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Default)]
struct Model {
    names: BTreeMap<String, Node>,
    files: Vec<Vec<u8>>,
}

fn parent(path: &str) -> &str {
    &path[..path.rfind('/').unwrap_or(0)]
}

impl Model {
    fn at(&self, path: &str) -> Option<&Node> {
        if path.is_empty() { Some(&Node::Dir) } else { self.names.get(path) }
    }

    /// The errno of reaching the directory of `path`.
    fn reach(&self, path: &str) -> std::result::Result<(), i32> {
        let mut upto = String::new();
        for part in parent(path).split('/').filter(|part| !part.is_empty()) {
            upto = format!("{upto}/{part}");
            match self.at(&upto) {
                None => return Err(libc::ENOENT),
                Some(Node::File(_)) => return Err(libc::ENOTDIR),
                Some(Node::Dir) => {}
            }
        }
        Ok(())
    }

    fn children(&self, dir: &str) -> usize {
        self.names.keys().filter(|path| parent(path) == dir).count()
    }

    fn file(&self, path: &str) -> std::result::Result<usize, i32> {
        match self.at(path) {
            None => Err(libc::ENOENT),
            Some(Node::Dir) => Err(libc::EISDIR),
            Some(Node::File(file)) => Ok(*file),
        }
    }

    /// Carries a step out; answers the errno, 0 for success.
    fn step(&mut self, step: &Step) -> i32 {
        self.attempt(step).err().unwrap_or(0)
    }

    fn attempt(&mut self, step: &Step) -> std::result::Result<(), i32> {
        match step {
            Step::Mkdir(path) => {
                self.reach(path)?;
                if self.at(path).is_some() {
                    return Err(libc::EEXIST);
                }
                self.names.insert(path.clone(), Node::Dir);
            }
            Step::Write(path, offset, data) => {
                self.reach(path)?;
                if self.at(path).is_none() {
                    self.files.push(Vec::new());
                    self.names.insert(path.clone(), Node::File(self.files.len() - 1));
                }
                let file = self.file(path)?;
                self.write(file, *offset, data);
            }
            Step::Put(path, data) => {
                self.reach(path)?;
                if self.at(path).is_none() {
                    self.files.push(Vec::new());
                    self.names.insert(path.clone(), Node::File(self.files.len() - 1));
                }
                let file = self.file(path)?;
                self.files[file].clone_from(data);
            }
            Step::Keep(path, _) => {
                self.reach(path)?;
                self.file(path)?;
            }
            Step::Zero(path, offset, len, how) => {
                self.reach(path)?;
                self.zero(self.file(path)?, *offset, *len, *how != Zeros::Reach);
            }
            Step::Truncate(path, size) => {
                self.reach(path)?;
                let file = self.file(path)?;
                self.files[file].resize(*size as usize, 0);
            }
            Step::Remove(path) => {
                self.reach(path)?;
                self.file(path)?;
                self.names.remove(path);
            }
            Step::Rmdir(path) => {
                self.reach(path)?;
                match self.at(path) {
                    None => return Err(libc::ENOENT),
                    Some(Node::File(_)) => return Err(libc::ENOTDIR),
                    Some(Node::Dir) if self.children(path) > 0 => return Err(libc::ENOTEMPTY),
                    Some(Node::Dir) => self.names.remove(path),
                };
            }
            Step::Rename(from, to) => self.rename(from, to)?,
            Step::Link(from, to) => {
                // In the order in which Linux looks.
                self.reach(from)?;
                let node = self.at(from).cloned().ok_or(libc::ENOENT)?;
                self.reach(to)?;
                if self.at(to).is_some() {
                    return Err(libc::EEXIST);
                }
                if node == Node::Dir {
                    return Err(libc::EPERM);
                }
                self.names.insert(to.clone(), node);
            }
            Step::Restart(_) | Step::WriteKept(..) | Step::ReadKept(..) => {}
        }
        Ok(())
    }

    fn write(&mut self, file: usize, offset: u64, data: &[u8]) {
        let end = offset as usize + data.len();
        let content = &mut self.files[file];
        content.resize(content.len().max(end), 0);
        content[offset as usize..end].copy_from_slice(data);
    }

    fn zero(&mut self, file: usize, offset: u64, len: u64, keep_size: bool) {
        let content = &mut self.files[file];
        let (from, to) = (offset as usize, (offset + len) as usize);
        let size = content.len();
        content[from.min(size)..to.min(size)].fill(0);
        content.resize(if keep_size { size } else { size.max(to) }, 0);
    }

    fn rename(&mut self, from: &str, to: &str) -> std::result::Result<(), i32> {
        self.reach(from)?;
        self.reach(to)?;
        let node = self.at(from).cloned().ok_or(libc::ENOENT)?;
        if from == to || (self.at(to) == Some(&node) && node != Node::Dir) {
            return Ok(());
        }
        match (&node, self.at(to)) {
            (Node::Dir, Some(Node::File(_))) => return Err(libc::ENOTDIR),
            (Node::File(_), Some(Node::Dir)) => return Err(libc::EISDIR),
            _ => {}
        }
        if node == Node::Dir && to.starts_with(&format!("{from}/")) {
            return Err(libc::EINVAL);
        }
        if self.at(to) == Some(&Node::Dir) && self.children(to) > 0 {
            return Err(libc::ENOTEMPTY);
        }
        let inside = format!("{from}/");
        let moved: Vec<String> =
            self.names.keys().filter(|path| path.starts_with(&inside)).cloned().collect();
        for path in moved {
            let node = self.names.remove(&path).expect("listed just now");
            self.names.insert(format!("{to}{}", &path[from.len()..]), node);
        }
        self.names.remove(from);
        self.names.insert(to.to_owned(), node);
        Ok(())
    }
}

fn carry_out(client: &Client, step: &Step) -> i32 {
    let outcome: Result<()> = match step {
        Step::Mkdir(path) => client.mkdir_path(path, 0o755).map(drop),
        Step::Write(path, offset, data) => {
            let options = OpenOptions { write: true, create: true, ..OpenOptions::default() };
            client.open_path(path, &options).and_then(|file| {
                file.write_at(data, *offset)?;
                file.close()
            })
        }
        Step::Put(path, data) => client.put(path, data, 0o644).map(drop),
        Step::Zero(path, offset, len, how) => change(client, path, |file| {
            let range = *offset..*offset + *len;
            match how {
                Zeros::Punch => file.punch(range),
                Zeros::KeepSize => file.zero_range(range, true),
                Zeros::Reach => file.zero_range(range, false),
            }
        }),
        Step::Truncate(path, size) => client.truncate_path(path, *size).map(drop),
        Step::Remove(path) => client.remove_file(path),
        Step::Rmdir(path) => client.remove_dir(path),
        Step::Rename(from, to) => client.rename_path(from, to),
        Step::Link(from, to) => client.link_path(from, to).map(drop),
        Step::Restart(_) | Step::Keep(..) | Step::WriteKept(..) | Step::ReadKept(..) => Ok(()),
    };
    outcome.err().map_or(0, |error| error.errno())
}

/// Opens what is there, changes it and closes it.
fn change(client: &Client, path: &str, change: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let file = client.open_path(path, &OpenOptions { write: true, ..OpenOptions::default() })?;
    change(&file)?;
    file.close()
}

/// Follows data and holes from the beginning to the end: what is a hole must be zeros.
fn follow_holes(file: &File, content: &[u8]) {
    let end = content.len() as u64;
    let mut at = 0;
    while at < end {
        let data = file.seek_data(at).expect("seek").unwrap_or(end);
        assert!(
            data >= at && content[at as usize..data as usize].iter().all(|byte| *byte == 0),
            "hole {at}..{data}"
        );
        if data == end {
            break;
        }
        at = file.seek_hole(data).expect("seek").expect("the end is a hole");
        assert!(at > data && at <= end, "data {data}..{at} of {end}");
    }
    assert_eq!((file.seek_data(end).expect("seek"), file.seek_hole(end).expect("seek")), (None, None));
}

/// Files that stay open while other things happen, each with its number in the model.
#[derive(Default)]
struct Kept([Option<(usize, File)>; 3]);

impl Kept {
    /// Carries out what is about kept files; the errno of opening.
    fn carry_out(&mut self, client: &Client, step: &Step, below: &Step, model: &mut Model) -> i32 {
        match (step, below) {
            (Step::Keep(path, place), Step::Keep(real, _)) => {
                let options = OpenOptions { read: true, write: true, ..OpenOptions::default() };
                match (client.open_path(real, &options), model.file(path)) {
                    (Ok(file), Ok(number)) => self.0[*place] = Some((number, file)),
                    (opened, _) => return opened.err().map_or(0, |error| error.errno()),
                }
            }
            (Step::WriteKept(place, offset, data), _) => {
                if let Some((number, file)) = &self.0[*place] {
                    file.write_at(data, *offset).and_then(|()| file.flush()).expect("write");
                    model.write(*number, *offset, data);
                }
            }
            (Step::ReadKept(place, offset, len), _) => {
                if let Some((number, file)) = &self.0[*place] {
                    let content = &model.files[*number];
                    let mut buf = vec![0xee; *len];
                    let got = file.read_at(&mut buf, *offset).expect("read");
                    let from = (*offset as usize).min(content.len());
                    let want = &content[from..(from + len).min(content.len())];
                    assert!(buf[..got] == *want, "{len} bytes at {offset} of a kept file: {got} came");
                }
            }
            _ => {}
        }
        0
    }
}

fn compare(client: &Client, root: &str, model: &Model) {
    let mut seen = 0;
    let mut dirs = vec![(root.to_owned(), String::new())];
    while let Some((there, here)) = dirs.pop() {
        for entry in client.read_dir(&there).expect("list") {
            let entry = entry.expect("entry");
            let name = String::from_utf8(entry.name.to_vec()).expect("utf-8");
            if name == "." || name == ".." {
                continue;
            }
            seen += 1;
            let (there, here) = (format!("{there}/{name}"), format!("{here}/{name}"));
            let attr = client.stat(&there).expect("stat");
            match model.at(&here) {
                Some(Node::Dir) => {
                    assert_eq!(entry.kind, FileKind::Directory, "{here}");
                    assert_eq!(attr.size as usize, model.children(&here), "entries of {here}");
                    dirs.push((there, here));
                }
                Some(Node::File(file)) => {
                    let content = &model.files[*file];
                    let names = model.names.values().filter(|node| **node == Node::File(*file)).count();
                    assert_eq!((attr.size as usize, attr.nlink as usize), (content.len(), names), "{here}");
                    let opened = client.open_path(&there, &OpenOptions::read_only()).expect("open");
                    let mut bytes = vec![0xee; content.len()];
                    assert_eq!(opened.read_at(&mut bytes, 0).expect("read"), content.len(), "{here}");
                    assert!(bytes == *content, "content of {here}");
                    follow_holes(&opened, content);
                    assert!(client.get(&there).expect("get") == *content, "content of {here} by one message");
                }
                None => panic!("{here} is listed and should not be there"),
            }
        }
    }
    assert_eq!(seen, model.names.len(), "every name is listed");
}

fn path() -> impl Strategy<Value = String> {
    let part = |number: &u8| ["/n0", "/n1", "/n2", "/n3", "/n4"][usize::from(*number)];
    prop::collection::vec(0..5u8, 1..4).prop_map(move |parts| parts.iter().map(part).collect())
}

/// Bytes up to which a file lies with its inode here (the default).
const INLINE: u64 = 16 << 10;

/// Offsets near the borders of 1 MiB chunks, around the size at which files leave their inodes, and small ones.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..100u64,
        3 => INLINE - 300..INLINE + 100,
        1 => (1 << 20) - 50..(1u64 << 20) + 50,
        1 => (3 << 20) - 10..(3u64 << 20) + 10
    ]
}

/// Contents: mostly small, sometimes around the size at which files leave their inodes.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let large = (INLINE as usize - 20..INLINE as usize + 20, any::<u8>());
    prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 1..200),
        1 => large.prop_map(|(len, first)| (0..len).map(|at| first.wrapping_add(at as u8)).collect())
    ]
}

/// Lengths of holes: within a chunk, or over some.
fn hole() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 1..20_000u64, 1 => 1..4u64 << 20]
}

fn zeros() -> impl Strategy<Value = Zeros> {
    prop_oneof![3 => Just(Zeros::Punch), 1 => Just(Zeros::KeepSize), 1 => Just(Zeros::Reach)]
}

fn step() -> impl Strategy<Value = Step> {
    let place = || 0..3usize;
    prop_oneof![
        6 => path().prop_map(Step::Mkdir),
        8 => (path(), offset(), data()).prop_map(|(path, offset, data)| Step::Write(path, offset, data)),
        4 => (path(), data()).prop_map(|(path, data)| Step::Put(path, data)),
        3 => (path(), place()).prop_map(|(path, place)| Step::Keep(path, place)),
        4 => (place(), offset(), data()).prop_map(|(place, offset, data)| Step::WriteKept(place, offset, data)),
        2 => (place(), offset(), 1..20_000usize).prop_map(|(place, offset, len)| Step::ReadKept(place, offset, len)),
        5 => (path(), offset(), hole(), zeros()).prop_map(|(path, offset, len, how)| Step::Zero(path, offset, len, how)),
        3 => (path(), offset()).prop_map(|(path, size)| Step::Truncate(path, size)),
        3 => path().prop_map(Step::Remove),
        2 => path().prop_map(Step::Rmdir),
        6 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => (path(), path()).prop_map(|(from, to)| Step::Link(from, to)),
        1 => (0..3u16).prop_map(Step::Restart),
    ]
}

#[test]
fn behaves_like_the_model() {
    let mut cluster = Cluster::with(ClusterOptions { servers: 3, wide_threshold: 6, tier: false });
    let strict = |route| {
        let mut config = ClientConfig::new(cluster.file().clone());
        (config.attr_ttl, config.entry_ttl, config.route) = (Duration::ZERO, Duration::ZERO, route);
        Client::connect(config).expect("a client connects")
    };
    let clients = [strict(Route::Auto), strict(Route::Gateway(ServerId(1)))];
    let cases = std::env::var("HAYATE_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    });
    let mut round = 0;
    let cluster = std::cell::RefCell::new(&mut cluster);
    let round = std::cell::RefCell::new(&mut round);
    let outcome = runner.run(&prop::collection::vec(step(), 1..80), |steps| {
        **round.borrow_mut() += 1;
        let root = format!("/round{}", round.borrow());
        clients[0].mkdir_path(&root, 0o755).expect("mkdir");
        let (mut model, mut kept) = (Model::default(), Kept::default());
        for (n, step) in steps.iter().enumerate() {
            if let Step::Restart(server) = step {
                cluster.borrow_mut().restart(*server);
            }
            let expected = model.step(step);
            let (client, real) = (&clients[n % 2], below(&root, step));
            let found = match step {
                Step::Keep(..) | Step::WriteKept(..) | Step::ReadKept(..) => {
                    kept.carry_out(client, step, &real, &mut model)
                }
                _ => carry_out(client, &real),
            };
            prop_assert_eq!(found, expected, "step {} {:?}", n, step);
        }
        compare(&clients[steps.len() % 2], &root, &model);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// The step with its paths below `root`.
fn below(root: &str, step: &Step) -> Step {
    let at = |path: &String| format!("{root}{path}");
    match step {
        Step::Mkdir(path) => Step::Mkdir(at(path)),
        Step::Write(path, offset, data) => Step::Write(at(path), *offset, data.clone()),
        Step::Put(path, data) => Step::Put(at(path), data.clone()),
        Step::Keep(path, place) => Step::Keep(at(path), *place),
        Step::WriteKept(..) | Step::ReadKept(..) => step.clone(),
        Step::Zero(path, offset, len, how) => Step::Zero(at(path), *offset, *len, *how),
        Step::Truncate(path, size) => Step::Truncate(at(path), *size),
        Step::Remove(path) => Step::Remove(at(path)),
        Step::Rmdir(path) => Step::Rmdir(at(path)),
        Step::Rename(from, to) => Step::Rename(at(from), at(to)),
        Step::Link(from, to) => Step::Link(at(from), at(to)),
        Step::Restart(server) => Step::Restart(*server),
    }
}
