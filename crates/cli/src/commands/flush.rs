//! `hayate flush`: copies to the shared tier now.

mod crew;
mod tree;

use crate::args::Global;
use crate::below::Name;
use crate::error::{CliError, Result, failed};
use crate::{drain, interrupt, out, side, size};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `hayate flush`.
#[derive(Debug, Args)]
pub struct FlushArgs {
    /// File or directory to flush with all below, whatever its policy (user.hayate.flush), and nothing else [default: all that is pending]
    path: Option<PathBuf>,
    /// Wait until everything is there as it was when the command began, or later; files that are open for writing included
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
    interrupt::watch()?;
    let stall = Duration::from_secs(args.stall);
    if let Some(path) = &args.path {
        let top = Name::find(&client, &side::in_cluster(path))?;
        let asked = tree::ask(&client, &top, args.wait)?;
        let path = top.path.display();
        if !args.wait {
            return out::line(format_args!("flushing: {} names at and below {path}", asked.names));
        }
        let names = tree::wait(&client, &top, stall, &asked)?;
        return out::line(format_args!(
            "{names} names at and below {path} are in the shared tier, nothing unsafe"
        ));
    }
    if args.wait {
        let total = drain::run(&client, stall)?;
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
