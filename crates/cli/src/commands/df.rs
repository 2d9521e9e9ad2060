//! `hayate df`: space of the servers' stores.

use crate::args::Global;
use crate::error::{Result, failed};
use crate::table::Table;
use crate::{out, size};
use clap::Args;

/// Arguments of `hayate df`.
#[derive(Debug, Args)]
pub struct DfArgs {
    /// Exact bytes
    #[arg(short, long)]
    bytes: bool,
}

/// Shows it.
pub fn run(global: &Global, args: &DfArgs) -> Result<()> {
    let client = global.connect()?;
    let space = client.statfs().map_err(failed)?;
    let show = |bytes: u64| if args.bytes { bytes.to_string() } else { size::format(bytes) };
    let used = space.total_bytes.saturating_sub(space.free_bytes);
    let percent = (used as f64 / space.total_bytes.max(1) as f64 * 100.0).round();
    let mut table = Table::new(&["cluster", ">servers", ">size", ">used", ">free", ">use%", ">inodes"]);
    table.row(vec![
        client.cluster().name.clone(),
        client.cluster().members.len().to_string(),
        show(space.total_bytes),
        show(used),
        show(space.free_bytes),
        format!("{percent}%"),
        space.inodes.to_string(),
    ]);
    out::text(&table.render())
}
