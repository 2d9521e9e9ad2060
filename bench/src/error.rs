//! What can end a run.

use crate::backend::IoFailure;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, BenchError>;

/// Why a run ended without a result. Wrong content is no error of the run: it is counted (see [`crate::cli::run`]).
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The options contradict each other or have no meaning here.
    #[error("{0}")]
    Options(String),
    /// No client could be had.
    #[error("cannot reach the cluster: {0}")]
    Connect(String),
    /// An operation on the file system failed.
    #[error(transparent)]
    Io(#[from] IoFailure),
    /// A task could not be started.
    #[error("cannot start task {rank}: {why}")]
    Start {
        /// The task.
        rank: u32,
        /// What the system said.
        why: String,
    },
    /// A task reported that it cannot go on.
    #[error("task {rank} failed: {why}")]
    Task {
        /// The task.
        rank: u32,
        /// What it said.
        why: String,
    },
    /// A task ended before its work was done.
    #[error("task {rank} died: {how}; the other tasks were stopped, its files may be left behind")]
    TaskDied {
        /// The task.
        rank: u32,
        /// How it ended, as far as the system tells.
        how: String,
    },
    /// The coordinator ended, or said something that a task does not understand.
    #[error("lost the coordinator: {0}")]
    Coordinator(String),
    /// First wrong content with `-q`.
    #[error("wrong content, stopped as asked (-q): {0}")]
    WrongContent(String),
    /// The report could not be written.
    #[error("cannot write the report: {0}")]
    Report(#[from] std::io::Error),
}

/// Number of wrong words as the exit status of a process: 0 for none, at most 255.
pub fn exit_status(errors: u64) -> u8 {
    u8::try_from(errors).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::exit_status;

    /// 256 errors must not look like success.
    #[test]
    fn many_errors_are_not_success() {
        assert_eq!([0, 7, 255, 256, u64::MAX].map(exit_status), [0, 7, 255, 255, 255]);
    }
}
