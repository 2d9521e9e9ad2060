//! Questions about names and inodes whose answers may be lent: what they are about, and their form in which one answer serves all who ask the same.
//!
//! # Invariants
//! - Two questions have the same key only if their home gives both the same answer (`who_may_ask_matters_where_the_home_looks_at_it`).
//! - What is made of an answer is what the home would have answered (`answers_are_made_fit`).

use bytes::{BufMut, Bytes, BytesMut};
use fs_net::{Frame, Reply};
use fs_proto::checksum::crc;
use fs_proto::msg::Caller;
use fs_proto::msg::hot::HotKey;
use fs_proto::msg::inode::{Getattr, Open, Readlink};
use fs_proto::msg::name::{Entry, Lookup, OpenMode};
use fs_proto::msg::small::{Get, GetOutcome, InlineRead, OpenRead, Opened, ReadInline};
use fs_proto::placement::name_hash;
use fs_proto::wire::Reader;
use fs_proto::{DecodeError, Flags, Header, INLINE_MAX, InodeId, Op, Status, Wire};

use crate::namespace::locks::LockKey;

/// What a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A name in a directory.
    Name {
        /// Directory.
        parent: InodeId,
        /// Name in it.
        name: Bytes,
    },
    /// An inode.
    Inode(InodeId),
}

impl Subject {
    /// What has to stay as it is for answers to stay right, first of all.
    pub fn key(&self) -> LockKey {
        match self {
            Subject::Name { parent, name } => LockKey::Entry(*parent, name_hash(*parent, name)),
            Subject::Inode(ino) => LockKey::Inode(*ino),
        }
    }
}

/// How an answer differs from that to the question's common form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Not at all.
    Same,
    /// Only attributes are wanted.
    Attributes,
    /// The content is not wanted if it is of this version.
    Unless(u64),
    /// A part of the content.
    Part { offset: u64, len: u32 },
}

/// A question that a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Operation of its common form.
    pub op: Op,
    /// What it is about.
    pub subject: Subject,
    caller: Caller,
    is_checked: bool,
    form: Form,
}

/// An answer to the common form of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Of the answer.
    pub status: Status,
    /// Its body.
    pub meta: Bytes,
    /// Its data.
    pub bulk: Bytes,
}

/// Whether answers to this operation may be lent.
pub fn is_lendable(op: Op) -> bool {
    matches!(op, Op::Lookup | Op::Get | Op::Getattr | Op::Readlink | Op::Open | Op::OpenRead | Op::ReadInline)
}

fn decode<T: Wire>(mut body: Reader) -> Result<T, DecodeError> {
    let request = T::get(&mut body)?;
    body.finish()?;
    Ok(request)
}

impl Question {
    /// The question in a request; None if it is none, or cannot be understood.
    pub fn of(frame: &Frame) -> Option<Question> {
        if !is_lendable(frame.header.op) {
            return None;
        }
        Question::decode(&frame.header, &frame.meta).ok().flatten()
    }

    fn decode(header: &Header, meta: &Bytes) -> Result<Option<Question>, DecodeError> {
        let mut body = Reader::new(meta.clone());
        let caller = Caller::get(&mut body)?;
        let (op, subject, form) = match header.op {
            Op::Lookup => {
                let Lookup { parent, name } = decode(body)?;
                (Op::Lookup, Subject::Name { parent, name }, Form::Same)
            }
            Op::Get => {
                let Get { parent, name } = decode(body)?;
                (Op::Get, Subject::Name { parent, name }, Form::Same)
            }
            Op::Getattr => (Op::Getattr, Subject::Inode(decode::<Getattr>(body)?.ino), Form::Same),
            Op::Readlink => (Op::Readlink, Subject::Inode(decode::<Readlink>(body)?.ino), Form::Same),
            Op::Open => {
                let Open { ino, mode: OpenMode::Read {} } = decode(body)? else { return Ok(None) };
                (Op::OpenRead, Subject::Inode(ino), Form::Attributes)
            }
            Op::OpenRead => {
                let OpenRead { ino, known_version } = decode(body)?;
                (Op::OpenRead, Subject::Inode(ino), known_version.map_or(Form::Same, Form::Unless))
            }
            Op::ReadInline => {
                let ReadInline { ino, offset, len } = decode(body)?;
                (Op::ReadInline, Subject::Inode(ino), Form::Part { offset, len })
            }
            _ => return Ok(None),
        };
        let is_checked = header.flags.has(Flags::CHECKED) || caller.is_root();
        Ok(Some(Question { op, subject, caller, is_checked, form }))
    }

    /// The same for all questions with the same answer in the common form.
    pub fn key(&self) -> Bytes {
        let mut key = BytesMut::with_capacity(64);
        key.put_u16_le(self.op as u16);
        let is_judged = matches!(self.op, Op::Lookup | Op::Get | Op::OpenRead) && !self.is_checked;
        key.put_u8(u8::from(is_judged));
        if is_judged {
            self.caller.put(&mut key);
        }
        match &self.subject {
            Subject::Name { parent, name } => {
                parent.put(&mut key);
                key.put_slice(name);
            }
            Subject::Inode(ino) => ino.put(&mut key),
        }
        key.freeze()
    }

    /// Whether who asks has the inode open afterwards.
    pub fn opens(&self) -> Option<InodeId> {
        match self.subject {
            Subject::Inode(ino) if self.op == Op::OpenRead => Some(ino),
            Subject::Inode(_) | Subject::Name { .. } => None,
        }
    }

    /// Body of the common form.
    pub fn body(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(96);
        self.caller.put(&mut body);
        match (&self.subject, self.op) {
            (Subject::Name { parent, name }, Op::Get) => {
                Get { parent: *parent, name: name.clone() }.put(&mut body);
            }
            (Subject::Name { parent, name }, _) => {
                Lookup { parent: *parent, name: name.clone() }.put(&mut body);
            }
            (Subject::Inode(ino), Op::Readlink) => Readlink { ino: *ino }.put(&mut body),
            (Subject::Inode(ino), Op::OpenRead) => {
                OpenRead { ino: *ino, known_version: None }.put(&mut body);
            }
            (Subject::Inode(ino), Op::ReadInline) => {
                ReadInline { ino: *ino, offset: 0, len: INLINE_MAX }.put(&mut body);
            }
            (Subject::Inode(ino), _) => Getattr { ino: *ino }.put(&mut body),
        }
        body.freeze()
    }

    /// Whether an answer to this very request is one to its common form.
    pub fn is_common(&self) -> bool {
        self.form == Form::Same
    }

    /// All that an answer depends on. None: it cannot be told, or the answer is not one to keep.
    pub fn keys(&self, said: &Said) -> Option<Vec<LockKey>> {
        let Subject::Name { parent, .. } = &self.subject else {
            return (said.status == Status::Ok).then(|| vec![self.subject.key()]);
        };
        let mut keys = vec![self.subject.key(), LockKey::Inode(*parent)];
        match said.status {
            Status::NotFound => {}
            Status::Ok => keys.push(LockKey::Inode(self.found(said)?)),
            _ => return None,
        }
        Some(keys)
    }

    fn found(&self, said: &Said) -> Option<InodeId> {
        if self.op == Op::Lookup {
            return Entry::from_bytes(said.meta.clone()).ok().map(|entry| entry.ino);
        }
        match GetOutcome::from_bytes(said.meta.clone()).ok()? {
            GetOutcome::Whole { attr, .. } => Some(attr.ino),
            GetOutcome::There { ino, .. } => Some(ino),
            GetOutcome::Failed { .. } | GetOutcome::Left {} => None,
        }
    }

    /// The answer to this question, made from that to its common form; None if that does not serve, or is damaged.
    pub fn reply(&self, header: &Header, said: &Said) -> Option<Reply> {
        let (mut meta, mut bulk) = (said.meta.clone(), said.bulk.clone());
        if said.status == Status::Ok {
            match self.form {
                Form::Same => {}
                Form::Attributes => {
                    (meta, bulk) = (Opened::from_bytes(meta).ok()?.attr.to_bytes(), Bytes::new());
                }
                Form::Unless(version) => {
                    let opened = Opened::from_bytes(meta.clone()).ok()?;
                    if opened.attr.version == version {
                        (meta, bulk) = (Opened { crc: None, ..opened }.to_bytes(), Bytes::new());
                    }
                }
                Form::Part { offset, len } => {
                    let whole = InlineRead::from_bytes(meta).ok()?;
                    (meta, bulk) = part(whole, bulk, offset, len)?;
                }
            }
        }
        let header = header.reply(said.status, meta.len() as u32, bulk.len() as u32);
        Some(Reply { header, meta, bulk })
    }
}

/// A part of a small file's content. Its bytes are compared with their checksum before another is made of some of them.
fn part(mut whole: InlineRead, content: Bytes, offset: u64, len: u32) -> Option<(Bytes, Bytes)> {
    let from = offset.min(content.len() as u64) as usize;
    let to = from.saturating_add(len as usize).min(content.len());
    if to - from == content.len() {
        return Some((whole.to_bytes(), content));
    }
    if crc(&content) != whole.crc {
        return None;
    }
    let content = content.slice(from..to);
    whole.crc = crc(&content);
    Some((whole.to_bytes(), content))
}

/// As servers tell each other.
pub fn told(key: LockKey) -> HotKey {
    match key {
        LockKey::Entry(parent, hash) => HotKey::Name { parent, hash },
        LockKey::Inode(ino) => HotKey::Inode { ino },
    }
}

/// What a server was told.
pub fn heard(key: &HotKey) -> LockKey {
    match *key {
        HotKey::Name { parent, hash } => LockKey::Entry(parent, hash),
        HotKey::Inode { ino } => LockKey::Inode(ino),
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what the module promises. Method: requests as clients send them.
    use super::*;
    use fs_proto::{Attr, FileKind, Partition, Request};

    const INO: InodeId = InodeId(7);

    fn frame<R: Request>(uid: u32, checked: bool, request: &R) -> Frame {
        let mut header = Header::request(R::OP, Partition(0));
        if checked {
            header.flags = Flags::CHECKED;
        }
        let mut meta = BytesMut::new();
        Caller { uid, gid: uid, groups: vec![] }.put(&mut meta);
        request.put(&mut meta);
        Frame { header, meta: meta.freeze(), bulk: Bytes::new() }
    }

    fn question<R: Request>(uid: u32, checked: bool, request: &R) -> Question {
        Question::of(&frame(uid, checked, request)).expect("a question")
    }

    #[test]
    fn who_may_ask_matters_where_the_home_looks_at_it() {
        let lookup = Lookup { parent: INO, name: Bytes::from_static(b"a") };
        let key = |uid, checked| question(uid, checked, &lookup).key();
        assert!(key(1, false) != key(2, false) && key(1, false) != key(1, true));
        assert!(key(1, true) == key(2, true) && key(0, false) == key(5, true));
        let getattr = |uid| question(uid, false, &Getattr { ino: INO }).key();
        assert_eq!(getattr(1), getattr(2));
        let open = question(1, false, &Open { ino: INO, mode: OpenMode::Read {} });
        let read = question(1, false, &OpenRead { ino: INO, known_version: Some(3) });
        assert!(open.key() == read.key() && open.body() == read.body() && open.opens() == Some(INO));
        assert_ne!(read.key(), question(1, false, &ReadInline { ino: INO, offset: 0, len: 1 }).key());
        assert!(
            Question::of(&frame(1, false, &Open { ino: INO, mode: OpenMode::Write { via: None } })).is_none()
        );
    }

    #[test]
    fn the_common_form_is_a_question_of_the_same_key() {
        let read = question(3, false, &ReadInline { ino: INO, offset: 9, len: 1 });
        let mut common = frame(3, false, &ReadInline { ino: INO, offset: 9, len: 1 });
        common.meta = read.body();
        let common = Question::of(&common).expect("a question");
        assert_eq!(common.form, Form::Part { offset: 0, len: INLINE_MAX });
        assert_eq!(common.key(), read.key());
    }

    #[test]
    fn answers_are_made_fit() {
        let attr = Attr { version: 3, ..Attr::unknown(INO, FileKind::File) };
        let content = Bytes::from_static(b"content");
        let sum = crc(&content);
        let opened = Opened { attr: attr.clone(), crc: Some(sum) };
        let said = Said { status: Status::Ok, meta: opened.to_bytes(), bulk: content.clone() };
        let header = Header::request(Op::OpenRead, Partition(0));
        let reply = |question: Question, said: &Said| question.reply(&header, said).expect("a reply");
        let open = |version| question(1, false, &OpenRead { ino: INO, known_version: version });
        assert_eq!(reply(open(None), &said).bulk, content);
        assert_eq!(reply(open(Some(2)), &said).meta, said.meta);
        let known = reply(open(Some(3)), &said);
        assert!(known.bulk.is_empty() && known.meta == Opened { attr: attr.clone(), crc: None }.to_bytes());
        let plain = reply(question(1, false, &Open { ino: INO, mode: OpenMode::Read {} }), &said);
        assert!(plain.bulk.is_empty() && plain.meta == attr.to_bytes());
        let whole = InlineRead { attr: attr.clone(), crc: sum };
        let mut said = Said { meta: whole.to_bytes(), ..said };
        let part = question(1, false, &ReadInline { ino: INO, offset: 3, len: 2 });
        let read = reply(part.clone(), &said);
        assert_eq!(&read.bulk[..], b"te");
        assert_eq!(read.meta, InlineRead { attr, crc: crc(b"te") }.to_bytes());
        assert!(
            reply(question(1, false, &ReadInline { ino: INO, offset: 30, len: 2 }), &said).bulk.is_empty()
        );
        said.bulk = Bytes::from_static(b"damaged");
        assert!(
            part.reply(&header, &said).is_none(),
            "no new checksum for bytes that are not those of the old"
        );
    }

    #[test]
    fn an_answer_depends_on_the_name_its_directory_and_what_was_found() {
        let lookup = question(1, false, &Lookup { parent: INO, name: Bytes::from_static(b"a") });
        let entry = Entry { ino: InodeId(9), kind: FileKind::File, attr: None };
        let said = |status, meta| Said { status, meta, bulk: Bytes::new() };
        let keys = lookup.keys(&said(Status::Ok, entry.to_bytes())).expect("keys");
        assert_eq!(keys, [lookup.subject.key(), LockKey::Inode(INO), LockKey::Inode(InodeId(9))]);
        assert_eq!(lookup.keys(&said(Status::NotFound, Bytes::new())).expect("keys").len(), 2);
        assert!(lookup.keys(&said(Status::AccessDenied, Bytes::new())).is_none());
    }
}
