//! Connections over RDMA verbs, begun by an authenticated connection over TCP (decision 0028).
//!
//! | module | what |
//! |---|---|
//! | [`session`] | how a connection over TCP becomes one |
//! | [`transport`] | the transport port over it |
//! | [`link`](mod@link) | sending, receiving, reading what peers lend |
//! | [`record`] | what a message is |
//! | [`line`](mod@line) | a connection as its thread's queues see it |
//! | [`hub`] | the queues and buffers of a thread and device |
//! | [`cm`] | connecting, by rdma_cm |
//! | [`memory`] | which memory devices know |
//! | [`device`] | devices of this process |
//! | [`interfaces`] | which addresses devices have |
//! | [`counters`] | what went over RDMA |
//! | [`sys`] | the libraries, loaded at run time |
//!
//! Unsafe code is in `sys`, `device`, `memory` (a line), `hub`, `cm`, `interfaces` and `transport` (a line).

mod cm;
mod counters;
mod device;
#[cfg(test)]
mod hostile;
mod hub;
mod interfaces;
mod limit;
mod line;
mod link;
pub(crate) mod memory;
mod record;
mod session;
mod sys;
mod transport;

pub use counters::{RdmaPort, RdmaStats};
pub(crate) use session::{ask, grant};

use counters::Counters;
use device::Device;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long RDMA with a peer is not tried again after it failed the first time; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Peers of which that is remembered.
const MOST_PEERS: usize = 4096;

/// How it went with a peer.
#[derive(Debug, Default)]
struct Peer {
    /// There has been a connection over RDMA.
    worked: bool,
    /// Not to be tried before, and after which pause.
    paused: Option<(Instant, Duration)>,
}

/// Which RDMA devices a process uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RdmaChoice {
    /// None.
    #[default]
    Off,
    /// All that there are.
    Auto,
    /// The one of this name.
    Device(String),
}

impl FromStr for RdmaChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(RdmaChoice::Off),
            "auto" => Ok(RdmaChoice::Auto),
            "" => Err("RDMA is `auto`, `off`, or the name of a device (rdma link shows them)".to_owned()),
            name => Ok(RdmaChoice::Device(name.to_owned())),
        }
    }
}

impl fmt::Display for RdmaChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RdmaChoice::Off => f.write_str("off"),
            RdmaChoice::Auto => f.write_str("auto"),
            RdmaChoice::Device(name) => f.write_str(name),
        }
    }
}

/// A process's use of RDMA. Nothing is loaded or opened before it is first asked for.
#[derive(Debug, Default)]
pub struct Rdma {
    choice: RdmaChoice,
    /// Bytes that may come to be registered.
    bytes: usize,
    opened: OnceLock<Result<Vec<&'static Device>, String>>,
    /// Peers that were asked.
    peers: Mutex<HashMap<String, Peer>>,
    warned: AtomicBool,
    counters: Counters,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Rdma {
    /// RDMA by `choice`, in a process that may have `bytes` of buffers and shared memory, and `threads` that have connections.
    pub fn new(choice: RdmaChoice, bytes: u64, threads: usize) -> Rdma {
        let bytes = bytes as usize + threads * hub::HUB_BYTES;
        Rdma { choice, bytes, ..Rdma::default() }
    }

    /// Opens the devices, if that was not done. The error says why there is no RDMA, and what to do.
    pub fn open(&self) -> Result<(), &str> {
        self.devices().map(drop)
    }

    /// Opens the devices of a server, and says in the log what came of it: a warning, if somebody may expect RDMA here.
    pub fn open_and_tell(&self) {
        let is_expected = matches!(self.choice, RdmaChoice::Device(_)) || device::are_there();
        match self.devices() {
            Ok(devices) => tracing::info!(?devices, "RDMA"),
            Err(why) if is_expected && self.choice != RdmaChoice::Off => {
                tracing::warn!(why, "no RDMA; TCP is used");
            }
            Err(why) => tracing::debug!(why, "no RDMA"),
        }
    }

    /// The devices to use.
    fn devices(&self) -> Result<&[&'static Device], &str> {
        let opened = self.opened.get_or_init(|| self.open_devices());
        opened.as_deref().map_err(String::as_str)
    }

    fn open_devices(&self) -> Result<Vec<&'static Device>, String> {
        if self.choice == RdmaChoice::Off {
            return Err("RDMA is switched off".to_owned());
        }
        let is_chosen = |device: &&Device| match &self.choice {
            RdmaChoice::Device(name) => *name == device.name,
            _ => true,
        };
        let chosen: Vec<_> = device::devices()?.iter().filter(is_chosen).collect();
        if chosen.is_empty() {
            return Err(format!("there is no RDMA device {}", self.choice));
        }
        limit::check(self.bytes)?;
        memory::enable();
        Ok(chosen)
    }

    /// Whether it is worth trying with a peer now.
    fn may_try(&self, peer: &str) -> bool {
        let is_paused = |peer: &Peer| peer.paused.is_some_and(|(until, _)| Instant::now() < until);
        self.devices().is_ok() && !self.peers.lock().get(peer).is_some_and(is_paused)
    }

    /// RDMA with a peer did not come about: TCP does for a while, longer each time. Warns the first time.
    fn failed(&self, peer: &str, why: &str) {
        self.with_peer(peer, |peer| {
            let pause = peer.paused.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
            peer.paused = Some((Instant::now() + pause, pause));
        });
        Counters::add(&self.counters.fallbacks, 1);
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(peer, why, "no RDMA; going on over TCP, and trying again from time to time");
        }
    }

    /// The peer says that it has none (now). Only who has had some gives something up.
    fn refused(&self, peer: &str, why: &str) {
        let worked = self.peers.lock().get(peer).is_some_and(|peer| peer.worked);
        if worked {
            self.failed(peer, why);
        } else {
            tracing::debug!(peer, why, "going on over TCP");
        }
    }

    /// It works (again) with a peer.
    fn works(&self, peer: &str) {
        self.with_peer(peer, |peer| *peer = Peer { worked: true, paused: None });
        self.warned.store(false, Ordering::Relaxed);
    }

    fn with_peer(&self, peer: &str, change: impl FnOnce(&mut Peer)) {
        let mut peers = self.peers.lock();
        if peers.len() >= MOST_PEERS && !peers.contains_key(peer) {
            peers.clear();
        }
        change(peers.entry(peer.to_owned()).or_default());
    }
}
