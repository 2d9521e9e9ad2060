//! A connection's two directions over its queue pair.
//!
//! # Invariants
//! - A message with frames takes a credit, which comes back when the receiver has made frames of all of it: so no more than
//!   [`Kind::credits`] such messages wait for a peer that takes nothing (`tests/rdma.rs`, `a_peer_that_takes_nothing_holds_little`).
//! - With iWARP a message without frames gives a credit back: so no more of these are under way than there are credits
//!   (`tests/rdma.rs`, `many_small_parts_are_given_back`). While parts are read a credit is kept for giving them back.
//! - What is lent stays until the peer gives it back or the queue pair is gone, and is at most [`LENT_MAX`] and one part.
//! - While a pool buffer is waited for, no further frame is given out. Credits, and what was given back, count as soon as they come: who waits
//!   for them to send may not be taking frames (`tests/rdma.rs`, `answers_flow_while_nothing_is_taken`).
//! - Whatever a peer sends, this side answers with frames or an error (`record`: `any_bytes_are_survived`; `hostile`:
//!   `liars_are_cut_off_and_others_served`; an address or key that is none ends the connection by the device's word).

use super::Rdma;
use super::cm::Pair;
use super::counters::OpenRdma;
use super::hub::Hub;
use super::kind::{Kind, Purpose};
use super::memory;
use super::record::{self, HEAD_BYTES, MESSAGE_BYTES, Place, RECORD_BYTES, Record, Writer};
use super::sys::{Qp, Sge};
use crate::budget::{Account, BufferClass};
use crate::counters::NetCounters;
use crate::env::NetEnv;
use crate::error::NetError;
use crate::frame::Frame;
use crate::landing::Landings;
use crate::pool::{PoolBuffer, TooLarge};
use crate::send_queue::{Front, SendQueue};
use crate::shm::Spin;
use bytes::Bytes;
use fs_proto::Header;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Bytes that a peer may be lent before it gives some back.
const LENT_MAX: usize = 16 << 20;
/// Things to give back from which on they are, even if there is nothing else to send.
const DUE_MANY: usize = 8;
/// Things that fit into one message.
const DUE_PER_MESSAGE: usize = (MESSAGE_BYTES - HEAD_BYTES) / RECORD_BYTES;
/// Largest piece of a read. Devices have limits of their own, of 8 MiB and more.
const PIECE_BYTES: usize = 4 << 20;

type BufferWait = Pin<Box<dyn Future<Output = Result<PoolBuffer, TooLarge>>>>;

/// A frame whose bulk part lies with the peer.
struct Far {
    header: Header,
    meta: Bytes,
    place: Place,
}

/// What messages were made of.
enum Item {
    Frame(Frame),
    Far(Far),
    /// The end of a message.
    End,
}

/// A bulk part that is being read.
struct Pull {
    far: Far,
    buffer: PoolBuffer,
    key: u32,
    /// Bytes asked for.
    asked: usize,
    /// Pieces under way.
    pieces: u32,
}

/// An open connection over RDMA.
pub(super) struct Link {
    /// Goes first: the device forgets the buffers below before they do.
    pair: Pair,
    pulls: Vec<Option<Pull>>,
    lent: HashMap<u32, Bytes>,
    lent_bytes: usize,
    next_id: u32,
    kind: Kind,
    /// Messages with frames that may be sent.
    credits: u32,
    /// Credits to give back.
    owed_credits: u32,
    /// Messages with frames that came and whose credits were not given back.
    peer_used: u32,
    /// What came and was not taken.
    inbox: VecDeque<Item>,
    waiting: Option<(Far, BufferWait)>,
    /// Read, not yet told.
    due: Vec<u32>,
    /// Frames received without those sent: for a server the answers that it owes.
    unanswered: i64,
    /// Where answers are read to, on the asking side.
    landings: Option<Rc<Landings>>,
    /// Grows with whatever the peer does.
    progress: u64,
    spin: Spin,
    env: Rc<NetEnv>,
    rdma: Arc<Rdma>,
    open: OpenRdma,
}

impl Link {
    pub fn new(pair: Pair, env: &Rc<NetEnv>) -> Link {
        let rdma = env.rdma.clone();
        let port = pair.parts().map(|(hub, ..)| hub.device.port(pair.port().into()));
        let kind = pair.parts().map_or(Kind::InfiniBand, |(hub, ..)| hub.device.kind);
        Link {
            pair,
            pulls: Vec::new(),
            lent: HashMap::new(),
            lent_bytes: 0,
            next_id: 0,
            kind,
            credits: kind.credits(),
            owed_credits: 0,
            peer_used: 0,
            inbox: VecDeque::new(),
            waiting: None,
            due: Vec::new(),
            unanswered: 0,
            landings: None,
            progress: 0,
            spin: Spin::new(env.spin),
            env: env.clone(),
            open: OpenRdma::new(&rdma, port),
            rdma,
        }
    }

    /// From now on answers are read to where this says, as far as that can be.
    pub fn land(&mut self, landings: &Rc<Landings>) {
        self.landings = Some(landings.clone());
    }

    /// Whether both sides have said that it is open.
    pub fn is_up(&self) -> bool {
        self.pair.line.is_up.get()
    }

    /// Device and port, for people.
    pub fn describe(&self) -> String {
        let device = self.pair.parts().map_or("?", |(hub, ..)| &hub.device.name);
        format!("RDMA {device} port {}", self.pair.port())
    }

    /// Something that a stalled peer does not change, if it owes anything.
    pub fn owed_since(&self) -> Option<u64> {
        let is_owed = !self.lent.is_empty() || self.pulls.iter().any(Option::is_some);
        is_owed.then_some(self.progress)
    }

    /// Frames that came or went by another way.
    pub fn note_others(&mut self, received: usize, sent: usize) {
        self.unanswered += received as i64 - sent as i64;
    }

    fn parts(&self) -> Result<(Rc<Hub>, *mut Qp, usize), NetError> {
        let (hub, qp, inline) = self.pair.parts().ok_or(NetError::Closed)?;
        Ok((hub.clone(), qp, inline))
    }

    /// `cx` is woken when anything comes.
    pub fn watch(&self, cx: &Context<'_>) {
        self.pair.line.watch(cx);
    }

    // --- receiving ---

    /// Makes frames of all that has come.
    pub fn receive(
        &mut self,
        cx: &mut Context<'_>,
        (class, share): (BufferClass, Option<&Account>),
        frames: &mut VecDeque<Frame>,
    ) -> Result<(), NetError> {
        self.watch(cx);
        let (before, (hub, ..)) = (frames.len(), self.parts()?);
        hub.drain();
        self.take_in()?;
        self.parse(cx, (class, share), frames)?;
        self.read_on(cx)?;
        self.collect(frames)?;
        let new = frames.len() - before;
        self.unanswered += new as i64;
        NetCounters::add(&self.env.counters.messages_received, new as u64);
        match self.pair.line.broken() {
            Some(why) if new == 0 => Err(self.ended(&why)),
            _ => Ok(()),
        }
    }

    fn ended(&self, why: &str) -> NetError {
        tracing::debug!(peer = self.describe(), why, "a connection over RDMA has ended");
        NetError::Closed
    }

    fn parse(
        &mut self,
        cx: &mut Context<'_>,
        (class, share): (BufferClass, Option<&Account>),
        frames: &mut VecDeque<Frame>,
    ) -> Result<(), NetError> {
        loop {
            if let Some((_, buffer)) = &mut self.waiting {
                let Poll::Ready(buffer) = buffer.as_mut().poll(cx) else { return Ok(()) };
                let Some((far, _)) = self.waiting.take() else { return Ok(()) };
                self.pull(far, buffer?)?;
            }
            match self.inbox.pop_front() {
                Some(Item::Frame(frame)) => frames.push_back(frame),
                Some(Item::Far(far)) => self.want_buffer(far, class, share)?,
                Some(Item::End) => self.owed_credits += 1,
                None => return Ok(()),
            }
        }
    }

    /// Looks into what has come: credits and what was given back count at once, also while nobody takes frames.
    fn take_in(&mut self) -> Result<(), NetError> {
        while let Some(mut message) = self.pair.line.take_message() {
            self.note_message(message.len() as u64);
            let back = record::credits(&mut message)?;
            if back > self.kind.credits() - self.credits {
                return Err(NetError::protocol("more credits than there are"));
            }
            self.credits += back;
            let before = self.inbox.len();
            while let Some(record) = record::next(&mut message)? {
                match record {
                    Record::Frame { header, meta, bulk } => {
                        self.inbox.push_back(Item::Frame(Frame { header, meta, bulk }));
                    }
                    Record::ByReference { header, meta, place } => {
                        self.inbox.push_back(Item::Far(Far { header, meta, place }));
                    }
                    Record::GivenBack(id) => self.take_back(id)?,
                }
            }
            if self.inbox.len() > before {
                self.end_message()?;
            }
        }
        Ok(())
    }

    /// A message with frames has come, which takes one of the peer's credits until these are out.
    fn end_message(&mut self) -> Result<(), NetError> {
        self.inbox.push_back(Item::End);
        self.peer_used += 1;
        if self.peer_used > self.kind.credits() {
            return Err(NetError::protocol("more messages than credits"));
        }
        Ok(())
    }

    fn note_message(&mut self, bytes: u64) {
        self.progress += bytes;
        self.open.received(bytes);
        NetCounters::add(&self.env.counters.bytes_received, bytes);
    }

    fn take_back(&mut self, id: u32) -> Result<(), NetError> {
        let unknown = || NetError::protocol("something given back that was not lent");
        let bytes = self.lent.remove(&id).ok_or_else(unknown)?;
        self.lent_bytes -= bytes.len();
        Ok(())
    }

    fn want_buffer(&mut self, far: Far, class: BufferClass, share: Option<&Account>) -> Result<(), NetError> {
        let len = far.header.bulk_bytes as usize;
        if len < memory::TRACK_MIN {
            return Err(NetError::protocol("a small part that is not in its message"));
        }
        if let Some((buffer, key)) = self.landing(far.header.tag, len)? {
            self.begin_pull(far, buffer, key);
            return Ok(());
        }
        if let Some(buffer) = self.env.pool.try_get_for(class, share, len) {
            return self.pull(far, buffer);
        }
        let (pool, share) = (self.env.pool.clone(), share.cloned());
        self.waiting = Some((far, Box::pin(async move { pool.get_for(class, share.as_ref(), len).await })));
        Ok(())
    }

    /// Where the answer with this tag is to land, if the device may write there; with the key to it.
    fn landing(&self, tag: u32, len: usize) -> Result<Option<(PoolBuffer, u32)>, NetError> {
        let Some(buffer) = self.landings.as_ref().and_then(|landings| landings.buffer(tag, len)) else {
            return Ok(None);
        };
        let (hub, ..) = self.parts()?;
        // Memory that is none of the device's, or cannot be now, is no reason to end anything: a buffer of the pool does.
        let keys = memory::find(&buffer, hub.device, Purpose::ReadInto).ok().flatten();
        Ok(keys.map(|keys| (buffer, keys.local)))
    }

    fn pull(&mut self, far: Far, buffer: PoolBuffer) -> Result<(), NetError> {
        let (hub, ..) = self.parts()?;
        let key = match memory::find(&buffer, hub.device, Purpose::ReadInto) {
            Ok(Some(keys)) => keys.local,
            Ok(None) => return Err(self.ended("a buffer that the device does not know")),
            Err(error) => {
                self.rdma.cannot_register(&memory::why_not(&error));
                return Err(NetError::Closed);
            }
        };
        self.begin_pull(far, buffer, key);
        Ok(())
    }

    fn begin_pull(&mut self, far: Far, buffer: PoolBuffer, key: u32) {
        let pull = Some(Pull { far, buffer, key, asked: 0, pieces: 0 });
        match self.pulls.iter_mut().find(|pull| pull.is_none()) {
            Some(free) => *free = pull,
            None => self.pulls.push(pull),
        }
    }

    /// Asks the device for what is to be read, as far as it has room.
    fn read_on(&mut self, cx: &Context<'_>) -> Result<(), NetError> {
        let (hub, qp, _) = self.parts()?;
        let line = &self.pair.line;
        for (id, pull) in self.pulls.iter_mut().enumerate() {
            let Some(pull) = pull else { continue };
            while pull.asked < pull.buffer.len() {
                if !line.has_depth() || !hub.may_read(cx) {
                    return Ok(());
                }
                let piece = &mut pull.buffer[pull.asked..];
                let len = piece.len().min(PIECE_BYTES);
                let into = Sge { addr: piece.as_mut_ptr() as u64, length: len as u32, lkey: pull.key };
                let Some(address) = pull.far.place.address.checked_add(pull.asked as u64) else {
                    return Err(NetError::protocol("an address beyond all memory"));
                };
                // SAFETY: the buffer is in `pulls` until all its pieces are done; if the link is dropped before, the pair goes first.
                let posted = unsafe { hub.read((qp, line), id as u32, into, (address, pull.far.place.key)) };
                posted.map_err(|_| NetError::Closed)?;
                pull.asked += len;
                pull.pieces += 1;
            }
        }
        Ok(())
    }

    /// Makes frames of what was read.
    fn collect(&mut self, frames: &mut VecDeque<Frame>) -> Result<(), NetError> {
        let pulled = self.pair.line.pulled.take();
        if pulled.is_empty() {
            return Ok(());
        }
        if let Some(why) = self.pair.line.broken() {
            return Err(self.ended(&why));
        }
        for id in pulled {
            let Some(place) = self.pulls.get_mut(id as usize) else { continue };
            let Some(pull) = place else { continue };
            pull.pieces -= 1;
            if pull.pieces > 0 || pull.asked < pull.buffer.len() {
                continue;
            }
            let Some(Pull { far, buffer, .. }) = place.take() else { continue };
            self.progress += buffer.len() as u64;
            self.open.has_read(buffer.len() as u64);
            NetCounters::add(&self.env.counters.bytes_received, buffer.len() as u64);
            self.due.push(far.place.id);
            frames.push_back(Frame { header: far.header, meta: far.meta, bulk: buffer.freeze() });
        }
        Ok(())
    }

    /// Nothing is left to do: gives back what no message will carry soon. Whether something came while looking.
    pub fn rest(&mut self, cx: &Context<'_>, is_client: bool) -> Result<bool, NetError> {
        let is_answer_near = self.unanswered > 0 && self.due.len() < DUE_MANY;
        let credits = self.returnable();
        let may_give_back = self.kind == Kind::InfiniBand || credits > 0;
        if credits >= self.kind.credits() / 2 || (may_give_back && !self.due.is_empty() && !is_answer_near) {
            self.send_message(cx, None)?;
        }
        let (hub, ..) = self.parts()?;
        if is_client && self.unanswered >= 0 {
            return Ok(false);
        }
        let line = &self.pair.line;
        let look = || {
            hub.drain();
            line.has_news()
        };
        let found = self.spin.look(hub.len() as u32, look);
        if let Some(found) = found {
            self.open.looked(found);
        }
        Ok(found == Some(true))
    }

    // --- sending ---

    /// Sends what it can. Ready when the queue is empty, or its first frame was given to `overflow`.
    pub fn send(
        &mut self,
        cx: &Context<'_>,
        queue: &mut SendQueue,
        overflow: &mut SendQueue,
    ) -> Result<Poll<()>, NetError> {
        if queue.is_empty() {
            return Ok(Poll::Ready(()));
        }
        self.watch(cx);
        self.parts()?.0.drain();
        self.take_in()?;
        while !queue.is_empty() && overflow.is_empty() {
            let may = self.credits > 0 && self.pair.line.has_depth() && self.lent_bytes < LENT_MAX;
            if !may || !self.send_message(cx, Some((&mut *queue, &mut *overflow)))? {
                return Ok(Poll::Pending);
            }
        }
        Ok(Poll::Ready(()))
    }

    /// Credits that the next message gives back. With iWARP one is kept while something will have to be given back that this message cannot: by
    /// then no other may be owed, and what gives back needs one.
    fn returnable(&self) -> u32 {
        let is_read = self.waiting.is_some() || self.pulls.iter().any(Option::is_some);
        let is_kept = self.kind == Kind::Iwarp && (is_read || self.due.len() > DUE_PER_MESSAGE);
        self.owed_credits.saturating_sub(is_kept.into())
    }

    /// One message. False: there is no buffer for it, and `cx` is woken when there is.
    fn send_message(
        &mut self,
        cx: &Context<'_>,
        queues: Option<(&mut SendQueue, &mut SendQueue)>,
    ) -> Result<bool, NetError> {
        let (hub, qp, inline) = self.parts()?;
        if !self.pair.line.has_depth() {
            return Ok(false);
        }
        let Some(mut slot) = hub.take_slot(cx) else { return Ok(false) };
        let credits = self.returnable();
        self.owed_credits -= credits;
        self.peer_used -= credits;
        let mut writer = Writer::new(slot.bytes(), credits);
        while writer.has_room(0) {
            let Some(id) = self.due.pop() else { break };
            writer.given_back(id);
        }
        if let Some((queue, overflow)) = queues {
            self.write_frames(&hub, &mut writer, queue, overflow);
        }
        let (len, frames) = writer.finish();
        self.credits -= u32::from(frames > 0);
        self.unanswered -= frames as i64;
        slot.send((qp, &self.pair.line), len, inline).map_err(|_| NetError::Closed)?;
        NetCounters::add(&self.env.counters.write_calls, 1);
        self.open.sent(len as u64, len <= inline);
        Ok(true)
    }

    /// Puts frames into a message until it is full, or the first is for the socket.
    fn write_frames(
        &mut self,
        hub: &Hub,
        writer: &mut Writer<'_>,
        queue: &mut SendQueue,
        overflow: &mut SendQueue,
    ) {
        while let Some(front) = queue.front() {
            let meta = front.meta.map_or(&[][..], |bytes| bytes);
            if is_too_large(&front) {
                return self.overflow(queue, overflow);
            }
            if !writer.has_room(front.staged.len() + meta.len()) || self.lent_bytes >= LENT_MAX {
                return;
            }
            let place = front.bulk.map(|bulk| self.lend(hub, bulk));
            if matches!(place, Some(None)) {
                return self.overflow(queue, overflow);
            }
            writer.frame(front.staged, meta, place.flatten());
            let bytes = front.bytes();
            NetCounters::add(&self.env.counters.bytes_sent, bytes as u64);
            queue.consume(bytes);
        }
    }

    fn overflow(&mut self, queue: &mut SendQueue, overflow: &mut SendQueue) {
        queue.move_front(overflow);
        self.note_others(0, 1);
    }

    /// Lends a bulk part; of memory that the device does not know, a copy. `None`: there is no buffer for that.
    fn lend(&mut self, hub: &Hub, bulk: &Bytes) -> Option<Place> {
        if let Some(place) = self.lend_in_place(hub, bulk) {
            return Some(place);
        }
        let mut copy = self.env.pool.try_get(bulk.len())?;
        copy.copy_from_slice(bulk);
        NetCounters::add(&self.env.counters.copied_bytes, bulk.len() as u64);
        self.lend_in_place(hub, &copy.freeze())
    }

    fn lend_in_place(&mut self, hub: &Hub, bulk: &Bytes) -> Option<Place> {
        let keys = memory::find(bulk, hub.device, Purpose::Lent)
            .inspect_err(|error| self.rdma.cannot_register(&memory::why_not(error)))
            .ok()??;
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.lent.insert(id, bulk.clone());
        self.lent_bytes += bulk.len();
        Some(Place { address: bulk.as_ptr() as u64, key: keys.remote, id })
    }
}

/// Whether a frame does not fit into any message.
fn is_too_large(front: &Front<'_>) -> bool {
    HEAD_BYTES + RECORD_BYTES + front.staged.len() + front.meta.map_or(0, Bytes::len) > MESSAGE_BYTES
}
