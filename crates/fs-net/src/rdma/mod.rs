//! Connections over RDMA verbs, begun by an authenticated connection over TCP (decision 0028).
//!
//! | module | what |
//! |---|---|
//! | [`session`] | how a connection over TCP becomes one |
//! | [`transport`] | the transport port over it |
//! | [`link`](mod@link) | sending, receiving, reading what peers lend |
//! | [`record`] | what a message is |
//! | [`line`](mod@line) | a connection as its thread's queues see it |
//! | [`hub`] | the queues of a thread and device |
//! | [`slots`] | their buffers |
//! | [`cm`] | connecting, by rdma_cm |
//! | [`memory`] | which memory devices know |
//! | [`device`] | devices of this process |
//! | [`kind`] | what differs between kinds of devices |
//! | [`interfaces`] | which addresses devices have |
//! | [`trust`](mod@trust) | with which peers it works, and when it is tried again |
//! | [`counters`] | what went over RDMA |
//! | [`sys`] | the libraries, loaded at run time |
//!
//! Unsafe code is in `sys`, `device`, `memory` (a line), `hub`, `slots`, `cm`, `interfaces` and `transport` (a line).

mod cm;
mod counters;
mod device;
#[cfg(test)]
mod hostile;
mod hub;
mod interfaces;
mod kind;
mod limit;
mod line;
mod link;
pub(crate) mod memory;
mod record;
#[cfg(test)]
mod returns;
mod session;
mod slots;
mod sys;
mod transport;
mod trust;

pub use counters::{RdmaPort, RdmaStats};
pub(crate) use session::{Way, ask, grant};

use counters::Counters;
use device::Device;
use kind::Kind;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Instant;
use trust::Trust;

/// What stands for this process among peers: when its memory cannot be registered, no peer is to blame.
const OWN: &str = "this process";

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
    /// Bytes of memory that may come to be registered with a device.
    bytes: usize,
    /// Threads that have connections.
    threads: usize,
    opened: OnceLock<Result<Vec<&'static Device>, String>>,
    trust: Trust,
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
        Rdma { choice, bytes: bytes as usize, threads, ..Rdma::default() }
    }

    /// Opens the devices, if that was not done. The error says why there is no RDMA, and what to do.
    pub fn open(&self) -> Result<(), &str> {
        self.devices().map(drop)
    }

    /// Opens the devices of a server, and says in the log what came of it: a warning, if somebody may expect RDMA here.
    pub fn open_and_tell(&self) {
        match self.devices() {
            Ok(devices) => tracing::info!(?devices, "RDMA"),
            Err(why) if self.is_expected() => {
                tracing::warn!(why, "no RDMA; TCP is used");
            }
            Err(why) => tracing::debug!(why, "no RDMA"),
        }
    }

    /// Whether somebody may expect RDMA here: a device was named, or there are some and they were not switched off.
    fn is_expected(&self) -> bool {
        match self.choice {
            RdmaChoice::Off => false,
            RdmaChoice::Auto => device::are_there(),
            RdmaChoice::Device(_) => true,
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
        // The system counts each registration.
        let with = |kind: Kind| self.bytes * kind.registrations() + self.threads * hub::hub_bytes(kind);
        limit::check(chosen.iter().map(|device| with(device.kind)).sum())?;
        memory::enable();
        Ok(chosen)
    }

    /// Whether it is worth trying with a peer now.
    pub(crate) fn may_try(&self, peer: &str) -> bool {
        let now = Instant::now();
        self.devices().is_ok() && !self.trust.is_paused(OWN, now) && !self.trust.is_paused(peer, now)
    }

    /// Whether a port of the devices is up. One whose cable is out would only be waited for.
    fn is_up(&self) -> bool {
        self.devices().is_ok_and(|devices| devices.iter().any(|device| interfaces::is_up(&device.name)))
    }

    /// RDMA with a peer did not come about: TCP does for a while, longer each time. Warns when it is the first.
    fn failed(&self, peer: &str, why: &str) {
        Counters::add(&self.counters.fallbacks, 1);
        if self.trust.lose(peer, Instant::now()) {
            tracing::warn!(peer, why, "no RDMA; going on over TCP, and trying again from time to time");
        }
    }

    /// A peer of this address was promised a connection that did not come about here.
    fn cannot_accept(&self, from: IpAddr, why: &str) {
        self.failed(&accepted(from), why);
    }

    /// One did.
    fn accepts(&self, from: IpAddr) {
        let peer = accepted(from);
        // Only who was lost is remembered: those who connect are many.
        if self.trust.is_lost(&peer) {
            self.works(&peer);
        }
    }

    /// With how many peers TCP has to do now, this process among them if its memory is the reason.
    fn lost_peers(&self) -> u64 {
        self.trust.lost() as u64 + u64::from(self.trust.is_paused(OWN, Instant::now()))
    }

    /// The device does not take memory: no RDMA with anybody for a while.
    fn cannot_register(&self, why: &str) {
        Counters::add(&self.counters.fallbacks, 1);
        if self.trust.pause(OWN, Instant::now()) {
            tracing::warn!(why, "no RDMA; going on over TCP, and trying again from time to time");
        }
    }

    /// Why nobody is offered RDMA at present, if nobody is.
    fn why_no_offer(&self) -> Option<&'static str> {
        self.trust
            .is_paused(OWN, Instant::now())
            .then_some("memory of this server cannot be registered at present")
    }

    /// There is none with this peer now. Only who has had some gives something up.
    fn refused(&self, peer: &str, why: &str) {
        if self.trust.has_worked(peer) {
            return self.failed(peer, why);
        }
        self.trust.pause(peer, Instant::now());
        tracing::debug!(peer, why, "going on over TCP");
    }

    /// It works (again) with a peer.
    fn works(&self, peer: &str) {
        let returned = self.trust.win(peer, Instant::now());
        Counters::add(&self.counters.returns, u64::from(returned.is_some()));
        match returned {
            Some(0) => tracing::info!(peer, "RDMA again, with all peers"),
            Some(others) => tracing::debug!(peer, others, "RDMA again; not yet with others"),
            None => {}
        }
    }
}

/// What stands for who connects from an address, among those that this process connects to.
fn accepted(from: IpAddr) -> String {
    format!("who connects from {from}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: connections that cannot be accepted are counted and warned of like those that cannot be begun. Method: several of one node, then one that
    /// can be; `trust` has the warnings.
    #[test]
    fn who_cannot_be_accepted_is_lost_until_one_is() {
        let (rdma, from) = (Rdma::default(), IpAddr::from([10, 0, 0, 7]));
        rdma.accepts(from);
        assert!(!rdma.trust.has_worked(&accepted(from)), "who was not lost is not remembered");
        for _ in 0..3 {
            rdma.cannot_accept(from, "no memory for a queue pair");
        }
        assert!(!rdma.trust.lose("another", Instant::now()), "the warning has been given");
        // The device's own address is another peer.
        assert!(!rdma.trust.is_lost(&from.to_string()));
        let lost = rdma.stats();
        assert_eq!((lost.fallbacks, lost.returns, lost.lost_peers), (3, 0, 2));
        rdma.accepts(from);
        let won = rdma.stats();
        assert_eq!((won.fallbacks, won.returns, won.lost_peers), (3, 1, 1));
    }
}
