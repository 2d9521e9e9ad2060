//! `hayate up`: starts a cluster, on this machine or on many hosts, or what died of one.

use crate::args::Global;
use crate::error::{CliError, Result, failed};
use crate::launch::spec::{LaunchSpec, ServerOptions};
use crate::launch::{Launcher, hostfile, local, start};
use crate::{interrupt, mounts, out, place, size};
use clap::{Args, FromArgMatches};
use fs_net::{ClusterFile, RdmaChoice, Secret};
use fs_server::config::{Durability, IoMode, KvKind};
use fs_server::tier::s3::target::{self, Target};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `hayate up`.
#[allow(clippy::struct_excessive_bools)] // Independent switches of a command line.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Without --hostfile all servers run on this machine. With it, one runs on every host, and this program, \
    the rendezvous directory and the tier must be seen by all of them."
)]
pub struct UpArgs {
    /// Servers on this machine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096), conflicts_with = "hostfile")]
    pub nodes: u16,
    /// Hosts, one a line; one server each
    #[arg(long, value_name = "FILE")]
    pub hostfile: Option<PathBuf>,
    /// What starts the servers on the hosts
    #[arg(long, value_enum, default_value = "ssh", requires = "hostfile")]
    pub launcher: Launcher,
    /// Directory for the launch on storage that all hosts see [default: ~/.hayate-JOB]
    #[arg(long, value_name = "DIR", requires = "hostfile")]
    pub rendezvous: Option<PathBuf>,
    /// Directory on a node's own fast storage; give one per device [default: /tmp/hayate-UID/JOB/store]
    #[arg(long = "store", value_name = "DIR")]
    pub stores: Vec<PathBuf>,
    /// Where files are copied to: a directory of the shared file system, or s3://BUCKET/PREFIX (server and keys from the environment:
    /// AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN)
    #[arg(long, visible_alias = "tier2", value_name = "DIR|S3")]
    pub tier: Option<PathBuf>,
    /// Mount the file system here, on every host
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// Let the server of each host be its mount, too: faster, but the mount dies with the server and its memory is beside the server's
    #[arg(long, requires = "mount")]
    pub mount_inside: bool,
    /// Let the kernel read files that many nodes read from a copy on their node, by itself: `hayate mount --passthrough`, on every host
    #[arg(long, requires = "mount")]
    pub passthrough: bool,
    /// Memory budget of each server
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = size::parse)]
    pub memory: u64,
    /// Memory budget of each mount
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size::parse)]
    pub client_memory: u64,
    /// The last N servers keep no data: gateways for the clients of their hosts
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gateways: u16,
    /// Name of the cluster, for people
    #[arg(long, default_value = "hayate")]
    pub name: String,
    /// Store of the namespace: fjall or sled
    #[arg(long, value_name = "ENGINE", default_value = "fjall")]
    pub kv: String,
    /// How chunks are read and written: buffered (page cache) or direct (past it, by io_uring)
    #[arg(long, value_name = "MODE", default_value_t = IoMode::default())]
    pub io: IoMode,
    /// What fsync survives: process (kill -9) or device (power loss)
    #[arg(long, value_name = "LEVEL", default_value = "process")]
    pub durability: String,
    /// Address to listen on [default: 127.0.0.1, or each host's name]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// First port; 0 takes free ones
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Threads per server; 0 is one per CPU, at most 8
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub workers: usize,
    /// How long a closed file rests before it is copied to the tier, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 200)]
    pub flush_delay: u64,
    /// Most bytes a second that each server writes to the tier [default: as many as go]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub flush_bandwidth: Option<u64>,
    /// Bytes that may wait for the tier on each server before making and closing files waits [default: any number]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub dirty_max: Option<u64>,
    /// Most bytes of files' chunks on each store: files that are safe in the tier leave tier 1 when it fills [default: the file system's size]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub capacity: Option<u64>,
    /// How old the last look at a file in the tier may be, in milliseconds, when the file is opened: whether others changed it
    #[arg(long, value_name = "MS", default_value_t = 2_000)]
    pub tier_check: u64,
    /// When the job ends: files go to the tier with priority before. Seconds since 1970, or +SECONDS from now
    /// [default: SLURM_JOB_END_TIME, if set]
    #[arg(long, value_name = "TIME", value_parser = deadline)]
    pub deadline: Option<u64>,
    /// Entries above which a directory is spread over all servers
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub wide_threshold: u64,
    /// Largest file that lies with its inode, in bytes, at most 64 KiB; 0: none
    #[arg(long, value_name = "BYTES", default_value_t = fs_server::config::INLINE_DEFAULT, value_parser = clap::value_parser!(u32).range(..=i64::from(fs_proto::INLINE_MAX)))]
    pub inline: u32,
    /// Whether servers keep what many nodes read for their clients, and pass it on to each other
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = ["on", "off"])]
    pub hot_files: String,
    /// RDMA between nodes: `auto` (all devices, TCP where there are none), `off`, or the name of a device
    #[arg(long, value_name = "auto|off|DEVICE", default_value_t = RdmaChoice::Auto)]
    pub rdma: RdmaChoice,
    /// Serve no metrics pages
    #[arg(long)]
    pub no_metrics: bool,
    /// Start the servers of an existing cluster file that do not run
    #[arg(long, conflicts_with_all = ["hostfile", "nodes", "stores", "tier", "mount", "passthrough"])]
    pub restart: bool,
    /// Seconds until servers must have started
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
}

impl UpArgs {
    /// As if `words` had been written after `hayate up`.
    pub fn from_words(words: impl IntoIterator<Item = OsString>) -> Result<UpArgs> {
        let command = UpArgs::augment_args(clap::Command::new("up").no_binary_name(true));
        let matches = command.try_get_matches_from(words).map_err(failed)?;
        UpArgs::from_arg_matches(&matches).map_err(failed)
    }
}

/// Starts it, and says where it is.
pub fn run(global: &Global, args: &UpArgs) -> Result<()> {
    interrupt::watch()?;
    let path = global.cluster_path()?;
    if args.restart {
        return restart(&path, args);
    }
    check_free(&path)?;
    let spec = spec(global, args)?;
    let cluster = bring_up(&spec, &path, args)?;
    if spec.tier.is_some() {
        show_tier(global)?;
    }
    report(&cluster, &path, &spec)
}

/// The names in the tier's directory are there from the first moment: the first look at them takes them over.
fn show_tier(global: &Global) -> Result<()> {
    let entries = global.connect()?.read_dir("/").map_err(failed)?;
    entries.take(1).try_for_each(|entry| entry.map(drop)).map_err(failed)
}

fn bring_up(spec: &LaunchSpec, path: &Path, args: &UpArgs) -> Result<ClusterFile> {
    if let Some(mount) = &spec.mount {
        mounts::check(mount)?;
    }
    let limit = Duration::from_secs(args.timeout);
    let (cluster, started) = start::start(spec, path, limit)?;
    if let Some(mount) = &spec.mount {
        match spec.launcher {
            None if spec.mount_inside => wait_for_mounts(spec, 1, limit)?,
            None => {
                let words = mounts::words(spec.client_memory_bytes, spec.passthrough);
                mounts::mount_in_background(path, &cluster.job, mount, &words)?;
            }
            Some(_) => wait_for_mounts(spec, spec.servers, limit)?,
        }
    }
    started.keep();
    Ok(cluster)
}

/// The first servers, or those on other hosts, mount there themselves and report.
fn wait_for_mounts(spec: &LaunchSpec, servers: u16, limit: Duration) -> Result<()> {
    for id in 0..servers {
        let report = mounts::report_path(&spec.rendezvous, id);
        let said = interrupt::wait_for(limit, || Ok(std::fs::read_to_string(&report).ok()))?;
        match said.as_deref() {
            Some("") => {}
            Some(reason) => return Err(CliError::Failed(format!("host of server {id}: {reason}"))),
            None => {
                return Err(CliError::Failed(format!(
                    "the host of server {id} did not mount within the time limit"
                )));
            }
        }
    }
    Ok(())
}

/// A cluster file that is there belongs to somebody.
fn check_free(path: &Path) -> Result<()> {
    if std::fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let cluster = ClusterFile::load(path).map_err(failed)?;
    let silent = start::silent(&cluster)?.len();
    let (name, total, shown) = (&cluster.name, cluster.members.len(), path.display());
    Err(CliError::Failed(if silent < total {
        format!(
            "cluster '{name}' of {shown} is up ({} of {total} servers answer): use it, end it with `hayate down`, or give \
             another --cluster FILE",
            total - silent
        )
    } else {
        format!(
            "{shown} names cluster '{name}', whose {total} servers do not answer: `hayate up --restart` starts them on their \
             stores, `hayate down --discard` removes them, and --cluster FILE names another one"
        )
    }))
}

/// What to launch. Everything that can be wrong with it is found before anything starts.
pub fn spec(global: &Global, args: &UpArgs) -> Result<LaunchSpec> {
    args.kv.parse::<KvKind>().map_err(|error| CliError::Usage(format!("--kv: {error}")))?;
    args.durability
        .parse::<Durability>()
        .map_err(|error| CliError::Usage(format!("--durability: {error}")))?;
    let tier = args.tier.as_deref().map(checked_tier).transpose()?;
    let hosts = args.hostfile.as_deref().map(hostfile::load).transpose()?.unwrap_or_default();
    let servers = if hosts.is_empty() { args.nodes } else { count(&hosts)? };
    if args.gateways >= servers {
        return Err(CliError::Usage(format!(
            "--gateways {}: of {servers} servers at least one must keep the data",
            args.gateways
        )));
    }
    let job = place::random_job()?;
    let exe = local::own_exe()?;
    let log = if global.log == "warn" { "info".to_owned() } else { global.log.clone() };
    Ok(LaunchSpec {
        name: args.name.clone(),
        secret: Secret::random(),
        rendezvous: rendezvous(args, &job)?,
        exe: exe.to_str().map(str::to_owned).ok_or_else(|| {
            CliError::Failed(format!("the path of this program, {}, is not UTF-8", exe.display()))
        })?,
        servers,
        launcher: args.hostfile.is_some().then_some(args.launcher),
        hosts,
        job,
        listen: args.listen.clone(),
        port: args.port,
        stores: args.stores.iter().map(|store| place::absolute(store)).collect::<Result<_>>()?,
        tier,
        gateways: args.gateways,
        client_memory_bytes: args.client_memory,
        mount_inside: args.mount_inside,
        passthrough: args.passthrough,
        mount: args.mount.as_deref().map(mounts::canonical).transpose()?,
        options: ServerOptions {
            memory_bytes: args.memory,
            kv: args.kv.clone(),
            io: args.io.to_string(),
            durability: args.durability.clone(),
            workers: args.workers,
            flush_delay_ms: args.flush_delay,
            flush_bandwidth: args.flush_bandwidth,
            dirty_max: args.dirty_max,
            capacity: args.capacity,
            tier_check_ms: args.tier_check,
            deadline_unix_s: args.deadline.or_else(|| job_end(std::env::var("SLURM_JOB_END_TIME").ok())),
            wide_threshold: args.wide_threshold,
            inline_bytes: args.inline,
            hot_files: args.hot_files == "on",
            rdma: args.rdma.to_string(),
            metrics: !args.no_metrics,
            log,
            log_format: global.log_format.word().to_owned(),
        },
    })
}

fn count(hosts: &[String]) -> Result<u16> {
    u16::try_from(hosts.len())
        .map_err(|_| CliError::Usage(format!("{} hosts are more than a cluster can have", hosts.len())))
}

/// Seconds since 1970 of `TIME`, or of `+SECONDS` from now.
fn deadline(text: &str) -> std::result::Result<u64, String> {
    let number =
        |text: &str| text.parse::<u64>().map_err(|error| format!("{error}: seconds since 1970, or +SECONDS"));
    let Some(ahead) = text.strip_prefix('+') else { return number(text) };
    let now = std::time::UNIX_EPOCH.elapsed().map_err(|error| error.to_string())?;
    Ok(now.as_secs().saturating_add(number(ahead)?))
}

/// When the batch system ends the job, as its variable says; what is no number says nothing.
fn job_end(variable: Option<String>) -> Option<u64> {
    variable?.trim().parse().ok()
}

fn checked_tier(tier: &Path) -> Result<PathBuf> {
    let shown = tier.display();
    if let Some(text) = tier.to_str().filter(|text| target::is_s3(text)) {
        let parsed = Target::parse(text, |name| std::env::var(name).ok());
        return parsed
            .map(|_| tier.to_owned())
            .map_err(|error| CliError::Usage(format!("tier {shown}: {error}")));
    }
    match std::fs::metadata(tier) {
        Ok(meta) if meta.is_dir() => writable(tier).and_then(|()| place::absolute(tier)),
        Ok(_) => Err(CliError::Usage(format!("tier {shown} is not a directory"))),
        Err(error) => {
            Err(CliError::Usage(format!("tier directory {shown} cannot be used: {error}; make it first")))
        }
    }
}

/// A tier that this host may not write to is of no use; that is better found before anything starts.
fn writable(tier: &Path) -> Result<()> {
    let made = tempfile::Builder::new().prefix(".hayate-").tempfile_in(tier);
    let closed = made.and_then(tempfile::NamedTempFile::close);
    closed.map_err(|error| {
        CliError::Usage(format!(
            "tier directory {} cannot be written to: {error}; name one that you may write to",
            tier.display()
        ))
    })
}

fn rendezvous(args: &UpArgs, job: &str) -> Result<PathBuf> {
    if args.hostfile.is_none() {
        return Ok(place::local_dir(job));
    }
    match &args.rendezvous {
        Some(dir) => Ok(place::absolute(dir)?.join(format!("hayate-{job}"))),
        None => match std::env::var_os("HOME") {
            Some(home) => Ok(PathBuf::from(home).join(format!(".hayate-{job}"))),
            None => Err(CliError::Usage(
                "HOME is not set: give --rendezvous DIR on storage that all hosts see".into(),
            )),
        },
    }
}

fn restart(path: &Path, args: &UpArgs) -> Result<()> {
    let cluster = ClusterFile::load(path).map_err(failed)?;
    let silent = start::silent(&cluster)?;
    if silent.is_empty() {
        let (count, name) = (cluster.members.len(), &cluster.name);
        return out::line(format_args!("all {count} servers of cluster '{name}' answer; nothing to restart"));
    }
    let silent: Vec<_> = silent.iter().map(|silent| silent.id).collect();
    start::restart(path, &cluster, &silent, Duration::from_secs(args.timeout))?.keep();
    let ids: Vec<String> = silent.iter().map(ToString::to_string).collect();
    out::line(format_args!("cluster '{}': started server {} again", cluster.name, ids.join(", ")))
}

fn report(cluster: &ClusterFile, path: &Path, spec: &LaunchSpec) -> Result<()> {
    let count = cluster.members.len();
    let mut lines =
        vec![format!("cluster '{}' is up: {count} servers, cluster file {}", cluster.name, path.display())];
    lines.push(match &cluster.tier {
        Some(tier) => format!("files are copied to {}", tier.display()),
        None => "no shared tier: data stays in the stores".to_owned(),
    });
    lines.extend(spec.mount.as_ref().map(|mount| format!("mounted at {}", mount.display())));
    if *path != fs_net::default_cluster_path() {
        lines.push(format!("export HAYATE_CLUSTER={}", path.display()));
    }
    out::line(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_times_or_seconds_from_now() {
        let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        assert_eq!(deadline("1800000000"), Ok(1_800_000_000));
        let before = now();
        let ahead = deadline("+65").unwrap();
        assert!((before + 65..=now() + 65).contains(&ahead), "{ahead}");
        assert_eq!(deadline(&format!("+{}", u64::MAX)), Ok(u64::MAX));
        for wrong in ["", "+", "soon", "-5", "+-5", "01:00:00", "12.5"] {
            let message = deadline(wrong).unwrap_err();
            assert!(message.contains("seconds since 1970, or +SECONDS"), "{wrong:?}: {message}");
        }
    }

    #[test]
    fn the_end_of_a_job_is_taken_from_slurm_unless_somebody_says_otherwise() {
        assert_eq!(job_end(Some("1800000000\n".to_owned())), Some(1_800_000_000));
        assert_eq!(job_end(Some("UNLIMITED".to_owned())), None);
        assert_eq!(job_end(None), None);
        let words = |words: &[&str]| UpArgs::from_words(words.iter().map(OsString::from)).unwrap().deadline;
        assert_eq!((words(&["--deadline", "7"]), words(&[])), (Some(7), None));
        assert!(UpArgs::from_words(["--deadline", "soon"].map(OsString::from)).is_err());
    }

    #[test]
    fn tier_must_be_a_directory_that_exists() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(checked_tier(dir.path()).unwrap(), dir.path());
        assert_eq!(checked_tier("s3://bucket/run".as_ref()).unwrap(), Path::new("s3://bucket/run"));
        assert!(checked_tier("s3://".as_ref()).unwrap_err().to_string().contains("BUCKET"));
        let file = dir.path().join("f");
        std::fs::write(&file, "").unwrap();
        assert!(checked_tier(&file).unwrap_err().to_string().contains("not a directory"));
        assert!(checked_tier(&dir.path().join("none")).unwrap_err().to_string().contains("make it first"));
    }
}
