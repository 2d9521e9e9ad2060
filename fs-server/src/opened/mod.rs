//! What clients of this node have open of the files of other servers. `docs/decisions/0053-open-files-per-node.md` argues why it is as it is.
//!
//! A client's opening goes through the server of its node to the file's home, which counts it for the node (`opens.rs`); which clients it stands for only that server
//! knows. `table` is what it knows; `passing` does what has to be done with requests that go on to homes, and with their answers; `upkeep` tells homes what is
//! still open, and what is not because a client was not heard of.
//!
//! # Invariants
//! - A home keeps a file as open for a node for as long as any of its clients has it open, and longer if in doubt (`tests/tests/node_opens/`:
//!   `racing_clients_of_a_node_lose_nothing`, `an_unlinked_file_stays_until_the_last_of_its_node_closes`).
//! - What a client writes is found for as long as it is not published, whoever else of its node writes (`what_is_written_is_seen_while_two_of_a_node_write`).
//! - Nobody waits because the table is full: who has no room in it is known to the home itself (`who_has_no_room_is_known_to_the_home`).

pub mod passing;
pub mod table;
pub mod upkeep;

use fs_proto::{ClientId, ServerId};

pub use table::{KnownWriter, Opened};

/// As which client a server counts in questions about all that its clients write. Clients draw their numbers from all 64 bits.
pub fn client_of(server: ServerId) -> ClientId {
    ClientId(0xffff_ffff_ffff_0000 | u64::from(server.0))
}

/// As which client a server has open whatever it may answer for a home that it is open (`hot/gateway.rs`). That ends by itself: the server cannot say when.
pub fn borrower_of(server: ServerId) -> ClientId {
    ClientId(0xffff_ffff_fffe_0000 | u64::from(server.0))
}
