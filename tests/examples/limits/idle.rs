//! Connections of one client that asked once and have nothing open: what is left of each at the server is its own.

use super::{Outcome, ask, connect, none_lost, open_until, say, targets};
use fs_net::{ClusterFile, Connection, NetEnv};
use fs_proto::Partition;
use fs_proto::msg::session::Ping;
use std::rc::Rc;
use std::time::Instant;

const CLIENT: u64 = 7;

pub async fn run(cluster: &ClusterFile, unix: bool) -> Outcome {
    let env = Rc::new(NetEnv::new(64 << 20));
    let mut open: Vec<Connection> = Vec::new();
    for target in targets() {
        let began = Instant::now();
        open_until(&mut open, target, |number| one(cluster, number as u64 + 1, unix, &env)).await?;
        say(open.len(), began);
    }
    none_lost(&open)
}

async fn one(cluster: &ClusterFile, number: u64, unix: bool, env: &Rc<NetEnv>) -> Outcome<Connection> {
    let connection = connect(cluster, 0, CLIENT, unix, env).await?;
    ask(&connection, (CLIENT, number), Partition(0), &Ping {}).await?;
    Ok(connection)
}
