//! Clients that each always have one request of 1 MiB in flight, for some seconds: as many as there shall be mebibytes.

use super::{Outcome, apart, ask, connect, open_until, targets};
use bytes::Bytes;
use fs_client::{Client, ClientConfig, OpenOptions};
use fs_net::{ClusterFile, Connection, NetEnv};
use fs_proto::checksum::crc;
use fs_proto::msg::chunk::{ReadChunk, WriteChunk};
use fs_proto::placement::chunk_partition;
use fs_proto::{ChunkIndex, InodeId};
use std::rc::Rc;
use std::time::{Duration, Instant};

const PIECE: usize = 1 << 20;
/// Chunks of the file that all of them read or write.
const CHUNKS: u64 = 16;

struct Flight {
    ino: InodeId,
    writes: bool,
    data: Bytes,
    crc: u32,
    time: Duration,
}

pub async fn run(cluster: &ClusterFile, writes: bool, seconds: u64) -> Outcome {
    // Answers that do not fit wait at the server: they are in flight.
    let env = Rc::new(NetEnv::new(256 << 20));
    let data = Bytes::from((0..PIECE).map(|at| (at * 31) as u8).collect::<Vec<_>>());
    let (ino, crc) = (make(cluster, &data)?, crc(&data));
    let flight = Flight { ino, writes, data, crc, time: Duration::from_secs(seconds) };
    let mut open: Vec<Connection> = Vec::new();
    for target in targets() {
        let one = |number| connect(cluster, 0, number as u64 + 1, number % 2 == 0, &env);
        open_until(&mut open, target, one).await?;
        let began = Instant::now();
        let each =
            open.iter().take(target).zip(1..).map(|(connection, client)| flight.one(connection, client));
        let moved: Vec<u64> = futures_util::future::try_join_all(each).await?;
        let fewest = moved.iter().min().copied().unwrap_or(0);
        let sum = moved.iter().sum::<u64>();
        println!("{target} done {:.3} mib {sum} fewest {fewest}", began.elapsed().as_secs_f64());
    }
    Ok(())
}

fn make(cluster: &ClusterFile, data: &[u8]) -> Outcome<InodeId> {
    apart(|| {
        let client = Client::connect(ClientConfig::new(cluster.clone()))?;
        let file = client.open_path("/flight", &OpenOptions::create_truncate())?;
        for chunk in 0..CHUNKS {
            file.write_at(data, chunk * PIECE as u64)?;
        }
        file.close()?;
        Ok(client.stat("/flight")?.ino)
    })
}

impl Flight {
    /// One after the other until the time is over; answers how many.
    async fn one(&self, connection: &Connection, client: u64) -> Outcome<u64> {
        let (began, mut done) = (Instant::now(), 0);
        while began.elapsed() < self.time {
            done += 1;
            let chunk = ChunkIndex((client + done) % CHUNKS);
            let (ino, to, who) = (self.ino, chunk_partition(self.ino, chunk), (client, done));
            if self.writes {
                let file_end = (chunk.0 + 1) * PIECE as u64;
                let write = WriteChunk { ino, chunk, offset: 0, file_end, since: 0, crc: self.crc };
                super::send(connection, who, to, &write, self.data.clone()).await?;
            } else {
                let read = ReadChunk { ino, chunk, offset: 0, len: PIECE as u32, compared: false };
                let (_, bytes) = ask(connection, who, to, &read).await?;
                if bytes.len() != PIECE {
                    return Err(format!("{} bytes were read", bytes.len()).into());
                }
            }
        }
        Ok(done)
    }
}
