//! What the server did, in numbers: for `hayate status`, the metrics page and the tests that count messages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fs_net::{RdmaPort, RdmaStats};
use fs_proto::Op;
use serde_json::{Value, json};

use crate::config::ServerConfig;
use crate::node::Node;
use crate::store::ChunkStore;

/// Operations are numbered below this.
const OPS: usize = 128;
/// Upper bounds of the latency histogram, in microseconds.
pub const LATENCY_BOUNDS_US: [u64; 12] =
    [10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 100_000, 1_000_000];

#[derive(Default)]
struct OpCounter {
    count: AtomicU64,
    failures: AtomicU64,
    time_ns: AtomicU64,
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
}

/// Counters of operations and of data.
pub struct OpCounters {
    ops: Vec<OpCounter>,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

impl Default for OpCounters {
    fn default() -> Self {
        OpCounters {
            ops: (0..OPS).map(|_| OpCounter::default()).collect(),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
        }
    }
}

/// Counters of one operation.
#[derive(Debug, Clone)]
pub struct OpStats {
    /// Which.
    pub op: Op,
    /// How often.
    pub count: u64,
    /// How often without success.
    pub failures: u64,
    /// Time from decoding to the answer, in nanoseconds, all together.
    pub time_ns: u64,
    /// Answers per latency bucket ([`LATENCY_BOUNDS_US`], the last without bound).
    pub buckets: Vec<u64>,
}

impl OpCounters {
    /// An operation ended.
    pub fn note(&self, op: Op, took: Duration, failed: bool) {
        let Some(counter) = self.ops.get(op as usize) else { return };
        let took_us = took.as_micros() as u64;
        let bucket =
            LATENCY_BOUNDS_US.iter().position(|bound| took_us <= *bound).unwrap_or(LATENCY_BOUNDS_US.len());
        counter.count.fetch_add(1, Ordering::Relaxed);
        counter.failures.fetch_add(u64::from(failed), Ordering::Relaxed);
        counter.time_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        counter.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// Data went into chunks.
    pub fn note_written(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Data came out of chunks.
    pub fn note_read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes read from and written into chunks.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes_read.load(Ordering::Relaxed), self.bytes_written.load(Ordering::Relaxed))
    }

    /// All operations that were asked at least once.
    pub fn snapshot(&self) -> Vec<OpStats> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let asked = Op::ALL.iter().filter_map(|op| {
            let counter = self.ops.get(*op as usize).filter(|counter| load(&counter.count) > 0)?;
            Some(OpStats {
                op: *op,
                count: load(&counter.count),
                failures: load(&counter.failures),
                time_ns: load(&counter.time_ns),
                buckets: counter.buckets.iter().map(load).collect(),
            })
        });
        asked.collect()
    }
}

/// Processor time of this process in microseconds, user and system.
pub fn cpu_us() -> u64 {
    // SAFETY: an all-zero rusage is a valid value of the plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for the call, and RUSAGE_SELF needs nothing else.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return 0;
    }
    let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// Resident memory of this process in bytes.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

fn rdma_json(rdma: &RdmaStats) -> Value {
    let port = |port: &RdmaPort| {
        json!({"device": port.device, "port": port.port, "state": port.state, "rate": port.rate,
               "addresses": port.addresses, "connections": port.connections, "opened": port.opened, "bytes_sent": port.bytes_sent,
               "bytes_received": port.bytes_received, "read_bytes": port.read_bytes})
    };
    json!({
        "ports": rdma.ports.iter().map(port).collect::<Vec<_>>(),
        "reason": rdma.reason,
        "expected": rdma.is_expected,
        "connections": rdma.connections,
        "messages_sent": rdma.messages_sent,
        "messages_received": rdma.messages_received,
        "inline_messages": rdma.inline_messages,
        "bytes_sent": rdma.bytes_sent,
        "bytes_received": rdma.bytes_received,
        "reads": rdma.reads,
        "read_bytes": rdma.read_bytes,
        "retries": rdma.retries,
        "fallbacks": rdma.fallbacks,
        "returns": rdma.returns,
        "lost_peers": rdma.lost_peers,
        "looks": rdma.looks,
        "hits": rdma.hits,
        "registered_bytes": rdma.registered_bytes,
        "registrations": rdma.registrations,
    })
}

/// What the server was started with and figures of it depend on.
fn config_json(config: &ServerConfig) -> Value {
    json!({
        "commit": config.commit,
        "durability": config.durability.to_string(),
        "capacity": config.capacity,
        "inline_bytes": config.inline_bytes,
        "hot_files": config.hot_files,
        "workers": config.worker_count(),
    })
}

/// The state of the server, as JSON.
pub fn status_json(node: &Node) -> String {
    let store = node.store.stats();
    let kv = node.namespace.kv();
    let share = node.share_stats();
    let (bytes_read, bytes_written) = node.counters.bytes();
    let operations: serde_json::Map<String, Value> =
        node.counters.snapshot().into_iter().map(|op| (op.op.name(), json!(op.count))).collect();
    let net = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let status = json!({
        "server": node.id().0,
        "version": env!("CARGO_PKG_VERSION"),
        "epoch": node.map().epoch(),
        "uptime_s": node.started.elapsed().as_secs(),
        "partitions": node.map().share(node.id()),
        "inodes": node.namespace.inode_count(),
        "chunks": {"bytes_live": store.live_bytes, "bytes_disk": store.disk_bytes, "count": store.chunks,
                   "segments": store.segments, "compacted_bytes": store.compacted_bytes, "written_bytes": store.written_bytes,
                   "index_bytes": store.index_bytes, "index_saves": store.index_saves, "crc_failures": store.crc_failures,
                   "io": node.io_modes()},
        "namespace": {"bytes_disk": kv.disk_bytes(), "bytes_memory": kv.memory_bytes()},
        "space": {"total": store.total_bytes, "free": store.free_bytes},
        "pools": crate::pools::as_json(node),
        "shared_memory": {"size": share.size, "used": share.used, "sessions": share.sessions, "refused": share.refused},
        "rdma": rdma_json(&node.rdma.stats()),
        "operations": operations,
        "bytes_read": bytes_read,
        "bytes_written": bytes_written,
        "messages_sent": net(&node.net.messages_sent),
        "messages_received": net(&node.net.messages_received),
        "bytes_sent": net(&node.net.bytes_sent),
        "bytes_received": net(&node.net.bytes_received),
        "write_calls": net(&node.net.write_calls),
        "read_calls": net(&node.net.read_calls),
        "copied_bytes": net(&node.net.copied_bytes),
        "connections": net(&node.net.connections),
        "open_inodes": node.opens.len(),
        "open_holders": node.opens.holders(),
        "node_opens": node.opened.len(),
        "locks_held": node.locks.counts().0,
        "locks_waiting": node.locks.counts().1,
        "device_syncs": node.group_sync.count(),
        "cpu_us": cpu_us(),
        "resident_bytes": resident_bytes(),
        "memory_budget": node.config.memory_bytes,
        "config": config_json(&node.config),
        "flush": node.flusher.status_json(node),
        "backing": node.backing.status_json(),
        "hot": node.hot.status_json(),
        "hot_copies": node.copies.status_json(),
        "overflow": node.overflow.status_json(),
    });
    status.to_string()
}
