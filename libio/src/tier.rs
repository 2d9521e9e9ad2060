//! The shared tier, read directly: its tree is that of the file system, so what a cluster left there can be restarted from when that
//! cluster, or a part of it, is gone.
//!
//! Only a tier that is a directory which this process can see; a bucket is not read here.
//!
//! # Invariants
//! - No call waits longer than the time-out, whatever the tier's file system does, and one that hangs is not asked again before it has answered: each
//!   system call is made by a thread of its own (`a_tier_that_hangs_is_an_error`).

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, Result};

/// The tier's directory.
#[derive(Debug, Clone)]
pub(crate) struct Tier {
    dir: Arc<Path>,
    timeout: Duration,
    /// Threads whose calls were given up: a few, as nothing is asked while there are any.
    hanging: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Tier {
    /// The tier that a cluster names, if it can be looked into from here. A call may take `timeout`.
    pub fn seen(named: Option<&Path>, timeout: Duration) -> Option<Tier> {
        let dir = named.filter(|dir| dir.is_absolute())?;
        let tier = Tier { dir: dir.into(), timeout, hanging: Arc::default() };
        match tier.timed("", Path::metadata) {
            Ok(found) => found.is_dir().then_some(tier),
            Err(Error::Tier { errno: Some(libc::ETIMEDOUT), .. }) => {
                tracing::warn!(dir = %dir.display(), "the shared tier does not answer, and is not looked into");
                None
            }
            Err(_) => None,
        }
    }

    fn place(&self, path: &str) -> PathBuf {
        self.dir.join(path.trim_start_matches('/'))
    }

    /// Does something that may hang with the place of `path`.
    fn timed<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let late = || self.failed(path, &std::io::Error::from_raw_os_error(libc::ETIMEDOUT));
        // Handles of threads: no panic leaves them half changed.
        let mut hanging = self.hanging.lock().unwrap_or_else(PoisonError::into_inner);
        hanging.retain(|thread| !thread.is_finished());
        if !hanging.is_empty() {
            return Err(late());
        }
        drop(hanging);
        let (tell, told) = mpsc::channel();
        let place = self.place(path);
        let thread = std::thread::Builder::new().name("hayate-tier".to_owned());
        let thread = thread.spawn(move || {
            // Nobody listens any more if it took too long.
            let _ = tell.send(work(&place));
        });
        let thread = thread.map_err(|e| self.failed(path, &e))?;
        match told.recv_timeout(self.timeout) {
            Ok(done) => done.map_err(|e| self.failed(path, &e)),
            Err(RecvTimeoutError::Timeout) => {
                self.hanging.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
                Err(late())
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.failed(path, &ErrorKind::Other.into())),
        }
    }

    /// The bytes at `path`, if it exists.
    pub fn read_raw(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.timed(path, |place| there(std::fs::read(place)))
    }

    /// Opens a file for reading, if it exists.
    pub fn open(&self, path: &str) -> Result<Option<Arc<File>>> {
        self.timed(path, |place| there(File::open(place).map(Arc::new)))
    }

    /// Bytes of the file at `path`; none if there is none, or the tier cannot tell.
    pub fn size(&self, path: &str) -> Option<u64> {
        self.timed(path, |place| Ok(place.metadata()?.len())).ok()
    }

    /// The names in a directory; none if it does not exist.
    pub fn list(&self, path: &str) -> Result<Vec<Vec<u8>>> {
        let names = self.timed(path, |place| {
            let Some(entries) = there(std::fs::read_dir(place))? else { return Ok(Vec::new()) };
            entries.map(|entry| Ok(entry?.file_name().into_encoded_bytes())).collect()
        })?;
        Ok(names)
    }

    /// Fills `buf` from `offset` of an open file; `path` is for the error.
    pub fn fill(&self, file: &Arc<File>, path: &str, buf: &mut [u8], offset: u64) -> Result<()> {
        // The thread may outlive the call, so it gets memory of its own.
        let (file, mut read) = (file.clone(), vec![0; buf.len()]);
        let read = self.timed(path, move |_| file.read_exact_at(&mut read, offset).map(|()| read))?;
        buf.copy_from_slice(&read);
        Ok(())
    }

    /// The error of a file that should have gone.
    pub fn stays(&self, path: &str) -> Error {
        Error::Tier {
            path: self.place(path).display().to_string(),
            reason:
                "it is still there: wait for the servers, or remove it there if none of this cluster's has it"
                    .to_owned(),
            errno: Some(libc::EBUSY),
        }
    }

    fn failed(&self, path: &str, e: &std::io::Error) -> Error {
        Error::Tier {
            path: self.place(path).display().to_string(),
            reason: e.to_string(),
            errno: e.raw_os_error(),
        }
    }
}

fn there<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what the module promises. Method: a named pipe, whose opening hangs until somebody writes.
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_tier_that_hangs_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), b"content").unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let tier = Tier::seen(Some(dir.path()), Duration::from_millis(300)).unwrap();
        assert_eq!(tier.read_raw("/file").unwrap().as_deref(), Some(&b"content"[..]));
        assert_eq!(tier.read_raw("/none").unwrap(), None);
        let began = Instant::now();
        for path in ["/pipe", "/file"] {
            // The second because the first has not answered.
            let hangs = tier.read_raw(path).unwrap_err();
            assert!(matches!(hangs, Error::Tier { errno: Some(libc::ETIMEDOUT), .. }), "{path}: {hangs}");
        }
        assert!(began.elapsed() < Duration::from_secs(20));
        drop(File::options().write(true).open(&pipe).unwrap());
        let end = Instant::now() + Duration::from_secs(20);
        while tier.read_raw("/file").is_err() {
            assert!(Instant::now() < end, "it answers again");
            std::thread::yield_now();
        }
        let file = tier.open("/file").unwrap().unwrap();
        let mut part = [0; 3];
        tier.fill(&file, "/file", &mut part, 4).unwrap();
        assert_eq!((&part, tier.size("/file"), tier.list("/").unwrap().len()), (b"ent", Some(7), 2));
    }
}
