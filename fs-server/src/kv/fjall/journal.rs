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
//! floor that the guard put into the batch; a lane's counts have no gap, but where the guard has built a bridge; a journal
//! that is not the last (it was synced before the next began) is whole. The end of the last journal is the fence's matter.
//!
//! A loss of power may also leave a batch of the last journal whose middle is missing, as zeros: no damage if it was not
//! synced, though fjall would refuse to open. What is behind the last whole batch is cut off here.
//!
//! # Invariants
//! - What was not synced never keeps the store from opening after a loss of power (`tests/kv`,
//!   `power_loss_leaves_what_was_synced_and_a_prefix`).
//! - A store that is refused is left as it was, its journals to the byte (`a_refused_store_keeps_its_journal`).
//! - What fjall replays is on the device, also if a sync of it had failed before (`the_device_has_what_is_synced_after_a_failed_sync`).

use crate::kv::KvError;
use crate::kv::fence::{Counts, LANES, Past};
use crate::kv::guard::LaneRow;
use crate::kv::renew::renew;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8; 4] = b"FJL\x03";
/// How names of journals end.
const JOURNAL: &str = "jnl";
/// How the name of the last journal ends, as it was found, beside what was made of it.
const FOUND: &str = "found";
/// No record of ours is near this; a damaged length must not make us allocate gigabytes.
const VALUE_BYTES_MAX: u32 = 64 << 20;
/// Bytes that are read or written with one call.
const PIECE_BYTES: usize = 256 << 10;

/// Checks the journals in `dir`, cuts off what is torn, and brings the rest to the device. What the journals alone can say of losses is compared
/// with the fence before anything is cut; and the last journal is kept as it was found until [`accept`] or [`put_back`].
pub(super) fn settle(dir: &Path, past: &Past) -> Result<(), KvError> {
    put_back(dir)?;
    let journals = list(dir, JOURNAL).map_err(KvError::from_io)?;
    let mut order = Order { last_seqno: None, lanes: [None; LANES] };
    let mut ends = Vec::with_capacity(journals.len());
    for (at, (_, path)) in journals.iter().enumerate() {
        let is_last = at + 1 == journals.len();
        ends.push(check_one(path, is_last.then_some(past), &mut order)?);
    }
    past.compare(&order.counts())?;
    // Only now: a store whose journals are refused is left as it was.
    if let Some((_, last)) = journals.last() {
        std::fs::hard_link(last, last.with_extension(FOUND)).map_err(KvError::from_io)?;
    }
    for ((_, path), end) in journals.iter().zip(ends) {
        renew(path, end).map_err(KvError::from_io)?;
    }
    sync_names(dir)
}

/// The store was compared with the fence: what was cut off was nothing that is due. On return no loss of power brings it back.
pub(super) fn accept(dir: &Path) -> Result<(), KvError> {
    for (_, found) in list(dir, FOUND).map_err(KvError::from_io)? {
        std::fs::remove_file(found).map_err(KvError::from_io)?;
    }
    sync_names(dir)
}

/// The store was refused, or nobody came to compare it: its last journal is again as it was found.
pub(super) fn put_back(dir: &Path) -> Result<(), KvError> {
    for (_, found) in list(dir, FOUND).map_err(KvError::from_io)? {
        let journal = found.with_extension(JOURNAL);
        std::fs::rename(&found, &journal).map_err(KvError::from_io)?;
        // Two names of one file stay as they are: the opening was killed before the copy.
        match std::fs::remove_file(&found) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(KvError::from_io(error)),
            _ => {}
        }
    }
    Ok(())
}

fn sync_names(dir: &Path) -> Result<(), KvError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(KvError::from_io)
}

/// Files named by numbers with this ending, ascending.
fn list(dir: &Path, ending: &str) -> std::io::Result<Vec<(u64, PathBuf)>> {
    let mut journals = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let number = |name: &str| name.strip_suffix(ending)?.strip_suffix('.')?.parse().ok();
        let number = path.file_name().and_then(|name| number(name.to_str()?));
        journals.extend(number.map(|number| (number, path)));
    }
    journals.sort_unstable();
    Ok(journals)
}

/// Checks a journal; the last one with the fence. Returns where its whole batches end.
fn check_one(path: &Path, last: Option<&Past>, order: &mut Order) -> Result<u64, KvError> {
    let file = File::open(path).map_err(KvError::from_io)?;
    let reader = BufReader::with_capacity(PIECE_BYTES, file);
    let mut journal = Journal { reader, at: 0, item: Vec::new() };
    let damaged = |what: &str| KvError::Corrupt(format!("{what} in the journal {}", path.display()));
    loop {
        let end = journal.at;
        match journal.next().map_err(KvError::from_io)? {
            Step::Batch(batch) => order.follow(&batch).map_err(damaged)?,
            Step::WrongChecksum(batch) if last.is_some_and(|past| may_be_torn(past, &batch)) => {
                return Ok(end);
            }
            Step::WrongChecksum(_) => return Err(damaged("a batch has a wrong checksum")),
            Step::End if last.is_some() || journal.rest_is_zeros().map_err(KvError::from_io)? => {
                return Ok(end);
            }
            Step::Torn if last.is_some() => return Ok(end),
            Step::End | Step::Torn => return Err(damaged("unreadable bytes")),
        }
    }
}

/// Whether a loss of power may have left a batch like this: a kill leaves none whose end is there. Without its lane it may have been
/// synced; the fence finds that out when the counts are compared.
fn may_be_torn(past: &Past, batch: &BatchHead) -> bool {
    !past.is_same_boot() && batch.lane.is_none_or(|(lane, row)| row.count > past.synced(lane))
}

/// What must ascend.
struct Order {
    last_seqno: Option<u64>,
    lanes: [Option<u64>; LANES],
}

impl Order {
    /// How far each lane is, as far as the journals tell: of others the tables may have anything.
    fn counts(&self) -> Counts {
        self.lanes.map(|lane| lane.unwrap_or(u64::MAX))
    }

    fn follow(&mut self, batch: &BatchHead) -> Result<(), &'static str> {
        if self.last_seqno.is_some_and(|last| batch.seqno <= last) {
            return Err("a sequence number does not ascend");
        }
        self.last_seqno = Some(batch.seqno);
        let Some((lane, row)) = batch.lane else { return Ok(()) };
        if batch.seqno < row.floor {
            return Err("a sequence number is below those of earlier batches");
        }
        let is_bridge = batch.items == 1;
        // A count comes twice when a commit failed although its batch was written.
        if !is_bridge && self.lanes[lane].is_some_and(|last| row.count != last && row.count != last + 1) {
            return Err("batches are missing");
        }
        self.lanes[lane] = Some(row.count);
        Ok(())
    }
}

struct BatchHead {
    seqno: u64,
    items: u32,
    lane: Option<(usize, LaneRow)>,
}

enum Step {
    Batch(BatchHead),
    WrongChecksum(BatchHead),
    /// End of the file, or zeros where a batch would begin.
    End,
    /// Bytes that are no batch, or a part of one.
    Torn,
}

struct Journal {
    reader: BufReader<File>,
    /// Bytes that were read.
    at: u64,
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
        self.at += 1;
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
        let head = BatchHead { seqno, items: count, lane };
        Ok(if sum == hash.digest() { Step::Batch(head) } else { Step::WrongChecksum(head) })
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
        self.at += bytes as u64;
        self.reader.read_exact(&mut self.item[at..])
    }

    fn array<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut out = [0; N];
        self.at += N as u64;
        self.reader.read_exact(&mut out)?;
        Ok(out)
    }

    fn rest_is_zeros(&mut self) -> std::io::Result<bool> {
        let mut buffer = vec![0; PIECE_BYTES];
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
