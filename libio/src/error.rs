//! What can go wrong, one variant per thing that an application can do about it.

use thiserror::Error;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// The file system failed: try again, or look after it. Nothing that was committed is touched.
    #[error(transparent)]
    FileSystem(#[from] fs_client::Error),
    /// An argument cannot be: correct the call.
    #[error("{0}")]
    Invalid(String),
    /// There is no such version, rank or region: ask what there is.
    #[error("{what} does not exist in checkpoint set {set:?}")]
    NotFound {
        /// The set.
        set: String,
        /// What was asked for.
        what: String,
    },
    /// The version is committed already: use another number.
    #[error(
        "version {version} of checkpoint set {set:?} is committed already: use another number, or remove it"
    )]
    VersionExists {
        /// The set.
        set: String,
        /// The version.
        version: u64,
    },
    /// Ranks of one group disagree on their number: start them alike. The other ranks hear [`Error::Aborted`].
    #[error(
        "version {version} of checkpoint set {set:?} was begun by a group of {theirs} ranks, now a rank of the same group says {ours}"
    )]
    RanksDiffer {
        /// The set.
        set: String,
        /// The version.
        version: u64,
        /// Number of ranks of whoever began.
        theirs: u32,
        /// Number of ranks in this call.
        ours: u32,
    },
    /// A rank gave up: begin the version again, on all ranks.
    #[error(
        "this attempt at version {version} of checkpoint set {set:?} was given up: {reason}; begin again on all ranks"
    )]
    Aborted {
        /// The set.
        set: String,
        /// The version.
        version: u64,
        /// Who gave up and why.
        reason: String,
    },
    /// Another group writes this version: stop this one, or give all ranks of one run the same group.
    #[error(
        "another group ({by}) took over version {version} of checkpoint set {set:?}: ranks of one run must share a group \
         (HAYATE_GROUP), and two runs must not write one set"
    )]
    Superseded {
        /// The set.
        set: String,
        /// The version.
        version: u64,
        /// The other group.
        by: String,
    },
    /// What is stored differs from its checksum, or parts are gone: use an older version.
    #[error("{path}: {what}: this checkpoint is damaged, use an older version")]
    Corrupt {
        /// File in the file system.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// It was written by another release of this library: use that one.
    #[error("{path} has format {found:?}, which this release of libio does not know: use a newer one")]
    Unsupported {
        /// File in the file system.
        path: String,
        /// The format it claims.
        found: String,
    },
    /// Servers are lost, or do not answer, and with them every version: start them again, or begin anew.
    #[error(
        "no version of checkpoint set {set:?} is whole: the newest, {version}, needs what these servers kept, which have lost it or do not \
         answer: {servers}; see whether they run (hayate status)"
    )]
    Lost {
        /// The set.
        set: String,
        /// The newest version that there was.
        version: u64,
        /// Numbers of the servers, with commas between.
        servers: String,
    },
    /// A restart from it failed before ([`crate::Checkpoints::finish`]): use an older version.
    #[error("a restart from version {version} of checkpoint set {set:?} failed before: use an older version")]
    Failed {
        /// The set.
        set: String,
        /// The version.
        version: u64,
    },
    /// The shared tier cannot be read: look after it.
    #[error("{path} in the shared tier: {reason}")]
    Tier {
        /// The file.
        path: String,
        /// The system's words.
        reason: String,
        /// The system's number, if it gave one.
        errno: Option<i32>,
    },
    /// Not so far within the time given: a rank, or the shared tier, is late or dead.
    #[error(
        "version {version} of checkpoint set {set:?} was not {level} within {seconds} s: see whether all ranks run"
    )]
    TimedOut {
        /// The set.
        set: String,
        /// The version.
        version: u64,
        /// What was waited for.
        level: String,
        /// How long was waited.
        seconds: u64,
    },
}

impl Error {
    /// The errno (Linux numbers) that stands for it.
    pub fn errno(&self) -> i32 {
        match self {
            Error::FileSystem(e) => e.errno(),
            Error::Invalid(_) | Error::RanksDiffer { .. } => libc::EINVAL,
            Error::NotFound { .. } => libc::ENOENT,
            Error::VersionExists { .. } => libc::EEXIST,
            Error::Lost { .. } => libc::EHOSTDOWN,
            Error::Failed { .. } => libc::ENOTRECOVERABLE,
            Error::Tier { errno, .. } => errno.unwrap_or(libc::EIO),
            Error::Aborted { .. } => libc::ECANCELED,
            Error::Superseded { .. } => libc::EBUSY,
            Error::Corrupt { .. } => libc::EIO,
            Error::Unsupported { .. } => libc::EPROTO,
            Error::TimedOut { .. } => libc::ETIMEDOUT,
        }
    }

    pub(crate) fn corrupt(path: &str, what: impl Into<String>) -> Error {
        Error::Corrupt { path: path.to_owned(), what: what.into() }
    }
}
