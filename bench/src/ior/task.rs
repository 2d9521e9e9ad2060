//! What one task of an IOR run does.
//!
//! # Invariants
//! - Between the barrier before a phase and its last time stamp nothing is done but the phase's own work.
//! - A short or failed transfer ends the run; wrong content is counted and the run goes on.

use std::time::Duration;

use super::spec::{IorSpec, Transfer};
use crate::backend::{Backend, IoFailure, OpenFile, OpenHow, remove_if_there};
use crate::buffer::{ALIGN, Buffer};
use crate::clock::{now_ns, sleep};
use crate::csv;
use crate::error::{BenchError, Result};
use crate::pattern::Pattern;
use crate::phase::{Phase, Stonewall, Times};
use crate::tasks::link::{Done, TaskLink};

/// Does the work of this task for all repetitions.
///
/// # Errors
/// What the file system refused, or the end of the run.
pub fn run(spec: &IorSpec, backend: &dyn Backend, link: &mut TaskLink<'_>) -> Result<()> {
    let hog = hog(spec.hog_bytes as usize);
    let limit = (spec.wear_out_iterations > 0).then_some(spec.wear_out_iterations);
    let buffer = Buffer::new(spec.transfer_size as usize);
    let mut task = IorTask { spec, backend, link, buffer, limit, start_ns: now_ns() };
    let outcome = (0..spec.repetitions).try_for_each(|repetition| task.repetition(repetition));
    std::hint::black_box(&hog);
    outcome
}

/// Memory that caches cannot have: touched, so that it is there.
fn hog(bytes: usize) -> Vec<u8> {
    let mut memory = vec![0; bytes];
    memory.iter_mut().step_by(ALIGN).for_each(|byte| *byte = 1);
    memory
}

struct IorTask<'a, 'b> {
    spec: &'a IorSpec,
    backend: &'a dyn Backend,
    link: &'a mut TaskLink<'b>,
    buffer: Buffer,
    /// How many transfers of each task there are to read, where a deadline ended the writes.
    limit: Option<u64>,
    start_ns: u64,
}

/// What a transfer phase works on.
struct Access<'a> {
    file: &'a dyn OpenFile,
    /// To fill or to compare with; none: read only.
    pattern: Option<&'a Pattern>,
    owner: u32,
    writing: bool,
}

impl IorTask<'_, '_> {
    fn repetition(&mut self, repetition: u32) -> Result<()> {
        let spec = self.spec;
        if spec.write && self.in_time()? {
            self.prepare(repetition)?;
            self.delay();
            self.transfer_phase(Phase::Write, repetition)?;
        }
        if spec.check_write && self.in_time()? {
            self.transfer_phase(Phase::CheckWrite, repetition)?;
        }
        if (spec.read || spec.check_read) && self.in_time()? {
            self.delay();
            self.transfer_phase(Phase::Read, repetition)?;
        }
        self.remove(repetition)
    }

    /// Whether another phase may begin; all tasks come to the same answer.
    fn in_time(&mut self) -> Result<bool> {
        let limit_ns = self.spec.max_minutes.saturating_mul(60_000_000_000);
        Ok(limit_ns == 0 || self.link.agree(now_ns() - self.start_ns)?.max < limit_ns)
    }

    /// Removes what an earlier run left, and makes directories.
    fn prepare(&mut self, repetition: u32) -> Result<()> {
        let rank = self.link.rank();
        let (dir, path) = self.spec.file_of(rank, repetition);
        if let Some(dir) = dir
            && self.backend.stat(&dir).is_err()
        {
            self.backend.mkdir(&dir)?;
        }
        if !self.spec.use_existing && (rank == 0 || self.spec.file_per_process) {
            remove_if_there(self.backend, &path)?;
        }
        Ok(())
    }

    fn delay(&self) {
        if self.spec.delay_s > 0 {
            sleep(Duration::from_secs(self.spec.delay_s));
        }
    }

    fn inner_barrier(&mut self) -> Result<()> {
        if self.spec.intra_barriers { self.link.barrier().map(drop) } else { Ok(()) }
    }

    fn transfer_phase(&mut self, phase: Phase, repetition: u32) -> Result<()> {
        let (spec, backend, rank) = (self.spec, self.backend, self.link.rank());
        let writing = phase == Phase::Write;
        let owner = match phase {
            Phase::Write => rank,
            Phase::CheckWrite => spec.checks_of(rank),
            _ => spec.reads_of(rank, repetition),
        };
        let (_, path) = spec.file_of(owner, repetition);
        let pattern = Pattern::packed(spec.packet, spec.seed(repetition), spec.file_number(owner));
        let how = OpenHow {
            write: writing,
            create: writing,
            direct: spec.direct,
            single_attempt: spec.single_attempt,
            ..OpenHow::default()
        };
        let mut begun = self.link.begin(repetition, phase, backend)?;
        begun.done.log_operations(!spec.operations_csv.is_empty() && phase != Phase::CheckWrite);
        let mut times = Times { open_start: now_ns(), ..Times::default() };
        let file = backend.open(&path, how)?;
        times.open_end = now_ns();
        self.inner_barrier()?;
        let compared = writing || phase == Phase::CheckWrite || spec.check_read;
        let access = Access { file: file.as_ref(), pattern: compared.then_some(&pattern), owner, writing };
        times.access_start = now_ns();
        self.transfers(&access, &path, times.access_start, &mut begun.done)?;
        if writing && spec.fsync {
            file.sync()?;
        }
        times.access_end = now_ns();
        self.inner_barrier()?;
        times.close_start = now_ns();
        file.close()?;
        times.close_end = now_ns();
        let (operations, each) = (begun.done.operations, begun.done.take_operations());
        self.link.end(begun, times, backend)?;
        if let Some(each) = each {
            let access = if writing { "write" } else { "read" };
            let path = format!("{}-{access}-{repetition}-{rank:05}.csv", spec.operations_csv);
            csv::operations(&path, times.access_start, spec.transfer_size, &each)?;
        }
        if writing && spec.deadline_s > 0 {
            // What every task has written is what every task can read of another.
            self.limit = Some(self.link.agree(operations)?.min);
        }
        Ok(())
    }

    /// All transfers of this phase, or those until the deadline and what the others did more.
    fn transfers(&mut self, access: &Access<'_>, path: &str, start_ns: u64, done: &mut Done) -> Result<()> {
        let spec = self.spec;
        let all = spec.transfers_per_task();
        let total = if access.writing { all } else { self.limit.unwrap_or(all).min(all) };
        if spec.deadline_s == 0 {
            return (0..total).try_for_each(|index| self.transfer(access, path, index, done));
        }
        let deadline_ns = start_ns + spec.deadline_s * 1_000_000_000;
        let mut index = 0;
        while index < total && now_ns() < deadline_ns {
            self.transfer(access, path, index, done)?;
            index += 1;
        }
        let (operations, bytes) = (done.operations, done.bytes);
        done.stonewall =
            Some(Stonewall { operations, bytes, after_ns: now_ns() - start_ns, hit: index < total });
        if spec.wear_out {
            let most = self.link.agree(index)?.max.max(spec.wear_out_iterations).min(total);
            (index..most).try_for_each(|index| self.transfer(access, path, index, done))?;
        }
        Ok(())
    }

    fn transfer(&mut self, access: &Access<'_>, path: &str, index: u64, done: &mut Done) -> Result<()> {
        let transfer = self.spec.transfer(access.owner, index);
        if access.writing {
            self.write(access, transfer, done)
        } else {
            self.read(access, path, transfer, done)
        }
    }

    fn write(&mut self, access: &Access<'_>, transfer: Transfer, done: &mut Done) -> Result<()> {
        let data = self.buffer.get();
        if let Some(pattern) = access.pattern {
            pattern.fill(data, transfer.offset);
        }
        let start = now_ns();
        access.file.write_at(data, transfer.offset)?;
        if self.spec.fsync_per_write {
            access.file.sync()?;
        }
        done.note(start, transfer.bytes);
        Ok(())
    }

    fn read(&mut self, access: &Access<'_>, path: &str, transfer: Transfer, done: &mut Done) -> Result<()> {
        let data = self.buffer.get();
        let start = now_ns();
        let bytes = access.file.read_at(data, transfer.offset)?;
        done.note(start, bytes as u64);
        let short = bytes < data.len();
        let Some(pattern) = access.pattern else {
            return if short {
                Err(short_read(path, transfer.offset, bytes, data.len()).into())
            } else {
                Ok(())
            };
        };
        data[bytes..].fill(0);
        if let Err(mismatch) = pattern.check(data, transfer.offset) {
            let note = if short { "; the file ends too early" } else { "" };
            done.wrong(mismatch.words, || format!("{path}: {mismatch}{note}"));
        }
        if self.spec.quit_on_error
            && let Some(what) = done.first_error.take()
        {
            return Err(BenchError::WrongContent(what));
        }
        Ok(())
    }

    /// Removes the test files, unless they are to be kept.
    fn remove(&mut self, repetition: u32) -> Result<()> {
        let errors = self.link.barrier()?;
        if self.spec.keep || (self.spec.keep_with_error && errors > 0) {
            return Ok(());
        }
        let rank = self.link.rank();
        let mut begun = self.link.begin(repetition, Phase::Remove, self.backend)?;
        let start = now_ns();
        if rank == 0 || self.spec.file_per_process {
            let (dir, path) = self.spec.file_of(rank, repetition);
            // A time limit may have come before the file was written.
            remove_if_there(self.backend, &path)?;
            begun.done.note(start, 0);
            if let Some(dir) = dir.filter(|dir| self.backend.stat(dir).is_ok()) {
                self.backend.rmdir(&dir)?;
            }
        }
        self.link.end(begun, Times::simple(start, now_ns()), self.backend)?;
        // The next repetition must not start before the files are gone.
        self.link.barrier().map(drop)
    }
}

fn short_read(path: &str, offset: u64, bytes: usize, wanted: usize) -> IoFailure {
    IoFailure {
        action: "cannot read",
        path: path.to_owned(),
        why: format!(
            "it ends too early: {bytes} of {wanted} bytes at offset {offset}; write it with the same sizes first (-w)"
        ),
        not_found: false,
    }
}
