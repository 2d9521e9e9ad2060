//! A server within the process of its client: what it can answer at once is answered by the thread that asks, without a message.
//!
//! # Invariants
//! - The answer is the one that a message would have got: the same handler, told the same of who asks
//!   (`tests/tests/inside.rs`, `answers_are_those_of_messages`).
//! - Nothing goes on after the answer: the thread may not run this event loop again for long. What would is sent as a message
//!   ([`ServerInside::takes`]).

use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fs_proto::msg::session::Role;
use fs_proto::{ClientId, Header, ServerId};

use crate::frame::Frame;
use crate::serve::{Handled, Handler, PeerInfo};
use crate::shm::Lending;

/// A server that runs in this process.
pub trait ServerInside: Debug + Send + Sync {
    /// Its number.
    fn id(&self) -> ServerId;

    /// Whether a request can be carried out by the thread that asks: it ends with its answer and is for this very server.
    fn takes(&self, header: &Header) -> bool;

    /// What carries out requests on the calling thread's event loop; None once the server has ended.
    fn handler(&self) -> Option<Rc<dyn Handler>>;
}

/// Such a server, as one thread of a client sees it.
pub(crate) struct Inside {
    server: Arc<dyn ServerInside>,
    handler: Rc<dyn Handler>,
    peer: Rc<PeerInfo>,
}

impl Inside {
    pub(crate) fn new(server: Arc<dyn ServerInside>, client: ClientId) -> Option<Inside> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let peer = PeerInfo {
            role: Role::Client { id: client },
            credentials: Some((uid, gid, std::process::id() as i32)),
            lending: Lending::default(),
        };
        Some(Inside { handler: server.handler()?, server, peer: Rc::new(peer) })
    }

    pub(crate) fn takes(&self, to: ServerId, header: &Header) -> bool {
        to == self.server.id() && self.server.takes(header)
    }

    /// Carries a request out, which [`Inside::takes`] said yes to.
    pub(crate) async fn call(&self, mut header: Header, meta: Bytes, bulk: Bytes) -> Frame {
        (header.meta_bytes, header.bulk_bytes) = (meta.len() as u32, bulk.len() as u32);
        let reply = match Rc::clone(&self.handler).handle(&self.peer, Frame { header, meta, bulk }) {
            Handled::Now(reply) => reply,
            Handled::Later(reply) => reply.await,
        };
        Frame { header: reply.header, meta: reply.meta, bulk: reply.bulk }
    }
}
