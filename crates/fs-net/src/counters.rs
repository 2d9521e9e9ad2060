//! What a process sent and received. Relaxed atomics: each figure is right, together they are not a snapshot.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of the transport, all from the start of the process.
#[derive(Debug, Default)]
pub struct NetCounters {
    /// Frames sent.
    pub messages_sent: AtomicU64,
    /// Frames received.
    pub messages_received: AtomicU64,
    /// Bytes sent, headers included.
    pub bytes_sent: AtomicU64,
    /// Bytes received, headers included.
    pub bytes_received: AtomicU64,
    /// System calls that wrote.
    pub write_calls: AtomicU64,
    /// System calls that read.
    pub read_calls: AtomicU64,
    /// Bytes of bodies that were copied in memory on their way (small parts, to save a scatter entry).
    pub copied_bytes: AtomicU64,
    /// Connections open now, both directions.
    pub connections: AtomicU64,
    /// Connections that did not get through the handshake.
    pub handshake_failures: AtomicU64,
}

impl NetCounters {
    /// Adds `n` to a counter of this set; nothing costs nothing, as counters are shared by threads.
    pub fn add(counter: &AtomicU64, n: u64) {
        if n > 0 {
            counter.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Reads a counter of this set.
    pub fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// Counts a connection as open while it lives.
pub(crate) struct OpenConnection(Option<std::sync::Arc<NetCounters>>);

impl OpenConnection {
    pub(crate) fn new(counters: &std::sync::Arc<NetCounters>) -> Self {
        NetCounters::add(&counters.connections, 1);
        OpenConnection(Some(counters.clone()))
    }

    /// It stays open until [`OpenConnection::end`] is called.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }

    /// A connection that was kept is over.
    pub(crate) fn end(counters: &NetCounters) {
        counters.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if let Some(counters) = &self.0 {
            OpenConnection::end(counters);
        }
    }
}
