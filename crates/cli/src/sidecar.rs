//! The mount that belongs to a server's host: made once the server answers, taken away before it ends. It is a process of its own, or a part
//! of the server's.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fs_client::{Client, ClientConfig, Route, ServerInside};
use fs_net::ClusterFile;
use fs_proto::ServerId;
use fuse_mount::{MountOptions, Mounted, Unmounter};

use crate::error::{CliError, Result, failed};
use crate::{interrupt, mounts, place, probe};

/// How long a server may take from start to its first answer, before its host is mounted.
const SERVING_LIMIT: Duration = Duration::from_secs(60);
/// How long programs that use a mount may take to finish when its server ends.
const GRACE: Duration = Duration::from_secs(5);

/// What is mounted, by whom, and how.
pub struct Plan {
    /// Directory of the launch, for the report.
    pub launch: PathBuf,
    /// Where.
    pub mount: PathBuf,
    /// The cluster.
    pub cluster: ClusterFile,
    /// Its file.
    pub cluster_path: PathBuf,
    /// The server that it belongs to.
    pub id: ServerId,
    /// Memory of the mount.
    pub memory_bytes: u64,
    /// The kernel reads copies of hot files by itself.
    pub passthrough: bool,
    /// The server starts again: its host's mount, which outlives a server that fails, may be there.
    pub again: bool,
    /// The server itself, if the mount is to be a part of this process.
    pub inside: Option<Arc<dyn ServerInside>>,
}

/// A mount that is being made, or is there.
pub struct Sidecar {
    mount: PathBuf,
    /// Of a mount in this process.
    unmounter: Option<Arc<OnceLock<Unmounter>>>,
    thread: JoinHandle<Result<()>>,
}

impl Sidecar {
    /// Begins to mount.
    pub fn start(plan: Plan) -> Result<Sidecar> {
        let mount = plan.mount.clone();
        let unmounter = plan.inside.is_some().then(Arc::default);
        let slot = unmounter.clone();
        let work = move || {
            let made = mount_when_serving(&plan, slot.as_deref());
            if let Err(error) = &made {
                tracing::error!(mount = %plan.mount.display(), "not mounted: {error}");
            }
            let said = made.as_ref().map_or_else(ToString::to_string, |_| String::new());
            place::write_private(&mounts::report_path(&plan.launch, plan.id.0), said.as_bytes())?;
            let Some(mounted) = made? else { return Ok(()) };
            let ended = mounted.wait().map_err(failed);
            mounts::forget(&plan.cluster.job, &plan.mount)?;
            ended
        };
        let thread = std::thread::Builder::new().name("mount".into()).spawn(work);
        let thread = thread.map_err(|error| CliError::Failed(format!("cannot start a thread: {error}")))?;
        Ok(Sidecar { mount, unmounter, thread })
    }

    /// Takes the mount away. Programs that still use one in this process get errors after a moment.
    pub fn end(self) {
        if let Some(unmounter) = self.unmounter {
            if let Some(Err(error)) = unmounter.get().map(Unmounter::unmount) {
                tracing::warn!("{error}");
            }
            let end = Instant::now() + GRACE;
            while !self.thread.is_finished() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
            return;
        }
        match self.thread.join() {
            Ok(Ok(())) => {}
            // It was not mounted; `up` has shown why.
            Ok(Err(_)) | Err(_) => return,
        }
        if let Err(error) = mounts::unmount(&self.mount, true) {
            tracing::warn!("{error}");
        }
    }
}

fn mount_when_serving(plan: &Plan, slot: Option<&OnceLock<Unmounter>>) -> Result<Option<Mounted>> {
    let member = plan.cluster.member(plan.id);
    let member = member.ok_or_else(|| CliError::Failed(format!("server {} is no member", plan.id)))?;
    let limit = Duration::from_secs(1);
    interrupt::wait_for(SERVING_LIMIT, || Ok(probe::ping(&plan.cluster, member, limit).ok()))?;
    let Some(inside) = &plan.inside else {
        if plan.again && mounts::is_served(&plan.cluster.job, &plan.mount)? {
            return Ok(None);
        }
        let words = mounts::words(plan.memory_bytes, plan.passthrough);
        mounts::mount_in_background(&plan.cluster_path, &plan.cluster.job, &plan.mount, &words)?;
        return Ok(None);
    };
    mounts::check(&plan.mount)?;
    let mounted = mount_inside(plan, inside)?;
    mounts::record(&plan.cluster.job, &plan.mount, &plan.mount)?;
    if let Some(slot) = slot {
        // Empty until here.
        let _ = slot.set(mounted.unmounter());
    }
    Ok(Some(mounted))
}

/// A mount whose threads carry out themselves what their server can answer at once.
fn mount_inside(plan: &Plan, server: &Arc<dyn ServerInside>) -> Result<Mounted> {
    let mut config = ClientConfig::new(plan.cluster.clone());
    config.cluster_path = Some(plan.cluster_path.clone());
    config.memory_bytes = plan.memory_bytes as usize;
    config.route = Route::Gateway(plan.id);
    config.inside = Some(Arc::clone(server));
    // The kernel has checked what it lets through.
    config.checked = true;
    let mut options = MountOptions::new(&plan.mount);
    options.passthrough = plan.passthrough;
    options.fs_name = mounts::source_name(&plan.cluster.name);
    fuse_mount::mount(Client::connect(config).map_err(failed)?, options).map_err(failed)
}
