//! Clients that open one file, read it, and stay connected: `FIRST` is the first of the servers that they go through.

use super::{Outcome, apart, ask, connect, none_lost, open_until, say, targets};
use fs_client::{Client, ClientConfig, OpenOptions};
use fs_net::{ClusterFile, Connection, NetEnv};
use fs_proto::InodeId;
use fs_proto::msg::small::OpenRead;
use std::rc::Rc;
use std::time::Instant;

const CONTENT: &[u8] = b"what everybody reads";

pub async fn run(cluster: &ClusterFile, (first, servers): (u16, u16), unix: bool) -> Outcome {
    let env = Rc::new(NetEnv::new(64 << 20));
    let ino = make(cluster)?;
    let mut open: Vec<Connection> = Vec::new();
    for target in targets() {
        let began = Instant::now();
        open_until(&mut open, target, |number| {
            let server = first + (number % usize::from(servers)) as u16;
            one(cluster, (server, (u64::from(first) << 32) + number as u64 + 1), unix, ino, &env)
        })
        .await?;
        say(open.len(), began);
    }
    none_lost(&open)
}

fn make(cluster: &ClusterFile) -> Outcome<InodeId> {
    apart(|| {
        let client = Client::connect(ClientConfig::new(cluster.clone()))?;
        let file = client.open_path("/shared", &OpenOptions::create_truncate())?;
        file.write_at(CONTENT, 0)?;
        file.close()?;
        Ok(client.stat("/shared")?.ino)
    })
}

async fn one(
    cluster: &ClusterFile,
    (server, client): (u16, u64),
    unix: bool,
    ino: InodeId,
    env: &Rc<NetEnv>,
) -> Outcome<Connection> {
    let connection = connect(cluster, server, client, unix, env).await?;
    let open = OpenRead { ino, known_version: None };
    let (_, content) = ask(&connection, (client, 1), ino.partition(), &open).await?;
    if content != CONTENT {
        return Err(format!("client {client} read {} other bytes", content.len()).into());
    }
    Ok(connection)
}
