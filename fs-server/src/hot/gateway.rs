//! The side of a server whose clients ask about names and inodes of others: what their homes have lent it, it answers itself.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use fs_net::{Frame, Reply};
use fs_proto::msg::Caller;
use fs_proto::msg::hot::HotForget;
use fs_proto::msg::inode::{Open, Release, Renew};
use fs_proto::wire::Reader;
use fs_proto::{Flags, Header, InodeId, Op, ServerId, Wire};

use super::answers::{Asking, Found, Mark};
use super::question::{self, Question, Said};
use crate::error::{OpError, OpResult};
use crate::namespace::locks::LockKey;
use crate::worker::{Context, Worker, refusal};

/// How often somebody looks whether what it waited for has come, before it asks by itself.
const ROUNDS: usize = 4;

/// Whether this server may be able to answer a client's request to another one. Of most it is not.
pub fn is_wanted(worker: &Worker, header: &Header) -> bool {
    let hot = &worker.node.hot;
    !hot.answers.is_empty() && question::is_lendable(header.op)
        || !hot.opened.is_empty() && matches!(header.op, Op::Release | Op::Renew | Op::Open | Op::OpenRead)
}

/// Answers a client's request to another server, if this one can.
pub async fn answer(worker: &Rc<Worker>, frame: &Frame, home: ServerId) -> Option<Reply> {
    let hot = &worker.node.hot;
    if let Some(reply) = closing(worker, frame) {
        return Some(reply);
    }
    let question = Question::of(frame)?;
    let key = question.key();
    for _ in 0..ROUNDS {
        match hot.answers.find(&key) {
            Found::Answer(said) => return kept(worker, frame, &question, &said),
            // An error says that it is over.
            Found::Coming(mut over) => drop(over.changed().await),
            Found::Ask(asking) => return asked(worker, frame, home, &question, &key, asking).await,
            Found::Cold => break,
        }
    }
    if let Some(ino) = question.opens() {
        told(worker, &frame.header, ino);
    }
    None
}

fn kept(worker: &Worker, frame: &Frame, question: &Question, said: &Said) -> Option<Reply> {
    let hot = &worker.node.hot;
    let reply = question.reply(&frame.header, said)?;
    if let Some(ino) = question.opens()
        && !hot.opened.note(frame.header.client, ino)
    {
        return None;
    }
    hot.counters.answers_given.fetch_add(1, Ordering::Relaxed);
    Some(reply)
}

/// Asks the home for all who ask here, in the common form of the question.
async fn asked(
    worker: &Rc<Worker>,
    frame: &Frame,
    home: ServerId,
    question: &Question,
    key: &Bytes,
    asking: Asking<'_>,
) -> Option<Reply> {
    let hot = &worker.node.hot;
    let header = Header { op: question.op, hops: 1, ..frame.header };
    if let Some(ino) = question.opens() {
        told(worker, &header, ino);
    }
    let answer = match worker.peers.call(home, header, question.body(), Bytes::new()).await {
        Ok(answer) => answer,
        Err(error) => return Some(refusal(&frame.header, &OpError::from(error))),
    };
    let is_lent = answer.header.flags.has(Flags::LENT);
    let said = Said { status: answer.header.status, meta: answer.meta, bulk: answer.bulk };
    match question.keys(&said).filter(|_| is_lent) {
        Some(keys) => drop(hot.answers.keep(key, asking.mark, Some(&said), keys)),
        None => hot.answers.cold(key),
    }
    question.reply(&frame.header, &said)
}

/// When a request is sent on as it came, whose answer may be lent.
pub fn mark(worker: &Worker, header: &Header) -> Option<Mark> {
    let hot = &worker.node.hot;
    (question::is_lendable(header.op) && hot.is_enabled()).then(|| hot.answers.mark())
}

/// The home gets to know that the client has an inode open.
fn told(worker: &Worker, header: &Header, ino: InodeId) {
    let opened = &worker.node.hot.opened;
    if !opened.is_empty() {
        opened.told(header.client, [ino]);
    }
}

/// Takes note of the answer to a request that was sent on at `mark`, and makes it one for a client.
pub fn passing(worker: &Worker, frame: &Frame, mark: Option<Mark>, answer: &mut Frame) {
    if !answer.header.flags.has(Flags::LENT) {
        return;
    }
    answer.header.flags = answer.header.flags.without(Flags::LENT);
    let Some((mark, question)) = mark.zip(Question::of(frame)) else { return };
    let said = Said { status: answer.header.status, meta: answer.meta.clone(), bulk: answer.bulk.clone() };
    let answers = &worker.node.hot.answers;
    if !question.is_common() {
        // The next who asks does so for all. Nothing is given out before, so nothing need be called back.
        answers.keep(&question.key(), mark, None, Vec::new());
    } else if let Some(keys) = question.keys(&said) {
        answers.keep(&question.key(), mark, Some(&said), keys);
    }
}

/// Answers a closing of which no home need know; takes note of what homes are told of who has what open.
fn closing(worker: &Worker, frame: &Frame) -> Option<Reply> {
    let opened = &worker.node.hot.opened;
    let header = &frame.header;
    if !matches!(header.op, Op::Release | Op::Renew | Op::Open) {
        return None;
    }
    let mut body = Reader::new(frame.meta.clone());
    Caller::get(&mut body).ok()?;
    match header.op {
        Op::Release => {
            let release = Release::get(&mut body).ok()?;
            return opened
                .close(header.client, &release.inos)
                .then(|| Reply::ok(header, Bytes::new(), Bytes::new()));
        }
        Op::Renew => {
            let renew = Renew::get(&mut body).ok()?;
            opened.told(header.client, renew.open.iter().map(|open| open.ino));
        }
        _ => opened.told(header.client, [Open::get(&mut body).ok()?.ino]),
    }
    None
}

/// Forgets what a home calls back.
#[allow(clippy::unused_async)] // The form of all operations.
pub async fn forget(worker: &Rc<Worker>, _: &Context, request: HotForget) -> OpResult<()> {
    let keys: Vec<LockKey> = request.keys.iter().map(question::heard).collect();
    worker.node.hot.answers.forget(&keys);
    Ok(())
}
