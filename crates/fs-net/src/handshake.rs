//! The handshake of `fs_proto::msg::session`, both sides.
//!
//! # Invariants
//! - Neither side says the secret, and neither proof can be used as the other (they are over different labels).
//! - Who does not speak the protocol gets no byte of answer (`a_stranger_gets_nothing`).
//! - A person whose job, secret or release is wrong is told so, on both sides (`tests/session.rs`).

use crate::env::Identity;
use crate::error::NetError;
use crate::frame::Frame;
use crate::secret::{SECRET_BYTES, Secret, random_bytes};
use crate::send_queue::SendQueue;
use crate::serve::ServerIdentity;
use crate::transport::Transport;
use bytes::{Bytes, BytesMut};
use fs_proto::msg::session::{Challenge, Hello, Prove, Role, Welcome};
use fs_proto::{Flags, Header, Op, Partition, Request, ServerId, Status, Wire};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::Ordering;

const SERVER_LABEL: &[u8] = b"hayate server";
const CLIENT_LABEL: &[u8] = b"hayate client";

/// A connection while the handshake is under way: one frame at a time.
pub(crate) struct Talk<'a> {
    transport: &'a mut dyn Transport,
    queue: SendQueue,
    frames: VecDeque<Frame>,
}

/// What both proofs are over.
struct Facts {
    nonces: [Bytes; 2],
    job: String,
    server: ServerId,
    role: Role,
}

impl Facts {
    fn mac(&self, secret: &Secret, label: &[u8]) -> Hmac<Sha256> {
        let mut text = BytesMut::new();
        for nonce in &self.nonces {
            nonce.put(&mut text);
        }
        self.job.put(&mut text);
        self.server.put(&mut text);
        self.role.put(&mut text);
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(secret.raw()).expect("HMAC takes keys of any length");
        mac.update(label);
        mac.update(&text);
        mac
    }

    fn proof(&self, secret: &Secret, label: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.mac(secret, label).finalize().into_bytes())
    }

    fn is_proof(&self, secret: &Secret, label: &[u8], proof: &[u8]) -> bool {
        self.mac(secret, label).verify_slice(proof).is_ok()
    }
}

impl<'a> Talk<'a> {
    pub(crate) fn new(transport: &'a mut dyn Transport, queue: SendQueue) -> Self {
        Talk { transport, queue, frames: VecDeque::new() }
    }

    async fn send(&mut self, header: Header, meta: Bytes) -> Result<(), NetError> {
        self.queue.push(header, meta, Bytes::new())?;
        poll_fn(|cx| self.transport.poll_send(cx, &mut self.queue)).await
    }

    async fn receive(&mut self) -> Result<Frame, NetError> {
        if self.frames.is_empty() {
            poll_fn(|cx| self.transport.poll_receive(cx, &mut self.frames)).await?;
        }
        self.frames.pop_front().ok_or(NetError::Closed)
    }

    /// Asks and waits for the answer.
    async fn ask<R: Request>(&mut self, request: &R) -> Result<R::Reply, NetError> {
        self.send(Header::request(R::OP, Partition(0)), request.to_bytes()).await?;
        let answer = self.receive().await?;
        if answer.header.op != R::OP || !answer.header.flags.has(Flags::REPLY) {
            return Err(NetError::protocol("something else than an answer to the handshake"));
        }
        match answer.header.status {
            Status::Ok => R::Reply::from_bytes(answer.meta).map_err(NetError::protocol),
            status => Err(NetError::Rejected(refusal(status, answer.meta))),
        }
    }

    /// Waits for a request of the handshake.
    async fn expect<R: Request>(&mut self) -> Result<(Header, R), NetError> {
        let frame = self.receive().await?;
        if frame.header.op != R::OP || frame.header.flags.has(Flags::REPLY) {
            return Err(NetError::protocol("something else than a handshake"));
        }
        Ok((frame.header, R::from_bytes(frame.meta).map_err(NetError::protocol)?))
    }

    async fn answer<R: Wire>(&mut self, request: &Header, reply: &R) -> Result<(), NetError> {
        self.send(request.reply(Status::Ok, 0, 0), reply.to_bytes()).await
    }

    /// Tells the peer why it is refused and gives the reason back as an error.
    async fn refuse<T>(&mut self, request: &Header, reason: String) -> Result<T, NetError> {
        self.send(request.reply(Status::Unauthenticated, 0, 0), reason.to_bytes()).await?;
        Err(NetError::Rejected(reason))
    }

    /// Tells a peer of another release so. It finds our version in the header.
    pub(crate) async fn refuse_version(&mut self, reason: &str) -> Result<(), NetError> {
        let request = Header::request(Op::Hello, Partition(0));
        self.send(request.reply(Status::WrongVersion, 0, 0), reason.to_owned().to_bytes()).await
    }
}

fn refusal(status: Status, meta: Bytes) -> String {
    String::from_bytes(meta).unwrap_or_else(|_| format!("{status:?}"))
}

fn nonce() -> Result<Bytes, NetError> {
    let raw =
        random_bytes().map_err(|e| NetError::Rejected(format!("no random numbers on this node: {e}")))?;
    Ok(Bytes::copy_from_slice(&raw))
}

/// The connecting side. Gives the server's number and its epoch.
pub(crate) async fn introduce(mut talk: Talk<'_>, who: &Identity) -> Result<(ServerId, u64), NetError> {
    let mine = nonce()?;
    let hello = Hello { role: who.role.clone(), job: who.job.clone(), nonce: mine.clone() };
    let challenge: Challenge = talk.ask(&hello).await?;
    if challenge.nonce.len() != SECRET_BYTES {
        return Err(NetError::protocol("a handshake with a short nonce"));
    }
    let facts =
        Facts { nonces: [mine, challenge.nonce], job: hello.job, server: challenge.server, role: hello.role };
    if !facts.is_proof(&who.secret, SERVER_LABEL, &challenge.proof) {
        return Err(NetError::Rejected(format!(
            "server {} does not know this job's secret: the cluster file is old or of another cluster",
            facts.server
        )));
    }
    let welcome: Welcome = talk.ask(&Prove { proof: facts.proof(&who.secret, CLIENT_LABEL) }).await?;
    Ok((facts.server, welcome.epoch))
}

/// The accepting side. Gives the peer's role.
pub(crate) async fn admit(talk: &mut Talk<'_>, me: &ServerIdentity) -> Result<Role, NetError> {
    let (request, hello): (Header, Hello) = talk.expect().await?;
    if hello.nonce.len() != SECRET_BYTES {
        return Err(NetError::protocol("a handshake with a short nonce"));
    }
    if hello.job != me.job {
        let reason =
            format!("server {} belongs to another job: the cluster file is old or of another cluster", me.id);
        return talk.refuse(&request, reason).await;
    }
    let mine = nonce()?;
    let facts =
        Facts { nonces: [hello.nonce, mine.clone()], job: hello.job, server: me.id, role: hello.role };
    let proof = facts.proof(&me.secret, SERVER_LABEL);
    talk.answer(&request, &Challenge { server: me.id, nonce: mine, proof }).await?;
    let (request, prove): (Header, Prove) = talk.expect().await?;
    if !facts.is_proof(&me.secret, CLIENT_LABEL, &prove.proof) {
        return talk
            .refuse(&request, format!("the proof for server {} is wrong: another secret", me.id))
            .await;
    }
    talk.answer(&request, &Welcome { epoch: me.epoch.load(Ordering::Acquire) }).await?;
    Ok(facts.role)
}
