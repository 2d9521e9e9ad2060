//! Small files of the fake file system: contents beside inodes.

use bytes::{Bytes, BytesMut};
use fs_proto::checksum::crc;
use fs_proto::msg::small::{
    Append, Appended, Get, GetMany, GetOutcome, InlineRead, InlineWritten, OpenRead, Opened, Put, PutAnswer,
    PutMany, PutManyAnswer, PutOutcome, ReadInline, WriteInline,
};
use fs_proto::placement::{entry_partition, name_hash};
use fs_proto::{FileKind, Header, InodeId, Op, Partition, ServerId, Status, Wire};

use super::{Answer, World, decode};

/// Contents in one answer to a `GetMany`: small, so that some are left.
const ANSWER_BYTES: usize = 4000;

impl World {
    /// Moves a content to chunk 0, as the home of a real cluster does.
    pub fn spill(&mut self, ino: InodeId) {
        if let Some(content) = self.contents.remove(&ino).filter(|content| !content.is_empty()) {
            self.chunks.insert((ino, 0), content);
        }
        if let Some(attr) = self.inodes.get_mut(&ino) {
            attr.inline = false;
        }
    }

    fn content(&self, ino: InodeId) -> Bytes {
        let mut content = self.contents.get(&ino).cloned().unwrap_or_default();
        content.resize(self.inodes[&ino].size as usize, 0);
        content.into()
    }

    pub fn write_inline(&mut self, header: &Header, request: &WriteInline, bulk: &Bytes) -> Answer {
        self.arrived(bulk, request.crc)?;
        let (ino, limit) = (request.ino, self.inline_limit);
        self.home(header, ino)?;
        let end = request.offset + bulk.len() as u64;
        if end > u64::from(limit) {
            self.spill(ino);
        }
        let written = self.inodes[&ino].inline;
        if written {
            let content = self.contents.entry(ino).or_default();
            content.resize(content.len().max(end as usize), 0);
            content[request.offset as usize..end as usize].copy_from_slice(bulk);
            let attr = self.home(header, ino)?;
            (attr.size, attr.mtime) = (attr.size.max(end), request.mtime);
            attr.version += 1;
        }
        Ok(InlineWritten { attr: self.inodes[&ino].clone(), written, limit }.to_bytes())
    }

    /// Small files only: what is in chunks is appended to with a write by the real home.
    pub fn append(&mut self, header: &Header, request: &Append, bulk: &Bytes) -> Answer {
        self.arrived(bulk, request.crc)?;
        let (ino, limit) = (request.ino, self.inline_limit);
        let offset = self.home(header, ino)?.size;
        if self.inodes[&ino].inline && offset + bulk.len() as u64 > u64::from(limit) {
            self.spill(ino);
        }
        if self.inodes[&ino].inline {
            let content = self.contents.entry(ino).or_default();
            content.resize(offset as usize, 0);
            content.extend_from_slice(bulk);
        } else {
            let chunk_bytes = self.inodes[&ino].layout.chunk_bytes();
            assert!(
                offset % chunk_bytes + bulk.len() as u64 <= chunk_bytes,
                "one chunk is enough for a fake"
            );
            let chunk = self.chunks.entry((ino, offset / chunk_bytes)).or_default();
            chunk.resize((offset % chunk_bytes) as usize, 0);
            chunk.extend_from_slice(bulk);
        }
        let attr = self.home(header, ino)?;
        (attr.size, attr.mtime) = (offset + bulk.len() as u64, request.mtime);
        attr.version += 1;
        let attr = attr.clone();
        Ok(Appended { attr, offset, limit }.to_bytes())
    }

    pub fn put(&mut self, header: &Header, request: Put, bulk: &Bytes) -> Answer {
        self.arrived(bulk, request.crc)?;
        self.place(header, request.parent, &request.name)?;
        if request.exclusive && self.find(request.parent, &request.name).is_ok() {
            return Err(Status::Exists);
        }
        let outcome =
            self.put_one(request.parent, request.name, bulk, Partition(header.target), request.mode);
        Ok(PutAnswer { outcome, limit: self.inline_limit }.to_bytes())
    }

    fn put_one(&mut self, parent: InodeId, name: Bytes, data: &[u8], at: Partition, mode: u32) -> PutOutcome {
        if data.len() as u64 > u64::from(self.inline_limit) {
            return PutOutcome::TooLarge {};
        }
        let found = self.find(parent, &name).ok();
        if let Some(ino) = found.filter(|ino| !self.inodes[ino].inline || self.remote.contains(ino)) {
            return PutOutcome::There { ino, kind: self.inodes[&ino].kind, attr: self.at_hand(ino) };
        }
        let ino = found.unwrap_or_else(|| {
            let made = self.make(at, FileKind::File, mode, parent).ino;
            self.entries.insert((parent, Bytes::copy_from_slice(&name)), made);
            made
        });
        self.contents.insert(ino, data.to_vec());
        let attr = self.inodes.get_mut(&ino).expect("it was found or made");
        attr.size = data.len() as u64;
        attr.version += 1;
        PutOutcome::Done { attr: attr.clone(), fresh: found.is_none() }
    }

    /// Where a name of a request to a server belongs, if that is this server.
    fn place_on(&self, server: ServerId, parent: InodeId, name: &[u8]) -> Result<Partition, Status> {
        let dir = self.inodes.get(&parent).ok_or(Status::NotFound)?;
        let right = entry_partition(parent, name_hash(parent, name), dir.wide);
        match self.map.owner(right) == server {
            true => Ok(right),
            false if dir.wide => Err(Status::WideDirectory),
            false => panic!("{name:?} went to the wrong server"),
        }
    }

    pub fn put_many(&mut self, header: &Header, server: ServerId, request: PutMany, bulk: &Bytes) -> Bytes {
        assert_eq!(ServerId(header.target), server);
        let mut left = bulk.clone();
        let mut outcomes = Vec::new();
        for file in request.files {
            let data = left.split_to(file.len as usize);
            let arrived = self.arrived(&data, file.crc);
            outcomes.push(match arrived.and_then(|()| self.place_on(server, request.parent, &file.name)) {
                Ok(at) => self.put_one(request.parent, file.name, &data, at, request.mode),
                Err(status) => PutOutcome::Failed { status },
            });
        }
        PutManyAnswer { outcomes, limit: self.inline_limit }.to_bytes()
    }

    fn get_one(&self, parent: InodeId, name: &Bytes) -> Result<(GetOutcome, Bytes), Status> {
        let ino = self.find(parent, name)?;
        let attr = &self.inodes[&ino];
        if !attr.inline || self.remote.contains(&ino) {
            return Ok((GetOutcome::There { ino, kind: attr.kind, attr: self.at_hand(ino) }, Bytes::new()));
        }
        let content = self.content(ino);
        Ok((GetOutcome::Whole { attr: attr.clone(), crc: crc(&content) }, content))
    }

    fn get_many(&self, server: ServerId, request: &GetMany) -> (Vec<GetOutcome>, Bytes) {
        let (mut outcomes, mut bulk) = (Vec::new(), BytesMut::new());
        for name in &request.names {
            let got =
                self.place_on(server, request.parent, name).and_then(|_| self.get_one(request.parent, name));
            outcomes.push(match got {
                Ok((_, content)) if bulk.len() + content.len() > ANSWER_BYTES => GetOutcome::Left {},
                Ok((outcome, content)) => {
                    bulk.extend_from_slice(&content);
                    outcome
                }
                Err(status) => GetOutcome::Failed { status },
            });
        }
        (outcomes, bulk.freeze())
    }

    pub fn small_read(
        &mut self,
        header: &Header,
        server: ServerId,
        body: Bytes,
    ) -> Result<(Bytes, Bytes), Status> {
        Ok(match header.op {
            Op::Get => {
                let request: Get = decode(body);
                self.place(header, request.parent, &request.name)?;
                let (outcome, content) = self.get_one(request.parent, &request.name)?;
                (outcome.to_bytes(), content)
            }
            Op::GetMany => {
                let (outcomes, bulk) = self.get_many(server, &decode(body));
                (outcomes.to_bytes(), bulk)
            }
            Op::OpenRead => {
                let request: OpenRead = decode(body);
                let attr = self.home(header, request.ino)?.clone();
                self.opens.insert((header.client, request.ino));
                if !attr.inline || request.known_version == Some(attr.version) {
                    return Ok((Opened { attr, crc: None }.to_bytes(), Bytes::new()));
                }
                let content = self.content(request.ino);
                (Opened { attr, crc: Some(crc(&content)) }.to_bytes(), content)
            }
            _ => {
                let request: ReadInline = decode(body);
                let attr = self.home(header, request.ino)?.clone();
                if !attr.inline {
                    return Ok((InlineRead { attr, crc: 0 }.to_bytes(), Bytes::new()));
                }
                let content = self.content(request.ino);
                let from = (request.offset as usize).min(content.len());
                let part = content.slice(from..(from + request.len as usize).min(content.len()));
                (InlineRead { attr, crc: crc(&part) }.to_bytes(), part)
            }
        })
    }
}
