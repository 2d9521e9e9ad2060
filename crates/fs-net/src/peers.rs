//! Connections to servers by number: opened on need, kept, opened again after a failure.
//!
//! # Invariants
//! - At most one dial to a server is under way, however many calls wait for it, and it goes on when they are dropped
//!   (`many_callers_share_one_dial`).
//! - After a failed dial nobody dials again before the back-off is over: calls fail at once with the same reason.
//! - A connection that ended is replaced at the next call (`a_restarted_server_is_reached_again`).
//! - A connection that is over TCP only for now is replaced by one over RDMA when that may be, and no call waits for it or fails by it
//!   (`rdma/returns.rs`, `calls_go_on_while_rdma_comes_back`).
//! - Between servers no message waits behind data that wait for a buffer: those have a connection of their own, unless memory is granted to them
//!   before they are sent (RDMA, shared memory) (`small_messages_pass_data_that_wait`).
//! - There are no more connections than the limit, but for those with calls under way; what is unused goes, first what was for longest
//!   (`connections_beyond_the_limit_make_room`, `what_is_not_used_is_closed`).

use crate::address::Address;
use crate::connection::Connection;
use crate::env::{Identity, NetEnv};
use crate::error::NetError;
use crate::frame::{Frame, LARGE_BYTES};
use crate::inside::{Inside, ServerInside};
use crate::pool::PoolBuffer;
use crate::shm::Lending;
use bytes::Bytes;
use fs_proto::msg::session::Role;
use fs_proto::{ClientId, Header, ServerId};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a dial with its handshake may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the first failed dial; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Connections of a thread, unless said otherwise.
const MOST_DEFAULT: usize = 1024;

/// The servers that this thread talks to.
pub struct Peers {
    addresses: Box<dyn Fn(ServerId) -> Option<Address>>,
    who: Identity,
    env: Rc<NetEnv>,
    links: RefCell<HashMap<(ServerId, Way), Link>>,
    /// Connections open at once, about.
    most: Cell<usize>,
    /// Grows with every call.
    turn: Cell<u64>,
    /// What it was at the last look for what is unused.
    looked: Cell<u64>,
    /// The server in this process.
    inside: RefCell<Option<Rc<Inside>>>,
    me: Weak<Peers>,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    /// All that finds room at once; all there is, if data have no connection of their own.
    Any,
    /// Messages that may have to wait for a buffer at their receiver, and hold up what comes behind.
    Data,
}

enum Link {
    /// With the turn of its last use.
    Open(Connection, Cell<u64>),
    Dialling(Rc<Notify>),
    Failed {
        until: Instant,
        pause: Duration,
        error: NetError,
    },
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
            most: Cell::new(MOST_DEFAULT),
            turn: Cell::new(1),
            looked: Cell::new(0),
            inside: RefCell::default(),
            me: me.clone(),
        })
    }

    /// From now on this thread carries out itself, as `client`, what a server of its process can answer at once.
    pub fn enter(&self, server: Arc<dyn ServerInside>, client: ClientId) {
        *self.inside.borrow_mut() = Inside::new(server, client).map(Rc::new);
    }

    /// One attempt at a request to server `to`, connecting if need be: whether to try again is the caller's to decide.
    pub async fn call(
        &self,
        to: ServerId,
        header: Header,
        meta: Bytes,
        bulk: Bytes,
    ) -> Result<Frame, NetError> {
        self.call_into(to, header, meta, bulk, &Lending::default()).await
    }

    /// As [`Peers::call`]; the data of the answer lands in the memory that `lending` shares with who it is for, where that can be.
    pub async fn call_into(
        &self,
        to: ServerId,
        header: Header,
        meta: Bytes,
        bulk: Bytes,
        lending: &Lending,
    ) -> Result<Frame, NetError> {
        let inside = self.inside.borrow().clone();
        if let Some(inside) = inside.filter(|inside| inside.takes(to, &header)) {
            return Ok(inside.call(header, meta, bulk).await);
        }
        let way = self.way(to, &header, &bulk);
        self.connection_for(to, way).await?.call_into(header, meta, bulk, lending).await
    }

    /// A client's thread asks one thing after the other; a server's asks for all who ask it.
    fn way(&self, to: ServerId, header: &Header, bulk: &Bytes) -> Way {
        let is_data = bulk.len() >= LARGE_BYTES || header.op.answers_data();
        if !is_data || !matches!(self.who.role, Role::Server { .. }) {
            return Way::Any;
        }
        match self.links.borrow().get(&(to, Way::Any)) {
            Some(Link::Open(connection, _)) if connection.is_rdma() || connection.is_shared() => Way::Any,
            _ => Way::Data,
        }
    }

    /// A buffer of `len` bytes in memory shared with server `to`, if there is a connection that has one.
    pub fn buffer(&self, to: ServerId, len: usize) -> Option<PoolBuffer> {
        match self.links.borrow().get(&(to, Way::Any)) {
            Some(Link::Open(connection, _)) if !connection.is_closed() => connection.buffer(len),
            _ => None,
        }
    }

    /// The connection to server `to`, opened if need be.
    pub async fn connection(&self, to: ServerId) -> Result<Connection, NetError> {
        self.connection_for(to, Way::Any).await
    }

    async fn connection_for(&self, to: ServerId, way: Way) -> Result<Connection, NetError> {
        let mut waited = false;
        loop {
            match self.step((to, way), waited) {
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
                Link::Open(connection, _) => connection.close(),
                Link::Dialling(waiting) => waiting.notify_waiters(),
                Link::Failed { .. } => {}
            }
        }
    }

    /// Sets how many connections may be open before idle ones are closed.
    pub fn set_limit(&self, most: usize) {
        self.most.set(most.max(1));
    }

    /// Closes connections that no call has used since the last time that this was asked.
    pub fn close_unused(&self) {
        let before = self.looked.replace(self.turn.get());
        self.close_idle(|used| used < before);
    }

    fn next_turn(&self) -> u64 {
        self.turn.replace(self.turn.get() + 1)
    }

    /// Closes those unused for longest, beyond the limit.
    fn make_room(&self) {
        // The newest was just made for somebody, who has not yet asked.
        let newest = self.turn.get() - 1;
        let (mut open, mut idle) = (0_usize, Vec::new());
        for link in self.links.borrow().values() {
            let Link::Open(connection, used) = link else { continue };
            open += usize::from(!connection.is_closed());
            if connection.is_idle() && used.get() != newest {
                idle.push(used.get());
            }
        }
        let beyond = open.saturating_sub(self.most.get()).min(idle.len());
        if beyond > 0 {
            let (_, last, _) = idle.select_nth_unstable(beyond - 1);
            let last = *last;
            self.close_idle(|used| used <= last && used != newest);
        }
    }

    fn close_idle(&self, is_old: impl Fn(u64) -> bool) {
        let mut closed = Vec::new();
        self.links.borrow_mut().retain(|_, link| match link {
            Link::Open(connection, used) if is_old(used.get()) && connection.is_idle() => {
                closed.push(connection.clone());
                false
            }
            _ => true,
        });
        // Outside of the borrow: whoever is woken may call.
        closed.iter().for_each(Connection::close);
    }

    /// `waited`: a dial that this caller waited for has ended, so its failure is this caller's, however short the pause.
    fn step(&self, place: (ServerId, Way), waited: bool) -> Step {
        let (to, _) = place;
        let mut links = self.links.borrow_mut();
        let pause = match links.get(&place) {
            Some(Link::Open(connection, used)) if !connection.is_closed() => {
                used.set(self.next_turn());
                if connection.may_become_rdma(&self.env) {
                    self.improve(place, connection.clone());
                }
                return Step::Use(connection.clone());
            }
            Some(Link::Dialling(waiting)) => return Step::Wait(waiting.clone()),
            Some(Link::Failed { until, error, .. }) if waited || Instant::now() < *until => {
                return Step::Fail(error.clone());
            }
            Some(Link::Failed { pause, .. }) => (*pause * 2).min(LONGEST_PAUSE),
            Some(Link::Open(..)) | None => FIRST_PAUSE,
        };
        let (Some(address), Some(me)) = ((self.addresses)(to), self.me.upgrade()) else {
            return Step::Fail(NetError::UnknownServer(to));
        };
        let waiting = Rc::new(Notify::new());
        links.insert(place, Link::Dialling(waiting.clone()));
        // A task of its own: the caller that happened to be first may go away, the others still wait.
        tokio::task::spawn_local(me.dial(place, address, pause, waiting.clone()));
        Step::Wait(waiting)
    }

    /// Puts a connection over RDMA in the place of `old`, if that comes about now. Calls go on over `old` meanwhile, and those that are under
    /// way then end there.
    fn improve(&self, place: (ServerId, Way), old: Connection) {
        let (to, _) = place;
        let (Some(address), Some(me)) = ((self.addresses)(to), self.me.upgrade()) else { return };
        tokio::task::spawn_local(async move {
            let dialled = Connection::connect(&address, &me.who, &me.env, DIAL_TIMEOUT).await;
            let Ok(new) = dialled else { return };
            if !new.is_rdma() || new.server() != to {
                return;
            }
            let mut links = me.links.borrow_mut();
            if let Some(Link::Open(current, _)) = links.get(&place)
                && current.is_same(&old)
            {
                links.insert(place, Link::Open(new, Cell::new(me.next_turn())));
            }
        });
    }

    async fn dial(
        self: Rc<Self>,
        place: (ServerId, Way),
        address: Address,
        pause: Duration,
        waiting: Rc<Notify>,
    ) {
        let (to, _) = place;
        let dialled = Connection::connect(&address, &self.who, &self.env, DIAL_TIMEOUT).await;
        let link = match dialled {
            Ok(connection) if connection.server() == to => {
                Link::Open(connection, Cell::new(self.next_turn()))
            }
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
        if let Some(Link::Dialling(current)) = links.get(&place)
            && Rc::ptr_eq(current, &waiting)
        {
            links.insert(place, link);
        }
        drop(links);
        self.make_room();
        waiting.notify_waiters();
    }
}
