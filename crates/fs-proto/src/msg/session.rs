//! The handshake: both sides prove that they know the job's secret, and neither says it.
//!
//! The connecting side sends [`Hello`] with a nonce; the other answers [`Challenge`] with a nonce of its own and an HMAC over
//! both; the connecting side checks it and sends [`Prove`] with its HMAC. Anything else closes the connection.

use crate::ids::{ClientId, ServerId};
use crate::op::request;
use crate::wire::{wire_struct, wire_union};
use bytes::Bytes;

wire_union! {
    /// Who connects.
    pub enum Role {
        /// A client process.
        Client = 1 { id: ClientId },
        /// Another server.
        Server = 2 { id: ServerId },
    }
}

wire_struct! {
    /// First frame of a connection.
    pub struct Hello {
        /// Who connects.
        pub role: Role,
        /// The job that it believes to talk to.
        pub job: String,
        /// 32 random bytes.
        pub nonce: Bytes,
    }
}

wire_struct! {
    /// Answer to [`Hello`].
    pub struct Challenge {
        /// The answering server.
        pub server: ServerId,
        /// 32 random bytes.
        pub nonce: Bytes,
        /// HMAC-SHA-256 with the secret over "hayate server", both nonces, job, server and role.
        pub proof: Bytes,
    }
}

wire_struct! {
    /// Third frame; its empty answer opens the connection.
    pub struct Prove {
        /// HMAC-SHA-256 with the secret over "hayate client", both nonces, job, server and role.
        pub proof: Bytes,
    }
}

wire_struct! {
    /// Answer to [`Prove`].
    pub struct Welcome {
        /// Epoch of the partition map in force.
        pub epoch: u64,
    }
}

wire_struct! {
    /// Are you there?
    pub struct Ping {}
}

wire_struct! {
    /// Share memory with me. First request of a connection over a Unix socket; any answer but `Ok` leaves it as it is.
    pub struct Share {}
}

wire_struct! {
    /// Answer to [`Share`]. Three descriptors come with it: the sealed memory, the end that the client hears, the end that it rings.
    pub struct Shared {
        /// Bytes of each of the two arenas: a power of two.
        pub arena_bytes: u32,
    }
}

wire_struct! {
    /// Go on over RDMA with me. First request of a connection over TCP; any answer but `Ok` leaves it as it is.
    pub struct Rdma {}
}

wire_struct! {
    /// Answer to [`Rdma`]: where to connect to by rdma_cm. The TCP connection stays open, and carries messages until the other does.
    pub struct RdmaOffer {
        /// Port of the listener, in rdma_cm's TCP port space.
        pub port: u16,
        /// IP addresses of the server's RDMA devices, as text; each will do.
        pub addresses: Vec<String>,
        /// 32 random bytes, to be sent as private data with the request to connect. Good for one connection.
        pub token: Bytes,
    }
}

request! {
    Hello => Hello -> Challenge;
    Prove => Prove -> Welcome;
    Ping => Ping -> ();
    Share => Share -> Shared;
    Rdma => Rdma -> RdmaOffer;
}
