//! Groups: records that are placed one behind the other and written by one request.
//!
//! A record of some KiB costs the file system and the device nearly as much as one of a mebibyte, so what is to be written
//! at the same time is written together (`gather`). Each record stays one of its own: it has its header, its sums and its
//! place in the index, and a torn group loses only records that the tear hit (`tests/store`,
//! `any_crash_leaves_what_was_durable`).
//!
//! # Invariants
//! - Every record of a group is answered on its own, after it is in the index, or with the failure of the group's write
//!   (`a_failed_group_fails_all_its_writes`).
//! - A group is in one segment, and in direct mode covers whole blocks: no block is written by two requests.

use super::compact;
use super::disk::direct::{Aligned, DirectFile, is_aligned};
use super::disk::ring::{self, Part};
use super::engine::{Core, data_request};
use super::format::BlockSums;
use super::log::Ticket;
use super::{ChunkKey, StoreError};
use bytes::Bytes;
use fs_proto::checksum::BLOCK_BYTES;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Data of a group, at most. Below, a call and the small folios at the ends of each group cost more; with headers it is one MiB, and so are its buffers.
pub(super) const GROUP_BYTES: usize = 992 << 10;
/// Records of a group, at most: each takes three of the 1,024 parts that the kernel takes.
pub(super) const GROUP_RECORDS: usize = 128;

/// A piece of a chunk that is to be written.
#[derive(Debug, Clone)]
pub struct ChunkWrite {
    /// The chunk.
    pub key: ChunkKey,
    /// First byte within the chunk.
    pub offset: u32,
    /// The content; not empty.
    pub data: Bytes,
    /// Its sums.
    pub sums: BlockSums,
}

/// How each of some writes ended.
pub(super) type Outcomes = Vec<Result<(), StoreError>>;

/// Writes as many of `writes` as have room in one segment, but at least the first. Returns how these ended. In direct mode
/// it waits without holding up the thread, and needs a runtime with local tasks.
pub(super) async fn write(core: &Core, writes: &[ChunkWrite]) -> Outcomes {
    let tickets = match reserve(core, writes) {
        Ok(tickets) => tickets,
        Err(error) => return vec![Err(error)],
    };
    let written = match tickets[0].direct_file() {
        Some(file) => write_direct(&tickets, writes, file).await,
        None => write_blocking(&tickets, writes),
    };
    finish(core, tickets, writes, written)
}

/// As [`write`], by calls that block.
pub(super) fn write_now(core: &Core, writes: &[ChunkWrite]) -> Outcomes {
    match reserve(core, writes) {
        Ok(tickets) => {
            let written = write_blocking(&tickets, writes);
            finish(core, tickets, writes, written)
        }
        Err(error) => vec![Err(error)],
    }
}

/// Places for the first of `writes`; at least one.
fn reserve<'a>(core: &'a Core, writes: &[ChunkWrite]) -> Result<Vec<Ticket<'a>>, StoreError> {
    let request = |w: &ChunkWrite| data_request(w.key, w.offset, w.data.len(), w.sums.table());
    let requests: Vec<_> = writes.iter().map(request).collect();
    match core.log.reserve_group(&requests) {
        Err(StoreError::NoSpace) => {
            compact::make_room(core)?;
            core.log.reserve_group(&requests)
        }
        other => other,
    }
}

fn finish(core: &Core, tickets: Vec<Ticket>, writes: &[ChunkWrite], written: io::Result<()>) -> Outcomes {
    if let Err(error) = written {
        let again = || error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
        return tickets.iter().map(|ticket| Err(ticket.failed(again()))).collect();
    }
    tickets
        .into_iter()
        .zip(writes)
        .map(|(ticket, write)| core.enter(write.key, ticket, &write.sums))
        .collect()
}

/// One call to the kernel, from where the data is.
fn write_blocking(tickets: &[Ticket], writes: &[ChunkWrite]) -> io::Result<()> {
    let next = tickets[1..].iter().map(|ticket| Some(ticket.header.at)).chain([None]);
    let frames: Vec<_> = tickets
        .iter()
        .zip(writes)
        .zip(next)
        .map(|((ticket, write), next)| {
            let ends_here = next == Some(ticket.header.end());
            ticket.frame(write.sums.table(), if ends_here { 1 } else { ticket.align() })
        })
        .collect();
    let mut parts = Vec::with_capacity(3 * tickets.len());
    for ((front, back), write) in frames.iter().zip(writes) {
        parts.extend([IoSlice::new(front), IoSlice::new(&write.data), IoSlice::new(back)]);
    }
    tickets[0].write_parts(&mut parts)
}

/// One request to the device. A record that is alone goes there from where its data is, if that is aligned; all else
/// through a copy, because records share blocks.
async fn write_direct(
    tickets: &[Ticket<'_>],
    writes: &[ChunkWrite],
    file: Arc<DirectFile>,
) -> io::Result<()> {
    let at = tickets[0].header.at.byte();
    let parts = match (tickets, writes) {
        ([ticket], [write, ..]) if lies_on_blocks(ticket, &write.data) => in_place(ticket, write),
        _ => vec![Part::Own(together(tickets, writes))],
    };
    ring::write(file, parts, at).await
}

fn lies_on_blocks(ticket: &Ticket, data: &Bytes) -> bool {
    let front_bytes = ticket.header.shape().data_at() as usize;
    front_bytes.is_multiple_of(BLOCK_BYTES) && is_aligned(data) && data.len() >= BLOCK_BYTES
}

fn in_place(ticket: &Ticket, write: &ChunkWrite) -> Vec<Part> {
    let shape = ticket.header.shape();
    let (whole, rest) = write.data.split_at(write.data.len() / BLOCK_BYTES * BLOCK_BYTES);
    let record_bytes = (shape.total_bytes() as usize).next_multiple_of(BLOCK_BYTES);
    let mut front = Aligned::new(shape.data_at() as usize);
    let mut back = Aligned::new(record_bytes - front.len() - whole.len());
    back[..rest.len()].copy_from_slice(rest);
    ticket.frame_into(write.sums.table(), &mut front, &mut back[rest.len()..]);
    vec![Part::Own(front), Part::Shared(write.data.slice(..whole.len())), Part::Own(back)]
}

/// The records one behind the other, up to the end of a block.
fn together(tickets: &[Ticket], writes: &[ChunkWrite]) -> Aligned {
    let begin = tickets[0].header.at.byte();
    let end = tickets[tickets.len() - 1].header.end().byte();
    let mut all = Aligned::new((end - begin) as usize);
    let mut rest = &mut all[..];
    for (number, (ticket, write)) in tickets.iter().zip(writes).enumerate() {
        let shape = ticket.header.shape();
        let next = tickets.get(number + 1).map(|next| next.header.at.byte());
        let here = next.map_or(rest.len(), |next| (next - ticket.header.at.byte()) as usize);
        let (record, behind) = rest.split_at_mut(here);
        let (front, others) = record.split_at_mut(shape.data_at() as usize);
        let (data, back) = others.split_at_mut(write.data.len());
        data.copy_from_slice(&write.data);
        ticket.frame_into(write.sums.table(), front, back);
        rest = behind;
    }
    all
}
