//! The ring on a real file system, where that takes direct I/O.

use super::super::Disk;
use super::super::direct::DirectDisk;
use super::*;
use tokio::runtime::LocalRuntime;

/// Runs `body` on a runtime as workers have one, with a direct file of 1 MiB; says so where there is no direct I/O.
fn on_a_file<F: Future<Output = ()>>(body: impl FnOnce(Arc<DirectFile>) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let disk = match DirectDisk::new(dir.path()) {
        Ok(disk) => disk,
        Err(error) => return crate::skip::note(format!("no direct I/O here ({error})")),
    };
    let file = disk.create(1).unwrap();
    file.reserve(1 << 20).unwrap();
    LocalRuntime::new().unwrap().block_on(body(file.direct().unwrap()));
}

fn block(byte: u8) -> Part {
    let mut memory = Aligned::new(4096);
    memory.fill(byte);
    Part::Own(memory)
}

#[test]
fn many_operations_at_once_end_each_with_its_own() {
    // Goal: more operations than the ring has entries, all begun before any ends; each read finds what its write wrote.
    on_a_file(|file| async move {
        let blocks = 2 * u64::from(ENTRIES) + 10;
        let writes = (0..blocks)
            .map(|n| tokio::task::spawn_local(write(file.clone(), vec![block(n as u8)], n * 4096)));
        for written in writes.collect::<Vec<_>>() {
            written.await.unwrap().unwrap();
        }
        let reads = (0..blocks).map(|n| {
            let file = file.clone();
            tokio::task::spawn_local(async move { (n, read(file, vec![block(0)], n * 4096).await) })
        });
        for done in reads.collect::<Vec<_>>() {
            let (n, (got, parts)) = done.await.unwrap();
            assert_eq!(got.unwrap(), 4096);
            assert!(parts[0].bytes().iter().all(|b| *b == n as u8), "block {n}");
        }
    });
}

#[test]
fn who_stops_waiting_leaves_nothing_behind() {
    // Goal: futures that are dropped before or after the kernel has begun: the operations are carried out with memory
    // that nobody else has, and their slots become free.
    on_a_file(|file| async move {
        let ring = Ring::here().unwrap();
        for n in 0..200_u64 {
            let begun = ring.start(Work::new(file.clone(), vec![block(7)], n % 50 * 4096, Direction::Write));
            if n % 2 == 0 {
                tokio::task::yield_now().await;
            }
            drop(begun.unwrap());
        }
        // One that is waited for, behind them all.
        write(file.clone(), vec![block(9)], 60 * 4096).await.unwrap();
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !ring.slots.borrow().is_empty() {
            assert!(std::time::Instant::now() < limit, "{} slots stay", ring.slots.borrow().len());
            tokio::task::yield_now().await;
        }
        let (got, parts) = read(file, vec![block(0)], 49 * 4096).await;
        assert_eq!((got.unwrap(), parts[0].bytes()[0]), (4096, 7));
    });
}

#[test]
fn a_runtime_that_ends_waits_for_the_kernel() {
    // Goal: a runtime ends with operations under way; what they wrote is whole, and a new runtime on the thread works.
    for round in 1..4_u8 {
        on_a_file(|file| async move {
            let ring = Ring::here().unwrap();
            let begun: Vec<_> = (0..64)
                .map(|n| ring.start(Work::new(file.clone(), vec![block(round)], n * 4096, Direction::Write)))
                .collect();
            tokio::task::yield_now().await;
            drop(begun);
        });
    }
}

#[test]
fn failures_come_back_as_errors() {
    // Goal: an operation that the kernel refuses (here: a write through a descriptor for reading) ends with its error.
    on_a_file(|file| async move {
        let path = format!("/proc/self/fd/{}", file.0.as_raw_fd());
        let reading = Arc::new(DirectFile(std::fs::File::open(path).unwrap()));
        let refused = write(reading, vec![block(1)], 0).await;
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(Ring::here().unwrap().slots.borrow().is_empty());
    });
}
