//! `hayate stage`: fetches trees from the shared tier before somebody reads them.

use crate::args::Global;
use crate::error::{CliError, Result, failed};
use crate::{interrupt, out, progress, side, size};
use clap::Args;
use fs_client::{Attr, Client, FileKind, OpenOptions};
use indicatif::ProgressBar;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{Scope, ScopedJoinHandle};

/// Files that are found and wait for their turn.
const FOUND: usize = 256;

/// Arguments of `hayate stage`.
#[derive(Debug, Args)]
pub struct StageArgs {
    /// Files and directories to fetch, with all below
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Files that are fetched at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
}

/// What is to be done, and was.
struct Work<'a> {
    client: &'a Client,
    bar: ProgressBar,
    files: AtomicU64,
    bytes: AtomicU64,
}

/// Fetches.
pub fn run(global: &Global, args: &StageArgs) -> Result<()> {
    let client = global.connect()?;
    if client.cluster().tier.is_none() {
        return Err(CliError::Usage(
            "this cluster has no shared tier to fetch from (hayate up --tier DIR)".into(),
        ));
    }
    interrupt::watch()?;
    let bar = progress::bytes("staging", 0);
    let work = Work { client: &client, bar, files: AtomicU64::new(0), bytes: AtomicU64::new(0) };
    std::thread::scope(|scope| side_by_side(scope, &work, args))?;
    work.bar.finish_and_clear();
    let (files, bytes) = (work.files.into_inner(), work.bytes.into_inner());
    out::line(format_args!("{files} files, {} are at hand", size::format(bytes)))
}

fn side_by_side<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    work: &'env Work<'env>,
    args: &'env StageArgs,
) -> Result<()> {
    let (sender, found) = sync_channel(FOUND);
    let found = Arc::new(Mutex::new(found));
    let fetchers: Vec<ScopedJoinHandle<'_, Result<()>>> = (0..args.parallel)
        .map(|_| {
            let found = Arc::clone(&found);
            scope.spawn(move || fetch_all(work, &found))
        })
        .collect();
    drop(found);
    let walked = args.paths.iter().try_for_each(|path| {
        let path = side::in_cluster(path);
        let attr = work.client.lstat(&path).map_err(failed)?;
        walk(work, &path, &attr, &sender)
    });
    drop(sender);
    for fetcher in fetchers {
        // A fetcher that failed has ended the walk, too: its reason comes first.
        fetcher.join().map_err(|_| CliError::Failed("a thread ended unexpectedly".into()))??;
    }
    walked
}

/// Finds all files. What goes meanwhile need not be fetched.
fn walk(work: &Work<'_>, path: &Path, attr: &Attr, found: &SyncSender<PathBuf>) -> Result<()> {
    interrupt::check()?;
    match attr.kind {
        FileKind::File => {
            work.bar.inc_length(attr.size);
            found.send(path.to_owned()).map_err(|_| CliError::Failed("fetching ended early".into()))
        }
        FileKind::Directory => {
            for entry in work.client.read_dir_plus(path).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let Some(attr) = &entry.attr else { continue };
                walk(work, &path.join(OsStr::from_bytes(&entry.name)), attr, found)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn fetch_all(work: &Work<'_>, found: &Mutex<Receiver<PathBuf>>) -> Result<()> {
    loop {
        let next = match found.lock() {
            Ok(found) => found.recv(),
            Err(_) => return Err(CliError::Failed("another thread ended unexpectedly".into())),
        };
        let Ok(path) = next else { return Ok(()) };
        interrupt::check()?;
        fetch(work, &path)?;
    }
}

fn fetch(work: &Work<'_>, path: &Path) -> Result<()> {
    // Opened: what others changed in the tier is noticed then.
    let file = match work.client.open_path(path, &OpenOptions::read_only()) {
        Err(error) if error.is_not_found() => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    let attr = file.attr().map_err(failed)?;
    let bar = work.bar.clone();
    work.client
        .stage(&attr, move |bytes| bar.inc(bytes))
        .map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))?;
    work.files.fetch_add(1, Ordering::Relaxed);
    work.bytes.fetch_add(attr.size, Ordering::Relaxed);
    Ok(())
}
