//! Flushing what is at and below a path, and nothing else, while others write what they want.
//!
//! # Invariants
//! - Success means that each name which was there when the command began had an attempt that began later and ended well, or is in the shared tier as it is
//!   now, or is gone (`tests/flush_path.rs`, `a_path_is_flushed_while_others_write`).
//! - Nothing else is asked for: what waits for a policy elsewhere goes on waiting (the same test).
//! - Names that are made meanwhile are asked for once each, so it ends though somebody makes and changes them without end.

use crate::below::{self, Name, When};
use crate::error::{CliError, Result, failed};
use crate::{drain, interrupt, probe, progress};
use fs_client::{Caller, Client, Error, InodeId};
use indicatif::ProgressBar;
use std::collections::VecDeque;
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
    let mut asked = Asked::default();
    below::each(client, top, &mut |name, when| {
        if when == When::After {
            // After all that changes it; who waits asks again.
            return demand(client, name.attr.ino, b"", false).map(drop);
        }
        asked.bytes += if name.attr.is_dir() { 0 } else { name.attr.size };
        if name.name.is_empty() || (!name.attr.is_dir() && is_durable(client, &caller, name.attr.ino)?) {
            return Ok(());
        }
        asked.names += 1;
        demand(client, name.parent, &name.name, open).map(drop)
    })?;
    Ok(asked)
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

/// Waits until all of it is there; answers how many names. Fails with some of those that cannot get there, or when nothing moves for `stall`.
pub fn wait(client: &Client, top: &Name, stall: Duration, asked: &Asked) -> Result<u64> {
    let bar = progress::bytes("flushing to the shared tier", asked.bytes);
    let mut waiting = Waiting {
        client,
        caller: probe::caller(),
        stall,
        bar,
        names: 0,
        dirs: VecDeque::new(),
        moved: Instant::now(),
        copied_bytes: 0,
        looked: Instant::now(),
        is_failing: false,
        failed: Vec::new(),
        failures: 0,
    };
    let outcome = below::each(client, top, &mut |name, when| waiting.visit(name, when));
    let outcome = outcome.and_then(|()| waiting.attributes(0));
    waiting.bar.finish_and_clear();
    outcome?;
    if waiting.failures == 0 { Ok(waiting.names) } else { Err(waiting.complaint(top)) }
}

/// The walk that waits for each name in turn.
struct Waiting<'a> {
    client: &'a Client,
    caller: Caller,
    stall: Duration,
    bar: ProgressBar,
    names: u64,
    /// Directories whose attributes were asked for, in order.
    dirs: VecDeque<(InodeId, String)>,
    /// When something got on, as far as it can be seen.
    moved: Instant,
    copied_bytes: u64,
    looked: Instant,
    /// The last name that was waited for could not get there.
    is_failing: bool,
    failed: Vec<(String, String)>,
    failures: u64,
}

impl Waiting<'_> {
    fn visit(&mut self, name: &Name, when: When) -> Result<()> {
        let shown = name.path.display().to_string();
        if when == When::After {
            if !is_durable(self.client, &self.caller, name.attr.ino)? {
                demand(self.client, name.attr.ino, b"", false)?;
                self.dirs.push_back((name.attr.ino, shown));
            }
            return self.attributes(DIRS);
        }
        self.names += 1;
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
    fn bring(&mut self, name: &Name, shown: &str) -> Result<()> {
        let failures = self.failures;
        self.until_done(name.parent, &name.name, shown)?;
        if self.failures == failures && !is_durable(self.client, &self.caller, name.attr.ino)? {
            demand(self.client, name.parent, &name.name, true)?;
            self.until_done(name.parent, &name.name, shown)?;
        }
        Ok(())
    }

    fn count(&self, name: &Name) {
        if !name.attr.is_dir() {
            self.bar.inc(name.attr.size);
        }
    }

    /// Waits for attributes of directories until at most `most` are under way.
    fn attributes(&mut self, most: usize) -> Result<()> {
        while self.dirs.len() > most
            && let Some((dir, shown)) = self.dirs.pop_front()
        {
            self.until_done(dir, b"", &shown)?;
        }
        Ok(())
    }

    fn pending(&self, parent: InodeId, name: &[u8]) -> Result<Option<String>> {
        unless_gone(self.client.flush_name(parent, name, false, false))
    }

    /// Waits until nothing that was asked for is left of a name, or it is given up.
    fn until_done(&mut self, parent: InodeId, name: &[u8], shown: &str) -> Result<()> {
        let (mut pause, mut failing) = (PAUSES.0, None);
        while let Some(reason) = self.pending(parent, name)? {
            interrupt::check()?;
            if reason.is_empty() {
                failing = None;
            } else {
                let since = *failing.get_or_insert_with(Instant::now);
                if self.is_failing || since.elapsed() >= SURE {
                    self.give_up(shown, reason);
                    return Ok(());
                }
            }
            self.check_stall(shown)?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
        (self.moved, self.is_failing) = (Instant::now(), false);
        Ok(())
    }

    fn give_up(&mut self, shown: &str, reason: String) {
        self.failures += 1;
        self.is_failing = true;
        if self.failed.len() < SHOWN {
            self.failed.push((shown.to_owned(), reason));
        }
    }

    /// A large file moves long before it is there.
    fn check_stall(&mut self, shown: &str) -> Result<()> {
        if self.looked.elapsed() < LOOK_EVERY.min(self.stall) {
            return Ok(());
        }
        self.looked = Instant::now();
        let copied_bytes = drain::look(self.client)?.copied_bytes;
        if copied_bytes != self.copied_bytes {
            (self.copied_bytes, self.moved) = (copied_bytes, Instant::now());
        }
        if self.moved.elapsed() < self.stall {
            return Ok(());
        }
        Err(CliError::Unsafe(format!("no progress for {} s: {shown} is NOT safe yet", self.stall.as_secs())))
    }

    fn complaint(&self, top: &Name) -> CliError {
        let mut lines = vec![format!(
            "{} of {} names at and below {} are NOT safe in the shared tier",
            self.failures,
            self.names,
            top.path.display()
        )];
        lines.extend(self.failed.iter().map(|(name, why)| format!("  {name}: {why}")));
        let more = self.failures - self.failed.len() as u64;
        if more > 0 {
            lines.push(format!("  and {more} more"));
        }
        lines.push("mend the cause and run it again".to_owned());
        CliError::Unsafe(lines.join("\n"))
    }
}
