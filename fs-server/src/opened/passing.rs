//! What has to be done with requests of clients that go on to other servers, and with the answers.
//!
//! # Invariants
//! - What a client was told is open is in the table, or known to the home itself (`tests/tests/node_opens/`).
//! - An opening that fails, or whose asker goes away, leaves nothing in the table (`openings_that_fail_leave_nothing`).

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use fs_net::{Frame, Reply};
use fs_proto::msg::Caller;
use fs_proto::msg::inode::{Open, Publish, Release, Removexattr, Renew, Setxattr};
use fs_proto::msg::name::{Create, Created, OpenMode};
use fs_proto::msg::node::ForNode;
use fs_proto::msg::small::OpenRead;
use fs_proto::wire::Reader;
use fs_proto::{
    Attr, ClientId, FileKind, Flags, Header, InodeId, LAYOUT_ATTRIBUTE, Op, Request, ServerId, Status, Wire,
};

use super::table::{Closing, is_empty};
use super::upkeep::tell;
use crate::error::{OpError, OpResult};
use crate::node::Node;
use crate::worker::{Worker, refusal};

/// How long the setting of a layout waits for creations that may open the file.
const CREATIONS_WAIT: Duration = Duration::from_secs(1);

/// Stamp of a closing that ends nothing of this run of the server, which the home hears of for what clients opened by the last one.
const NO_END: u64 = 0;

/// A request as it goes on.
pub struct Outgoing {
    /// Of its header.
    pub flags: Flags,
    /// Its body.
    pub meta: Bytes,
    passing: Passing,
}

enum Passing {
    /// Nothing is to be done with its answer.
    Plain,
    Opening(Opening),
    Creating(Creating),
    Closing {
        ino: InodeId,
        client: ClientId,
        closing: Closing,
    },
}

/// An opening under way; taken back when dropped.
struct Opening {
    node: Arc<Node>,
    ino: InodeId,
    client: ClientId,
    writes: bool,
    is_over: bool,
}

impl Opening {
    fn settle(mut self, opened: Option<u64>) {
        self.is_over = true;
        self.node.opened.settle(self.ino, self.client, self.writes, opened);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.is_over {
            self.node.opened.settle(self.ino, self.client, self.writes, None);
        }
    }
}

/// A creation under way, that opens what it makes or finds; taken back when dropped.
struct Creating {
    node: Arc<Node>,
    client: ClientId,
    began: u64,
    writes: bool,
    /// It was sent before, and may have been carried out then.
    again: bool,
    is_over: bool,
}

impl Drop for Creating {
    fn drop(&mut self) {
        if !self.is_over {
            self.node.opened.end_creation(self.began, self.client, None, false);
        }
    }
}

fn decode<T: Wire>(meta: &Bytes) -> Option<T> {
    let mut body = Reader::new(meta.clone());
    Caller::get(&mut body).ok()?;
    T::get(&mut body).ok()
}

fn plain(frame: &Frame) -> Outgoing {
    Outgoing { flags: frame.header.flags, meta: frame.meta.clone(), passing: Passing::Plain }
}

fn for_node(worker: &Worker, frame: &Frame, stamp: u64, reads: bool, passing: Passing) -> Outgoing {
    let mut meta = BytesMut::with_capacity(frame.meta.len() + ForNode::BYTES);
    meta.extend_from_slice(&frame.meta);
    let (flags, meta) = with_stamp(worker, frame, meta, stamp, reads);
    Outgoing { flags, meta, passing }
}

fn with_stamp(worker: &Worker, frame: &Frame, mut meta: BytesMut, stamp: u64, reads: bool) -> (Flags, Bytes) {
    ForNode { session: worker.node.opened.session(), stamp, reads }.put(&mut meta);
    (frame.header.flags.with(Flags::FOR_NODE), meta.freeze())
}

/// Takes note of a client's request, and says how it goes on.
pub fn begin(worker: &Worker, frame: &Frame) -> Outgoing {
    let outgoing = match frame.header.op {
        Op::Open => decode::<Open>(&frame.meta).and_then(|open| opening(worker, frame, open.ino, &open.mode)),
        Op::OpenRead => decode::<OpenRead>(&frame.meta)
            .and_then(|open| opening(worker, frame, open.ino, &OpenMode::Read {})),
        Op::Create => decode::<Create>(&frame.meta)
            .and_then(|create| create.open)
            .and_then(|mode| creating(worker, frame, &mode)),
        Op::Publish => decode::<Publish>(&frame.meta)
            .filter(|publish| publish.close)
            .and_then(|publish| closing(worker, frame, publish.ino)),
        _ => None,
    };
    let mut outgoing = outgoing.unwrap_or_else(|| plain(frame));
    if is_sole_writer(worker, frame) {
        outgoing.flags = outgoing.flags.with(Flags::SOLE);
    }
    outgoing
}

/// Whether a home that is asked about an inode need not ask this server who else of its clients writes it.
fn is_sole_writer(worker: &Worker, frame: &Frame) -> bool {
    let opened = &worker.node.opened;
    let asks = matches!(
        frame.header.op,
        Op::Getattr
            | Op::Open
            | Op::OpenRead
            | Op::Append
            | Op::ReadInline
            | Op::WriteInline
            | Op::PunchInline
            | Op::Spill
            | Op::SetLayout
    );
    if !asks || opened.is_empty() || opened.is_forgetful() {
        return false;
    }
    // The body of each begins with the inode.
    let ino = decode::<InodeId>(&frame.meta);
    ino.is_some_and(|ino| opened.is_sole_writer(ino, frame.header.client))
}

/// Whether a client that opens so can count for the node. One that writes by several ways does not: how far it came is asked of all servers, and by its own name.
fn is_for_node(worker: &Worker, mode: &OpenMode) -> bool {
    !mode.writes() || mode.via() == Some(worker.node.id())
}

fn opening(worker: &Worker, frame: &Frame, ino: InodeId, mode: &OpenMode) -> Option<Outgoing> {
    let (node, client, writes) = (&worker.node, frame.header.client, mode.writes());
    let stamp = is_for_node(worker, mode).then(|| node.opened.begin(ino, client, writes)).flatten();
    let Some(stamp) = stamp else {
        node.opened.note_passed();
        return None;
    };
    let opening = Opening { node: Arc::clone(node), ino, client, writes, is_over: false };
    Some(for_node(worker, frame, stamp, false, Passing::Opening(opening)))
}

fn creating(worker: &Worker, frame: &Frame, mode: &OpenMode) -> Option<Outgoing> {
    let (node, client, writes) = (&worker.node, frame.header.client, mode.writes());
    let Some(began) = is_for_node(worker, mode).then(|| node.opened.begin_creation()).flatten() else {
        node.opened.note_passed();
        return None;
    };
    let again = frame.header.flags.has(Flags::RETRY);
    let creating = Creating { node: Arc::clone(node), client, began, writes, again, is_over: false };
    Some(for_node(worker, frame, began, false, Passing::Creating(creating)))
}

fn closing(worker: &Worker, frame: &Frame, ino: InodeId) -> Option<Outgoing> {
    let client = frame.header.client;
    let opened = &worker.node.opened;
    let closing = opened.begin_closing(ino, client);
    let passing = closing.map_or(Passing::Plain, |closing| Passing::Closing { ino, client, closing });
    match closing.and_then(|closing| closing.end) {
        Some(end) => Some(for_node(worker, frame, end.stamp, end.reads, passing)),
        None if opened.is_forgetful() => Some(for_node(worker, frame, NO_END, false, passing)),
        None => closing.map(|_| Outgoing { passing, ..plain(frame) }),
    }
}

/// Whether a request sets the layout of a file, or of a directory.
pub fn sets_layout(frame: &Frame) -> bool {
    let name = match frame.header.op {
        Op::SetLayout => return true,
        Op::Setxattr => decode::<Setxattr>(&frame.meta).map(|set| set.name),
        Op::Removexattr => decode::<Removexattr>(&frame.meta).map(|remove| remove.name),
        _ => None,
    };
    name.is_some_and(|name| name == LAYOUT_ATTRIBUTE)
}

/// As [`begin`], for the setting of a layout: says whether others of the node have the file open, and since when not. A creation may open it that does not know
/// yet that it does.
pub async fn alone(worker: &Worker, frame: &Frame) -> Outgoing {
    let (opened, client) = (&worker.node.opened, frame.header.client);
    let outgoing = begin(worker, frame);
    let Some(ino) = decode::<InodeId>(&frame.meta) else { return outgoing };
    let Some(stamp) = opened.alone(ino, client) else { return outgoing };
    let until = Instant::now() + CREATIONS_WAIT;
    while opened.is_creating_since(stamp) {
        if Instant::now() > until {
            return outgoing;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if opened.is_forgetful() || opened.alone(ino, client).is_none() {
        return outgoing;
    }
    let flags = outgoing.flags;
    let with_stamp = for_node(worker, frame, stamp, false, Passing::Plain);
    Outgoing { flags: flags.with(Flags::FOR_NODE), ..with_stamp }
}

impl Outgoing {
    /// What is to be done with the answer.
    pub fn answered(self) -> Answered {
        Answered(self.passing)
    }
}

/// What is to be done with an answer; if there is none, dropping it takes back what was noted.
pub struct Answered(Passing);

impl Answered {
    /// Whether nothing is.
    pub fn is_nothing(&self) -> bool {
        matches!(self.0, Passing::Plain)
    }

    /// Takes note of the answer.
    ///
    /// # Errors
    /// What the client is told instead of it.
    pub async fn take(self, worker: &Rc<Worker>, answer: &Frame) -> OpResult<()> {
        let is_ok = answer.header.status == Status::Ok;
        match self.0 {
            Passing::Plain => {}
            Passing::Opening(opening) if opening.writes => {
                let attr = is_ok.then(|| Attr::from_bytes(answer.meta.clone()).ok()).flatten();
                opening.settle(attr.map(|attr| attr.version));
            }
            Passing::Opening(opening) => opening.settle(is_ok.then_some(0)),
            Passing::Creating(creating) => return created(worker, creating, is_ok, answer).await,
            Passing::Closing { ino, client, closing } => {
                if is_ok {
                    let news = worker.node.opened.end_closing(ino, client, closing);
                    tell(worker, news).await;
                }
            }
        }
        Ok(())
    }
}

/// The home has the file open for the node, unless it was told meanwhile that the node has not: then it is told again, before the client is.
async fn created(worker: &Rc<Worker>, mut creating: Creating, is_ok: bool, answer: &Frame) -> OpResult<()> {
    let made = is_ok.then(|| Created::from_bytes(answer.meta.clone()).ok()).flatten();
    // Without attributes it lives elsewhere, and the client opens it there.
    let opened = made.filter(|made| made.attr.is_some() && made.kind == FileKind::File).map(|made| {
        let version = made.attr.map_or(0, |attr| attr.version);
        (made.ino, creating.writes.then_some(version))
    });
    let (began, client, again) = (creating.began, creating.client, creating.again);
    let Some((ino, _)) = opened else { return Ok(()) };
    creating.is_over = true;
    let opened_files = &worker.node.opened;
    let (news, was_open) = opened_files.end_creation(began, client, opened, again);
    let stamp = news.stamp;
    if is_empty(&news) {
        return Ok(());
    }
    let told = tell(worker, news).await;
    if told.is_heard && !told.gone.contains(&ino) {
        return Ok(());
    }
    // It was removed in between, or nobody can say.
    if !was_open {
        let news = opened_files.take_back(ino, client, stamp);
        tell(worker, news).await;
    }
    Err(OpError::new(Status::Retry, "the file was closed and removed while it was being opened"))
}

/// Takes note of what a client says of its open files, and answers it, unless it goes on to the home as it came: then None.
pub async fn told(worker: &Rc<Worker>, frame: &Frame, to: ServerId) -> Option<Reply> {
    let (opened, header) = (&worker.node.opened, &frame.header);
    match header.op {
        Op::Release if !opened.is_empty() || opened.is_forgetful() => {
            let inos = decode::<Release>(&frame.meta)?.inos;
            let all = inos.len();
            let (unknown, news) = opened.close(header.client, &inos);
            tell(worker, news).await;
            let inos = if opened.may_have_passed() { inos } else { unknown };
            if inos.len() == all && !opened.is_forgetful() {
                return None;
            }
            let left = inos.len();
            Some(pass_on(worker, frame, to, &Release { inos }, left).await)
        }
        Op::Renew => {
            let renew: Renew = decode(&frame.meta)?;
            let all = renew.open.len();
            let renewed = opened.renew(header.client, renew.open);
            tell(worker, renewed.news).await;
            let open = renewed.pass_on;
            if !open.is_empty() {
                opened.note_passed();
            }
            if open.len() == all && all > 0 {
                return None;
            }
            let left = open.len();
            Some(pass_on(worker, frame, to, &Renew { open }, left).await)
        }
        _ => None,
    }
}

/// Sends the part of a client's request on that its home has to hear, if there is one.
async fn pass_on<R: Request>(worker: &Worker, frame: &Frame, to: ServerId, part: &R, left: usize) -> Reply {
    let done = Reply::ok(&frame.header, Bytes::new(), Bytes::new());
    let Some(caller) = caller_of(&frame.meta).filter(|_| left > 0) else { return done };
    let mut meta = BytesMut::new();
    caller.put(&mut meta);
    part.put(&mut meta);
    let (flags, meta) = if worker.node.opened.is_forgetful() {
        with_stamp(worker, frame, meta, NO_END, false)
    } else {
        (frame.header.flags, meta.freeze())
    };
    let header = Header { hops: 1, flags, ..frame.header };
    match worker.peers.call(to, header, meta, Bytes::new()).await {
        Ok(answer) => Reply {
            header: Header { tag: frame.header.tag, ..answer.header },
            meta: answer.meta,
            bulk: answer.bulk,
        },
        Err(error) => refusal(&frame.header, &OpError::from(error)),
    }
}

fn caller_of(meta: &Bytes) -> Option<Caller> {
    Caller::get(&mut Reader::new(meta.clone())).ok()
}
