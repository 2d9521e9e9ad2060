//! A checkpoint run by the checkpoint library (`-a LIBIO`): the same phases, by its own calls.
//!
//! | phase | calls |
//! |---|---|
//! | save | begin, and a write for each transfer: the buffer may be reused when the last has returned |
//! | commit | commit: checksums, seals and the manifest of all tasks |
//! | durable | wait for it |
//! | restore | a snapshot, and a read for each transfer, of what the next task wrote |

use std::time::Duration;

use fs_client::Client;
use libio::{Checkpoints, Level, Options, Writer};

use super::options::CheckpointSpec;
use crate::backend::{Backend, IoFailure};
use crate::clock::now_ns;
use crate::error::Result;
use crate::phase::{Phase, Times};
use crate::tasks::link::TaskLink;

/// The set, below the run's directory.
const SET: &str = "bench";

/// Writes all versions, or reads the newest back. `backend` counts the client's messages.
///
/// # Errors
/// What the library refused, or the end of the run.
pub fn run(
    spec: &CheckpointSpec,
    client: &Client,
    backend: &dyn Backend,
    link: &mut TaskLink<'_>,
) -> Result<()> {
    let checkpoints =
        Checkpoints::open(client.clone(), &spec.directory).map_err(|e| failed("open", spec, &e))?;
    // The tasks of one run are one group.
    let checkpoints = checkpoints.with_group(&format!("bench-{:016x}", spec.seed));
    let buffer = vec![0; spec.transfer_size as usize];
    let mut task = LibraryTask { spec, checkpoints, backend, link, buffer };
    if spec.restore {
        return task.restore();
    }
    (0..spec.versions).try_for_each(|version| task.version(version))
}

fn failed(action: &'static str, spec: &CheckpointSpec, e: &libio::Error) -> IoFailure {
    let not_found = matches!(e, libio::Error::NotFound { .. });
    IoFailure { action, path: format!("{}/{SET}", spec.directory), why: e.to_string(), not_found }
}

struct LibraryTask<'a, 'b> {
    spec: &'a CheckpointSpec,
    checkpoints: Checkpoints,
    backend: &'a dyn Backend,
    link: &'a mut TaskLink<'b>,
    buffer: Vec<u8>,
}

impl LibraryTask<'_, '_> {
    /// The region of a task.
    fn region(&self, rank: u32) -> String {
        if self.spec.shared { "state".to_owned() } else { format!("state.{rank:06}") }
    }

    fn version(&mut self, version: u32) -> Result<()> {
        self.spec.compute(version);
        let writer = self.save(version)?;
        let begun = self.link.begin(version, Phase::Commit, self.backend)?;
        let start = now_ns();
        writer.commit(true).map_err(|e| failed("commit", self.spec, &e))?;
        self.end(begun, start, 0)?;
        if self.spec.durable_s > 0 {
            self.durable(version)?;
        }
        if version > 0 && !self.spec.keep && self.link.rank() == 0 {
            self.remove(version - 1)?;
        }
        Ok(())
    }

    fn save(&mut self, version: u32) -> Result<Writer> {
        let (rank, tasks) = (self.link.rank(), self.spec.tasks);
        let (first, pattern, region) =
            (self.spec.start(rank), self.spec.pattern(version, rank), self.region(rank));
        let options = Options { redundancy: self.spec.redundancy(), ..Options::default() };
        let mut begun = self.link.begin(version, Phase::Save, self.backend)?;
        let start = now_ns();
        let writer = self.checkpoints.begin_with(SET, u64::from(version), rank, tasks, &options);
        let mut writer = writer.map_err(|e| failed("begin", self.spec, &e))?;
        let open_end = now_ns();
        for offset in (first..first + self.spec.state_bytes).step_by(self.buffer.len()) {
            pattern.fill(&mut self.buffer, offset);
            let before = now_ns();
            writer.write(&region, &self.buffer, offset).map_err(|e| failed("write", self.spec, &e))?;
            begun.done.note(before, self.buffer.len() as u64);
        }
        let end = now_ns();
        let times = Times { open_end, access_start: open_end, ..Times::simple(start, end) };
        self.link.end(begun, times, self.backend)?;
        Ok(writer)
    }

    fn end(&mut self, mut begun: crate::tasks::link::Begun, start: u64, bytes: u64) -> Result<()> {
        begun.done.note(start, bytes);
        self.link.end(begun, Times::simple(start, now_ns()), self.backend)
    }

    fn durable(&mut self, version: u32) -> Result<()> {
        let begun = self.link.begin(version, Phase::Durable, self.backend)?;
        let (start, timeout) = (now_ns(), Duration::from_secs(self.spec.durable_s));
        let waited = self.checkpoints.wait(SET, u64::from(version), Level::Durable, timeout);
        waited.map_err(|e| failed("wait", self.spec, &e))?;
        self.end(begun, start, 0)
    }

    fn remove(&self, version: u32) -> Result<()> {
        let removed = self.checkpoints.remove(SET, u64::from(version));
        Ok(removed.map_err(|e| failed("remove", self.spec, &e))?)
    }

    /// Reads what the next rank wrote of the newest version: no cache of this process has it.
    fn restore(&mut self) -> Result<()> {
        let (version, owner) = (self.spec.versions - 1, (self.link.rank() + 1) % self.spec.tasks);
        let (first, pattern, region) =
            (self.spec.start(owner), self.spec.pattern(version, owner), self.region(owner));
        let mut begun = self.link.begin(version, Phase::Restore, self.backend)?;
        let start = now_ns();
        let snapshot = self.checkpoints.snapshot(SET, u64::from(version));
        let snapshot = snapshot.map_err(|e| failed("open", self.spec, &e))?;
        for offset in (first..first + self.spec.state_bytes).step_by(self.buffer.len()) {
            let before = now_ns();
            let bytes = snapshot.read(&region, offset, &mut self.buffer);
            let bytes = bytes.map_err(|e| failed("read", self.spec, &e))?;
            begun.done.note(before, bytes as u64);
            self.buffer[bytes..].fill(0);
            if let Err(mismatch) = pattern.check(&self.buffer, offset) {
                begun.done.wrong(mismatch.words, || format!("{region}: {mismatch}"));
            }
        }
        self.link.end(begun, Times::simple(start, now_ns()), self.backend)?;
        self.link.barrier()?;
        if !self.spec.keep && self.link.rank() == 0 {
            self.remove(version)?;
        }
        Ok(())
    }
}
