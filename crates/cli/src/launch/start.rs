//! Bringing all servers of a launch up, or those of a cluster that do not run up again.

use super::spec::LaunchSpec;
use super::started::Started;
use super::{CommandLine, Launcher, Work, local, rendezvous};
use crate::error::{CliError, Result, cannot, failed};
use crate::{interrupt, place, probe};
use fs_net::{ClusterFile, MemberEntry};
use fs_proto::ServerId;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a sign of life of one server may take.
const PING_LIMIT: Duration = Duration::from_secs(5);

/// Epoch of a new cluster's map.
const FIRST_EPOCH: u64 = 1;

/// Starts all servers of `spec` and waits until they answer; then `cluster_path` names the cluster.
pub fn start(spec: &LaunchSpec, cluster_path: &Path, limit: Duration) -> Result<(ClusterFile, Started)> {
    let mut started = Started::default();
    prepare(spec, &mut started)?;
    spawn_servers(spec, &mut started)?;
    let members = collect(spec, &mut started, limit)?;
    let cluster = ClusterFile {
        name: spec.name.clone(),
        job: spec.job.clone(),
        secret: spec.secret.clone(),
        epoch: FIRST_EPOCH,
        tier: spec.tier.clone(),
        members,
        events: Vec::new(),
    };
    cluster.map().map_err(failed)?;
    if spec.launcher.is_some() {
        started.remote = Some(cluster.clone());
    }
    cluster.store(&spec.rendezvous.join(rendezvous::CLUSTER)).map_err(failed)?;
    wait_until_serving(&cluster, &mut started, &spec.rendezvous, limit)?;
    publish(&cluster, cluster_path)?;
    started.files.push(cluster_path.to_path_buf());
    Ok((cluster, started))
}

/// Makes the directories and tells servers what to be.
fn prepare(spec: &LaunchSpec, started: &mut Started) -> Result<()> {
    let own = place::make_local_dir(&spec.job)?;
    started.directories.push(own.clone());
    if spec.rendezvous != own {
        place::private_dir(&spec.rendezvous)?;
        started.directories.push(spec.rendezvous.clone());
        spec.store(&own)?;
    }
    started.rendezvous = Some(spec.rendezvous.clone());
    spec.store(&spec.rendezvous)?;
    if spec.launcher.is_none() {
        // A store that is there already is not ours to remove when this launch fails.
        let stores = (0..spec.servers).flat_map(|id| spec.stores_of(id));
        started.directories.extend(stores.filter(|store| !store.exists()));
    }
    Ok(())
}

fn spawn_servers(spec: &LaunchSpec, started: &mut Started) -> Result<()> {
    let dir = spec.rendezvous.clone();
    let args = |id: Option<usize>| server_args(spec, id);
    let Some(launcher) = spec.launcher else {
        for id in 0..spec.servers {
            let child = local::spawn_daemon(&args(Some(usize::from(id))), &rendezvous::log_path(&dir, id))?;
            started.children.push((Some(id), child));
        }
        return Ok(());
    };
    let log = |index: usize| rendezvous::log_path(&dir, index as u16).display().to_string();
    let work = Work { exe: &spec.exe, hosts: &spec.hosts, args: &args, log: Some(&log) };
    spawn_lines(launcher, &launcher.command_lines(&work)?, &dir, started)
}

fn spawn_lines(launcher: Launcher, lines: &[CommandLine], dir: &Path, started: &mut Started) -> Result<()> {
    for line in lines {
        tracing::debug!(launcher = launcher.word(), %line, "starting");
        started.children.push((None, local::spawn_launcher(line, &rendezvous::launcher_log(dir))?));
    }
    Ok(())
}

fn server_args(spec: &LaunchSpec, id: Option<usize>) -> Vec<String> {
    let dir = spec.rendezvous.display().to_string();
    let id = id.map_or_else(|| "auto".to_owned(), |id| id.to_string());
    let log = [&spec.options.log, &spec.options.log_format];
    let words = [
        "--log",
        log[0],
        "--log-format",
        log[1],
        "server",
        "--launch",
        &dir,
        "--id",
        &id,
        "--job",
        &spec.job,
        "--detach",
    ];
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Waits for the entries of all servers.
fn collect(spec: &LaunchSpec, started: &mut Started, limit: Duration) -> Result<Vec<MemberEntry>> {
    let dir = &spec.rendezvous;
    let mut members: Vec<Option<MemberEntry>> = vec![None; usize::from(spec.servers)];
    let all = interrupt::wait_for(limit, || {
        for (id, member) in members.iter_mut().enumerate() {
            if member.is_none() {
                *member = rendezvous::look(dir, id as u16)?;
            }
        }
        if members.iter().all(Option::is_some) {
            return Ok(Some(()));
        }
        check_children(started, dir)?;
        Ok(None)
    })?;
    if all.is_some() {
        return Ok(members.into_iter().flatten().collect());
    }
    let missing: Vec<String> =
        members.iter().enumerate().filter(|(_, m)| m.is_none()).map(|(id, _)| describe(spec, id)).collect();
    let logs = rendezvous::tail(&rendezvous::launcher_log(dir));
    Err(CliError::Failed(format!(
        "no word from {} within {} s; the rendezvous directory {} must be on storage that all hosts see{logs}",
        missing.join(", "),
        limit.as_secs(),
        dir.display()
    )))
}

fn describe(spec: &LaunchSpec, id: usize) -> String {
    spec.hosts.get(id).map_or_else(|| format!("server {id}"), |host| format!("server {id} on {host}"))
}

/// Fails if a child has ended that should live, with the reason it left behind.
fn check_children(started: &mut Started, dir: &Path) -> Result<()> {
    for (id, child) in &mut started.children {
        let Ok(Some(status)) = child.try_wait() else { continue };
        match id {
            Some(id) => {
                // Its last words may have come between the look for them and its end.
                rendezvous::look(dir, *id)?;
                let log = rendezvous::tail(&rendezvous::log_path(dir, *id));
                return Err(CliError::Failed(format!("server {id} ended at its start ({status}){log}")));
            }
            // ssh ends well once the server is in the background.
            None if status.success() => {}
            None => {
                let log = rendezvous::tail(&rendezvous::launcher_log(dir));
                return Err(CliError::Failed(format!("the launcher failed ({status}){log}")));
            }
        }
    }
    Ok(())
}

fn wait_until_serving(
    cluster: &ClusterFile,
    started: &mut Started,
    dir: &Path,
    limit: Duration,
) -> Result<()> {
    for member in &cluster.members {
        let mut last = String::new();
        let answer = interrupt::wait_for(limit, || {
            check_children(started, dir)?;
            rendezvous::look(dir, member.id.0)?;
            answers(cluster, member, &mut last)
        })?;
        if answer.is_none() {
            let log = rendezvous::tail(&rendezvous::log_path(dir, member.id.0));
            return Err(CliError::Failed(format!(
                "server {} on {} does not answer at {}: {last}{log}",
                member.id, member.host, member.tcp
            )));
        }
    }
    Ok(())
}

fn answers(cluster: &ClusterFile, member: &MemberEntry, last: &mut String) -> Result<Option<()>> {
    match probe::ping(cluster, member, PING_LIMIT) {
        Ok(()) => Ok(Some(())),
        Err(error) if probe::is_refusal(&error) => Err(failed(error)),
        Err(error) => {
            *last = error.to_string();
            Ok(None)
        }
    }
}

/// Gives the cluster its file, unless another one took the name meanwhile.
fn publish(cluster: &ClusterFile, path: &Path) -> Result<()> {
    let temporary = place::beside(path);
    cluster.store(&temporary).map_err(failed)?;
    let linked = std::fs::hard_link(&temporary, path);
    place::remove_file(&temporary)?;
    linked.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                "; another `hayate up` was faster: use another --cluster FILE"
            }
            _ => "",
        };
        cannot("write", path)(error).with(hint)
    })
}

/// A server that does not answer.
pub struct Silent {
    /// Which.
    pub id: ServerId,
    /// What came of asking it.
    pub why: String,
}

/// Which servers of `cluster` do not answer.
pub fn silent(cluster: &ClusterFile) -> Result<Vec<Silent>> {
    let mut silent = Vec::new();
    for member in &cluster.members {
        match probe::ping(cluster, member, PING_LIMIT) {
            Ok(()) => {}
            Err(error) if probe::is_refusal(&error) => return Err(failed(error)),
            Err(error) => {
                tracing::debug!(server = member.id.0, %error, "no answer");
                silent.push(Silent { id: member.id, why: error.to_string() });
            }
        }
    }
    Ok(silent)
}

/// Starts the servers `ids` of `cluster` again, on their stores and at their addresses, and waits until they answer.
pub fn restart(
    cluster_path: &Path,
    cluster: &ClusterFile,
    ids: &[ServerId],
    limit: Duration,
) -> Result<Started> {
    let spec = LaunchSpec::load(&place::local_dir(&cluster.job)).map_err(|error| {
        error.with("; restart on the host where `hayate up` ran, or start `hayate server --cluster FILE --id N` on each")
    })?;
    let dir = log_dir(&spec);
    for id in ids {
        place::remove_file(&rendezvous::error_path(&dir, id.0))?;
    }
    let mut started = Started::default();
    match spec.launcher {
        None => {
            for id in ids {
                let args = restart_args(&spec, cluster_path, id.0);
                let child = local::spawn_daemon(&args, &rendezvous::log_path(&dir, id.0))?;
                started.children.push((Some(id.0), child));
            }
        }
        Some(launcher) => restart_remote(&spec, launcher, cluster_path, ids, &mut started)?,
    }
    let subset = ClusterFile {
        members: cluster.members.iter().filter(|member| ids.contains(&member.id)).cloned().collect(),
        ..cluster.clone()
    };
    wait_until_serving(&subset, &mut started, &dir, limit)?;
    Ok(started)
}

/// Each is started by a command of its own: any subset may be missing.
fn restart_remote(
    spec: &LaunchSpec,
    launcher: Launcher,
    cluster_path: &Path,
    ids: &[ServerId],
    started: &mut Started,
) -> Result<()> {
    for id in ids {
        let host = spec.hosts.get(usize::from(id.0)).cloned().ok_or_else(|| {
            CliError::Failed(format!(
                "server {id} is not of this launch: start it with `hayate server` on its host"
            ))
        })?;
        let log = |_| rendezvous::log_path(&spec.rendezvous, id.0).display().to_string();
        let args = |_| restart_args(spec, cluster_path, id.0);
        let work = Work { exe: &spec.exe, hosts: &[host], args: &args, log: Some(&log) };
        spawn_lines(launcher, &launcher.command_lines(&work)?, &spec.rendezvous, started)?;
    }
    Ok(())
}

fn restart_args(spec: &LaunchSpec, cluster_path: &Path, id: u16) -> Vec<String> {
    let (path, id) = (cluster_path.display().to_string(), id.to_string());
    let log = [&spec.options.log, &spec.options.log_format];
    let words = [
        "--log",
        log[0],
        "--log-format",
        log[1],
        "--cluster",
        &path,
        "server",
        "--id",
        &id,
        "--job",
        &spec.job,
        "--detach",
    ];
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Where logs and errors go: the rendezvous directory.
fn log_dir(spec: &LaunchSpec) -> PathBuf {
    if spec.rendezvous.is_dir() { spec.rendezvous.clone() } else { place::local_dir(&spec.job) }
}
