//! The blocking interface. Every calling thread has its own event loop and connections: no call is handed to another thread.

mod admin;
mod inodes;
mod layouts;
mod paths;
mod vault;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fs_net::{ClusterFile, NetCounters};

use crate::aio::Core;
use crate::config::ClientConfig;
use crate::error::Result;
use crate::lane;
use crate::shared::Shared;

pub use layouts::{Held, Located};
pub use paths::ReadDir;
pub use vault::{Kept, Spot};

/// How long [`Client::connect`] waits for one server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a cluster: cheap to clone, usable from every thread. Blocking; inside an event loop use [`Client::core`].
///
/// After a `fork` the child may go on using it: it connects anew under an identity of its own. As with any library, no other
/// thread may be inside it at the moment of the fork.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// See [`Client::within`].
    timeout: Duration,
}

struct Inner {
    shared: Arc<Shared>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close();
        lane::forget(&self.shared);
    }
}

impl Client {
    /// A client of the cluster in `config`, once a server has answered and accepted the secret.
    ///
    /// # Errors
    /// [`crate::Error::Cluster`] if the cluster has no usable member, [`crate::Error::Rejected`] if the secret is wrong,
    /// [`crate::Error::Unavailable`] if nobody answers.
    pub fn connect(config: ClientConfig) -> Result<Client> {
        let shared = Shared::new(config)?;
        let timeout = shared.config.timeout;
        lane::block_on(&shared, async |core| core.check_reachable(CONNECT_TIMEOUT.min(timeout)).await)?;
        shared.keeper.start(&shared)?;
        Ok(Client { inner: Arc::new(Inner { shared }), timeout })
    }

    /// The same client, whose operations, and those of files that it opens, are tried for at most `timeout` while a server is away.
    #[must_use]
    pub fn within(&self, timeout: Duration) -> Client {
        Client { timeout: timeout.min(self.timeout), ..self.clone() }
    }

    /// How long an operation is tried while a server is away.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The cluster, as it was when the client connected.
    pub fn cluster(&self) -> &ClusterFile {
        &self.inner.shared.config.cluster
    }

    /// The configuration in force.
    pub fn config(&self) -> &ClientConfig {
        &self.inner.shared.config
    }

    /// Messages, bytes and copies of all threads of this client.
    pub fn counters(&self) -> &NetCounters {
        &self.inner.shared.counters
    }

    /// An asynchronous core for the calling thread's event loop (a current-thread runtime inside a `LocalSet`), with
    /// connections of its own. It shares open files and caches with this client.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] if too many threads and cores exist.
    pub fn core(&self) -> Result<Rc<Core>> {
        Core::new(&self.inner.shared)
    }

    pub(crate) fn run<T>(&self, op: impl AsyncFnOnce(&Core) -> Result<T>) -> Result<T> {
        lane::block_on(&self.inner.shared, async |core| {
            core.insist_for(self.timeout);
            op(core).await
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }
}
