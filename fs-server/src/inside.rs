//! A server for clients of its own process: their threads carry out what needs no worker of the server.

use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use fs_net::{Handler, ServerInside};
use fs_proto::{Flags, Header, Op, Partition, ServerId};

use crate::node::Node;
use crate::threads;

/// See the module. It does not keep the server from ending.
pub struct Inside {
    id: ServerId,
    node: Weak<Node>,
}

impl Inside {
    /// Of a server; until it has joined its cluster it takes nothing.
    pub fn new(node: &Arc<Node>) -> Self {
        Inside { id: node.id(), node: Arc::downgrade(node) }
    }
}

/// Whether an operation leaves nothing to do when it is answered. With direct I/O tasks of the thread move chunks, for other requests too.
fn ends_with_its_answer(node: &Node, op: Op) -> bool {
    match op {
        Op::Lookup
        | Op::Getattr
        | Op::GetattrMany
        | Op::Readdir
        | Op::Readlink
        | Op::Getxattr
        | Op::Listxattr
        | Op::Open
        | Op::OpenRead
        | Op::Release
        | Op::ReadInline
        | Op::WriteInline
        | Op::Get
        | Op::GetMany
        | Op::Statfs => true,
        Op::ReadChunk | Op::WriteChunk => !node.reads_directly(),
        _ => false,
    }
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inside").field(&self.id).finish()
    }
}

impl ServerInside for Inside {
    fn id(&self) -> ServerId {
        self.id
    }

    fn takes(&self, header: &Header) -> bool {
        let Some(node) = self.node.upgrade() else { return false };
        if !node.has_joined() || node.is_stopping() {
            return false;
        }
        let here = if header.flags.has(Flags::TO_SERVER) {
            ServerId(header.target) == self.id
        } else {
            node.owns(Partition(header.target))
        };
        here && ends_with_its_answer(&node, header.op)
    }

    fn handler(&self) -> Option<Rc<dyn Handler>> {
        self.node.upgrade().map(|node| threads::new_worker(&node) as Rc<dyn Handler>)
    }
}
