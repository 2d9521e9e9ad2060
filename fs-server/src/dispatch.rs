//! From a frame to an operation and back: decoding, retries, encoding. One line per operation.

use std::rc::Rc;

use bytes::Bytes;
use fs_net::Frame;
use fs_proto::msg::Caller;
use fs_proto::msg::chunk::{CopyChunk, WriteChunk};
use fs_proto::msg::name::{Create, Created};
use fs_proto::msg::small::Append;
use fs_proto::record::RequestResult;
use fs_proto::wire::Reader;
use fs_proto::{FileKind, Flags, Op, Status, Wire};

use crate::backing::listing;
use crate::error::{OpError, OpResult};
use crate::hot;
use crate::ops;
use crate::overflow;
use crate::transaction::participant;
use crate::worker::{Arrival, Context, Worker};

/// Directories that one request may find not listed.
const LISTINGS_MAX: usize = 8;

/// Body and bulk part of a reply.
pub type Answer = (Bytes, Bytes);

fn decode<T: Wire>(mut body: Reader) -> OpResult<T> {
    let request = T::get(&mut body)?;
    body.finish()?;
    Ok(request)
}

/// Carries out the request in `frame`.
pub async fn run(worker: &Rc<Worker>, frame: Frame, arrival: Arrival) -> OpResult<Answer> {
    let mut body = Reader::new(frame.meta.clone());
    let caller = Caller::get(&mut body)?;
    let context = Context { caller, header: frame.header, arrival };
    let header = &context.header;
    let execution = worker.node.executions.begin(header)?;
    if execution.is_some()
        && header.flags.has(Flags::RETRY)
        && let Some(answer) = answer_again(worker, &context, &frame.meta).await?
    {
        return Ok(answer);
    }
    let mut outcome = carry_out(worker, &context, body, frame.bulk.clone()).await;
    for _ in 0..LISTINGS_MAX {
        let Err(OpError { unlisted: Some(dir), .. }) = &outcome else { break };
        outcome = match listing::list(worker, *dir).await {
            Ok(()) => carry_out(worker, &context, body_of(&frame.meta)?, frame.bulk.clone()).await,
            Err(error) => Err(error),
        };
    }
    if outcome.is_err()
        && header.flags.has(Flags::RETRY)
        && let Ok(Some(answer)) = answer_again(worker, &context, &frame.meta).await
    {
        // The first sending was still being decided when this one began, and found its own result in the way.
        return Ok(answer);
    }
    outcome
}

/// The body of a request, after who asks.
fn body_of(meta: &Bytes) -> OpResult<Reader> {
    let mut body = Reader::new(meta.clone());
    Caller::get(&mut body)?;
    Ok(body)
}

async fn carry_out(worker: &Rc<Worker>, context: &Context, body: Reader, bulk: Bytes) -> OpResult<Answer> {
    match context.header.op {
        Op::WriteChunk => ops::chunk::write(worker, decode(body)?, bulk).await.map(|()| empty()),
        Op::ReadChunk => ops::chunk::read(worker, context, decode(body)?).await,
        Op::Put => without_data(ops::put::put(worker, context, decode(body)?, &bulk).await?),
        Op::PutMany => without_data(ops::put::put_many(worker, context, decode(body)?, &bulk).await?),
        Op::Get => ops::get::get(worker, context, decode(body)?).await,
        Op::GetMany => ops::get::get_many(worker, context, decode(body)?).await,
        Op::WriteInline => without_data(ops::inline::write(worker, context, decode(body)?, &bulk).await?),
        Op::Append => without_data(ops::append::append(worker, context, decode(body)?, &bulk).await?),
        Op::ReadInline => ops::inline::read(worker, context, decode(body)?).await,
        Op::HotAsk => hot::holder::ask(worker, context, decode(body)?).await,
        Op::HotFetch => hot::reader::pass_on(worker, context, decode(body)?).await,
        Op::OpenRead => ops::open::open_read(worker, context, decode(body)?).await,
        _ => run_plain(worker, context, body).await.map(|meta| (meta, Bytes::new())),
    }
}

#[allow(clippy::unnecessary_wraps)] // The form of all operations.
fn without_data(reply: impl Wire) -> OpResult<Answer> {
    Ok((reply.to_bytes(), Bytes::new()))
}

fn empty() -> Answer {
    (Bytes::new(), Bytes::new())
}

macro_rules! table {
    ($worker:ident, $context:ident, $body:ident, $others:pat => $rest:expr; $($op:ident => $function:path),* $(,)?) => {
        match $context.header.op {
            $(Op::$op => $function($worker, $context, decode($body)?).await.map(|reply| reply.to_bytes()),)*
            $others => $rest,
        }
    };
}

async fn run_plain(worker: &Rc<Worker>, context: &Context, body: Reader) -> OpResult<Bytes> {
    table! { worker, context, body, _ => run_tiers(worker, context, body).await;
        Lookup => ops::lookup::lookup,
        Create => ops::create::create,
        Mkdir => ops::mkdir::mkdir,
        Unlink => ops::unlink::unlink,
        Rmdir => ops::rmdir::rmdir,
        Rename => ops::rename::rename,
        Link => ops::link::link,
        Readdir => ops::readdir::readdir,
        Getattr => ops::getattr::getattr,
        GetattrMany => ops::getattr::getattr_many,
        Setattr => ops::setattr::setattr,
        Readlink => ops::getattr::readlink,
        Getxattr => ops::xattr::get,
        Setxattr => ops::xattr::set,
        Listxattr => ops::xattr::list,
        Removexattr => ops::xattr::remove,
        Open => ops::open::open,
        Release => ops::open::release,
        Renew => ops::open::renew,
        Spill => ops::spill::spill,
        Publish => ops::publish::publish,
        PollSize => ops::publish::poll_size,
        TruncateChunks => ops::chunk::truncate,
        DropChunks => ops::chunk::remove,
        SyncChunks => ops::chunk::sync,
        PunchChunk => ops::chunk::punch,
        CopyChunk => ops::copy::copy,
        CopyChunkTo => ops::copy::copy_to,
        ClaimChunk => ops::pointer::claim,
        FindChunks => ops::pointer::find,
        SetLayout => ops::layout::set,
        ChunkRanges => ops::chunk::ranges,
        ChunkMap => ops::chunk_map::chunk_map,
        PunchInline => ops::inline::punch,
        Prepare => participant::prepare,
        Decide => participant::decide,
        Outcome => participant::outcome,
        TreeLock => participant::tree_lock,
        GetShard => ops::getattr::get_shard,
        ServerStatus => ops::admin::server_status,
        Statfs => ops::admin::statfs,
        Shutdown => ops::admin::shutdown,
        Scrub => ops::scrub::scrub,
        LockSet => ops::lock::set,
        LockClear => ops::lock::clear,
        LockTest => ops::lock::test,
        LockCancel => ops::lock::cancel,
        LockRenew => ops::lock::renew,
        ClientGone => ops::lock::client_gone,
        VaultPut => ops::vault::put,
        VaultList => ops::vault::list,
        VaultDrop => ops::vault::remove,
        Ping => ops::admin::ping,
    }
}

/// What servers need of each other for the tiers, for hot files, and for open ones.
async fn run_tiers(worker: &Rc<Worker>, context: &Context, body: Reader) -> OpResult<Bytes> {
    let unknown = |op: Op| {
        OpError::because(Status::NotSupported, format!("operation {} is not for servers", op.name()))
    };
    table! { worker, context, body, other => Err(unknown(other));
        FlushChunks => crate::flush::ops::flush_chunks,
        FlushInode => crate::flush::ops::flush_inode,
        FlushList => crate::flush::ops::flush_list,
        FlushName => crate::flush::ops::flush_name,
        TierHope => crate::flush::ops::tier_hope,
        TierPath => crate::flush::ops::tier_path,
        TierState => crate::flush::ops::tier_state,
        FlushStatus => crate::flush::ops::flush_status,
        FlushNow => crate::flush::ops::flush_now,
        FlushWait => crate::flush::ops::flush_wait,
        FlushNote => crate::flush::ops::flush_note,
        TierPlace => crate::flush::ops::tier_place,
        TierForget => crate::flush::ops::tier_forget,
        FindSource => crate::backing::ops::find_source,
        FindLost => crate::backing::replaced::find,
        FetchChunk => crate::backing::ops::fetch_chunk,
        FetchShare => crate::backing::ops::fetch_share,
        EvictChunks => crate::backing::ops::evict_chunks,
        EvictNow => crate::backing::ops::evict_now,
        HotRecall => hot::reader::recall,
        HotForget => hot::gateway::forget,
        HotCopy => hot::copier::answer,
        MayOverflow => overflow::keeper::may_overflow,
        KeptFor => overflow::keeper::kept_for,
        DetachFile => crate::backing::ops::detach_file,
        AttachOld => crate::backing::migrate::ops::attach_old,
        MergeOld => crate::backing::migrate::ops::merge_old,
        NodeOpens => ops::node_opens::node_opens,
        MigrateStatus => crate::backing::migrate::ops::migrate_status,
    }
}

/// The answer to a mutation that was executed before and whose reply was lost, or None if it was not.
async fn answer_again(worker: &Rc<Worker>, context: &Context, meta: &Bytes) -> OpResult<Option<Answer>> {
    let header = &context.header;
    let (lane, count) = header.lane_and_count();
    let Some(done) = worker.node.namespace.remembered(header.client, lane)? else { return Ok(None) };
    if done.count != count || done.op != header.op {
        return Ok(None);
    }
    let mut body = Reader::new(meta.clone());
    Caller::get(&mut body)?;
    let meta = remembered_reply(worker, &done, body).await?;
    Ok(Some((meta, Bytes::new())))
}

async fn remembered_reply(worker: &Rc<Worker>, done: &RequestResult, body: Reader) -> OpResult<Bytes> {
    Ok(match done.op {
        Op::Create => {
            let kind = decode::<Create>(body)?.kind;
            let attr = ops::getattr::attributes_since(worker, done.ino, kind).await?;
            Created { ino: done.ino, kind: attr.kind, attr: Some(attr), fresh: true }.to_bytes()
        }
        Op::Append => {
            let append: Append = decode(body)?;
            ops::append::append_before(worker, append.ino, done.ino.0).await?.to_bytes()
        }
        Op::Put => ops::put::put_before(worker, done.ino).await?.to_bytes(),
        Op::PutMany => ops::put::put_many_before(worker, decode(body)?).await?.to_bytes(),
        Op::Mkdir => ops::getattr::attributes_since(worker, done.ino, FileKind::Directory).await?.to_bytes(),
        Op::Link => ops::getattr::attributes_since(worker, done.ino, FileKind::File).await?.to_bytes(),
        _ => Bytes::new(),
    })
}

/// Notes how far a client's write reaches when it enters the cluster here, wherever its chunk lives.
pub fn note_write(worker: &Rc<Worker>, frame: &Frame) {
    let header = &frame.header;
    if !matches!(header.op, Op::WriteChunk | Op::CopyChunk | Op::CopyChunkTo) {
        return;
    }
    let mut body = Reader::new(frame.meta.clone());
    let reach = Caller::get(&mut body).and_then(|_| match header.op {
        // The other copy begins with it.
        Op::CopyChunk | Op::CopyChunkTo => {
            CopyChunk::get(&mut body).map(|copy| (copy.ino, copy.since, copy.file_end))
        }
        _ => WriteChunk::get(&mut body).map(|write| (write.ino, write.since, write.file_end)),
    });
    if let Ok((ino, since, file_end)) = reach {
        let node = &worker.node;
        node.sizes.note(ino, header.client, since, file_end);
        // Others' closings do not pass this server.
        let is_of_node = header.flags.has(Flags::ONE_WAY) && !node.owns(ino.partition());
        if is_of_node && node.opened.is_forgetful() {
            node.opened.found_writing(ino, header.client, since);
        }
    }
}
