//! What went over RDMA, and what the devices say.

use super::device::{self, Device};
use super::{Rdma, interfaces};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A device's counters of what it sent again, as drivers name them.
const RETRIES: [&str; 7] = [
    "completer_retry_err",
    "rcvd_rnr_err",
    "rcvd_seq_err",
    "local_ack_timeout_err",
    "rnr_nak_retry_err",
    "packet_seq_err",
    "out_of_sequence",
];

/// Counters from the start of the process. Relaxed atomics: each is right, together they are not a snapshot.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub connections: AtomicU64,
    pub messages_sent: AtomicU64,
    pub messages_received: AtomicU64,
    pub inline_messages: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub bytes_received: AtomicU64,
    pub reads: AtomicU64,
    pub read_bytes: AtomicU64,
    pub fallbacks: AtomicU64,
    pub returns: AtomicU64,
    pub looks: AtomicU64,
    pub hits: AtomicU64,
}

/// What goes over one port of a device, by all connections of the process.
#[derive(Debug, Default)]
pub(super) struct PortUse {
    open: AtomicU64,
    opened: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    read_bytes: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// Figures of a process's use of RDMA.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RdmaStats {
    /// Why there is no RDMA, if there is none.
    pub reason: Option<String>,
    /// Whether somebody may expect some: it was asked for by name, or the node has devices.
    pub is_expected: bool,
    /// Ports of the devices that are used.
    pub ports: Vec<RdmaPort>,
    /// Connections over RDMA now.
    pub connections: u64,
    /// Messages sent (each may carry many frames).
    pub messages_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Messages sent that were within their request to the device.
    pub inline_messages: u64,
    /// Bytes sent in messages.
    pub bytes_sent: u64,
    /// Bytes received in messages.
    pub bytes_received: u64,
    /// Pieces of bulk data that were read from peers' memory.
    pub reads: u64,
    /// Bytes of these.
    pub read_bytes: u64,
    /// Times that TCP had to do instead.
    pub fallbacks: u64,
    /// Times that RDMA came back where TCP had done instead.
    pub returns: u64,
    /// Peers with which TCP has to do now.
    pub lost_peers: u64,
    /// Times that somebody looked for something to come before sleeping.
    pub looks: u64,
    /// Times that something came meanwhile.
    pub hits: u64,
    /// Packets that the devices sent again, as far as their drivers count (since the device was set up).
    pub retries: u64,
    /// Bytes of memory that are registered now (once per device), of the process.
    pub registered_bytes: u64,
    /// Registrations since the start.
    pub registrations: u64,
}

/// A port of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RdmaPort {
    /// The device.
    pub device: String,
    /// The port's number.
    pub port: u32,
    /// `ACTIVE`, `DOWN` and so on.
    pub state: String,
    /// As the driver says: `100 Gb/sec (4X EDR)`.
    pub rate: String,
    /// IP addresses.
    pub addresses: Vec<String>,
    /// Connections of this process over it now.
    pub connections: u64,
    /// All that there have been.
    pub opened: u64,
    /// Bytes sent in messages.
    pub bytes_sent: u64,
    /// Bytes received in messages.
    pub bytes_received: u64,
    /// Bytes that were read from peers' memory.
    pub read_bytes: u64,
}

impl Rdma {
    /// The figures.
    pub fn stats(&self) -> RdmaStats {
        let counters = &self.counters;
        let (registered_bytes, registrations) = device::figures();
        let (reason, ports) = match self.devices() {
            Ok(devices) => (None, devices.iter().flat_map(|device| ports(device)).collect()),
            Err(why) => (Some(why.to_owned()), Vec::new()),
        };
        RdmaStats {
            reason,
            is_expected: self.is_expected(),
            retries: self.devices().unwrap_or_default().iter().map(|device| retries(&device.name)).sum(),
            ports,
            connections: read(&counters.connections),
            messages_sent: read(&counters.messages_sent),
            messages_received: read(&counters.messages_received),
            inline_messages: read(&counters.inline_messages),
            bytes_sent: read(&counters.bytes_sent),
            bytes_received: read(&counters.bytes_received),
            reads: read(&counters.reads),
            read_bytes: read(&counters.read_bytes),
            fallbacks: read(&counters.fallbacks),
            returns: read(&counters.returns),
            lost_peers: self.lost_peers(),
            looks: read(&counters.looks),
            hits: read(&counters.hits),
            registered_bytes,
            registrations,
        }
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn ports(device: &Device) -> Vec<RdmaPort> {
    interfaces::ports(&device.name).into_iter().map(|(number, path)| port(device, number, &path)).collect()
}

fn port(device: &Device, number: u32, path: &Path) -> RdmaPort {
    let text = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default().trim().to_owned();
    let used = device.port(number);
    RdmaPort {
        device: device.name.clone(),
        port: number,
        // The file says `4: ACTIVE`.
        state: text("state").rsplit(' ').next().unwrap_or_default().to_owned(),
        rate: text("rate"),
        addresses: interfaces::addresses_of_port(path).iter().map(ToString::to_string).collect(),
        connections: read(&used.open),
        opened: read(&used.opened),
        bytes_sent: read(&used.bytes_sent),
        bytes_received: read(&used.bytes_received),
        read_bytes: read(&used.read_bytes),
    }
}

fn retries(device: &str) -> u64 {
    let count = |path: &Path, name: &&str| -> Option<u64> {
        fs::read_to_string(path.join("hw_counters").join(name)).ok()?.trim().parse().ok()
    };
    interfaces::ports(device)
        .iter()
        .flat_map(|(_, path)| RETRIES.iter().filter_map(|name| count(path, name)))
        .sum()
}

/// Counts a connection as open while it lives, and what goes over it.
pub(super) struct OpenRdma {
    rdma: Arc<Rdma>,
    port: Option<&'static PortUse>,
}

impl OpenRdma {
    pub fn new(rdma: &Arc<Rdma>, port: Option<&'static PortUse>) -> OpenRdma {
        Counters::add(&rdma.counters.connections, 1);
        if let Some(port) = port {
            Counters::add(&port.open, 1);
            Counters::add(&port.opened, 1);
        }
        OpenRdma { rdma: rdma.clone(), port }
    }

    /// A message was sent.
    pub fn sent(&self, bytes: u64, is_inline: bool) {
        let counters = &self.rdma.counters;
        Counters::add(&counters.messages_sent, 1);
        Counters::add(&counters.inline_messages, is_inline.into());
        self.add(bytes, |all| &all.bytes_sent, |port| &port.bytes_sent);
    }

    /// A message has come.
    pub fn received(&self, bytes: u64) {
        Counters::add(&self.rdma.counters.messages_received, 1);
        self.add(bytes, |all| &all.bytes_received, |port| &port.bytes_received);
    }

    /// A bulk part was read from the peer's memory.
    pub fn has_read(&self, bytes: u64) {
        Counters::add(&self.rdma.counters.reads, 1);
        self.add(bytes, |all| &all.read_bytes, |port| &port.read_bytes);
    }

    /// Somebody looked before sleeping.
    pub fn looked(&self, is_hit: bool) {
        Counters::add(&self.rdma.counters.looks, 1);
        Counters::add(&self.rdma.counters.hits, is_hit.into());
    }

    fn add(&self, n: u64, all: fn(&Counters) -> &AtomicU64, port: fn(&PortUse) -> &AtomicU64) {
        Counters::add(all(&self.rdma.counters), n);
        if let Some(used) = self.port {
            Counters::add(port(used), n);
        }
    }
}

impl Drop for OpenRdma {
    fn drop(&mut self) {
        self.rdma.counters.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(port) = self.port {
            port.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
