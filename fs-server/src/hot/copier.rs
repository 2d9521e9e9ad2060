//! Makes copies of hot files, piece by piece as this node's clients would read them, and holds the leases under which they are right.
//!
//! # Invariants
//! - What a copy has is of one generation of each holder, whose bytes never change; that no holder is at another is asked after the last byte was copied,
//!   and again before the lease ends (`tests/tests/passthrough.rs`).
//! - Bytes are compared with their checksums on their way into the copy.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::checksum::crc;
use fs_proto::msg::hot::{HOT_PIECE_BYTES, HotAsk, HotCopied, HotCopy, HotGrant};
use fs_proto::msg::inode::Getattr;
use fs_proto::{Attr, ChunkIndex, FileKind, InodeId, ServerId, Status};

use super::copies::{Copies, Found, Place};
use super::reader::{LOOSE, kept_piece};
use super::whole::Whole;
use super::{LEASE, PieceKey};
use crate::error::{OpError, OpResult};
use crate::node::Node;
use crate::ops::pointer::present_holder;
use crate::worker::{Context, Worker};

/// How often leases are renewed: twice within one.
const RENEWAL: Duration = Duration::from_millis(700);
/// How long a copy stays that nobody opens.
const IDLE: Duration = Duration::from_secs(60);
/// Renewals in a row without an answer, after which a copy goes.
const SILENCES: u32 = 10;

const _: () = assert!(RENEWAL.as_millis() * 2 < LEASE.as_millis());

/// What is lent by one server.
struct Held {
    holder: ServerId,
    generation: u64,
    /// Some piece of it.
    key: PieceKey,
}

/// Answers a mount of this node.
#[allow(clippy::unused_async)] // The form of all operations.
pub async fn answer(worker: &Rc<Worker>, context: &Context, request: HotCopy) -> OpResult<HotCopied> {
    let node = &worker.node;
    // The path says something only on this node, and only to who may read what lies below the store.
    if context.near() != Some(node.id()) || !context.is_checked() || !node.hot.is_enabled() {
        return Ok(HotCopied::No {});
    }
    let now = Instant::now();
    match node.copies.find(request.ino, request.size, now) {
        Found::Here(number, path) => {
            let path = Bytes::copy_from_slice(path.as_os_str().as_bytes());
            return Ok(HotCopied::Here { number, path });
        }
        Found::Coming => return Ok(HotCopied::Coming {}),
        Found::Nothing => {}
    }
    if request.size == 0 || !is_hot(node, request.ino, now) {
        return Ok(HotCopied::No {});
    }
    let Some((place, gone)) = node.copies.begin(request.ino, request.size, share_bytes(node), now) else {
        return Ok(HotCopied::No {});
    };
    node.errands.send(move |worker| async move {
        for path in gone {
            remove(path).await;
        }
        keep(&worker, &place).await;
    });
    Ok(HotCopied::Coming {})
}

/// Takes away what is about to change. Whoever changes it waits until nobody can be told of the copy any more, and not for its blocks to be freed.
pub fn call_back(node: &Node, ino: InodeId) {
    if let Some(path) = node.copies.call_back(ino) {
        tokio::task::spawn_local(remove(path));
    }
}

/// Clients of this node read it as hot, or this node has lent it to others.
fn is_hot(node: &Node, ino: InodeId, now: Instant) -> bool {
    node.hot.kept.is_hot(ino, now) || node.hot.grants.may_be_lent(ino)
}

/// What copies may take; nothing if the store is short of room.
fn share_bytes(node: &Node) -> u64 {
    let Some(store) = node.copies.dir().parent() else { return 0 };
    match rustix::fs::statvfs(store) {
        Ok(info) if node.space.check_contents().is_ok() => Copies::share_of(info.f_blocks * info.f_frsize),
        _ => 0,
    }
}

/// Makes a copy, holds its leases as long as it is opened now and then, and removes it.
async fn keep(worker: &Rc<Worker>, place: &Place) {
    match made(worker, place).await {
        Ok(Some(held)) => hold(worker, place, &held).await,
        Ok(None) => {}
        Err(error) => tracing::debug!(ino = ?place.ino, message = %error.message, "a hot file is not copied"),
    }
    worker.node.copies.end(place, Instant::now());
    remove(place.path.clone()).await;
}

/// None: the file is not one to copy, or changes.
async fn made(worker: &Rc<Worker>, place: &Place) -> OpResult<Option<Vec<Held>>> {
    let attr = worker.ask_owner(place.ino.partition(), &Getattr { ino: place.ino }).await?;
    if attr.kind != FileKind::File || attr.inline || attr.size != place.size {
        return Ok(None);
    }
    let file = Arc::new(blocking(create(place.clone())).await?);
    let mut held = Vec::new();
    for chunk in 0..attr.size.div_ceil(attr.layout.chunk_bytes()) {
        if !copy_chunk(worker, place, &file, &attr, ChunkIndex(chunk), &mut held).await? {
            return Ok(None);
        }
    }
    Ok(Some(held))
}

/// Answers whether the copy may go on.
async fn copy_chunk(
    worker: &Rc<Worker>,
    place: &Place,
    file: &Arc<File>,
    attr: &Attr,
    chunk: ChunkIndex,
    held: &mut Vec<Held>,
) -> OpResult<bool> {
    let begin = chunk.0 * attr.layout.chunk_bytes();
    let len = attr.layout.chunk_bytes().min(attr.size - begin);
    // What nobody holds yet nobody can lend.
    let Some(holder) = present_holder(worker, attr.layout, attr.ino, chunk).await? else { return Ok(false) };
    for piece in 0..len.div_ceil(u64::from(HOT_PIECE_BYTES)) {
        let key = PieceKey { ino: attr.ino, chunk, piece: piece as u32 };
        let is_wanted = worker.node.copies.last_opened(place).is_some();
        if !is_wanted || worker.node.space.check_contents().is_err() {
            return Ok(false);
        }
        let Some((whole, generation)) = kept_piece(worker, key, holder).await? else { return Ok(false) };
        if !note_held(held, Held { holder, generation, key }) {
            return Ok(false);
        }
        let is_last = whole.len() < HOT_PIECE_BYTES as usize;
        let offset = u64::from(key.offset());
        write(file, whole, len.saturating_sub(offset), begin + offset).await?;
        if is_last {
            break;
        }
    }
    Ok(true)
}

/// Answers whether all that is held of its holder is of one generation.
fn note_held(held: &mut Vec<Held>, new: Held) -> bool {
    if new.generation == LOOSE {
        return false;
    }
    if let Some(known) = held.iter().find(|one| one.holder == new.holder) {
        return known.generation == new.generation;
    }
    held.push(new);
    true
}

/// An empty file of the copy's size: what is not written to it is a hole there, too.
fn create(place: Place) -> impl FnOnce() -> std::io::Result<File> {
    move || {
        if let Some(dir) = place.path.parent() {
            std::fs::DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
        }
        let file = File::options().write(true).create_new(true).mode(0o600).open(&place.path)?;
        file.set_len(place.size)?;
        Ok(file)
    }
}

/// Writes the part of a piece that lies within the file.
async fn write(file: &Arc<File>, whole: Whole, room: u64, offset: u64) -> OpResult<()> {
    let file = Arc::clone(file);
    let len = (whole.len() as u64).min(room) as usize;
    let (_, sum) = whole.part(0..len)?;
    let data = whole.bytes();
    blocking(move || {
        let data = &data[..len];
        if crc(data) != sum {
            return Err(std::io::Error::other("a piece of a hot file changed in memory"));
        }
        file.write_all_at(data, offset)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> OpResult<T> {
    let failed =
        |error: std::io::Error| OpError::because(Status::Io, format!("a copy of a hot file: {error}"));
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(failed),
        Err(error) => Err(failed(std::io::Error::other(error))),
    }
}

/// Openings keep what they have opened.
async fn remove(path: PathBuf) {
    let removed = blocking(move || match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    if let Err(error) = removed.await {
        tracing::warn!(message = %error.message, "a copy could not be removed; the next start of the server does");
    }
}

/// Returns when the copy is not right any more, or nobody wants it.
async fn hold(worker: &Rc<Worker>, place: &Place, held: &[Held]) {
    let mut silences = 0;
    while silences < SILENCES {
        match renew(worker, place, held).await {
            Ok(true) => silences = 0,
            Ok(false) => return,
            Err(_) => silences += 1,
        }
        tokio::time::sleep(RENEWAL).await;
        let opened = worker.node.copies.last_opened(place);
        if worker.node.is_stopping() || opened.is_none_or(|when| when.elapsed() > IDLE) {
            return;
        }
    }
}

/// Asks all holders whether they are where they were. Bytes of a generation never change, so a yes holds for the time before, too.
async fn renew(worker: &Rc<Worker>, place: &Place, held: &[Held]) -> OpResult<bool> {
    let since = Instant::now();
    let asked = held.iter().map(|one| async move {
        let PieceKey { ino, chunk, piece } = one.key;
        let server = worker.node.id();
        let request = HotAsk { server, ino, chunk, piece, have: one.generation, direct: false };
        worker.fetch(one.holder, &request).await.map(|(grant, _)| grant)
    });
    let mut lease = LEASE;
    for grant in futures_util::future::join_all(asked).await {
        match grant? {
            HotGrant::Same { lease_ms } => lease = lease.min(Duration::from_millis(u64::from(lease_ms))),
            _ => return Ok(false),
        }
    }
    Ok(worker.node.copies.extend(place, since + lease))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a copy is never put together of what was there before a change and after it. Method: what two holders said, in some orders.
    #[test]
    fn a_copy_is_of_one_generation_of_each_holder() {
        let key = PieceKey { ino: InodeId(7), chunk: ChunkIndex(0), piece: 0 };
        let all = |said: &[(u16, u64)]| {
            let mut held = Vec::new();
            said.iter().all(|(id, generation)| {
                note_held(&mut held, Held { holder: ServerId(*id), generation: *generation, key })
            })
        };
        assert!(all(&[(1, 5), (2, 9), (1, 5), (2, 9)]));
        assert!(!all(&[(1, 5), (2, 9), (1, 6)]) && !all(&[(1, 5), (2, LOOSE)]));
    }
}
