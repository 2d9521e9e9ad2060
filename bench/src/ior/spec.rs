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
use crate::pattern::{Packet, mix};
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
    /// A random task's that is at least `offset` tasks further, another each repetition if `seed` is negative (`-Z`, `-X`, `-Q`).
    Random {
        /// Seed of the order.
        seed: i64,
        /// By how many tasks at least.
        offset: u32,
    },
}

/// A test in all its details; names are those of IOR's directives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // IOR's independent switches.
pub struct IorSpec {
    /// Interface under test.
    pub api: Api,
    /// Test file, or what file-per-process names start with; of several (`A@B`) tasks with files of their own take one by turns, and all else is of the first.
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
    /// What content looks like.
    pub packet: Packet,
    /// A file (or files) of its own for each repetition.
    pub multi_file: bool,
    /// End a transfer that the system did in part with an error.
    pub single_attempt: bool,
    /// Stop a phase after so many seconds (stonewall); 0: never.
    pub deadline_s: u64,
    /// After it, every task goes on to where the fastest was.
    pub wear_out: bool,
    /// With `wear_out`: go on to this many transfers at least.
    pub wear_out_iterations: u64,
    /// Begin no phase after so many minutes; 0: always.
    pub max_minutes: u64,
    /// Warn of tasks whose times are further than so many seconds from the mean; 0: do not.
    pub outlier_s: u64,
    /// Bytes of memory that each task takes away from caches.
    pub hog_bytes: u64,
    /// Tasks on one node: what `-Z` shifts by at least, if there is more than one node.
    pub tasks_per_node: u32,
    /// How many tasks further the next node is, which `-C` shifts by.
    pub node_step: u32,
    /// Seed of the content in each repetition.
    pub seeds: Vec<u64>,
    /// Seed of random offsets.
    pub offset_seed: u64,
    /// What the names of the files of single transfers begin with; empty: none.
    pub operations_csv: String,
}

/// Between the names of several test files.
pub const FILES_DELIMITER: char = '@';

/// Seed of random offsets, unless another is asked for.
pub const OFFSET_SEED: u64 = 0x000f_f5e7;

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
            packet: Packet::Random,
            multi_file: false,
            single_attempt: false,
            deadline_s: 0,
            wear_out: false,
            wear_out_iterations: 0,
            max_minutes: 0,
            outlier_s: 0,
            hog_bytes: 0,
            tasks_per_node: 1,
            node_step: 1,
            seeds: vec![1],
            offset_seed: OFFSET_SEED,
            operations_csv: String::new(),
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
        if self.wear_out && self.deadline_s == 0 && self.wear_out_iterations == 0 {
            return wrong("stoneWallingWearOut needs a deadline (-D)");
        }
        if self.names().any(|name| name.is_empty() || name.ends_with('/')) {
            return wrong("the test file (-o) must name a file; of several (A@B), each must");
        }
        if self.unique_dir && self.names().count() > 1 {
            return wrong("several test files (-o A@B) and unique directories (-u) do not go together");
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

    /// The task that is so many nodes further.
    fn further(&self, rank: u32, nodes: u32) -> u32 {
        let shift = u64::from(nodes) * u64::from(self.node_step);
        ((u64::from(rank) + shift) % u64::from(self.tasks)) as u32
    }

    /// The task whose data `rank` reads in a repetition.
    pub fn reads_of(&self, rank: u32, repetition: u32) -> u32 {
        match self.reorder {
            Reorder::None => rank,
            Reorder::Constant { offset } => self.further(rank, offset),
            Reorder::Random { seed, offset } => {
                let each = if seed < 0 { u64::from(repetition) + 1 } else { 0 };
                let order = Permutation::new(u64::from(self.tasks), mix(seed as u64 ^ mix(each)));
                let unit = if self.tasks > self.tasks_per_node { self.tasks_per_node } else { 1 };
                let distance = u64::from(offset) * u64::from(unit) % u64::from(self.tasks);
                self.distant_order(&order, distance)[rank as usize]
            }
        }
    }

    /// The task whose data `rank` compares after the write phase (`-W`): as in IOR of two nodes further with `-C`, whatever `-Q` says, else its own.
    pub fn checks_of(&self, rank: u32) -> u32 {
        match self.reorder {
            Reorder::Constant { .. } => self.further(rank, 2),
            Reorder::None | Reorder::Random { .. } => rank,
        }
    }

    /// A random order in which nobody reads of a task that is nearer than `shift` further. All tasks compute the same.
    fn distant_order(&self, order: &Permutation, shift: u64) -> Vec<u32> {
        let tasks = u64::from(self.tasks);
        let mut owners: Vec<u64> = (0..tasks).map(|rank| order.get(rank)).collect();
        let far = |rank: u64, owner: u64| (owner + tasks - rank) % tasks >= shift;
        for rank in 0..tasks {
            if far(rank, owners[rank as usize]) {
                continue;
            }
            let (mine, at) = (owners[rank as usize], rank as usize);
            let partner = (1..tasks).map(|step| (rank + step) % tasks).find(|other| {
                let theirs = owners[*other as usize];
                far(rank, theirs) && far(*other, mine)
            });
            // If the distance is most of the circle there may be nobody to swap with; then the order is not quite as far.
            if let Some(other) = partner {
                owners.swap(at, other as usize);
            }
        }
        owners.into_iter().map(|owner| owner as u32).collect()
    }

    /// Directory and name of the file that holds the data of `owner` in a repetition.
    pub fn file_of(&self, owner: u32, repetition: u32) -> (Option<String>, String) {
        let (dir, path) = self.plain_file_of(owner);
        (dir, if self.multi_file { format!("{path}.{repetition}") } else { path })
    }

    /// The names of `-o`.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.test_file.split(FILES_DELIMITER)
    }

    fn plain_file_of(&self, owner: u32) -> (Option<String>, String) {
        let mine = if self.file_per_process { owner as usize % self.names().count() } else { 0 };
        let file = self.names().nth(mine).unwrap_or_default();
        if !self.file_per_process {
            return (None, file.to_owned());
        }
        if !self.unique_dir {
            return (None, format!("{file}.{owner:08}"));
        }
        let (parent, name) = file.rsplit_once('/').unwrap_or(("", file));
        let slash = if file.contains('/') { "/" } else { "" };
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
            Permutation::new(each * tasks, self.offset_seed).get(owner * each + index)
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
            Reorder::Random { seed: 0, offset: 1 },
            Reorder::Random { seed: -1, offset: 7 },
        ] {
            let spec = IorSpec { reorder, tasks: 50, ..spec() };
            let far = |rank: u32| (spec.reads_of(rank, 0) + 50 - rank) % 50;
            match reorder {
                Reorder::None => {}
                Reorder::Constant { offset } => assert!((0..50).all(|rank| far(rank) == offset)),
                Reorder::Random { offset, .. } => {
                    assert!((0..50).all(|rank| far(rank) >= offset), "{reorder:?}");
                }
            }
            let order = |repetition| (0..50).map(|rank| spec.reads_of(rank, repetition)).collect::<Vec<_>>();
            let mut owners = order(0);
            owners.sort_unstable();
            assert!(owners.into_iter().eq(0..50), "{reorder:?}");
            let changes = order(0) != order(1);
            assert_eq!(changes, reorder == Reorder::Random { seed: -1, offset: 7 }, "{reorder:?}");
        }
        let constant = IorSpec { reorder: Reorder::Constant { offset: 1 }, ..spec() };
        assert_eq!(constant.reads_of(3, 0), 0);
        let nodes = IorSpec { tasks_per_node: 2, node_step: 2, ..constant.clone() };
        assert_eq!(nodes.reads_of(3, 0), 1, "the next node's");
        let in_turn = IorSpec { tasks_per_node: 2, node_step: 1, ..constant };
        assert_eq!(in_turn.reads_of(3, 0), 0, "tasks dealt in turn: the next task's");
    }

    /// `-W` is of two nodes further with `-C`, whatever `-Q`, and of the task itself with `-Z`: nodes 0 0 1 1 2 2 3 3, and one node.
    #[test]
    fn what_was_written_is_checked_two_nodes_further() {
        let order = |reorder, node_step| {
            let spec = IorSpec { reorder, node_step, tasks: 8, ..spec() };
            (0..8).map(|rank| spec.checks_of(rank)).collect::<Vec<_>>()
        };
        for offset in [1, 3] {
            assert_eq!(order(Reorder::Constant { offset }, 2), [4, 5, 6, 7, 0, 1, 2, 3]);
            assert_eq!(order(Reorder::Constant { offset }, 1), [2, 3, 4, 5, 6, 7, 0, 1]);
            assert_eq!(order(Reorder::Random { seed: 5, offset }, 2), [0, 1, 2, 3, 4, 5, 6, 7]);
        }
        assert_eq!(order(Reorder::None, 2), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn files_are_named_as_ior_names_them() {
        let own = IorSpec { file_per_process: true, ..spec() };
        assert_eq!(own.file_of(59, 0), (None, "dir/f.00000059".to_owned()));
        let many = IorSpec { multi_file: true, ..own.clone() };
        assert_eq!(many.file_of(59, 3).1, "dir/f.00000059.3");
        let unique = IorSpec { unique_dir: true, ..own };
        assert_eq!(unique.file_of(2, 0), (Some("dir/2".to_owned()), "dir/2/f.00000002".to_owned()));
        let top = IorSpec { test_file: "/f".to_owned(), ..unique };
        assert_eq!(top.file_of(2, 0), (Some("/2".to_owned()), "/2/f.00000002".to_owned()));
        let several = IorSpec { test_file: "a/f@b/g@c/h".to_owned(), ..spec() };
        assert_eq!(several.file_of(2, 0), (None, "a/f".to_owned()), "one file is of the first");
        let own = IorSpec { file_per_process: true, multi_file: true, ..several };
        let names = [0, 1, 2, 3].map(|owner| own.file_of(owner, 1).1);
        assert_eq!(names, ["a/f.00000000.1", "b/g.00000001.1", "c/h.00000002.1", "a/f.00000003.1"]);
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
        for name in ["", "dir/", "a@", "a@b/", "@b"] {
            refused(IorSpec { test_file: name.to_owned(), ..spec() }, "-o");
        }
        let own = IorSpec { file_per_process: true, unique_dir: true, ..spec() };
        refused(IorSpec { test_file: "a@b".to_owned(), ..own }, "-u");
    }
}
