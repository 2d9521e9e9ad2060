//! One client that makes files and keeps them open, in directories of a hundred thousand; renewed in time, as clients do.

use super::{Outcome, apart, ask, connect, say, targets};
use bytes::Bytes;
use fs_client::{Client, ClientConfig};
use fs_net::{ClusterFile, Connection, NetEnv};
use fs_proto::msg::inode::{OpenInode, Renew};
use fs_proto::msg::name::{Create, OpenMode};
use fs_proto::{FileKind, InodeId};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

const PER_DIRECTORY: usize = 100_000;
const IN_FLIGHT: usize = 64;
const RENEWED_AT_ONCE: usize = 10_000;
const RENEWED_EVERY: Duration = Duration::from_secs(40);
const CLIENT: u64 = 7;

struct Opener {
    connection: Connection,
    mode: OpenMode,
    sequence: Cell<u64>,
}

pub async fn run(cluster: &ClusterFile, writes: bool) -> Outcome {
    let env = Rc::new(NetEnv::new(64 << 20));
    let connection = connect(cluster, 0, CLIENT, true, &env).await?;
    let mode = if writes { OpenMode::Write { via: None } } else { OpenMode::Read {} };
    let opener = Opener { connection, mode, sequence: Cell::new(0) };
    let (mut open, mut renewed, mut parent) = (Vec::new(), Instant::now(), InodeId::ROOT);
    for target in targets() {
        let began = Instant::now();
        while open.len() < target {
            let number = open.len() / PER_DIRECTORY;
            if open.len() % PER_DIRECTORY == 0 {
                parent = apart(|| {
                    let client = Client::connect(ClientConfig::new(cluster.clone()))?;
                    client.mkdir_path(format!("/open-{number}"), 0o755)
                })?
                .ino;
            }
            let end = target.min((number + 1) * PER_DIRECTORY).min(open.len() + RENEWED_AT_ONCE);
            opener.make(parent, &mut open, end).await?;
            if renewed.elapsed() > RENEWED_EVERY {
                renewed = Instant::now();
                opener.renew(&open).await?;
            }
        }
        opener.renew(&open).await?;
        say(open.len(), began);
    }
    Ok(())
}

impl Opener {
    fn next(&self) -> (u64, u64) {
        self.sequence.set(self.sequence.get() + 1);
        (CLIENT, self.sequence.get())
    }

    async fn make(&self, parent: InodeId, open: &mut Vec<InodeId>, end: usize) -> Outcome {
        let numbers = open.len()..end;
        let made = stream::iter(numbers).map(|number| self.one(parent, number)).buffered(IN_FLIGHT);
        open.extend(made.try_collect::<Vec<_>>().await?);
        Ok(())
    }

    async fn one(&self, parent: InodeId, number: usize) -> Outcome<InodeId> {
        let create = Create {
            parent,
            name: Bytes::from(format!("file-{number}")),
            kind: FileKind::File,
            mode: 0o644,
            rdev: 0,
            target: Bytes::new(),
            exclusive: true,
            layout: None,
            open: Some(self.mode.clone()),
        };
        Ok(ask(&self.connection, self.next(), parent.partition(), &create).await?.0.ino)
    }

    async fn renew(&self, open: &[InodeId]) -> Outcome {
        for part in open.chunks(RENEWED_AT_ONCE) {
            let open = part.iter().map(|ino| OpenInode { ino: *ino, mode: self.mode.clone() }).collect();
            ask(&self.connection, self.next(), part[0].partition(), &Renew { open }).await?;
        }
        Ok(())
    }
}
