//! `hayate flush`: copies to the shared tier now.

use crate::args::Global;
use crate::error::{CliError, Result, failed};
use crate::{drain, interrupt, out, size};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `hayate flush`.
#[derive(Debug, Args)]
pub struct FlushArgs {
    /// What must exist; everything that is pending is flushed with it
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
        client.stat(path).map_err(failed)?;
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
