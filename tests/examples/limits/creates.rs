//! Clients that all make files in one directory at the same time, each with one create under way.

use super::{Outcome, apart, ask, connect, say, targets};
use bytes::Bytes;
use fs_client::{Client, ClientConfig, Route};
use fs_net::{ClusterFile, NetEnv};
use fs_proto::msg::name::Create;
use fs_proto::placement::{entry_partition, name_hash};
use fs_proto::{FileKind, ServerId};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

pub async fn run(cluster: &ClusterFile, clients: usize) -> Outcome {
    let env = Rc::new(NetEnv::new(64 << 20));
    let mut config = ClientConfig::new(cluster.clone());
    config.route = Route::Gateway(ServerId(0));
    let (client, parent) = apart(|| {
        let client = Client::connect(config)?;
        let parent = client.mkdir_path("/many", 0o755)?.ino;
        Ok((client, parent))
    })?;
    let map = cluster.map()?;
    let mut connections = Vec::new();
    for number in 0..clients as u64 {
        connections.push(connect(cluster, 0, number + 1, true, &env).await?);
    }
    let made = Rc::new(Cell::new(0));
    for target in targets() {
        let began = Instant::now();
        let lanes = connections.iter().enumerate().map(|(number, connection)| {
            let (made, id) = (made.clone(), number as u64 + 1);
            async move {
                while made.get() < target {
                    made.set(made.get() + 1);
                    one(connection, id, parent, made.get()).await?;
                }
                Outcome::Ok(())
            }
        });
        futures_util::future::try_join_all(lanes).await?;
        say(made.get(), began);
    }
    let listed = apart(move || Ok(client.read_dir("/many")?.collect::<Result<Vec<_>, _>>()?.len()))?;
    let servers = map.members().len();
    println!("{listed} entries listed, of {} made, {servers} servers", made.get());
    if listed == made.get() { Ok(()) } else { Err("the directory has not what was made in it".into()) }
}

async fn one(
    connection: &fs_net::Connection,
    client: u64,
    parent: fs_proto::InodeId,
    number: usize,
) -> Outcome {
    let name = Bytes::from(format!("file-{number}"));
    let create = Create {
        parent,
        name: name.clone(),
        kind: FileKind::File,
        mode: 0o644,
        rdev: 0,
        target: Bytes::new(),
        exclusive: true,
        layout: None,
        open: None,
    };
    // A directory that has become wide has its entries elsewhere; then the partition is that of the name.
    let narrow = ask(connection, (client, number as u64), parent.partition(), &create).await;
    if narrow.is_ok() {
        return Ok(());
    }
    let wide = entry_partition(parent, name_hash(parent, &name), true);
    ask(connection, (client, number as u64), wide, &create).await.map(drop)
}
