//! Daemons of a cluster on this machine: are they ours, do they live, and ending them.
//!
//! # Invariants
//! - A process is signalled only if its command line is that of the daemon we look for: a process number that was given to
//!   another program is left alone (`strangers_are_not_ours`).

use crate::interrupt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::{Duration, Instant};

/// How long a daemon may take to end after SIGTERM before it is killed.
const TERM_LIMIT: Duration = Duration::from_secs(10);
/// How long the kernel may take to end a killed process.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// A daemon that runs. Refers to the process itself, not to its number.
#[derive(Debug)]
pub struct Daemon {
    handle: OwnedFd,
    /// Its process number.
    pub pid: u32,
}

impl Daemon {
    /// The process `pid` if it runs and its arguments contain all of `marks`.
    pub fn find(pid: u32, marks: &[&str]) -> Option<Daemon> {
        let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
        // First the handle, then the look: if the number is reused between, the look is at the same process as the handle
        // only when the handle is still alive after it.
        let handle = pidfd_open(number, PidfdFlags::empty()).ok()?;
        let raw = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let daemon = Daemon { handle, pid };
        (is_ours(&raw, marks) && !daemon.ended(Duration::ZERO)).then_some(daemon)
    }

    /// Whether it has ended, waiting up to `limit` for it.
    pub fn ended(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut [PollFd::new(&self.handle, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return false,
                Err(rustix::io::Errno::INTR) => {}
                // A pidfd can be polled on every kernel that opens one; an error means that it is not there.
                Ok(_) | Err(_) => return true,
            }
        }
    }

    /// Ends it: SIGTERM, then SIGKILL. `false` if it lives on (which only the kernel can be blamed for).
    pub fn end(&self) -> bool {
        self.signal(Signal::TERM);
        if self.ended(TERM_LIMIT) {
            return true;
        }
        tracing::warn!(pid = self.pid, "process did not end after SIGTERM; killing it");
        self.signal(Signal::KILL);
        self.ended(KILL_LIMIT)
    }

    fn signal(&self, signal: Signal) {
        // The only failure is that it has ended meanwhile, which is what is wanted.
        let _ = pidfd_send_signal(&self.handle, signal);
    }
}

/// Ends children of this process in the same way, all at once, and reaps them.
pub fn end_children<'a>(children: impl Iterator<Item = &'a mut Child>) {
    let mut children: Vec<&mut Child> = children.collect();
    for child in &mut children {
        let running = matches!(child.try_wait(), Ok(None));
        if let (true, Some(pid)) = (running, i32::try_from(child.id()).ok().and_then(Pid::from_raw)) {
            // Not reaped yet, so the number is still the child's.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }
    for child in children {
        if !interrupt::wait_anyway(TERM_LIMIT, || !matches!(child.try_wait(), Ok(None))) {
            // Errors mean that it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a command line (arguments ended by zero bytes, as in `/proc`) contains all of `marks` as whole arguments.
fn is_ours(raw: &[u8], marks: &[&str]) -> bool {
    let args: Vec<&[u8]> = raw.split(|byte| *byte == 0).collect();
    !raw.is_empty() && marks.iter().all(|mark| args.contains(&mark.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn strangers_are_not_ours() {
        let server = b"/x/hayate\0server\0--launch\0/d\0--id\x000\0";
        assert!(is_ours(server, &["server", "/d"]));
        assert!(!is_ours(server, &["server", "/e"]));
        assert!(!is_ours(b"", &[]));
        assert!(Daemon::find(std::process::id(), &["no such argument"]).is_none());
    }

    /// Goal: a daemon is found, ended and seen to have ended. Method: a shell that would wait for ever.
    #[test]
    fn daemon_is_ended() {
        let mut child = Command::new("sh")
            .args(["-c", "read x", "mark-of-this-test"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let found = interrupt::wait_for(Duration::from_secs(10), || {
            Ok(Daemon::find(child.id(), &["mark-of-this-test"]))
        });
        let daemon = found.unwrap().unwrap();
        assert!(!daemon.ended(Duration::ZERO));
        assert!(daemon.end());
        child.wait().unwrap();
        assert!(Daemon::find(child.id(), &["mark-of-this-test"]).is_none());
    }

    #[test]
    fn child_that_ended_by_itself_is_reaped() {
        let mut child = Command::new("sh").args(["-c", "exit 0"]).spawn().unwrap();
        end_children([&mut child].into_iter());
        assert!(child.try_wait().unwrap().is_some());
    }
}
