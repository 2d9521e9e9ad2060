//! How an attempt to flush something ends without success.

use std::time::Duration;

use fs_proto::Status;

use crate::error::OpError;
use crate::kv::KvError;
use crate::tier::TierError;

/// Why an item is not done: one variant per thing that the run loop does about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Something else has to be done first, here or on another server: again soon. A failure if it lasts.
    Wait(&'static str),
    /// The file is open for writing: again later, for as long as that takes.
    Open,
    /// Its policy says when: see `policy`.
    Later(Duration),
    /// Its policy says that it is not to be copied.
    Never,
    /// The tier or a server failed: again with growing pauses.
    Failed(String),
    /// The tier is there and refuses just this: the same, and nobody who waits for room counts on it once that lasts.
    Refused(String),
}

impl Stop {
    /// What another is told who asked for a step of it; `busy`: what is in the way if it may go on later.
    pub fn refusal(self, busy: &'static str) -> OpError {
        match self {
            Stop::Failed(reason) => OpError::because(Status::TierFailed, reason),
            Stop::Refused(reason) => OpError::because(Status::TierRefused, reason),
            Stop::Wait(reason) => OpError::new(Status::TierFailed, reason),
            Stop::Open | Stop::Later(_) | Stop::Never => OpError::new(Status::Busy, busy),
        }
    }
}

/// Result of a step of flushing.
pub type FlushResult<T> = Result<T, Stop>;

impl From<OpError> for Stop {
    /// What a flush found a moment ago may be removed before its home is asked about it; the removal is noted, too.
    fn from(error: OpError) -> Self {
        match error.status {
            Status::NotFound => Stop::Wait("it was removed meanwhile"),
            Status::TierRefused => Stop::Refused(error.message.into_owned()),
            _ => Stop::Failed(error.message.into_owned()),
        }
    }
}

impl From<TierError> for Stop {
    fn from(error: TierError) -> Self {
        match error {
            TierError::Refused(reason) => Stop::Refused(reason),
            error => Stop::Failed(error.to_string()),
        }
    }
}

impl From<KvError> for Stop {
    fn from(error: KvError) -> Self {
        Stop::from(OpError::from(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tier_refused_another_server_is_a_refusal() {
        let refused = Stop::Refused("no such name there".to_owned());
        assert_eq!(Stop::from(refused.clone().refusal("")), refused);
        let failed = Stop::Failed("it is away".to_owned());
        assert_eq!(Stop::from(failed.clone().refusal("")), failed);
    }
}
