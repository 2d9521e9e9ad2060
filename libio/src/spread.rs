//! A region whose parts lie on several servers, with copies or parity on others, made while it is written.
//!
//! # Invariants
//! - No two parts are at one server (`copies::ring`; `a_lost_server_is_survived`).
//! - Nothing is read back that was written once (`stripes`).

use fs_client::{Client, File, LayoutWish, OpenOptions, Placement, ServerId, Spot};

use crate::copies::{self, make};
use crate::error::{Error, Result};
use crate::format::{self, BLOCK_BYTES, Spread};
use crate::register::Disk;
use crate::stripes::{Parity, Stripes};

/// Where a byte must lie so that a file leaves its inode for chunks, whatever the servers' limit.
const BEYOND_INLINE: u64 = 65_536;
/// Chunks of parts: a block each.
const CHUNK_LOG2: u8 = 20;

/// Where the parts shall be.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub servers: Vec<ServerId>,
    /// How many of the servers get data; the others copies or parity.
    pub data: usize,
    /// Where the keys of objects begin.
    pub keys: String,
}

/// The parts of one region.
pub(crate) struct Parts {
    disk: Disk,
    files: Vec<File>,
    data: Vec<Spot>,
    extra: Vec<Spot>,
    /// None: the extra parts are copies.
    stripes: Option<Stripes>,
}

impl Parts {
    /// New ones: files at `path` and the number of each part, objects with keys alike.
    pub fn create(disk: &Disk, plan: &Plan, path: &str, name: &str) -> Result<Parts> {
        let (data, extra) = plan.servers.split_at(plan.data);
        let make_file =
            |(part, server): (usize, &ServerId)| file_at(disk, &format!("{path}.{part}"), *server);
        let files: Vec<File> = data.iter().enumerate().map(make_file).collect::<Result<_>>()?;
        let make_object = |(part, server): (usize, &ServerId)| {
            make(disk, *server, &format!("{}{name}.{part}", plan.keys), b"")
        };
        let extra_spots: Vec<Spot> = extra.iter().enumerate().map(make_object).collect::<Result<_>>()?;
        let data =
            files.iter().zip(data).map(|(file, server)| Spot { server: *server, ino: file.ino() }).collect();
        let stripes = (plan.data > 1).then(|| Stripes::new(plan.data, extra.len()));
        Ok(Parts { disk: disk.clone(), files, data, extra: extra_spots, stripes })
    }

    /// Writes the data to its parts, and copies, or parity once it can be told, to the others.
    pub fn write(&mut self, data: &[u8], offset: u64) -> Result<()> {
        let mut parts = pieces(&self.data, data, offset);
        if self.stripes.is_none() {
            parts.extend(self.extra.iter().map(|spot| (*spot, data, offset)));
        }
        self.disk.client().write_spots(&parts)?;
        let Some(stripes) = &mut self.stripes else { return Ok(()) };
        let (disk, spots) = (&self.disk, &self.data);
        let whole = spots.len() as u64 * BLOCK_BYTES;
        let read_back = |stripe, buf: &mut [u8]| read(disk.client(), spots, buf, stripe * whole);
        stripes.write(data, offset, &read_back, &mut |parity| write_parity(disk, &self.extra, parity))
    }

    /// Of how many stripes a copy is in memory.
    pub fn open_stripes(&self) -> usize {
        self.stripes.as_ref().map_or(0, Stripes::open)
    }

    /// Lets go of one.
    pub fn close_stripe(&mut self) -> Result<()> {
        let (disk, extra) = (&self.disk, &self.extra);
        let Some(stripes) = &mut self.stripes else { return Ok(()) };
        stripes.close_one(&mut |parity| write_parity(disk, extra, parity))
    }

    /// Fills `buf` with what was written.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        read(self.disk.client(), &self.data, buf, offset)
    }

    /// Makes it durable; `end` is that of the region.
    pub fn seal(mut self, end: u64) -> Result<Spread> {
        let mut sums = Vec::new();
        if let Some(mut stripes) = self.stripes.take() {
            stripes.finish(&mut |parity| write_parity(&self.disk, &self.extra, parity))?;
            sums = stripes.into_sums();
        }
        let count = self.files.len() as u64;
        for (part, file) in (0..).zip(self.files) {
            self.disk.step("cut")?;
            file.set_len(part_end(end, part, count))?;
            self.disk.step("sync")?;
            file.sync()?;
            self.disk.step("close")?;
            file.close()?;
        }
        self.disk.step("sync")?;
        self.data.iter().chain(&self.extra).try_for_each(|spot| self.disk.client().sync_spot(*spot))?;
        let place = |spot: &Spot| (*spot).into();
        let (data, extra) = (self.data.iter().map(place).collect(), self.extra.iter().map(place).collect());
        Ok(Spread { data, extra, stripes: sums })
    }
}

/// Makes a file whose bytes lie in chunks at this server.
fn file_at(disk: &Disk, path: &str, server: ServerId) -> Result<File> {
    let placement = Some(Placement::Local(Some(server)));
    let layout = Some(LayoutWish { placement, chunk_log2: Some(CHUNK_LOG2), expected_bytes: 0 });
    let file = disk.create_as(path, OpenOptions { layout, ..OpenOptions::default() })?;
    // Beside the inode they would be wherever that is; sealing cuts this byte off.
    disk.step("write")?;
    file.write_at(&[0], BEYOND_INLINE)?;
    if file.known_attr().layout.placement != Placement::Local(Some(server)) {
        return Err(Error::Invalid(format!("{path} cannot be placed at server {server}")));
    }
    Ok(file)
}

/// A range of a region as blocks of its parts.
fn pieces<'a>(parts: &[Spot], mut data: &'a [u8], mut offset: u64) -> Vec<(Spot, &'a [u8], u64)> {
    if let [only] = parts {
        return vec![(*only, data, offset)];
    }
    let mut all = Vec::new();
    while !data.is_empty() {
        let (here, rest) = data.split_at(data.len().min((BLOCK_BYTES - offset % BLOCK_BYTES) as usize));
        let (part, at) = place(offset, parts.len() as u64);
        all.push((parts[part], here, at));
        (data, offset) = (rest, offset + here.len() as u64);
    }
    all
}

/// Number of the part with this byte, and where in it.
pub(crate) fn place(offset: u64, parts: u64) -> (usize, u64) {
    let block = offset / BLOCK_BYTES;
    ((block % parts) as usize, block / parts * BLOCK_BYTES + offset % BLOCK_BYTES)
}

/// Where part `part` of `parts` ends if the region ends at `end`.
pub(crate) fn part_end(end: u64, part: u64, parts: u64) -> u64 {
    let stripes = end / (BLOCK_BYTES * parts);
    let rest = end % (BLOCK_BYTES * parts);
    stripes * BLOCK_BYTES + rest.saturating_sub(part * BLOCK_BYTES).min(BLOCK_BYTES)
}

fn read(client: &Client, parts: &[Spot], mut buf: &mut [u8], mut offset: u64) -> Result<()> {
    let mut asked = Vec::new();
    while !buf.is_empty() {
        let some = buf.len().min((BLOCK_BYTES - offset % BLOCK_BYTES) as usize);
        let (here, rest) = buf.split_at_mut(some);
        let (part, at) = place(offset, parts.len() as u64);
        asked.push((parts[part], here, at));
        (buf, offset) = (rest, offset + some as u64);
    }
    Ok(client.read_spots(&mut asked)?.into_iter().collect::<fs_client::Result<()>>()?)
}

fn write_parity(disk: &Disk, extra: &[Spot], parity: &[Parity]) -> Result<()> {
    if parity.is_empty() {
        return Ok(());
    }
    let shards = parity.iter().flat_map(|of| {
        extra.iter().zip(&of.shards).map(|(spot, shard)| (*spot, &shard[..], of.stripe * BLOCK_BYTES))
    });
    disk.step("write")?;
    Ok(disk.client().write_spots(&shards.collect::<Vec<_>>())?)
}

/// Copies of a rank's seal: made before the seal is written, because that names them.
pub(crate) fn seal_copies(disk: &Disk, plan: &Plan) -> Result<Vec<Spot>> {
    let count = plan.servers.len() - plan.data + 1;
    let key = format!("{}seal", plan.keys);
    // Of the data's servers one, and all others.
    plan.servers.iter().rev().take(count).map(|server| make(disk, *server, &key, b"")).collect()
}

/// Writes a rank's seal to its copies.
pub(crate) fn fill_seal(disk: &Disk, seal: &format::Seal, text: &[u8]) -> Result<()> {
    if seal.copies.is_empty() {
        return Ok(());
    }
    let spots: Vec<Spot> = seal.copies.iter().map(|place| (*place).into()).collect();
    copies::fill(disk, &spots, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: parts end where their last byte is. Method: every byte's place, of small and odd sizes.
    #[test]
    fn parts_end_behind_their_last_bytes() {
        let mib = BLOCK_BYTES;
        for parts in 1..5 {
            for end in [0, 1, mib - 1, mib, mib + 1, 3 * mib - 1, 4 * mib, 7 * mib + 5] {
                let mut ends = vec![0; parts as usize];
                for block in 0..end.div_ceil(mib) {
                    let (part, at) = place(((block + 1) * mib).min(end) - 1, parts);
                    ends[part] = ends[part].max(at + 1);
                }
                let found: Vec<_> = (0..parts).map(|part| part_end(end, part, parts)).collect();
                assert_eq!(found, ends, "{end} bytes in {parts} parts");
            }
        }
    }
}
