//! `hayate flush`: copies to the shared tier now.

use crate::args::Global;
use crate::error::{CliError, Result, failed};
use crate::{drain, interrupt, out, side, size};
use clap::Args;
use fs_client::{Attr, Client};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `hayate flush`.
#[derive(Debug, Args)]
pub struct FlushArgs {
    /// File or directory to flush with all below, whatever its policy (user.hayate.flush); what else is pending is flushed with it
    path: Option<PathBuf>,
    /// Wait until everything is there, files that are open for writing included
    #[arg(long)]
    wait: bool,
    /// With --wait: seconds without progress after which it is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    stall: u64,
}

/// Starts flushing, or flushes.
pub fn run(global: &Global, args: &FlushArgs) -> Result<()> {
    let client = global.connect()?;
    if client.cluster().tier.is_none() {
        return Err(CliError::Usage(
            "this cluster has no shared tier to flush to (hayate up --tier DIR)".into(),
        ));
    }
    if let Some(path) = &args.path {
        let path = side::in_cluster(path);
        ask(&client, &path, &client.lstat(&path).map_err(failed)?)?;
    }
    if args.wait {
        interrupt::watch()?;
        let total = drain::run(&client, Duration::from_secs(args.stall))?;
        let (files, bytes) = (total.files, total.bytes);
        return out::line(format_args!(
            "{files} files, {bytes} bytes flushed since the start, nothing unsafe"
        ));
    }
    client.flush_now(false).map_err(failed)?;
    let total = drain::look(&client)?;
    out::line(format_args!(
        "flushing: {} names, {} pending",
        total.pending,
        size::format(total.pending_bytes)
    ))
}

/// Asks for everything below a path, whatever its policy. What goes meanwhile needs no flush.
fn ask(client: &Client, path: &Path, attr: &Attr) -> Result<()> {
    if !attr.is_dir() {
        return match client.flush_inode(attr.ino) {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome.map_err(failed),
        };
    }
    for entry in client.read_dir_plus(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(attr) = &entry.attr else { continue };
        ask(client, &path.join(OsStr::from_bytes(&entry.name)), attr)?;
    }
    Ok(())
}
