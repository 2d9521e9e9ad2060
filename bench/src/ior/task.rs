//! What one task of an IOR run does.
//!
//! # Invariants
//! - Between the barrier before a phase and its last time stamp nothing is done but the phase's own work.
//! - A short or failed transfer ends the run; wrong content is counted and the run goes on.

use std::time::Duration;

use super::spec::IorSpec;
use crate::backend::{Backend, IoFailure, OpenFile, OpenHow, remove_if_there};
use crate::clock::now_ns;
use crate::error::{BenchError, Result};
use crate::pattern::{Mismatch, Pattern};
use crate::phase::{Phase, PhaseRecord, Times};
use crate::tasks::link::TaskLink;

/// Alignment of buffers, for O_DIRECT.
const ALIGN: usize = 4096;

/// Does the work of this task for all repetitions.
///
/// # Errors
/// What the file system refused, or the end of the run.
pub fn run(spec: &IorSpec, backend: &dyn Backend, link: &mut TaskLink) -> Result<()> {
    let mut task = IorTask { spec, backend, link, buffer: Buffer::new(spec.transfer_size as usize) };
    (0..spec.repetitions).try_for_each(|repetition| task.repetition(repetition))
}

/// A buffer that starts at a multiple of [`ALIGN`].
struct Buffer {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl Buffer {
    fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Buffer { memory, start, bytes }
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}

/// What the access part of a phase did.
#[derive(Default)]
struct Done {
    operations: u64,
    bytes: u64,
    errors: u64,
    first_error: Option<String>,
}

struct IorTask<'a> {
    spec: &'a IorSpec,
    backend: &'a dyn Backend,
    link: &'a mut TaskLink,
    buffer: Buffer,
}

impl IorTask<'_> {
    fn repetition(&mut self, repetition: u32) -> Result<()> {
        let spec = self.spec;
        if spec.write {
            self.prepare()?;
            self.delay();
            self.transfer_phase(Phase::Write, repetition)?;
        }
        if spec.check_write {
            self.transfer_phase(Phase::CheckWrite, repetition)?;
        }
        if spec.read || spec.check_read {
            self.delay();
            self.transfer_phase(Phase::Read, repetition)?;
        }
        self.remove(repetition)
    }

    /// Removes what an earlier run left, and makes directories.
    fn prepare(&mut self) -> Result<()> {
        let rank = self.link.rank();
        let (dir, path) = self.spec.file_of(rank);
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
            std::thread::sleep(Duration::from_secs(self.spec.delay_s));
        }
    }

    fn inner_barrier(&mut self) -> Result<()> {
        if self.spec.intra_barriers { self.link.barrier().map(drop) } else { Ok(()) }
    }

    fn transfer_phase(&mut self, phase: Phase, repetition: u32) -> Result<()> {
        let writing = phase == Phase::Write;
        let rank = self.link.rank();
        let owner = if writing { rank } else { self.spec.reads_of(rank, repetition) };
        let (_, path) = self.spec.file_of(owner);
        let pattern = Pattern::new(self.spec.seed(repetition), self.spec.file_number(owner));
        let how = OpenHow { write: writing, create: writing, direct: self.spec.direct };
        self.link.barrier()?;
        let usage = self.link.usage(self.backend);
        let mut times = Times { open_start: now_ns(), ..Times::default() };
        let file = self.backend.open(&path, how)?;
        times.open_end = now_ns();
        self.inner_barrier()?;
        times.access_start = now_ns();
        let done = match phase {
            Phase::Write => self.write_all(file.as_ref(), &pattern, owner)?,
            Phase::Read if !self.spec.check_read => self.read_all(file.as_ref(), None, owner)?,
            _ => self.read_all(file.as_ref(), Some(&pattern), owner)?,
        };
        times.access_end = now_ns();
        self.inner_barrier()?;
        times.close_start = now_ns();
        file.close()?;
        times.close_end = now_ns();
        let (cpu_ns, messages) = usage.since(self.backend);
        let Done { operations, bytes, errors, first_error } = done;
        self.link.report(PhaseRecord {
            repetition,
            phase,
            times,
            operations,
            bytes,
            cpu_ns,
            messages,
            errors,
            first_error: first_error.map(|what| format!("{path}: {what}")),
        })
    }

    fn write_all(&mut self, file: &dyn OpenFile, pattern: &Pattern, owner: u32) -> Result<Done> {
        let mut done = Done::default();
        for index in 0..self.spec.transfers_per_task() {
            let transfer = self.spec.transfer(owner, index);
            let data = self.buffer.get();
            pattern.fill(data, transfer.offset);
            file.write_at(data, transfer.offset)?;
            if self.spec.fsync_per_write {
                file.sync()?;
            }
            done.operations += 1;
            done.bytes += transfer.bytes;
        }
        if self.spec.fsync {
            file.sync()?;
        }
        Ok(done)
    }

    fn read_all(&mut self, file: &dyn OpenFile, pattern: Option<&Pattern>, owner: u32) -> Result<Done> {
        let path = &self.spec.file_of(owner).1;
        let mut done = Done::default();
        for index in 0..self.spec.transfers_per_task() {
            let transfer = self.spec.transfer(owner, index);
            let data = self.buffer.get();
            let bytes = file.read_at(data, transfer.offset)?;
            match pattern {
                Some(pattern) => {
                    data[bytes..].fill(0);
                    let outcome = pattern.check(data, transfer.offset);
                    done.count(outcome, bytes < data.len());
                }
                None if bytes < data.len() => {
                    return Err(short_read(path, transfer.offset, bytes, data.len()).into());
                }
                None => {}
            }
            if self.spec.quit_on_error
                && let Some(what) = done.first_error.take()
            {
                return Err(BenchError::WrongContent(what));
            }
            done.operations += 1;
            done.bytes += bytes as u64;
        }
        Ok(done)
    }

    /// Removes the test files, unless they are to be kept.
    fn remove(&mut self, repetition: u32) -> Result<()> {
        let errors = self.link.barrier()?;
        if self.spec.keep || (self.spec.keep_with_error && errors > 0) {
            return Ok(());
        }
        let rank = self.link.rank();
        let usage = self.link.usage(self.backend);
        let start = now_ns();
        let mut operations = 0;
        if rank == 0 || self.spec.file_per_process {
            let (dir, path) = self.spec.file_of(rank);
            self.backend.unlink(&path)?;
            operations = 1;
            if let Some(dir) = dir {
                self.backend.rmdir(&dir)?;
                operations = 2;
            }
        }
        let times = Times::simple(start, now_ns());
        let (cpu_ns, messages) = usage.since(self.backend);
        self.link.report(PhaseRecord {
            repetition,
            phase: Phase::Remove,
            times,
            operations,
            bytes: 0,
            cpu_ns,
            messages,
            errors: 0,
            first_error: None,
        })?;
        // The next repetition must not start before the files are gone.
        self.link.barrier().map(drop)
    }
}

impl Done {
    fn count(&mut self, outcome: std::result::Result<(), Mismatch>, short: bool) {
        if let Err(mismatch) = outcome {
            self.errors += mismatch.words;
            let note = if short { "; the file ends too early" } else { "" };
            self.first_error.get_or_insert_with(|| format!("{mismatch}{note}"));
        }
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
