//! The metrics page: Prometheus text over HTTP.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fs_net::{PoolStats, RdmaPort};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::error::ServerError;
use crate::metrics::{LATENCY_BOUNDS_US, cpu_us, resident_bytes};
use crate::node::Node;
use crate::store::ChunkStore;

/// The page's address, bound and not served yet.
pub struct MetricsPage {
    listener: std::net::TcpListener,
    address: String,
}

impl MetricsPage {
    /// Binds `host:port`; port 0 takes a free one.
    pub fn bind(address: &str) -> Result<Self, ServerError> {
        let failed = |error: std::io::Error| ServerError::Listen {
            address: address.to_owned(),
            reason: format!("{error}; choose another port for metrics, or 0 for a free one"),
        };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?.to_string();
        Ok(MetricsPage { listener, address })
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Answers requests until the server ends.
    pub async fn serve(self, node: Arc<Node>) {
        let listener = match tokio::net::TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the metrics page cannot be served"),
        };
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = node.stopped() => return,
            };
            let Ok((socket, _)) = accepted else { continue };
            let node = Arc::clone(&node);
            tokio::task::spawn_local(async move {
                let service = service_fn(|request| {
                    let answer = page(&node, &request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                if let Err(error) =
                    http1::Builder::new().serve_connection(TokioIo::new(socket), service).await
                {
                    tracing::debug!(%error, "a reader of the metrics page went away");
                }
            });
        }
    }
}

fn page(node: &Arc<Node>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let plain = |status: StatusCode, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response
    };
    if request.method() != Method::GET || request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n".to_owned());
    }
    let mut registry = Registry::with_prefix("hayate");
    registry.register_collector(Box::new(NodeCollector(Arc::clone(node))));
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written\n".to_owned());
    }
    let mut response = plain(StatusCode::OK, text);
    let kind = header::HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

struct NodeCollector(Arc<Node>);

impl std::fmt::Debug for NodeCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "metrics of {:?}", self.0.id())
    }
}

type Encoded = Result<(), std::fmt::Error>;

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Encoded {
        operations(&self.0, &mut encoder)?;
        pools(&self.0, &mut encoder)?;
        rdma_ports(&self.0, &mut encoder)?;
        for (name, help, value) in counters(&self.0) {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        for (name, help, value) in gauges(&self.0) {
            let metric = ConstGauge::new(value as i64);
            metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

fn operations(node: &Node, encoder: &mut DescriptorEncoder) -> Encoded {
    let all = node.counters.snapshot();
    let mut counts =
        encoder.encode_descriptor("operations", "Operations carried out", None, MetricType::Counter)?;
    for op in &all {
        let label = [("operation", op.op.name())];
        ConstCounter::new(op.count).encode(counts.encode_family(&label)?)?;
    }
    let mut failures = encoder.encode_descriptor(
        "operation_failures",
        "Operations refused or failed",
        None,
        MetricType::Counter,
    )?;
    for op in &all {
        let label = [("operation", op.op.name())];
        ConstCounter::new(op.failures).encode(failures.encode_family(&label)?)?;
    }
    let mut latency =
        encoder.encode_descriptor("operation_seconds", "Time of operations", None, MetricType::Histogram)?;
    for op in &all {
        let bounds = LATENCY_BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(op.buckets.iter().copied()).collect();
        let label = [("operation", op.op.name())];
        latency.encode_family(&label)?.encode_histogram::<prometheus_client::encoding::NoLabelSet>(
            op.time_ns as f64 / 1e9,
            op.count,
            &buckets,
            None,
        )?;
    }
    Ok(())
}

/// One family for each figure, labelled with the pool.
fn pools(node: &Node, encoder: &mut DescriptorEncoder) -> Encoded {
    type Figure = fn(&PoolStats) -> u64;
    let all = node.pools.all(node);
    let gauges: [(&str, &str, Figure); 4] = [
        ("pool_size_bytes", "Memory that a pool may take", |pool| pool.size),
        ("pool_used_bytes", "Memory of a pool in use", |pool| pool.used),
        ("pool_peak_bytes", "Most memory of a pool that was in use", |pool| pool.peak),
        ("pool_waiting", "What waits for memory of a pool", |pool| pool.waiting),
    ];
    for (name, help, figure) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (pool, stats) in &all {
            ConstGauge::new(figure(stats) as i64).encode(family.encode_family(&[("pool", *pool)])?)?;
        }
    }
    let counters: [(&str, &str, Figure); 2] = [
        ("pool_waits", "Times that something waited for memory of a pool, or went without", |pool| {
            pool.waits
        }),
        ("pool_wait_nanoseconds", "Time that something waited for memory of a pool", |pool| pool.wait_ns),
    ];
    for (name, help, figure) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (pool, stats) in &all {
            ConstCounter::new(figure(stats)).encode(family.encode_family(&[("pool", *pool)])?)?;
        }
    }
    Ok(())
}

/// What went over each port of an RDMA device: one family for each figure.
fn rdma_ports(node: &Node, encoder: &mut DescriptorEncoder) -> Encoded {
    type Figure = fn(&RdmaPort) -> u64;
    let all = node.rdma.stats().ports;
    let counters: [(&str, &str, Figure); 4] = [
        ("rdma_port_connections", "Connections that there have been over a port", |port| port.opened),
        ("rdma_port_sent_bytes", "Bytes of messages sent over a port", |port| port.bytes_sent),
        ("rdma_port_received_bytes", "Bytes of messages received over a port", |port| port.bytes_received),
        ("rdma_port_read_bytes", "Bytes read from peers' memory over a port", |port| port.read_bytes),
    ];
    for (name, help, figure) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for port in &all {
            let label = [("device", port.device.clone()), ("port", port.port.to_string())];
            ConstCounter::new(figure(port)).encode(family.encode_family(&label)?)?;
        }
    }
    Ok(())
}

fn counters(node: &Node) -> Vec<(&'static str, &'static str, u64)> {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (bytes_read, bytes_written) = node.counters.bytes();
    let (pool, store) = (node.pools.buffers.stats(), node.store.stats());
    let rdma = node.rdma.stats();
    let (flushed_files, flushed_bytes) = node.namespace.published().counts();
    let (flush_copied_bytes, flush_failures) = node.flusher.counts();
    let (fetched_bytes, evicted_files, evicted_bytes) = node.backing.counts();
    let mut all = vec![
        ("flushed_files", "Files published in the shared tier, over all starts", flushed_files),
        ("flushed_bytes", "Bytes of files published in the shared tier, over all starts", flushed_bytes),
        ("flush_copied_bytes", "Bytes written to the shared tier, also in vain", flush_copied_bytes),
        ("flush_failures", "Attempts to flush that failed", flush_failures),
        ("tier_fetched_bytes", "Bytes read from the shared tier", fetched_bytes),
        (
            "evicted_files",
            "Files that lost chunks here because their copies in the shared tier are up to date",
            evicted_files,
        ),
        ("evicted_bytes", "Bytes of chunks that were evicted here", evicted_bytes),
        ("chunk_read_bytes", "Bytes read from chunks", bytes_read),
        ("chunk_written_bytes", "Bytes written into chunks", bytes_written),
        ("chunk_crc_failures", "Stored blocks that did not match their checksum", store.crc_failures),
        ("compacted_bytes", "Bytes rewritten by compaction", store.compacted_bytes),
        (
            "chunk_log_bytes",
            "Bytes written to segment files, copies and frames included",
            store.written_bytes,
        ),
        ("chunk_index_saves", "Times that the index of the chunks was saved", store.index_saves),
        ("messages_sent", "Messages sent", load(&node.net.messages_sent)),
        ("messages_received", "Messages received", load(&node.net.messages_received)),
        ("sent_bytes", "Bytes sent", load(&node.net.bytes_sent)),
        ("received_bytes", "Bytes received", load(&node.net.bytes_received)),
        ("write_calls", "System calls that sent", load(&node.net.write_calls)),
        ("read_calls", "System calls that received", load(&node.net.read_calls)),
        ("copied_bytes", "Bytes copied between buffers", load(&node.net.copied_bytes)),
        ("handshake_failures", "Strangers refused", load(&node.net.handshake_failures)),
        (
            "shared_memory_refused",
            "Clients of this node that got no shared memory and use their socket",
            node.share_stats().refused,
        ),
        ("rdma_messages_sent", "Messages sent over RDMA", rdma.messages_sent),
        ("rdma_messages_received", "Messages received over RDMA", rdma.messages_received),
        ("rdma_inline_messages", "Messages within requests to the device", rdma.inline_messages),
        ("rdma_sent_bytes", "Bytes of messages sent over RDMA", rdma.bytes_sent),
        ("rdma_received_bytes", "Bytes of messages received over RDMA", rdma.bytes_received),
        ("rdma_reads", "Parts of messages read from peers' memory", rdma.reads),
        ("rdma_read_bytes", "Bytes read from peers' memory", rdma.read_bytes),
        ("rdma_retries", "Packets sent again, as the devices count them", rdma.retries),
        ("rdma_fallbacks", "Times that TCP had to do instead of RDMA", rdma.fallbacks),
        ("rdma_returns", "Times that RDMA came back where TCP had done instead", rdma.returns),
        ("rdma_looks", "Times that somebody looked for something to come before sleeping", rdma.looks),
        ("rdma_hits", "Times that something came meanwhile", rdma.hits),
        ("rdma_registrations", "Registrations of memory with RDMA devices", rdma.registrations),
        ("buffer_waits", "Times that something waited for a buffer", pool.waits),
        ("buffer_wait_nanoseconds", "Time that something waited for buffers", pool.wait_ns),
        ("cpu_microseconds", "Processor time, user and system", cpu_us()),
    ];
    all.extend(node.hot.counts());
    all.extend(node.copies.counts());
    all.extend(node.overflow.metrics());
    all
}

fn gauges(node: &Node) -> Vec<(&'static str, &'static str, u64)> {
    let (pool, store, share) = (node.pools.buffers.stats(), node.store.stats(), node.share_stats());
    let (locks_held, locks_waiting) = node.locks.counts();
    let (names, inodes) = node.namespace.queue().len();
    let flush = node.flusher.account_of(node, None);
    let rdma = node.rdma.stats();
    let mut all = vec![
        ("connections", "Open connections", node.net.connections.load(Ordering::Relaxed)),
        ("inodes", "Inodes that live here", node.namespace.inode_count()),
        ("open_inodes", "Inodes of this server that are open", node.opens.len() as u64),
        ("open_holders", "Clients and nodes that have them open", node.opens.holders() as u64),
        (
            "node_opens",
            "Inodes of other servers that clients of this node have open, each client counted",
            node.opened.len() as u64,
        ),
        ("locks_held", "Locks of files that clients hold", locks_held as u64),
        ("locks_waiting", "Requests that wait for a lock", locks_waiting as u64),
        ("chunk_live_bytes", "Bytes of chunks that are live", store.live_bytes),
        ("chunk_index_bytes", "Bytes of memory of the index of the chunks", store.index_bytes),
        ("chunk_disk_bytes", "Bytes of chunks on the device", store.disk_bytes),
        ("store_free_bytes", "Free bytes of the store's file system", store.free_bytes),
        (
            "namespace_disk_bytes",
            "Bytes of the namespace store on the device",
            node.namespace.kv().disk_bytes(),
        ),
        ("shared_memory_sessions", "Clients' connections over shared memory", share.sessions),
        ("shared_memory_bytes", "Memory promised to connections over shared memory", share.used),
        ("shared_memory_limit_bytes", "Memory that connections over shared memory may have", share.size),
        ("rdma_connections", "Connections over RDMA", rdma.connections),
        ("rdma_lost_peers", "Peers with which TCP has to do now", rdma.lost_peers),
        ("rdma_registered_bytes", "Memory registered with RDMA devices", rdma.registered_bytes),
        ("buffer_pool_bytes", "Size of the buffer pool", pool.size),
        ("buffer_used_bytes", "Buffers in use", pool.used),
        ("buffer_peak_bytes", "Most buffers that were in use", pool.peak),
        ("resident_bytes", "Resident memory of the process", resident_bytes()),
        ("memory_budget_bytes", "Memory budget of the server", node.config.memory_bytes),
        ("flush_pending_names", "Names that differ from the shared tier", names as u64),
        (
            "flush_pending_bytes",
            "Bytes of files that wait for being flushed, an estimate",
            flush.pending_bytes,
        ),
        (
            "flush_oldest_ms",
            "Age of the oldest that waits for being flushed, in milliseconds",
            flush.oldest_ms,
        ),
        ("flush_bytes_per_second", "Bytes a second to the shared tier lately", flush.bytes_per_s),
        ("flush_pending_inodes", "Inodes that differ from the shared tier", inodes as u64),
    ];
    all.extend(node.hot.gauges());
    all.extend(node.copies.gauges());
    all
}
