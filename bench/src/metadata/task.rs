//! What one task of a metadata run does.

use super::MetadataSpec;
use crate::backend::{Backend, IoFailure, IoResult, OpenHow};
use crate::clock::now_ns;
use crate::error::Result;
use crate::pattern::Pattern;
use crate::phase::{Phase, PhaseRecord, Times};
use crate::tasks::link::TaskLink;

/// Does the work of this task for all repetitions.
///
/// # Errors
/// What the file system refused, or the end of the run.
pub fn run(spec: &MetadataSpec, backend: &dyn Backend, link: &mut TaskLink) -> Result<()> {
    let mut task = Task { spec, backend, link, buffer: vec![0; spec.write_bytes as usize] };
    (0..spec.repetitions).try_for_each(|repetition| task.repetition(repetition))
}

#[derive(Default)]
struct Wrong {
    words: u64,
    first: Option<String>,
}

struct Task<'a> {
    spec: &'a MetadataSpec,
    backend: &'a dyn Backend,
    link: &'a mut TaskLink,
    buffer: Vec<u8>,
}

impl Task<'_> {
    fn repetition(&mut self, repetition: u32) -> Result<()> {
        let spec = self.spec;
        if spec.create {
            self.tree(repetition, Phase::TreeCreate)?;
            self.files(repetition, Phase::FileCreate)?;
        }
        if spec.stat {
            self.files(repetition, Phase::FileStat)?;
        }
        if spec.read {
            self.files(repetition, Phase::FileRead)?;
        }
        if spec.remove {
            self.files(repetition, Phase::FileRemove)?;
            self.tree(repetition, Phase::TreeRemove)?;
        }
        Ok(())
    }

    /// Makes or removes the directories: the root by task 0, and each task its own.
    fn tree(&mut self, repetition: u32, phase: Phase) -> Result<()> {
        let (spec, rank) = (self.spec, self.link.rank());
        let making = phase == Phase::TreeCreate;
        self.link.barrier()?;
        let usage = self.link.usage(self.backend);
        let mut operations = 0;
        let start = now_ns();
        if making && rank == 0 {
            self.backend.mkdir(&spec.root())?;
            operations += 1;
        }
        self.link.barrier()?;
        if spec.unique_dir {
            let dir = spec.dir_of(rank);
            if making {
                self.backend.mkdir(&dir)?;
            } else {
                self.backend.rmdir(&dir)?;
            }
            operations += 1;
        }
        self.link.barrier()?;
        if !making && rank == 0 {
            self.backend.rmdir(&spec.root())?;
            operations += 1;
        }
        let times = Times::simple(start, now_ns());
        let (cpu_ns, messages) = usage.since(self.backend);
        let record = PhaseRecord {
            repetition,
            phase,
            times,
            operations,
            bytes: 0,
            cpu_ns,
            messages,
            errors: 0,
            first_error: None,
        };
        self.link.report(record)
    }

    fn files(&mut self, repetition: u32, phase: Phase) -> Result<()> {
        let spec = self.spec;
        let rank = self.link.rank();
        let shift = if matches!(phase, Phase::FileStat | Phase::FileRead) { spec.shift } else { 0 };
        let owner = ((u64::from(rank) + u64::from(shift)) % u64::from(spec.tasks)) as u32;
        let mut wrong = Wrong::default();
        self.link.barrier()?;
        let usage = self.link.usage(self.backend);
        let start = now_ns();
        for item in 0..spec.items {
            let path = spec.file_of(owner, item);
            match phase {
                Phase::FileCreate => self.create(&path, owner, item)?,
                Phase::FileStat => self.stat(&path)?,
                Phase::FileRead => self.read(&path, owner, item, &mut wrong)?,
                _ => self.backend.unlink(&path)?,
            }
        }
        let times = Times::simple(start, now_ns());
        let (cpu_ns, messages) = usage.since(self.backend);
        let moves = matches!(phase, Phase::FileCreate | Phase::FileRead);
        self.link.report(PhaseRecord {
            repetition,
            phase,
            times,
            operations: spec.items,
            bytes: if moves { spec.items * spec.write_bytes } else { 0 },
            cpu_ns,
            messages,
            errors: wrong.words,
            first_error: wrong.first,
        })
    }

    fn create(&mut self, path: &str, owner: u32, item: u64) -> IoResult<()> {
        let file = self.backend.open(path, OpenHow { write: true, create: true, direct: false })?;
        if !self.buffer.is_empty() {
            self.pattern(owner, item).fill(&mut self.buffer, 0);
            file.write_at(&self.buffer, 0)?;
        }
        file.close()
    }

    /// Asks for the attributes; a wrong size means that a file or its content was lost.
    fn stat(&self, path: &str) -> IoResult<()> {
        let (size, expected) = (self.backend.stat(path)?, self.spec.write_bytes);
        // The null backend does not know the files of other tasks.
        if size == expected || self.spec.api == crate::backend::Api::Null {
            return Ok(());
        }
        let why = format!("it has {size} bytes, {expected} were written");
        Err(IoFailure { action: "wrong size of", path: path.to_owned(), why, not_found: false })
    }

    fn read(&mut self, path: &str, owner: u32, item: u64, wrong: &mut Wrong) -> IoResult<()> {
        let file = self.backend.open(path, OpenHow::default())?;
        if !self.buffer.is_empty() {
            let bytes = file.read_at(&mut self.buffer, 0)?;
            self.buffer[bytes..].fill(0);
            if let Err(mismatch) = self.pattern(owner, item).check(&self.buffer, 0) {
                wrong.words += mismatch.words;
                wrong.first.get_or_insert_with(|| format!("{path}: {mismatch}"));
            }
        }
        file.close()
    }

    fn pattern(&self, owner: u32, item: u64) -> Pattern {
        Pattern::new(self.spec.seed, self.spec.file_number(owner, item))
    }
}
