//! Connections to servers by number: opened on need, kept, opened again after a failure.
//!
//! # Invariants
//! - At most one dial to a server is under way, however many calls wait for it, and it goes on when they are dropped
//!   (`many_callers_share_one_dial`).
//! - After a failed dial nobody dials again before the back-off is over: calls fail at once with the same reason.
//! - A connection that ended is replaced at the next call (`a_restarted_server_is_reached_again`).

use crate::address::Address;
use crate::connection::Connection;
use crate::env::{Identity, NetEnv};
use crate::error::NetError;
use crate::frame::Frame;
use crate::pool::PoolBuffer;
use bytes::Bytes;
use fs_proto::{Header, ServerId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a dial with its handshake may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the first failed dial; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The servers that this thread talks to.
pub struct Peers {
    addresses: Box<dyn Fn(ServerId) -> Option<Address>>,
    who: Identity,
    env: Rc<NetEnv>,
    links: RefCell<HashMap<ServerId, Link>>,
    me: Weak<Peers>,
}

enum Link {
    Open(Connection),
    Dialling(Rc<Notify>),
    Failed { until: Instant, pause: Duration, error: NetError },
}

/// What a caller does next.
enum Step {
    Use(Connection),
    Wait(Rc<Notify>),
    Fail(NetError),
}

impl Peers {
    /// Servers at the addresses that `addresses` gives (asked again at each dial), where we are `who`.
    pub fn new(
        addresses: impl Fn(ServerId) -> Option<Address> + 'static,
        who: Identity,
        env: Rc<NetEnv>,
    ) -> Rc<Peers> {
        Rc::new_cyclic(|me| Peers {
            addresses: Box::new(addresses),
            who,
            env,
            links: RefCell::default(),
            me: me.clone(),
        })
    }

    /// One attempt at a request to server `to`, connecting if need be: whether to try again is the caller's to decide.
    pub async fn call(
        &self,
        to: ServerId,
        header: Header,
        meta: Bytes,
        bulk: Bytes,
    ) -> Result<Frame, NetError> {
        let open = match self.links.borrow().get(&to) {
            Some(Link::Open(connection)) if !connection.is_closed() => Some(connection.clone()),
            _ => None,
        };
        let connection = match open {
            Some(connection) => connection,
            None => self.connection(to).await?,
        };
        connection.call(header, meta, bulk).await
    }

    /// A buffer of `len` bytes in memory shared with server `to`, if there is a connection that has one.
    pub fn buffer(&self, to: ServerId, len: usize) -> Option<PoolBuffer> {
        match self.links.borrow().get(&to) {
            Some(Link::Open(connection)) if !connection.is_closed() => connection.buffer(len),
            _ => None,
        }
    }

    /// The connection to server `to`, opened if need be.
    pub async fn connection(&self, to: ServerId) -> Result<Connection, NetError> {
        let mut waited = false;
        loop {
            match self.step(to, waited) {
                Step::Use(connection) => return Ok(connection),
                Step::Fail(error) => return Err(error),
                Step::Wait(dialled) => dialled.notified().await,
            }
            waited = true;
        }
    }

    /// Closes all connections; calls that wait on them fail. Later calls connect anew.
    pub fn close_all(&self) {
        let links = std::mem::take(&mut *self.links.borrow_mut());
        for link in links.into_values() {
            match link {
                Link::Open(connection) => connection.close(),
                Link::Dialling(waiting) => waiting.notify_waiters(),
                Link::Failed { .. } => {}
            }
        }
    }

    /// `waited`: a dial that this caller waited for has ended, so its failure is this caller's, however short the pause.
    fn step(&self, to: ServerId, waited: bool) -> Step {
        let mut links = self.links.borrow_mut();
        let pause = match links.get(&to) {
            Some(Link::Open(connection)) if !connection.is_closed() => return Step::Use(connection.clone()),
            Some(Link::Dialling(waiting)) => return Step::Wait(waiting.clone()),
            Some(Link::Failed { until, error, .. }) if waited || Instant::now() < *until => {
                return Step::Fail(error.clone());
            }
            Some(Link::Failed { pause, .. }) => (*pause * 2).min(LONGEST_PAUSE),
            Some(Link::Open(_)) | None => FIRST_PAUSE,
        };
        let (Some(address), Some(me)) = ((self.addresses)(to), self.me.upgrade()) else {
            return Step::Fail(NetError::UnknownServer(to));
        };
        let waiting = Rc::new(Notify::new());
        links.insert(to, Link::Dialling(waiting.clone()));
        // A task of its own: the caller that happened to be first may go away, the others still wait.
        tokio::task::spawn_local(me.dial(to, address, pause, waiting.clone()));
        Step::Wait(waiting)
    }

    async fn dial(self: Rc<Self>, to: ServerId, address: Address, pause: Duration, waiting: Rc<Notify>) {
        let dialled = Connection::connect(&address, &self.who, &self.env, DIAL_TIMEOUT).await;
        let link = match dialled {
            Ok(connection) if connection.server() == to => Link::Open(connection),
            Ok(connection) => {
                let found = connection.server();
                let error = NetError::Rejected(format!(
                    "at {address} is server {found}, not {to}: the cluster file is old"
                ));
                Link::Failed { until: Instant::now() + pause, pause, error }
            }
            Err(error) => Link::Failed { until: Instant::now() + pause, pause, error },
        };
        let mut links = self.links.borrow_mut();
        // After close_all the link is another's, or nobody's: this result is dropped then.
        if let Some(Link::Dialling(current)) = links.get(&to)
            && Rc::ptr_eq(current, &waiting)
        {
            links.insert(to, link);
        }
        drop(links);
        waiting.notify_waiters();
    }
}
