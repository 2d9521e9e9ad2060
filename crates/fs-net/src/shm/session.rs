//! How a connection over a Unix socket becomes a session over shared memory: the client asks, as its first request; the server
//! makes the memory and the bells and passes them with its answer. Any refusal leaves the connection as it is.
//!
//! # Invariants
//! - No memory is made for who has not proved to know the secret (it is the first request after the handshake).
//! - Bulk parts of requests are read in place only if nothing looks into them and the peer could do as much harm without: it runs as
//!   this server's user, or as root (`tests/shared.rs`, `data_is_read_in_place_only_from_who_is_trusted`). Any other's are copied first.

use super::arena::Arena;
use super::bell::{Ear, Rope, bell};
use super::link::Link;
use super::region::Region;
use super::side::Side;
use super::spin::Spin;
use super::transport::{InPlace, SharedTransport};
use crate::budget::{Account, BufferClass};
use crate::env::{NetEnv, Sharing};
use crate::error::NetError;
use crate::pool::PoolBuffer;
use crate::send_queue::SendQueue;
use crate::transport::Transport;
use bytes::{Bytes, BytesMut};
use fs_proto::msg::session::{Share, Shared};
use fs_proto::{Flags, HEADER_BYTES, Header, Op, Partition, Status, Wire};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Descriptors that an answer carries: memory, the client's ear, the client's rope.
const DESCRIPTORS: usize = 3;
/// More than an answer to [`Share`] takes.
const ANSWER_BYTES: usize = 1 << 10;
/// Below this size a buffer in shared memory gains nothing: such parts go through the ring.
const LEND_MIN: usize = crate::send_queue::BY_REFERENCE_BYTES;

/// Buffers in the memory that is shared with a peer: what is written there, or received there for it, need not be copied to be sent to it. The peer
/// may change it at any time: whoever puts something there must not read it again to decide anything. Keeps no memory by itself:
/// when the connection has ended there are no more buffers. Knows the peer's account with the pool, for buffers from there.
#[derive(Debug, Clone, Default)]
pub struct Lending {
    arena: Option<Weak<Arena>>,
    account: Option<Account>,
}

impl Lending {
    /// Smaller buffers are never lent: such parts are copied through the ring.
    pub const MIN_BYTES: usize = LEND_MIN;

    /// A buffer of `len` bytes, if the peer shares memory with us, it has room, and it is worth it.
    pub fn buffer(&self, len: usize) -> Option<PoolBuffer> {
        let arena = self.arena.as_ref().filter(|_| len >= LEND_MIN)?;
        arena.upgrade()?.take(len).map(|block| PoolBuffer::shared(block, len))
    }

    /// Whether bytes lie in the part that the peer fills.
    #[cfg(test)]
    pub(crate) fn is_of_peer(&self, bytes: &[u8]) -> bool {
        self.arena.as_ref().and_then(Weak::upgrade).is_some_and(|arena| arena.is_of_peer(bytes))
    }

    /// Whether the peer shares memory with us.
    pub fn is_shared(&self) -> bool {
        self.arena.is_some()
    }

    /// The peer's account with the process's pool, if it has one.
    pub fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    pub(crate) fn on_account_of(self, account: Account) -> Lending {
        Lending { account: Some(account), ..self }
    }
}

/// Every peer is another's or its own: what is lent says nothing about who it is.
impl PartialEq for Lending {
    fn eq(&self, _: &Lending) -> bool {
        true
    }
}

impl Eq for Lending {}

/// One end of a session that is about to begin.
pub(super) struct End {
    pub region: Arc<Region>,
    pub ear: OwnedFd,
    pub rope: OwnedFd,
}

impl End {
    fn transport(
        self,
        socket: Box<dyn Transport>,
        side: Side,
        in_place: InPlace,
        env: &Rc<NetEnv>,
    ) -> io::Result<(Box<dyn Transport>, Lending)> {
        let (ear, rope) = (Ear::new(self.ear)?, Rope::new(self.rope)?);
        let arena = Arena::new(self.region.clone(), side.outward());
        let link = Link::new(self.region.clone(), side, (ear, rope), Spin::new(env.spin));
        let place = (self.region, side);
        let lending = Lending { arena: Some(Arc::downgrade(&arena)), account: None };
        let transport = SharedTransport::new(socket, link, arena, place, in_place, env.clone());
        Ok((Box::new(transport), lending))
    }
}

// --- the client ---

/// Asks for shared memory. Gives the transport to go on with, shared or not.
pub(crate) async fn ask(
    mut socket: Box<dyn Transport>,
    env: &Rc<NetEnv>,
) -> Result<(Box<dyn Transport>, Lending), NetError> {
    let Some(end) = share(&mut *socket, env).await? else { return Ok((socket, Lending::default())) };
    let mut made = end.transport(socket, Side::Client, |_| true, env).map_err(NetError::protocol)?;
    made.0.trust(BufferClass::PeerReply, None);
    Ok(made)
}

/// The client's end of a new session, if the server gives one.
pub(super) async fn share(socket: &mut dyn Transport, env: &Rc<NetEnv>) -> Result<Option<End>, NetError> {
    if socket.unix().is_none() {
        return Ok(None);
    }
    let mut queue = SendQueue::new(env.counters.clone());
    queue.push(Header::request(Op::Share, Partition(0)), Share {}.to_bytes(), Bytes::new())?;
    poll_fn(|cx| socket.poll_send(cx, &mut queue)).await?;
    let Some(stream) = socket.unix() else { return Err(NetError::Closed) };
    let ((header, meta), descriptors) = receive(stream).await?;
    if header.status == Status::Ok {
        let shared = Shared::from_bytes(meta).map_err(NetError::protocol)?;
        return client_end(&shared, descriptors).map(Some).map_err(NetError::protocol);
    }
    let why = String::from_bytes(meta).unwrap_or_default();
    if matches!(env.sharing, Sharing::Insist) {
        return Err(NetError::Rejected(format!(
            "{why}; let the client use its socket instead (--transport auto)"
        )));
    }
    tracing::debug!(why, "going on over the socket");
    Ok(None)
}

fn client_end(shared: &Shared, descriptors: Vec<OwnedFd>) -> io::Result<End> {
    let Ok([memory, ear, rope]) = <[OwnedFd; DESCRIPTORS]>::try_from(descriptors) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "shared memory without its descriptors"));
    };
    let region = Arc::new(Region::open(memory.as_fd(), shared.arena_bytes)?);
    Ok(End { region, ear, rope })
}

type Answer = ((Header, Bytes), Vec<OwnedFd>);

/// The answer to [`Share`], with the descriptors that came with it. Nothing else is under way on the socket.
async fn receive(stream: &UnixStream) -> Result<Answer, NetError> {
    let (mut gathered, mut descriptors) = (BytesMut::new(), Vec::new());
    loop {
        let received = stream.async_io(Interest::READABLE, || {
            let mut bytes = [0; ANSWER_BYTES];
            let n = receive_once(stream, &mut bytes, &mut descriptors)?;
            Ok(BytesMut::from(&bytes[..n]))
        });
        let piece = received.await.map_err(|_| NetError::Closed)?;
        if piece.is_empty() {
            return Err(NetError::Closed);
        }
        gathered.extend_from_slice(&piece);
        if let Some(raw) = gathered.first_chunk::<HEADER_BYTES>() {
            let header = Header::decode(raw).map_err(NetError::protocol)?;
            let whole = HEADER_BYTES + header.body_bytes();
            if header.op != Op::Share
                || !header.flags.has(Flags::REPLY)
                || header.bulk_bytes > 0
                || whole > ANSWER_BYTES
            {
                return Err(NetError::protocol("something else than an answer about shared memory"));
            }
            if gathered.len() >= whole {
                return Ok(((header, gathered.freeze().slice(HEADER_BYTES..whole)), descriptors));
            }
        }
    }
}

fn receive_once(stream: &UnixStream, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            descriptors.extend(files);
        }
    }
    Ok(received.bytes)
}

// --- the server ---

/// Answers a request for shared memory. Gives the transport to go on with, shared or not.
pub(crate) async fn grant(
    socket: Box<dyn Transport>,
    request: &Header,
    (class, account): (BufferClass, Account),
    env: &Rc<NetEnv>,
) -> Result<(Box<dyn Transport>, Lending), NetError> {
    let Some((shared, ours, theirs)) = offer(&*socket, &env.sharing) else {
        return refuse(socket, request, env).await;
    };
    let meta = shared.to_bytes();
    let mut answer = request.reply(Status::Ok, meta.len() as u32, 0).encode().to_vec();
    answer.extend_from_slice(&meta);
    let Some(stream) = socket.unix() else { return Err(NetError::Closed) };
    let sent = stream.async_io(Interest::WRITABLE, || send(stream, &answer, &theirs)).await;
    // Nothing else is on its way to the client, so its socket has room for the whole answer.
    if !matches!(sent, Ok(n) if n == answer.len()) {
        return Err(NetError::Closed);
    }
    let in_place = if is_trusted(&*socket) { Op::has_plain_data } else { |_| false };
    let mut made = ours.transport(socket, Side::Server, in_place, env).map_err(NetError::protocol)?;
    made.0.trust(class, Some(account));
    Ok(made)
}

/// Whether the peer could do as much harm without shared memory.
fn is_trusted(socket: &dyn Transport) -> bool {
    let own = rustix::process::geteuid().as_raw();
    matches!(socket.credentials(), Some((uid, ..)) if uid == own || uid == 0)
}

/// Memory and bells for a session, and what to pass to the client. `None`: the client goes on over its socket.
fn offer(socket: &dyn Transport, sharing: &Sharing) -> Option<(Shared, End, [OwnedFd; DESCRIPTORS])> {
    socket.unix()?;
    let Sharing::Grant(budget) = sharing else { return None };
    let (arena_bytes, grant) = budget.grant()?;
    let made = || -> io::Result<_> {
        let (mut region, memory) = Region::create(arena_bytes, grant)?;
        for side in [Side::Client, Side::Server] {
            region.track(side.outward());
        }
        let (server_ear, client_rope) = bell(Side::Client)?;
        let (client_ear, server_rope) = bell(Side::Server)?;
        let ours = End { region: Arc::new(region), ear: server_ear, rope: server_rope };
        Ok((Shared { arena_bytes }, ours, [memory, client_ear, client_rope]))
    };
    made()
        .inspect_err(
            |error| tracing::warn!(%error, "no shared memory for a client; it goes on over its socket"),
        )
        .ok()
}

async fn refuse(
    mut socket: Box<dyn Transport>,
    request: &Header,
    env: &Rc<NetEnv>,
) -> Result<(Box<dyn Transport>, Lending), NetError> {
    let mut queue = SendQueue::new(env.counters.clone());
    let why = "there is no shared memory to give".to_owned().to_bytes();
    queue.push(request.reply(Status::NotSupported, 0, 0), why, Bytes::new())?;
    poll_fn(|cx| socket.poll_send(cx, &mut queue)).await?;
    Ok((socket, Lending::default()))
}

fn send(stream: &UnixStream, answer: &[u8], files: &[OwnedFd; DESCRIPTORS]) -> io::Result<usize> {
    let files = files.each_ref().map(AsFd::as_fd);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(sendmsg(stream, &[IoSlice::new(answer)], &mut control, flags)?)
}
