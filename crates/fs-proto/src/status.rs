//! How a request ended: one variant per thing that a caller can do about it.

use crate::wire::wire_enum;

wire_enum! {
    /// Result of a request. Zero is success; the reply's body is then the operation's, else a message for people.
    pub enum Status: u16 {
        /// Done.
        Ok = 0,
        /// No such name, or the inode is gone.
        NotFound = 1,
        /// The name exists.
        Exists = 2,
        /// A component is not a directory.
        NotDirectory = 3,
        /// The target is a directory.
        IsDirectory = 4,
        /// The directory has entries.
        NotEmpty = 5,
        /// The caller is not the owner or not privileged.
        NotPermitted = 6,
        /// The mode bits forbid it.
        AccessDenied = 7,
        /// An argument makes no sense.
        Invalid = 8,
        /// A name is longer than 255 bytes.
        NameTooLong = 9,
        /// No space left on the servers' stores.
        NoSpace = 10,
        /// The store refuses writes, after a failed write or sync.
        ReadOnly = 11,
        /// A device failed.
        Io = 12,
        /// Too many hard links.
        TooManyLinks = 13,
        /// No such extended attribute.
        NoAttribute = 14,
        /// A value does not fit.
        OutOfRange = 15,
        /// In use by something else.
        Busy = 16,
        /// This operation is not offered for this object.
        NotSupported = 17,
        /// The offset is above the largest file size.
        FileTooBig = 18,
        /// Stored bytes do not match their checksum.
        Corrupt = 19,
        /// The sender's partition map is of another epoch.
        StaleEpoch = 20,
        /// The directory is wide now: send again to the partition of the name.
        WideDirectory = 21,
        /// A conflicting change was in the way: send again.
        Retry = 22,
        /// The server that owns the partition cannot be reached.
        Unavailable = 23,
        /// The request did not end within its time.
        TimedOut = 24,
        /// The bytes were not a message of this protocol.
        BadMessage = 25,
        /// The peer speaks another version.
        WrongVersion = 26,
        /// The peer does not know the job's secret.
        Unauthenticated = 27,
        /// The directory was removed while in use.
        Stale = 28,
        /// The shared tier failed.
        TierFailed = 29,
        /// A path has too many symbolic links.
        Loop = 30,
        /// Something else comes first and will come, whenever that is: send again. Who is told so has not been kept from an answer.
        Waiting = 31,
        /// The shared tier answers, and does not take this, whatever the time.
        TierRefused = 32,
    }
}

impl Status {
    /// The errno (Linux numbers) that an application sees.
    pub fn errno(self) -> i32 {
        match self {
            Status::Ok => 0,
            Status::NotFound => 2,
            Status::Exists => 17,
            Status::NotDirectory => 20,
            Status::IsDirectory => 21,
            Status::NotEmpty => 39,
            Status::NotPermitted => 1,
            Status::AccessDenied => 13,
            Status::Invalid => 22,
            Status::NameTooLong => 36,
            Status::NoSpace => 28,
            Status::ReadOnly => 30,
            Status::Io | Status::Corrupt | Status::BadMessage | Status::TierFailed | Status::TierRefused => 5,
            Status::TooManyLinks => 31,
            Status::NoAttribute => 61,
            Status::OutOfRange => 34,
            Status::Busy => 16,
            Status::NotSupported => 95,
            Status::FileTooBig => 27,
            Status::StaleEpoch | Status::WideDirectory | Status::Retry | Status::Waiting => 11,
            Status::Unavailable => 107,
            Status::TimedOut => 110,
            Status::WrongVersion => 71,
            Status::Unauthenticated => 129,
            Status::Stale => 116,
            Status::Loop => 40,
        }
    }

    /// Whether the same request may be sent again as it is (to the same or to a newly found owner).
    pub fn is_transient(self) -> bool {
        matches!(self, Status::StaleEpoch | Status::Retry | Status::Unavailable | Status::Waiting)
    }
}
