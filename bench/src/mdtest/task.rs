//! What one task of a metadata run does.
//!
//! # Invariants
//! - Between the barrier before a phase and its last time stamp nothing is done but the phase's own work.

use std::time::Duration;

use super::spec::MdtestSpec;
use crate::backend::{Api, Backend, IoFailure, IoResult, OpenHow, make_all};
use crate::clock::now_ns;
use crate::error::Result;
use crate::pattern::Pattern;
use crate::permute::Permutation;
use crate::phase::{Phase, Stonewall, Times};
use crate::tasks::link::{Done, TaskLink};

/// Does the work of this task for all repetitions.
///
/// # Errors
/// What the file system refused, or the end of the run.
pub fn run(spec: &MdtestSpec, backend: &dyn Backend, link: &mut TaskLink<'_>) -> Result<()> {
    let buffer = vec![0; spec.write_bytes.max(spec.read_bytes) as usize];
    let pattern = Pattern::new(spec.seed, 0);
    let mut task = MdtestTask { spec, backend, link, buffer, pattern, items: spec.items };
    (0..spec.repetitions).try_for_each(|repetition| task.repetition(repetition))
}

struct MdtestTask<'a, 'b> {
    spec: &'a MdtestSpec,
    backend: &'a dyn Backend,
    link: &'a mut TaskLink<'b>,
    buffer: Vec<u8>,
    pattern: Pattern,
    /// Items of each task that there are, where a deadline ended their creation.
    items: u64,
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
                std::thread::sleep(Duration::from_secs(self.spec.delay_s));
            }
            self.items(repetition, *phase)?;
        }
        Ok(())
    }

    /// Makes or removes the directories of the trees: of one tree by task 0, of each its own by every task.
    fn tree(&mut self, repetition: u32, phase: Phase) -> Result<()> {
        let (spec, rank) = (self.spec, self.link.rank());
        let making = phase == Phase::TreeCreate;
        if making && rank == 0 {
            make_all(self.backend, &spec.directory)?;
            (0..spec.loops())
                .try_for_each(|turn| make_all(self.backend, &spec.test_dir(repetition, turn)))?;
        }
        let mut begun = self.link.begin(repetition, phase, self.backend)?;
        let start = now_ns();
        if rank == 0 || spec.unique_dir {
            for turn in 0..spec.loops() {
                self.one_tree(repetition, turn, making, &mut begun.done)?;
            }
        }
        self.link.barrier()?;
        let times = Times::simple(start, now_ns());
        self.link.end(begun, times, self.backend)?;
        if !making && rank == 0 {
            (0..spec.loops()).try_for_each(|turn| self.backend.rmdir(&spec.test_dir(repetition, turn)))?;
        }
        self.link.barrier().map(drop)
    }

    fn one_tree(&self, repetition: u32, turn: u64, making: bool, done: &mut Done) -> Result<()> {
        let size = self.spec.tree_size();
        for index in 0..size {
            let start = now_ns();
            if making {
                self.backend.mkdir(&self.spec.tree_dir(repetition, turn, self.link.rank(), index))?;
            } else {
                self.backend.rmdir(&self.spec.tree_dir(
                    repetition,
                    turn,
                    self.link.rank(),
                    size - 1 - index,
                ))?;
            }
            done.note(start, 0);
        }
        Ok(())
    }

    fn items(&mut self, repetition: u32, phase: Phase) -> Result<()> {
        let spec = self.spec;
        let creating = matches!(phase, Phase::FileCreate | Phase::DirCreate);
        let owner = spec.owner(self.link.rank(), step_of(phase));
        let order = Permutation::new(self.items, spec.seed ^ u64::from(self.link.rank()));
        let shuffled = spec.random && matches!(phase, Phase::FileStat | Phase::DirStat);
        let mut begun = self.link.begin(repetition, phase, self.backend)?;
        let start = now_ns();
        if spec.time_unique && spec.unique_dir {
            self.backend.stat(&spec.tree_dir(repetition, 0, owner, 0))?;
        }
        if creating && spec.deadline_s > 0 {
            self.until_deadline(phase, repetition, start, &mut begun.done)?;
        } else if phase == Phase::DirRename {
            self.rename(repetition, &mut begun.done)?;
        } else {
            for item in 0..self.items {
                let item = if shuffled { order.get(item) } else { item };
                self.item(phase, repetition, owner, item, &mut begun.done)?;
            }
        }
        self.link.end(begun, Times::simple(start, now_ns()), self.backend)
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
            self.item(phase, repetition, rank, item, done)?;
            item += 1;
        }
        let (operations, bytes) = (done.operations, done.bytes);
        done.stonewall =
            Some(Stonewall { operations, bytes, after_ns: now_ns() - start_ns, hit: item < all });
        self.items = self.link.agree(item)?.max;
        (item..self.items).try_for_each(|item| self.item(phase, repetition, rank, item, done))
    }

    /// Every directory gets the name of the one before it, and the first that of the last: the names are the same in the end.
    fn rename(&mut self, repetition: u32, done: &mut Done) -> Result<()> {
        let (rank, items) = (self.link.rank(), self.items);
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

    fn item(&mut self, phase: Phase, repetition: u32, owner: u32, item: u64, done: &mut Done) -> Result<()> {
        let directory = matches!(phase, Phase::DirCreate | Phase::DirStat | Phase::DirRemove);
        let path = self.spec.item_of(repetition, owner, item, directory);
        if phase == Phase::FileCreate && self.spec.write_bytes > 0 {
            self.pattern.aim(self.spec.seed, self.spec.file_number(owner, item));
            self.pattern.fill(&mut self.buffer[..self.spec.write_bytes as usize], 0);
        }
        let start = now_ns();
        let bytes = match phase {
            Phase::DirCreate => self.backend.mkdir(&path).map(|()| 0),
            Phase::DirStat => self.backend.stat(&path).map(|_| 0),
            Phase::DirRemove => self.backend.rmdir(&path).map(|()| 0),
            Phase::FileCreate => self.create(&path),
            Phase::FileStat => self.stat(&path),
            Phase::FileRead => self.read(&path),
            _ => self.backend.unlink(&path).map(|()| 0),
        }?;
        done.note(start, bytes as u64);
        if phase == Phase::FileRead && self.spec.verify {
            self.pattern.aim(self.spec.seed, self.spec.file_number(owner, item));
            self.buffer[bytes..].fill(0);
            let data = &self.buffer[..self.spec.read_bytes as usize];
            if let Err(mismatch) = self.pattern.check(data, 0) {
                done.wrong(mismatch.words, || format!("{path}: {mismatch}"));
            }
        }
        Ok(())
    }

    fn create(&self, path: &str) -> IoResult<usize> {
        let how = OpenHow { write: true, create: true, ..OpenHow::default() };
        let file = self.backend.open(path, how)?;
        let data = &self.buffer[..self.spec.write_bytes as usize];
        if !data.is_empty() {
            file.write_at(data, 0)?;
        }
        if self.spec.sync {
            file.sync()?;
        }
        file.close().map(|()| data.len())
    }

    /// Asks for the attributes; a wrong size means that a file or its content was lost.
    fn stat(&self, path: &str) -> IoResult<usize> {
        let (size, expected) = (self.backend.stat(path)?.bytes, self.spec.write_bytes);
        // The null backend does not know the files of other tasks; who only stats may not know what was written.
        if size == expected || self.spec.api == Api::Null || !self.spec.create && expected == 0 {
            return Ok(0);
        }
        let why = format!("it has {size} bytes, {expected} were written");
        Err(IoFailure { action: "wrong size of", path: path.to_owned(), why, not_found: false })
    }

    fn read(&mut self, path: &str) -> IoResult<usize> {
        let file = self.backend.open(path, OpenHow::default())?;
        let wanted = self.spec.read_bytes as usize;
        let bytes = if wanted > 0 { file.read_at(&mut self.buffer[..wanted], 0)? } else { 0 };
        file.close()?;
        if bytes == wanted || self.spec.verify {
            return Ok(bytes);
        }
        let why = format!("{bytes} of {wanted} bytes");
        Err(IoFailure { action: "cannot read", path: path.to_owned(), why, not_found: false })
    }
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
