//! What an operator asks of one server. All go to a server.

use crate::op::request;
use crate::wire::{wire_enum, wire_struct};

wire_struct! {
    /// The server's state.
    pub struct ServerStatus {}
}

wire_enum! {
    /// What becomes of data when a server ends.
    pub enum ShutdownMode: u8 {
        /// Keep the store; it can be started again.
        Keep = 1,
        /// Delete the store.
        Discard = 2,
    }
}

wire_struct! {
    /// End the server.
    pub struct Shutdown {
        /// What becomes of the store.
        pub mode: ShutdownMode,
    }
}

request! {
    ServerStatus => ServerStatus -> String;
    Shutdown => Shutdown -> ();
}
