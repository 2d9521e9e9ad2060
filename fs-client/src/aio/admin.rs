//! What operators ask, and the check at connecting.

use std::time::Duration;

use bytes::Bytes;
use fs_proto::msg::admin::{ServerStatus, Shutdown, ShutdownMode};
use fs_proto::msg::hot::{HotCopied, HotCopy};
use fs_proto::msg::scrub::{Scrub, Scrubbed};
use fs_proto::msg::session::Ping;
use fs_proto::msg::tier::{
    AttachOld, FlushAccount, FlushInode, FlushList, FlushName, FlushNow, FlushPage, FlushStatus, FlushWait,
    MigrateStatus, Migrated,
};
use fs_proto::{InodeId, Request, ServerId, Status};

use super::Core;
use super::call::Patience;
use super::inodes::FAN_OUT;
use super::names::name_target;
use crate::error::{Error, Result};
use crate::housekeeper::PATIENCE;
use crate::router::Target;
use crate::window;

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// How long somebody who opens a file waits to hear whether there is a copy of it.
const COPY_TIME: Duration = Duration::from_secs(1);

/// How long the look of a server at a directory of another file system may take.
const LOOK_TIME: Duration = Duration::from_secs(30);

/// How long a step of scrubbing may take: a hundred million records, slow devices, other load.
const SCRUB_TIME: Duration = Duration::from_secs(1_800);

impl Core {
    async fn ask_once<R: Request>(&self, server: ServerId, request: &R, time: Duration) -> Result<R::Reply> {
        let target = Target::Server(server);
        Ok(self.exchange(&self.caller, target, request, Bytes::new(), Patience::once(time)).await?.body)
    }

    /// Asks servers in turn, those of this host first, until one answers.
    pub(crate) async fn check_reachable(&self, time: Duration) -> Result<()> {
        let view = self.shared.view();
        let mut order: Vec<ServerId> = view.members().to_vec();
        order.sort_by_key(|server| !view.is_near(*server));
        let mut failed = Error::Cluster("the cluster file names no server".to_owned());
        for server in order {
            match self.ask_once(server, &Ping {}, time).await {
                Ok(()) => return Ok(()),
                // Another server would refuse, too; and the reason is what the user has to see.
                Err(e @ Error::Rejected { .. }) => return Err(e),
                Err(e) => failed = e,
            }
        }
        Err(failed)
    }

    /// See [`crate::Client::server_status`].
    pub async fn server_status(&self, server: ServerId) -> Result<String> {
        self.ask_once(server, &ServerStatus {}, ANSWER_TIME).await
    }

    /// See [`crate::Client::ping`].
    pub async fn ping(&self, server: ServerId) -> Result<()> {
        self.ask_once(server, &Ping {}, ANSWER_TIME).await
    }

    /// See [`crate::Client::whole_copy`].
    pub async fn whole_copy(&self, ino: InodeId, size: u64) -> Result<HotCopied> {
        match self.shared.view().via() {
            Some(server) => self.ask_once(server, &HotCopy { ino, size }, COPY_TIME).await,
            None => Ok(HotCopied::No {}),
        }
    }

    /// See [`crate::Client::shutdown`].
    pub async fn shutdown(&self, server: ServerId, mode: ShutdownMode) -> Result<()> {
        self.ask_once(server, &Shutdown { mode }, ANSWER_TIME).await
    }

    /// See [`crate::Client::scrub`].
    pub async fn scrub(&self, server: ServerId, step: &Scrub) -> Result<Scrubbed> {
        self.ask_once(server, step, SCRUB_TIME).await
    }

    /// See [`crate::Client::flush_status`].
    pub async fn flush_status(&self) -> Vec<(ServerId, Result<FlushAccount>)> {
        let view = self.shared.view();
        let asked = view.stores().iter().map(|&server| async move {
            (server, self.ask_once(server, &FlushStatus {}, ANSWER_TIME).await)
        });
        window::all(asked, FAN_OUT).await
    }

    /// See [`crate::Client::flush_wait`].
    pub async fn flush_wait(&self, longest: Duration) {
        let view = self.shared.view();
        let request = FlushWait { longest_ms: longest.as_millis().try_into().unwrap_or(u32::MAX) };
        let asked = view.stores().iter().map(|&server| {
            let request = &request;
            async move {
                // Whoever gives no answer gives no account either: that is where it is told.
                let _ = self.ask_once(server, request, ANSWER_TIME + longest).await;
            }
        });
        window::all(asked, FAN_OUT).await;
    }

    /// See [`crate::Client::attach_old`].
    pub async fn attach_old(&self, path: Bytes) -> Result<()> {
        let id = self.attach_everywhere(&AttachOld { path: path.clone(), id: 0 }).await?;
        self.attach_everywhere(&AttachOld { path, id }).await.map(drop)
    }

    /// Asks all servers, the root's home last: there the names are taken over, and by then all can read what lies under them.
    async fn attach_everywhere(&self, request: &AttachOld) -> Result<u64> {
        let view = self.shared.view();
        let root = view.owner(Target::home(InodeId::ROOT));
        let others = view.stores().iter().copied().filter(|server| *server != root);
        let mut seen: Option<(ServerId, u64)> = None;
        for server in others.chain([root]) {
            let id = self.ask_once(server, request, LOOK_TIME).await.map_err(|error| by(server, error))?;
            let (other, first) = *seen.get_or_insert((server, id));
            if id != first {
                let text = format!(
                    "servers {other} and {server} have different directories under the path; mount the same one on every server"
                );
                return Err(Error::status(Status::Invalid, text));
            }
        }
        Ok(seen.map_or(0, |(_, id)| id))
    }

    /// See [`crate::Client::detach_old`].
    pub async fn detach_old(&self) -> Result<()> {
        let view = self.shared.view();
        for server in view.stores() {
            let request = AttachOld { path: Bytes::new(), id: 0 };
            self.ask_once(*server, &request, ANSWER_TIME).await.map_err(|error| by(*server, error))?;
        }
        Ok(())
    }

    /// See [`crate::Client::migrate_status`].
    pub async fn migrate_status(&self) -> Vec<(ServerId, Result<Migrated>)> {
        let view = self.shared.view();
        let asked = view.stores().iter().map(|&server| async move {
            (server, self.ask_once(server, &MigrateStatus {}, ANSWER_TIME).await)
        });
        window::all(asked, FAN_OUT).await
    }

    /// See [`crate::Client::flush_inode`].
    pub async fn flush_inode(&self, ino: InodeId) -> Result<()> {
        self.publish_overdue(Duration::ZERO, PATIENCE).await;
        self.ask(&self.caller, Target::home(ino), &FlushInode { ino }).await
    }

    /// See [`crate::Client::flush_name`].
    pub async fn flush_name(
        &self,
        parent: InodeId,
        name: &[u8],
        ask: bool,
        open: bool,
    ) -> Result<Option<String>> {
        if ask {
            self.publish_overdue(Duration::ZERO, PATIENCE).await;
        }
        let target = if name.is_empty() { Target::home(parent) } else { name_target(parent, name)? };
        let request = FlushName { parent, name: Bytes::copy_from_slice(name), ask, open };
        self.ask(&self.caller, target, &request).await
    }

    /// See [`crate::Client::flush_list`].
    pub async fn flush_list(&self, server: ServerId, after: Bytes) -> Result<FlushPage> {
        self.ask_once(server, &FlushList { after }, ANSWER_TIME).await
    }

    /// See [`crate::Client::flush_now`].
    pub async fn flush_now(&self, everything: bool) -> Result<()> {
        self.publish_overdue(Duration::ZERO, PATIENCE).await;
        let view = self.shared.view();
        let asked = view.stores().iter().map(|&server| async move {
            self.ask(&self.caller, Target::Server(server), &FlushNow { everything }).await
        });
        window::each(asked, FAN_OUT, drop).await
    }
}

/// Says which server refused.
fn by(server: ServerId, error: Error) -> Error {
    match error {
        Error::Status { status, message, .. } => Error::status(status, format!("server {server}: {message}")),
        error => error,
    }
}
