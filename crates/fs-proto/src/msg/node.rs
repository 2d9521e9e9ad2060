//! What a server tells homes of its node: files are open there for all of its clients together. Decision 0053.

use crate::ids::{InodeId, ServerId};
use crate::msg::inode::OpenInode;
use crate::op::request;
use crate::wire::wire_struct;

wire_struct! {
    /// Behind the body of a request with [`crate::Flags::FOR_NODE`]: when it was sent, as the node's server counts. What the home was told later stays.
    pub struct ForNode {
        /// Of the server: no two runs of it have the same.
        pub session: u64,
        /// Greater than that of all that the server told before.
        pub stamp: u64,
        /// In a request that closes: the node has the file open yet, for reading.
        pub reads: bool,
    }
}

impl ForNode {
    /// Bytes of its wire form.
    pub const BYTES: usize = 17;
}

wire_struct! {
    /// What clients of a server's node have open of the files of another, their home. Answers which of `open` do not exist. Server to server.
    pub struct NodeOpens {
        /// Whose node.
        pub server: ServerId,
        /// As in [`ForNode`].
        pub session: u64,
        /// As in [`ForNode`].
        pub stamp: u64,
        /// What was sent before this has been answered, or given up: who does not write any more has not since.
        pub settled: u64,
        /// These are open so, but for what was told since.
        pub open: Vec<OpenInode>,
        /// These are open for reading only.
        pub read: Vec<InodeId>,
        /// These are not open.
        pub closed: Vec<InodeId>,
        /// A client of the node that wrote these was not heard of for a lease.
        pub lost: Vec<InodeId>,
    }
}

request! {
    NodeOpens => NodeOpens -> Vec<InodeId>;
}
