//! What clients of another server's node have open of the files that live here. Decision 0053.

use std::rc::Rc;

use fs_proto::msg::inode::OpenInode;
use fs_proto::msg::node::NodeOpens;
use fs_proto::{InodeId, Status};

use super::open::{links_left, register_writer};
use crate::error::OpResult;
use crate::flush;
use crate::opens::{NodeStamp, Opener};
use crate::worker::{Context, Worker};

/// Takes it over; answers which of what is open does not exist, or is being removed.
pub async fn node_opens(worker: &Rc<Worker>, _: &Context, request: NodeOpens) -> OpResult<Vec<InodeId>> {
    let node = NodeStamp { server: request.server, session: request.session, stamp: request.stamp };
    let mut gone = Vec::new();
    for open in request.open {
        if !still_open(worker, &open, node).await? {
            gone.push(open.ino);
        }
        if !open.mode.writes() {
            worker.node.opens.end(open.ino, NodeStamp { stamp: request.settled, ..node }, true);
        }
    }
    for ino in request.lost {
        // What it wrote without telling is content of no known version: flushed as a new one.
        flush::ops::lost_writer(worker, ino).await;
    }
    for ino in request.read {
        worker.node.opens.end(ino, node, true);
    }
    for ino in request.closed {
        worker.node.opens.end(ino, node, false);
    }
    Ok(gone)
}

/// Notes that the inode is open; false if it does not exist, or is being removed.
async fn still_open(worker: &Rc<Worker>, open: &OpenInode, stamp: NodeStamp) -> OpResult<bool> {
    let node = &worker.node;
    let inode = match node.namespace.live_inode(open.ino).await {
        Ok(inode) => inode,
        Err(error) if error.status == Status::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let renew = || node.opens.open(open.ino, Opener::Node(stamp, None), &open.mode, inode.attr.version);
    if open.mode.writes() {
        // After a restart it may be news.
        register_writer(node, open.ino, renew).await;
    } else {
        renew();
    }
    Ok(links_left(node, open.ino).is_ok())
}
