//! The resolved test: which items there are, and where they lie.
//!
//! ```text
//! DIR/test-dir.REPETITION-LOOP/mdtest_tree.0/               one tree for all tasks
//! DIR/test-dir.REPETITION-LOOP/mdtest_tree.RANK.0/          -u: one for each
//!     file.mdtest.RANK.ITEM  dir.mdtest.RANK.ITEM           items of directory 0 of the tree
//!     mdtest_tree.1/  mdtest_tree.2/ ...                    -b branches, -z levels deep
//! ```
//!
//! # Invariants
//! - Every item of every task has its own path, and lies in a directory of the tree (`tests::items_lie_in_the_tree`).

use serde::{Deserialize, Serialize};

use crate::backend::Api;
use crate::pattern::Packet;

/// A metadata test; comments name mdtest's options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // mdtest's independent switches.
pub struct MdtestSpec {
    /// Interface under test.
    pub api: Api,
    /// Directories in which the test makes its own (`-d`); with several, tasks take them by turns.
    pub directories: Vec<String>,
    /// How many tasks.
    pub tasks: u32,
    /// Items of each task (`-n`), rounded to whole directories.
    pub items: u64,
    /// Items of one directory of the tree (`-I`).
    pub items_per_dir: u64,
    /// Branches of a directory of the tree (`-b`).
    pub branch: u64,
    /// Levels of the tree below its first directory (`-z`).
    pub depth: u32,
    /// Items in the last level only (`-L`).
    pub leaf_only: bool,
    /// Items are files (`-F`).
    pub files: bool,
    /// Items are directories (`-D`).
    pub dirs: bool,
    /// Each task in a tree of its own (`-u`).
    pub unique_dir: bool,
    /// Time also what it takes to find that tree (`-t`).
    pub time_unique: bool,
    /// How many tasks further the items of each next phase are (`-N`).
    pub stride: u32,
    /// Bytes written into each file at its creation (`-w`).
    pub write_bytes: u64,
    /// Bytes read from each file (`-e`).
    pub read_bytes: u64,
    /// Seconds after which the creation stops (`-W`); 0: never.
    pub deadline_s: u64,
    /// Repetitions (`-i`).
    pub repetitions: u32,
    /// Create (`-C`).
    pub create: bool,
    /// Stat (`-T`).
    pub stat: bool,
    /// Open, read, close (`-E`).
    pub read: bool,
    /// Rename directories.
    pub rename: bool,
    /// Remove (`-r`).
    pub remove: bool,
    /// Compare what is read (`-X`).
    pub verify: bool,
    /// fsync each file after writing (`-y`).
    pub sync: bool,
    /// Stat and read in random order (`-R`).
    pub random: bool,
    /// Seed of that order (`--random-seed`); 0: that of the content.
    pub random_seed: u64,
    /// Seconds before each phase (`-p`).
    pub delay_s: u64,
    /// Task 0 creates and removes for all (`-c`).
    pub collective: bool,
    /// All tasks work on the same files (`-S`).
    pub shared_files: bool,
    /// Files are made without being opened (`-k`).
    pub make_node: bool,
    /// Compare at once what was written (`--verify-write`).
    pub verify_write: bool,
    /// Write everything of the host back at the end of a phase (`-Y`).
    pub sync_host: bool,
    /// Bypass the page cache (`--posix.odirect`).
    pub direct: bool,
    /// What content looks like (`--dataPacketType`).
    pub packet: Packet,
    /// Command of each task before a phase, not timed (`--run-cmd-before-phase`); empty: none.
    pub before_phase: String,
    /// Command of each task at the end of a phase, timed (`--run-cmd-after-phase`); empty: none.
    pub after_phase: String,
    /// What the names of the files of single operations begin with (`--savePerOpDataCSV`); empty: none.
    pub operations_csv: String,
    /// How many tasks further the next node is, which `-N` shifts by.
    pub node_step: u32,
    /// Seed of the content and of the random order.
    pub seed: u64,
}

impl MdtestSpec {
    /// One task that creates, stats, reads and removes `items` empty files in a directory within `directory`.
    pub fn new(api: Api, directory: impl Into<String>, items: u64) -> Self {
        MdtestSpec {
            api,
            directories: vec![directory.into()],
            tasks: 1,
            items,
            items_per_dir: items,
            branch: 1,
            depth: 0,
            leaf_only: false,
            files: true,
            dirs: false,
            unique_dir: false,
            time_unique: false,
            stride: 0,
            write_bytes: 0,
            read_bytes: 0,
            deadline_s: 0,
            repetitions: 1,
            create: true,
            stat: true,
            read: true,
            rename: false,
            remove: true,
            verify: false,
            sync: false,
            random: false,
            random_seed: 0,
            delay_s: 0,
            collective: false,
            shared_files: false,
            make_node: false,
            verify_write: false,
            sync_host: false,
            direct: false,
            packet: Packet::Random,
            before_phase: String::new(),
            after_phase: String::new(),
            operations_csv: String::new(),
            node_step: 1,
            seed: 1,
        }
    }

    /// Directories of one tree.
    pub fn tree_size(&self) -> u64 {
        (0..=self.depth).fold(0_u64, |sum, level| sum.saturating_add(self.branch.saturating_pow(level)))
    }

    /// Directories of one tree that hold items.
    pub(super) fn holders(&self) -> u64 {
        if self.leaf_only { self.branch.saturating_pow(self.depth) } else { self.tree_size() }
    }

    /// Trees beside each other that one task's items fill.
    pub fn loops(&self) -> u64 {
        self.items.div_ceil(self.items_per_dir * self.holders())
    }

    /// The directory of a task's tests.
    pub fn directory(&self, owner: u32) -> &str {
        self.directories.get(owner as usize % self.directories.len().max(1)).map_or(".", String::as_str)
    }

    /// The directory that a repetition is in, for one loop.
    pub fn test_dir(&self, repetition: u32, turn: u64, owner: u32) -> String {
        format!("{}/test-dir.{repetition}-{turn}", self.directory(owner).trim_end_matches('/'))
    }

    /// Directory `index` of the tree of a task.
    pub fn tree_dir(&self, repetition: u32, turn: u64, owner: u32, index: u64) -> String {
        let mut chain = vec![index];
        let mut at = index;
        while at > 0 {
            at = (at - 1) / self.branch.max(1);
            chain.push(at);
        }
        let name = |index: &u64| {
            if self.unique_dir {
                format!("mdtest_tree.{owner}.{index}")
            } else {
                format!("mdtest_tree.{index}")
            }
        };
        let names: Vec<String> = chain.iter().rev().map(name).collect();
        format!("{}/{}", self.test_dir(repetition, turn, owner), names.join("/"))
    }

    /// The directory of an item.
    pub fn dir_of(&self, repetition: u32, owner: u32, item: u64) -> String {
        let holders = self.holders();
        let (turn, within) = (item / (self.items_per_dir * holders), item / self.items_per_dir % holders);
        let first = if self.leaf_only { self.tree_size() - holders } else { 0 };
        self.tree_dir(repetition, turn, owner, first + within)
    }

    /// The path of an item.
    pub fn item_of(&self, repetition: u32, owner: u32, item: u64, directory: bool) -> String {
        let (kind, dir) = (if directory { "dir" } else { "file" }, self.dir_of(repetition, owner, item));
        if self.shared_files {
            return format!("{dir}/{kind}.mdtest.shared.{item}");
        }
        format!("{dir}/{kind}.mdtest.{owner}.{item}")
    }

    /// The task whose items `rank` works on in the `step`th phase after creation.
    pub fn owner(&self, rank: u32, step: u32) -> u32 {
        let shift = u64::from(self.stride) * u64::from(self.node_step) * u64::from(step);
        ((u64::from(rank) + shift) % u64::from(self.tasks)) as u32
    }

    /// Number of a file for its content.
    pub fn file_number(&self, owner: u32, item: u64) -> u64 {
        if self.shared_files { item } else { u64::from(owner) * self.items + item }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn spec() -> MdtestSpec {
        MdtestSpec { tasks: 3, ..MdtestSpec::new(Api::Null, "/d/", 30) }
    }

    fn distributed(spec: MdtestSpec) -> MdtestSpec {
        let mut spec = spec;
        spec.distribute().expect("items");
        spec.validate().expect("a test");
        spec
    }

    /// Goal: no two items collide, and each lies in a directory of the tree. Method: all paths of trees of all kinds.
    #[test]
    fn items_lie_in_the_tree() {
        let ways = [
            MdtestSpec { items_per_dir: 0, ..spec() },
            MdtestSpec { items: 0, items_per_dir: 4, branch: 3, depth: 2, unique_dir: true, ..spec() },
            MdtestSpec { items: 100, items_per_dir: 0, branch: 2, depth: 3, leaf_only: true, ..spec() },
            MdtestSpec { items: 12, items_per_dir: 4, ..spec() },
        ];
        let expected = [(30, 1, 1), (52, 13, 1), (96, 15, 1), (12, 1, 3)];
        for (spec, (items, size, loops)) in ways.into_iter().map(distributed).zip(expected) {
            assert_eq!((spec.items, spec.tree_size(), spec.loops()), (items, size, loops));
            let dirs: BTreeSet<String> = (0..spec.loops())
                .flat_map(|turn| (0..3).map(move |owner| (turn, owner)))
                .flat_map(|(turn, owner)| (0..size).map(move |index| (turn, owner, index)))
                .map(|(turn, owner, index)| spec.tree_dir(0, turn, owner, index))
                .collect();
            let paths: BTreeSet<String> = (0..3)
                .flat_map(|owner| (0..items).map(move |i| (owner, i)))
                .map(|(o, i)| spec.item_of(0, o, i, false))
                .collect();
            assert_eq!(paths.len() as u64, 3 * items);
            assert!(paths.iter().all(|path| dirs.contains(path.rsplit_once('/').expect("a directory").0)));
        }
    }

    #[test]
    fn paths_are_those_of_mdtest() {
        let spec =
            MdtestSpec { branch: 2, depth: 2, items_per_dir: 5, items: 35, unique_dir: true, ..spec() };
        assert_eq!(spec.tree_dir(1, 0, 7, 0), "/d/test-dir.1-0/mdtest_tree.7.0");
        assert_eq!(
            spec.item_of(0, 7, 33, true),
            "/d/test-dir.0-0/mdtest_tree.7.0/mdtest_tree.7.2/mdtest_tree.7.6/dir.mdtest.7.33"
        );
        assert_eq!((spec.owner(2, 0), spec.owner(2, 3)), (2, 2), "no stride");
        let strided = MdtestSpec { stride: 1, ..spec };
        assert_eq!((strided.owner(2, 1), strided.owner(2, 2)), (0, 1));
        assert_eq!(
            MdtestSpec { tasks: 4, node_step: 2, ..strided.clone() }.owner(1, 1),
            3,
            "the next node's"
        );
        let shared = MdtestSpec { shared_files: true, unique_dir: false, ..strided.clone() };
        assert_eq!(shared.item_of(0, 7, 3, false), "/d/test-dir.0-0/mdtest_tree.0/file.mdtest.shared.3");
        let directories = vec!["/a".to_owned(), "/b".to_owned()];
        let two = MdtestSpec { directories, ..strided };
        assert_eq!(two.tree_dir(0, 0, 3, 0), "/b/test-dir.0-0/mdtest_tree.3.0");
    }
}
