//! The side of the home: it notices which names and inodes many nodes ask for, lends the answers, and calls them back before something changes.

use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fs_net::{Frame, PeerInfo, Reply};
use fs_proto::msg::hot::HotForget;
use fs_proto::msg::name::OpenMode;
use fs_proto::msg::session::Role;
use fs_proto::placement::name_hash;
use fs_proto::{Flags, InodeId, ServerId, Status, TimeNs};

use super::COOLING;
use super::question::{Question, Subject, told};
use crate::namespace::DirView;
use crate::namespace::loans::{CallBack, Extent};
use crate::namespace::locks::LockKey;
use crate::node::Node;
use crate::opened;
use crate::opens::Opener;
use crate::ops;
use crate::worker::Worker;

/// Between two attempts to call something back.
const PAUSE: Duration = Duration::from_millis(50);

/// What an answer is about to be lent for.
pub struct Lent {
    server: ServerId,
    opens: Option<InodeId>,
}

/// Lends what the answer to a request will depend on, if a client asks through a server for something hot. What is lent does not change before it is called back,
/// so the answer that is made after this is right for as long.
pub fn lend(worker: &Worker, peer: &PeerInfo, frame: &Frame) -> Option<Lent> {
    let (node, hot) = (&worker.node, &worker.node.hot);
    let Role::Server { id: server } = peer.role else { return None };
    if frame.header.client.0 == 0 || !hot.is_enabled() {
        return None;
    }
    let question = Question::of(frame)?;
    let (key, now) = (question.subject.key(), Instant::now());
    let is_hot = hot.questions.note(key, server, now) || node.namespace.locks().is_lent(key, now);
    (is_hot && is_lent(node, &question.subject, server, now))
        .then(|| Lent { server, opens: question.opens() })
}

fn is_lent(node: &Node, subject: &Subject, server: ServerId, now: Instant) -> bool {
    match subject {
        Subject::Inode(ino) => lend_inode(node, *ino, server, now),
        Subject::Name { parent, name } => {
            let locks = node.namespace.locks();
            let view = || ops::directory_in_section(node, *parent, name).ok();
            let entry = LockKey::Entry(*parent, name_hash(*parent, name));
            // What is not listed, or not here, is not lent: it is changed by being asked for.
            if view().is_none()
                || !locks.lend(LockKey::Inode(*parent), Extent::Access, server, now)
                || !locks.lend(entry, Extent::Access, server, now)
            {
                return false;
            }
            let Some(view) = view() else { return false };
            match node.namespace.entry(*parent, name) {
                Ok(Some(entry)) if node.owns(entry.ino.partition()) => {
                    lend_inode(node, entry.ino, server, now)
                }
                Ok(Some(_)) => true,
                // Names come and go in a directory that is worked in.
                Ok(None) => is_quiet(node, changed_at(&view)),
                Err(_) => false,
            }
        }
    }
}

fn changed_at(view: &DirView) -> TimeNs {
    match view {
        DirView::Narrow(inode) => inode.attr.ctime,
        DirView::Wide(shard) => shard.mtime,
    }
}

fn is_quiet(node: &Node, changed: TimeNs) -> bool {
    node.now().saturating_sub(changed) >= COOLING.as_nanos() as TimeNs
}

/// Lends an inode's attributes, unless they change without the namespace, or all the time.
fn lend_inode(node: &Node, ino: InodeId, server: ServerId, now: Instant) -> bool {
    let may_be = || {
        let Ok(Some(inode)) = node.namespace.inode(ino) else { return false };
        let attr = &inode.attr;
        if attr.is_dir() {
            return !attr.wide && is_quiet(node, attr.ctime);
        }
        // How far writers came is asked of them.
        node.opens.writers(ino).is_empty()
    };
    // Looked at again afterwards: who begins to write has the inode called back, or is seen here.
    may_be() && node.namespace.locks().lend(LockKey::Inode(ino), Extent::Whole, server, now) && may_be()
}

impl Lent {
    /// Says in the answer that it is lent, if it may be kept.
    pub fn tell(self, worker: &Worker, reply: &mut Reply) {
        let (node, status) = (&worker.node, reply.header.status);
        if !matches!(status, Status::Ok | Status::NotFound) {
            return;
        }
        if let Err(error) = node.hot.grants.note(&**node.namespace.kv()) {
            tracing::debug!(message = %error.message, "nothing is lent that could not be written down");
            return;
        }
        if status == Status::Ok
            && let Some(ino) = self.opens
        {
            // For those of its clients whom it answers itself: it tells of them later.
            let borrower = Opener::Client(opened::borrower_of(self.server));
            node.opens.open(ino, borrower, &OpenMode::Read {}, 0);
        }
        node.hot.counters.answers_lent.fetch_add(1, Ordering::Relaxed);
        reply.header.flags = reply.header.flags.with(Flags::LENT);
    }
}

/// Calls back what is to change, until the server ends.
pub async fn serve(worker: Rc<Worker>) {
    let node = &worker.node;
    let Some(mut calls) = node.namespace.locks().loans().calls() else { return };
    loop {
        tokio::select! {
            call = calls.recv() => match call {
                Some(call) => drop(tokio::task::spawn_local(call_back(Rc::clone(&worker), call))),
                None => return,
            },
            () = node.stopped() => return,
        }
    }
}

async fn call_back(worker: Rc<Worker>, call: CallBack) {
    let request = HotForget { keys: call.keys.iter().map(|key| told(*key)).collect() };
    let calls = call.servers.iter().map(|server| from(&worker, &call.keys, &request, *server, call.until));
    futures_util::future::join_all(calls).await;
}

/// Returns when the server has given back, or all leases are over.
fn from<'a>(
    worker: &'a Rc<Worker>,
    keys: &'a [LockKey],
    request: &'a HotForget,
    server: ServerId,
    until: Instant,
) -> impl Future<Output = ()> + 'a {
    let counters = &worker.node.hot.counters;
    let called = async move {
        while let Err(error) = worker.ask(server, request).await {
            tracing::debug!(%server, message = %error.message, "an answer is not called back yet");
            tokio::time::sleep(PAUSE).await;
        }
    };
    async move {
        if tokio::time::timeout_at(until.into(), called).await.is_ok() {
            worker.node.namespace.locks().returned(keys, server);
            counters.answers_recalled.fetch_add(1, Ordering::Relaxed);
        } else {
            counters.answers_waited.fetch_add(1, Ordering::Relaxed);
        }
    }
}
