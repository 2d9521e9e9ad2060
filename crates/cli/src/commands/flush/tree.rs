//! Flushing what is at and below a path, and nothing else, while others write what they want.
//!
//! # Invariants
//! - Success means that each name which was there when the command began had an attempt that began later and ended well, or is in the shared tier as it is
//!   now, or is gone (`tests/flush_path.rs`, `a_path_is_flushed_while_others_write`).
//! - Nothing else is asked for: what waits for a policy elsewhere goes on waiting (the same test).
//! - Names that are made meanwhile are asked for once each, so it ends though somebody makes and changes them without end.
//! - It is given up when nothing of what was asked for gets on, whatever else does (what servers
//!   say of a file that is being copied: `fs-server/tests/flush`, `how_far_a_large_file_is_can_be_seen`).
//!
//! Names are asked for by several threads; directories' attributes in the order of the walk, after all that is in them ([`crew`]).

use super::crew;
use crate::below::{Name, When};
use crate::error::{CliError, Result, failed};
use crate::{interrupt, probe, progress};
use fs_client::{Caller, Client, Error, InodeId};
use indicatif::ProgressBar;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures count only after this long: they are tried again with pauses.
const SURE: Duration = Duration::from_secs(3);
/// Pauses between two looks at a name: the first, doubled up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
/// Between two looks at whether anything moves.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Directories whose attributes are under way.
const DIRS: usize = 256;
/// Names that did not get there which are listed.
const SHOWN: usize = 20;

/// What was looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// Names that were asked for.
    pub names: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Asks for everything; `open`: files that are open for writing go as they are. Directories above that are not there yet come along.
pub fn ask(client: &Client, top: &Name, open: bool) -> Result<Asked> {
    let caller = probe::caller();
    let mut above = top.parent;
    while above != InodeId::ROOT {
        client.flush_inode(above).map_err(failed)?;
        above = client.getattr(&caller, above).map_err(failed)?.parent;
    }
    let (names, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    crew::each(client, top, &|name, when| {
        if when == When::After {
            // After all that changes it; who waits asks again.
            return demand(client, name.attr.ino, b"", false).map(drop);
        }
        bytes.fetch_add(if name.attr.is_dir() { 0 } else { name.attr.size }, Ordering::Relaxed);
        if name.name.is_empty() || (!name.attr.is_dir() && is_durable(client, &caller, name.attr.ino)?) {
            return Ok(());
        }
        names.fetch_add(1, Ordering::Relaxed);
        demand(client, name.parent, &name.name, open).map(drop)
    })?;
    Ok(Asked { names: names.into_inner(), bytes: bytes.into_inner() })
}

/// Asks for a name. Of one that is gone nothing is wanted.
fn demand(client: &Client, parent: InodeId, name: &[u8], open: bool) -> Result<Option<String>> {
    unless_gone(client.flush_name(parent, name, true, open))
}

fn unless_gone<T>(outcome: std::result::Result<Option<T>, Error>) -> Result<Option<T>> {
    match outcome {
        Err(error) if error.is_not_found() => Ok(None),
        outcome => outcome.map_err(failed),
    }
}

/// Whether it is in the shared tier as it is now, or gone.
fn is_durable(client: &Client, caller: &Caller, ino: InodeId) -> Result<bool> {
    let state = unless_gone(client.getxattr(caller, ino, b"user.hayate.durable").map(Some))?;
    Ok(state.is_none_or(|state| state == "yes"))
}

/// Waits until all of it is there; answers how many names. Fails with some of those that cannot get there, or when nothing of it moves for `stall`.
pub fn wait(client: &Client, top: &Name, stall: Duration, asked: &Asked) -> Result<u64> {
    let bar = progress::bytes("flushing to the shared tier", asked.bytes);
    let waiting = Waiting {
        client,
        caller: probe::caller(),
        stall,
        bar,
        names: AtomicU64::new(0),
        dirs: Mutex::default(),
        moved: Mutex::new(Instant::now()),
        is_failing: AtomicBool::new(false),
        failed: Mutex::default(),
        failures: AtomicU64::new(0),
    };
    let outcome = crew::each(client, top, &|name, when| waiting.visit(name, when));
    let outcome = outcome.and_then(|()| waiting.attributes(0));
    waiting.bar.finish_and_clear();
    outcome?;
    match waiting.failures.load(Ordering::Relaxed) {
        0 => Ok(waiting.names.load(Ordering::Relaxed)),
        failures => Err(waiting.complaint(top, failures)),
    }
}

/// The walk that waits for each name.
struct Waiting<'a> {
    client: &'a Client,
    caller: Caller,
    stall: Duration,
    bar: ProgressBar,
    names: AtomicU64,
    /// Directories whose attributes were asked for, in order.
    dirs: Mutex<VecDeque<(InodeId, String)>>,
    /// When something of it got on.
    moved: Mutex<Instant>,
    /// The last name that was waited for could not get there.
    is_failing: AtomicBool,
    failed: Mutex<Vec<(String, String)>>,
    failures: AtomicU64,
}

/// What is seen of a file while it is waited for.
struct Watched {
    ino: InodeId,
    copied_bytes: u64,
    looked: Instant,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waiting<'_> {
    fn visit(&self, name: &Name, when: When) -> Result<()> {
        let shown = name.path.display().to_string();
        if when == When::After {
            if !is_durable(self.client, &self.caller, name.attr.ino)? {
                demand(self.client, name.attr.ino, b"", false)?;
                locked(&self.dirs).push_back((name.attr.ino, shown));
            }
            return self.attributes(DIRS);
        }
        self.names.fetch_add(1, Ordering::Relaxed);
        if name.name.is_empty() || is_durable(self.client, &self.caller, name.attr.ino)? {
            self.count(name);
            return Ok(());
        }
        // Also what nobody asked for: it is new here, or changed its name meanwhile.
        if self.pending(name.parent, &name.name)?.is_none() {
            demand(self.client, name.parent, &name.name, true)?;
        }
        self.bring(name, &shown)?;
        self.count(name);
        Ok(())
    }

    /// Waits for a name. A server that was started again has forgotten who asked, which looks as if it were done: what is not there then is asked for once more.
    fn bring(&self, name: &Name, shown: &str) -> Result<()> {
        let watched = (name.parent, &name.name[..], name.attr.ino);
        if self.until_done(watched, shown)? && !is_durable(self.client, &self.caller, name.attr.ino)? {
            demand(self.client, name.parent, &name.name, true)?;
            self.until_done(watched, shown)?;
        }
        Ok(())
    }

    fn count(&self, name: &Name) {
        if !name.attr.is_dir() {
            self.bar.inc(name.attr.size);
        }
    }

    /// Waits for attributes of directories until at most `most` are under way.
    fn attributes(&self, most: usize) -> Result<()> {
        loop {
            let next = {
                let mut dirs = locked(&self.dirs);
                if dirs.len() > most { dirs.pop_front() } else { None }
            };
            let Some((dir, shown)) = next else { return Ok(()) };
            self.until_done((dir, b"", dir), &shown)?;
        }
    }

    fn pending(&self, parent: InodeId, name: &[u8]) -> Result<Option<String>> {
        unless_gone(self.client.flush_name(parent, name, false, false))
    }

    /// Waits until nothing that was asked for is left of a name, which stands for `ino`; false if it is given up.
    fn until_done(&self, (parent, name, ino): (InodeId, &[u8], InodeId), shown: &str) -> Result<bool> {
        let (mut pause, mut failing) = (PAUSES.0, None);
        let mut watched = Watched { ino, copied_bytes: 0, looked: Instant::now() };
        while let Some(reason) = self.pending(parent, name)? {
            interrupt::check()?;
            if reason.is_empty() {
                failing = None;
            } else {
                let since = *failing.get_or_insert_with(Instant::now);
                if self.is_failing.load(Ordering::Relaxed) || since.elapsed() >= SURE {
                    self.give_up(shown, reason);
                    return Ok(false);
                }
            }
            self.check_stall(&mut watched, shown)?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
        *locked(&self.moved) = Instant::now();
        self.is_failing.store(false, Ordering::Relaxed);
        Ok(true)
    }

    fn give_up(&self, shown: &str, reason: String) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.is_failing.store(true, Ordering::Relaxed);
        let mut failed = locked(&self.failed);
        if failed.len() < SHOWN {
            failed.push((shown.to_owned(), reason));
        }
    }

    /// A large file moves long before it is there.
    fn check_stall(&self, watched: &mut Watched, shown: &str) -> Result<()> {
        if watched.looked.elapsed() < LOOK_EVERY.min(self.stall) {
            return Ok(());
        }
        watched.looked = Instant::now();
        let copied_bytes = self.copied_bytes(watched.ino)?;
        let mut moved = locked(&self.moved);
        if copied_bytes != watched.copied_bytes {
            (watched.copied_bytes, *moved) = (copied_bytes, Instant::now());
        }
        if moved.elapsed() < self.stall {
            return Ok(());
        }
        Err(CliError::Unsafe(format!("no progress for {} s: {shown} is NOT safe yet", self.stall.as_secs())))
    }

    /// Bytes of a large file that servers have copied lately.
    fn copied_bytes(&self, ino: InodeId) -> Result<u64> {
        let mut bytes = 0;
        for (server, account) in self.client.flush_status().map_err(failed)? {
            // One that does not answer copies nothing, as far as can be seen; it is not waited for twice.
            let Ok(page) = account.and_then(|_| self.client.server_status(server)) else { continue };
            let page: serde_json::Value = serde_json::from_str(&page).unwrap_or_default();
            let copying = page["flush"]["copying"].as_array().into_iter().flatten();
            let of_it = copying.filter(|file| file["ino"].as_u64() == Some(ino.0));
            bytes += of_it.filter_map(|file| file["bytes"].as_u64()).sum::<u64>();
        }
        Ok(bytes)
    }

    fn complaint(&self, top: &Name, failures: u64) -> CliError {
        let failed = locked(&self.failed);
        let mut lines = vec![format!(
            "{failures} of {} names at and below {} are NOT safe in the shared tier",
            self.names.load(Ordering::Relaxed),
            top.path.display()
        )];
        lines.extend(failed.iter().map(|(name, why)| format!("  {name}: {why}")));
        let more = failures - failed.len() as u64;
        if more > 0 {
            lines.push(format!("  and {more} more"));
        }
        lines.push("mend the cause and run it again".to_owned());
        CliError::Unsafe(lines.join("\n"))
    }
}
