//! `hayate demo`: everything at once, on this machine, leaving nothing behind.
//!
//! # Invariants
//! - However it ends, no process, mount or directory stays, unless `--keep` and all went well (`tests/demo.rs`).

use crate::args::Global;
use crate::commands::down::{self, DownArgs};
use crate::commands::up::{self, UpArgs};
use crate::demo::burst::{Measured, Plan, Run};
use crate::demo::content::Content;
use crate::demo::report::Report;
use crate::demo::target::{Mounted, Native, Target};
use crate::demo::tier;
use crate::error::{CliError, Result, cannot, failed};
use crate::launch::start;
use crate::launch::started::Started;
use crate::{drain, interrupt, mounts, out, size};
use clap::Args;
use fs_client::{Client, ClientConfig};
use fs_net::ClusterFile;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long servers on this machine may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a flush may stand still.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// Closed files rest so long that flushing does not mix into the burst's figures.
const FLUSH_DELAY_MS: u64 = 5000;

/// Arguments of `hayate demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Leave it running, and say how to use and end it
    #[arg(long)]
    keep: bool,
    /// Servers
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// Bytes of the checkpoint: half in files per rank, half in one shared file
    #[arg(long, default_value = "512M", value_parser = size::parse)]
    size: u64,
    /// Writers
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    ranks: u16,
    /// Directory in the shared file system to flush to [default: one of its own]
    #[arg(long, value_name = "DIR")]
    tier: Option<PathBuf>,
    /// Where the demo makes its directory [default: TMPDIR, else /tmp]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Use the native client even if FUSE is available
    #[arg(long)]
    no_mount: bool,
    /// Seed of the content
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What stays until the end. Fields are dropped in this order.
struct Stage {
    mount: Option<MountGuard>,
    started: Started,
    cluster: ClusterFile,
    tier: tempfile::TempDir,
    dir: tempfile::TempDir,
}

/// Unmounts when dropped.
struct MountGuard {
    dir: PathBuf,
    keep: bool,
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = mounts::unmount(&self.dir, true) {
            tracing::warn!("{error}");
        }
    }
}

impl Stage {
    fn cluster_path(&self) -> PathBuf {
        self.dir.path().join("cluster.toml")
    }
}

/// Shows it.
pub fn run(global: &Global, args: &DemoArgs) -> Result<()> {
    interrupt::watch()?;
    let plan = Plan::new(u64::from(args.ranks), args.size);
    if plan.own_bytes == 0 {
        return Err(CliError::Usage(format!(
            "--size {} gives {} ranks nothing to write",
            args.size, args.ranks
        )));
    }
    let mut stage = set_up(global, args)?;
    out::line(format_args!(
        "{} servers are up on this machine in {}",
        stage.cluster.members.len(),
        stage.dir.path().display()
    ))?;
    mount(&mut stage, args)?;
    show(&stage, &plan, args)?;
    if args.keep { keep(stage) } else { take_down(stage) }
}

fn set_up(global: &Global, args: &DemoArgs) -> Result<Stage> {
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = temporary(&parent)?;
    let tier = temporary(args.tier.as_deref().unwrap_or(dir.path()))?;
    let words = |path: &Path| path.as_os_str().to_owned();
    let up = UpArgs::from_words([
        "--name=demo".into(),
        format!("--nodes={}", args.nodes).into(),
        format!("--flush-delay={FLUSH_DELAY_MS}").into(),
        "--store".into(),
        words(&dir.path().join("store")),
        "--tier".into(),
        words(tier.path()),
    ])?;
    let spec = up::spec(global, &up)?;
    let (cluster, started) = start::start(&spec, &dir.path().join("cluster.toml"), START_LIMIT)?;
    Ok(Stage { mount: None, started, cluster, tier, dir })
}

fn temporary(parent: &Path) -> Result<tempfile::TempDir> {
    let made = tempfile::Builder::new().prefix("hayate-demo-").tempdir_in(parent);
    made.map_err(cannot("make a directory in", parent))
}

/// Mounts if that is possible here; says so if not.
fn mount(stage: &mut Stage, args: &DemoArgs) -> Result<()> {
    if args.no_mount {
        return out::line("not mounted (--no-mount): using the native client");
    }
    let dir = stage.dir.path().join("mnt");
    let mounted = std::fs::create_dir(&dir)
        .map_err(cannot("make directory", &dir))
        .and_then(|()| mounts::check(&dir))
        .and_then(|()| mounts::mount_in_background(&stage.cluster_path(), &stage.cluster.job, &dir, &[]));
    match mounted {
        Ok(()) => {
            let said = out::line(format_args!("mounted at {}", dir.display()));
            stage.mount = Some(MountGuard { dir, keep: false });
            said
        }
        Err(why) => out::line(format_args!("no mount here ({why}): using the native client")),
    }
}

fn show(stage: &Stage, plan: &Plan, args: &DemoArgs) -> Result<()> {
    let client = Client::connect(ClientConfig::new(stage.cluster.clone())).map_err(failed)?;
    let target: Box<dyn Target> = match &stage.mount {
        Some(mount) => Box::new(Mounted(mount.dir.clone())),
        None => Box::new(Native(client.clone())),
    };
    let content = Content::new(args.seed);
    let run = Run { plan: *plan, content: &content, target: target.as_ref() };
    let burst = run.write()?;
    let begin = Instant::now();
    let safe = drain::run(&client, STALL_LIMIT)?;
    let flush = Measured { bytes: plan.bytes(), seconds: begin.elapsed().as_secs_f64() };
    let read_back = run.read_back()?;
    let verified = tier::verify(stage.tier.path(), plan, &content)?;
    let way = if stage.mount.is_some() { "the mount" } else { "the native client" };
    out::line(format_args!(
        "\n{} ranks through {way}: a file of {} each, and one shared file of {}\n",
        plan.ranks,
        size::format(plan.own_bytes),
        size::format(plan.shared_bytes)
    ))?;
    let phases =
        vec![("burst (fsync, close)", burst), ("read-back, compared", read_back), ("flush to tier 2", flush)];
    out::text(&Report { phases, server_bytes: server_bytes(&client)? }.render())?;
    out::line(format_args!("flushed: {} files, {} bytes, nothing unsafe", safe.files, safe.bytes))?;
    out::line(format_args!(
        "verified: every one of {verified} bytes in tier 2 has the checksum of what was written"
    ))?;
    Ok(())
}

/// Bytes of chunks on each server.
fn server_bytes(client: &Client) -> Result<Vec<u64>> {
    let members = &client.cluster().members;
    members
        .iter()
        .map(|member| {
            let text = client.server_status(member.id).map_err(failed)?;
            let status: serde_json::Value = serde_json::from_str(&text).map_err(failed)?;
            let live = status.pointer("/chunks/bytes_live").and_then(serde_json::Value::as_u64);
            live.ok_or_else(|| {
                CliError::Failed(format!("server {} does not say how much it holds", member.id))
            })
        })
        .collect()
}

fn take_down(mut stage: Stage) -> Result<()> {
    if let Some(mut mount) = stage.mount.take() {
        mounts::unmount(&mount.dir, false)?;
        mount.keep = true;
    }
    // All of it is in tier 2 and verified.
    let args =
        DownArgs { drain: false, discard: true, keep: false, stall: STALL_LIMIT.as_secs(), report: None };
    down::end(&stage.cluster_path(), &args)?;
    stage.started.keep();
    for dir in [stage.tier, stage.dir] {
        let path = dir.path().to_path_buf();
        dir.close().map_err(cannot("remove", &path))?;
    }
    out::line("everything was taken down again")
}

fn keep(mut stage: Stage) -> Result<()> {
    let path = stage.cluster_path();
    let mut lines = vec!["\nit stays up:".to_owned(), format!("  export HAYATE_CLUSTER={}", path.display())];
    if let Some(mount) = &mut stage.mount {
        mount.keep = true;
        lines.push(format!("  mount    {}", mount.dir.display()));
    }
    stage.started.keep();
    let (tier, dir) = (stage.tier.keep(), stage.dir.keep());
    lines.push(format!("  tier 2   {}", tier.display()));
    lines.push("end it with".to_owned());
    lines.push(format!("  hayate --cluster {} down && rm -r {}", path.display(), dir.display()));
    out::line(lines.join("\n"))
}
