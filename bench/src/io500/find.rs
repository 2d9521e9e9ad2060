//! The walk: counts all files of a tree, and those that IO500 looks for (name, size, newer than a time).
//!
//! Every task walks the upper directories until there are enough for all, and then those that are its own. One directory is listed by
//! one task; sizes and times come with the listing where the interface brings them, else by a stat of each file whose name fits.

use serde::{Deserialize, Serialize};

use crate::backend::{Api, Attributes, Backend, Listed};
use crate::clock::now_ns;
use crate::error::Result;
use crate::phase::{Phase, Times};
use crate::tasks::link::{Done, TaskLink};

/// Directories for each task before they are dealt.
const DIRS_PER_TASK: usize = 4;
/// Levels that every task walks at most.
const SHARED_LEVELS: usize = 6;

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindSpec {
    /// Interface under test.
    pub api: Api,
    /// Where.
    pub root: String,
    /// Modified later than this, in nanoseconds since 1970.
    pub newer_ns: u64,
    /// Of this size.
    pub bytes: u64,
    /// With this in its name.
    pub name_part: String,
}

/// Walks the part of the tree that is this task's. The files found are reported as bytes, since no others are moved.
///
/// # Errors
/// What the file system refused, or the end of the run.
pub fn run(spec: &FindSpec, backend: &dyn Backend, link: &mut TaskLink<'_>) -> Result<()> {
    let (rank, tasks) = (link.rank() as usize, link.tasks() as usize);
    let mut begun = link.begin(0, Phase::Find, backend)?;
    let start = now_ns();
    let mut walk = Walk { spec, backend, done: &mut begun.done };
    let mut level = vec![spec.root.clone()];
    for _ in 0..SHARED_LEVELS {
        if level.is_empty() || level.len() >= tasks * DIRS_PER_TASK {
            break;
        }
        // All tasks walk here; one counts.
        let mut next = Vec::new();
        for dir in &level {
            walk.list(dir, rank == 0, &mut next)?;
        }
        next.sort_unstable();
        level = next;
    }
    let mut mine: Vec<String> = level.into_iter().skip(rank).step_by(tasks).collect();
    while let Some(dir) = mine.pop() {
        walk.list(&dir, true, &mut mine)?;
    }
    link.end(begun, Times::simple(start, now_ns()), backend)
}

struct Walk<'a> {
    spec: &'a FindSpec,
    backend: &'a dyn Backend,
    done: &'a mut Done,
}

impl Walk<'_> {
    fn list(&mut self, dir: &str, counts: bool, below: &mut Vec<String>) -> Result<()> {
        for entry in self.backend.list(dir)? {
            let start = now_ns();
            let path = format!("{dir}/{}", entry.name);
            if entry.directory {
                below.push(path);
            } else if counts {
                let found = self.fits(&entry, &path)?;
                self.done.note(start, u64::from(found));
            }
        }
        Ok(())
    }

    fn fits(&self, entry: &Listed, path: &str) -> Result<bool> {
        if !entry.name.contains(&self.spec.name_part) {
            return Ok(false);
        }
        let Attributes { bytes, modified_ns, .. } = match entry.attributes {
            Some(attributes) => attributes,
            None => self.backend.stat(path)?,
        };
        Ok(bytes == self.spec.bytes && modified_ns > self.spec.newer_ns)
    }
}
