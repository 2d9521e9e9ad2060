//! A full file system: for which the test must be root.

use crate::small_file_system::Mount;
use crate::{for_each_engine, open};
use fs_server::kv::{Batch, KvError};
use std::fs;
use std::time::Duration;

/// Goal: a commit that finds no space is refused, and the store is well again when there is space: nothing of it must be opened anew. Method: another
/// program's file takes all that is left, and goes away, many times; the refused batches are not there at the end, the others are.
#[test]
fn a_full_file_system_refuses_and_recovers() {
    let Some(mount) = Mount::of_mib(256) else { return };
    for_each_engine(|kind, dir| {
        let dir = mount.path().join(dir.file_name().unwrap());
        let store = open(kind, &dir);
        let put = |key: String| {
            let mut batch = Batch::default();
            batch.put(key.as_bytes(), [7; 1000]);
            store.commit(batch)
        };
        let ballast = mount.path().join("ballast");
        for round in 0..20 {
            put(format!("before {round}")).unwrap();
            let file = fs::File::create(&ballast).unwrap();
            let free = rustix::fs::statvfs(mount.path()).unwrap();
            rustix::fs::fallocate(
                &file,
                rustix::fs::FallocateFlags::empty(),
                0,
                free.f_bavail * free.f_frsize,
            )
            .unwrap();
            drop(file);
            // While there is plenty the store looks every 50 ms.
            std::thread::sleep(Duration::from_millis(60));
            for _ in 0..10 {
                assert!(
                    matches!(put(format!("full {round}")), Err(KvError::NoSpace)),
                    "{kind}, round {round}"
                );
            }
            fs::remove_file(&ballast).unwrap();
            put(format!("after {round}")).unwrap();
        }
        drop(store);
        let store = open(kind, &dir);
        for round in 0..20 {
            for (word, is_there) in [("before", true), ("full", false), ("after", true)] {
                let key = format!("{word} {round}");
                assert_eq!(store.get(key.as_bytes()).unwrap().is_some(), is_there, "{kind}: {key}");
            }
        }
        drop(store);
        fs::remove_dir_all(&dir).unwrap();
    });
}
