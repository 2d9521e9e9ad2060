//! The resolved test: who transfers which range of which file.
//!
//! ```text
//! shared file:        | segment 0                     | segment 1 ...
//!                     | task 0 block | task 1 block | | task 0 block | ...
//!                     | xfer | xfer  |
//! file per process:   | segment 0 block | segment 1 block | ...        (its own file, named by the rank)
//! ```
//!
//! # Invariants
//! - The tasks of a phase transfer every byte of the file(s) exactly once, in any order of access and tasks
//!   (`tests::every_byte_is_transferred_once`).

use serde::{Deserialize, Serialize};

use crate::backend::Api;
use crate::error::{BenchError, Result};
use crate::pattern::mix;
use crate::permute::Permutation;

/// Which task reads the data of which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reorder {
    /// Everyone its own.
    None,
    /// Task n reads what task n + `offset` wrote (`-C`, `-Q`).
    Constant {
        /// By how many tasks.
        offset: u32,
    },
    /// A random task's, another each repetition if `seed` is negative (`-Z`, `-X`).
    Random {
        /// Seed of the order.
        seed: i64,
    },
}

/// A test in all its details; names are those of IOR's directives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // IOR's independent switches.
pub struct IorSpec {
    /// Interface under test.
    pub api: Api,
    /// Test file, or what file-per-process names start with.
    pub test_file: String,
    /// How many tasks.
    pub tasks: u32,
    /// Contiguous bytes of one task in one segment.
    pub block_size: u64,
    /// Bytes of one transfer; divides `block_size`.
    pub transfer_size: u64,
    /// Segments.
    pub segments: u64,
    /// Repetitions.
    pub repetitions: u32,
    /// A file for each task.
    pub file_per_process: bool,
    /// Each of them in a directory of its own.
    pub unique_dir: bool,
    /// Write.
    pub write: bool,
    /// Read.
    pub read: bool,
    /// Compare after the write phase, untimed.
    pub check_write: bool,
    /// Compare what is read.
    pub check_read: bool,
    /// Random order of offsets.
    pub random_offset: bool,
    /// Who reads whose data.
    pub reorder: Reorder,
    /// fsync at the end of a write phase, timed.
    pub fsync: bool,
    /// fsync after every write.
    pub fsync_per_write: bool,
    /// Do not remove the file before writing.
    pub use_existing: bool,
    /// Do not remove the file at the end.
    pub keep: bool,
    /// Do not remove it if wrong content was found.
    pub keep_with_error: bool,
    /// End at the first wrong content.
    pub quit_on_error: bool,
    /// Barriers between open, access and close.
    pub intra_barriers: bool,
    /// Bypass the page cache (POSIX).
    pub direct: bool,
    /// Seconds to wait before each phase.
    pub delay_s: u64,
    /// Seed of the content in each repetition.
    pub seeds: Vec<u64>,
}

/// One transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl IorSpec {
    /// A test with IOR's defaults: one task, one block of 1 MiB in transfers of 256 KiB, written and read.
    pub fn new(api: Api, test_file: impl Into<String>) -> Self {
        IorSpec {
            api,
            test_file: test_file.into(),
            tasks: 1,
            block_size: 1 << 20,
            transfer_size: 256 << 10,
            segments: 1,
            repetitions: 1,
            file_per_process: false,
            unique_dir: false,
            write: true,
            read: true,
            check_write: false,
            check_read: false,
            random_offset: false,
            reorder: Reorder::None,
            fsync: false,
            fsync_per_write: false,
            use_existing: false,
            keep: false,
            keep_with_error: false,
            quit_on_error: false,
            intra_barriers: false,
            direct: false,
            delay_s: 0,
            seeds: vec![1],
        }
    }

    /// Checks that the test has a meaning.
    ///
    /// # Errors
    /// [`BenchError::Options`] with what is wrong.
    pub fn validate(&self) -> Result<()> {
        let wrong = |what: &str| Err(BenchError::Options(what.to_owned()));
        if self.tasks == 0 || self.segments == 0 || self.repetitions == 0 {
            return wrong("tasks (-N), segments (-s) and repetitions (-i) must be at least 1");
        }
        if self.transfer_size == 0
            || !self.block_size.is_multiple_of(self.transfer_size)
            || self.block_size == 0
        {
            return wrong("the block size (-b) must be a multiple of the transfer size (-t), and not zero");
        }
        if self.checked_bytes().is_none() {
            return wrong("block size x segments x tasks is more than 2^64 bytes");
        }
        if self.unique_dir && !self.file_per_process {
            return wrong("unique directories (-u) need a file for each task (-F)");
        }
        if self.direct && !self.transfer_size.is_multiple_of(512) {
            return wrong("O_DIRECT (-B) needs transfers (-t) that are multiples of 512 bytes");
        }
        if self.test_file.is_empty() || self.test_file.ends_with('/') {
            return wrong("the test file (-o) must name a file");
        }
        Ok(())
    }

    fn checked_bytes(&self) -> Option<u64> {
        self.block_size.checked_mul(self.segments)?.checked_mul(u64::from(self.tasks))
    }

    /// Transfers of one task in one phase.
    pub fn transfers_per_task(&self) -> u64 {
        self.block_size / self.transfer_size * self.segments
    }

    /// Bytes of all tasks in one phase.
    pub fn total_bytes(&self) -> u64 {
        self.block_size * self.segments * u64::from(self.tasks)
    }

    /// Seed of the content in a repetition.
    pub fn seed(&self, repetition: u32) -> u64 {
        self.seeds[repetition as usize % self.seeds.len()]
    }

    /// The task whose data `rank` reads in a repetition.
    pub fn reads_of(&self, rank: u32, repetition: u32) -> u32 {
        match self.reorder {
            Reorder::None => rank,
            Reorder::Constant { offset } => {
                ((u64::from(rank) + u64::from(offset)) % u64::from(self.tasks)) as u32
            }
            Reorder::Random { seed } => {
                let each = if seed < 0 { u64::from(repetition) + 1 } else { 0 };
                Permutation::new(u64::from(self.tasks), mix(seed as u64 ^ mix(each))).get(u64::from(rank))
                    as u32
            }
        }
    }

    /// Directory and name of the file that holds the data of `owner`.
    pub fn file_of(&self, owner: u32) -> (Option<String>, String) {
        if !self.file_per_process {
            return (None, self.test_file.clone());
        }
        if !self.unique_dir {
            return (None, format!("{}.{owner:08}", self.test_file));
        }
        let (parent, name) = self.test_file.rsplit_once('/').map_or(("", &*self.test_file), |(p, n)| (p, n));
        let slash = if self.test_file.contains('/') { "/" } else { "" };
        let dir = format!("{parent}{slash}{owner}");
        let path = format!("{dir}/{name}.{owner:08}");
        (Some(dir), path)
    }

    /// Number of the file for its content: files of a run differ.
    pub fn file_number(&self, owner: u32) -> u64 {
        if self.file_per_process { u64::from(owner) + 1 } else { 0 }
    }

    /// Transfer `index` of the data of `owner`, `index` below [`Self::transfers_per_task`].
    pub fn transfer(&self, owner: u32, index: u64) -> Transfer {
        let each = self.transfers_per_task();
        let (tasks, owner) =
            if self.file_per_process { (1, 0) } else { (u64::from(self.tasks), u64::from(owner)) };
        let index = if self.random_offset {
            // Dealt from one permutation of the whole file, so every task knows who has what.
            Permutation::new(each * tasks, 0x000f_f5e7).get(owner * each + index)
        } else {
            let per_block = self.block_size / self.transfer_size;
            (index / per_block * tasks + owner) * per_block + index % per_block
        };
        Transfer { offset: index * self.transfer_size, bytes: self.transfer_size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> IorSpec {
        let base = IorSpec::new(Api::Null, "dir/f");
        IorSpec { tasks: 4, block_size: 12, transfer_size: 4, segments: 5, ..base }
    }

    /// Goal: no byte is missed or transferred twice. Method: all transfers of all tasks of small tests, sorted.
    #[test]
    fn every_byte_is_transferred_once() {
        for (random_offset, file_per_process) in [(false, false), (true, false), (false, true), (true, true)]
        {
            let spec = IorSpec { file_per_process, random_offset, ..spec() };
            let offsets_of =
                |owner| (0..spec.transfers_per_task()).map(|i| spec.transfer(owner, i).offset).collect();
            let all: Vec<Vec<u64>> = (0..4).map(offsets_of).collect();
            let files: Vec<Vec<u64>> = if file_per_process { all } else { vec![all.concat()] };
            for mut file in files {
                let sorted = file.is_sorted();
                assert_eq!(sorted, !random_offset && file_per_process, "random {random_offset}");
                file.sort_unstable();
                assert!(file.iter().copied().eq((0..file.len() as u64).map(|i| i * 4)));
            }
        }
    }

    /// The layout in the picture above: block 1 of segment 2 of a shared file.
    #[test]
    fn blocks_of_tasks_lie_side_by_side_in_a_segment() {
        let spec = spec();
        assert_eq!(spec.transfer(1, 7), Transfer { offset: 2 * 48 + 12 + 4, bytes: 4 });
        assert_eq!(spec.total_bytes(), 240);
    }

    /// Every task's data is read by exactly one task; a negative seed changes the order with the repetition.
    #[test]
    fn reading_tasks_are_a_permutation() {
        for reorder in [
            Reorder::None,
            Reorder::Constant { offset: 3 },
            Reorder::Random { seed: 0 },
            Reorder::Random { seed: -1 },
        ] {
            let spec = IorSpec { reorder, tasks: 50, ..spec() };
            let order = |repetition| (0..50).map(|rank| spec.reads_of(rank, repetition)).collect::<Vec<_>>();
            let mut owners = order(0);
            owners.sort_unstable();
            assert!(owners.into_iter().eq(0..50), "{reorder:?}");
            let changes = order(0) != order(1);
            assert_eq!(changes, reorder == Reorder::Random { seed: -1 }, "{reorder:?}");
        }
        assert_eq!(IorSpec { reorder: Reorder::Constant { offset: 1 }, ..spec() }.reads_of(3, 0), 0);
    }

    #[test]
    fn files_are_named_as_ior_names_them() {
        let own = IorSpec { file_per_process: true, ..spec() };
        assert_eq!(own.file_of(59), (None, "dir/f.00000059".to_owned()));
        let unique = IorSpec { unique_dir: true, ..own };
        assert_eq!(unique.file_of(2), (Some("dir/2".to_owned()), "dir/2/f.00000002".to_owned()));
        let top = IorSpec { test_file: "/f".to_owned(), ..unique };
        assert_eq!(top.file_of(2), (Some("/2".to_owned()), "/2/f.00000002".to_owned()));
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |spec: IorSpec, about: &str| {
            let message = spec.validate().expect_err(about).to_string();
            assert!(message.contains(about), "{message}");
        };
        assert!(spec().validate().is_ok());
        refused(IorSpec { transfer_size: 5, ..spec() }, "-t");
        refused(IorSpec { transfer_size: 0, ..spec() }, "-t");
        refused(IorSpec { tasks: 0, ..spec() }, "-N");
        refused(IorSpec { unique_dir: true, ..spec() }, "-F");
        refused(IorSpec { segments: u64::MAX, ..spec() }, "2^64");
        refused(IorSpec { direct: true, ..spec() }, "-B");
        refused(IorSpec { test_file: "dir/".to_owned(), ..spec() }, "-o");
    }
}
