//! The port that a connection stands on: frames in, batches of frames out.
//!
//! Byte streams (TCP, Unix sockets) are the first adapters ([`crate::stream`]), shared memory ([`crate::shm`]) is the second: its frames'
//! bulk parts lie in its own memory. RDMA ([`crate::rdma`]) is the third.

use crate::budget::{Account, BufferClass};
use crate::error::NetError;
use crate::frame::Frame;
use crate::landing::Landings;
use crate::send_queue::SendQueue;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::net::UnixStream;

/// User, group and process number of a peer on this node, as the kernel says.
pub(crate) type Credentials = (u32, u32, i32);

/// A connected peer.
pub(crate) trait Transport {
    /// Appends the frames that arrived, at least one. `Closed` at the end of the stream; any error is final.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut VecDeque<Frame>,
    ) -> Poll<Result<(), NetError>>;

    /// Sends what is queued, with as few system calls as possible; ready when the queue is empty. Any error is final.
    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut SendQueue) -> Poll<Result<(), NetError>>;

    /// Lets a peer that happens to look have what is queued, as far as that takes no system call. Not instead of [`Transport::poll_send`], which
    /// also wakes the peer.
    fn show(&mut self, _queue: &mut SendQueue) -> Result<(), NetError> {
        Ok(())
    }

    /// The peer has proved who it is: from now on it may send frames of any allowed size, received into buffers of `class`, on its account.
    fn trust(&mut self, class: BufferClass, share: Option<Account>);

    /// From now on answers are received where this says, as far as that can be.
    fn land(&mut self, _landings: &Rc<Landings>) {}

    /// Bytes received in all, if the peer owes the rest of a message: a number that stays the same means that it sends nothing.
    fn owed_since(&self) -> Option<u64>;

    /// Who is at the other end, if the kernel knows.
    fn credentials(&self) -> Option<Credentials>;

    /// The Unix socket under it, if that is all it is.
    fn unix(&self) -> Option<&UnixStream> {
        None
    }

    /// The address of the other end, if it has one on a network.
    fn remote(&self) -> Option<SocketAddr> {
        None
    }

    /// Where the other end is, for people.
    fn describe(&self) -> String;
}
