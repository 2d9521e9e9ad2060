//! Listeners: bound by any thread, run by one, which hands the accepted sockets on.
//!
//! # Invariants
//! - A Unix socket is taken over only if nobody answers on it, and two processes never both take it over: a lock file beside it is
//!   held while listening (`a_live_unix_socket_is_not_taken_over`, `a_stale_unix_socket_is_replaced`).
//! - The socket file is removed when the acceptor is dropped.

use crate::address::Address;
use crate::budget::{Budget, BufferClass, Charge};
use crate::error::NetError;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions, Permissions};
use std::future::Future;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Pause when the system cannot give another socket (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Below it are the ports that services are known by.
const FREE_PORT_MIN: u16 = 10_240;
/// Ports tried before the system is asked for any.
const FREE_PORT_TRIES: usize = 64;

/// An accepted socket, nonblocking, not yet of any runtime.
#[derive(Debug)]
pub enum Socket {
    /// From another node, or from this one by loopback.
    Tcp(TcpStream),
    /// From this node.
    Unix(UnixStream),
}

/// An accepted socket with the memory that is counted for its connection.
#[derive(Debug)]
pub struct Accepted {
    pub(crate) socket: Socket,
    pub(crate) slot: Option<Charge>,
}

impl From<Socket> for Accepted {
    fn from(socket: Socket) -> Accepted {
        Accepted { socket, slot: None }
    }
}

/// Bytes that an idle connection takes, the event loop's part and its client's account included: measured, see docs/performance.md;
/// `tests/idle_bytes.rs` guards it.
pub const CONNECTION_BYTES: usize = 1_024;

/// A bound listener.
#[derive(Debug)]
pub struct Acceptor {
    address: Address,
    listener: Listener,
    /// Dropped after the listener.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A socket's file, with the lock that makes it ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    _lock: File,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

impl Acceptor {
    /// Listens on an address. With port 0 it is a free one, which [`Acceptor::address`] tells: of those that the system gives to nobody by
    /// itself, so that who is started again finds it free.
    pub fn bind(address: &Address) -> Result<Acceptor, NetError> {
        match address {
            Address::Tcp(host_port) => bind_tcp(address, host_port),
            Address::Unix(path) => bind_unix(address, path),
        }
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Accepts until `stop` is ready, and gives every socket to `deliver`. Needs a tokio runtime with I/O and time.
    pub async fn run(
        self,
        deliver: impl FnMut(Accepted),
        stop: impl Future<Output = ()>,
    ) -> Result<(), NetError> {
        self.run_within(&Budget::new(usize::MAX), || (), deliver, stop).await
    }

    /// As [`Acceptor::run`], as long as `room` has some. Without, connections wait in the kernel's queue, and `pressed` is called once for
    /// each time that one has to.
    pub async fn run_within(
        self,
        room: &Budget,
        mut pressed: impl FnMut(),
        mut deliver: impl FnMut(Accepted),
        stop: impl Future<Output = ()>,
    ) -> Result<(), NetError> {
        let mut stop = pin!(stop);
        let listener = self.listener.into_async().map_err(|source| listen_error(&self.address, source))?;
        loop {
            let accepted = {
                let mut accept = pin!(accept_within(&listener, room, &mut pressed));
                std::future::poll_fn(|cx| match stop.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(None),
                    Poll::Pending => accept.as_mut().poll(cx).map(Some),
                })
                .await
            };
            match accepted {
                None => return Ok(()),
                Some(Ok(accepted)) => deliver(accepted),
                Some(Err(error)) if is_of_one_connection(&error) => {}
                Some(Err(error)) => {
                    tracing::error!(address = %self.address, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Waits for a connection, then for room. In this order, so that nothing is counted for connections that may never come.
async fn accept_within(
    listener: &AsyncListener,
    room: &Budget,
    pressed: &mut impl FnMut(),
) -> io::Result<Accepted> {
    let socket = listener.accept().await?;
    let slot = if let Some(slot) = room.try_get(BufferClass::PeerRequest, None, CONNECTION_BYTES) {
        slot
    } else {
        pressed();
        room.get(BufferClass::PeerRequest, None, CONNECTION_BYTES).await
    };
    Ok(Accepted { socket, slot: Some(slot) })
}

/// Whether only the connection that was about to be accepted failed.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

enum AsyncListener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Listener {
    fn into_async(self) -> io::Result<AsyncListener> {
        Ok(match self {
            Listener::Tcp(listener) => AsyncListener::Tcp(tokio::net::TcpListener::from_std(listener)?),
            Listener::Unix(listener) => AsyncListener::Unix(tokio::net::UnixListener::from_std(listener)?),
        })
    }
}

impl AsyncListener {
    async fn accept(&self) -> io::Result<Socket> {
        match self {
            AsyncListener::Tcp(listener) => listener.accept().await?.0.into_std().map(Socket::Tcp),
            AsyncListener::Unix(listener) => listener.accept().await?.0.into_std().map(Socket::Unix),
        }
    }
}

fn listen_error(address: &Address, source: io::Error) -> NetError {
    let address = address.clone();
    if source.kind() == io::ErrorKind::AddrInUse {
        let reason =
            "another process listens there; stop it, or choose another port (0 takes a free one)".to_owned();
        return NetError::InUse { address, reason };
    }
    NetError::Listen { address, source: Arc::new(source) }
}

fn bind_tcp(address: &Address, host_port: &str) -> Result<Acceptor, NetError> {
    let bind = || -> io::Result<(TcpListener, String)> {
        let listener = match host_port.strip_suffix(":0") {
            Some(host) => bind_free(host)?,
            None => TcpListener::bind(host_port)?,
        };
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let host = host_port.rsplit_once(':').map_or(host_port, |(host, _)| host);
        // The host as it was given: other nodes may know it by that name only.
        Ok((listener, format!("{host}:{port}")))
    };
    let (listener, real) = bind().map_err(|source| listen_error(address, source))?;
    Ok(Acceptor { address: Address::Tcp(real), listener: Listener::Tcp(listener), _file: None })
}

/// Binds a free port that no outgoing connection gets, if there is one.
fn bind_free(host: &str) -> io::Result<TcpListener> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut words = range.split_ascii_whitespace().map(str::parse::<u16>);
    let given = match (words.next(), words.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        _ => 32_768..=60_999,
    };
    for _ in 0..FREE_PORT_TRIES {
        let mut raw = [0; 2];
        getrandom::fill(&mut raw).map_err(io::Error::other)?;
        let port = u16::from_le_bytes(raw);
        if port < FREE_PORT_MIN || given.contains(&port) {
            continue;
        }
        match TcpListener::bind(format!("{host}:{port}")) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
    TcpListener::bind(format!("{host}:0"))
}

fn bind_unix(address: &Address, path: &Path) -> Result<Acceptor, NetError> {
    let failed = |source| listen_error(address, source);
    let lock = lock_beside(path).map_err(failed)?;
    if lock.is_none() || is_alive(path).map_err(failed)? {
        let reason = "a running server answers there; stop it, or choose another directory".to_owned();
        return Err(NetError::InUse { address: address.clone(), reason });
    }
    remove_stale(path).map_err(failed)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = lock.map(|lock| SocketFile { path: path.to_owned(), _lock: lock });
    listener.set_nonblocking(true).map_err(failed)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(Acceptor { address: address.clone(), listener: Listener::Unix(listener), _file: file })
}

/// The lock on `PATH.lock`, or none if another process has it. The file stays: removing it would let two processes lock two files.
fn lock_beside(path: &Path) -> io::Result<Option<File>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(name)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_alive(path: &Path) -> io::Result<bool> {
    match UnixStream::connect(path) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(false),
        // A full backlog: somebody is there, only slow.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) => Err(e),
    }
}

/// Removes a socket that nobody answers on; a file of another kind is somebody's data and stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(meta) if meta.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket is in the way"))
        }
    }
}
