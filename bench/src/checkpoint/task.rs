//! What one task of a checkpoint run does.

use std::time::Duration;

use super::options::CheckpointSpec;
use crate::backend::{Backend, IoFailure, OpenHow, make_all, remove_if_there};
use crate::clock::now_ns;
use crate::error::Result;
use crate::phase::{Phase, Times};
use crate::tasks::link::TaskLink;

/// Between two questions whether a file is in the shared tier.
const POLL: Duration = Duration::from_millis(5);

/// Writes all versions, or reads the newest back.
///
/// # Errors
/// What the file system refused, or the end of the run.
pub fn run(spec: &CheckpointSpec, backend: &dyn Backend, link: &mut TaskLink<'_>) -> Result<()> {
    let buffer = vec![0; spec.transfer_size as usize];
    let mut task = CheckpointTask { spec, backend, link, buffer };
    if spec.restore {
        return task.restore();
    }
    if task.link.rank() == 0 {
        make_all(backend, &spec.directory)?;
    }
    (0..spec.versions).try_for_each(|version| task.version(version))
}

struct CheckpointTask<'a, 'b> {
    spec: &'a CheckpointSpec,
    backend: &'a dyn Backend,
    link: &'a mut TaskLink<'b>,
    buffer: Vec<u8>,
}

impl CheckpointTask<'_, '_> {
    fn path(&self, version: u32, rank: u32) -> String {
        let dir = &self.spec.directory;
        if self.spec.shared {
            format!("{dir}/state.{version}")
        } else {
            format!("{dir}/state.{version}.{rank:06}")
        }
    }

    fn marker(&self, version: u32) -> String {
        format!("{}/committed.{version}", self.spec.directory)
    }

    fn version(&mut self, version: u32) -> Result<()> {
        self.spec.compute(version);
        let rank = self.link.rank();
        let path = self.path(version, rank);
        self.save(version, &path)?;
        self.commit(version, &path)?;
        if self.spec.durable_s > 0 {
            self.durable(version, &path)?;
        }
        if version > 0 && !self.spec.keep {
            self.remove(version - 1)?;
        }
        Ok(())
    }

    /// Hands all data over and closes the file.
    fn save(&mut self, version: u32, path: &str) -> Result<()> {
        let rank = self.link.rank();
        let (first, pattern) = (self.spec.start(rank), self.spec.pattern(version, rank));
        let mut begun = self.link.begin(version, Phase::Save, self.backend)?;
        let start = now_ns();
        let how = OpenHow { write: true, create: true, ..OpenHow::default() };
        let file = self.backend.open(path, how)?;
        let open_end = now_ns();
        for offset in (first..first + self.spec.state_bytes).step_by(self.buffer.len()) {
            pattern.fill(&mut self.buffer, offset);
            let before = now_ns();
            file.write_at(&self.buffer, offset)?;
            begun.done.note(before, self.buffer.len() as u64);
        }
        let access_end = now_ns();
        file.close()?;
        let times = Times {
            open_start: start,
            open_end,
            access_start: open_end,
            access_end,
            close_start: access_end,
            close_end: now_ns(),
        };
        self.link.end(begun, times, self.backend)
    }

    /// Syncs, and when all have, renames the marker into place.
    fn commit(&mut self, version: u32, path: &str) -> Result<()> {
        let mut begun = self.link.begin(version, Phase::Commit, self.backend)?;
        let start = now_ns();
        let how = OpenHow { write: true, ..OpenHow::default() };
        let file = self.backend.open(path, how)?;
        file.sync()?;
        file.close()?;
        begun.done.note(start, 0);
        self.link.barrier()?;
        if self.link.rank() == 0 {
            let draft = format!("{}.draft", self.marker(version));
            let marker =
                self.backend.open(&draft, OpenHow { write: true, create: true, ..OpenHow::default() })?;
            marker.write_at(version.to_string().as_bytes(), 0)?;
            marker.sync()?;
            marker.close()?;
            self.backend.rename(&draft, &self.marker(version))?;
        }
        self.link.end(begun, Times::simple(start, now_ns()), self.backend)
    }

    /// Waits until the file is in the shared tier. Where nobody can tell, the phase is not reported by anybody.
    fn durable(&mut self, version: u32, path: &str) -> Result<()> {
        let known = self.backend.durable(path)?.is_some();
        if self.link.agree(u64::from(known))?.min == 0 {
            return Ok(());
        }
        let mut begun = self.link.begin(version, Phase::Durable, self.backend)?;
        let start = now_ns();
        let deadline = start + self.spec.durable_s * 1_000_000_000;
        while self.backend.durable(path)? != Some(true) {
            if now_ns() > deadline {
                let why = format!("it is not in the shared tier after {} s", self.spec.durable_s);
                return Err(IoFailure {
                    action: "cannot wait for",
                    path: path.to_owned(),
                    why,
                    not_found: false,
                }
                .into());
            }
            std::thread::sleep(POLL);
        }
        begun.done.note(start, 0);
        self.link.end(begun, Times::simple(start, now_ns()), self.backend)
    }

    fn remove(&mut self, version: u32) -> Result<()> {
        let rank = self.link.rank();
        if rank == 0 {
            remove_if_there(self.backend, &self.marker(version))?;
        }
        if rank == 0 || !self.spec.shared {
            remove_if_there(self.backend, &self.path(version, rank))?;
        }
        Ok(())
    }

    /// Reads what the next rank wrote of the newest version: no cache of this process has it.
    fn restore(&mut self) -> Result<()> {
        let (version, tasks) = (self.spec.versions - 1, self.spec.tasks);
        let owner = (self.link.rank() + 1) % tasks;
        let (first, pattern, path) =
            (self.spec.start(owner), self.spec.pattern(version, owner), self.path(version, owner));
        let mut begun = self.link.begin(version, Phase::Restore, self.backend)?;
        let start = now_ns();
        self.backend.stat(&self.marker(version))?;
        let file = self.backend.open(&path, OpenHow::default())?;
        for offset in (first..first + self.spec.state_bytes).step_by(self.buffer.len()) {
            let before = now_ns();
            let bytes = file.read_at(&mut self.buffer, offset)?;
            begun.done.note(before, bytes as u64);
            self.buffer[bytes..].fill(0);
            if let Err(mismatch) = pattern.check(&self.buffer, offset) {
                begun.done.wrong(mismatch.words, || format!("{path}: {mismatch}"));
            }
        }
        file.close()?;
        self.link.end(begun, Times::simple(start, now_ns()), self.backend)?;
        self.link.barrier()?;
        if !self.spec.keep {
            self.remove(version)?;
        }
        Ok(())
    }
}
