//! Why a message could not be exchanged, in terms of what the caller can do about it.

use crate::address::Address;
use crate::pool::TooLarge;
use fs_proto::Status;
use std::io;
use std::sync::Arc;
use thiserror::Error;

/// Why a connection, a call or a listener failed. Cloned to everybody who waited for the same thing.
#[derive(Debug, Clone, Error)]
pub enum NetError {
    /// Nobody answers there: try again later, or another server.
    #[error("cannot reach {address}: {source}")]
    Unreachable {
        /// Where to.
        address: Address,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The connection ended before the answer came. The request may have been executed.
    #[error("the connection was closed before the answer came")]
    Closed,
    /// The time was over before the answer came. The request may have been executed.
    #[error("no answer within the time allowed")]
    TimedOut,
    /// The peer is of another job or secret: a person has to act.
    #[error("refused: {0}")]
    Rejected(String),
    /// The peer is of another release: a person has to act.
    #[error("refused: {0}")]
    WrongVersion(String),
    /// What arrived was not this protocol.
    #[error("protocol violated: {0}")]
    Protocol(String),
    /// The cluster file has no such server.
    #[error("server {0} is not in the cluster file")]
    UnknownServer(fs_proto::ServerId),
    /// A message part is larger than the protocol allows.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Somebody else listens there.
    #[error("cannot listen on {address}: {reason}")]
    InUse {
        /// Where.
        address: Address,
        /// Who, as far as known, and what to do.
        reason: String,
    },
    /// The system refused to listen there.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: Address,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl NetError {
    /// The status that a caller further up sees.
    pub fn status(&self) -> Status {
        match self {
            NetError::Unreachable { .. } | NetError::Closed | NetError::UnknownServer(_) => {
                Status::Unavailable
            }
            NetError::TimedOut => Status::TimedOut,
            NetError::Rejected(_) => Status::Unauthenticated,
            NetError::WrongVersion(_) => Status::WrongVersion,
            NetError::Protocol(_) => Status::BadMessage,
            NetError::TooLarge(_) => Status::Invalid,
            NetError::InUse { .. } | NetError::Listen { .. } => Status::Busy,
        }
    }

    pub(crate) fn protocol(what: impl ToString) -> NetError {
        NetError::Protocol(what.to_string())
    }
}
