//! The home learns what a client wrote: size, time, a new version.

use std::rc::Rc;

use fs_proto::msg::inode::{PollSize, Publish};
use fs_proto::record::{InodeRecord, Mutation};
use fs_proto::{Attr, ClientId};

use super::getattr::NEVER;
use super::spill::Outgrown;
use super::{getattr, spill};
use crate::error::{OpError, OpResult};
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::opened::{self, KnownWriter};
use crate::opens::{Who, Writer};
use crate::worker::{Context, Worker};

/// Set-user-id and set-group-id bits: a write by somebody without privilege takes them off.
const SET_ID: u32 = 0o6000;

/// Takes over what was written.
pub async fn publish(worker: &Rc<Worker>, context: &Context, request: Publish) -> OpResult<Attr> {
    let node = &worker.node;
    let inode = node.namespace.live_inode(request.ino).await?;
    let mut attr = inode.attr.clone();
    if request.mtime.is_some() {
        let end = true_end(worker, context, &request, &inode).await?;
        if inode.attr.inline && end > inode.attr.size {
            // Only space that is asked for (fallocate) is published of a small file; what comes there goes to chunks.
            spill::to_chunks(worker, request.ino, Outgrown::by(context, end)).await?;
        }
        attr = take_over(worker, context, &request, end).await?;
        node.flusher.control().note_written(attr.size);
    }
    if request.close {
        node.opens.release(request.ino, context.closer());
        if let Some(stamp) = context.arrival.for_node {
            node.opens.end(request.ino, stamp, context.arrival.reads_yet);
        }
        node.flusher.control().admit(node).await;
    }
    if request.sync && node.syncs_device() {
        crate::sync::group_sync(node).await?;
    }
    Ok(attr)
}

/// How far the client's writes reach. When the file was cut since the client last heard of it, only the servers that the writes
/// went through know which came after the cut.
async fn true_end(
    worker: &Rc<Worker>,
    context: &Context,
    request: &Publish,
    inode: &InodeRecord,
) -> OpResult<u64> {
    if inode.cut_version <= request.since {
        return Ok(request.end);
    }
    let client = context.client();
    let mut writers = worker.node.opens.writers(request.ino);
    writers.retain(|writer| match writer.who {
        Who::Client(own) => own == client,
        Who::Node { server, .. } => Some(server) == context.arrival.through,
    });
    for writer in &mut writers {
        // Of those of its node only this one counts, from the version on that the node's server knows. A home that was restarted knows a later one than the client's.
        writer.who = Who::Client(client);
        writer.version = writer.version.min(request.since);
    }
    if writers.is_empty() {
        // It has come another way than before, or this home was restarted since: it may have written by any.
        writers.push(Writer { who: Who::Client(client), via: None, version: request.since });
    }
    getattr::poll(worker, request.ino, &writers, None, false).await
}

async fn take_over(worker: &Rc<Worker>, context: &Context, request: &Publish, end: u64) -> OpResult<Attr> {
    let namespace = &worker.node.namespace;
    let set = LockSet::of(&[(LockKey::Inode(request.ino), Mode::Exclusive)]);
    namespace
        .locks()
        .with(&set, || {
            let inode = namespace.inode_in_section(request.ino)?.ok_or(OpError::not_found())?;
            let mut changed = (*inode).clone();
            let attr = &mut changed.attr;
            attr.size = attr.size.max(end);
            attr.version += 1;
            attr.capable = false;
            attr.mtime = request.mtime.unwrap_or(attr.mtime);
            attr.ctime = worker.node.now();
            if !context.caller.is_root() {
                attr.mode &= !set_id_bits(attr.mode);
            }
            let attr = attr.clone();
            namespace.commit(&[Mutation::PutInode { inode: changed }])?;
            Ok(attr)
        })
        .await
}

/// The set-id bits that a write clears: set-group-id without group execution means mandatory locking and stays.
pub fn set_id_bits(mode: u32) -> u32 {
    if mode & 0o010 == 0 { mode & 0o4000 } else { mode & SET_ID }
}

/// How far unpublished writes reached that came to this server.
#[allow(clippy::unused_async)] // One signature for all operations.
pub async fn poll_size(worker: &Rc<Worker>, _: &Context, request: PollSize) -> OpResult<u64> {
    let node = &worker.node;
    if request.writers.is_empty() {
        node.sizes.forget(request.ino);
        return Ok(0);
    }
    let known = node.opened.writers(request.ino);
    let writers = expanded(&known, &request.writers, opened::client_of(node.id()));
    Ok(node.sizes.poll(request.ino, &writers, request.forget))
}

/// The asked writers, with all `known` ones in place of this server, `own`; and from the versions on that are known here, where they are.
fn expanded(known: &[KnownWriter], asked: &[(ClientId, u64)], own: ClientId) -> Vec<(ClientId, u64)> {
    let since = |&(client, version): &(ClientId, u64)| {
        let here = known.iter().find(|known| known.client == client && version != NEVER);
        (client, here.map_or(version, |known| known.counts_from(version)))
    };
    let mut writers: Vec<_> = asked.iter().filter(|(client, _)| *client != own).map(since).collect();
    // One for each run of this server that the home knows.
    let of_node = asked.iter().filter(|(client, _)| *client == own).map(|(_, version)| *version).min();
    if let Some(version) = of_node {
        let is_listed = |known: &KnownWriter| asked.iter().any(|(asked, _)| *asked == known.client);
        let others = known.iter().filter(|known| !is_listed(known));
        writers.extend(others.map(|known| (known.client, known.counts_from(version))));
    }
    writers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_counts_for_those_who_are_not_listed() {
        let (own, one, other) = (ClientId(100), ClientId(1), ClientId(2));
        let known = [
            KnownWriter { client: one, opened: Some(4), found: None },
            KnownWriter { client: other, opened: None, found: Some(9) },
        ];
        assert_eq!(expanded(&known, &[(own, 3)], own), [(one, 4), (other, 9)]);
        assert_eq!(expanded(&known, &[(own, 3), (one, NEVER)], own), [(one, NEVER), (other, 9)]);
        assert_eq!(expanded(&known, &[(other, 3)], own), [(other, 9)]);
        assert_eq!(expanded(&known, &[(other, 11), (one, 11)], own), [(other, 11), (one, 4)], "closed since");
        assert_eq!(expanded(&known, &[(own, 12), (own, 11)], own), [(one, 4), (other, 11)]);
        assert_eq!(expanded(&known, &[(ClientId(5), 3)], own), [(ClientId(5), 3)]);
        assert_eq!(expanded(&[], &[(own, 3), (one, 2)], own), [(one, 2)]);
    }
}
