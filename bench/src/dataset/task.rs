//! What one task of a data set run does.

use std::time::Duration;

use super::options::DatasetSpec;
use crate::backend::{Backend, IoFailure, OpenHow, make_all};
use crate::clock::now_ns;
use crate::error::Result;
use crate::pattern::{Pattern, mix};
use crate::permute::Permutation;
use crate::phase::{Phase, Times};
use crate::tasks::link::{Done, TaskLink};

/// Makes, reads and removes the data set.
///
/// # Errors
/// What the file system refused, or the end of the run.
pub fn run(spec: &DatasetSpec, backend: &dyn Backend, link: &mut TaskLink<'_>) -> Result<()> {
    let pattern = Pattern::new(spec.seed, 0);
    let mut task = DatasetTask { spec, backend, link, pattern, buffer: vec![0; spec.sample_bytes as usize] };
    if spec.make {
        task.make()?;
    }
    (0..spec.epochs).try_for_each(|epoch| task.epoch(epoch))?;
    if spec.remove { task.remove() } else { Ok(()) }
}

struct DatasetTask<'a, 'b> {
    spec: &'a DatasetSpec,
    backend: &'a dyn Backend,
    link: &'a mut TaskLink<'b>,
    pattern: Pattern,
    buffer: Vec<u8>,
}

impl DatasetTask<'_, '_> {
    /// The files of this task.
    fn files(&self) -> impl Iterator<Item = u64> + use<> {
        (u64::from(self.link.rank())..self.spec.files).step_by(self.link.tasks() as usize)
    }

    fn make(&mut self) -> Result<()> {
        if self.link.rank() == 0 {
            for dir in 0..=(self.spec.files - 1) / 1000 {
                make_all(self.backend, &format!("{}/{dir}", self.spec.directory))?;
            }
        }
        let mut begun = self.link.begin(0, Phase::FileCreate, self.backend)?;
        let start = now_ns();
        for number in self.files() {
            let before = now_ns();
            let how = OpenHow { write: true, create: true, ..OpenHow::default() };
            let file = self.backend.open(&self.spec.file_of(number), how)?;
            self.pattern.aim(self.spec.seed, number);
            for sample in 0..self.spec.samples_per_file {
                let offset = sample * self.spec.sample_bytes;
                self.pattern.fill(&mut self.buffer, offset);
                file.write_at(&self.buffer, offset)?;
            }
            file.close()?;
            begun.done.note(before, self.spec.samples_per_file * self.spec.sample_bytes);
        }
        self.link.end(begun, Times::simple(start, now_ns()), self.backend)
    }

    /// Reads this task's samples of an epoch. The accelerator is a time line: a batch starts when it is there and the one before is
    /// done, and a batch is read when fewer than `prefetch` wait.
    fn epoch(&mut self, epoch: u32) -> Result<()> {
        let spec = self.spec;
        let order = Permutation::new(spec.samples(), mix(spec.seed ^ u64::from(epoch)));
        let mine = (u64::from(self.link.rank())..spec.samples()).step_by(self.link.tasks() as usize);
        let samples: Vec<u64> = mine.map(|index| order.get(index)).collect();
        let compute_ns = spec.compute_ms * 1_000_000;
        let mut begun = self.link.begin(epoch, Phase::Epoch, self.backend)?;
        let start = now_ns();
        let (mut starts, mut free_at) = (Vec::new(), start);
        for (number, batch) in samples.chunks(spec.batch as usize).enumerate() {
            if let Some(slot) = number.checked_sub(spec.prefetch as usize) {
                wait_until(starts[slot]);
            }
            batch.iter().try_for_each(|sample| self.sample(*sample, &mut begun.done))?;
            let begins = now_ns().max(free_at);
            starts.push(begins);
            free_at = begins + compute_ns;
            begun.done.compute_ns += compute_ns;
        }
        wait_until(free_at);
        self.link.end(begun, Times::simple(start, now_ns()), self.backend)
    }

    fn sample(&mut self, sample: u64, done: &mut Done) -> Result<()> {
        let (number, within) = (sample / self.spec.samples_per_file, sample % self.spec.samples_per_file);
        let (path, offset) = (self.spec.file_of(number), within * self.spec.sample_bytes);
        let before = now_ns();
        let file = self.backend.open(&path, OpenHow::default())?;
        let bytes = file.read_at(&mut self.buffer, offset)?;
        file.close()?;
        done.note(before, bytes as u64);
        if self.spec.verify {
            self.pattern.aim(self.spec.seed, number);
            self.buffer[bytes..].fill(0);
            if let Err(mismatch) = self.pattern.check(&self.buffer, offset) {
                done.wrong(mismatch.words, || format!("{path}: {mismatch}"));
            }
        } else if bytes < self.buffer.len() {
            let why = format!("{bytes} of {} bytes at {offset}", self.buffer.len());
            return Err(IoFailure { action: "cannot read", path, why, not_found: false }.into());
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        let mut begun = self.link.begin(0, Phase::FileRemove, self.backend)?;
        let start = now_ns();
        for number in self.files() {
            let before = now_ns();
            self.backend.unlink(&self.spec.file_of(number))?;
            begun.done.note(before, 0);
        }
        self.link.end(begun, Times::simple(start, now_ns()), self.backend)?;
        self.link.barrier()?;
        if self.link.rank() == 0 {
            for dir in 0..=(self.spec.files - 1) / 1000 {
                self.backend.rmdir(&format!("{}/{dir}", self.spec.directory))?;
            }
            self.backend.rmdir(&self.spec.directory)?;
        }
        Ok(())
    }
}

/// Waits as an accelerator that has nothing to do.
fn wait_until(time_ns: u64) {
    let now = now_ns();
    if time_ns > now {
        std::thread::sleep(Duration::from_nanos(time_ns - now));
    }
}
