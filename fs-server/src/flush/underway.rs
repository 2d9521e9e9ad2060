//! How far the copies of large files are, for those who wait for one of them and want to know whether it gets on.
//!
//! # Invariants
//! - Bounded: of more than [`LIMIT`] files those go that did not get on for longest (`those_that_get_on_are_known`).

use std::time::{Duration, Instant};

use fs_proto::InodeId;
use parking_lot::Mutex;

use crate::hash::Map;

/// Files that are known.
const LIMIT: usize = 1_024;
/// What did not get on for so long is not told any more.
const LASTS: Duration = Duration::from_secs(300);

/// Bytes of files that this server has copied.
#[derive(Default)]
pub struct Underway {
    files: Mutex<Map<InodeId, (u64, Instant)>>,
}

impl Underway {
    /// Bytes of a file were written into its copy.
    pub fn note(&self, ino: InodeId, bytes: u64) {
        let (mut files, now) = (self.files.lock(), Instant::now());
        if files.len() >= LIMIT && !files.contains_key(&ino) {
            let mut times: Vec<_> = files.values().map(|(_, then)| *then).collect();
            let (_, middle, _) = times.select_nth_unstable(LIMIT / 2);
            let middle = *middle;
            files.retain(|_, (_, then)| *then >= middle);
        }
        let file = files.entry(ino).or_insert((0, now));
        *file = (file.0 + bytes, now);
    }

    /// For the status page.
    pub fn status_json(&self) -> serde_json::Value {
        let files = self.files.lock();
        let lately = files.iter().filter(|(_, (_, then))| then.elapsed() < LASTS);
        lately.map(|(ino, (bytes, _))| serde_json::json!({"ino": ino.0, "bytes": bytes})).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_get_on_are_known() {
        let underway = Underway::default();
        for ino in 0..10 * LIMIT as u64 {
            underway.note(InodeId(7), 10);
            underway.note(InodeId(100 + ino), 1);
        }
        assert!(underway.files.lock().len() <= LIMIT);
        let page = underway.status_json();
        let file = page.as_array().unwrap().iter().find(|file| file["ino"] == 7).unwrap();
        assert_eq!(file["bytes"], 100 * LIMIT);
    }
}
