//! The side of a server whose clients ask about names and inodes of others: what their homes have lent it, it answers itself.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use fs_net::{Frame, NetError, Reply};
use fs_proto::msg::hot::HotForget;
use fs_proto::{Flags, Header, ServerId};
use tokio::sync::watch;

use super::LEASE;
use super::answers::{Asking, Found, Mark};
use super::question::{self, Question, Said};
use super::underway::{Put, Turn};
use crate::error::{OpError, OpResult};
use crate::namespace::locks::LockKey;
use crate::opened;
use crate::worker::{Context, Worker, refusal};

/// How often somebody looks whether what it waited for has come, before it asks by itself.
const ROUNDS: usize = 4;

/// What becomes of a client's request to another server.
pub enum Begun<'a> {
    /// It goes there.
    On(Option<Asked<'a>>),
    /// This server may be able to answer it: see [`answer`].
    Perhaps,
}

/// A question that goes on to its home as it came.
pub struct Asked<'a> {
    mark: Mark,
    /// There if equal ones wait for it.
    turn: Option<Turn<'a>>,
}

impl Asked<'_> {
    /// The home did not answer. That the time of who asked is over says nothing of others, of whom one asks again.
    pub fn failed(self, error: &NetError) {
        self.over(!matches!(error, NetError::TimedOut));
    }

    fn over(self, is_in_vain: bool) {
        match self.turn {
            Some(turn) if is_in_vain => turn.was_in_vain(),
            turn => drop(turn),
        }
    }
}

/// Looks what becomes of a client's request to another server. Most go there, at once.
pub fn begin<'a>(worker: &'a Worker, frame: &Frame) -> Begun<'a> {
    let (hot, op) = (&worker.node.hot, frame.header.op);
    if !hot.answers.is_empty() && question::is_lendable(op) {
        return Begun::Perhaps;
    }
    if !question::is_lendable(op) || !hot.is_enabled() {
        return Begun::On(None);
    }
    put(worker, frame).map_or(Begun::Perhaps, |asked| Begun::On(Some(asked)))
}

/// A question that goes on as it came, or what it waits for: an equal one is under way.
fn put<'a>(worker: &'a Worker, frame: &Frame) -> Result<Asked<'a>, watch::Receiver<()>> {
    let hot = &worker.node.hot;
    let mark = hot.answers.mark();
    match hot.underway.put(hot.underway.print(frame), mark) {
        Put::First(turn) => Ok(Asked { mark, turn: Some(turn) }),
        Put::Alone => Ok(Asked { mark, turn: None }),
        Put::Wait(over) => Err(over),
    }
}

/// Answers a client's request to another server, if this one can. Else it goes there.
pub async fn answer<'a>(
    worker: &'a Rc<Worker>,
    frame: &Frame,
    home: ServerId,
) -> Result<Reply, Option<Asked<'a>>> {
    let hot = &worker.node.hot;
    let question = Question::of(frame).ok_or(None)?;
    let (key, until) = (question.key(), patience(&frame.header));
    let mut asked = None;
    for _ in 0..ROUNDS {
        match hot.answers.find(&key) {
            Found::Answer(said) => match kept(worker, frame, &question, &said) {
                Some(reply) => return Ok(reply),
                None => break,
            },
            Found::Coming(over) => {
                if !is_over(over, until).await {
                    break;
                }
            }
            Found::Ask(asking) => match ask_for_all(worker, frame, home, &question, &key, asking).await {
                Some(reply) => return Ok(reply),
                None => break,
            },
            Found::Cold => match put(worker, frame) {
                Ok(on) => {
                    asked = Some(on);
                    break;
                }
                Err(over) => {
                    hot.counters.answers_joined.fetch_add(1, Ordering::Relaxed);
                    if !is_over(over, until).await {
                        break;
                    }
                }
            },
        }
    }
    Err(Some(asked.unwrap_or_else(|| Asked { mark: hot.answers.mark(), turn: None })))
}

/// Until when a question waits for others: an answer that is later would not be kept, and there must be time to ask.
fn patience(header: &Header) -> tokio::time::Instant {
    let half = Duration::from_millis(u64::from(header.deadline_ms) / 2);
    tokio::time::Instant::now() + if header.deadline_ms == 0 { LEASE } else { LEASE.min(half) }
}

/// Whether what somebody waits for is over by then. That the channel is closed says so.
async fn is_over(mut over: watch::Receiver<()>, until: tokio::time::Instant) -> bool {
    tokio::time::timeout_at(until, over.changed()).await.is_ok()
}

fn kept(worker: &Worker, frame: &Frame, question: &Question, said: &Said) -> Option<Reply> {
    let hot = &worker.node.hot;
    let reply = question.reply(&frame.header, said)?;
    if let Some(ino) = question.opens()
        && !worker.node.opened.note(ino, frame.header.client)
    {
        return None;
    }
    hot.counters.answers_given.fetch_add(1, Ordering::Relaxed);
    Some(reply)
}

/// Asks the home for all who ask here, in the common form of the question.
async fn ask_for_all(
    worker: &Rc<Worker>,
    frame: &Frame,
    home: ServerId,
    question: &Question,
    key: &Bytes,
    asking: Asking<'_>,
) -> Option<Reply> {
    let hot = &worker.node.hot;
    let header = Header { op: question.op, ..frame.header };
    let common = Frame { header, meta: question.body(), bulk: Bytes::new() };
    let outgoing = opened::passing::begin(worker, &common);
    let header = Header { hops: 1, flags: outgoing.flags, ..header };
    let (meta, passing) = (outgoing.meta.clone(), outgoing.answered());
    let answer = match worker.peers.call(home, header, meta, Bytes::new()).await {
        Ok(answer) => answer,
        Err(error) => return Some(refusal(&frame.header, &OpError::from(error))),
    };
    if let Err(error) = passing.take(worker, &answer).await {
        return Some(refusal(&frame.header, &error));
    }
    let is_lent = answer.header.flags.has(Flags::LENT);
    let said = Said { status: answer.header.status, meta: answer.meta, bulk: answer.bulk };
    match question.keys(&said).filter(|_| is_lent) {
        Some(keys) => drop(hot.answers.keep(key, asking.mark, Some(&said), keys)),
        None => hot.answers.cold(key),
    }
    question.reply(&frame.header, &said)
}

/// Takes note of the answer to a request that was sent on, and makes it one for a client.
pub fn passing(worker: &Worker, frame: &Frame, asked: Option<Asked<'_>>, answer: &mut Frame) {
    let is_lent = answer.header.flags.has(Flags::LENT);
    answer.header.flags = answer.header.flags.without(Flags::LENT);
    let Some(asked) = asked else { return };
    if is_lent {
        keep(worker, frame, asked.mark, answer);
    }
    // Those who wait look for it now.
    asked.over(!is_lent);
}

fn keep(worker: &Worker, frame: &Frame, mark: Mark, answer: &Frame) {
    let Some(question) = Question::of(frame) else { return };
    let said = Said { status: answer.header.status, meta: answer.meta.clone(), bulk: answer.bulk.clone() };
    let answers = &worker.node.hot.answers;
    if !question.is_common() {
        // The next who asks does so for all. Nothing is given out before, so nothing need be called back.
        answers.keep(&question.key(), mark, None, Vec::new());
    } else if let Some(keys) = question.keys(&said) {
        answers.keep(&question.key(), mark, Some(&said), keys);
    }
}

/// Forgets what a home calls back.
#[allow(clippy::unused_async)] // The form of all operations.
pub async fn forget(worker: &Rc<Worker>, _: &Context, request: HotForget) -> OpResult<()> {
    let keys: Vec<LockKey> = request.keys.iter().map(question::heard).collect();
    worker.node.hot.answers.forget(&keys);
    Ok(())
}
