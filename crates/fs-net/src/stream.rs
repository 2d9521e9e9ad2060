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
use std::net::SocketAddr;
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
struct StreamTransport<S> {
    stream: S,
    reader: FrameReader,
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
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(DEAD_PEER / 3).with_interval(DEAD_PEER / 6).with_retries(4);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(DEAD_PEER))?;
    Ok(StreamTransport::boxed(stream, env))
}

fn over_unix(stream: UnixStream, env: &Rc<NetEnv>) -> io::Result<Box<dyn Transport>> {
    stream.peer_cred()?;
    Ok(StreamTransport::boxed(stream, env))
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> StreamTransport<S> {
    fn boxed(stream: S, env: &Rc<NetEnv>) -> Box<dyn Transport> {
        let reader = FrameReader::new(env.clone());
        Box::new(StreamTransport { stream, reader })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Transport for StreamTransport<S> {
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
        let tcp: &TcpStream = (&self.stream as &dyn Any).downcast_ref()?;
        tcp.peer_addr().ok()
    }

    fn describe(&self) -> String {
        match (self.credentials(), self.remote()) {
            (Some((uid, _, pid)), _) => format!("unix socket, process {pid} of user {uid}"),
            (None, Some(address)) => format!("tcp {address}"),
            (None, None) => "tcp, from an address that is not connected any more".to_owned(),
        }
    }
}
