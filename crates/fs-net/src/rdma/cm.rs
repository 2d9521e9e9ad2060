//! Connecting by rdma_cm: one event channel and its listeners per thread.
//!
//! # Invariants
//! - Who does not send a token that is awaited gets no queue pair: it is refused.
//! - Every event is copied and acknowledged at once, so ending an identifier never waits for this thread.
//! - A child that was forked touches nothing of its parent's: it neither uses nor ends it (`sys::is_owner`).
//! - A queue pair is destroyed before its line is forgotten, and its buffers are given back after both ([`Pair`]'s `Drop`).

use super::Rdma;
use super::device::{device_of, devices};
use super::hub::{Events, Hub};
use super::kind::Kind;
use super::line::{CREDITS, DEPTH, Line};
use super::sys::{self, Api, CmEvent, CmId, ConnParam, EventChannel, Qp, QpAttr, QpInitAttr, api};
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr::{null, null_mut};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::task::AbortHandle;

/// What proves that who connects by rdma_cm is who asked over TCP.
pub(super) type Token = [u8; 32];

/// Events of rdma_cm, as numbered by its header.
const ADDR_RESOLVED: u32 = 0;
const ROUTE_RESOLVED: u32 = 2;
const CONNECT_REQUEST: u32 = 4;
const ESTABLISHED: u32 = 9;
const DISCONNECTED: u32 = 10;
const DEVICE_REMOVAL: u32 = 11;
const ADDR_CHANGE: u32 = 14;
const TIMEWAIT_EXIT: u32 = 15;

/// How long a step of connecting may take.
const RESOLVE_MS: i32 = 1000;
/// Retries after a time-out. Seven would be for ever with soft-RoCE.
const RETRIES: u8 = 4;
/// Time-out for acknowledgements: 4.096 microseconds times two to this power, 67 ms.
const ACK_TIMEOUT: u8 = 14;
/// Retries when the peer has no receive buffer: without end, because a peer that is alive posts some, and one that is not times out. (iWARP has no such
/// thing: `kind`.)
const RNR_RETRIES: u8 = 7;
/// Pause before such a retry, by the code of the specification: 0.64 ms. (rdma_cm leaves the longest, 655 ms.)
const RNR_TIMER: u8 = 12;
const MIN_RNR_TIMER: i32 = 1 << 15;
/// What is wished to be sent without a look into memory, where the device can.
const INLINE_BYTES: u32 = 220;
/// Connections that wait for being accepted.
const BACKLOG: i32 = 128;

thread_local! {
    static LOCAL: RefCell<Weak<Cm>> = const { RefCell::new(Weak::new()) };
}

/// This thread's part in connecting.
pub(super) struct Cm {
    api: &'static Api,
    channel: *mut EventChannel,
    events: Option<Events>,
    lines: RefCell<HashMap<*mut CmId, Rc<Line>>>,
    listeners: RefCell<HashMap<bool, (*mut CmId, u16)>>,
    awaited: RefCell<HashMap<Token, Weak<Awaited>>>,
    hubs: RefCell<Vec<Weak<Hub>>>,
    task: RefCell<Option<AbortHandle>>,
}

/// A connection that a peer was offered.
pub(super) struct Awaited {
    cm: Rc<Cm>,
    token: Token,
    /// Whom it is for, and who keeps account of how that goes.
    from: IpAddr,
    rdma: Arc<Rdma>,
    come: RefCell<Option<Pair>>,
    waker: RefCell<Option<std::task::Waker>>,
}

/// An identifier, with its queue pair once it has one.
pub(super) struct Pair {
    cm: Rc<Cm>,
    id: *mut CmId,
    pub line: Rc<Line>,
    made: Option<Made>,
}

struct Made {
    hub: Rc<Hub>,
    qp: *mut Qp,
    qp_num: u32,
    inline: usize,
}

impl Cm {
    /// The thread's, made if there is none.
    pub fn local() -> io::Result<Rc<Cm>> {
        devices().map_err(io::Error::other)?;
        if let Some(cm) = LOCAL.with_borrow(Weak::upgrade) {
            return Ok(cm);
        }
        let api = api().map_err(io::Error::other)?;
        // SAFETY: no requirements.
        let channel = unsafe { (api.rdma_create_event_channel)() };
        if channel.is_null() {
            return Err(io::Error::last_os_error());
        }
        let mut cm = Cm {
            api,
            channel,
            events: None,
            lines: RefCell::default(),
            listeners: RefCell::default(),
            awaited: RefCell::default(),
            hubs: RefCell::default(),
            task: RefCell::default(),
        };
        // SAFETY: made above.
        cm.events = Some(Events::new(unsafe { (*channel).fd })?);
        let cm = Rc::new(cm);
        let weak = Rc::downgrade(&cm);
        let task = tokio::task::spawn_local(poll_fn(move |cx| run(&weak, cx)));
        cm.task.replace(Some(task.abort_handle()));
        LOCAL.set(Rc::downgrade(&cm));
        Ok(cm)
    }

    /// The port where this thread waits for who brings the token, a peer with this address.
    pub fn offer(
        self: &Rc<Self>,
        token: Token,
        from: IpAddr,
        rdma: &Arc<Rdma>,
    ) -> io::Result<(u16, Rc<Awaited>)> {
        let port = self.listen(from.is_ipv6())?;
        let (come, waker) = Default::default();
        let awaited = Rc::new(Awaited { cm: self.clone(), token, from, rdma: rdma.clone(), come, waker });
        self.awaited.borrow_mut().insert(token, Rc::downgrade(&awaited));
        Ok((port, awaited))
    }

    fn listen(self: &Rc<Self>, is_v6: bool) -> io::Result<u16> {
        if let Some((_, port)) = self.listeners.borrow().get(&is_v6) {
            return Ok(*port);
        }
        let any = if is_v6 { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
        let id = self.new_id()?;
        let mut address = Sockaddr::new(SocketAddr::new(any, 0));
        // SAFETY: the identifier is new, the address lives through the call.
        let port = unsafe {
            check((self.api.rdma_bind_addr)(id, address.as_mut()))
                .and_then(|()| check((self.api.rdma_listen)(id, BACKLOG)))
                .map(|()| u16::from_be((self.api.rdma_get_src_port)(id)))
        };
        match port {
            Ok(port) => {
                self.listeners.borrow_mut().insert(is_v6, (id, port));
                Ok(port)
            }
            Err(error) => {
                // SAFETY: made above, used by nobody.
                unsafe { (self.api.rdma_destroy_id)(id) };
                Err(error)
            }
        }
    }

    fn new_id(&self) -> io::Result<*mut CmId> {
        let mut id = null_mut();
        // SAFETY: the channel lives as long as this.
        check(unsafe { (self.api.rdma_create_id)(self.channel, &raw mut id, null_mut(), sys::PS_TCP) })?;
        Ok(id)
    }

    /// Connects to a listener. `token` goes along as private data. May be dropped.
    pub async fn connect(self: &Rc<Self>, to: SocketAddr, token: &Token) -> io::Result<Pair> {
        let mut pair = Pair::new(self, self.new_id()?);
        let mut address = Sockaddr::new(to);
        // SAFETY: the identifier lives as long as the pair, the address through the call.
        check(unsafe { (self.api.rdma_resolve_addr)(pair.id, null_mut(), address.as_mut(), RESOLVE_MS) })?;
        pair.step(ADDR_RESOLVED).await?;
        // SAFETY: as above.
        check(unsafe { (self.api.rdma_resolve_route)(pair.id, RESOLVE_MS) })?;
        pair.step(ROUTE_RESOLVED).await?;
        pair.make()?;
        let mut wish = parameters(Some(token), pair.reads());
        // SAFETY: as above; the token lives through the call.
        check(unsafe { (self.api.rdma_connect)(pair.id, &raw mut wish) })?;
        pair.step(ESTABLISHED).await?;
        pair.line.is_up.set(true);
        pair.settle();
        Ok(pair)
    }

    /// This thread's part of a device.
    fn hub(&self, id: *mut CmId) -> io::Result<Rc<Hub>> {
        // SAFETY: the identifier is bound to a device by now.
        let device = device_of(unsafe { (*id).verbs })
            .ok_or_else(|| io::Error::other("an RDMA device that came after the start"))?;
        let known =
            self.hubs.borrow().iter().filter_map(Weak::upgrade).find(|hub| hub.device.index == device.index);
        if let Some(hub) = known {
            return Ok(hub);
        }
        let hub = Hub::new(device)?;
        let mut hubs = self.hubs.borrow_mut();
        hubs.retain(|hub| hub.strong_count() > 0);
        hubs.push(Rc::downgrade(&hub));
        Ok(hub)
    }

    /// This thread's parts of devices, as many as are in use.
    #[cfg(test)]
    pub fn hubs(&self) -> Vec<Rc<Hub>> {
        self.hubs.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// Takes all events that there are.
    fn take_events(self: &Rc<Self>) {
        loop {
            let mut event = null_mut();
            // SAFETY: the channel lives, and does not block; the event is copied and acknowledged once.
            let taken = unsafe {
                if (self.api.rdma_get_cm_event)(self.channel, &raw mut event) != 0 {
                    return;
                }
                let taken = Taken::of(&*event);
                (self.api.rdma_ack_cm_event)(event);
                taken
            };
            self.handle(&taken);
        }
    }

    fn handle(self: &Rc<Self>, event: &Taken) {
        if event.kind == CONNECT_REQUEST {
            return self.admit(event);
        }
        let line = self.lines.borrow().get(&event.id).cloned();
        let Some(line) = line else { return };
        match event.kind {
            DISCONNECTED => line.fail("the peer has closed"),
            DEVICE_REMOVAL => line.fail("the device is gone"),
            ESTABLISHED if !line.speaks_second.get() => line.is_up.set(true),
            ADDR_CHANGE | TIMEWAIT_EXIT => return,
            _ => {}
        }
        line.steps.borrow_mut().push_back((event.kind, event.status));
        line.wake();
    }

    /// Somebody connects.
    fn admit(self: &Rc<Self>, event: &Taken) {
        let awaited = self.awaited.borrow_mut().remove(&event.token).and_then(|awaited| awaited.upgrade());
        let mut pair = Pair::new(self, event.id);
        let Some(awaited) = awaited else {
            tracing::info!("not a peer: a connection over RDMA without a token that is awaited");
            // SAFETY: the identifier lives as long as the pair.
            unsafe { (self.api.rdma_reject)(event.id, null(), 0) };
            return;
        };
        match pair.make().and_then(|()| pair.accept()) {
            Ok(()) => {
                awaited.rdma.accepts(awaited.from);
                awaited.come.replace(Some(pair));
                if let Some(waker) = awaited.waker.take() {
                    waker.wake();
                }
            }
            Err(error) => awaited.rdma.cannot_accept(awaited.from, &error.to_string()),
        }
    }
}

fn run(cm: &Weak<Cm>, cx: &mut Context<'_>) -> Poll<()> {
    let Some(cm) = cm.upgrade() else { return Poll::Ready(()) };
    let Some(events) = &cm.events else { return Poll::Ready(()) };
    events.poll(cx, || cm.take_events())
}

impl Drop for Cm {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.events = None;
        if !sys::is_owner() {
            return;
        }
        for (id, _) in self.listeners.take().into_values() {
            // SAFETY: the listeners are this one's alone.
            unsafe { (self.api.rdma_destroy_id)(id) };
        }
        // SAFETY: every other identifier keeps this alive; all events were acknowledged.
        unsafe { (self.api.rdma_destroy_event_channel)(self.channel) };
    }
}

/// An event, copied.
struct Taken {
    id: *mut CmId,
    kind: u32,
    status: i32,
    token: Token,
}

impl Taken {
    fn of(event: &CmEvent) -> Taken {
        let mut token = Token::default();
        let (data, len) = (event.conn.private_data.cast::<u8>(), event.conn.private_data_len as usize);
        if event.event == CONNECT_REQUEST && !data.is_null() && len >= token.len() {
            // SAFETY: a request to connect has `len` bytes of private data until it is acknowledged.
            unsafe { data.copy_to_nonoverlapping(token.as_mut_ptr(), token.len()) };
        }
        Taken { id: event.id, kind: event.event, status: event.status, token }
    }
}

impl Awaited {
    /// The connection, when it has come. If not, `cx` is woken when it does.
    pub fn poll_come(&self, cx: &Context<'_>) -> Option<Pair> {
        let come = self.come.borrow_mut().take();
        if come.is_none() {
            self.waker.replace(Some(cx.waker().clone()));
        }
        come
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.cm.awaited.borrow_mut().remove(&self.token);
    }
}

impl Pair {
    fn new(cm: &Rc<Cm>, id: *mut CmId) -> Pair {
        let line: Rc<Line> = Rc::default();
        cm.lines.borrow_mut().insert(id, line.clone());
        Pair { cm: cm.clone(), id, line, made: None }
    }

    /// Waits for an event; any other is an error.
    async fn step(&self, expected: u32) -> io::Result<()> {
        let (kind, status) = poll_fn(|cx| {
            self.line.watch(cx);
            self.line.steps.borrow_mut().pop_front().map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        match (kind == expected, status) {
            (true, 0) => Ok(()),
            (_, status) if status < 0 => Err(io::Error::from_raw_os_error(-status)),
            _ => Err(io::Error::other(format!("rdma_cm answered with event {kind}, status {status}"))),
        }
    }

    /// Makes the queue pair, of this thread's part of the device.
    fn make(&mut self) -> io::Result<()> {
        let hub = self.cm.hub(self.id)?;
        let mut wish = QpInitAttr {
            qp_context: null(),
            send_cq: hub.cq,
            recv_cq: hub.cq,
            srq: hub.srq,
            max_send_wr: DEPTH,
            max_recv_wr: hub.receives_of_each() as u32,
            max_send_sge: 1,
            max_recv_sge: 1,
            max_inline_data: INLINE_BYTES,
            qp_type: sys::QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: identifier, domain and queues live; the pair keeps the hub.
        let mut create =
            || check(unsafe { (self.cm.api.rdma_create_qp)(self.id, hub.device.pd, &raw mut wish) });
        if create().is_err() {
            wish.max_inline_data = 0;
            // SAFETY: as above.
            check(unsafe { (self.cm.api.rdma_create_qp)(self.id, hub.device.pd, &raw mut wish) })?;
        }
        // SAFETY: made above.
        let (qp, qp_num) = unsafe { ((*self.id).qp, (*(*self.id).qp).qp_num) };
        let made = Made { hub: hub.clone(), qp, qp_num, inline: wish.max_inline_data as usize };
        self.made = Some(made);
        hub.join((qp, qp_num), self.line.clone())?;
        match hub.device.kind {
            Kind::InfiniBand => self.set_ack_timeout(),
            Kind::Iwarp => Ok(()),
        }
    }

    /// Reads that the device answers at once, and that it asks for at once.
    fn reads(&self) -> (u8, u8) {
        self.made.as_ref().map_or((1, 1), |made| made.hub.device.reads)
    }

    fn set_ack_timeout(&self) -> io::Result<()> {
        let mut value = ACK_TIMEOUT;
        let option = (&raw mut value).cast();
        // SAFETY: the value lives through the call.
        check(unsafe {
            (self.cm.api.rdma_set_option)(self.id, sys::OPTION_ID, sys::OPTION_ID_ACK_TIMEOUT, option, 1)
        })
    }

    fn accept(&self) -> io::Result<()> {
        let is_iwarp = self.made.as_ref().is_some_and(|made| made.hub.device.kind == Kind::Iwarp);
        self.line.speaks_second.set(is_iwarp);
        // As many as the other side wishes for, if the device can: rdma_cm compares them.
        let mut wish = parameters(None, (sys::MAX_READS, sys::MAX_READS));
        // SAFETY: the identifier lives as long as the pair.
        check(unsafe { (self.cm.api.rdma_accept)(self.id, &raw mut wish) })?;
        self.settle();
        Ok(())
    }

    /// What rdma_cm does not set, and what not every kind of device has.
    fn settle(&self) {
        let Some(made) = self.made.as_ref().filter(|made| made.hub.device.kind == Kind::InfiniBand) else {
            return;
        };
        let mut wish = QpAttr::with_min_rnr_timer(RNR_TIMER);
        // SAFETY: the queue pair lives as long as the pair.
        let status = unsafe { (self.cm.api.ibv_modify_qp)(made.qp, &raw mut wish, MIN_RNR_TIMER) };
        if status != 0 {
            tracing::debug!(status, "the device keeps its own pause for peers without receive buffers");
        }
    }

    /// Hub, queue pair, and bytes that fit into a request itself. `None`: it has no queue pair.
    pub fn parts(&self) -> Option<(&Rc<Hub>, *mut Qp, usize)> {
        self.made.as_ref().map(|made| (&made.hub, made.qp, made.inline))
    }

    /// The device's port.
    pub fn port(&self) -> u8 {
        // SAFETY: the identifier lives as long as the pair.
        unsafe { (*self.id).port_num }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if !sys::is_owner() {
            return;
        }
        if let Some(made) = self.made.take() {
            made.hub.leave(made.qp_num);
            // SAFETY: made by this pair; after this the device touches none of its buffers.
            unsafe { (self.cm.api.rdma_destroy_qp)(self.id) };
            made.hub.drain();
            made.hub.reclaim(&self.line);
        }
        self.cm.lines.borrow_mut().remove(&self.id);
        // SAFETY: the identifier is this pair's alone, and has no queue pair any more.
        unsafe { (self.cm.api.rdma_destroy_id)(self.id) };
    }
}

/// The token must live until these were used. `reads`: how many the device is to answer at once, and to ask for.
fn parameters(token: Option<&Token>, reads: (u8, u8)) -> ConnParam {
    ConnParam {
        private_data: token.map_or(null(), |token| token.as_ptr().cast()),
        private_data_len: token.map_or(0, |token| token.len() as u8),
        responder_resources: reads.0,
        initiator_depth: reads.1,
        flow_control: 1,
        retry_count: RETRIES,
        rnr_retry_count: RNR_RETRIES,
        srq: 1,
        qp_num: 0,
    }
}

fn check(status: i32) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An address as the library takes it.
struct Sockaddr(socket2::SockAddr);

impl Sockaddr {
    fn new(address: SocketAddr) -> Sockaddr {
        Sockaddr(address.into())
    }

    fn as_mut(&mut self) -> *mut libc::sockaddr {
        self.0.as_ptr().cast_mut().cast()
    }
}

const _: () = assert!(CREDITS < DEPTH);
