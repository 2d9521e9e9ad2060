//! The checkpoint: every rank writes a file of its own, then all write one shared file, block by block in turn.

use super::content::{BLOCK_BYTES, Content, blocks, first_difference};
use super::target::Target;
use crate::error::{CliError, Result};
use crate::{interrupt, progress};
use indicatif::ProgressBar;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Directory of all files.
pub const DIR: &str = "checkpoint";

/// Who writes how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Writers, each a thread.
    pub ranks: u64,
    /// Bytes of each rank's own file.
    pub own_bytes: u64,
    /// Bytes of the shared file.
    pub shared_bytes: u64,
}

/// One file of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Number, which its content depends on.
    pub number: u64,
    /// Path within the file system, relative.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// Bytes moved and the time it took.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// How much.
    pub bytes: u64,
    /// From the first to the last.
    pub seconds: f64,
}

impl Plan {
    /// Half of `total` bytes to files per rank, half to the shared file.
    pub fn new(ranks: u64, total: u64) -> Plan {
        Plan { ranks, own_bytes: total / 2 / ranks, shared_bytes: total - total / 2 }
    }

    /// The file of one rank.
    pub fn own(&self, rank: u64) -> PlannedFile {
        PlannedFile {
            number: rank,
            path: PathBuf::from(format!("{DIR}/rank-{rank:04}.dat")),
            bytes: self.own_bytes,
        }
    }

    /// The file of all.
    pub fn shared(&self) -> PlannedFile {
        PlannedFile {
            number: self.ranks,
            path: PathBuf::from(format!("{DIR}/shared.dat")),
            bytes: self.shared_bytes,
        }
    }

    /// All files.
    pub fn files(&self) -> Vec<PlannedFile> {
        (0..self.ranks).map(|rank| self.own(rank)).chain([self.shared()]).collect()
    }

    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.ranks * self.own_bytes + self.shared_bytes
    }

    /// The blocks of the shared file that `rank` writes: every `ranks`-th.
    fn shared_blocks(&self, rank: u64) -> impl Iterator<Item = (u64, usize)> + use<> {
        let ranks = self.ranks;
        blocks(self.shared_bytes).filter(move |(index, _)| index % ranks == rank)
    }
}

/// What a run shares among its ranks.
pub struct Run<'a> {
    /// Who writes how much.
    pub plan: Plan,
    /// What.
    pub content: &'a Content,
    /// Through what.
    pub target: &'a dyn Target,
}

impl Run<'_> {
    /// Writes everything.
    pub fn write(&self) -> Result<Measured> {
        self.target.make_dir(DIR.as_ref())?;
        self.by_all_ranks("writing the checkpoint", |rank, step| {
            let own = self.plan.own(rank);
            self.write_file(&own, blocks(own.bytes), step)?;
            self.write_file(&self.plan.shared(), self.plan.shared_blocks(rank), step)
        })
    }

    /// Reads everything and compares it. Each rank reads what another wrote.
    pub fn read_back(&self) -> Result<Measured> {
        self.by_all_ranks("reading it back", |rank, step| {
            let other = (rank + 1) % self.plan.ranks;
            let own = self.plan.own(other);
            self.check_file(&own, blocks(own.bytes), step)?;
            self.check_file(&self.plan.shared(), self.plan.shared_blocks(other), step)
        })
    }

    fn write_file(
        &self,
        file: &PlannedFile,
        blocks: impl Iterator<Item = (u64, usize)>,
        step: &Step,
    ) -> Result<()> {
        let handle = self.target.open_write(&file.path)?;
        let mut data = vec![0; BLOCK_BYTES];
        for (index, bytes) in blocks {
            self.content.fill(file.number, index, &mut data[..bytes]);
            handle.write_at(&data[..bytes], index * BLOCK_BYTES as u64)?;
            step.done(bytes)?;
        }
        handle.finish()
    }

    fn check_file(
        &self,
        file: &PlannedFile,
        blocks: impl Iterator<Item = (u64, usize)>,
        step: &Step,
    ) -> Result<()> {
        let handle = self.target.open_read(&file.path)?;
        let (mut wanted, mut found) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
        for (index, bytes) in blocks {
            let offset = index * BLOCK_BYTES as u64;
            let length = handle.read_at(&mut found[..bytes], offset)?;
            self.content.fill(file.number, index, &mut wanted[..bytes]);
            if let Some(at) = first_difference(&wanted[..bytes], &found[..length]) {
                return Err(CliError::Failed(format!(
                    "{}: byte {} read back differs from what was written",
                    file.path.display(),
                    offset + at as u64
                )));
            }
            step.done(bytes)?;
        }
        Ok(())
    }

    /// Runs `work` for each rank on a thread of its own, with one bar; the first error ends all.
    fn by_all_ranks(
        &self,
        message: &str,
        work: impl Fn(u64, &Step) -> Result<()> + Sync,
    ) -> Result<Measured> {
        let bar = progress::bytes(message, self.plan.bytes());
        let step = Step { bar: &bar, failed: AtomicBool::new(false) };
        let begin = Instant::now();
        let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
            let (work, step) = (&work, &step);
            let threads: Vec<_> = (0..self.plan.ranks)
                .map(|rank| scope.spawn(move || work(rank, step).inspect_err(|_| step.fail())))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked()))).collect()
        });
        let seconds = begin.elapsed().as_secs_f64();
        bar.finish_and_clear();
        // An interrupt of one rank is the consequence of another's failure, unless all were interrupted.
        let mut errors: Vec<CliError> = outcomes.into_iter().filter_map(Result::err).collect();
        errors.sort_by_key(|error| matches!(error, CliError::Interrupted));
        match errors.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(Measured { bytes: self.plan.bytes(), seconds }),
        }
    }
}

fn panicked() -> CliError {
    CliError::Failed("a rank's thread panicked".into())
}

/// What each block ends with.
struct Step<'a> {
    bar: &'a ProgressBar,
    failed: AtomicBool,
}

impl Step<'_> {
    fn done(&self, bytes: usize) -> Result<()> {
        self.bar.inc(bytes as u64);
        if self.failed.load(Ordering::Relaxed) { Err(CliError::Interrupted) } else { interrupt::check() }
    }

    fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::Mounted;
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn ranks_share_the_blocks() {
        let plan = Plan::new(3, (20 << 20) + 7);
        let mut all: Vec<_> = (0..3).flat_map(|rank| plan.shared_blocks(rank)).collect();
        all.sort_unstable();
        assert_eq!(all, blocks(plan.shared_bytes).collect::<Vec<_>>());
        assert_eq!(plan.bytes(), plan.files().iter().map(|file| file.bytes).sum::<u64>());
    }

    /// Goal: one wrong byte anywhere is an error. Method: a local directory as target, one bit changed between.
    #[test]
    fn one_wrong_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (content, target) = (Content::new(9), Mounted(dir.path().to_path_buf()));
        let run = Run { plan: Plan::new(2, (3 << 20) + 1001), content: &content, target: &target };
        assert_eq!(run.write().unwrap().bytes, run.plan.bytes());
        run.read_back().unwrap();
        let path = dir.path().join(run.plan.shared().path);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 1_234_567).unwrap();
        file.write_all_at(&[byte[0] ^ 4], 1_234_567).unwrap();
        let message = run.read_back().unwrap_err().to_string();
        assert!(message.contains("byte 1234567 read back differs"), "{message}");
    }

    #[test]
    fn short_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (content, target) = (Content::new(9), Mounted(dir.path().to_path_buf()));
        let run = Run { plan: Plan::new(1, 1 << 20), content: &content, target: &target };
        run.write().unwrap();
        let path = dir.path().join(run.plan.own(0).path);
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1000).unwrap();
        assert!(run.read_back().unwrap_err().to_string().contains("byte 1000"));
    }
}
