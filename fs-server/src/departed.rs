//! Processes of this node that have ended: what they locked is released at once, not when their lease is over.
//!
//! The kernel closes a dead process's connections. A living one may close some, too, so its process number is looked at.
//!
//! # Invariants
//! - Only a process that the kernel calls dead is given up (`a_living_process_is_not_dead`).
//! - One look-out for a client at a time, and only for those that have locked something through this server.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use fs_net::PeerInfo;
use fs_proto::ClientId;
use fs_proto::msg::lock::ClientGone;
use fs_proto::msg::session::Role;
use parking_lot::Mutex;

use crate::worker::Worker;

/// When it is looked again after a connection has ended: a process closes its connections before it is dead.
const LOOKS_MS: [u64; 8] = [0, 5, 20, 50, 100, 300, 1000, 3000];

/// Clients that locked something through this server, and whether they are watched.
#[derive(Default)]
pub struct Departed {
    lockers: Mutex<HashMap<ClientId, bool>>,
}

impl Departed {
    /// A client locks.
    pub fn note_locker(&self, client: ClientId) {
        self.lockers.lock().entry(client).or_insert(false);
    }

    fn begin(&self, client: ClientId) -> bool {
        let mut lockers = self.lockers.lock();
        lockers.get_mut(&client).is_some_and(|watched| !std::mem::replace(watched, true))
    }

    fn end(&self, client: ClientId, dead: bool) {
        let mut lockers = self.lockers.lock();
        if dead {
            lockers.remove(&client);
        } else if let Some(watched) = lockers.get_mut(&client) {
            *watched = false;
        }
    }
}

/// A connection has ended: finds out whether its process has.
pub fn watch(worker: &Rc<Worker>, peer: &PeerInfo) {
    let (Role::Client { id }, Some((_, _, pid))) = (&peer.role, peer.credentials) else { return };
    let client = *id;
    // A process of another namespace has number 0 here.
    if pid <= 0 || worker.node.is_stopping() || !worker.node.departed.begin(client) {
        return;
    }
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let dead = dies(pid).await;
        worker.node.departed.end(client, dead);
        if dead {
            tell(&worker, client).await;
        }
    });
}

async fn dies(pid: i32) -> bool {
    for pause in LOOKS_MS {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if is_dead(pid) {
            return true;
        }
    }
    false
}

/// Whether no process has this number, or only its exit status is left of it.
fn is_dead(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // "pid (name) state ...": the name may hold anything.
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(error) => {
            error.kind() == std::io::ErrorKind::NotFound
                && std::fs::exists("/proc/self/stat").unwrap_or(false)
        }
    }
}

/// Any server may keep locks of it. One that is away learns it by the lease.
async fn tell(worker: &Rc<Worker>, client: ClientId) {
    let members = worker.node.members();
    let told = members.into_iter().map(|member| async move {
        if let Err(error) = worker.ask(member, &ClientGone { client }).await {
            tracing::debug!(server = member.0, message = %error.message, "the end of a client could not be told");
        }
    });
    futures_util::future::join_all(told).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_not_dead() {
        assert!(!is_dead(std::process::id() as i32));
        let mut child = std::process::Command::new("true").spawn().expect("a process");
        let pid = child.id() as i32;
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while !is_dead(pid) {
            assert!(std::time::Instant::now() < until, "it has ended and was not waited for");
            std::thread::yield_now();
        }
        child.wait().expect("its status");
        assert!(is_dead(pid));
    }
}
