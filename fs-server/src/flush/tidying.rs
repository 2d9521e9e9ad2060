//! Removing from the tier what only this server's staging needs, once nothing waits to be flushed.
//!
//! # Invariants
//! - A tier that is away is tried with growing pauses (`pauses_grow_until_somebody_asks`), and at once when somebody asks or something else was flushed
//!   (`tests/flush`, `a_drain_does_not_wait_for_the_next_attempt_to_tidy_up`).
//! - Whoever waits for it is told what is in the way if that lasts (`what_is_in_the_way_counts_once_it_lasts`).

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::{InodeId, ServerId};

use super::outcome::{FlushResult, Stop};
use super::queue::{FlushItem, FlushQueue};
use super::{FAILURE_PAUSES, Flusher, WAIT_LIMIT, aside, attempt, remote};
use crate::tier::{Base, Place, TierError, TierResult};
use crate::worker::Worker;

/// Pauses while another server takes out what lies there.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

/// Attempts in vain.
#[derive(Default)]
pub struct Tidying {
    attempts: u32,
    /// When the next one is due; none: at once.
    next: Option<Instant>,
    /// When the first one was.
    began: Option<Instant>,
}

impl Tidying {
    /// An attempt ended with `stop`; returns the pause before the next, and what it failed for, if that is worth telling.
    fn put_off(&mut self, stop: Stop) -> (Duration, Option<String>) {
        let now = Instant::now();
        let began = *self.began.get_or_insert(now);
        let (pauses, reason) = match stop {
            Stop::Failed(reason) | Stop::Refused(reason) => (FAILURE_PAUSES, Some(reason)),
            Stop::Wait(reason) => (WAITS, (now - began >= WAIT_LIMIT).then(|| reason.to_owned())),
            Stop::Open | Stop::Later(_) | Stop::Never => (WAITS, None),
        };
        let pause = attempt::doubled(pauses, self.attempts);
        (self.attempts, self.next) = (self.attempts + 1, Some(now + pause));
        (pause, reason)
    }
}

impl Flusher {
    /// Something comes to lie in this server's staging without being staged.
    pub fn note_staging_used(&self) {
        self.staged.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether staging was used since it was tidied up.
    pub fn is_untidy(&self) -> bool {
        self.staged.load(Ordering::Acquire) != self.tidied.load(Ordering::Acquire)
    }

    /// What was staged in vain and could not be removed: removed before this server is done.
    pub fn note_doomed(&self, name: Bytes) {
        self.doomed.lock().push(name);
    }

    /// Removes from the tier what only staging needs; returns how often it had been used before, for [`Flusher::note_tidied`]. None while
    /// something lies there that another server takes out.
    async fn empty_staging(&self, me: ServerId) -> TierResult<Option<u64>> {
        let staged = self.staged.load(Ordering::Acquire);
        let doomed = std::mem::take(&mut *self.doomed.lock());
        let left = doomed.clone();
        self.dirs.forget_staging();
        let tidied = self.on_tier(move |tier| {
            for name in doomed {
                match tier.remove(&Place { dir: tier.base(Base::Staging(me))?, name }, false) {
                    Ok(()) | Err(TierError::Missing(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            tier.rest(me)
        });
        let is_gone = tidied.await.inspect_err(|_| self.doomed.lock().extend(left))?;
        Ok(is_gone.then_some(staged))
    }

    /// All that the first `staged` uses of staging left in the tier is gone.
    fn note_tidied(&self, staged: u64) {
        self.tidied.store(staged, Ordering::Release);
        self.tidied_now.notify_waiters();
    }

    /// Whoever waits for the end does not wait for the next attempt.
    pub fn ask_to_tidy(&self, queue: &FlushQueue) {
        if self.is_untidy() && self.tidying.lock().next.take().is_some() {
            queue.wake();
        }
    }

    /// Attempts in vain do not count any more.
    pub fn forget_untidy(&self) {
        *self.tidying.lock() = Tidying::default();
    }
}

/// Nothing waits: tidies up if it is time to; returns how long it is to wait for the next attempt, if there is one to come.
pub async fn tidy(worker: &Rc<Worker>) -> Option<Duration> {
    let flusher = &worker.node.flusher;
    if !flusher.is_untidy() {
        return None;
    }
    let now = Instant::now();
    if let Some(next) = flusher.tidying.lock().next.filter(|next| *next > now) {
        return Some(next - now);
    }
    let (account, what) = (&flusher.account, FlushItem::Inode(aside::number(worker.node.id())));
    let Err(stop) = tidy_and_touch(worker).await else {
        account.note_success(&what);
        flusher.forget_untidy();
        return None;
    };
    let (pause, reason) = flusher.tidying.lock().put_off(stop);
    if let Some(reason) = reason {
        let name = || Bytes::from_static(b"(the flusher's own files in the shared tier)");
        if account.note_failure(&what, name, &reason) {
            tracing::warn!(
                reason,
                "what staging needed is not tidied up in the shared tier yet; it is tried again"
            );
        }
    }
    Some(pause)
}

/// Staging came and went in the tier's own directory, whose times are therefore set again. Servers do so side by side: whoever is the last
/// to change the directory is also the last to have it set.
async fn tidy_and_touch(worker: &Rc<Worker>) -> FlushResult<()> {
    let flusher = &worker.node.flusher;
    let Some(staged) = flusher.empty_staging(worker.node.id()).await? else {
        return Err(Stop::Wait("a directory that made way is taken out of staging first"));
    };
    remote::touch(worker, InodeId::ROOT).await?;
    flusher.note_tidied(staged);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_somebody_asks() {
        let mut tidying = Tidying::default();
        let pauses: Vec<_> = (0..9).map(|_| tidying.put_off(Stop::Failed("away".to_owned())).0).collect();
        assert_eq!(
            (pauses[0], pauses[1], pauses[8]),
            (FAILURE_PAUSES.0, FAILURE_PAUSES.0 * 2, FAILURE_PAUSES.1)
        );
        assert!(tidying.next.is_some_and(|next| next > Instant::now() + FAILURE_PAUSES.1 / 2));
    }

    #[test]
    fn what_is_in_the_way_counts_once_it_lasts() {
        let mut tidying = Tidying::default();
        let mut reason = |stop, since: Option<Duration>| {
            tidying.began = since.and_then(|since| Instant::now().checked_sub(since));
            tidying.put_off(stop).1
        };
        let wait = Stop::Wait("in the way");
        assert_eq!(reason(wait.clone(), None), None);
        assert_eq!(reason(wait.clone(), Some(WAIT_LIMIT / 2)), None);
        assert_eq!(reason(wait, Some(WAIT_LIMIT)).as_deref(), Some("in the way"));
        assert_eq!(reason(Stop::Open, Some(WAIT_LIMIT)), None);
        assert_eq!(reason(Stop::Failed("away".to_owned()), None).as_deref(), Some("away"));
    }
}
