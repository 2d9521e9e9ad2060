//! Visiting everything at and below a path by several threads: each name is a request or two, which take their time to the server and back.
//!
//! # Invariants
//! - A directory is visited for the second time only after all that the walk met before it, so after all that is in it
//!   (`a_directory_comes_after_all_that_is_in_it`).
//! - As many names are under way as [`AHEAD`], and as many directories wait for them as [`DIRS`], whatever the size of the tree.
//! - The first failure ends the walk, and is what the caller gets.

use crate::below::{self, Name, When};
use crate::error::{CliError, Result};
use fs_client::Client;
use std::collections::{BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Threads that visit.
const THREADS: usize = 8;
/// Names that wait for a thread.
const AHEAD: usize = 256;
/// Directories that wait for what is in them.
const DIRS: usize = 1_024;

/// A visitor.
type Visit<'a> = &'a (dyn Fn(&Name, When) -> Result<()> + Sync);
/// A walk: calls back with each name in its order.
type Walk<'a> = &'a dyn Fn(&mut dyn FnMut(&Name, When) -> Result<()>) -> Result<()>;

/// Names that are under way, by their place in the walk, and what went wrong.
#[derive(Default)]
struct State {
    under_way: BTreeSet<u64>,
    failure: Option<CliError>,
    is_over: bool,
}

#[derive(Default)]
struct Crew {
    state: Mutex<State>,
    changed: Condvar,
}

/// As [`below::each`], of which the order is kept for directories that are met for the second time only.
pub fn each(client: &Client, top: &Name, visit: Visit<'_>) -> Result<()> {
    over(&|met| below::each(client, top, met), visit)
}

fn over(walk: Walk<'_>, visit: Visit<'_>) -> Result<()> {
    let crew = Crew::default();
    let (sender, receiver) = sync_channel::<(u64, Name)>(AHEAD);
    let receiver = Mutex::new(receiver);
    let walked = std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| crew.work(&receiver, visit));
        }
        let (mut place, mut dirs) = (0, VecDeque::new());
        let walked = walk(&mut |name, when| {
            place += 1;
            if crew.locked().is_over {
                return Err(CliError::Failed("another thread failed".to_owned()));
            }
            if when == When::After {
                dirs.push_back((place, name.clone()));
                return crew.visit_dirs(&mut dirs, DIRS, visit);
            }
            crew.locked().under_way.insert(place);
            // Threads take what is there until the end, also after a failure.
            sender.send((place, name.clone())).map_err(|_| CliError::Failed("no thread is left".to_owned()))
        });
        drop(sender);
        let walked = walked.and_then(|()| crew.visit_dirs(&mut dirs, 0, visit));
        if walked.is_err() {
            crew.locked().is_over = true;
        }
        walked
    });
    // Why a thread failed, before what came of that.
    match crew.state.into_inner().unwrap_or_else(PoisonError::into_inner).failure {
        Some(failure) => Err(failure),
        None => walked,
    }
}

/// A name that is visited. It is not any more when this goes, also by a panic, after which nothing is visited.
struct Visiting<'a> {
    crew: &'a Crew,
    place: u64,
}

impl Drop for Visiting<'_> {
    fn drop(&mut self) {
        let mut state = self.crew.locked();
        state.under_way.remove(&self.place);
        state.is_over |= std::thread::panicking();
        drop(state);
        self.crew.changed.notify_all();
    }
}

impl Crew {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, receiver: &Mutex<Receiver<(u64, Name)>>, visit: Visit<'_>) {
        loop {
            let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((place, name)) = next else { return };
            let _visiting = Visiting { crew: self, place };
            let outcome = if self.locked().is_over { Ok(()) } else { visit(&name, When::Before) };
            if let Err(failure) = outcome {
                let mut state = self.locked();
                state.is_over = true;
                state.failure.get_or_insert(failure);
            }
        }
    }

    /// Visits directories of which everything was visited, in their order, and waits for others until at most `most` are left.
    fn visit_dirs(&self, dirs: &mut VecDeque<(u64, Name)>, most: usize, visit: Visit<'_>) -> Result<()> {
        while let Some((place, _)) = dirs.front() {
            if !self.is_visited(*place, dirs.len() > most) {
                return Ok(());
            }
            let Some((_, dir)) = dirs.pop_front() else { return Ok(()) };
            visit(&dir, When::After)?;
        }
        Ok(())
    }

    /// Whether all before a place was visited; if it `must` be, waits for it. False, too, after a failure.
    fn is_visited(&self, place: u64, must: bool) -> bool {
        let mut state = self.locked();
        loop {
            let is_visited = state.under_way.first().is_none_or(|first| *first > place);
            if is_visited || !must || state.is_over {
                return is_visited && !state.is_over;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the order that matters is kept, all is visited once, and a failure ends it. Method: a tree of made-up names, visitors that take their time.
    use super::*;
    use fs_client::{Attr, FileKind, InodeId};
    use std::path::PathBuf;
    use std::time::Duration;

    const DIRS_OF_TEST: u64 = 40;
    const FILES: u64 = 30;

    fn name(ino: u64) -> Name {
        let attr = Attr::unknown(InodeId(ino), FileKind::File);
        Name {
            path: PathBuf::from(ino.to_string()),
            parent: InodeId(ino / 100 * 100),
            name: Vec::new(),
            attr,
        }
    }

    /// Directories 100, 200, ... with files 101, 102, ... in them.
    fn walk(met: &mut dyn FnMut(&Name, When) -> Result<()>) -> Result<()> {
        for dir in 1..=DIRS_OF_TEST {
            met(&name(100 * dir), When::Before)?;
            (1..=FILES).try_for_each(|file| met(&name(100 * dir + file), When::Before))?;
            met(&name(100 * dir), When::After)?;
        }
        Ok(())
    }

    #[test]
    fn a_directory_comes_after_all_that_is_in_it() {
        let seen = Mutex::new(Vec::new());
        over(&walk, &|name, when| {
            std::thread::sleep(Duration::from_micros(name.attr.ino.0 % 7 * 100));
            seen.lock().unwrap().push((name.attr.ino.0, when));
            Ok(())
        })
        .unwrap();
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen.len() as u64, DIRS_OF_TEST * (FILES + 2));
        let at = |wanted| seen.iter().position(|seen| *seen == wanted).unwrap();
        for dir in 1..=DIRS_OF_TEST {
            let end = at((100 * dir, When::After));
            assert!((0..=FILES).all(|file| at((100 * dir + file, When::Before)) < end), "directory {dir}");
        }
    }

    #[test]
    fn the_first_failure_ends_it() {
        for at in [(101, When::Before), (300, When::After), (DIRS_OF_TEST * 100 + FILES, When::Before)] {
            let outcome = over(&walk, &|name, when| {
                let fails = (name.attr.ino.0, when) == at;
                if fails { Err(CliError::Failed("on purpose".to_owned())) } else { Ok(()) }
            });
            assert!(matches!(outcome, Err(CliError::Failed(text)) if text == "on purpose"), "{at:?}");
        }
    }
}
