//! The transport port over RDMA.
//!
//! The TCP connection stays open below: it carries what fits nowhere else, and tells when the peer dies. A server goes on over it until the
//! peer has connected by rdma_cm; that may be never.
//!
//! # Invariants
//! - Frames come out as they were sent, by whichever way; between the two ways their order is not kept, as answers have none (`tests/calls.rs`).
//! - When either way ends the connection does, after what had come by the other.

use super::cm::Awaited;
use super::link::Link;
use crate::budget::{Account, BufferClass};
use crate::env::NetEnv;
use crate::error::NetError;
use crate::frame::Frame;
use crate::landing::Landings;
use crate::send_queue::SendQueue;
use crate::transport::{Credentials, Transport};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// A session over RDMA, or one that may become that.
pub(super) struct RdmaTransport {
    link: Option<Link>,
    awaited: Option<Rc<Awaited>>,
    socket: Box<dyn Transport>,
    env: Rc<NetEnv>,
    is_client: bool,
    class: BufferClass,
    share: Option<Account>,
    /// What goes over the socket.
    overflow: SendQueue,
}

impl RdmaTransport {
    /// The connecting side's.
    pub fn connected(socket: Box<dyn Transport>, link: Link, env: &Rc<NetEnv>) -> RdmaTransport {
        RdmaTransport { link: Some(link), ..RdmaTransport::over(socket, true, env) }
    }

    /// The accepting side's.
    pub fn awaiting(socket: Box<dyn Transport>, awaited: Rc<Awaited>, env: &Rc<NetEnv>) -> RdmaTransport {
        RdmaTransport { awaited: Some(awaited), ..RdmaTransport::over(socket, false, env) }
    }

    fn over(socket: Box<dyn Transport>, is_client: bool, env: &Rc<NetEnv>) -> RdmaTransport {
        RdmaTransport {
            link: None,
            awaited: None,
            socket,
            env: env.clone(),
            is_client,
            class: BufferClass::ClientRequest,
            share: None,
            overflow: SendQueue::new(env.counters.clone()),
        }
    }

    /// Takes the connection over if it has come.
    fn look_for_peer(&mut self, cx: &Context<'_>) {
        let Some(awaited) = &self.awaited else { return };
        if let Some(pair) = awaited.poll_come(cx) {
            self.link = Some(Link::new(pair, &self.env));
            self.awaited = None;
        }
    }

    fn receive_linked(&mut self, cx: &mut Context<'_>, frames: &mut VecDeque<Frame>) -> Result<(), NetError> {
        let Some(link) = &mut self.link else { return Ok(()) };
        link.receive(cx, (self.class, self.share.as_ref()), frames)
    }
}

impl Transport for RdmaTransport {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut VecDeque<Frame>,
    ) -> Poll<Result<(), NetError>> {
        self.look_for_peer(cx);
        let before = frames.len();
        loop {
            self.receive_linked(cx, frames)?;
            if frames.len() > before {
                return Poll::Ready(Ok(()));
            }
            match self.socket.poll_receive(cx, frames) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    let new = frames.len() - before;
                    if let Some(link) = &mut self.link {
                        link.note_others(new, 0);
                    }
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(end)) => {
                    self.receive_linked(cx, frames)?;
                    return Poll::Ready(if frames.len() > before { Ok(()) } else { Err(end) });
                }
            }
            let Some(link) = &mut self.link else { return Poll::Pending };
            if !link.rest(cx, self.is_client)? {
                return Poll::Pending;
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut SendQueue) -> Poll<Result<(), NetError>> {
        self.look_for_peer(cx);
        let Some(link) = self.link.as_mut().filter(|link| link.is_up()) else {
            return self.socket.poll_send(cx, queue);
        };
        loop {
            let sent = link.send(cx, queue, &mut self.overflow)?;
            let over_socket = self.socket.poll_send(cx, &mut self.overflow)?;
            ready!(sent);
            ready!(over_socket);
            if queue.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn trust(&mut self, class: BufferClass, share: Option<Account>) {
        self.class = class;
        self.share.clone_from(&share);
        self.socket.trust(class, share);
    }

    fn land(&mut self, landings: &Rc<Landings>) {
        if let Some(link) = &mut self.link {
            link.land(landings);
        }
        self.socket.land(landings);
    }

    fn owed_since(&self) -> Option<u64> {
        self.socket.owed_since().or_else(|| self.link.as_ref().and_then(Link::owed_since))
    }

    fn credentials(&self) -> Option<Credentials> {
        self.socket.credentials()
    }

    fn remote(&self) -> Option<SocketAddr> {
        self.socket.remote()
    }

    fn describe(&self) -> String {
        match &self.link {
            Some(link) => format!("{}, {}", self.socket.describe(), link.describe()),
            None => self.socket.describe(),
        }
    }
}
