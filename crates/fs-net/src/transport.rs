//! The port that a connection stands on: frames in, batches of frames out.
//!
//! Byte streams (TCP, Unix sockets) are the first adapters ([`crate::stream`]); a shared memory ring or RDMA verbs implement the
//! same five functions and bring frames whose bulk part lies in their own memory.

use crate::error::NetError;
use crate::frame::Frame;
use crate::pool::BufferClass;
use crate::send_queue::SendQueue;
use std::collections::VecDeque;
use std::task::{Context, Poll};

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

    /// The peer has proved who it is: from now on it may send frames of any allowed size, received into buffers of `class`.
    fn trust(&mut self, class: BufferClass);

    /// Who is at the other end, if the kernel knows.
    fn credentials(&self) -> Option<Credentials>;

    /// Where the other end is, for people.
    fn describe(&self) -> String;
}
