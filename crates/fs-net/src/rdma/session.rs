//! How a connection over TCP becomes one over RDMA: the connecting side asks, as its first request; the server answers with the addresses of
//! its devices, a port and a token; the connecting side goes there and shows the token. Any refusal or failure leaves the connection as it is.
//!
//! # Invariants
//! - Nothing is offered to who has not proved to know the secret (it is the first request after the handshake), and a token opens one connection.
//! - Connecting takes no longer than [`TRIES`] times [`TRY_TIMEOUT`], and is not tried again for a while after it failed
//!   (`tests/rdma.rs`, `without_a_way_tcp_does`). Addresses that failed lately come last.

use super::Rdma as RdmaState;
use super::cm::{Cm, Token};
use super::interfaces;
use super::link::Link;
use super::transport::RdmaTransport;
use crate::budget::{Account, BufferClass};
use crate::env::NetEnv;
use crate::error::NetError;
use crate::frame::Frame;
use crate::secret::random_bytes;
use crate::send_queue::SendQueue;
use crate::transport::Transport;
use bytes::Bytes;
use fs_proto::msg::session::{Rdma as Ask, RdmaOffer};
use fs_proto::{Flags, Header, Op, Partition, Status, Wire};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long connecting to one address may take.
const TRY_TIMEOUT: Duration = Duration::from_millis(1500);
/// Addresses that are tried.
const TRIES: usize = 2;

/// Connections that this process has begun, and a random number: each begins with another of the peer's addresses, and each process with
/// another, so that all devices are used.
fn begun() -> usize {
    static BEGUN: OnceLock<AtomicUsize> = OnceLock::new();
    let seed = || AtomicUsize::new(random_bytes().map_or(0, |raw| usize::from(raw[0])));
    BEGUN.get_or_init(seed).fetch_add(1, Ordering::Relaxed)
}

// --- the connecting side ---

/// By which way a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// RDMA.
    Rdma,
    /// TCP, until RDMA with the peer of this name may be tried again.
    TcpForNow(String),
    /// Another, for good.
    Other,
}

/// Asks for RDMA. Gives the transport to go on with, and which that is.
pub(crate) async fn ask(
    mut socket: Box<dyn Transport>,
    env: &Rc<NetEnv>,
) -> Result<(Box<dyn Transport>, Way), NetError> {
    let peer = socket.describe();
    if socket.remote().is_none() || env.rdma.devices().is_err() {
        return Ok((socket, Way::Other));
    }
    if !env.rdma.may_try(&peer) {
        return Ok((socket, Way::TcpForNow(peer)));
    }
    if !env.rdma.is_up() {
        env.rdma.refused(&peer, "no port of this node's RDMA devices is up");
        return Ok((socket, Way::TcpForNow(peer)));
    }
    let offer = match offered(&mut *socket, env).await? {
        Ok(offer) => offer,
        Err(why) => {
            env.rdma.refused(&peer, &why);
            return Ok((socket, Way::TcpForNow(peer)));
        }
    };
    match connect(&offer, env).await {
        Ok(link) => {
            env.rdma.works(&peer);
            let mut transport = Box::new(RdmaTransport::connected(socket, link, env));
            transport.trust(BufferClass::PeerReply, None);
            Ok((transport, Way::Rdma))
        }
        Err(why) => {
            env.rdma.failed(&peer, &why);
            Ok((socket, Way::TcpForNow(peer)))
        }
    }
}

/// What the peer offers, or why nothing.
pub(super) async fn offered(
    socket: &mut dyn Transport,
    env: &NetEnv,
) -> Result<Result<RdmaOffer, String>, NetError> {
    let mut queue = SendQueue::new(env.counters.clone());
    queue.push(Header::request(Op::Rdma, Partition(0)), Ask {}.to_bytes(), Bytes::new())?;
    poll_fn(|cx| socket.poll_send(cx, &mut queue)).await?;
    let mut frames: VecDeque<Frame> = VecDeque::new();
    poll_fn(|cx| socket.poll_receive(cx, &mut frames)).await?;
    let Some(Frame { header, meta, .. }) = frames.pop_front().filter(|_| frames.is_empty()) else {
        return Err(NetError::protocol("more than an answer about RDMA"));
    };
    if header.op != Op::Rdma || !header.flags.has(Flags::REPLY) {
        return Err(NetError::protocol("something else than an answer about RDMA"));
    }
    if header.status != Status::Ok {
        return Ok(Err(String::from_bytes(meta).unwrap_or_default()));
    }
    RdmaOffer::from_bytes(meta).map(Ok).map_err(NetError::protocol)
}

/// Tries the peer's addresses. The error is for people.
async fn connect(offer: &RdmaOffer, env: &Rc<NetEnv>) -> Result<Link, String> {
    let token = Token::try_from(&offer.token[..]).map_err(|_| "an offer with a short token".to_owned())?;
    let cm = Cm::local().map_err(|error| error.to_string())?;
    let mut why = "the peer has no address for RDMA".to_owned();
    for text in in_turn(&offer.addresses, &env.rdma).into_iter().take(TRIES) {
        let Ok(ip) = text.parse::<IpAddr>() else { continue };
        match timeout(TRY_TIMEOUT, cm.connect(SocketAddr::new(ip, offer.port), &token)).await {
            Ok(Ok(pair)) => {
                env.rdma.trust.win(text, Instant::now());
                return Ok(Link::new(pair, env));
            }
            Ok(Err(error)) => why = format!("{ip}: {error}"),
            Err(_) => why = format!("{ip}: no answer"),
        }
        env.rdma.trust.pause(text, Instant::now());
    }
    Err(why)
}

/// A peer's addresses, each time beginning with another, but those that failed lately last.
fn in_turn<'a>(addresses: &'a [String], rdma: &RdmaState) -> Vec<&'a String> {
    let (begin, now) = (begun(), Instant::now());
    let mut addresses: Vec<_> = addresses.iter().collect();
    if !addresses.is_empty() {
        let places = addresses.len();
        addresses.rotate_left(begin % places);
    }
    addresses.sort_by_key(|address| rdma.trust.is_paused(address, now));
    addresses
}

// --- the server ---

/// Answers a request for RDMA. Gives the transport to go on with.
pub(crate) async fn grant(
    mut socket: Box<dyn Transport>,
    request: &Header,
    (class, account): (BufferClass, Account),
    env: &Rc<NetEnv>,
) -> Result<Box<dyn Transport>, NetError> {
    let mut queue = SendQueue::new(env.counters.clone());
    let offered = offer(&*socket, env);
    let (status, meta) = match &offered {
        Ok((offer, _)) => (Status::Ok, offer.to_bytes()),
        Err(why) => (Status::NotSupported, why.to_bytes()),
    };
    queue.push(reply(request, status), meta, Bytes::new())?;
    poll_fn(|cx| socket.poll_send(cx, &mut queue)).await?;
    let Ok((_, awaited)) = offered else { return Ok(socket) };
    let mut transport = Box::new(RdmaTransport::awaiting(socket, awaited, env));
    transport.trust(class, Some(account));
    Ok(transport)
}

fn reply(request: &Header, status: Status) -> Header {
    let mut header = request.reply(status, 0, 0);
    header.tag = request.tag;
    header.flags = header.flags.with(Flags::REPLY);
    header
}

type Offered = (RdmaOffer, Rc<super::cm::Awaited>);

/// What to answer, and what to wait for. The error is for people.
fn offer(socket: &dyn Transport, env: &NetEnv) -> Result<Offered, String> {
    let remote = socket.remote().ok_or("RDMA begins with a connection over TCP")?;
    let devices = env.rdma.devices()?;
    if let Some(why) = env.rdma.why_no_offer() {
        return Err(why.to_owned());
    }
    let from = remote.ip().to_canonical();
    let addresses: Vec<String> = devices
        .iter()
        .flat_map(|device| interfaces::addresses_of(&device.name, from.is_ipv6()))
        .map(|ip| ip.to_string())
        .collect();
    if addresses.is_empty() {
        return Err("no RDMA device of this server is up and has an address".to_owned());
    }
    let text = |error: std::io::Error| error.to_string();
    let token = random_bytes().map_err(|error| error.to_string())?;
    let (port, awaited) = Cm::local().map_err(text)?.offer(token, from, &env.rdma).map_err(text)?;
    Ok((RdmaOffer { port, addresses, token: Bytes::copy_from_slice(&token) }, awaited))
}
