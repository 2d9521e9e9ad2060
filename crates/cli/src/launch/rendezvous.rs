//! The files by which `up` and its servers find each other.
//!
//! ```text
//! launch.toml      up: what to be                    (LaunchSpec)
//! server-N.toml    server N: where I listen          (MemberEntry)
//! server-N.error   server N: why I cannot            (text)
//! server-N.log     server N: its log
//! cluster.toml     up: all members; now serve        (ClusterFile)
//! abort            up: give up
//! ```
//! All but logs appear by rename, so a reader sees a whole file or none.

use crate::error::{CliError, Result, cannot};
use crate::place;
use fs_net::MemberEntry;
use std::path::{Path, PathBuf};

/// Name of the cluster file in the rendezvous directory.
pub const CLUSTER: &str = "cluster.toml";
/// Name of the file that tells waiting servers to end.
pub const ABORT: &str = "abort";
/// Bytes from the end of a log that an error message repeats.
const TAIL_BYTES: usize = 2000;

/// Where server `id` says where it listens.
pub fn member_path(dir: &Path, id: u16) -> PathBuf {
    dir.join(format!("server-{id}.toml"))
}

/// Where server `id` says why it cannot start.
pub fn error_path(dir: &Path, id: u16) -> PathBuf {
    dir.join(format!("server-{id}.error"))
}

/// The log of server `id`.
pub fn log_path(dir: &Path, id: u16) -> PathBuf {
    dir.join(format!("server-{id}.log"))
}

/// The output of launchers.
pub fn launcher_log(dir: &Path) -> PathBuf {
    dir.join("launcher.log")
}

/// Announces a server.
pub fn announce(dir: &Path, member: &MemberEntry) -> Result<()> {
    let path = member_path(dir, member.id.0);
    let text = toml::to_string(member).map_err(cannot("write", &path))?;
    place::write_private(&path, text.as_bytes())
}

/// What server `id` said so far: its entry, nothing yet, or its error.
pub fn look(dir: &Path, id: u16) -> Result<Option<MemberEntry>> {
    if let Some(text) = read_if_there(&error_path(dir, id))? {
        return Err(CliError::Failed(format!("server {id} cannot start: {}", text.trim_end())));
    }
    let path = member_path(dir, id);
    let Some(text) = read_if_there(&path)? else { return Ok(None) };
    toml::from_str(&text).map(Some).map_err(cannot("understand", &path))
}

/// The end of a log, for an error message; empty if there is none.
pub fn tail(path: &Path) -> String {
    let Ok(raw) = std::fs::read(path) else { return String::new() };
    let text = String::from_utf8_lossy(&raw[raw.len().saturating_sub(TAIL_BYTES)..]).into_owned();
    if text.trim().is_empty() {
        return String::new();
    }
    format!("\nthe end of {}:\n{}", path.display(), text.trim_end())
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_proto::ServerId;

    fn member() -> MemberEntry {
        MemberEntry {
            id: ServerId(3),
            host: "h".into(),
            tcp: "h:1".into(),
            unix: "/s".into(),
            stores: vec!["/x".into()],
            weight: 1,
            metrics: None,
            pid: 42,
        }
    }

    #[test]
    fn nothing_then_entry_then_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(look(dir.path(), 3).unwrap().is_none());
        announce(dir.path(), &member()).unwrap();
        assert_eq!(look(dir.path(), 3).unwrap(), Some(member()));
        std::fs::write(error_path(dir.path(), 3), "port in use\n").unwrap();
        assert_eq!(look(dir.path(), 3).unwrap_err().to_string(), "server 3 cannot start: port in use");
    }

    #[test]
    fn tail_is_bounded_and_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(tail(&path), "");
        std::fs::write(&path, "x".repeat(10 * TAIL_BYTES)).unwrap();
        assert!(tail(&path).len() < 2 * TAIL_BYTES);
    }
}
