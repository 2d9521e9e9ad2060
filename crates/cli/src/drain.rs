//! Waiting until everything is in the shared tier, with progress, and the account of it.
//!
//! # Invariants
//! - Success means that every server said, after the last change, that nothing is pending (`only_nothing_pending_is_safe`).

use crate::error::{CliError, Result, cannot, failed};
use crate::launch::start::Silent;
use crate::{interrupt, progress, report, size};
use bytes::Bytes;
use fs_client::{Client, ClientConfig, FlushAccount, Route, ServerId};
use fs_net::ClusterFile;
use serde_json::json;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Unsafe names that a message lists.
const SHOWN_NAMES: usize = 20;
/// Longest time between two looks, of which each moves the bar; the end comes at once.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Failures count only after this long: servers look once a second for a tier that is mounted again, and some of them try what fails more often than that.
const SURE: Duration = Duration::from_secs(3);
/// How often servers are told to flush everything: one that has nothing left forgets it after some seconds, and others may hand it more.
const TELL_AGAIN: Duration = Duration::from_secs(2);
/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// The sum of all servers' accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Total {
    /// Files published since the cluster's start.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes written to the tier since the servers' last start: a large file moves long before it is published.
    pub copied_bytes: u64,
    /// Names and directories that differ from the tier.
    pub pending: u64,
    /// Bytes of files among them.
    pub pending_bytes: u64,
    /// Failed attempts since the servers' start.
    pub failures: u64,
    /// Names that failed at their last attempt, and why.
    pub unsafe_names: Vec<(String, String)>,
}

impl Total {
    /// Adds up accounts.
    pub fn of<'a>(accounts: impl IntoIterator<Item = &'a FlushAccount>) -> Total {
        let mut total = Total::default();
        for account in accounts {
            total.files += account.files;
            total.bytes += account.bytes;
            total.copied_bytes += account.copied_bytes;
            total.pending += account.pending_names + account.pending_dirs;
            total.pending_bytes += account.pending_bytes;
            total.failures += account.failures;
            let names = account.unsafe_names.iter();
            total
                .unsafe_names
                .extend(names.map(|(n, why)| (String::from_utf8_lossy(n).into_owned(), why.clone())));
        }
        total
    }

    /// What changes while anything is done.
    fn progress(&self) -> (u64, u64, u64) {
        (self.copied_bytes, self.files, self.pending)
    }

    fn is_safe(&self) -> bool {
        self.pending == 0 && self.unsafe_names.is_empty()
    }

    /// Everything that is left has been tried since `start` and failed.
    fn only_failures_left(&self, start: &Total) -> bool {
        !self.unsafe_names.is_empty()
            && self.pending <= self.unsafe_names.len() as u64
            && self.failures >= start.failures + self.unsafe_names.len() as u64
    }

    fn complaint(&self) -> String {
        let mut lines = vec![format!(
            "{} names ({}) are NOT safe in the shared tier; nothing was stopped",
            self.pending.max(self.unsafe_names.len() as u64),
            size::format(self.pending_bytes)
        )];
        lines
            .extend(self.unsafe_names.iter().take(SHOWN_NAMES).map(|(name, why)| format!("  {name}: {why}")));
        if self.unsafe_names.len() > SHOWN_NAMES {
            lines.push(format!("  and {} more", self.unsafe_names.len() - SHOWN_NAMES));
        }
        lines.push("mend the cause and run it again; `hayate down --discard` gives the data up".to_owned());
        lines.join("\n")
    }
}

/// What is pending now.
pub fn look(client: &Client) -> Result<Total> {
    let mut accounts = Vec::new();
    for (server, account) in client.flush_status().map_err(failed)? {
        accounts.push(account.map_err(|error| no_account(server, &error))?);
    }
    Ok(Total::of(&accounts))
}

fn no_account(server: ServerId, error: &fs_client::Error) -> CliError {
    CliError::Unsafe(format!("server {server} gives no account of what is safe: {error}"))
}

/// What a report has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// Names.
    pub names: u64,
    /// Servers of which it is not known what they hold.
    pub unknown: u64,
}

/// Writes every name that is not in the shared tier to a file (`report`): `{"path": ..., "reason": ...}` a line, with `path_hex` where the path is no
/// UTF-8. A server that does not answer (one of `silent`, or later) has a line of its own: `{"server": ..., "reason": ...}`.
pub fn report(cluster: &ClusterFile, silent: &[Silent], file: &Path) -> Result<Reported> {
    // Each server is asked itself: another one might be dead.
    let config = ClientConfig { route: Route::Owners, ..ClientConfig::new(cluster.clone()) };
    let client = (silent.len() < cluster.members.len()).then(|| Client::connect(config));
    let told = report::write(file, |out| {
        let mut reported = Reported { names: 0, unknown: 0 };
        for server in cluster.members.iter().map(|member| member.id) {
            let why = silent.iter().find(|silent| silent.id == server).map(|silent| &silent.why);
            let told = match (why, &client) {
                (Some(why), _) => Err(unknown(why)),
                (None, Some(Ok(client))) => report_server(client, server, out)?,
                (None, Some(Err(error))) => Err(unknown(error)),
                (None, None) => Err(unknown("no server answers")),
            };
            match told {
                Ok(names) => reported.names += names,
                Err(reason) => {
                    reported.unknown += 1;
                    writeln!(out, "{}", json!({ "server": server.0, "reason": reason }))?;
                }
            }
        }
        Ok(reported)
    });
    told.map_err(cannot("write", file))
}

fn unknown(why: impl Display) -> String {
    format!("does not answer, so what it holds is not known: {why}")
}

/// Answers how many names were written, or why there are not all.
fn report_server(
    client: &Client,
    server: ServerId,
    out: &mut impl Write,
) -> std::io::Result<std::result::Result<u64, String>> {
    let (mut after, mut names) = (Bytes::new(), 0);
    loop {
        let page = match client.flush_list(server, after) {
            Ok(page) => page,
            Err(error) => return Ok(Err(format!("gives no list: {error}"))),
        };
        names += page.names.len() as u64;
        for (path, reason) in page.names {
            let mut line = json!({ "path": String::from_utf8_lossy(&path), "reason": reason });
            if std::str::from_utf8(&path).is_err() {
                line["path_hex"] = hex::encode(&path).into();
            }
            writeln!(out, "{line}")?;
        }
        if page.next.is_empty() {
            return Ok(Ok(names));
        }
        after = page.next;
    }
}

/// Flushes everything and waits for it; fails with the list of what is not safe when nothing moves for `stall`.
pub fn run(client: &Client, stall: Duration) -> Result<Total> {
    let start = look(client)?;
    client.flush_now(true).map_err(failed)?;
    let bar = progress::bytes("flushing to the shared tier", start.pending_bytes);
    let outcome = wait(client, &start, stall, |total| {
        bar.set_length(start.pending_bytes.max(total.pending_bytes));
        bar.set_position(bar.length().unwrap_or(0).saturating_sub(total.pending_bytes));
    });
    bar.finish_and_clear();
    outcome
}

fn wait(client: &Client, start: &Total, stall: Duration, show: impl Fn(&Total)) -> Result<Total> {
    let began = Instant::now();
    let (mut last, mut moved, mut told) = (start.clone(), began, began);
    loop {
        if told.elapsed() >= TELL_AGAIN {
            client.flush_now(true).map_err(failed)?;
            told = Instant::now();
        }
        let total = look(client)?;
        show(&total);
        if total.is_safe() {
            // A file is counted by its home before it stops being pending with the owner of its name: the home may have been asked before.
            let exact = look(client)?;
            if exact.is_safe() {
                return Ok(exact);
            }
        }
        if began.elapsed() >= SURE && total.only_failures_left(start) {
            return Err(CliError::Unsafe(total.complaint()));
        }
        if total.progress() != last.progress() {
            (last, moved) = (total, Instant::now());
        } else if moved.elapsed() >= stall {
            return Err(CliError::Unsafe(format!(
                "no progress for {} s: {}",
                stall.as_secs(),
                total.complaint()
            )));
        }
        interrupt::check()?;
        client.flush_wait(LOOK_EVERY).map_err(failed)?;
        // What one server handed to another is pending with neither for a moment.
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(pending_names: u64, failures: u64, unsafe_name: Option<&str>) -> FlushAccount {
        FlushAccount {
            pending_names,
            pending_dirs: 0,
            pending_bytes: pending_names * 10,
            files: 2,
            bytes: 5,
            copied_bytes: 6,
            failures,
            oldest_ms: 0,
            bytes_per_s: 0,
            unsafe_names: unsafe_name
                .map(|n| (n.to_owned().into(), "disk full".to_owned()))
                .into_iter()
                .collect(),
            has_tier: true,
        }
    }

    #[test]
    fn only_nothing_pending_is_safe() {
        assert!(Total::of(&[account(0, 3, None), account(0, 0, None)]).is_safe());
        assert!(!Total::of(&[account(0, 0, None), account(1, 0, None)]).is_safe());
        assert!(!Total::of(&[account(0, 1, Some("/a"))]).is_safe());
    }

    #[test]
    fn sums_are_exact() {
        let total = Total::of(&[account(1, 1, Some("/a")), account(2, 0, None)]);
        assert_eq!((total.files, total.bytes, total.pending, total.pending_bytes), (4, 10, 3, 30));
    }

    #[test]
    fn old_failures_are_tried_once_more() {
        let start = Total::of(&[account(1, 4, Some("/a"))]);
        assert!(!start.only_failures_left(&start));
        assert!(Total::of(&[account(1, 5, Some("/a"))]).only_failures_left(&start));
        assert!(!Total::of(&[account(2, 5, Some("/a"))]).only_failures_left(&start));
    }

    #[test]
    fn complaint_names_what_and_why() {
        let text = Total::of(&[account(1, 1, Some("/a"))]).complaint();
        assert!(text.contains("/a: disk full") && text.contains("NOT safe"), "{text}");
    }
}
