//! `hayate mount`: the file system as a directory.

use crate::args::Global;
use crate::error::{CliError, Result, failed};
use crate::launch::local;
use crate::{descriptors, mounts, out, size};
use clap::Args;
use fs_client::{Client, ClientConfig, Transport};
use fuse_mount::MountOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long programs that use the mount may take to finish after a signal has taken it away.
const GRACE: Duration = Duration::from_secs(5);

/// Arguments of `hayate mount`.
#[allow(clippy::struct_excessive_bools)] // Independent switches of a command line.
#[derive(Debug, Args)]
#[command(
    after_help = "It returns when the mount is live, and a process in the background serves it; `hayate umount DIR`, \
    `umount` and `fusermount3 -u` end it. A mount whose process died is cleared away by mounting again."
)]
pub struct MountArgs {
    /// An empty directory
    dir: PathBuf,
    /// Stay until unmounted; SIGTERM and Ctrl-C unmount
    #[arg(long)]
    foreground: bool,
    /// Say on standard output when the mount is live, and leave the session
    #[arg(long, hide = true)]
    report: bool,
    /// How long attributes are trusted, in milliseconds; 0 asks every time, and bypasses the page cache
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    attr_timeout: u64,
    /// How long names are trusted, in milliseconds; 0 asks every time
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    entry_timeout: u64,
    /// Operations under way at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Memory of the client
    #[arg(long, visible_alias = "client-memory", value_name = "SIZE", default_value = "256M", value_parser = size::parse)]
    memory: u64,
    /// How servers of this node are reached: shared memory if there is some else their socket (auto), shared memory or not at all (shm), their
    /// socket (unix), or as from another node (tcp)
    #[arg(long, value_name = "HOW", env = fs_client::TRANSPORT_VARIABLE, default_value = "auto")]
    transport: Transport,
    /// Let other users use it
    #[arg(long)]
    allow_other: bool,
    /// Refuse all changes
    #[arg(long)]
    read_only: bool,
    /// Bypass the page cache
    #[arg(long)]
    direct_io: bool,
    /// Let the kernel hold written data back until close or fsync; for files that no other node changes meanwhile
    #[arg(long, conflicts_with = "direct_io")]
    writeback: bool,
    /// Let the kernel read files that many nodes read from a copy on this node, by itself. What is opened so is the file as it was at the opening, whole: neither
    /// later writes nor locks show in it. Needs Linux 6.9 or later and root; has no effect otherwise
    #[arg(long, conflicts_with = "writeback")]
    passthrough: bool,
}

/// Mounts, in the background or until it is unmounted.
pub fn run(global: &Global, args: &MountArgs) -> Result<()> {
    if args.foreground {
        let outcome = serve(global, args);
        if let (Err(error), true) = (&outcome, args.report) {
            say(&error.to_string());
        }
        return outcome;
    }
    let cluster = global.load_cluster()?;
    let dir = mounts::canonical(&args.dir)?;
    mounts::check(&dir)?;
    mounts::mount_in_background(&global.cluster_path()?, &cluster.job, &dir, &args.words())?;
    out::line(format_args!("mounted at {}", dir.display()))
}

impl MountArgs {
    /// The options again as words, for the process in the background.
    fn words(&self) -> Vec<String> {
        let mut words = vec![
            format!("--attr-timeout={}", self.attr_timeout),
            format!("--entry-timeout={}", self.entry_timeout),
            format!("--threads={}", self.threads),
            format!("--memory={}", self.memory),
            format!("--transport={}", self.transport),
        ];
        let switches = [
            (self.allow_other, "--allow-other"),
            (self.read_only, "--read-only"),
            (self.direct_io, "--direct-io"),
            (self.writeback, "--writeback"),
            (self.passthrough, "--passthrough"),
        ];
        words.extend(switches.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_owned()));
        words
    }

    fn options(&self, dir: &Path, name: &str) -> MountOptions {
        let mut options = MountOptions::new(dir);
        options.attr_timeout = Duration::from_millis(self.attr_timeout);
        options.entry_timeout = Duration::from_millis(self.entry_timeout);
        options.threads = usize::from(self.threads);
        options.allow_other = self.allow_other;
        options.read_only = self.read_only;
        options.direct_io = self.direct_io;
        options.writeback = self.writeback;
        options.passthrough = self.passthrough;
        name.clone_into(&mut options.fs_name);
        options
    }
}

fn serve(global: &Global, args: &MountArgs) -> Result<()> {
    descriptors::raise_limit();
    let path = global.cluster_path()?;
    let mut config = ClientConfig::load(&path).map_err(failed)?;
    config.memory_bytes = args.memory as usize;
    config.transport = args.transport;
    config.attr_ttl = Duration::from_millis(args.attr_timeout);
    config.entry_ttl = Duration::from_millis(args.entry_timeout);
    // `default_permissions` is always set: the kernel has checked what it lets through.
    config.checked = true;
    let dir = mounts::canonical(&args.dir)?;
    mounts::check(&dir)?;
    let (job, name) = (config.cluster.job.clone(), mounts::source_name(&config.cluster.name));
    let client = Client::connect(config).map_err(failed)?;
    let signals = watch_signals()?;
    let mounted = fuse_mount::mount(client, args.options(&dir, &name)).map_err(failed)?;
    mounts::record(&job, &dir, &args.dir)?;
    unmount_on_signal(signals, mounted.unmounter(), &job, &dir)?;
    if args.report {
        local::detach()?;
        say(mounts::LIVE);
    } else {
        tracing::info!(dir = %dir.display(), "mounted");
    }
    let outcome = mounted.wait().map_err(failed);
    mounts::forget(&job, &dir)?;
    outcome
}

/// One line for the process that started this one. It may be gone: then nobody needs to know.
fn say(line: &str) {
    let mut output = std::io::stdout();
    let _ = output.write_all(format!("{}\n", line.replace('\n', " ")).as_bytes());
    let _ = output.flush();
}

type Signals = (tokio::runtime::Runtime, [Signal; 3]);

/// Signals are caught from before the mount on: one that comes early must not leave a dead mount behind.
fn watch_signals() -> Result<Signals> {
    let cannot = |error: std::io::Error| CliError::Failed(format!("cannot catch signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let guard = runtime.enter();
    let [a, b, c] = kinds.map(signal);
    let signals = [a.map_err(cannot)?, b.map_err(cannot)?, c.map_err(cannot)?];
    drop(guard);
    Ok((runtime, signals))
}

/// The first signal unmounts. Programs that still use the mount then have [`GRACE`] to finish.
fn unmount_on_signal(
    (runtime, [mut a, mut b, mut c]): Signals,
    unmounter: fuse_mount::Unmounter,
    job: &str,
    dir: &Path,
) -> Result<()> {
    let (job, dir) = (job.to_owned(), dir.to_path_buf());
    let work = move || {
        runtime.block_on(async {
            tokio::select! { _ = a.recv() => {} _ = b.recv() => {} _ = c.recv() => {} }
            if let Err(error) = unmounter.unmount() {
                tracing::error!("{error}");
            }
            tokio::time::sleep(GRACE).await;
        });
        tracing::warn!(dir = %dir.display(), "unmounted, but programs still had files open there");
        if let Err(error) = mounts::forget(&job, &dir) {
            tracing::warn!("{error}");
        }
        std::process::exit(1);
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(work);
    thread.map(drop).map_err(|error| CliError::Failed(format!("cannot start a thread for signals: {error}")))
}
