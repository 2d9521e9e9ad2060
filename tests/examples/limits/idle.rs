//! Connections of one client that asked once and have nothing open: what is left of each at the server is its own.

use super::{Outcome, ask, connect, say, targets};
use fs_net::{ClusterFile, Connection, NetEnv};
use fs_proto::Partition;
use fs_proto::msg::session::Ping;
use std::rc::Rc;
use std::time::Instant;

/// Handshakes under way at once.
const AT_ONCE: usize = 64;
const CLIENT: u64 = 7;

pub async fn run(cluster: &ClusterFile, unix: bool) -> Outcome {
    let env = Rc::new(NetEnv::new(64 << 20));
    let mut open: Vec<Connection> = Vec::new();
    for target in targets() {
        let began = Instant::now();
        while open.len() < target {
            let numbers = open.len()..target.min(open.len() + AT_ONCE);
            let new = numbers.map(|number| one(cluster, number as u64 + 1, unix, &env));
            for connection in futures_util::future::join_all(new).await {
                open.push(connection?);
            }
        }
        say(open.len(), began);
    }
    let lost = open.iter().filter(|connection| connection.is_closed()).count();
    if lost > 0 { Err(format!("{lost} connections were lost").into()) } else { Ok(()) }
}

async fn one(cluster: &ClusterFile, number: u64, unix: bool, env: &Rc<NetEnv>) -> Outcome<Connection> {
    let connection = connect(cluster, 0, CLIENT, unix, env).await?;
    ask(&connection, (CLIENT, number), Partition(0), &Ping {}).await?;
    Ok(connection)
}
