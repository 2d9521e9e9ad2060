//! Homes are told what clients of this node have open, three times within a lease and more, and what ended.
//!
//! # Invariants
//! - What a home did not hear of an end it is told again (`table.rs`, `who_is_not_heard_of_is_forgotten`); if it does not answer for a lease, the end comes by itself.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fs_proto::msg::inode::OpenInode;
use fs_proto::msg::name::OpenMode;
use fs_proto::msg::node::NodeOpens;
use fs_proto::{InodeId, ServerId};
use futures_util::StreamExt;
use futures_util::stream;

use super::table::{Opened, is_empty};
use crate::node::Node;
use crate::worker::Worker;

/// How often it is looked who was not heard of, in parts of a lease: every 5 s.
const TICKS: u32 = 18;
/// Ticks from one telling of homes of all that is open to the next: 20 s. A home that was restarted does not flush files for half as long again, as it may not know yet
/// who writes.
const ROUND_TICKS: u32 = 4;
const _: () = assert!(ROUND_TICKS * 4 < TICKS);
/// How long a home may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Files in one message.
const FILES_MAX: usize = 4096;
/// Messages under way.
const FAN_OUT: usize = 64;

/// How homes took what they were told.
pub struct Told {
    /// All answered.
    pub is_heard: bool,
    /// These are not there.
    pub gone: Vec<InodeId>,
}

/// Runs until the server ends.
pub async fn serve(worker: Rc<Worker>) {
    let opened = &worker.node.opened;
    let tick = opened.lease() / TICKS;
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(tick) => {}
            () = worker.node.stopped() => return,
        }
        tell(&worker, opened.expire(Instant::now())).await;
        tell(&worker, opened.again()).await;
        if last.elapsed() >= tick * ROUND_TICKS {
            last = Instant::now();
            round(&worker).await;
        }
    }
}

/// Tells all homes what is open.
async fn round(worker: &Rc<Worker>) {
    let node = &worker.node;
    if node.opened.is_empty() {
        return;
    }
    let round = node.opened.round();
    let mut homes: BTreeMap<ServerId, Vec<(InodeId, bool)>> = BTreeMap::new();
    for (ino, writes) in round.open {
        homes.entry(node.owner(ino.partition())).or_default().push((ino, writes));
    }
    let parts = homes.into_iter().flat_map(|(home, open)| {
        open.chunks(FILES_MAX).map(|part| (home, part.to_vec())).collect::<Vec<_>>()
    });
    let (stamp, settled) = (round.stamp, round.settled);
    stream::iter(parts)
        .for_each_concurrent(FAN_OUT, |(home, part)| async move {
            let open = part.iter().map(|(ino, writes)| record(node, *ino, *writes)).collect();
            one(worker, home, NodeOpens { open, ..nothing(node, stamp, settled) }).await;
            tell(worker, node.opened.after_round(stamp, &part)).await;
        })
        .await;
}

fn record(node: &Node, ino: InodeId, writes: bool) -> OpenInode {
    let mode = if writes { OpenMode::Write { via: Some(node.id()) } } else { OpenMode::Read {} };
    OpenInode { ino, mode }
}

fn nothing(node: &Node, stamp: u64, settled: u64) -> NodeOpens {
    NodeOpens {
        server: node.id(),
        session: node.opened.session(),
        stamp,
        settled,
        open: Vec::new(),
        read: Vec::new(),
        closed: Vec::new(),
        lost: Vec::new(),
    }
}

/// Tells the homes of files what is new of them.
pub async fn tell(worker: &Rc<Worker>, news: NodeOpens) -> Told {
    let mut told = Told { is_heard: true, gone: Vec::new() };
    if is_empty(&news) {
        return told;
    }
    let mut answers = stream::iter(parts(&worker.node, news))
        .map(|(home, part)| one(worker, home, part))
        .buffer_unordered(FAN_OUT);
    while let Some(answer) = answers.next().await {
        match answer {
            Some(gone) => told.gone.extend(gone),
            None => told.is_heard = false,
        }
    }
    told
}

/// News by homes, in messages that are not too long.
fn parts(node: &Node, news: NodeOpens) -> Vec<(ServerId, NodeOpens)> {
    let mut homes: BTreeMap<ServerId, Vec<NodeOpens>> = BTreeMap::new();
    let (stamp, settled) = (news.stamp, news.settled);
    let mut add = |ino: InodeId, put: &mut dyn FnMut(&mut NodeOpens)| {
        let parts = homes.entry(node.owner(ino.partition())).or_default();
        let is_full = |part: &NodeOpens| {
            part.open.len() + part.read.len() + part.closed.len() + part.lost.len() >= FILES_MAX
        };
        if parts.last().is_none_or(is_full) {
            parts.push(nothing(node, stamp, settled));
        }
        if let Some(part) = parts.last_mut() {
            put(part);
        }
    };
    for record in &news.open {
        add(record.ino, &mut |part| part.open.push(record.clone()));
    }
    // First what was lost, then that nobody has it open: a home keeps what it is told in this order.
    for ino in &news.lost {
        add(*ino, &mut |part| part.lost.push(*ino));
    }
    for ino in &news.read {
        add(*ino, &mut |part| part.read.push(*ino));
    }
    for ino in &news.closed {
        add(*ino, &mut |part| part.closed.push(*ino));
    }
    homes.into_iter().flat_map(|(home, parts)| parts.into_iter().map(move |part| (home, part))).collect()
}

/// A message that is not answered yet: if it is given up, what it tells is told later.
struct Telling<'a> {
    opened: &'a Opened,
    news: NodeOpens,
    is_heard: bool,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if !self.is_heard {
            self.opened.not_heard(&self.news);
        }
    }
}

/// One message. None: the home did not answer.
async fn one(worker: &Rc<Worker>, home: ServerId, news: NodeOpens) -> Option<Vec<InodeId>> {
    let opened = &worker.node.opened;
    let mut telling = Telling { opened, news, is_heard: false };
    match tokio::time::timeout(PATIENCE, worker.ask(home, &telling.news)).await {
        Ok(Ok(gone)) => {
            telling.is_heard = true;
            Some(gone)
        }
        Ok(Err(error)) => {
            tracing::debug!(server = %home, message = %error.message, "a home was not told which files are open");
            None
        }
        Err(_) => None,
    }
}
