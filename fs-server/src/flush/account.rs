//! What flushing did since the start, and what is not safe and why. What was published is counted in `published`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::ClientId;
use parking_lot::Mutex;

use super::queue::FlushItem;

/// Names that an account lists.
const SHOWN: usize = 100;
/// How long something handed to another server counts as pending here, at most: until that server's own account has it for certain.
const HANDED: Duration = Duration::from_millis(500);
/// Askers of whom it is known what they were told.
const ASKERS: usize = 256;

/// Counters since the start, and what failed last.
#[derive(Default)]
pub struct Account {
    copied_bytes: AtomicU64,
    failures: AtomicU64,
    /// Estimate of the bytes that pending names stand for.
    pub pending_bytes: AtomicU64,
    failed: Mutex<HashMap<FlushItem, Failed>>,
    handed: Mutex<Handed>,
}

/// Something that failed last.
struct Failed {
    path: Bytes,
    reason: String,
    /// The tier refuses it and nothing else: nobody should wait for the room that it would make.
    in_vain: bool,
}

/// What was handed to other servers.
#[derive(Default)]
struct Handed {
    last: Option<Instant>,
    times: u64,
    /// Who asks was told that something is on the way when so many had been handed over.
    told: HashMap<ClientId, u64>,
}

impl Failed {
    fn shown(&self) -> String {
        if self.in_vain {
            return format!("{} (refused again and again: it makes no room for others)", self.reason);
        }
        self.reason.clone()
    }
}

impl Account {
    /// Bytes were written to the tier, into a copy that may be thrown away yet.
    pub fn note_copied(&self, bytes: u64) {
        self.copied_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes copied and failed attempts since the start.
    pub fn counts(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.copied_bytes), load(&self.failures))
    }

    /// An attempt failed; true if the reason is new, and so is worth a log line.
    pub fn note_failure(&self, item: &FlushItem, path: impl FnOnce() -> Bytes, reason: &str) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut failed = self.failed.lock();
        match failed.get_mut(item) {
            Some(failed) if failed.reason == reason => false,
            Some(failed) => {
                reason.clone_into(&mut failed.reason);
                true
            }
            None => {
                let failed_now = Failed { path: path(), reason: reason.to_owned(), in_vain: false };
                failed.insert(item.clone(), failed_now);
                true
            }
        }
    }

    /// Whether the tier refuses the item again and again. Told once: somebody may wait for the room that it would make.
    pub fn note_in_vain(&self, item: &FlushItem, is_in_vain: bool) {
        let mut all = self.failed.lock();
        let Some(failed) = all.get_mut(item) else { return };
        if std::mem::replace(&mut failed.in_vain, is_in_vain) || !is_in_vain {
            return;
        }
        let (name, reason) = (String::from_utf8_lossy(&failed.path), &failed.reason);
        tracing::warn!(
            ?name,
            reason,
            "the shared tier refuses this file again and again: it is tried further, but writers that find no room do not wait for it any more and get ENOSPC; mend the cause, or remove or copy the file"
        );
    }

    /// Why the last attempt at the item failed, if it did.
    pub fn reason(&self, item: &FlushItem) -> Option<String> {
        self.failed.lock().get(item).map(Failed::shown)
    }

    /// Why attempts before this failed does not matter any more.
    pub fn forget_reason(&self, item: &FlushItem) {
        self.failed.lock().remove(item);
    }

    /// Whether the last attempt at the item failed.
    pub fn has_failed(&self, item: &FlushItem) -> bool {
        self.failed.lock().contains_key(item)
    }

    /// The item is safe.
    pub fn note_success(&self, item: &FlushItem) {
        self.failed.lock().remove(item);
    }

    /// Names that are not safe, and why: some of them.
    pub fn unsafe_names(&self) -> Vec<(Bytes, String)> {
        self.failed.lock().values().take(SHOWN).map(|failed| (failed.path.clone(), failed.shown())).collect()
    }

    /// Work was handed to another server.
    pub fn note_handed(&self) {
        let mut handed = self.handed.lock();
        (handed.last, handed.times) = (Some(Instant::now()), handed.times + 1);
    }

    /// 1 while work may be on its way to another server's account, so that a sum over servers asked one after the other is never
    /// zero too early. An asker who was told so since the last time has asked the other server before, and will ask it again.
    pub fn on_the_way(&self, asker: Option<ClientId>) -> u64 {
        let mut handed = self.handed.lock();
        if handed.last.is_none_or(|when| when.elapsed() >= HANDED) {
            return 0;
        }
        let Some(asker) = asker else { return 1 };
        if handed.told.len() >= ASKERS {
            handed.told.clear();
        }
        let times = handed.times;
        u64::from(handed.told.insert(asker, times) != Some(times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_proto::InodeId;

    #[test]
    fn each_asker_hears_once_of_what_was_handed_over() {
        // Goal: who asks several servers in turn hears of everything that was handed over since he asked last, and nobody else's question changes that.
        let account = Account::default();
        let (a, b) = (Some(ClientId(1)), Some(ClientId(2)));
        assert_eq!(account.on_the_way(a), 0);
        account.note_handed();
        assert_eq!([account.on_the_way(a), account.on_the_way(a), account.on_the_way(b)], [1, 0, 1]);
        account.note_handed();
        assert_eq!([account.on_the_way(b), account.on_the_way(a), account.on_the_way(a)], [1, 1, 0]);
        assert_eq!([account.on_the_way(None), account.on_the_way(None)], [1, 1]);
    }

    #[test]
    fn a_reason_is_news_once() {
        let account = Account::default();
        let item = FlushItem::Inode(InodeId(4));
        let path = || Bytes::from_static(b"/a");
        assert!(account.note_failure(&item, path, "full"));
        assert!(!account.note_failure(&item, path, "full"));
        assert!(account.note_failure(&item, path, "gone"));
        account.note_in_vain(&item, true);
        assert!(
            account.note_failure(&item, path, "refused")
                && account.unsafe_names()[0].1.contains("makes no room")
        );
        account.note_in_vain(&item, false);
        assert!(account.note_failure(&item, path, "gone"));
        assert_eq!(account.unsafe_names(), [(path(), "gone".to_owned())]);
        account.note_success(&item);
        assert_eq!((account.unsafe_names().len(), account.counts()), (0, (0, 5)));
    }
}
