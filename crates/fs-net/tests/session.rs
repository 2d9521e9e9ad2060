//! Handshakes, right and wrong, over every kind of address.

mod support;

use bytes::Bytes;
use fs_net::{Address, Connection, Identity, NetCounters, NetError, Secret};
use fs_proto::msg::session::Role;
use fs_proto::{Op, ServerId, Status};
use std::net::TcpListener;
use std::time::Duration;
use support::{JOB, LONG, Server, all_are_refused, check_way, client, env, over_all, request, run, until};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

#[test]
fn who_knows_the_secret_is_let_in() {
    over_all(|address| async move {
        let server = Server::start(3, &address, &Secret::random());
        let env = env();
        let connection = server.connect(&env).await.expect("connected");
        assert_eq!((connection.server(), connection.epoch()), (ServerId(3), 42));
        let answer = connection.call(request(Op::Ping), Bytes::from_static(b"hello"), Bytes::new()).await;
        let answer = answer.expect("answered");
        assert_eq!((answer.header.status, &answer.meta[..]), (Status::Ok, &b"hello"[..]));
        let peer = server.echo.peers.borrow()[0].clone();
        assert_eq!(peer.role, client(&server.secret).role);
        let me = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
            std::process::id() as i32,
        );
        let expected = matches!(address, Address::Unix(_)).then_some(me);
        assert_eq!(peer.credentials, expected);
        assert!(peer.description().contains("client"), "{}", peer.description());
        assert_eq!(NetCounters::read(&server.env.counters.connections), 1);
        drop(connection);
        until(|| NetCounters::read(&server.env.counters.connections) == 0).await;
        assert_eq!(NetCounters::read(&env.counters.connections), 0);
    });
}

async fn refused(server: &Server, who: &Identity) -> String {
    let env = env();
    match Connection::connect(&server.address, who, &env, LONG).await {
        Err(error @ NetError::Rejected(_)) => {
            assert_eq!(error.status(), Status::Unauthenticated);
            assert_eq!(NetCounters::read(&env.counters.handshake_failures), 1);
            error.to_string()
        }
        Err(error) => panic!("refused for another reason: {error}"),
        Ok(_) => panic!("let in"),
    }
}

#[test]
fn another_secret_is_refused_with_a_reason() {
    over_all(|address| async move {
        all_are_refused();
        let server = Server::start(0, &address, &Secret::random());
        let reason = refused(&server, &client(&Secret::random())).await;
        assert!(reason.contains("secret") && reason.contains("cluster file"), "{reason}");
        until(|| NetCounters::read(&server.env.counters.handshake_failures) == 1).await;
    });
}

#[test]
fn another_job_is_refused_with_a_reason() {
    over_all(|address| async move {
        all_are_refused();
        let server = Server::start(0, &address, &Secret::random());
        let who = Identity { job: "job 2".into(), ..client(&server.secret) };
        let reason = refused(&server, &who).await;
        assert!(reason.contains("another job") && !reason.contains(JOB), "{reason}");
    });
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

async fn raw(address: &Address) -> Box<dyn Stream> {
    match address {
        Address::Tcp(host_port) => Box::new(TcpStream::connect(host_port).await.expect("connected")),
        Address::Unix(path) => Box::new(UnixStream::connect(path).await.expect("connected")),
    }
}

/// All that the server sends to who sends `bytes`. A reset is an end, too: the server left our bytes unread.
async fn answer_to(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = raw(&server.address).await;
    let mut answer = Vec::new();
    // The server may hang up before all is written.
    drop(stream.write_all(bytes).await);
    match stream.read_to_end(&mut answer).await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    answer
}

#[test]
fn a_stranger_gets_nothing() {
    over_all(|address| async move {
        all_are_refused();
        let server = Server::start(0, &address, &Secret::random());
        let mut valid_but_no_handshake = request(Op::Ping).encode().to_vec();
        valid_but_no_handshake.extend([0; 100]);
        let mut huge = request(Op::Hello);
        huge.meta_bytes = 1 << 20;
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10),
            vec![0; 5000],
            valid_but_no_handshake,
            huge.encode().to_vec(),
        ] {
            assert_eq!(answer_to(&server, &bytes).await, []);
        }
        assert_eq!(NetCounters::read(&server.env.counters.handshake_failures), 4);
        assert_eq!(NetCounters::read(&server.env.counters.bytes_sent), 0);
        assert_eq!((server.env.pool.stats().peak, server.echo.handled.get()), (0, 0));
        // And the server still serves.
        server.connect(&env()).await.expect("connected");
    });
}

fn of_version(version: u16) -> Vec<u8> {
    let mut raw = request(Op::Hello).encode();
    raw[4..6].copy_from_slice(&version.to_le_bytes());
    let sum = fs_proto::checksum::crc(&raw[..60]);
    raw[60..].copy_from_slice(&sum.to_le_bytes());
    raw.to_vec()
}

#[test]
fn another_version_is_told_so() {
    over_all(|address| async move {
        all_are_refused();
        let server = Server::start(0, &address, &Secret::random());
        let answer = answer_to(&server, &of_version(9)).await;
        let header =
            fs_proto::Header::decode(answer.first_chunk().expect("a header")).expect("a header of ours");
        assert_eq!((header.status, header.body_bytes() + 64), (Status::WrongVersion, answer.len()));
        assert!(String::from_utf8_lossy(&answer).contains("version 9"));
    });
}

#[test]
fn a_server_of_another_version_is_named() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = Address::Tcp(listener.local_addr().expect("an address").to_string());
        let old = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = listener.accept().expect("accepted");
            stream.read_exact(&mut [0; 64]).expect("a hello");
            stream.write_all(&of_version(9)).expect("written");
        });
        let error = Connection::connect(&address, &client(&Secret::random()), &env(), LONG)
            .await
            .err()
            .expect("refused");
        assert!(matches!(&error, NetError::WrongVersion(text) if text.contains("version 9")), "{error}");
        assert_eq!(error.status(), Status::WrongVersion);
        old.join().expect("no panic");
    });
}

#[test]
fn who_is_not_there_or_silent_is_told_apart() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = Address::Tcp(listener.local_addr().expect("an address").to_string());
        let who = client(&Secret::random());
        let silent = Connection::connect(&address, &who, &env(), Duration::from_millis(50)).await.err();
        assert!(matches!(silent, Some(NetError::TimedOut)), "{silent:?}");
        drop(listener);
        let gone = Connection::connect(&address, &who, &env(), LONG).await.err().expect("nobody there");
        assert!(
            matches!(gone, NetError::Unreachable { .. }) && gone.to_string().contains("127.0.0.1"),
            "{gone}"
        );
        assert_eq!(gone.status(), Status::Unavailable);
    });
}

#[test]
fn servers_are_known_as_servers() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let who = Identity { role: Role::Server { id: ServerId(9) }, ..client(&server.secret) };
        let connection = Connection::connect(&server.address, &who, &env(), LONG).await.expect("connected");
        check_way(&connection);
        connection.call(request(Op::Ping), Bytes::new(), Bytes::new()).await.expect("answered");
        assert_eq!(server.echo.peers.borrow()[0].role, Role::Server { id: ServerId(9) });
    });
}
