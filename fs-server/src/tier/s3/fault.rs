//! Whose fault it is that a server refuses a request, by the status and code of its answer: those of Amazon's documents, Ceph's and MinIO's.

/// What a refused request is to be blamed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no such object.
    Absent,
    /// There is no space, or a quota is used up.
    Space,
    /// This object, whatever the time.
    Object,
    /// This object, or everything: whether another is taken tells.
    Unclear,
    /// The server, the bucket, the credentials, or the way there.
    Server,
}

/// Keys, sizes and metadata that no object may have.
const OF_OBJECT: [&str; 8] = [
    "EntityTooLarge",
    "InvalidObjectName",
    "InvalidURI",
    "KeyTooLongError",
    "MetadataTooLarge",
    "XMinioInvalidObjectName",
    "XMinioObjectExistsAsDirectory",
    "XMinioParentIsObject",
];
const OF_SPACE: [&str; 3] = ["QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"];
/// Requests that were cut off or damaged on their way, and uploads of which a part is lost: made again they are others.
const PASSING: [&str; 10] = [
    "BadDigest",
    "EntityTooSmall",
    "IncompleteBody",
    "InvalidDigest",
    "InvalidPart",
    "InvalidPartOrder",
    "MalformedXML",
    "RequestTimeTooSkewed",
    "RequestTimeout",
    "XAmzContentSHA256Mismatch",
];

/// `status` is of an answer that is no success, or 200 of one that tells of an error in its body; `code` may be empty, as answers to HEAD have no body.
pub fn fault_of(status: u16, code: &str) -> Fault {
    if OF_SPACE.contains(&code) {
        return Fault::Space;
    }
    if OF_OBJECT.contains(&code) {
        return Fault::Object;
    }
    match status {
        404 if code != "NoSuchBucket" => Fault::Absent,
        // Insufficient Storage.
        507 => Fault::Space,
        // The body, or the path, is too long; some gateway may say so.
        413 | 414 => Fault::Object,
        400 | 403 if !PASSING.contains(&code) => Fault::Unclear,
        _ => Fault::Server,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_fault_it_is() {
        for (status, code, fault) in [
            (404, "NoSuchKey", Fault::Absent),
            (404, "", Fault::Absent),
            (404, "NoSuchBucket", Fault::Server),
            (507, "", Fault::Space),
            (403, "QuotaExceeded", Fault::Space),
            (400, "KeyTooLongError", Fault::Object),
            (200, "EntityTooLarge", Fault::Object),
            (413, "", Fault::Object),
            (403, "AccessDenied", Fault::Unclear),
            (403, "", Fault::Unclear),
            (400, "InvalidArgument", Fault::Unclear),
            (400, "RequestTimeout", Fault::Server),
            (403, "RequestTimeTooSkewed", Fault::Server),
            (200, "InternalError", Fault::Server),
            (409, "OperationAborted", Fault::Server),
            (503, "SlowDown", Fault::Server),
        ] {
            assert_eq!(fault_of(status, code), fault, "{status} {code}");
        }
    }
}
