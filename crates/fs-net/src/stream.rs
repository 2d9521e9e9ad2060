//! Byte streams as transports: TCP and Unix sockets.

use crate::acceptor::Socket;
use crate::address::Address;
use crate::budget::{Account, BufferClass};
use crate::counters::NetCounters;
use crate::env::NetEnv;
use crate::error::NetError;
use crate::frame::{Frame, FrameReader};
use crate::landing::Landings;
use crate::send_queue::{MAX_SLICES, SendQueue};
use crate::transport::{Credentials, Transport};
use socket2::{SockRef, TcpKeepalive};
use std::any::Any;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// A node that does not answer is given up after about this long.
const DEAD_PEER: Duration = Duration::from_secs(30);

/// A byte stream that carries frames.
struct StreamTransport<S, R> {
    stream: S,
    reader: FrameReader,
    remote: R,
}

/// The other end of a TCP connection, in little room. Kept, because the system does not tell it any more once the connection has failed, which is
/// when people want to know.
enum Remote {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

impl Remote {
    fn of(stream: &TcpStream) -> io::Result<Remote> {
        let address = stream.peer_addr()?;
        Ok(match SocketAddr::new(address.ip().to_canonical(), address.port()) {
            SocketAddr::V4(address) => Remote::V4(address),
            SocketAddr::V6(canonical) => {
                let scoped = if let SocketAddr::V6(address) = address { address } else { canonical };
                Remote::V6(Box::new(scoped))
            }
        })
    }

    fn address(&self) -> SocketAddr {
        match self {
            Remote::V4(address) => SocketAddr::V4(*address),
            Remote::V6(address) => SocketAddr::V6(**address),
        }
    }
}

/// Connects to an address, without handshake.
pub(crate) async fn dial(address: &Address, env: &Rc<NetEnv>) -> Result<Box<dyn Transport>, NetError> {
    let opened = match address {
        Address::Tcp(host_port) => {
            TcpStream::connect(host_port.as_str()).await.and_then(|tcp| over_tcp(tcp, env))
        }
        Address::Unix(path) => UnixStream::connect(path).await.and_then(|unix| over_unix(unix, env)),
    };
    opened.map_err(|source| NetError::Unreachable { address: address.clone(), source: Arc::new(source) })
}

/// Takes an accepted socket into this thread's runtime.
pub(crate) fn adopt(socket: Socket, env: &Rc<NetEnv>) -> io::Result<Box<dyn Transport>> {
    match socket {
        Socket::Tcp(tcp) => over_tcp(TcpStream::from_std(tcp)?, env),
        Socket::Unix(unix) => over_unix(UnixStream::from_std(unix)?, env),
    }
}

fn over_tcp(stream: TcpStream, env: &Rc<NetEnv>) -> io::Result<Box<dyn Transport>> {
    let remote = Remote::of(&stream)?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(DEAD_PEER / 3).with_interval(DEAD_PEER / 6).with_retries(4);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(DEAD_PEER))?;
    Ok(StreamTransport::boxed(stream, remote, env))
}

fn over_unix(stream: UnixStream, env: &Rc<NetEnv>) -> io::Result<Box<dyn Transport>> {
    stream.peer_cred()?;
    Ok(StreamTransport::boxed(stream, (), env))
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static, R: 'static> StreamTransport<S, R> {
    fn boxed(stream: S, remote: R, env: &Rc<NetEnv>) -> Box<dyn Transport> {
        let reader = FrameReader::new(env.clone());
        Box::new(StreamTransport { stream, reader, remote })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static, R: 'static> Transport for StreamTransport<S, R> {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut VecDeque<Frame>,
    ) -> Poll<Result<(), NetError>> {
        self.reader.poll_frames(cx, &mut self.stream, frames)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut SendQueue) -> Poll<Result<(), NetError>> {
        while !queue.is_empty() {
            let sent = {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let count = queue.slices(&mut slices);
                let stream = Pin::new(&mut self.stream);
                // A plain write is cheaper than a vector of one.
                let written = match count {
                    1 => stream.poll_write(cx, &slices[0]),
                    _ => stream.poll_write_vectored(cx, &slices[..count]),
                };
                ready!(written).map_err(|_| NetError::Closed)?
            };
            if sent == 0 {
                return Poll::Ready(Err(NetError::Closed));
            }
            let counters = self.reader.counters();
            NetCounters::add(&counters.write_calls, 1);
            NetCounters::add(&counters.bytes_sent, sent as u64);
            queue.consume(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn trust(&mut self, class: BufferClass, share: Option<Account>) {
        self.reader.trust(class, share);
    }

    fn land(&mut self, landings: &Rc<Landings>) {
        self.reader.land(landings);
    }

    fn owed_since(&self) -> Option<u64> {
        self.reader.owed_since()
    }

    fn credentials(&self) -> Option<Credentials> {
        // The kernel keeps them: most connections are never asked again.
        let peer = self.unix()?.peer_cred().ok()?;
        Some((peer.uid(), peer.gid(), peer.pid().unwrap_or(0)))
    }

    fn unix(&self) -> Option<&UnixStream> {
        (&self.stream as &dyn Any).downcast_ref()
    }

    fn remote(&self) -> Option<SocketAddr> {
        (&self.remote as &dyn Any).downcast_ref().map(Remote::address)
    }

    fn describe(&self) -> String {
        match (self.credentials(), self.remote()) {
            (Some((uid, _, pid)), _) => format!("unix socket, process {pid} of user {uid}"),
            (None, Some(address)) => format!("tcp {address}"),
            (None, None) => "unix socket, of a process that the system does not name".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::net::TcpListener;

    /// Goal: who looks into the log after a connection has failed reads where it came from. Method: a peer that resets its connection, after
    /// which the system does not know it any more.
    #[test]
    fn a_connection_that_was_reset_still_says_where_it_came_from() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for host in ["127.0.0.1:0", "[::1]:0"] {
                let Ok(listener) = TcpListener::bind(host) else { continue };
                let peer =
                    std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
                let from = peer.local_addr().expect("connected");
                let (accepted, _) = listener.accept().expect("accepted");
                accepted.set_nonblocking(true).expect("nonblocking");
                let env = Rc::new(NetEnv::new(1 << 20));
                let mut transport = adopt(Socket::Tcp(accepted), &env).expect("connected");
                SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("set");
                drop(peer);
                let end = poll_fn(|cx| transport.poll_receive(cx, &mut VecDeque::new())).await;
                assert!(matches!(end, Err(NetError::Closed)));
                assert_eq!(transport.remote(), Some(from));
                assert_eq!(transport.describe(), format!("tcp {from}"));
            }
        });
    }
}
