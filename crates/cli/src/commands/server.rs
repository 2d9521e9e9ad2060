//! `hayate server`: one server in the foreground, as part of a launch, or again after it ended.

use crate::args::Global;
use crate::error::{CliError, Result, cannot, failed};
use crate::launch::spec::LaunchSpec;
use crate::launch::{self, Launcher, local, rendezvous};
use crate::sidecar::{Plan, Sidecar};
use crate::{allocator, descriptors, interrupt, mounts, place};
use clap::Args;
use fs_net::{ClusterFile, MemberEntry, host_name};
use fs_proto::ServerId;
use fs_server::{BoundServer, ServerConfig};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a server that has announced itself waits for the others.
const CLUSTER_LIMIT: Duration = Duration::from_secs(60);

/// Arguments of `hayate server`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --launch it starts one member of the cluster of the cluster file again, on its store and at \
    its old addresses; `hayate up --restart` does that for all that do not run."
)]
pub struct ServerArgs {
    /// Join the launch in this directory
    #[arg(long, value_name = "DIR")]
    launch: Option<PathBuf>,
    /// Number of the server; `auto` takes the launcher's rank
    #[arg(long, value_name = "N|auto")]
    id: String,
    /// Mount the file system here as a part of this process: fewer steps for what the server can answer itself, but the mount ends with it
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// Let the kernel read files that many nodes read from a copy on this node, by itself, as `hayate mount --passthrough` does
    #[arg(long, requires = "mount")]
    passthrough: bool,
    /// Leave the terminal's session
    #[arg(long, hide = true)]
    detach: bool,
    /// Job id, so that the process is recognised
    #[arg(long, hide = true)]
    job: Option<String>,
}

/// The mount of this host: asked for by this command itself, or else by the launch.
struct HostMount {
    dir: PathBuf,
    passthrough: bool,
}

/// Runs the server until it is told to end.
pub fn run(global: &Global, args: &ServerArgs) -> Result<()> {
    allocator::use_one_arena();
    descriptors::raise_limit();
    if args.detach {
        local::detach()?;
    }
    let id = number(&args.id)?;
    // Told to end while it waits for others, it removes what it has made. Later the server itself listens to signals.
    interrupt::watch()?;
    let dir = args.mount.as_deref().map(mounts::canonical).transpose()?;
    let mount = dir.map(|dir| HostMount { dir, passthrough: args.passthrough });
    match &args.launch {
        Some(dir) => join(dir, id, mount),
        None => restart(global, id, mount),
    }
}

fn number(word: &str) -> Result<u16> {
    if word == "auto" {
        return launch::rank(|name| std::env::var(name).ok()).ok_or_else(|| {
            CliError::Usage("--id auto: no launcher has set a rank (SLURM_PROCID, PMI_RANK, ...)".into())
        });
    }
    word.parse()
        .map_err(|_| CliError::Usage(format!("--id '{word}' is not a server number (0 to 65535) or auto")))
}

/// First start: bind, announce, wait for the others, serve. An error is left for `up` to show.
fn join(dir: &Path, id: u16, mount: Option<HostMount>) -> Result<()> {
    let outcome = join_and_serve(dir, id, mount);
    if let Err(error) = &outcome {
        leave_word(dir, id, error);
    }
    outcome
}

/// Tells `up` why. It may have given up and removed the directory: then nobody waits for the word.
fn leave_word(dir: &Path, id: u16, error: &CliError) {
    if dir.is_dir()
        && let Err(unsaid) =
            place::write_private(&rendezvous::error_path(dir, id), error.to_string().as_bytes())
    {
        tracing::warn!("{unsaid}");
    }
}

fn join_and_serve(dir: &Path, id: u16, mount: Option<HostMount>) -> Result<()> {
    let spec = LaunchSpec::load(dir)?;
    if id >= spec.servers {
        return Err(CliError::Usage(format!("--id {id}: this launch has {} servers", spec.servers)));
    }
    let own = place::make_local_dir(&spec.job)?;
    if own != spec.rendezvous {
        spec.store(&own)?;
    }
    let listen = listen_address(&spec, id)?;
    let config = config(&spec, id, spec.stores_of(id), listen)?;
    let fresh: Vec<PathBuf> = config.stores.iter().filter(|store| !store.exists()).cloned().collect();
    let waited = fs_server::bind(config).map_err(failed).and_then(|bound| {
        rendezvous::announce(dir, &entry(&spec, id, &bound)?)?;
        Ok((bound, wait_for_cluster(dir)?))
    });
    let (bound, cluster) = waited.inspect_err(|_| {
        remove_trees(&fresh);
        clear_host(&spec);
    })?;
    let served = serve(bound, &spec, cluster, (&dir.join(rendezvous::CLUSTER), false), id, mount);
    if !spec.stores_of(id).iter().any(|store| store.exists()) {
        // Told to discard the data: the cluster is at its end.
        clear_host(&spec);
    }
    served
}

/// Serves, with the mount of this host if the server makes it. With the cluster's file it is told whether the server
/// was started before.
fn serve(
    bound: BoundServer,
    spec: &LaunchSpec,
    cluster: ClusterFile,
    (cluster_path, again): (&Path, bool),
    id: u16,
    own: Option<HostMount>,
) -> Result<()> {
    let inside = spec.mount_inside || own.is_some();
    let by_server = spec.launcher.is_some() || (inside && id == 0);
    let of_launch = || {
        let dir = spec.mount.clone().filter(|_| by_server)?;
        Some(HostMount { dir, passthrough: spec.passthrough })
    };
    let Some(mount) = own.or_else(of_launch) else {
        return bound.serve(cluster).map_err(failed);
    };
    let sidecar = Sidecar::start(Plan {
        launch: spec.rendezvous.clone(),
        mount: mount.dir,
        passthrough: mount.passthrough,
        cluster: cluster.clone(),
        cluster_path: cluster_path.to_owned(),
        id: ServerId(id),
        memory_bytes: spec.client_memory_bytes,
        again,
        inside: inside.then(|| bound.inside()),
    })?;
    bound.serve_with(cluster, || sidecar.end()).map_err(failed)
}

/// A launch that failed leaves nothing behind that would belong to no cluster.
fn remove_trees(trees: &[PathBuf]) {
    for error in trees.iter().filter_map(|tree| place::remove_tree(tree).err()) {
        tracing::warn!("{error}");
    }
}

/// Removes what the cluster keeps on this host. On the host of `up`, that or `down` does it.
fn clear_host(spec: &LaunchSpec) {
    if spec.launcher.is_some() {
        remove_trees(&[place::local_dir(&spec.job)]);
    }
}

fn wait_for_cluster(dir: &Path) -> Result<ClusterFile> {
    let path = dir.join(rendezvous::CLUSTER);
    let found = interrupt::wait_for(CLUSTER_LIMIT, || {
        if dir.join(rendezvous::ABORT).exists() || !dir.exists() {
            return Err(CliError::Failed("the launch was given up".into()));
        }
        if path.exists() { ClusterFile::load(&path).map(Some).map_err(failed) } else { Ok(None) }
    })?;
    found.ok_or_else(|| {
        CliError::Failed(format!("the other servers did not appear in {} within 60 s", dir.display()))
    })
}

/// Later start: the same store, the same addresses.
fn restart(global: &Global, id: u16, mount: Option<HostMount>) -> Result<()> {
    let path = global.cluster_path()?;
    let cluster = global.load_cluster()?;
    let member = cluster
        .member(ServerId(id))
        .cloned()
        .ok_or_else(|| CliError::Usage(format!("{} has no server {id}", path.display())))?;
    if member.host != host_name() {
        return Err(CliError::Usage(format!(
            "server {id} belongs on host {}, this is {}: start it there",
            member.host,
            host_name()
        )));
    }
    let spec = LaunchSpec::load(&place::local_dir(&cluster.job))?;
    let outcome = serve_again(&spec, &path, cluster, &member, mount);
    if let Err(error) = &outcome {
        leave_word(&spec.rendezvous, id, error);
    }
    outcome
}

fn serve_again(
    spec: &LaunchSpec,
    path: &Path,
    cluster: ClusterFile,
    member: &MemberEntry,
    mount: Option<HostMount>,
) -> Result<()> {
    if let Some(missing) = member.stores.iter().find(|store| !store.is_dir()) {
        return Err(CliError::Failed(format!(
            "store {} of server {} is gone: its data is lost; `hayate down --discard` ends this cluster",
            missing.display(),
            member.id
        )));
    }
    let mut config = config(spec, member.id.0, member.stores.clone(), wildcard_if_other(member))?;
    config.listen_unix.clone_from(&member.unix);
    config.listen_metrics.clone_from(&member.metrics);
    config.rejoins = member.weight > 0;
    let bound = fs_server::bind(config).map_err(failed)?;
    set_pid(path, member.id)?;
    serve(bound, spec, cluster, (path, true), member.id.0, mount)?;
    if !member.stores.iter().any(|store| store.exists()) {
        clear_host(spec);
    }
    Ok(())
}

/// The address to listen on again. A name that was announced for a wildcard address may not be one to bind to.
fn wildcard_if_other(member: &MemberEntry) -> String {
    // An address in numbers is the one that was bound, on a loopback interface too.
    if member.tcp.parse::<std::net::SocketAddr>().is_ok() {
        return member.tcp.clone();
    }
    let bindable = member.tcp.to_socket_addrs().ok().and_then(|addresses| usable(addresses.collect()));
    match (bindable, member.tcp.rsplit_once(':')) {
        (None, Some((_, port))) => format!("0.0.0.0:{port}"),
        _ => member.tcp.clone(),
    }
}

/// Notes this process as server `id`. Servers start again together, so the file is locked meanwhile.
fn set_pid(path: &Path, id: ServerId) -> Result<()> {
    let lock_path = path.with_extension("lock");
    let lock = std::fs::OpenOptions::new().create(true).append(true).open(&lock_path);
    let lock = lock.map_err(cannot("open", &lock_path))?;
    lock.lock().map_err(cannot("lock", &lock_path))?;
    let mut cluster = ClusterFile::load(path).map_err(failed)?;
    for member in cluster.members.iter_mut().filter(|member| member.id == id) {
        member.pid = std::process::id();
    }
    cluster.store(path).map_err(failed)
}

fn config(spec: &LaunchSpec, id: u16, stores: Vec<PathBuf>, listen: String) -> Result<ServerConfig> {
    let first =
        stores.first().cloned().ok_or_else(|| CliError::Failed(format!("server {id} has no store")))?;
    let metrics_host = listen.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host).to_owned();
    let mut config = ServerConfig::new(ServerId(id), spec.job.clone(), spec.secret.clone(), first);
    config.stores = stores;
    config.listen_tcp = listen;
    config.listen_unix = place::local_dir(&spec.job).join(format!("{id}.sock"));
    config.listen_metrics = spec.options.metrics.then(|| format!("{metrics_host}:0"));
    config.memory_bytes = spec.options.memory_bytes;
    config.kv = spec.options.kv.parse().map_err(CliError::Usage)?;
    config.io = spec.options.io.parse().map_err(CliError::Usage)?;
    config.durability = spec.options.durability.parse().map_err(CliError::Usage)?;
    config.workers = spec.options.workers;
    config.tier.clone_from(&spec.tier);
    config.flush_delay_ms = spec.options.flush_delay_ms;
    config.flush_bandwidth = spec.options.flush_bandwidth;
    config.dirty_max = spec.options.dirty_max;
    config.capacity = spec.options.capacity;
    config.tier_check_ms = spec.options.tier_check_ms;
    config.deadline_unix_s = spec.options.deadline_unix_s;
    config.wide_threshold = spec.options.wide_threshold;
    config.inline_bytes = spec.options.inline_bytes;
    config.hot_files = spec.options.hot_files;
    config.rdma = spec.options.rdma.parse().map_err(CliError::Usage)?;
    config.commit = bench::machine::COMMIT;
    Ok(config)
}

/// `host:port` to listen on.
fn listen_address(spec: &LaunchSpec, id: u16) -> Result<String> {
    let port = spec.port_of(id);
    if let Some(listen) = &spec.listen {
        return Ok(format!("{}:{port}", bracketed(listen)));
    }
    if spec.launcher.is_none() {
        return Ok(format!("127.0.0.1:{port}"));
    }
    let host = own_name(spec, id);
    let addresses = (host.as_str(), port).to_socket_addrs().map_err(|error| {
        CliError::Failed(format!("this host's name {host} has no address ({error}): give --listen ADDRESS"))
    })?;
    // Many systems give their own name a loopback address, which no other host can reach.
    Ok(usable(addresses.collect()).map_or_else(|| format!("0.0.0.0:{port}"), |address| address.to_string()))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

fn usable(addresses: Vec<SocketAddr>) -> Option<SocketAddr> {
    addresses.into_iter().find(|address| !address.ip().is_loopback())
}

/// The name of this host as the hostfile has it, else as the host says.
fn own_name(spec: &LaunchSpec, id: u16) -> String {
    let own = host_name();
    // These start server N on line N, so that the name may be one of a faster network.
    if let (Some(Launcher::Ssh | Launcher::Pbsdsh), Some(host)) =
        (spec.launcher, spec.hosts.get(usize::from(id)))
    {
        return host.clone();
    }
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    spec.hosts.iter().find(|host| **host == own || short(host) == short(&own)).cloned().unwrap_or(own)
}

fn entry(spec: &LaunchSpec, id: u16, bound: &BoundServer) -> Result<MemberEntry> {
    let addresses = bound.addresses();
    let name = own_name(spec, id);
    Ok(MemberEntry {
        id: ServerId(id),
        host: host_name(),
        tcp: advertised(&addresses.tcp, &name),
        unix: addresses.unix,
        stores: spec.stores_of(id).iter().map(|store| place::absolute(store)).collect::<Result<_>>()?,
        weight: spec.weight_of(id),
        metrics: addresses.metrics.map(|metrics| advertised(&metrics, &name)),
        pid: std::process::id(),
    })
}

/// What others reach a bound address by: the address itself, or the host's name if it stands for all addresses.
fn advertised(bound: &str, host: &str) -> String {
    match bound.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => format!("{}:{}", bracketed(host), address.port()),
        _ => bound.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_addresses_are_announced_by_name() {
        assert_eq!(advertised("0.0.0.0:70", "n1"), "n1:70");
        assert_eq!(advertised("[::]:70", "fe80::1"), "[fe80::1]:70");
        assert_eq!(advertised("10.0.0.1:70", "n1"), "10.0.0.1:70");
        assert_eq!(advertised("n1:70", "n1"), "n1:70");
    }

    #[test]
    fn numbers_are_checked() {
        assert_eq!(number("12").unwrap(), 12);
        assert!(number("-1").is_err() && number("70000").is_err() && number("x").is_err());
    }

    #[test]
    fn loopback_is_of_no_use_to_others() {
        let [loopback, other]: [SocketAddr; 2] =
            ["127.0.1.1:1".parse().unwrap(), "10.0.0.1:1".parse().unwrap()];
        assert_eq!(usable(vec![loopback, other]), Some(other));
        assert_eq!(usable(vec![loopback]), None);
    }
}
