//! fjall's journals, read by our own eyes before fjall replays them.
//!
//! fjall 3.1 ends a replay quietly at the first bytes that it cannot read, takes a batch's sequence number unchecked, and
//! skips batches below what its tables hold. So damage can lose batches, or put an old value over a new one. The format
//! (fjall 3.1, guarded by `tests/kv`, `flipped_bits_are_told_or_harmless`), little-endian:
//!
//! ```text
//! batch = 1:u8 items:u32 seqno:u64   item*   3:u8 xxh3-64-of-the-items:u64 "FJL\x03"
//! item  = 2:u8 type:u8 compression:u8 tree:u64 key_bytes:u16 value_bytes:u32 stored_bytes:u32 key value
//! clear = 4:u8 tree:u64
//! file  = batch*  torn end of a batch?  zeros
//! ```
//!
//! Checked here: whole batches have the right checksum; sequence numbers ascend over all journals, and none is below the
//! floor that the guard put into the batch; a lane's counts have no gap; a journal that is not the last (it was synced
//! before the next began) is whole. The end of the last journal is the fence's matter.

use crate::kv::KvError;
use crate::kv::fence::LANES;
use crate::kv::guard::LaneRow;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8; 4] = b"FJL\x03";
/// No record of ours is near this; a damaged length must not make us allocate gigabytes.
const VALUE_BYTES_MAX: u32 = 64 << 20;

/// Checks the journals in `dir`.
pub(super) fn check(dir: &Path) -> Result<(), KvError> {
    let journals = list(dir).map_err(KvError::from_io)?;
    let mut order = Order { last_seqno: None, lanes: [None; LANES] };
    for (at, (_, path)) in journals.iter().enumerate() {
        let is_last = at + 1 == journals.len();
        check_one(path, is_last, &mut order)?;
    }
    Ok(())
}

fn list(dir: &Path) -> std::io::Result<Vec<(u64, PathBuf)>> {
    let mut journals = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse().ok());
        journals.extend(number.map(|number| (number, path)));
    }
    journals.sort_unstable();
    Ok(journals)
}

fn check_one(path: &Path, is_last: bool, order: &mut Order) -> Result<(), KvError> {
    let file = File::open(path).map_err(KvError::from_io)?;
    let mut journal = Journal { reader: BufReader::with_capacity(256 << 10, file), item: Vec::new() };
    let damaged = |what: &str| KvError::Corrupt(format!("{what} in the journal {}", path.display()));
    loop {
        match journal.next().map_err(KvError::from_io)? {
            Step::Batch(batch) => order.follow(&batch).map_err(damaged)?,
            Step::WrongChecksum => return Err(damaged("a batch has a wrong checksum")),
            Step::End if is_last || journal.rest_is_zeros().map_err(KvError::from_io)? => return Ok(()),
            Step::Torn if is_last => return Ok(()),
            Step::End | Step::Torn => return Err(damaged("unreadable bytes")),
        }
    }
}

/// What must ascend.
struct Order {
    last_seqno: Option<u64>,
    lanes: [Option<u64>; LANES],
}

impl Order {
    fn follow(&mut self, batch: &BatchHead) -> Result<(), &'static str> {
        if self.last_seqno.is_some_and(|last| batch.seqno <= last) {
            return Err("a sequence number does not ascend");
        }
        self.last_seqno = Some(batch.seqno);
        let Some((lane, row)) = batch.lane else { return Ok(()) };
        if batch.seqno < row.floor {
            return Err("a sequence number is below those of earlier batches");
        }
        // A count comes twice when a commit failed although its batch was written.
        if self.lanes[lane].is_some_and(|last| row.count != last && row.count != last + 1) {
            return Err("batches are missing");
        }
        self.lanes[lane] = Some(row.count);
        Ok(())
    }
}

struct BatchHead {
    seqno: u64,
    lane: Option<(usize, LaneRow)>,
}

enum Step {
    Batch(BatchHead),
    WrongChecksum,
    /// End of the file, or zeros where a batch would begin.
    End,
    /// Bytes that are no batch, or a part of one.
    Torn,
}

struct Journal {
    reader: BufReader<File>,
    item: Vec<u8>,
}

impl Journal {
    fn next(&mut self) -> std::io::Result<Step> {
        match self.batch() {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Step::Torn),
            outcome => outcome,
        }
    }

    fn batch(&mut self) -> std::io::Result<Step> {
        let mut tag = [0];
        if self.reader.read(&mut tag)? == 0 || tag[0] == 0 {
            return Ok(Step::End);
        }
        if tag[0] != START {
            return Ok(Step::Torn);
        }
        let count = u32::from_le_bytes(self.array()?);
        let seqno = u64::from_le_bytes(self.array()?);
        let (mut hash, mut lane) = (Xxh3::new(), None);
        for _ in 0..count {
            let Some(key_bytes) = self.read_item()? else { return Ok(Step::Torn) };
            hash.update(&self.item);
            if lane.is_none() && key_bytes > 0 {
                let (key, value) = self.item[ITEM_HEAD_BYTES..].split_at(key_bytes);
                lane = LaneRow::decode(key, value);
            }
        }
        let [tag] = self.array()?;
        let sum = u64::from_le_bytes(self.array()?);
        let trailer: [u8; 4] = self.array()?;
        if tag != END || trailer != *TRAILER {
            return Ok(Step::Torn);
        }
        let is_whole = sum == hash.digest();
        Ok(if is_whole { Step::Batch(BatchHead { seqno, lane }) } else { Step::WrongChecksum })
    }

    /// Reads an item into the buffer; returns the length of its key, zero if it has none, nothing if it is no item.
    fn read_item(&mut self) -> std::io::Result<Option<usize>> {
        let [tag] = self.array()?;
        self.item.clear();
        self.item.push(tag);
        match tag {
            CLEAR => self.extend(8).map(|()| Some(0)),
            ITEM => self.read_pair(),
            _ => Ok(None),
        }
    }

    fn read_pair(&mut self) -> std::io::Result<Option<usize>> {
        self.extend(ITEM_HEAD_BYTES - 1)?;
        let key_bytes = u16::from_le_bytes([self.item[11], self.item[12]]);
        let stored = u32::from_le_bytes(self.item[17..21].try_into().expect("four bytes"));
        if stored > VALUE_BYTES_MAX {
            return Ok(None);
        }
        self.extend(usize::from(key_bytes) + stored as usize)?;
        Ok(Some(usize::from(key_bytes)))
    }

    fn extend(&mut self, bytes: usize) -> std::io::Result<()> {
        let at = self.item.len();
        self.item.resize(at + bytes, 0);
        self.reader.read_exact(&mut self.item[at..])
    }

    fn array<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut out = [0; N];
        self.reader.read_exact(&mut out)?;
        Ok(out)
    }

    fn rest_is_zeros(&mut self) -> std::io::Result<bool> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let got = self.reader.read(&mut buffer)?;
            if got == 0 {
                return Ok(true);
            }
            if buffer[..got].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
    }
}

/// Tag, type, compression, tree, and the three lengths.
const ITEM_HEAD_BYTES: usize = 3 + 8 + 2 + 4 + 4;
