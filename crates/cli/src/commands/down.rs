//! `hayate down`: brings the data to safety, unmounts, and stops the servers.

use crate::args::Global;
use crate::drain::{self, Reported};
use crate::error::{CliError, Result, failed};
use crate::launch::spec::LaunchSpec;
use crate::launch::start::Silent;
use crate::launch::{Work, start};
use crate::process::Daemon;
use crate::{interrupt, mounts, out, place, probe, size};
use clap::Args;
use fs_client::{Client, ClientConfig, ShutdownMode};
use fs_net::{ClusterFile, MemberEntry, host_name};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a server may take to answer that it ends.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long it may then take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Arguments of `hayate down`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Without an option it drains if the cluster has a shared tier, and else keeps the stores, so that \
    `hayate up --restart` goes on with them. After --drain and --discard nothing of the cluster is left on the nodes."
)]
pub struct DownArgs {
    /// Wait until everything is in the shared tier; stop nothing if something cannot get there
    #[arg(long, conflicts_with_all = ["discard", "keep"])]
    pub drain: bool,
    /// Delete all data that is not in the shared tier
    #[arg(long, conflicts_with = "keep")]
    pub discard: bool,
    /// Keep the stores and the cluster file
    #[arg(long)]
    pub keep: bool,
    /// With --drain: seconds without progress after which it is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub stall: u64,
    /// If a drain does not end well, however it was cut off: write every name that is not safe here, a JSON object a line
    /// [default: hayate-unsafe-JOB.jsonl in the working directory, or in /tmp/hayate-UID if that cannot be]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// What becomes of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Drain,
    Discard,
    Keep,
}

/// Ends the cluster of the cluster file.
pub fn run(global: &Global, args: &DownArgs) -> Result<()> {
    interrupt::watch()?;
    let path = global.cluster_path()?;
    let account = end(&path, args)?;
    out::line(account)
}

/// As [`run`]; answers what to tell the user.
pub fn end(path: &Path, args: &DownArgs) -> Result<String> {
    let cluster = ClusterFile::load(path).map_err(failed)?;
    let fate = fate(args, &cluster)?;
    let spec = LaunchSpec::load(&place::local_dir(&cluster.job)).ok();
    let silent = start::silent(&cluster)?;
    let account = if fate == Fate::Drain {
        let safe = to_safety(&cluster, spec.as_ref(), path, &silent, args);
        Some(safe.map_err(|error| with_report(error, &cluster, &silent, args))?)
    } else {
        unmount_all(&cluster, spec.as_ref(), path, fate)?;
        None
    };
    let mode = if fate == Fate::Keep { ShutdownMode::Keep } else { ShutdownMode::Discard };
    let alive: Vec<&MemberEntry> =
        cluster.members.iter().filter(|m| silent.iter().all(|silent| silent.id != m.id)).collect();
    stop(&cluster, &alive, mode)?;
    if fate == Fate::Keep {
        return Ok(kept(&cluster, path));
    }
    let left = remove(&cluster, spec.as_ref(), path)?;
    Ok(format!(
        "{}{left}",
        account.unwrap_or_else(|| format!("cluster '{}' is down, its data deleted", cluster.name))
    ))
}

fn fate(args: &DownArgs, cluster: &ClusterFile) -> Result<Fate> {
    match (args.drain, args.discard, args.keep) {
        (true, ..) if cluster.tier.is_none() => Err(CliError::Usage(
            "--drain: this cluster has no shared tier (hayate up --tier DIR); copy what you need with `hayate cp -r h:/ DIR`, \
             then `hayate down --discard`, or `hayate down --keep`"
                .into(),
        )),
        (true, ..) => Ok(Fate::Drain),
        (_, true, _) => Ok(Fate::Discard),
        (_, _, true) => Ok(Fate::Keep),
        _ if cluster.tier.is_some() => Ok(Fate::Drain),
        _ => Ok(Fate::Keep),
    }
}

fn kept(cluster: &ClusterFile, path: &Path) -> String {
    format!(
        "cluster '{}' is down; no data was copied anywhere, the stores are kept\n`hayate up --restart` goes on with them, \
         `hayate down --discard` deletes them (cluster file {})",
        cluster.name,
        path.display()
    )
}

/// Brings everything to the tier; answers what to tell of it.
fn to_safety(
    cluster: &ClusterFile,
    spec: Option<&LaunchSpec>,
    path: &Path,
    silent: &[Silent],
    args: &DownArgs,
) -> Result<String> {
    if !silent.is_empty() {
        let ids: Vec<String> = silent.iter().map(|silent| silent.id.to_string()).collect();
        return Err(CliError::Unsafe(format!(
            "server {} does not answer, so its data cannot be brought to the tier: `hayate up --restart` starts it on its \
             store, `hayate down --discard` gives its data up",
            ids.join(", ")
        )));
    }
    unmount_all(cluster, spec, path, Fate::Drain)?;
    let client = Client::connect(ClientConfig::new(cluster.clone())).map_err(failed)?;
    let total = drain::run(&client, Duration::from_secs(args.stall))?;
    for stale in default_reports(cluster) {
        // Where it cannot be removed, as in a directory that is read-only, it could not be written either.
        let _ = place::remove_file(&stale);
    }
    let tier = cluster.tier.as_deref().map(|tier| tier.display().to_string()).unwrap_or_default();
    Ok(format!(
        "cluster '{}' is down: {} files, {} bytes ({}) flushed to {tier}, nothing unsafe",
        cluster.name,
        total.files,
        total.bytes,
        size::format(total.bytes)
    ))
}

/// Where the list of what is not safe goes if nobody says so: a batch job's working directory outlives its nodes; else a place that is always there.
fn default_reports(cluster: &ClusterFile) -> [PathBuf; 2] {
    let name = format!("hayate-unsafe-{}.jsonl", cluster.job);
    [PathBuf::from(&name), place::base_dir().join(&name)]
}

/// Writes the list, and says where it is, or why it is not.
fn with_report(error: CliError, cluster: &ClusterFile, silent: &[Silent], args: &DownArgs) -> CliError {
    let files = args.report.clone().map_or_else(|| default_reports(cluster).to_vec(), |file| vec![file]);
    let mut why_not = String::new();
    let is_default = args.report.is_none();
    // What is in use may be unmounted never, and be where this was called.
    let mounted = mounts::list(&cluster.job).unwrap_or_default();
    // The second place is made here where nothing of a cluster has run.
    let _ = place::private_dir(&place::base_dir());
    for file in files {
        let file = std::path::absolute(&file).unwrap_or(file);
        if is_default && mounted.iter().any(|record| file.starts_with(&record.dir)) {
            continue;
        }
        match drain::report(cluster, silent, &file) {
            Ok(Reported { names, unknown }) => {
                let of_all = if unknown == 0 {
                    String::new()
                } else {
                    format!(", without those of {unknown} servers")
                };
                return error.with(format!(
                    "\nwhat is not safe is listed in {}: {names} names{of_all}",
                    file.display()
                ));
            }
            Err(refused) => why_not = format!("\nwhat is not safe is not listed: {refused}"),
        }
    }
    error.with(why_not)
}

/// Unmounts everywhere, so that nothing is written any more. Data that is to be deleted stops nobody.
fn unmount_all(cluster: &ClusterFile, spec: Option<&LaunchSpec>, path: &Path, fate: Fate) -> Result<()> {
    for record in mounts::list(&cluster.job)? {
        mounts::unmount_recorded(&record, &cluster.job, fate == Fate::Discard)?;
    }
    let Some((spec, launcher, mount)) =
        spec.and_then(|spec| Some((spec, spec.launcher?, spec.mount.as_ref()?)))
    else {
        return Ok(());
    };
    let (file, mount) = (path.display().to_string(), mount.display().to_string());
    let args = |_| ["--cluster", &file, "umount", "--if-mounted", &mount].map(str::to_owned).to_vec();
    let work = Work { exe: &spec.exe, hosts: &spec.hosts, args: &args, log: None };
    for line in launcher.command_lines(&work)? {
        let output = line
            .command()
            .stdin(std::process::Stdio::null())
            .output()
            .map_err(|error| CliError::Failed(format!("cannot start {}: {error}", line.program)))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(CliError::Failed(format!(
                "cannot unmount on all hosts: {said}; nothing was stopped"
            )));
        }
    }
    Ok(())
}

/// Ends servers: by request, then (those of this machine) by signal.
fn stop(cluster: &ClusterFile, members: &[&MemberEntry], mode: ShutdownMode) -> Result<()> {
    let daemons: Vec<Option<Daemon>> = members.iter().map(|member| daemon(cluster, member)).collect();
    for member in members {
        if let Err(error) = probe::shutdown(cluster, member, ANSWER_LIMIT, mode) {
            tracing::debug!(server = member.id.0, %error, "server did not answer that it ends");
        }
    }
    let mut alive = Vec::new();
    for (member, daemon) in members.iter().zip(daemons) {
        let ended = match daemon {
            Some(daemon) => daemon.ended(END_LIMIT) || daemon.end(),
            None => interrupt::wait_anyway(END_LIMIT, || probe::ping(cluster, member, ANSWER_LIMIT).is_err()),
        };
        if !ended {
            alive.push(format!("server {} (process {} on {})", member.id, member.pid, member.host));
        }
    }
    if alive.is_empty() {
        return Ok(());
    }
    Err(CliError::Failed(format!("{} did not end: kill it there", alive.join(", "))))
}

/// The process of a server of this machine, if it runs.
fn daemon(cluster: &ClusterFile, member: &MemberEntry) -> Option<Daemon> {
    (member.host == host_name()).then(|| Daemon::find(member.pid, &["server", &cluster.job])).flatten()
}

/// Removes what is left of the cluster here; answers a remark on what is left elsewhere.
fn remove(cluster: &ClusterFile, spec: Option<&LaunchSpec>, path: &Path) -> Result<String> {
    let mut elsewhere = Vec::new();
    for member in &cluster.members {
        if member.host != host_name() {
            elsewhere.push(member.host.clone());
            continue;
        }
        // Its process may hang or have died: then it could not do this itself.
        if let Some(daemon) = daemon(cluster, member) {
            daemon.end();
        }
        member.stores.iter().try_for_each(|store| place::remove_tree(store))?;
    }
    place::remove_tree(&place::local_dir(&cluster.job))?;
    if let Some(spec) = spec {
        place::remove_tree(&spec.rendezvous)?;
    }
    place::remove_file(&path.with_extension("lock"))?;
    place::remove_file(path)?;
    elsewhere.dedup();
    if elsewhere.is_empty() {
        return Ok(String::new());
    }
    let dir: PathBuf = place::local_dir(&cluster.job);
    tracing::debug!(?elsewhere, dir = %dir.display(), "servers removed their own stores");
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_net::Secret;

    fn cluster(tier: Option<&str>) -> ClusterFile {
        ClusterFile {
            name: "t".into(),
            job: "j".into(),
            secret: Secret::from_raw([1; 32]),
            epoch: 1,
            tier: tier.map(PathBuf::from),
            members: Vec::new(),
            events: Vec::new(),
        }
    }

    fn args(drain: bool, discard: bool, keep: bool) -> DownArgs {
        DownArgs { drain, discard, keep, stall: 1, report: None }
    }

    #[test]
    fn default_never_loses_data() {
        assert_eq!(fate(&args(false, false, false), &cluster(Some("/t"))).unwrap(), Fate::Drain);
        assert_eq!(fate(&args(false, false, false), &cluster(None)).unwrap(), Fate::Keep);
        assert_eq!(fate(&args(false, true, false), &cluster(Some("/t"))).unwrap(), Fate::Discard);
        assert_eq!(fate(&args(false, false, true), &cluster(Some("/t"))).unwrap(), Fate::Keep);
    }

    #[test]
    fn drain_without_a_tier_is_an_error() {
        let message = fate(&args(true, false, false), &cluster(None)).unwrap_err().to_string();
        assert!(message.contains("no shared tier"), "{message}");
    }
}
