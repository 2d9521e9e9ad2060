//! What differs between kinds of devices.
//!
//! | | InfiniBand, RoCE | iWARP |
//! |---|---|---|
//! | a message for which no receive buffer waits | is sent again, for as long as it takes | ends the connection |
//! | so receive buffers are | shared by all connections of a thread | each connection's own, of a fixed number for all |
//! | memory that a READ writes | needs no more than what is written here | must be such that peers may write, because READ's answers are writes |
//! | so what is lent and what is read into | are registered once, for both | are registered for each, under two keys |
//! | who sends first | either side | who connected |
//!
//! # Invariants
//! - No message tells a key by which a peer may write (`hostile`: `what_is_lent_cannot_be_written`). iWARP itself tells the key of what is
//!   read into to the peer's device, within the READ.
//! - On iWARP a connection never sends more than its peer has receive buffers for: half of them for messages that take credits, half
//!   for others, each of which gives a credit back (`tests/rdma.rs`: `messages_wait_for_who_is_busy`, `many_small_parts_are_given_back`). Beyond the buffers that there are,
//!   connections go over TCP (`hostile`: `who_finds_no_receive_buffers_goes_over_tcp`).

use super::line::CREDITS;
use super::sys;
use std::ffi::c_int;

/// Messages with frames that may be under way in one direction of a connection over iWARP.
const IWARP_CREDITS: u32 = 4;
/// Receive buffers of a connection over iWARP.
pub(super) const IWARP_RECEIVES: usize = 2 * IWARP_CREDITS as usize;
/// Receive buffers of a thread and device: for all connections, or with iWARP for the first 64.
const RECEIVES: usize = 256;
const RECEIVES_IWARP: usize = 64 * IWARP_RECEIVES;
/// Reads that a queue pair may have with its peer at once.
const READS_AT_ONCE: c_int = 16;

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// InfiniBand, over a network of its own or over Ethernet (RoCE).
    InfiniBand,
    /// RDMA over TCP, done by the device.
    Iwarp,
}

/// What memory is registered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Sending and receiving messages.
    Messages,
    /// Being read by peers.
    Lent,
    /// Reading what peers lend.
    ReadInto,
}

impl Kind {
    /// By the library's number. `None`: nothing that can be used here, such as usNIC and EFA, which have no reliable connections.
    pub fn of(transport_type: c_int) -> Option<Kind> {
        match transport_type {
            sys::TRANSPORT_IB => Some(Kind::InfiniBand),
            sys::TRANSPORT_IWARP => Some(Kind::Iwarp),
            _ => None,
        }
    }

    /// What a registration allows.
    pub fn access(self, purpose: Purpose) -> c_int {
        let remote = match (self, purpose) {
            (_, Purpose::Messages) => 0,
            (Kind::InfiniBand, _) | (Kind::Iwarp, Purpose::Lent) => sys::ACCESS_REMOTE_READ,
            (Kind::Iwarp, Purpose::ReadInto) => sys::ACCESS_REMOTE_WRITE,
        };
        sys::ACCESS_LOCAL_WRITE | remote
    }

    /// How often memory of a pool may come to be registered with a device.
    pub fn registrations(self) -> usize {
        match self {
            Kind::InfiniBand => 1,
            Kind::Iwarp => 2,
        }
    }

    /// Receive buffers of a thread and device.
    pub fn receives(self) -> usize {
        match self {
            Kind::InfiniBand => RECEIVES,
            Kind::Iwarp => RECEIVES_IWARP,
        }
    }

    /// Messages with frames that may be under way in one direction of a connection. The same for both sides: theirs are of one kind.
    pub fn credits(self) -> u32 {
        match self {
            Kind::InfiniBand => CREDITS,
            Kind::Iwarp => IWARP_CREDITS,
        }
    }
}

/// How many reads at once to wish for, where a device can do so many: librdmacm refuses wishes beyond that.
pub(super) fn reads_at_once(most: c_int) -> u8 {
    most.clamp(1, READS_AT_ONCE) as u8
}

const _: () = assert!(IWARP_CREDITS <= CREDITS && IWARP_CREDITS >= 2);

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what peers may do with memory is the least that a kind of device needs. Method: the flags, by the numbers of the libraries' headers.
    #[test]
    fn peers_may_write_nothing_but_what_iwarp_reads_into() {
        let (local_write, remote_write, remote_read) = (1, 2, 4);
        let access =
            |kind: Kind| [Purpose::Messages, Purpose::Lent, Purpose::ReadInto].map(|of| kind.access(of));
        let lent = local_write | remote_read;
        assert_eq!(access(Kind::InfiniBand), [local_write, lent, lent]);
        assert_eq!(access(Kind::Iwarp), [local_write, lent, local_write | remote_write]);
    }

    #[test]
    fn only_kinds_that_are_known_are_used() {
        let kinds = [-1, 0, 1, 2, 3, 4].map(Kind::of);
        assert_eq!(kinds, [None, Some(Kind::InfiniBand), Some(Kind::Iwarp), None, None, None]);
    }

    #[test]
    fn no_more_reads_are_wished_for_than_the_device_can_do() {
        assert_eq!([0, 1, 4, 16, 128, 1 << 20].map(reads_at_once), [1, 1, 4, 16, 16, 16]);
    }
}
