//! The cluster file: what names a cluster to clients and tools.
//!
//! It is small TOML of mode 0600 (it holds the job's secret), written to a temporary name and renamed, so a reader sees the old
//! or the new one, whole.
//!
//! # Invariants
//! - A stored file loads to the same value, is 0600 and leaves nothing beside it (`stores_and_loads_atomically`).
//! - A file that others may read is refused (`refuses_a_file_open_to_others`).
//! - The map is the founders' map with `events` applied in order; `epoch` says the same (`epoch_must_match_the_events`).

use crate::address::Address;
use crate::secret::Secret;
use fs_proto::placement::{MapError, MapEvent, Member};
use fs_proto::{PartitionMap, ServerId};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What names a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// Name that people gave it.
    pub name: String,
    /// Job that it belongs to.
    pub job: String,
    /// The job's secret.
    pub secret: Secret,
    /// Epoch of the partition map: 1 and one more for each event.
    pub epoch: u64,
    /// Directory in the shared tier, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<PathBuf>,
    /// All servers that ever belonged to it. Who is in an event did not found it.
    pub members: Vec<MemberEntry>,
    /// Later joins and leaves, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<ClusterEvent>,
}

/// A server of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEntry {
    /// Its number.
    #[serde(with = "server_number")]
    pub id: ServerId,
    /// Host name of its node.
    pub host: String,
    /// `host:port` for other nodes.
    pub tcp: String,
    /// Socket for its own node.
    pub unix: PathBuf,
    /// Directories that it stores in.
    pub stores: Vec<PathBuf>,
    /// Share of the data relative to the others; 0 is a pure gateway.
    pub weight: u32,
    /// `host:port` of its metrics page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// Process number on its node.
    pub pid: u32,
}

/// A change of the members after the cluster was founded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "lowercase")]
pub enum ClusterEvent {
    /// A server came.
    Join {
        /// Which.
        #[serde(with = "server_number")]
        server: ServerId,
        /// Its share.
        weight: u32,
    },
    /// A server went.
    Leave {
        /// Which.
        #[serde(with = "server_number")]
        server: ServerId,
    },
}

mod server_number {
    use fs_proto::ServerId;
    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    pub fn serialize<S: Serializer>(id: &ServerId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u16(id.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ServerId, D::Error> {
        u16::deserialize(from).map(ServerId)
    }
}

/// Why a cluster file is of no use.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// There is none.
    #[error(
        "no cluster file at {0}: is a cluster up? (`hayate up` starts one; --cluster names another file)"
    )]
    Missing(PathBuf),
    /// The system refused.
    #[error("cluster file {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not safe to believe it.
    #[error("cluster file {path} is not safe: {reason}")]
    Unsafe {
        /// Which file or directory.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// It is not a cluster file.
    #[error("cluster file {path} cannot be understood: {reason}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// Members and events do not give a partition map.
    #[error("cluster file has no valid partition map: {0}")]
    Map(#[from] MapError),
    /// Epoch and events disagree.
    #[error("cluster file says epoch {file}, its members and events give {events}: it was edited or damaged")]
    Epoch {
        /// As written.
        file: u64,
        /// As counted.
        events: u64,
    },
}

impl ClusterFile {
    /// Reads a cluster file. One that belongs to another user, or that others may read or write, is refused.
    pub fn load(path: &Path) -> Result<ClusterFile, ClusterError> {
        let mut file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ClusterError::Missing(path.to_owned()),
            _ => io_error(path, source),
        })?;
        check_private(path, &file.metadata().map_err(|e| io_error(path, e))?)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|e| io_error(path, e))?;
        // The parser's message quotes the text, which holds the secret: only its first line and place are shown.
        toml::from_str(&text)
            .map_err(|e| ClusterError::Invalid { path: path.to_owned(), reason: e.message().to_owned() })
    }

    /// Writes it with mode 0600, replacing an old one at once. A missing directory is made with mode 0700.
    pub fn store(&self, path: &Path) -> Result<(), ClusterError> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        prepare_directory(dir)?;
        let text = toml::to_string(self)
            .map_err(|e| ClusterError::Invalid { path: path.to_owned(), reason: e.to_string() })?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let temporary = dir.join(name);
        let written = write_private(&temporary, text.as_bytes()).and_then(|()| fs::rename(&temporary, path));
        written.map_err(|source| {
            // The first error is the one to show; a temporary file that stays behind harms nobody.
            drop(fs::remove_file(&temporary));
            io_error(path, source)
        })
    }

    /// The partition map in force.
    pub fn map(&self) -> Result<PartitionMap, ClusterError> {
        let founders: Vec<Member> = self
            .members
            .iter()
            .filter(|m| !self.joined(m.id))
            .map(|m| Member { id: m.id, weight: m.weight })
            .collect();
        let mut map = PartitionMap::initial(&founders)?;
        for event in &self.events {
            map = map.apply(match *event {
                ClusterEvent::Join { server, weight } => MapEvent::Join(Member { id: server, weight }),
                ClusterEvent::Leave { server } => MapEvent::Leave(server),
            })?;
        }
        if map.epoch() != self.epoch {
            return Err(ClusterError::Epoch { file: self.epoch, events: map.epoch() });
        }
        Ok(map)
    }

    /// The entry of a server.
    pub fn member(&self, id: ServerId) -> Option<&MemberEntry> {
        self.members.iter().find(|member| member.id == id)
    }

    /// Whether a server runs on this node: the host name is ours and its socket is there.
    pub fn is_local(member: &MemberEntry) -> bool {
        member.host == host_name() && member.unix.exists()
    }

    /// Whether a server's first event is its coming.
    fn joined(&self, id: ServerId) -> bool {
        let first = self.events.iter().find(|event| match event {
            ClusterEvent::Join { server, .. } | ClusterEvent::Leave { server } => *server == id,
        });
        matches!(first, Some(ClusterEvent::Join { .. }))
    }
}

impl MemberEntry {
    /// Where other nodes reach it.
    pub fn tcp_address(&self) -> Address {
        Address::Tcp(self.tcp.clone())
    }

    /// Where its own node reaches it.
    pub fn unix_address(&self) -> Address {
        Address::Unix(self.unix.clone())
    }

    /// The best way to it from here.
    pub fn address(&self) -> Address {
        if ClusterFile::is_local(self) { self.unix_address() } else { self.tcp_address() }
    }
}

/// This node's host name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Where a cluster file is looked for when none is named: `$XDG_RUNTIME_DIR/hayate/cluster.toml`, else
/// `/tmp/hayate-UID/cluster.toml`. Whether the place is safe is checked by `load` and `store`.
pub fn default_cluster_path() -> PathBuf {
    let dir = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if Path::new(&dir).is_absolute() => PathBuf::from(dir).join("hayate"),
        _ => PathBuf::from(format!("/tmp/hayate-{}", own_uid())),
    };
    dir.join("cluster.toml")
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn io_error(path: &Path, source: io::Error) -> ClusterError {
    ClusterError::Io { path: path.to_owned(), source }
}

fn check_private(path: &Path, meta: &fs::Metadata) -> Result<(), ClusterError> {
    let unsafe_because = |reason: String| Err(ClusterError::Unsafe { path: path.to_owned(), reason });
    let me = own_uid();
    if me != 0 && meta.uid() != me && meta.uid() != 0 {
        return unsafe_because(format!("it belongs to user {}; use a place of your own", meta.uid()));
    }
    if meta.mode() & 0o077 != 0 {
        return unsafe_because(format!("mode {:o} lets others at it; chmod it to 0600", meta.mode() & 0o777));
    }
    Ok(())
}

/// Makes the directory, or checks that an existing one of the default name is not somebody else's trap.
fn prepare_directory(dir: &Path) -> Result<(), ClusterError> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Ok(()) if default_cluster_path().parent() == Some(dir) => {
            let meta = fs::symlink_metadata(dir).map_err(|e| io_error(dir, e))?;
            if meta.uid() != own_uid() || !meta.is_dir() {
                let reason = format!("it belongs to user {}; name another place with --cluster", meta.uid());
                return Err(ClusterError::Unsafe { path: dir.to_owned(), reason });
            }
            Ok(())
        }
        Ok(()) => Ok(()),
        Err(e) => Err(io_error(dir, e)),
    }
}

fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn member(id: u16, weight: u32) -> MemberEntry {
        MemberEntry {
            id: ServerId(id),
            host: "node1".into(),
            tcp: format!("node1:{}", 7000 + id),
            unix: PathBuf::from(format!("/run/s{id}.sock")),
            stores: vec![PathBuf::from("/nvme0")],
            weight,
            metrics: (id == 0).then(|| "node1:9000".into()),
            pid: 100,
        }
    }

    fn cluster() -> ClusterFile {
        ClusterFile {
            name: "test".into(),
            job: "job 7".into(),
            secret: Secret::random(),
            epoch: 1,
            tier: Some("/shared/dir".into()),
            members: vec![member(0, 1), member(1, 0)],
            events: Vec::new(),
        }
    }

    #[test]
    fn stores_and_loads_atomically() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new/cluster.toml");
        let mut file = cluster();
        file.store(&path).expect("stored");
        assert_eq!(ClusterFile::load(&path).expect("loaded"), file);
        file.tier = None;
        file.events = vec![
            ClusterEvent::Join { server: ServerId(2), weight: 3 },
            ClusterEvent::Leave { server: ServerId(0) },
        ];
        file.store(&path).expect("stored again");
        assert_eq!(ClusterFile::load(&path).expect("loaded again"), file);
        let mode = |path: &Path| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("a parent"))), (0o600, 0o700));
        assert_eq!(fs::read_dir(dir.path().join("new")).expect("listed").count(), 1);
    }

    #[test]
    fn refuses_a_file_open_to_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cluster.toml");
        cluster().store(&path).expect("stored");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        let error = ClusterFile::load(&path).expect_err("it is readable by the group");
        assert!(
            matches!(error, ClusterError::Unsafe { .. }) && error.to_string().contains("0600"),
            "{error}"
        );
    }

    #[test]
    fn says_what_is_wrong_without_the_secret() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("cluster.toml");
        assert!(matches!(ClusterFile::load(&path), Err(ClusterError::Missing(_))));
        let file = cluster();
        let text = toml::to_string(&file).expect("text").replace("epoch = 1", "epoch = \"x\"");
        write_private(&path, text.as_bytes()).expect("written");
        let error = ClusterFile::load(&path).expect_err("epoch is no number").to_string();
        assert!(error.contains("cannot be understood") && !error.contains(&file.secret.to_hex()), "{error}");
        let text =
            toml::to_string(&file).expect("text").replace(&file.secret.to_hex(), "secret-of-wrong-form");
        write_private(&path, text.as_bytes()).expect("written");
        let error = ClusterFile::load(&path).expect_err("no secret").to_string();
        assert!(error.contains("64 hexadecimal") && !error.contains("wrong-form"), "{error}");
    }

    #[test]
    fn epoch_must_match_the_events() {
        let mut file = cluster();
        assert_eq!(file.map().expect("a map").epoch(), 1);
        file.epoch = 2;
        assert!(matches!(file.map(), Err(ClusterError::Epoch { file: 2, events: 1 })));
        file.members.retain(|m| m.weight == 0);
        assert!(matches!(file.map(), Err(ClusterError::Map(MapError::Empty))));
    }

    #[test]
    fn founders_are_who_did_not_join() {
        let mut file = cluster();
        file.events = vec![
            ClusterEvent::Join { server: ServerId(1), weight: 1 },
            ClusterEvent::Leave { server: ServerId(0) },
            ClusterEvent::Join { server: ServerId(0), weight: 1 },
        ];
        assert_eq!((file.joined(ServerId(0)), file.joined(ServerId(1))), (false, true));
    }

    #[test]
    fn a_member_is_local_by_host_and_socket() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut entry = member(0, 1);
        entry.host = host_name();
        entry.unix = dir.path().join("s.sock");
        assert!(!ClusterFile::is_local(&entry));
        assert_eq!(entry.address(), entry.tcp_address());
        fs::write(&entry.unix, "").expect("written");
        assert!(ClusterFile::is_local(&entry));
        assert_eq!(entry.address(), entry.unix_address());
        entry.host.push('x');
        assert!(!ClusterFile::is_local(&entry));
    }
}
