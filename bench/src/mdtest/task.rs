//! What one task of a metadata run does: the phases in their order.
//!
//! # Invariants
//! - Between the barrier before a phase and its last time stamp nothing is done but the phase's own work.

use std::time::Duration;

use super::items::Items;
use super::report::name;
use super::spec::MdtestSpec;
use crate::backend::{Backend, make_all};
use crate::clock::{now_ns, sleep};
use crate::error::Result;
use crate::permute::Permutation;
use crate::phase::{Phase, Stonewall, Times};
use crate::tasks::link::{Done, TaskLink};
use crate::{command, csv};

/// Does the work of this task for all repetitions.
///
/// # Errors
/// What the file system refused, or the end of the run.
pub fn run(spec: &MdtestSpec, backend: &dyn Backend, link: &mut TaskLink<'_>) -> Result<()> {
    let mut task = MdtestTask { spec, backend, link, items: Items::new(spec, backend), count: spec.items };
    (0..spec.repetitions).try_for_each(|repetition| task.repetition(repetition))
}

struct MdtestTask<'a, 'b> {
    spec: &'a MdtestSpec,
    backend: &'a dyn Backend,
    link: &'a mut TaskLink<'b>,
    items: Items<'a>,
    /// Items of each task that there are, where a deadline ended their creation.
    count: u64,
}

impl MdtestTask<'_, '_> {
    fn repetition(&mut self, repetition: u32) -> Result<()> {
        let spec = self.spec;
        if spec.create {
            self.tree(repetition, Phase::TreeCreate)?;
        }
        if spec.dirs {
            let phases = [
                (spec.create, Phase::DirCreate),
                (spec.stat, Phase::DirStat),
                (spec.rename, Phase::DirRename),
                (spec.remove, Phase::DirRemove),
            ];
            self.phases(repetition, &phases)?;
        }
        if spec.files {
            let phases = [
                (spec.create, Phase::FileCreate),
                (spec.stat, Phase::FileStat),
                (spec.read, Phase::FileRead),
                (spec.remove, Phase::FileRemove),
            ];
            self.phases(repetition, &phases)?;
        }
        if spec.remove {
            self.tree(repetition, Phase::TreeRemove)?;
        }
        Ok(())
    }

    fn phases(&mut self, repetition: u32, phases: &[(bool, Phase)]) -> Result<()> {
        for (_, phase) in phases.iter().filter(|(wanted, _)| *wanted) {
            if self.spec.delay_s > 0 {
                sleep(Duration::from_secs(self.spec.delay_s));
            }
            if !self.spec.before_phase.is_empty() {
                command::call(&self.spec.before_phase)?;
            }
            self.phase(repetition, *phase)?;
        }
        Ok(())
    }

    /// Whose trees this task makes and removes: its own, or as task 0 the one of all, or those of all with `-c`.
    fn trees(&self) -> std::ops::Range<u32> {
        let rank = self.link.rank();
        let (first, count) = match (self.spec.unique_dir, self.spec.collective) {
            (true, false) => (rank, 1),
            (true, true) if rank == 0 => (0, self.spec.tasks),
            (false, _) if rank == 0 => (0, 1),
            _ => (0, 0),
        };
        first..first + count
    }

    /// Makes or removes the directories of the trees.
    fn tree(&mut self, repetition: u32, phase: Phase) -> Result<()> {
        let (spec, rank) = (self.spec, self.link.rank());
        let making = phase == Phase::TreeCreate;
        let tests = |owner: u32| (0..spec.loops()).map(move |turn| spec.test_dir(repetition, turn, owner));
        let has_directory = (rank as usize) < spec.directories.len();
        if making && has_directory {
            tests(rank).try_for_each(|dir| make_all(self.backend, &dir))?;
        }
        let mut begun = self.link.begin(repetition, phase, self.backend)?;
        let start = now_ns();
        for owner in self.trees() {
            for turn in 0..spec.loops() {
                self.one_tree(repetition, turn, owner, making, &mut begun.done)?;
            }
        }
        self.link.barrier()?;
        let times = Times::simple(start, now_ns());
        self.link.end(begun, times, self.backend)?;
        if !making && has_directory {
            tests(rank).try_for_each(|dir| self.backend.rmdir(&dir))?;
        }
        self.link.barrier().map(drop)
    }

    fn one_tree(&self, repetition: u32, turn: u64, owner: u32, making: bool, done: &mut Done) -> Result<()> {
        let size = self.spec.tree_size();
        for index in 0..size {
            let start = now_ns();
            if making {
                self.backend.mkdir(&self.spec.tree_dir(repetition, turn, owner, index))?;
            } else {
                self.backend.rmdir(&self.spec.tree_dir(repetition, turn, owner, size - 1 - index))?;
            }
            done.note(start, 0);
        }
        Ok(())
    }

    /// One phase on items.
    fn phase(&mut self, repetition: u32, phase: Phase) -> Result<()> {
        let spec = self.spec;
        let owner = spec.owner(self.link.rank(), step_of(phase));
        let mut begun = self.link.begin(repetition, phase, self.backend)?;
        begun.done.log_operations(!spec.operations_csv.is_empty() && is_of_files(phase));
        let start = now_ns();
        if spec.time_unique && spec.unique_dir {
            self.backend.stat(&spec.tree_dir(repetition, 0, owner, 0))?;
        }
        self.work(repetition, phase, owner, start, &mut begun.done)?;
        if spec.sync_host {
            self.backend.sync_host()?;
        }
        if !spec.after_phase.is_empty() {
            command::call(&spec.after_phase)?;
        }
        let times = Times::simple(start, now_ns());
        let operations = begun.done.take_operations();
        self.link.end(begun, times, self.backend)?;
        operations.map_or(Ok(()), |all| self.write_operations(phase, start, &all))
    }

    fn work(
        &mut self,
        repetition: u32,
        phase: Phase,
        owner: u32,
        start_ns: u64,
        done: &mut Done,
    ) -> Result<()> {
        let spec = self.spec;
        match phase {
            Phase::FileCreate | Phase::DirCreate if spec.deadline_s > 0 => {
                self.until_deadline(phase, repetition, start_ns, done)
            }
            Phase::DirCreate | Phase::DirRemove | Phase::FileRemove if spec.collective => {
                self.for_all(phase, repetition, done)
            }
            Phase::FileCreate if spec.collective => {
                if self.link.rank() == 0 {
                    self.items.make_empty(repetition, self.count)?;
                }
                self.link.barrier()?;
                self.own(phase, repetition, owner, done)
            }
            // They have one name each.
            Phase::FileRemove if spec.shared_files && self.link.rank() > 0 => Ok(()),
            Phase::DirRename => self.rename(repetition, done),
            _ => self.own(phase, repetition, owner, done),
        }
    }

    /// All items of one task.
    fn own(&mut self, phase: Phase, repetition: u32, owner: u32, done: &mut Done) -> Result<()> {
        let spec = self.spec;
        let seed = if spec.random_seed > 0 { spec.random_seed } else { spec.seed };
        let order = Permutation::new(self.count, seed ^ u64::from(self.link.rank()));
        let shuffled = spec.random && matches!(phase, Phase::FileStat | Phase::DirStat | Phase::FileRead);
        for item in 0..self.count {
            let item = if shuffled { order.get(item) } else { item };
            self.items.one(phase, repetition, owner, item, done)?;
        }
        Ok(())
    }

    /// Task 0 does the phase for all tasks.
    fn for_all(&mut self, phase: Phase, repetition: u32, done: &mut Done) -> Result<()> {
        let tasks = if self.link.rank() == 0 { self.spec.tasks } else { 0 };
        (0..tasks).try_for_each(|owner| self.own(phase, repetition, owner, done))
    }

    /// Creates until the deadline, and then what the fastest task created more.
    fn until_deadline(
        &mut self,
        phase: Phase,
        repetition: u32,
        start_ns: u64,
        done: &mut Done,
    ) -> Result<()> {
        let (rank, all) = (self.link.rank(), self.spec.items);
        let deadline_ns = start_ns + self.spec.deadline_s * 1_000_000_000;
        let mut item = 0;
        while item < all && now_ns() < deadline_ns {
            self.items.one(phase, repetition, rank, item, done)?;
            item += 1;
        }
        let (operations, bytes) = (done.operations, done.bytes);
        done.stonewall =
            Some(Stonewall { operations, bytes, after_ns: now_ns() - start_ns, hit: item < all });
        self.count = self.link.agree(item)?.max;
        (item..self.count).try_for_each(|item| self.items.one(phase, repetition, rank, item, done))
    }

    /// Every directory gets the name of the one before it, and the first that of the last: the names are the same in the end.
    fn rename(&mut self, repetition: u32, done: &mut Done) -> Result<()> {
        let (rank, items) = (self.link.rank(), self.count);
        let name = |item| self.spec.item_of(repetition, rank, item, true);
        let aside = format!("{}-XX", name(0));
        self.backend.rename(&name(0), &aside)?;
        for item in 1..items {
            let start = now_ns();
            self.backend.rename(&name(item), &name(item - 1))?;
            done.note(start, 0);
        }
        let start = now_ns();
        self.backend.rename(&aside, &name(items - 1))?;
        done.note(start, 0);
        Ok(())
    }

    /// The file of the single operations of a phase.
    fn write_operations(&self, phase: Phase, start_ns: u64, all: &[csv::Operation]) -> Result<()> {
        let spec = self.spec;
        let bytes = match phase {
            Phase::FileCreate => spec.write_bytes,
            Phase::FileRead => spec.read_bytes,
            _ => 1,
        };
        let path = format!("{}-{}-{:05}.csv", spec.operations_csv, name(phase), self.link.rank());
        csv::operations(&path, start_ns, bytes, all)
    }
}

fn is_of_files(phase: Phase) -> bool {
    matches!(phase, Phase::FileCreate | Phase::FileStat | Phase::FileRead | Phase::FileRemove)
}

/// How many strides a phase works further than the creation did.
fn step_of(phase: Phase) -> u32 {
    match phase {
        Phase::DirStat | Phase::FileStat => 1,
        Phase::FileRead => 2,
        Phase::DirRemove | Phase::FileRemove => 3,
        _ => 0,
    }
}
