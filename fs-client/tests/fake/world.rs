//! What the fake servers serve: a file system in a few maps. Placement is checked: a name must come with the partition of its
//! entry, an inode with its home, a chunk with its own.

#[path = "holes_world.rs"]
mod holes;
#[path = "small_world.rs"]
mod small;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use fs_net::Frame;
use fs_proto::checksum::crc;
use fs_proto::msg::Caller;
use fs_proto::msg::chunk::{ChunkRead, ReadChunk, SyncChunks, WriteChunk};
use fs_proto::msg::inode::{
    Getattr, GetattrMany, Getxattr, Listxattr, Open, Publish, Readlink, Release, Removexattr, Renew, Setattr,
    Setxattr, Space,
};
use fs_proto::msg::name::{
    Create, Created, DirEntry, DirPage, Entry, Link, Lookup, Mkdir, Readdir, Rename, Rmdir, Unlink,
};
use fs_proto::msg::small::Spill;
use fs_proto::msg::tier::FlushAccount;
use fs_proto::placement::{chunk_partition, directory_partition, entry_cookie, entry_partition, name_hash};
use fs_proto::wire::Reader;
use fs_proto::{
    Attr, ClientId, FileKind, Flags, Header, InodeId, Layout, Op, Partition, PartitionMap, Placement,
    ServerId, Status, Wire,
};

pub type Answer = Result<Bytes, Status>;

pub struct World {
    pub map: PartitionMap,
    pub entries: BTreeMap<(InodeId, Bytes), InodeId>,
    pub inodes: HashMap<InodeId, Attr>,
    pub targets: HashMap<InodeId, Bytes>,
    pub xattrs: BTreeMap<(InodeId, Bytes), Bytes>,
    pub chunks: HashMap<(InodeId, u64), Vec<u8>>,
    pub opens: BTreeSet<(ClientId, InodeId)>,
    /// Inodes whose attributes do not come along with look-ups, as if they lived elsewhere.
    pub remote: BTreeSet<InodeId>,
    pub chunk_log2: u8,
    /// Largest file that lies with its inode; 0: none.
    pub inline_limit: u32,
    /// Contents of such files.
    pub contents: HashMap<InodeId, Vec<u8>>,
    /// The test flips bits of what is sent: else data that do not match their checksum are the client's mistake.
    pub flips: bool,
    counter: u64,
}

impl World {
    pub fn new(map: PartitionMap) -> World {
        let mut world = World {
            map,
            entries: BTreeMap::new(),
            inodes: HashMap::new(),
            targets: HashMap::new(),
            xattrs: BTreeMap::new(),
            chunks: HashMap::new(),
            opens: BTreeSet::new(),
            remote: BTreeSet::new(),
            chunk_log2: 16,
            inline_limit: 0,
            contents: HashMap::new(),
            flips: false,
            counter: 1,
        };
        let root = world.attr(InodeId::ROOT, FileKind::Directory, 0o755, InodeId::ROOT);
        world.inodes.insert(InodeId::ROOT, root);
        world
    }

    fn attr(&self, ino: InodeId, kind: FileKind, mode: u32, parent: InodeId) -> Attr {
        Attr {
            ino,
            kind,
            mode,
            nlink: 1,
            layout: Layout { placement: Placement::Striped, chunk_log2: self.chunk_log2, given: false },
            inline: kind == FileKind::File && self.inline_limit > 0,
            version: 1,
            parent,
            ..Attr::unknown(ino, kind)
        }
    }

    pub fn make(&mut self, partition: Partition, kind: FileKind, mode: u32, parent: InodeId) -> Attr {
        self.counter += 1;
        let attr = self.attr(InodeId::new(partition, self.counter), kind, mode, parent);
        self.inodes.insert(attr.ino, attr.clone());
        attr
    }

    /// Adds a name, without a message.
    pub fn add(&mut self, parent: InodeId, name: &str, kind: FileKind) -> InodeId {
        let hash = name_hash(parent, name.as_bytes());
        let partition = entry_partition(parent, hash, self.inodes[&parent].wide);
        let ino = self.make(partition, kind, 0o755, parent).ino;
        self.entries.insert((parent, Bytes::copy_from_slice(name.as_bytes())), ino);
        ino
    }

    pub fn add_link(&mut self, parent: InodeId, name: &str, target: &'static str) {
        let ino = self.add(parent, name, FileKind::Symlink);
        self.targets.insert(ino, Bytes::from_static(target.as_bytes()));
    }

    pub fn widen(&mut self, dir: InodeId) {
        self.inodes.get_mut(&dir).unwrap().wide = true;
    }

    /// Executes a request that came to `server`, for itself or for another.
    pub fn execute(&mut self, server: ServerId, request: &Frame) -> (Status, Bytes, Bytes) {
        let header = &request.header;
        let mut body = Reader::new(request.meta.clone());
        Caller::get(&mut body).unwrap();
        let body = body.take(body.remaining()).unwrap();
        let server = if header.flags.has(Flags::TO_SERVER) { ServerId(header.target) } else { server };
        if matches!(header.op, Op::Get | Op::GetMany | Op::ReadInline | Op::OpenRead) {
            return match self.small_read(header, server, body) {
                Ok((meta, bulk)) => (Status::Ok, meta, bulk),
                Err(status) => (status, format!("{:?} for the test", header.op).to_bytes(), Bytes::new()),
            };
        }
        if header.op == Op::ReadChunk {
            let bulk = self.read(header, &decode(body));
            return (Status::Ok, ChunkRead { crc: crc(&bulk) }.to_bytes(), bulk);
        }
        match self.answer(header, server, body, &request.bulk) {
            Ok(meta) => (Status::Ok, meta, Bytes::new()),
            Err(status) => (status, format!("{:?} for the test", header.op).to_bytes(), Bytes::new()),
        }
    }

    fn answer(&mut self, header: &Header, server: ServerId, body: Bytes, bulk: &Bytes) -> Answer {
        match header.op {
            Op::Ping | Op::FlushNow | Op::FlushWait | Op::Shutdown => Ok(Bytes::new()),
            Op::ServerStatus => Ok(format!("{{\"server\":{server}}}").to_bytes()),
            Op::Statfs => {
                let device = u64::from(server.0);
                Ok(Space { total_bytes: 100, free_bytes: 60, inodes: 5, device }.to_bytes())
            }
            Op::FlushStatus => Ok(account().to_bytes()),
            Op::Lookup => self.lookup(header, &decode(body)),
            Op::Create => self.create(header, &decode(body)),
            Op::Mkdir => self.mkdir(header, &decode(body)),
            Op::Unlink => self.unlink(header, decode(body)),
            Op::Rmdir => self.rmdir(header, decode(body)),
            Op::Rename => self.rename(header, decode(body)),
            Op::Link => self.link(header, &decode(body)),
            Op::Readdir => self.readdir(header, server, &decode(body)),
            Op::GetattrMany => Ok(self.getattr_many(server, &decode(body)).to_bytes()),
            Op::WriteChunk => self.write(header, &decode(body), bulk),
            Op::Put => self.put(header, decode(body), bulk),
            Op::PutMany => Ok(self.put_many(header, server, decode(body), bulk)),
            Op::PunchChunk => {
                self.punch_chunk(header, &decode(body));
                Ok(Bytes::new())
            }
            Op::ChunkRanges => Ok(self.chunk_ranges(header, &decode(body)).to_bytes()),
            Op::ChunkMap => Ok(self.chunk_map(header, server, &decode(body)).to_bytes()),
            Op::PunchInline => self.punch_inline(header, &decode(body)),
            Op::WriteInline => self.write_inline(header, &decode(body), bulk),
            Op::Append => self.append(header, &decode(body), bulk),
            Op::Spill => {
                let ino = decode::<Spill>(body).ino;
                self.spill(ino);
                Ok(self.home(header, ino)?.to_bytes())
            }
            Op::SyncChunks => {
                decode::<SyncChunks>(body);
                Ok(Bytes::new())
            }
            Op::Release => {
                let request: Release = decode(body);
                self.opens.retain(|(client, ino)| *client != header.client || !request.inos.contains(ino));
                Ok(Bytes::new())
            }
            Op::Renew => {
                let request: Renew = decode(body);
                self.opens.extend(request.open.iter().map(|open| (header.client, open.ino)));
                Ok(Bytes::new())
            }
            _ => self.by_inode(header, body),
        }
    }

    fn by_inode(&mut self, header: &Header, body: Bytes) -> Answer {
        match header.op {
            Op::Getattr => Ok(self.home(header, decode::<Getattr>(body).ino)?.to_bytes()),
            Op::Open => {
                let ino = decode::<Open>(body).ino;
                self.opens.insert((header.client, ino));
                Ok(self.home(header, ino)?.to_bytes())
            }
            Op::Setattr => self.setattr(header, &decode(body)),
            Op::Publish => self.publish(header, &decode(body)),
            Op::Readlink => {
                let ino = decode::<Readlink>(body).ino;
                self.home(header, ino)?;
                Ok(self.targets[&ino].to_bytes())
            }
            Op::Getxattr => {
                let request: Getxattr = decode(body);
                let value = self.xattrs.get(&(request.ino, request.name)).ok_or(Status::NoAttribute)?;
                Ok(value.to_bytes())
            }
            Op::Setxattr => {
                let request: Setxattr = decode(body);
                self.xattrs.insert((request.ino, request.name), request.value);
                Ok(Bytes::new())
            }
            Op::Listxattr => {
                let ino = decode::<Listxattr>(body).ino;
                let names: Vec<Bytes> =
                    self.xattrs.keys().filter(|(of, _)| *of == ino).map(|(_, name)| name.clone()).collect();
                Ok(names.to_bytes())
            }
            Op::Removexattr => {
                let request: Removexattr = decode(body);
                self.xattrs.remove(&(request.ino, request.name)).ok_or(Status::NoAttribute)?;
                Ok(Bytes::new())
            }
            other => panic!("a client must not send {other:?}"),
        }
    }

    /// The inode, if the request came to its home.
    pub fn home(&mut self, header: &Header, ino: InodeId) -> Result<&mut Attr, Status> {
        assert_eq!(header.target, ino.partition().0, "{:?} went to the wrong partition", header.op);
        self.inodes.get_mut(&ino).ok_or(Status::NotFound)
    }

    /// Checks that a name's request came to the right partition.
    pub fn place(&self, header: &Header, parent: InodeId, name: &Bytes) -> Result<(), Status> {
        let dir = self.inodes.get(&parent).ok_or(Status::NotFound)?;
        if !dir.is_dir() {
            return Err(Status::NotDirectory);
        }
        let right = entry_partition(parent, name_hash(parent, name), dir.wide);
        match header.target == right.0 {
            true => Ok(()),
            false if dir.wide => Err(Status::WideDirectory),
            false => panic!("{:?} went to the wrong partition", header.op),
        }
    }

    pub fn find(&self, parent: InodeId, name: &Bytes) -> Result<InodeId, Status> {
        self.entries.get(&(parent, name.clone())).copied().ok_or(Status::NotFound)
    }

    pub fn at_hand(&self, ino: InodeId) -> Option<Attr> {
        self.inodes.get(&ino).filter(|_| !self.remote.contains(&ino)).cloned()
    }

    fn lookup(&mut self, header: &Header, request: &Lookup) -> Answer {
        self.place(header, request.parent, &request.name)?;
        let ino = self.find(request.parent, &request.name)?;
        Ok(Entry { ino, kind: self.inodes[&ino].kind, attr: self.at_hand(ino) }.to_bytes())
    }

    fn create(&mut self, header: &Header, request: &Create) -> Answer {
        self.place(header, request.parent, &request.name)?;
        let (ino, fresh) = match self.find(request.parent, &request.name) {
            Ok(_) if request.exclusive => return Err(Status::Exists),
            Ok(ino) => (ino, false),
            Err(_) => {
                let partition = Partition(header.target);
                let made = self.make(partition, request.kind, request.mode, request.parent);
                self.entries.insert((request.parent, request.name.clone()), made.ino);
                if !request.target.is_empty() {
                    // A copy, as the request's buffer goes.
                    self.targets.insert(made.ino, Bytes::copy_from_slice(&request.target));
                }
                (made.ino, true)
            }
        };
        if request.open.is_some() && self.at_hand(ino).is_some() {
            self.opens.insert((header.client, ino));
        }
        let kind = self.inodes[&ino].kind;
        Ok(Created { ino, kind, attr: self.at_hand(ino), fresh }.to_bytes())
    }

    fn mkdir(&mut self, header: &Header, request: &Mkdir) -> Answer {
        self.place(header, request.parent, &request.name)?;
        if self.find(request.parent, &request.name).is_ok() {
            return Err(Status::Exists);
        }
        let partition = directory_partition(request.parent, &request.name, 0);
        let made = self.make(partition, FileKind::Directory, request.mode, request.parent);
        self.entries.insert((request.parent, request.name.clone()), made.ino);
        Ok(made.to_bytes())
    }

    fn unlink(&mut self, header: &Header, request: Unlink) -> Answer {
        self.place(header, request.parent, &request.name)?;
        let ino = self.find(request.parent, &request.name)?;
        if self.inodes[&ino].is_dir() {
            return Err(Status::IsDirectory);
        }
        self.entries.remove(&(request.parent, request.name));
        if !self.entries.values().any(|other| *other == ino) {
            self.inodes.remove(&ino);
        }
        Ok(Bytes::new())
    }

    fn rmdir(&mut self, header: &Header, request: Rmdir) -> Answer {
        self.place(header, request.parent, &request.name)?;
        let ino = self.find(request.parent, &request.name)?;
        if self.entries.keys().any(|(parent, _)| *parent == ino) {
            return Err(Status::NotEmpty);
        }
        self.entries.remove(&(request.parent, request.name));
        self.inodes.remove(&ino);
        Ok(Bytes::new())
    }

    fn rename(&mut self, header: &Header, request: Rename) -> Answer {
        self.place(header, request.parent, &request.name)?;
        let ino = self.find(request.parent, &request.name)?;
        if request.no_replace && self.find(request.new_parent, &request.new_name).is_ok() {
            return Err(Status::Exists);
        }
        self.entries.remove(&(request.parent, request.name));
        self.entries.insert((request.new_parent, request.new_name), ino);
        Ok(Bytes::new())
    }

    fn link(&mut self, header: &Header, request: &Link) -> Answer {
        self.place(header, request.parent, &request.name)?;
        if self.find(request.parent, &request.name).is_ok() {
            return Err(Status::Exists);
        }
        self.entries.insert((request.parent, request.name.clone()), request.ino);
        let attr = self.inodes.get_mut(&request.ino).ok_or(Status::NotFound)?;
        attr.nlink += 1;
        Ok(attr.to_bytes())
    }

    fn readdir(&mut self, header: &Header, server: ServerId, request: &Readdir) -> Answer {
        let wide = self.inodes.get(&request.dir).ok_or(Status::NotFound)?.wide;
        if wide != header.flags.has(Flags::TO_SERVER) {
            return Err(Status::WideDirectory);
        }
        let dir = request.dir;
        let mut rest: Vec<DirEntry> = self
            .entries
            .iter()
            .filter(|((parent, _), _)| *parent == dir)
            .map(|((_, name), ino)| (name_hash(dir, name), name, ino))
            .filter(|(hash, ..)| !wide || self.map.owner(entry_partition(dir, *hash, true)) == server)
            .filter(|(hash, ..)| entry_cookie(*hash) > request.after)
            .map(|(hash, name, ino)| DirEntry {
                cookie: entry_cookie(hash),
                ino: *ino,
                kind: self.inodes[ino].kind,
                name: name.clone(),
                attr: self.at_hand(*ino).filter(|_| request.plus),
            })
            .collect();
        rest.sort_by_key(|entry| entry.cookie);
        let end = rest.len() <= request.limit as usize;
        rest.truncate(request.limit as usize);
        Ok(DirPage { entries: rest, end, wide }.to_bytes())
    }

    fn getattr_many(&self, server: ServerId, request: &GetattrMany) -> Vec<Option<Attr>> {
        let local =
            |ino: &InodeId| assert_eq!(self.map.owner(ino.partition()), server, "asked the wrong server");
        request.inos.iter().inspect(|ino| local(ino)).map(|ino| self.inodes.get(ino).cloned()).collect()
    }

    fn setattr(&mut self, header: &Header, request: &Setattr) -> Answer {
        let ino = request.ino;
        if let Some(size) = request.size {
            if size > u64::from(self.inline_limit) {
                self.spill(ino);
            } else if let Some(content) = self.contents.get_mut(&ino) {
                content.truncate(size as usize);
            }
        }
        let attr = self.home(header, ino)?;
        attr.mode = request.mode.unwrap_or(attr.mode);
        attr.uid = request.uid.unwrap_or(attr.uid);
        attr.gid = request.gid.unwrap_or(attr.gid);
        if let Some(size) = request.size {
            attr.size = size;
            attr.version += 1;
        }
        let (answer, chunk_log2) = (attr.to_bytes(), attr.layout.chunk_log2);
        if let Some(size) = request.size {
            for ((of, chunk), data) in &mut self.chunks {
                if *of == ino {
                    data.truncate(size.saturating_sub(chunk << chunk_log2) as usize);
                }
            }
        }
        Ok(answer)
    }

    fn publish(&mut self, header: &Header, request: &Publish) -> Answer {
        if request.close {
            self.opens.remove(&(header.client, request.ino));
        }
        if request.end > self.home(header, request.ino)?.size {
            self.spill(request.ino);
        }
        let attr = self.home(header, request.ino)?;
        attr.size = attr.size.max(request.end);
        attr.mtime = request.mtime.unwrap_or(attr.mtime);
        attr.version += 1;
        Ok(attr.to_bytes())
    }

    /// Refuses what is not as it was sent, as a server does.
    fn arrived(&self, data: &[u8], sent: u32) -> Result<(), Status> {
        if crc(data) == sent {
            return Ok(());
        }
        assert!(self.flips, "the writer's checksum is wrong");
        Err(Status::Corrupt)
    }

    fn write(&mut self, header: &Header, request: &WriteChunk, bulk: &Bytes) -> Answer {
        assert_eq!(header.target, chunk_partition(request.ino, request.chunk).0);
        self.arrived(bulk, request.crc)?;
        let data = self.chunks.entry((request.ino, request.chunk.0)).or_default();
        let end = request.offset as usize + bulk.len();
        assert!(end <= 1 << self.chunk_log2, "a piece crosses its chunk");
        data.resize(data.len().max(end), 0);
        data[request.offset as usize..end].copy_from_slice(bulk);
        Ok(Bytes::new())
    }

    fn read(&mut self, header: &Header, request: &ReadChunk) -> Bytes {
        assert_eq!(header.target, chunk_partition(request.ino, request.chunk).0);
        let Some(data) = self.chunks.get(&(request.ino, request.chunk.0)) else { return Bytes::new() };
        let start = (request.offset as usize).min(data.len());
        let end = (start + request.len as usize).min(data.len());
        Bytes::copy_from_slice(&data[start..end])
    }
}

/// Decodes a message of a client, which must be right.
pub fn decode<T: Wire>(body: Bytes) -> T {
    T::from_bytes(body).unwrap()
}

/// The request of a noted message.
pub fn request<T: Wire>(meta: &Bytes) -> T {
    let mut body = Reader::new(meta.clone());
    Caller::get(&mut body).unwrap();
    T::get(&mut body).unwrap()
}

fn account() -> FlushAccount {
    FlushAccount {
        pending_names: 3,
        pending_dirs: 0,
        pending_bytes: 10,
        files: 0,
        bytes: 0,
        copied_bytes: 0,
        failures: 0,
        oldest_ms: 0,
        bytes_per_s: 0,
        unsafe_names: vec![],
        has_tier: true,
    }
}
