//! What operators ask, and the check at connecting.

use std::time::Duration;

use bytes::Bytes;
use fs_proto::msg::admin::{ServerStatus, Shutdown, ShutdownMode};
use fs_proto::msg::scrub::{Scrub, Scrubbed};
use fs_proto::msg::session::Ping;
use fs_proto::msg::tier::{FlushAccount, FlushInode, FlushList, FlushNow, FlushPage, FlushStatus};
use fs_proto::{InodeId, Request, ServerId};

use super::Core;
use super::call::Patience;
use super::inodes::FAN_OUT;
use crate::error::{Error, Result};
use crate::housekeeper::PATIENCE;
use crate::router::Target;
use crate::window;

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);

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

    /// See [`crate::Client::flush_inode`].
    pub async fn flush_inode(&self, ino: InodeId) -> Result<()> {
        self.publish_overdue(Duration::ZERO, PATIENCE).await;
        self.ask(&self.caller, Target::home(ino), &FlushInode { ino }).await
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
