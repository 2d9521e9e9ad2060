//! Listening: used ports, live and stale sockets.

mod support;

use fs_net::{Acceptor, Address, NetError, Secret};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use support::{Server, env, run};
use tempfile::TempDir;

fn place() -> (TempDir, PathBuf, Address) {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("s.sock");
    let address = Address::Unix(path.clone());
    (dir, path, address)
}

#[test]
fn a_used_port_is_a_clear_error() {
    let first = Acceptor::bind(&Address::Tcp("127.0.0.1:0".into())).expect("bound");
    let Address::Tcp(host_port) = first.address() else { panic!("another kind of address") };
    assert!(!host_port.ends_with(":0"), "{host_port}");
    let error = Acceptor::bind(first.address()).expect_err("it is in use");
    assert!(matches!(&error, NetError::InUse { .. }), "{error:?}");
    assert!(
        error.to_string().contains(host_port.as_str()) && error.to_string().contains("another port"),
        "{error}"
    );
}

#[test]
fn a_chosen_port_is_none_that_the_system_gives_to_connections() {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("Linux");
    let bounds: Vec<u16> = range.split_whitespace().map(|word| word.parse().expect("a port")).collect();
    for _ in 0..20 {
        let bound = Acceptor::bind(&Address::Tcp("127.0.0.1:0".into())).expect("bound");
        let Address::Tcp(host_port) = bound.address() else { panic!("another kind of address") };
        let port: u16 = host_port.rsplit(':').next().expect("a port").parse().expect("a number");
        assert!(port >= 10_240 && !(bounds[0]..=bounds[1]).contains(&port), "{port} of {bounds:?}");
    }
}

#[test]
fn a_host_name_that_does_not_exist_is_an_error() {
    let error = Acceptor::bind(&Address::Tcp("192.0.2.1:0".into())).expect_err("it is not ours");
    assert!(matches!(error, NetError::Listen { .. }), "{error:?}");
}

#[test]
fn a_live_unix_socket_is_not_taken_over() {
    let (_dir, path, address) = place();
    let first = Acceptor::bind(&address).expect("bound");
    let error = Acceptor::bind(&address).expect_err("it is ours already");
    assert!(
        matches!(&error, NetError::InUse { .. }) && error.to_string().contains("running server"),
        "{error}"
    );
    assert!(path.exists());
    drop(first);
    assert!(!path.exists(), "the socket is left behind");
    // A listener that knows nothing of our lock.
    let foreign = UnixListener::bind(&path).expect("bound");
    assert!(matches!(Acceptor::bind(&address), Err(NetError::InUse { .. })));
    drop(foreign);
    drop(Acceptor::bind(&address).expect("nobody answers there any more"));
}

#[test]
fn a_stale_unix_socket_is_replaced() {
    let (_dir, path, address) = place();
    drop(UnixListener::bind(&path).expect("bound"));
    assert!(path.exists());
    run(async {
        let server = Server::start(0, &address, &Secret::random());
        let mode = std::fs::metadata(&path).expect("it exists").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        server.connect(&env()).await.expect("connected");
    });
}

#[test]
fn a_file_that_is_no_socket_is_not_touched() {
    let (_dir, path, address) = place();
    std::fs::write(&path, "data").expect("written");
    let error = Acceptor::bind(&address).expect_err("a file is in the way");
    assert!(matches!(error, NetError::Listen { .. }), "{error:?}");
    assert_eq!(std::fs::read(&path).expect("read"), b"data");
}

#[test]
fn a_path_too_long_for_a_socket_is_an_error() {
    let (dir, ..) = place();
    let address = Address::Unix(dir.path().join("x".repeat(150)));
    assert!(matches!(Acceptor::bind(&address), Err(NetError::Listen { .. })));
}
