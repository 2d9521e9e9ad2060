//! What a launch has started so far, and taking it back.

use super::rendezvous;
use crate::place;
use crate::probe;
use crate::process;
use fs_net::ClusterFile;
use fs_proto::msg::admin::ShutdownMode;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

/// How long a server may take to answer that it ends.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// Started processes and made directories. Dropped before [`Started::keep`], it ends and removes all of them.
#[derive(Default)]
pub struct Started {
    /// Servers (with their numbers) or launchers that are children of this process.
    pub children: Vec<(Option<u16>, Child)>,
    /// Servers on other hosts, which are no children: known once they have announced themselves.
    pub remote: Option<ClusterFile>,
    /// The rendezvous directory, if servers wait in it.
    pub rendezvous: Option<PathBuf>,
    /// Directories to remove.
    pub directories: Vec<PathBuf>,
    /// Files to remove.
    pub files: Vec<PathBuf>,
    keep: bool,
}

impl Started {
    /// All went well: leave everything as it is. Answers the children, for whoever wants to wait for them.
    pub fn keep(mut self) -> Vec<Child> {
        self.keep = true;
        self.children.drain(..).map(|(_, child)| child).collect()
    }

    /// Stops and removes everything now.
    fn take_back(&mut self) {
        if let Some(dir) = &self.rendezvous {
            // Wakes servers that still wait; those that cannot see it end by their own time limit.
            if let Err(error) = place::write_private(&dir.join(rendezvous::ABORT), b"") {
                tracing::warn!("{error}");
            }
        }
        if let Some(cluster) = &self.remote {
            for member in &cluster.members {
                if let Err(error) = probe::shutdown(cluster, member, SHUTDOWN_LIMIT, ShutdownMode::Discard) {
                    tracing::debug!(server = member.id.0, %error, "server was not told to end");
                }
            }
        }
        process::end_children(self.children.iter_mut().map(|(_, child)| child));
        let files = self.files.iter().map(|path| place::remove_file(path));
        let directories = self.directories.iter().map(|path| place::remove_tree(path));
        for error in files.chain(directories).filter_map(Result::err) {
            tracing::warn!("{error}");
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.keep {
            self.take_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn waiting_child() -> Child {
        Command::new("sh").args(["-c", "read x"]).stdin(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn dropped_early_it_takes_everything_back() {
        let dir = tempfile::tempdir().unwrap();
        let (sub, file) = (dir.path().join("sub"), dir.path().join("file"));
        std::fs::create_dir(&sub).unwrap();
        std::fs::write(&file, "").unwrap();
        let child = waiting_child();
        let pid = child.id();
        let mut started = Started::default();
        started.children.push((Some(0), child));
        started.rendezvous = Some(sub.clone());
        started.directories.push(sub.clone());
        started.files.push(file.clone());
        drop(started);
        assert!(!sub.exists() && !file.exists());
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn kept_it_touches_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut started = Started::default();
        started.children.push((None, waiting_child()));
        started.directories.push(dir.path().to_path_buf());
        let mut children = started.keep();
        assert!(dir.path().exists());
        assert!(children[0].try_wait().unwrap().is_none());
        process::end_children(children.iter_mut());
    }
}
