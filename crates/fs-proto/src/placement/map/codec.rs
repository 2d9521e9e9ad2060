//! The wire form of maps: for servers and clients that do not know a cluster's history.
//!
//! ```text
//! Member        u16 server, u32 weight
//! MapEvent      u8 1, Member                         (join)
//!               u8 2, u16 server                     (leave)
//! PartitionMap  u64 epoch, u32 count, Member x count (ascending by server), u16 owner x 65,536
//! ```
//! Owners are plain: a dealt map has no runs to shorten. 128 KiB and 6 bytes a member, far below the limit of a frame.

use super::{COUNT, MapEvent, Member, PartitionMap, check_members, owners_from, quota};
use crate::ids::ServerId;
use crate::wire::{DecodeError, Reader, Wire};
use bytes::{BufMut, BytesMut};

const OWNERS_BYTES: usize = COUNT * 2;

/// Epochs above are refused, so that counting up from any epoch received never overflows.
const EPOCH_MAX: u64 = 1 << 62;

const _: () = assert!(OWNERS_BYTES + COUNT * 6 + 12 < crate::META_MAX as usize);

impl Wire for Member {
    fn put(&self, out: &mut BytesMut) {
        self.id.put(out);
        self.weight.put(out);
    }
    fn get(from: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Member { id: Wire::get(from)?, weight: Wire::get(from)? })
    }
}

impl Wire for MapEvent {
    fn put(&self, out: &mut BytesMut) {
        match self {
            MapEvent::Join(member) => {
                out.put_u8(1);
                member.put(out);
            }
            MapEvent::Leave(id) => {
                out.put_u8(2);
                id.put(out);
            }
        }
    }
    fn get(from: &mut Reader) -> Result<Self, DecodeError> {
        match u8::get(from)? {
            1 => Ok(MapEvent::Join(Wire::get(from)?)),
            2 => Ok(MapEvent::Leave(Wire::get(from)?)),
            _ => Err(DecodeError::Invalid("map event")),
        }
    }
}

impl Wire for PartitionMap {
    fn put(&self, out: &mut BytesMut) {
        out.reserve(OWNERS_BYTES + self.members.len() * 6 + 12);
        self.epoch.put(out);
        self.members.put(out);
        self.owners.iter().for_each(|owner| owner.put(out));
    }
    fn get(from: &mut Reader) -> Result<Self, DecodeError> {
        let epoch = u64::get(from)?;
        if !(1..=EPOCH_MAX).contains(&epoch) {
            return Err(DecodeError::Invalid("epoch"));
        }
        let members = Vec::<Member>::get(from)?;
        if !members.is_sorted_by_key(|m| m.id) || check_members(&members).is_err() {
            return Err(DecodeError::Invalid("members"));
        }
        let raw = from.take(OWNERS_BYTES)?;
        let owners: Vec<_> =
            raw.chunks_exact(2).map(|id| ServerId(u16::from_le_bytes([id[0], id[1]]))).collect();
        let shares = shares(&members, &owners)?;
        Ok(PartitionMap { epoch, members, shares, owners: owners_from(owners) })
    }
}

/// Counts what each member owns: an error if it is not within the bounds, or if a stranger owns something.
fn shares(members: &[Member], owners: &[ServerId]) -> Result<Vec<u32>, DecodeError> {
    let mut owned = vec![0; COUNT];
    for owner in owners {
        owned[usize::from(owner.0)] += 1;
    }
    let shares: Vec<u32> = members.iter().map(|m| owned[usize::from(m.id.0)]).collect();
    let balanced =
        quota::quotas(members).iter().zip(&shares).all(|(q, share)| (q.floor..=q.most).contains(share));
    let known = shares.iter().sum::<u32>() as usize == COUNT;
    if balanced && known { Ok(shares) } else { Err(DecodeError::Invalid("owners")) }
}
