//! `hayate scrub`: verifies everything that the servers hold.

use crate::args::Global;
use crate::error::{CliError, Result, failed};
use crate::table::Table;
use crate::{interrupt, out, progress, size};
use clap::Args;
use fs_client::Client;
use fs_proto::ServerId;
use fs_proto::msg::scrub::{Damage, Scrub, ScrubCursor};

/// Bytes of one step: short enough for servers to answer others in between.
const STEP_BYTES: u64 = 64 << 20;
/// Damaged files that are listed.
const SHOWN: usize = 1_000;

/// Arguments of `hayate scrub`.
#[derive(Debug, Args)]
#[command(
    after_help = "Reads and verifies every record and every chunk of the servers. A damaged copy of a header is written again \
    from the other; damaged data is listed, and stays unreadable (EIO) until it is written again. Exit code 3 if there is any."
)]
pub struct ScrubArgs {
    /// Only this server
    #[arg(long, value_name = "N")]
    server: Option<u16>,
}

#[derive(Default)]
struct Sum {
    records: u64,
    chunks: u64,
    bytes: u64,
    repaired: u64,
    damaged: Vec<Damage>,
}

/// Verifies, and shows what was found.
pub fn run(global: &Global, args: &ScrubArgs) -> Result<()> {
    interrupt::watch()?;
    let client = global.connect()?;
    let members = client.cluster().members.iter().map(|member| member.id);
    let servers: Vec<_> = members.filter(|id| args.server.is_none_or(|only| id.0 == only)).collect();
    if servers.is_empty() {
        return Err(CliError::Usage(
            "--server: the cluster has no server of that number (hayate status)".into(),
        ));
    }
    let mut table = Table::new(&["server", ">records", ">chunks", ">verified", ">repaired", ">damaged"]);
    let mut damaged = Vec::new();
    for server in servers {
        let sum = scrub(&client, server, stored_bytes(&client, server)?)?;
        table.row(vec![
            server.0.to_string(),
            sum.records.to_string(),
            sum.chunks.to_string(),
            size::format(sum.bytes),
            sum.repaired.to_string(),
            sum.damaged.len().to_string(),
        ]);
        damaged.extend(sum.damaged.into_iter().map(|damage| (server, damage)));
    }
    out::text(&table.render())?;
    report(&damaged)
}

/// What the server says that it holds, for the progress bar.
fn stored_bytes(client: &Client, server: ServerId) -> Result<u64> {
    let status = client.server_status(server).map_err(failed)?;
    let status: serde_json::Value = serde_json::from_str(&status).map_err(failed)?;
    Ok(status["chunks"]["bytes_live"].as_u64().unwrap_or(0))
}

fn scrub(client: &Client, server: ServerId, total_bytes: u64) -> Result<Sum> {
    let bar = progress::bytes(&format!("server {}", server.0), total_bytes);
    let mut sum = Sum::default();
    let mut after: Option<ScrubCursor> = None;
    loop {
        interrupt::check()?;
        let step = Scrub { after, budget_bytes: STEP_BYTES };
        let found = client.scrub(server, &step).map_err(failed)?;
        sum.records += found.records;
        sum.chunks += found.chunks;
        sum.bytes += found.bytes;
        bar.set_position(sum.bytes);
        sum.repaired += found.repaired;
        sum.damaged.extend(found.damaged);
        sum.damaged.dedup();
        after = found.next;
        if after.is_none() {
            bar.finish_and_clear();
            return Ok(sum);
        }
    }
}

fn report(damaged: &[(ServerId, Damage)]) -> Result<()> {
    for (server, damage) in damaged.iter().take(SHOWN) {
        let what = String::from_utf8_lossy(&damage.what);
        out::line(format_args!("damaged on server {}: {what:?}", server.0))?;
    }
    match damaged.len() {
        0 => Ok(()),
        count => Err(CliError::Unsafe(format!(
            "{count} files or records are damaged; write the files again, from the shared tier where they are there"
        ))),
    }
}
