//! Room for names and for the contents of small files: the key-value store fails for good when it meets a full file system, so what would bring it
//! there is refused before.
//!
//! # Invariants
//! - Contents leave what chunks leave: a reserve for names, deletions and compaction; new names leave a quarter of it for what frees space, and that
//!   a sixteenth (`a_full_file_system_is_noticed`).
//! - What the engine still wants for what it has taken (`Kv::owed_bytes`) counts as used for names, contents, and chunks (`store/segment.rs`).
//! - While there is plenty the kernel is asked at most every [`HOLDS`]; from then on for each answer, so that another program that fills the file
//!   system is noticed (`tests/ckpt_disks.rs` of the command, `a_device_without_room_refuses_and_recovers`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fs_proto::Status;

use crate::error::{OpError, OpResult};
use crate::kv::Kv;
use crate::store::StoreOptions;

/// How long an answer of the kernel holds while there is plenty.
const HOLDS: Duration = Duration::from_millis(50);
/// What is plenty beyond the reserve: more than can be written while an answer holds.
const PLENTY_BYTES: u64 = 256 << 20;

/// What there is room for; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Room {
    Nothing,
    Deletions,
    Names,
    Anything,
    Plenty,
}

/// What is known of the room in a file system.
pub struct Space {
    dir: PathBuf,
    began: Instant,
    /// Milliseconds since `began` of the last look.
    looked: AtomicU64,
    /// What it saw; false before the first.
    has_plenty: AtomicBool,
    /// Whose engine still wants some of it.
    engine: Option<Arc<dyn Kv>>,
}

impl Space {
    /// That of the file system that `dir` is in.
    pub fn of(dir: &Path) -> Self {
        Space {
            dir: dir.to_owned(),
            began: Instant::now(),
            looked: AtomicU64::new(0),
            has_plenty: AtomicBool::new(false),
            engine: None,
        }
    }

    /// What the engine of `kv`, which has its files there, still wants is not free.
    pub fn beside(self, kv: Arc<dyn Kv>) -> Self {
        Space { engine: Some(kv), ..self }
    }

    /// Refuses when there is no room for contents.
    pub fn check_contents(&self) -> OpResult<()> {
        self.check(Room::Anything)
    }

    /// Refuses when there is none for names, either.
    pub fn check_names(&self) -> OpResult<()> {
        self.check(Room::Names)
    }

    /// Whether not even what frees space can be noted.
    pub fn is_exhausted(&self) -> bool {
        self.room() < Room::Deletions
    }

    fn check(&self, needs: Room) -> OpResult<()> {
        if self.room() < needs {
            return Err(OpError::new(Status::NoSpace, "no space left on the server's file system"));
        }
        Ok(())
    }

    fn room(&self) -> Room {
        let now = self.began.elapsed().as_millis() as u64;
        let age = now.saturating_sub(self.looked.load(Ordering::Relaxed));
        if age < HOLDS.as_millis() as u64 && self.has_plenty.load(Ordering::Relaxed) {
            return Room::Plenty;
        }
        let owed_bytes = self.engine.as_ref().map_or(0, |kv| kv.owed_bytes());
        let room = room_in(&self.dir, owed_bytes);
        self.looked.store(now, Ordering::Relaxed);
        self.has_plenty.store(room == Room::Plenty, Ordering::Relaxed);
        room
    }
}

/// A file system that cannot tell is not full: the store will say so.
fn room_in(dir: &Path, owed_bytes: u64) -> Room {
    let Ok(info) = rustix::fs::statvfs(dir) else { return Room::Plenty };
    let free_bytes = info.f_bavail * info.f_frsize;
    room(info.f_blocks * info.f_frsize, free_bytes.saturating_sub(owed_bytes))
}

fn room(total_bytes: u64, free_bytes: u64) -> Room {
    let reserve = StoreOptions::default().reserve_bytes.min(total_bytes / 16);
    match free_bytes {
        free if free < reserve / 16 => Room::Nothing,
        free if free < reserve / 4 => Room::Deletions,
        free if free < reserve => Room::Names,
        free if free < reserve + PLENTY_BYTES => Room::Anything,
        _ => Room::Plenty,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_system_is_noticed() {
        let (gib, mib) = (1 << 30, 1 << 20);
        assert_eq!(room(100 * gib, 300 * mib), Room::Anything);
        assert_eq!(room(100 * gib, 600 * mib), Room::Plenty);
        assert_eq!(room(100 * gib, 200 * mib), Room::Names);
        assert_eq!(room(100 * gib, 63 * mib), Room::Deletions);
        assert_eq!(room(100 * gib, 15 * mib), Room::Nothing);
        assert_eq!(room(gib, 65 * mib), Room::Anything, "a small one keeps a sixteenth");
        assert_eq!(room(gib, 63 * mib), Room::Names);
        assert_eq!(room(gib, 15 * mib), Room::Deletions);
        assert_eq!(room(gib, 3 * mib), Room::Nothing);
    }
}
