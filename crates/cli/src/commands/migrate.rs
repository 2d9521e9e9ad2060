//! `hayate migrate`: moves the tree of an old file system to the shared tier, in the background, while all of it is used through the cluster.
//!
//! # Invariants
//! - It succeeds only after all servers, asked twice, had nothing left and found nothing new in between (`nothing_left_twice_is_the_end`), and
//!   everything was flushed.

use crate::args::Global;
use crate::drain::{self, Total};
use crate::error::{CliError, Result, failed};
use crate::{interrupt, out, place, progress, size};
use bytes::Bytes;
use clap::Args;
use fs_client::{Client, Error, Migrated, Status};
use fs_server::tier::s3::target::is_s3;
use serde_json::json;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time between two looks.
const POLL: Duration = Duration::from_millis(100);
/// Names that a message lists.
const SHOWN_NAMES: usize = 10;

/// Arguments of `hayate migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The old file system's directory, mounted under this path on every server, or an old bucket (s3://BUCKET/PREFIX); it is only read
    #[arg(long, value_name = "OLD")]
    from: PathBuf,
    /// The new one: the shared tier of the cluster (hayate up --tier NEW)
    #[arg(long, value_name = "NEW")]
    to: PathBuf,
    /// Seconds without progress after which it is given up; the servers go on
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    stall: u64,
    /// Print the account at the end as JSON
    #[arg(long)]
    json: bool,
}

/// Begins a migration, or joins one that was begun, and waits for its end.
pub fn run(global: &Global, args: &MigrateArgs) -> Result<()> {
    let from = if is_bucket(&args.from) { plain(&args.from) } else { place::absolute(&args.from)? };
    let client = global.connect().map_err(|error| {
        error.with("; a migration needs a cluster on the new file system: hayate up --tier NEW")
    })?;
    check_target(&args.to, client.cluster().tier.as_deref())?;
    interrupt::watch()?;
    client.attach_old(Bytes::copy_from_slice(from.as_os_str().as_bytes())).map_err(refused)?;
    let moved = wait(&client, Duration::from_secs(args.stall))?;
    drain::run(&client, Duration::from_secs(args.stall))?;
    client.detach_old().map_err(failed)?;
    tell(args, &moved)
}

fn is_bucket(path: &Path) -> bool {
    is_s3(&path.to_string_lossy())
}

/// A bucket's name as it is written down: a migration that goes on is known by it.
fn plain(bucket: &Path) -> PathBuf {
    let text = bucket.to_string_lossy();
    let trimmed = text.trim_end_matches('/');
    if is_s3(trimmed) { trimmed.into() } else { bucket.to_owned() }
}

/// What a server says is wrong with the old directory is wrong in the command line.
fn refused(error: Error) -> CliError {
    match error {
        Error::Status { status: Status::Invalid | Status::NotSupported, .. } => {
            CliError::Usage(error.to_string())
        }
        error => failed(error),
    }
}

/// Files move to where the cluster flushes: nowhere else.
fn check_target(to: &Path, tier: Option<&Path>) -> Result<()> {
    let Some(tier) = tier else {
        return Err(CliError::Usage(
            "this cluster has no shared tier to move to; start one on the new file system (hayate up --tier NEW)".into(),
        ));
    };
    if is_same(to, tier)? {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "--to {} is not the shared tier of this cluster, which is {}; name that one, or start a cluster on the new file system (hayate up --tier NEW)",
        to.display(),
        tier.display()
    )))
}

fn is_same(to: &Path, tier: &Path) -> Result<bool> {
    if is_bucket(to) || is_bucket(tier) {
        return Ok(plain(to) == plain(tier));
    }
    let to = place::absolute(to)?;
    // The tier need not be mounted where this command runs.
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    Ok(to == tier || matches!((fs::metadata(&to), fs::metadata(tier)), (Ok(a), Ok(b)) if same(&a, &b)))
}

/// What all servers say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sum {
    left: u64,
    found: u64,
    same_files: u64,
    compared_bytes: u64,
    again: u64,
    gone: u64,
    trouble: Vec<String>,
    /// Servers that did not answer.
    silent: u64,
}

impl Sum {
    fn add(&mut self, one: &Migrated) {
        self.left += one.left;
        self.found += one.found;
        self.same_files += one.same_files;
        self.compared_bytes += one.compared_bytes;
        self.again += one.again;
        self.gone += one.gone;
        self.trouble.extend(Some(&one.trouble).filter(|trouble| !trouble.is_empty()).cloned());
    }

    /// Whether nothing is left, if `before` is what was said a round ago: what moves from server to server between two questions is found by the
    /// one that gets it.
    fn is_end(&self, before: &Sum) -> bool {
        let nothing = |sum: &Sum| sum.left == 0 && sum.silent == 0;
        nothing(self) && nothing(before) && self.found == before.found
    }

    /// What changes while anything is done.
    fn progress(&self) -> (u64, u64, u64, u64) {
        (self.left, self.found, self.compared_bytes, self.same_files + self.again + self.gone)
    }
}

fn look(client: &Client) -> Result<Sum> {
    let mut sum = Sum::default();
    for (server, status) in client.migrate_status().map_err(failed)? {
        match status {
            Ok(status) => sum.add(&status),
            // It may be started again.
            Err(error) => {
                sum.silent += 1;
                sum.trouble.push(format!("server {server}: {error}"));
            }
        }
    }
    Ok(sum)
}

/// Flushing as far as servers tell.
fn flushed(client: &Client) -> Result<Total> {
    let accounts = client.flush_status().map_err(failed)?;
    Ok(Total::of(accounts.iter().filter_map(|(_, account)| account.as_ref().ok())))
}

/// Waits until nothing is left.
fn wait(client: &Client, stall: Duration) -> Result<Sum> {
    let bar = progress::bytes("moving", 0);
    let (mut last, mut before, mut moved) = (None, Sum { silent: 1, ..Sum::default() }, Instant::now());
    loop {
        let (now, flush) = (look(client)?, flushed(client)?);
        bar.set_message(format!("moving: {} of {} left", now.left, now.found.max(now.left)));
        bar.set_length(now.compared_bytes + flush.pending_bytes);
        bar.set_position(now.compared_bytes);
        if now.is_end(&before) {
            bar.finish_and_clear();
            return Ok(now);
        }
        let progress = Some((now.progress(), flush.copied_bytes, flush.files));
        if progress != last {
            (last, moved) = (progress, Instant::now());
        } else if moved.elapsed() >= stall {
            bar.finish_and_clear();
            return Err(CliError::Unsafe(complaint(stall, &now, &not_flushed(client))));
        }
        before = now;
        interrupt::check()?;
        std::thread::sleep(POLL);
    }
}

/// Some names that are not in the shared tier, and why, as far as servers tell.
fn not_flushed(client: &Client) -> Vec<String> {
    let servers = client.cluster().members.iter().map(|member| member.id);
    let pages = servers.filter_map(|server| client.flush_list(server, Bytes::new()).ok());
    let names = pages.flat_map(|page| page.names).take(SHOWN_NAMES);
    names.map(|(name, why)| format!("  {}: {why}", String::from_utf8_lossy(&name))).collect()
}

fn complaint(stall: Duration, now: &Sum, not_flushed: &[String]) -> String {
    let mut lines = vec![format!(
        "no progress for {} s: {} files and directories have not moved; all of them can be used, and the servers go on trying",
        stall.as_secs(),
        now.left
    )];
    lines.extend(now.trouble.iter().map(|trouble| format!("  {trouble}")));
    lines.extend_from_slice(not_flushed);
    lines.push(
        "mend the cause, or remove through the cluster what cannot be read, and run it again".to_owned(),
    );
    lines.join("\n")
}

fn tell(args: &MigrateArgs, moved: &Sum) -> Result<()> {
    let (from, to) = (args.from.display(), args.to.display());
    let Sum { same_files, compared_bytes, again, gone, .. } = *moved;
    if args.json {
        let account = json!({
            "from": args.from, "to": args.to, "same_files": same_files, "compared_bytes": compared_bytes,
            "copied_again": again, "gone": gone,
        });
        return out::line(account);
    }
    out::line(format_args!("{to} has all of {from}, which was not changed"))?;
    out::line(format_args!(
        "since the servers' start: {same_files} files compared and the same ({} read of each), {again} copied again, {gone} gone from {from} before they were compared",
        size::format(compared_bytes)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_left_twice_is_the_end() {
        let at = |left, found, silent| Sum { left, found, silent, ..Sum::default() };
        assert!(at(0, 5, 0).is_end(&at(0, 5, 0)));
        for (before, now) in [
            (at(1, 5, 0), at(0, 5, 0)),
            (at(0, 5, 0), at(1, 5, 0)),
            // Found and done in between: it may have led to more.
            (at(0, 5, 0), at(0, 6, 0)),
            (at(0, 5, 1), at(0, 5, 0)),
            (at(0, 5, 0), at(0, 5, 1)),
        ] {
            assert!(!now.is_end(&before), "{before:?} {now:?}");
        }
    }

    #[test]
    fn the_target_is_the_clusters_tier() {
        let dir = tempfile::tempdir().unwrap();
        let tier = dir.path().join("tier");
        fs::create_dir(&tier).unwrap();
        std::os::unix::fs::symlink(&tier, dir.path().join("other-name")).unwrap();
        assert!(check_target(&tier, Some(&tier)).is_ok());
        assert!(check_target(&dir.path().join("other-name"), Some(&tier)).is_ok());
        assert!(check_target(dir.path(), Some(&tier)).is_err());
        assert!(check_target(&tier, None).is_err());
        let bucket = Path::new("s3://bucket/prefix");
        assert!(check_target(Path::new("s3://bucket/prefix/"), Some(bucket)).is_ok());
        assert!(check_target(&tier, Some(bucket)).is_err());
    }
}
