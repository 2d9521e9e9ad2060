//! A client that sends requests as they are, straight to who owns what they are about. Blocking.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use fs_net::{ClusterFile, Connection, Identity, NetEnv};
use fs_proto::checksum::crc;
use fs_proto::msg::Caller;
use fs_proto::msg::admin::ServerStatus;
use fs_proto::msg::chunk::{ReadChunk, WriteChunk};
use fs_proto::msg::inode::{Getattr, Publish, SetTime, Setattr, Setxattr};
use fs_proto::msg::name::{Create, Created, Link, Lookup, Mkdir, OpenMode, Readdir, Rename, Rmdir, Unlink};
use fs_proto::msg::session::Role;
use fs_proto::msg::small::{ReadInline, Spill, WriteInline};
use fs_proto::msg::tier::FlushName;
use fs_proto::placement::{chunk_partition, entry_partition, name_hash};
use fs_proto::{
    Attr, ChunkIndex, ClientId, FileKind, Header, INLINE_MAX, InodeId, Partition, PartitionMap, Request,
    ServerId, Status, Wire,
};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

/// The root directory.
pub const ROOT: InodeId = InodeId::ROOT;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Connections to all servers.
pub struct Client {
    connections: RefCell<HashMap<ServerId, Connection>>,
    map: PartitionMap,
    id: ClientId,
    sequence: Cell<u64>,
    local: LocalSet,
    runtime: Runtime,
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

impl Client {
    /// Connects to all servers of a cluster.
    pub fn connect(file: &ClusterFile) -> Client {
        Client::connect_as(file, None)
    }

    /// The same as a server, for requests that no client may make.
    pub fn connect_as(file: &ClusterFile, server: Option<ServerId>) -> Client {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = LocalSet::new();
        let id = ClientId(rand::random::<u64>() | 1);
        let role = server.map_or(Role::Client { id }, |id| Role::Server { id });
        let who = Identity { role, job: file.job.clone(), secret: file.secret.clone() };
        let env = Rc::new(NetEnv::new(64 << 20));
        let connections = local.block_on(&runtime, async {
            let mut connections = HashMap::new();
            for member in &file.members {
                let connection =
                    Connection::connect(&member.tcp_address(), &who, &env, TIMEOUT).await.unwrap();
                connections.insert(member.id, connection);
            }
            connections
        });
        let map = file.map().unwrap();
        Client { connections: RefCell::new(connections), map, id, sequence: Cell::new(0), local, runtime }
    }

    fn send<R: Request>(
        &self,
        mut header: Header,
        to: ServerId,
        request: &R,
        bulk: Bytes,
    ) -> Result<(R::Reply, Bytes), Status> {
        self.sequence.set(self.sequence.get() + 1);
        (header.client, header.sequence, header.epoch) = (self.id, self.sequence.get(), self.map.epoch());
        header.deadline_ms = TIMEOUT.as_millis() as u32;
        let mut meta = BytesMut::new();
        Caller::ROOT.put(&mut meta);
        request.put(&mut meta);
        let connection = self.connections.borrow()[&to].clone();
        let (meta, mut began) = (meta.freeze(), Instant::now());
        loop {
            let call = connection.call(header, meta.clone(), bulk.clone());
            let answer = self.local.block_on(&self.runtime, call);
            let answer = answer.unwrap_or_else(|error| panic!("{:?} to {to:?}: {error}", R::OP));
            match answer.header.status {
                Status::Ok => return Ok((R::Reply::from_bytes(answer.meta).unwrap(), answer.bulk)),
                // As real clients do.
                Status::Waiting => began = Instant::now(),
                Status::Retry if began.elapsed() < TIMEOUT => std::thread::sleep(Duration::from_millis(20)),
                status => return Err(status),
            }
        }
    }

    /// Asks one server.
    pub fn ask_server<R: Request>(&self, to: ServerId, request: &R) -> Result<R::Reply, Status> {
        self.send(Header::request_to_server(R::OP, to), to, request, Bytes::new()).map(|(reply, _)| reply)
    }

    fn ask<R: Request>(&self, partition: Partition, request: &R) -> Result<R::Reply, Status> {
        let header = Header::request(R::OP, partition);
        self.send(header, self.map.owner(partition), request, Bytes::new()).map(|(reply, _)| reply)
    }

    /// Asks the owner of a name, first as if the directory were narrow.
    fn ask_name<R: Request>(&self, parent: InodeId, name: &str, request: &R) -> Result<R::Reply, Status> {
        let hash = name_hash(parent, name.as_bytes());
        match self.ask(entry_partition(parent, hash, false), request) {
            Err(Status::WideDirectory) => self.ask(entry_partition(parent, hash, true), request),
            outcome => outcome,
        }
    }

    /// Asks the home of an inode.
    pub fn ask_home<R: Request>(&self, ino: InodeId, request: &R) -> R::Reply {
        self.ask(ino.partition(), request).unwrap()
    }

    /// Makes a directory.
    pub fn mkdir(&self, parent: InodeId, name: &str) -> InodeId {
        self.mkdir_mode(parent, name, 0o755)
    }

    /// Makes a directory with permission bits.
    pub fn mkdir_mode(&self, parent: InodeId, name: &str, mode: u32) -> InodeId {
        self.ask_name(parent, name, &Mkdir { parent, name: bytes(name), mode }).unwrap().ino
    }

    /// Makes anything but a directory.
    pub fn make(&self, parent: InodeId, name: &str, kind: FileKind, target: &str, open: bool) -> Created {
        let request = Create {
            parent,
            name: bytes(name),
            kind,
            mode: 0o644,
            rdev: 0,
            target: bytes(target),
            exclusive: false,
            layout: None,
            open: open.then_some(OpenMode::Write { via: None }),
        };
        self.ask_name(parent, name, &request).unwrap()
    }

    /// What a server says of itself.
    pub fn status(&self, server: ServerId) -> serde_json::Value {
        serde_json::from_str(&self.ask_server(server, &ServerStatus {}).unwrap()).unwrap()
    }

    /// Makes (or opens) a file, writes `data` from its beginning and closes it.
    pub fn write_file(&self, parent: InodeId, name: &str, data: &[u8]) -> InodeId {
        let ino = self.open_file(parent, name);
        self.write(ino, 0, data);
        self.close(ino, data.len() as u64);
        ino
    }

    /// Makes a file and leaves it open for writing.
    pub fn open_file(&self, parent: InodeId, name: &str) -> InodeId {
        let made = self.make(parent, name, FileKind::File, "", true);
        if !made.fresh {
            self.ask_home(
                made.ino,
                &fs_proto::msg::inode::Open { ino: made.ino, mode: OpenMode::Write { via: None } },
            );
        }
        made.ino
    }

    /// Writes into a file.
    pub fn write(&self, ino: InodeId, mut offset: u64, mut data: &[u8]) {
        let mut attr = self.attr(ino);
        if attr.inline {
            attr = self.write_inline(ino, offset, data);
        }
        if attr.inline {
            return;
        }
        let chunk_bytes = attr.layout.chunk_bytes();
        while !data.is_empty() {
            let (chunk, within) = (ChunkIndex(offset / chunk_bytes), offset % chunk_bytes);
            let len = ((chunk_bytes - within) as usize).min(data.len());
            let (piece, rest) = data.split_at(len);
            let request = WriteChunk {
                ino,
                chunk,
                offset: within as u32,
                file_end: offset + len as u64,
                since: attr.version,
                crc: crc(piece),
            };
            let partition = chunk_partition(ino, chunk);
            let header = Header::request(WriteChunk::OP, partition);
            self.send(header, self.map.owner(partition), &request, Bytes::copy_from_slice(piece)).unwrap();
            offset += len as u64;
            data = rest;
        }
    }

    /// Writes beside the inode; answers attributes that say whether that was possible.
    fn write_inline(&self, ino: InodeId, offset: u64, data: &[u8]) -> Attr {
        if offset + data.len() as u64 > u64::from(INLINE_MAX) {
            return self.ask_home(ino, &Spill { ino });
        }
        let request = WriteInline { ino, offset, mtime: 1_700_000_000_123_456_789, crc: crc(data) };
        let header = Header::request(WriteInline::OP, ino.partition());
        let to = self.map.owner(ino.partition());
        let (answer, _) = self.send(header, to, &request, Bytes::copy_from_slice(data)).unwrap();
        assert_eq!(answer.written, answer.attr.inline);
        answer.attr
    }

    /// Publishes what was written and closes.
    pub fn close(&self, ino: InodeId, end: u64) {
        self.publish(ino, end, true);
    }

    /// Publishes what was written, and closes as well if that is said.
    pub fn publish(&self, ino: InodeId, end: u64, close: bool) {
        let since = self.attr(ino).version;
        let mtime = Some(1_700_000_000_123_456_789);
        self.ask_home(ino, &Publish { ino, end, since, mtime, sync: false, close });
    }

    /// Attributes.
    pub fn attr(&self, ino: InodeId) -> Attr {
        self.ask_home(ino, &Getattr { ino })
    }

    /// What a name stands for.
    pub fn lookup(&self, parent: InodeId, name: &str) -> Option<InodeId> {
        match self.ask_name(parent, name, &Lookup { parent, name: bytes(name) }) {
            Ok(entry) => Some(entry.ino),
            Err(Status::NotFound) => None,
            Err(status) => panic!("lookup of {name}: {status:?}"),
        }
    }

    /// Asks for a name to be flushed, or whether that was done.
    pub fn flush_name(&self, parent: InodeId, name: &str, ask: bool, open: bool) -> Option<String> {
        self.ask_name(parent, name, &FlushName { parent, name: bytes(name), ask, open }).unwrap()
    }

    /// Content of a file.
    pub fn read(&self, attr: &Attr) -> Vec<u8> {
        if attr.inline {
            let request = ReadInline { ino: attr.ino, offset: 0, len: INLINE_MAX };
            let header = Header::request(ReadInline::OP, attr.ino.partition());
            let to = self.map.owner(attr.ino.partition());
            return self.send(header, to, &request, Bytes::new()).unwrap().1.to_vec();
        }
        let chunk_bytes = attr.layout.chunk_bytes();
        let mut data = vec![0; attr.size as usize];
        for (index, piece) in data.chunks_mut(chunk_bytes as usize).enumerate() {
            let chunk = ChunkIndex(index as u64);
            let request =
                ReadChunk { ino: attr.ino, chunk, offset: 0, len: piece.len() as u32, compared: true };
            let partition = chunk_partition(attr.ino, chunk);
            let header = Header::request(ReadChunk::OP, partition);
            let (_, bulk) = self.send(header, self.map.owner(partition), &request, Bytes::new()).unwrap();
            piece[..bulk.len()].copy_from_slice(&bulk);
        }
        data
    }

    /// Opens a file for reading; answers its attributes.
    pub fn open_for_reading(&self, ino: InodeId) -> Attr {
        self.ask_home(ino, &fs_proto::msg::inode::Open { ino, mode: OpenMode::Read {} })
    }

    /// Writes the first chunk of a file, if that is taken.
    pub fn try_write_chunk(&self, ino: InodeId, data: &[u8]) -> Result<(), Status> {
        let attr = self.ask_home(ino, &Spill { ino });
        self.try_write_in_chunk(&attr, ChunkIndex(0), 0, data)
    }

    /// Writes into a chunk of a file that has some, if that is taken.
    pub fn try_write_in_chunk(
        &self,
        attr: &Attr,
        chunk: ChunkIndex,
        offset: u32,
        data: &[u8],
    ) -> Result<(), Status> {
        let (ino, sum) = (attr.ino, crc(data));
        let file_end = chunk.0 * attr.layout.chunk_bytes() + u64::from(offset) + data.len() as u64;
        let request = WriteChunk { ino, chunk, offset, file_end, since: attr.version, crc: sum };
        let partition = chunk_partition(ino, chunk);
        let header = Header::request(WriteChunk::OP, partition);
        let to = self.map.owner(partition);
        self.send(header, to, &request, Bytes::copy_from_slice(data)).map(drop)
    }

    /// Writes a chunk at a server that is named, if that is taken.
    pub fn try_write_at(
        &self,
        to: ServerId,
        ino: InodeId,
        chunk: ChunkIndex,
        data: &[u8],
    ) -> Result<(), Status> {
        let request = WriteChunk { ino, chunk, offset: 0, file_end: 0, since: 0, crc: crc(data) };
        let header = Header::request_to_server(WriteChunk::OP, to);
        self.send(header, to, &request, Bytes::copy_from_slice(data)).map(drop)
    }

    /// Closes what was open for reading, or has published what was written.
    pub fn release(&self, ino: InodeId) {
        let to = self.map.owner(ino.partition());
        self.ask_server(to, &fs_proto::msg::inode::Release { inos: vec![ino] }).unwrap();
    }

    /// One chunk of a file.
    pub fn try_read_chunk(&self, ino: InodeId, chunk: ChunkIndex) -> Result<Bytes, Status> {
        let request = ReadChunk { ino, chunk, offset: 0, len: 1 << 20, compared: true };
        let partition = chunk_partition(ino, chunk);
        let header = Header::request(ReadChunk::OP, partition);
        self.send(header, self.map.owner(partition), &request, Bytes::new()).map(|(_, bulk)| bulk)
    }

    /// The same, which must work.
    pub fn read_chunk(&self, ino: InodeId, chunk: ChunkIndex) -> Bytes {
        self.try_read_chunk(ino, chunk).unwrap()
    }

    /// Makes a hole in a chunk.
    pub fn punch(&self, ino: InodeId, chunk: ChunkIndex, offset: u32, len: u32) {
        let request = fs_proto::msg::chunk::PunchChunk { ino, chunk, offset, len };
        self.ask(chunk_partition(ino, chunk), &request).unwrap();
    }

    /// As [`Client::lookup`], also when that fails.
    pub fn try_lookup(&self, parent: InodeId, name: &str) -> Result<InodeId, Status> {
        self.ask_name(parent, name, &Lookup { parent, name: bytes(name) }).map(|entry| entry.ino)
    }

    /// Sets permission bits.
    pub fn chmod(&self, ino: InodeId, mode: u32) {
        self.ask_home(ino, &Setattr { mode: Some(mode), ..Setattr::nothing(ino) });
    }

    /// Sets the owner.
    pub fn chown(&self, ino: InodeId, uid: u32, gid: u32) {
        self.ask_home(ino, &Setattr { uid: Some(uid), gid: Some(gid), ..Setattr::nothing(ino) });
    }

    /// Cuts or extends a file.
    pub fn truncate(&self, ino: InodeId, size: u64) {
        self.ask_home(ino, &Setattr { size: Some(size), ..Setattr::nothing(ino) });
    }

    /// Sets both times.
    pub fn set_times(&self, ino: InodeId, atime: i64, mtime: i64) {
        let at = |ns| Some(SetTime::At { ns });
        self.ask_home(ino, &Setattr { atime: at(atime), mtime: at(mtime), ..Setattr::nothing(ino) });
    }

    /// Sets an extended attribute.
    pub fn setxattr(&self, ino: InodeId, name: &str, value: &str) {
        self.ask_home(
            ino,
            &Setxattr { ino, name: bytes(name), value: bytes(value), create: false, replace: false },
        );
    }

    /// Sets an extended attribute; false if that is refused.
    pub fn try_setxattr(&self, ino: InodeId, name: &str, value: &str) -> bool {
        let request = Setxattr { ino, name: bytes(name), value: bytes(value), create: false, replace: false };
        self.ask(ino.partition(), &request).is_ok()
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, ino: InodeId, name: &str) {
        self.ask_home(ino, &fs_proto::msg::inode::Removexattr { ino, name: bytes(name) });
    }

    /// Moves a name.
    pub fn rename(&self, parent: InodeId, name: &str, new_parent: InodeId, new_name: &str) {
        self.rename_as(parent, name, new_parent, new_name, false);
    }

    /// Swaps two names.
    pub fn exchange(&self, parent: InodeId, name: &str, new_parent: InodeId, new_name: &str) {
        self.rename_as(parent, name, new_parent, new_name, true);
    }

    fn rename_as(&self, parent: InodeId, name: &str, new_parent: InodeId, new_name: &str, exchange: bool) {
        let request = Rename {
            parent,
            name: bytes(name),
            new_parent,
            new_name: bytes(new_name),
            no_replace: false,
            exchange,
        };
        self.ask_name(parent, name, &request).unwrap();
    }

    /// Gives an inode a further name.
    pub fn link(&self, ino: InodeId, parent: InodeId, name: &str) {
        self.ask_name(parent, name, &Link { ino, parent, name: bytes(name) }).unwrap();
    }

    /// Removes a name.
    pub fn unlink(&self, parent: InodeId, name: &str) {
        self.ask_name(parent, name, &Unlink { parent, name: bytes(name) }).unwrap();
    }

    /// Removes a directory.
    pub fn rmdir(&self, parent: InodeId, name: &str) {
        self.ask_name(parent, name, &Rmdir { parent, name: bytes(name) }).unwrap();
    }

    /// Entries of a directory.
    pub fn list(&self, dir: InodeId) -> Vec<(Vec<u8>, InodeId)> {
        let first = self.ask_home(dir, &Readdir { dir, after: 0, limit: 8192, plus: false });
        let pages = if first.wide {
            self.map.members().iter().map(|m| self.page_of(dir, m.id)).collect()
        } else {
            vec![first]
        };
        pages
            .into_iter()
            .flat_map(|page| page.entries)
            .map(|entry| (entry.name.to_vec(), entry.ino))
            .collect()
    }

    fn page_of(&self, dir: InodeId, server: ServerId) -> fs_proto::msg::name::DirPage {
        let page = self.ask_server(server, &Readdir { dir, after: 0, limit: 8192, plus: false }).unwrap();
        assert!(page.end, "test directories fit into a page");
        page
    }
}
