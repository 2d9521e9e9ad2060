//! One request, sent as often as it takes.
//!
//! # Invariants
//! - All sendings of a request carry the same (client, sequence); all but the first say so (`tests/fake/retry.rs`).
//! - A request is not sent again after its patience is over, and the error then says who did not answer and why. Who is told to wait has an answer:
//!   with the configured patience that begins anew (`tests/fake/retry.rs`).
//! - Data that a server found changed on its way are sent again, at most [`RESENDS`] times (`tests/fake/retry.rs`).

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use fs_net::{Frame, NetError, PoolBuffer};
use fs_proto::msg::Caller;
use fs_proto::{ClientId, Flags, Header, Op, Request, ServerId, Status, Wire};

use super::Core;
use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::router::{Target, View};

/// Below this size it is not looked whether a buffer could lie in shared memory: there is none for so little.
const SHARED_MIN: usize = fs_net::Lending::MIN_BYTES;

/// How often a request is sent again whose data changed on its way. What changes more often is changed in memory, or by every message.
const RESENDS: u32 = 2;

/// How long to insist.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    time: Duration,
    /// Send again when the server is away.
    insist: bool,
}

impl Patience {
    /// Tries again and again for `time`.
    pub fn up_to(time: Duration) -> Patience {
        Patience { time, insist: true }
    }

    /// Asks once, and waits for the answer at most `time`.
    pub fn once(time: Duration) -> Patience {
        Patience { time, insist: false }
    }
}

/// A successful answer.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub body: T,
    pub bulk: Bytes,
    /// The owner that was asked, maybe through another.
    pub server: ServerId,
}

/// What one sending came to.
enum Outcome {
    Done(Frame),
    Fail(Error),
    /// Send again; with `true` the first sending may have been executed.
    Again(String, bool),
    /// The directory is wide: send again, elsewhere, at once.
    Elsewhere,
    /// The data did not arrive as they were sent, so nothing was executed: send again, at once.
    Changed(Error),
}

/// A request on its way.
struct Sending {
    op: Op,
    client: ClientId,
    sequence: u64,
    flags: Flags,
    meta: Bytes,
    bulk: Bytes,
    target: Target,
    start: Instant,
    patience: Patience,
    /// How often it was sent again because its data had changed.
    resends: u32,
}

impl Core {
    /// Asks with the configured patience.
    pub(crate) async fn ask<R: Request>(
        &self,
        who: &Caller,
        target: Target,
        request: &R,
    ) -> Result<R::Reply> {
        Ok(self.exchange(who, target, request, Bytes::new(), self.patience()).await?.body)
    }

    /// Asks, with data to send or to receive.
    pub(crate) async fn exchange<R: Request>(
        &self,
        who: &Caller,
        target: Target,
        request: &R,
        bulk: Bytes,
        patience: Patience,
    ) -> Result<Answer<R::Reply>> {
        let mut meta = BytesMut::with_capacity(128);
        who.put(&mut meta);
        request.put(&mut meta);
        let _alone = if R::OP.is_mutation() { Some(self.mutating.lock().await) } else { None };
        let mut sending = Sending {
            op: R::OP,
            client: self.seat.client,
            sequence: self.next_sequence(),
            flags: if self.shared.config.checked { Flags::CHECKED } else { Flags::default() },
            meta: meta.freeze(),
            bulk,
            target,
            start: Instant::now(),
            patience,
            resends: 0,
        };
        let (frame, server) = self.send_until_answered(&mut sending).await?;
        let body = R::Reply::from_bytes(frame.meta).map_err(|e| Error::undecodable(server, &e))?;
        Ok(Answer { body, bulk: frame.bulk, server })
    }

    /// The usual patience.
    pub(super) fn patience(&self) -> Patience {
        Patience::up_to(self.insists_for.get())
    }

    /// Asks once, for what others may have too.
    pub(super) fn patience_once(&self, time: Duration) -> Patience {
        Patience::once(time.min(self.insists_for.get()))
    }

    /// A buffer of `len` bytes in the memory shared with the first hop of a request, if there is such memory and room.
    pub(super) fn shared_buffer(&self, target: Target, len: usize) -> Option<PoolBuffer> {
        if len < SHARED_MIN {
            return None;
        }
        let view = self.shared.view();
        let owner = view.owner(target.settle(|dir| self.shared.is_wide(dir)));
        self.peers.buffer(view.first_hop(owner), len)
    }

    fn next_sequence(&self) -> u64 {
        let count = self.count.get() + 1;
        self.count.set(count);
        u64::from(self.seat.lane) << 48 | count
    }

    async fn send_until_answered(&self, sending: &mut Sending) -> Result<(Frame, ServerId)> {
        let mut backoff = Backoff::default();
        loop {
            let view = self.shared.view();
            let target = sending.target.settle(|dir| self.shared.is_wide(dir));
            let owner = view.owner(target);
            let left = sending.patience.time.saturating_sub(sending.start.elapsed());
            let header = sending.header(target, &view, left);
            let outcome = self
                .peers
                .call(view.first_hop(owner), header, sending.meta.clone(), sending.bulk.clone())
                .await;
            if self.waits(sending, &outcome) {
                sending.start = Instant::now();
            }
            let cause = match sending.judge(owner, outcome) {
                Outcome::Done(frame) => return Ok((frame, owner)),
                Outcome::Fail(e) => return Err(self.note_failure(sending, e)),
                Outcome::Changed(_) if sending.may_resend() => {
                    sending.resends += 1;
                    continue;
                }
                Outcome::Changed(e) => return Err(e),
                Outcome::Elsewhere if self.learn_wide(sending) => continue,
                Outcome::Elsewhere => "it is asked for a directory that is being spread".to_owned(),
                Outcome::Again(cause, executed) => {
                    if executed {
                        sending.flags = sending.flags.with(Flags::RETRY);
                    }
                    cause
                }
            };
            let pause = backoff.next(rand::random::<f64>());
            let left = sending.patience.time.saturating_sub(sending.start.elapsed());
            if !sending.patience.insist || left <= pause {
                return Err(sending.give_up(owner, cause));
            }
            self.shared.refresh();
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether a request is to wait for as long as it is told to: not one that has a shorter time than others.
    fn waits(&self, sending: &Sending, outcome: &std::result::Result<Frame, NetError>) -> bool {
        let is_told = outcome.as_ref().is_ok_and(|frame| frame.header.status == Status::Waiting);
        is_told && sending.patience.time >= self.shared.config.timeout
    }

    /// Whether it is news that the directory of the request is wide.
    fn learn_wide(&self, sending: &Sending) -> bool {
        match sending.target {
            Target::Name { parent, .. } => self.shared.note_wide(parent),
            _ => false,
        }
    }

    /// A directory that is gone is not wide any more, whatever comes after it.
    fn note_failure(&self, sending: &Sending, e: Error) -> Error {
        if let (Target::Name { parent, .. }, Some(Status::Stale)) = (sending.target, e.code()) {
            self.shared.forget_wide(parent);
        }
        e
    }
}

impl Sending {
    fn header(&self, target: Target, view: &View, left: Duration) -> Header {
        let mut header = match target {
            Target::Server(server) => Header::request_to_server(self.op, server),
            Target::Partition(partition) => Header::request(self.op, partition),
            Target::Name { parent, .. } => Header::request(self.op, parent.partition()),
        };
        header.flags = header.flags.with(self.flags);
        if view.via().is_some() {
            header.flags = header.flags.with(Flags::ONE_WAY);
        }
        header.client = self.client;
        header.sequence = self.sequence;
        header.epoch = view.epoch();
        header.deadline_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        header
    }

    fn judge(&self, server: ServerId, outcome: std::result::Result<Frame, NetError>) -> Outcome {
        let frame = match outcome {
            Ok(frame) => frame,
            Err(e) => return self.judge_failure(server, &e),
        };
        let status = frame.header.status;
        match status {
            Status::Ok => Outcome::Done(frame),
            Status::WideDirectory if matches!(self.target, Target::Name { .. }) => Outcome::Elsewhere,
            // Who sent none is told of damage in the store, which stays.
            Status::Corrupt if !self.bulk.is_empty() => {
                Outcome::Changed(Error::status(status, words(status, frame.meta)))
            }
            _ if status.is_transient() => {
                Outcome::Again(words(status, frame.meta), status == Status::Unavailable)
            }
            _ => Outcome::Fail(Error::status(status, words(status, frame.meta))),
        }
    }

    fn may_resend(&self) -> bool {
        let has_time = self.start.elapsed() < self.patience.time;
        self.patience.insist && has_time && self.resends < RESENDS
    }

    fn judge_failure(&self, server: ServerId, e: &NetError) -> Outcome {
        match e {
            NetError::Unreachable { .. } | NetError::UnknownServer(_) => Outcome::Again(e.to_string(), false),
            NetError::Closed => Outcome::Again(e.to_string(), true),
            NetError::TimedOut => Outcome::Fail(self.give_up(server, e.to_string())),
            NetError::Rejected(reason) | NetError::WrongVersion(reason) => {
                Outcome::Fail(Error::Rejected { server, reason: reason.clone() })
            }
            NetError::Protocol(what) => Outcome::Fail(Error::Protocol { server, what: what.clone() }),
            NetError::TooLarge(_) | NetError::InUse { .. } | NetError::Listen { .. } => {
                Outcome::Fail(Error::status(e.status(), e.to_string()))
            }
        }
    }

    fn give_up(&self, server: ServerId, cause: String) -> Error {
        Error::Unavailable { server, seconds: self.start.elapsed().as_secs(), cause, path: None }
    }
}

/// The words of an answer that is not `Ok`.
fn words(status: Status, meta: Bytes) -> String {
    match String::from_bytes(meta) {
        Ok(text) if !text.is_empty() => text,
        // Without words the status itself has to do.
        _ => format!("{status:?}"),
    }
}
