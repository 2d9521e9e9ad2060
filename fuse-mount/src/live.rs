//! Mounting, waiting for the end, unmounting.
//!
//! Root mounts by mount(2) itself; `fuser` would do so, too, but without the type that tells our mounts from others. Ordinary
//! users and `auto_unmount` go through fusermount3, which `fuser` calls.
//!
//! # Invariants
//! - Only the session's own mount is unmounted, never one that came later at the same place: its device number is compared.
//! - What applications wrote is published before a mount that is still in use is let go.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use fs_client::Client;
use fuser::{Config, MountOption, Session, SessionACL};

use crate::adapter::{Adapter, Backing, OpenFiles};
use crate::check::{check_device, claim_directory};
use crate::error::MountError;
use crate::kernel;
use crate::options::MountOptions;
use crate::passing::Passing;

/// How long unmounting waits for programs that still use the mount.
const GRACE: Duration = Duration::from_secs(5);

/// A live mount. Dropping it leaves the mount alone.
pub struct Mounted {
    ended: Receiver<std::io::Result<()>>,
    passing: Arc<Passing<Backing>>,
    unmounter: Unmounter,
}

/// Unmounts from any thread, for instance the one that takes signals.
#[derive(Clone)]
pub struct Unmounter {
    path: PathBuf,
    /// "major:minor" of the mount.
    device: String,
    files: Arc<OpenFiles>,
}

/// Mounts `client`'s cluster. Returns when the mount is live.
///
/// # Errors
/// See [`MountError`]; nothing is mounted then.
pub fn mount(client: Client, options: MountOptions) -> Result<Mounted, MountError> {
    check_options(&client, &options)?;
    check_device()?;
    let (path, claim) = claim_directory(&options.mount_point)?;
    let adapter = Adapter::new(client, &options)
        .map_err(|e| MountError::Options(format!("no thread for locks: {e}")))?;
    let notifier = adapter.notifier();
    let (files, passing) = (Arc::clone(adapter.open_files()), Arc::clone(adapter.passing()));
    let session = start(adapter, &path, &options)?;
    // Set once, here.
    let _ = notifier.set(session.notifier());
    let (tell, ended) = sync_channel(1);
    let run = move || {
        // Nobody may be waiting any more.
        let _ = tell.send(session.run());
    };
    let thread = std::thread::Builder::new().name("hayate-mount".to_owned());
    thread.spawn(run).map_err(|e| give_up(&path, format!("no thread for the session: {e}")))?;
    let entry = kernel::mount_at(&path).map_err(|e| give_up(&path, e.to_string()))?;
    let entry = entry.ok_or_else(|| give_up(&path, "the mount vanished at once".to_owned()))?;
    drop(claim);
    kernel::raise_read_ahead(&entry.device);
    tracing::info!(path = %path.display(), device = entry.device, threads = options.threads, "mounted");
    Ok(Mounted { ended, passing, unmounter: Unmounter { path, device: entry.device, files } })
}

fn check_options(client: &Client, options: &MountOptions) -> Result<(), MountError> {
    let refuse = |why: &str| Err(MountError::Options(why.to_owned()));
    if !client.config().checked {
        // The kernel checks permissions for a mount; servers would check again without knowing all groups.
        return refuse("the client must be connected with `checked`");
    }
    if options.threads == 0 {
        return refuse("at least one thread is needed");
    }
    if options.writeback && options.past_the_page_cache() {
        return refuse("writeback needs the page cache, which an attr_timeout of 0 and direct_io bypass");
    }
    if options.writeback && options.passthrough {
        return refuse("passthrough and writeback do not go together: the kernel refuses it");
    }
    if options.fs_name.is_empty() || options.fs_name.contains([',', '\\', '\0', '\n']) {
        return refuse("the file system's name must not be empty, nor hold commas, backslashes or line ends");
    }
    if options.auto_unmount && !options.allow_other {
        return refuse("auto_unmount needs allow_other");
    }
    if options.auto_unmount && kernel::find_helper().is_none() {
        return Err(MountError::NoFusermount);
    }
    Ok(())
}

/// Mounts and shakes hands with the kernel.
fn start(adapter: Adapter, path: &Path, options: &MountOptions) -> Result<Session<Adapter>, MountError> {
    let config = session_config(options);
    if kernel::is_root() && !options.auto_unmount {
        let device = kernel::open_device().map_err(|e| MountError::FuseDeviceDenied(e.to_string()))?;
        kernel::mount_directly(path, &options.fs_name, &device, options.allow_other, options.read_only)
            .map_err(|e| refused(path, e.to_string()))?;
        let acl = config.acl;
        return Session::from_fd(adapter, device, acl, config).map_err(|e| give_up(path, e.to_string()));
    }
    Session::new(adapter, path, &config).map_err(|e| match e.kind() {
        ErrorKind::PermissionDenied if e.to_string().contains("user_allow_other") => {
            MountError::AllowOtherForbidden
        }
        _ => refused(path, e.to_string().trim().to_owned()),
    })
}

fn session_config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads);
    config.clone_fd = true;
    config.mount_options = vec![
        MountOption::FSName(options.fs_name.clone()),
        MountOption::Subtype(kernel::SUBTYPE.to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    if options.auto_unmount {
        config.mount_options.push(MountOption::AutoUnmount);
    }
    config
}

fn refused(path: &Path, cause: String) -> MountError {
    MountError::Refused { path: path.to_owned(), cause }
}

/// Takes a mount away that did not come to life.
fn give_up(path: &Path, cause: String) -> MountError {
    match kernel::unmount(path, true) {
        Ok(()) => refused(path, cause),
        Err(e) => refused(path, format!("{cause}; and the mount could not be removed: {e}")),
    }
}

impl Mounted {
    /// A handle that unmounts from elsewhere; [`Mounted::wait`] then returns.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// Where it is mounted, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.unmounter.path
    }

    /// Whether the kernel reads copies by itself, as [`MountOptions::passthrough`] asks.
    pub fn passes_through(&self) -> bool {
        self.passing.goes_on()
    }

    /// Files that were opened so since it was mounted.
    pub fn passed_through(&self) -> u64 {
        self.passing.opened()
    }

    /// Waits until it is unmounted, from outside or by an [`Unmounter`].
    pub fn wait(self) -> Result<(), MountError> {
        let ended = self.ended.recv();
        self.outcome(ended.unwrap_or_else(|_| Err(std::io::Error::other("the session's thread died"))))
    }

    /// Unmounts and waits for the end. If programs still use the mount, its name goes at once and they have 5 s to finish.
    ///
    /// # Errors
    /// [`MountError::StillInUse`] if they did not.
    pub fn unmount(self) -> Result<(), MountError> {
        self.unmounter.unmount()?;
        self.wait_at_most(GRACE)
    }

    /// Waits for the end of a session that was told to end, by an [`Unmounter`], for at most `patience`.
    ///
    /// # Errors
    /// [`MountError::StillInUse`] if programs still use the mount then.
    pub fn wait_at_most(self, patience: Duration) -> Result<(), MountError> {
        match self.ended.recv_timeout(patience) {
            Ok(ended) => self.outcome(ended),
            Err(RecvTimeoutError::Timeout) => Err(MountError::StillInUse(self.unmounter.path)),
            Err(RecvTimeoutError::Disconnected) => {
                self.outcome(Err(std::io::Error::other("the session's thread died")))
            }
        }
    }

    fn outcome(&self, ended: std::io::Result<()>) -> Result<(), MountError> {
        let Err(e) = ended else { return Ok(()) };
        // What is left is a dead mount: nothing but errors for those who use it.
        let left = self.unmounter.unmount().err().map_or_else(String::new, |e| format!("; and {e}"));
        Err(MountError::Session { path: self.unmounter.path.clone(), cause: format!("{e}{left}") })
    }
}

impl Unmounter {
    /// Takes the mount away: at once if nobody uses it, else its name at once and the rest with the last program. Harmless if
    /// it is gone already.
    ///
    /// # Errors
    /// [`MountError::UnmountRefused`] if the system says no.
    pub fn unmount(&self) -> Result<(), MountError> {
        let refused =
            |e: std::io::Error| MountError::UnmountRefused { path: self.path.clone(), cause: e.to_string() };
        if !self.is_mounted().map_err(refused)? {
            return Ok(());
        }
        match kernel::unmount(&self.path, false) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::ResourceBusy => {
                self.publish();
                kernel::unmount(&self.path, true).map_err(refused)
            }
            // Unmounted by somebody else in the meantime.
            Err(_) if !self.is_mounted().map_err(refused)? => Ok(()),
            Err(e) => Err(refused(e)),
        }
    }

    fn is_mounted(&self) -> std::io::Result<bool> {
        let entry = kernel::mount_at(&self.path)?;
        Ok(entry.is_some_and(|entry| entry.device == self.device))
    }

    /// Tells the servers the sizes of files that are still open: this process may end before they are closed.
    fn publish(&self) {
        for open in self.files.all() {
            if open.file.flags().writes()
                && let Err(e) = open.file.flush()
            {
                tracing::error!(ino = open.file.ino().0, error = %e, "publishing an open file at unmounting failed");
            }
        }
    }
}
