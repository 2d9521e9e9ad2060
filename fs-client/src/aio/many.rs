//! Put and get of many files of one directory: one message for up to [`MANY_MAX`] small files of one server.

use std::collections::BTreeMap;

use bytes::Bytes;
use fs_net::NetCounters;
use fs_proto::checksum::crc;
use fs_proto::msg::Caller;
use fs_proto::msg::small::{GetMany, GetOutcome, MANY_BYTES, MANY_MAX, PutFile, PutMany};
use fs_proto::{Attr, InodeId, ServerId, Status};

use super::Core;
use super::inodes::FAN_OUT;
use super::names::name_target;
use super::small::Taken;
use crate::error::{Error, Result};
use crate::router::Target;
use crate::window;

/// How often files are asked for again whose directory was found to be wide, or that had no room in an answer, before they go the
/// ordinary way one by one.
const ROUNDS: usize = 8;

/// What one file of many came to, so far.
enum Step<T> {
    Done(Result<T>),
    /// Ask again, maybe elsewhere.
    Again,
    /// By a message of its own, or several.
    Alone,
}

impl Core {
    /// See [`crate::Client::put_many`].
    pub async fn put_many(
        &self,
        who: &Caller,
        parent: InodeId,
        files: &[(&[u8], &[u8])],
        mode: u32,
    ) -> Vec<Result<Attr>> {
        let names: Vec<&[u8]> = files.iter().map(|(name, _)| *name).collect();
        let mut results: Vec<Option<Result<Attr>>> = files.iter().map(|_| None).collect();
        let (mut left, mut alone) = self.sort_out(&names, |at| files[at].1.len(), &mut results);
        for _ in 0..ROUNDS {
            let batches = self.batches(parent, &names, &left, |at| files[at].1.len());
            left.clear();
            for (server, batch) in batches {
                let steps = self.put_batch(who, parent, files, mode, server, &batch).await;
                settle(&batch, steps, &mut results, &mut left, &mut alone);
            }
            if left.is_empty() {
                break;
            }
        }
        alone.append(&mut left);
        alone.sort_unstable(); // The last of files of one name stays.
        for at in alone {
            let (name, data) = files[at];
            results[at] = Some(self.put_at(who, parent, name, data, mode, false).await);
        }
        results.into_iter().flatten().collect()
    }

    /// Files that go with others, and those that go alone: too large, or of a name that comes twice.
    fn sort_out<T>(
        &self,
        names: &[&[u8]],
        len: impl Fn(usize) -> usize,
        results: &mut [Option<Result<T>>],
    ) -> (Vec<usize>, Vec<usize>) {
        let mut times: BTreeMap<&[u8], usize> = BTreeMap::new();
        for name in names {
            *times.entry(name).or_default() += 1;
        }
        let (mut together, mut alone) = (Vec::with_capacity(names.len()), Vec::new());
        for (at, name) in names.iter().enumerate() {
            match name_target(InodeId::ROOT, name) {
                Err(e) => results[at] = Some(Err(e)),
                Ok(_) if times[name] > 1 || len(at) as u64 > self.shared.inline_limit() => alone.push(at),
                Ok(_) => together.push(at),
            }
        }
        (together, alone)
    }

    /// Deals files to the servers that hold their names, in parts that fit into a message.
    fn batches(
        &self,
        parent: InodeId,
        names: &[&[u8]],
        left: &[usize],
        len: impl Fn(usize) -> usize,
    ) -> Vec<(ServerId, Vec<usize>)> {
        let view = self.shared.view();
        let mut open: BTreeMap<ServerId, (Vec<usize>, usize)> = BTreeMap::new();
        let mut full = Vec::new();
        for &at in left {
            // Names that cannot be are sorted out before.
            let Ok(target) = name_target(parent, names[at]) else { continue };
            let owner = view.owner(target.settle(|dir| self.shared.is_wide(dir)));
            let (batch, bytes) = open.entry(owner).or_default();
            if batch.len() >= MANY_MAX || *bytes + len(at) > MANY_BYTES as usize {
                full.push((owner, std::mem::take(batch)));
                *bytes = 0;
            }
            batch.push(at);
            *bytes += len(at);
        }
        full.extend(open.into_iter().map(|(owner, (batch, _))| (owner, batch)));
        full
    }

    async fn put_batch(
        &self,
        who: &Caller,
        parent: InodeId,
        files: &[(&[u8], &[u8])],
        mode: u32,
        server: ServerId,
        batch: &[usize],
    ) -> Result<Vec<Step<Attr>>> {
        let target = Target::Server(server);
        let bytes = batch.iter().map(|at| files[*at].1.len()).sum();
        let (mut data, mut end) = (self.send_buffer(target, bytes).await?, 0);
        let mut request = PutMany { parent, mode, files: Vec::with_capacity(batch.len()) };
        for &at in batch {
            let (name, content) = files[at];
            self.shared.cache.drop_entry(parent, name);
            data[end..end + content.len()].copy_from_slice(content);
            end += content.len();
            let (name, len) = (Bytes::copy_from_slice(name), content.len() as u32);
            request.files.push(PutFile { name, len, crc: crc(content) });
        }
        NetCounters::add(&self.shared.counters.copied_bytes, data.len() as u64);
        let answer = self.exchange(who, target, &request, data.freeze(), self.patience()).await?;
        self.shared.note_inline_limit(answer.body.limit);
        check_count(answer.server, answer.body.outcomes.len(), batch.len())?;
        let outcomes = batch.iter().zip(answer.body.outcomes);
        let steps = outcomes.map(|(at, outcome)| match self.take_put(parent, files[*at].0, outcome) {
            Ok(Some(attr)) => Step::Done(Ok(attr)),
            Ok(None) => Step::Alone,
            Err(e) => self.again_or_failed(parent, e),
        });
        Ok(steps.collect())
    }

    /// A directory that was found to be wide is asked again at the right servers; a file whose data changed on their way goes alone, which is
    /// sent again; a link is followed by nobody here.
    fn again_or_failed<T>(&self, parent: InodeId, e: Error) -> Step<T> {
        match e.code() {
            Some(Status::WideDirectory) => {
                self.shared.note_wide(parent);
                Step::Again
            }
            Some(status) if status.is_transient() => Step::Again,
            Some(Status::Corrupt) => Step::Alone,
            _ => Step::Done(Err(e)),
        }
    }

    /// See [`crate::Client::get_many`].
    pub async fn get_many(&self, who: &Caller, parent: InodeId, names: &[&[u8]]) -> Vec<Result<Bytes>> {
        let mut results: Vec<Option<Result<Bytes>>> = names.iter().map(|_| None).collect();
        let (mut left, mut alone) = self.sort_out(names, |_| 0, &mut results);
        for _ in 0..ROUNDS {
            let batches = self.batches(parent, names, &left, |_| 0);
            left.clear();
            let asked =
                batches.iter().map(|(server, batch)| self.get_batch(who, parent, names, *server, batch));
            let answers = window::all(asked, FAN_OUT).await;
            for ((_, batch), steps) in batches.iter().zip(answers) {
                settle(batch, steps, &mut results, &mut left, &mut alone);
            }
            if left.is_empty() {
                break;
            }
        }
        alone.append(&mut left);
        let read = alone.iter().map(|at| self.get_at(who, parent, names[*at]));
        let read = window::all(read, FAN_OUT).await;
        for (at, result) in alone.into_iter().zip(read) {
            results[at] = Some(result);
        }
        results.into_iter().flatten().collect()
    }

    async fn get_batch(
        &self,
        who: &Caller,
        parent: InodeId,
        names: &[&[u8]],
        server: ServerId,
        batch: &[usize],
    ) -> Result<Vec<Step<Bytes>>> {
        let wanted = batch.iter().map(|at| Bytes::copy_from_slice(names[*at])).collect();
        let request = GetMany { parent, names: wanted };
        let target = Target::Server(server);
        let answer = self.exchange(who, target, &request, Bytes::new(), self.patience()).await?;
        check_count(answer.server, answer.body.len(), batch.len())?;
        let mut data = answer.bulk;
        let mut steps = Vec::with_capacity(batch.len());
        for (at, outcome) in batch.iter().zip(answer.body) {
            let len = if let GetOutcome::Whole { attr, .. } = &outcome { attr.size } else { 0 };
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(data.len());
            // A copy: a slice would hold the whole answer's buffer for as long as one file is looked at.
            let part = data.split_to(len);
            steps.push(match self.take_found(parent, names[*at], outcome, &part) {
                Ok(Taken::Whole) => {
                    NetCounters::add(&self.shared.counters.copied_bytes, len as u64);
                    Step::Done(Ok(Bytes::copy_from_slice(&part)))
                }
                Ok(Taken::Left) => Step::Again,
                Ok(Taken::Openly(_) | Taken::Damaged(_)) => Step::Alone,
                Err(e) => self.again_or_failed(parent, e),
            });
        }
        Ok(steps)
    }
}

/// Sorts what a batch came to; a failure of the whole is one of each.
fn settle<T>(
    batch: &[usize],
    steps: Result<Vec<Step<T>>>,
    results: &mut [Option<Result<T>>],
    left: &mut Vec<usize>,
    alone: &mut Vec<usize>,
) {
    let steps = match steps {
        Ok(steps) => steps,
        Err(e) if e.code() == Some(Status::WideDirectory) => batch.iter().map(|_| Step::Again).collect(),
        Err(e) => batch.iter().map(|_| Step::Done(Err(e.clone()))).collect(),
    };
    for (at, step) in batch.iter().zip(steps) {
        match step {
            Step::Done(result) => results[*at] = Some(result),
            Step::Again => left.push(*at),
            Step::Alone => alone.push(*at),
        }
    }
}

fn check_count(server: ServerId, is: usize, must: usize) -> Result<()> {
    if is == must {
        return Ok(());
    }
    Err(Error::Protocol { server, what: format!("{is} results for {must} files") })
}
