//! The file that an engine locks while it is open.

use super::KvError;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

/// After a close the engines' own threads hold their lock a little longer.
pub(super) const WAIT: Duration = Duration::from_secs(1);
pub(super) const RETRY: Duration = Duration::from_millis(10);

/// Locks `dir/name`, as the engine does. None if there is no store.
pub(super) fn take(dir: &Path, name: &str) -> Result<Option<File>, KvError> {
    let file = match File::options().read(true).write(true).open(dir.join(name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(KvError::from_io)?,
    };
    let give_up = Instant::now() + WAIT;
    while let Err(error) = file.try_lock() {
        match error {
            TryLockError::WouldBlock if Instant::now() < give_up => std::thread::sleep(RETRY),
            TryLockError::WouldBlock => return Err(KvError::InUse(dir.to_owned())),
            TryLockError::Error(error) => return Err(KvError::from_io(error)),
        }
    }
    Ok(Some(file))
}
