//! How evenly the partition map places things, and what a join or a leave moves, for growing numbers of servers; beside it the same
//! for plain consistent hashing (one point on a ring for each server, successor owns).
//!
//! `cargo run --release -p fs-proto --example placement_table`

use fs_proto::PartitionMap;
use fs_proto::ids::{ChunkIndex, InodeId, PARTITIONS, Partition, ServerId};
use fs_proto::placement::{MapEvent, Member, chunk_partition};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const SERVERS: [u16; 11] = [1, 2, 3, 4, 8, 16, 64, 256, 1024, 3400, 4096];
const FILES: u64 = 20;

/// Whatever tells the server of a chunk.
trait Place {
    fn server(&self, ino: InodeId, chunk: ChunkIndex) -> ServerId;
}

impl Place for PartitionMap {
    fn server(&self, ino: InodeId, chunk: ChunkIndex) -> ServerId {
        self.owner(chunk_partition(ino, chunk))
    }
}

/// Consistent hashing as in the textbook: each server one point on the ring, a key belongs to the next point.
struct OnePoint {
    points: Vec<(u64, ServerId)>,
}

impl OnePoint {
    fn new(servers: u16) -> Self {
        let mut points: Vec<_> = (0..servers).map(|s| (xxh3_64(&s.to_le_bytes()), ServerId(s))).collect();
        points.sort_unstable();
        OnePoint { points }
    }

    fn successor(&self, key: u64) -> ServerId {
        let at = self.points.partition_point(|(point, _)| *point < key);
        self.points[at % self.points.len()].1
    }

    fn partition_owners(&self) -> Vec<ServerId> {
        (0..=u16::MAX).map(|p| self.successor(xxh3_64_with_seed(&p.to_le_bytes(), 1))).collect()
    }
}

impl Place for OnePoint {
    fn server(&self, ino: InodeId, chunk: ChunkIndex) -> ServerId {
        self.successor(xxh3_64_with_seed(&chunk.0.to_le_bytes(), ino.0))
    }
}

/// Largest load of a server over the smallest possible largest load (the mean, rounded up).
fn peak(owners: impl Iterator<Item = ServerId>, servers: u16) -> f64 {
    let mut loads = vec![0u32; 1 << 16];
    let mut items = 0u32;
    for owner in owners {
        loads[usize::from(owner.0)] += 1;
        items += 1;
    }
    f64::from(*loads.iter().max().expect("loads")) / f64::from(items.div_ceil(u32::from(servers)))
}

/// Mean and worst peak over some files of `chunks` chunks each.
fn striped(place: &impl Place, servers: u16, chunks: u64) -> String {
    let inos = (1..=FILES).map(|i| InodeId::new(Partition((i * 40_503) as u16), i));
    let peaks: Vec<f64> =
        inos.map(|ino| peak((0..chunks).map(|c| place.server(ino, ChunkIndex(c))), servers)).collect();
    let worst = peaks.iter().copied().fold(0.0, f64::max);
    format!("{:.3}/{worst:.3}", peaks.iter().sum::<f64>() / FILES as f64)
}

fn members(servers: u16) -> Vec<Member> {
    (0..servers).map(|s| Member { id: ServerId(s), weight: 1 }).collect()
}

fn share_moved(moved: usize) -> String {
    format!("{:.4}%", 100.0 * moved as f64 / f64::from(PARTITIONS))
}

fn differing(a: &[ServerId], b: &[ServerId]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = work();
    (value, start.elapsed())
}

fn map_row(servers: u16) {
    let (map, dealt_in) = timed(|| PartitionMap::initial(&members(servers)).expect("map"));
    let join = MapEvent::Join(Member { id: ServerId(servers), weight: 1 });
    let (joined, joined_in) = timed(|| map.apply(join).expect("joined"));
    let left = map.apply(MapEvent::Leave(ServerId(servers / 2))).ok();
    row(&[
        servers.to_string(),
        format!("{:.3}", peak(map.iter().map(|(_, owner)| owner), servers)),
        format!(
            "{} ({:.4}%)",
            share_moved(joined.moved_from(&map) as usize),
            100.0 / (f64::from(servers) + 1.0)
        ),
        left.map_or("-".into(), |left| {
            format!("{} ({:.4}%)", share_moved(left.moved_from(&map) as usize), 100.0 / f64::from(servers))
        }),
        striped(&map, servers, 1000),
        striped(&map, servers, 100_000),
        striped(&joined, servers + 1, 1000),
        striped(&joined, servers + 1, 100_000),
        format!("{:.1}", dealt_in.as_secs_f64() * 1e3),
        format!("{:.1}", joined_in.as_secs_f64() * 1e3),
    ]);
}

fn plain_row(servers: u16) {
    let plain = OnePoint::new(servers);
    let owners = plain.partition_owners();
    let joined = OnePoint::new(servers + 1).partition_owners();
    row(&[
        servers.to_string(),
        format!("{:.3}", peak(owners.iter().copied(), servers)),
        share_moved(differing(&owners, &joined)),
        striped(&plain, servers, 1000),
        striped(&plain, servers, 100_000),
    ]);
}

/// A cluster of 4 that grows one by one, and one of 64 that shrinks: is it still nearly in turn?
fn history_row(from: u16, to: u16) {
    let mut map = PartitionMap::initial(&members(from)).expect("map");
    for server in from..to {
        map = map.apply(MapEvent::Join(Member { id: ServerId(server), weight: 1 })).expect("joined");
    }
    for server in (to..from).rev() {
        map = map.apply(MapEvent::Leave(ServerId(server))).expect("left");
    }
    row(&[format!("{from} to {to}"), striped(&map, to, 1000), striped(&map, to, 100_000)]);
}

fn heading(cells: &[&str]) {
    row(&cells.iter().map(ToString::to_string).collect::<Vec<_>>());
    row(&vec!["---".to_string(); cells.len()]);
}

fn main() {
    println!(
        "Partition map. Loads are the largest of a server over the least possible largest, mean/worst of {FILES} files.\n"
    );
    heading(&[
        "N",
        "partitions",
        "join moves (ideal)",
        "leave moves (ideal)",
        "1,000 chunks",
        "100,000 chunks",
        "1,000 after join",
        "100,000 after join",
        "initial ms",
        "join ms",
    ]);
    SERVERS.into_iter().for_each(map_row);
    println!("\nPlain consistent hashing, one point for each server.\n");
    heading(&["N", "partitions", "join moves", "1,000 chunks", "100,000 chunks"]);
    SERVERS.into_iter().for_each(plain_row);
    println!("\nPartition map after a history of single joins or leaves.\n");
    heading(&["N", "1,000 chunks", "100,000 chunks"]);
    for (from, to) in
        [(3, 4), (4, 5), (4, 8), (4, 16), (4, 64), (16, 256), (8, 7), (64, 32), (64, 4), (256, 200)]
    {
        history_row(from, to);
    }
}
