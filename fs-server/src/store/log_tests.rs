//! The log with a device that fails.

use super::super::disk::buffered::BufferedDisk;
use super::*;
use fs_proto::ids::{ChunkIndex, InodeId};
use std::fs::File;

fn log(dir: &std::path::Path) -> Log {
    let limits = Limits { store_id: 1, boot_id: 1, segment_bytes: 64 << 10, reserve_bytes: 0, align: 512 };
    let resume =
        Resume { next_segment: 1, next_sequence: 1, durable: Position::default(), in_doubt: Vec::new() };
    Log::new(limits, Segments::new(Arc::new(BufferedDisk::new(dir)), 8), resume)
}

fn request(data: &[u8]) -> Request {
    Request {
        kind: Kind::Data,
        key: ChunkKey { ino: InodeId(1), chunk: ChunkIndex(0) },
        offset: 0,
        data_bytes: data.len() as u32,
        table_crc: 0,
        purpose: Purpose::Data,
        shard: 0,
        sequence: None,
    }
}

/// Puts another file in the place of the active segment's.
fn fail_with(log: &Log, file: File) {
    log.state.lock().active.as_mut().expect("an active segment").file = Arc::new(file);
}

#[test]
fn a_failed_write_refuses_changes() {
    // Goal: once the device has failed a write (here: a handle that cannot write) nothing is given out any more, and a
    // sync does not say that all is well.
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path());
    let write = || log.reserve(&request(b"data"))?.write(&[0; 4], b"data");
    write().unwrap();
    fail_with(&log, File::open(dir.path().join("00000001.seg")).unwrap());
    assert!(matches!(write(), Err(StoreError::Io(_))));
    assert!(matches!(write(), Err(StoreError::Refused)));
    assert!(matches!(log.sync(), Err(StoreError::Refused)));
}

#[test]
fn a_full_device_at_a_write_is_no_failure() {
    // Goal: where space could not be taken ahead, a write may meet a full device. If the place can be made void, the
    // store goes on, else it refuses. /dev/full takes neither.
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path());
    let first = log.reserve(&request(b"data")).unwrap();
    let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
    assert!(matches!(first.failed(full), StoreError::NoSpace));
    drop(first);
    assert!(log.check().is_ok());
    fail_with(&log, File::options().write(true).open("/dev/full").unwrap());
    let second = log.reserve(&request(b"data")).unwrap();
    assert!(matches!(second.write(&[0; 4], b"data"), Err(StoreError::Io(_))));
    assert!(matches!(log.check(), Err(StoreError::Refused)));
}

#[test]
fn the_durable_mark_stays_before_what_is_under_way() {
    // Goal: a sync must not promise a record whose place was given out but which is not written yet.
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path());
    let slow = log.reserve(&request(b"slow")).unwrap();
    log.reserve(&request(b"fast")).unwrap().write(&[0; 4], b"fast").unwrap();
    log.sync().unwrap();
    assert_eq!(log.reserve(&request(b"next")).unwrap().header.durable, slow.header.at);
    assert!(!log.is_settled(slow.header.at.segment));
    drop(slow);
    log.sync().unwrap();
    let last = log.reserve(&request(b"last")).unwrap();
    assert_eq!(last.header.durable, last.header.at);
}
