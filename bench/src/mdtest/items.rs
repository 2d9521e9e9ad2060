//! What is done to one item of a metadata run.

use super::spec::MdtestSpec;
use crate::backend::{Api, Backend, IoFailure, IoResult, OpenHow};
use crate::buffer::Buffer;
use crate::clock::now_ns;
use crate::error::Result;
use crate::pattern::Pattern;
use crate::phase::Phase;
use crate::tasks::link::Done;

/// The items of a test, as one task works on them.
pub(super) struct Items<'a> {
    spec: &'a MdtestSpec,
    backend: &'a dyn Backend,
    buffer: Buffer,
    pattern: Pattern,
}

impl<'a> Items<'a> {
    pub(super) fn new(spec: &'a MdtestSpec, backend: &'a dyn Backend) -> Self {
        let buffer = Buffer::new(spec.write_bytes.max(spec.read_bytes) as usize);
        Items { spec, backend, buffer, pattern: Pattern::packed(spec.packet, spec.seed, 0) }
    }

    /// Does what a phase does to one item of a task, and notes it.
    pub(super) fn one(
        &mut self,
        phase: Phase,
        repetition: u32,
        owner: u32,
        item: u64,
        done: &mut Done,
    ) -> Result<()> {
        let directory = matches!(phase, Phase::DirCreate | Phase::DirStat | Phase::DirRemove);
        let path = self.spec.item_of(repetition, owner, item, directory);
        let file = self.spec.file_number(owner, item);
        if phase == Phase::FileCreate && self.spec.write_bytes > 0 {
            self.pattern.aim(self.spec.seed, file);
            self.pattern.fill(&mut self.buffer.get()[..self.spec.write_bytes as usize], 0);
        }
        let start = now_ns();
        let bytes = match phase {
            Phase::DirCreate => self.backend.mkdir(&path).map(|()| 0),
            Phase::DirStat => self.backend.stat(&path).map(|_| 0),
            Phase::DirRemove => self.backend.rmdir(&path).map(|()| 0),
            Phase::FileCreate if self.spec.make_node => self.make(&path).map(|()| 0),
            Phase::FileCreate => self.create(&path),
            Phase::FileStat => self.stat(&path),
            Phase::FileRead => self.read(&path),
            _ => self.backend.unlink(&path).map(|()| 0),
        }?;
        done.note(start, bytes as u64);
        let compared = match phase {
            Phase::FileRead if self.spec.verify => self.spec.read_bytes,
            Phase::FileCreate if self.spec.verify_write => self.spec.write_bytes,
            _ => return Ok(()),
        };
        self.compare(&path, file, bytes, compared as usize, done);
        Ok(())
    }

    /// Counts what is wrong in what was read: `bytes` of the `wanted`.
    fn compare(&mut self, path: &str, file: u64, bytes: usize, wanted: usize, done: &mut Done) {
        self.pattern.aim(self.spec.seed, file);
        let data = &mut self.buffer.get()[..wanted];
        data[bytes.min(wanted)..].fill(0);
        if let Err(mismatch) = self.pattern.check(data, 0) {
            done.wrong(mismatch.words, || format!("{path}: {mismatch}"));
        }
    }

    /// Makes the empty files of all tasks, which then open their own.
    pub(super) fn make_empty(&mut self, repetition: u32, count: u64) -> Result<()> {
        let how = OpenHow { write: true, create: true, ..OpenHow::default() };
        for owner in 0..self.spec.tasks {
            for item in 0..count {
                self.backend.open(&self.spec.item_of(repetition, owner, item, false), how)?.close()?;
            }
        }
        Ok(())
    }

    /// Of a shared file another task may have been first.
    fn make(&self, path: &str) -> IoResult<()> {
        let made = self.backend.make_file(path);
        if self.spec.shared_files {
            return made.or_else(|failure| self.backend.stat(path).map(drop).map_err(|_| failure));
        }
        made
    }

    fn create(&mut self, path: &str) -> IoResult<usize> {
        let how = OpenHow {
            write: true,
            read_too: self.spec.verify_write,
            create: true,
            direct: self.spec.direct,
            ..OpenHow::default()
        };
        let file = self.backend.open(path, how)?;
        let bytes = self.spec.write_bytes as usize;
        if bytes > 0 {
            file.write_at(&self.buffer.bytes()[..bytes], 0)?;
        }
        if self.spec.sync {
            file.sync()?;
        }
        if self.spec.verify_write {
            let data = &mut self.buffer.get()[..bytes];
            // What is compared must have been read.
            data.fill(0);
            let found = file.read_at(data, 0)?;
            return file.close().map(|()| found);
        }
        file.close().map(|()| bytes)
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
        let file = self.backend.open(path, OpenHow { direct: self.spec.direct, ..OpenHow::default() })?;
        let wanted = self.spec.read_bytes as usize;
        let bytes = if wanted > 0 { file.read_at(&mut self.buffer.get()[..wanted], 0)? } else { 0 };
        file.close()?;
        if bytes == wanted || self.spec.verify {
            return Ok(bytes);
        }
        let why = format!("{bytes} of {wanted} bytes");
        Err(IoFailure { action: "cannot read", path: path.to_owned(), why, not_found: false })
    }
}
