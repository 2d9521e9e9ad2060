//! The thread that does in the background what no caller waits for: giving back closed inodes, publishing what was written a while
//! ago, renewing what is open.
//!
//! It sleeps until something is open, then looks every second. It has a lane of its own, so it needs no other thread's connections.

use std::sync::{Arc, Condvar, Mutex as StdMutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::aio::Core;
use crate::error::{Error, Result};
use crate::lane;
use crate::shared::Shared;

/// How often it looks.
const TICK: Duration = Duration::from_secs(1);

/// How long what was written may stay unpublished.
const PUBLISH_AGE: Duration = Duration::from_secs(5);

/// How often open inodes are renewed: three times within a lease.
const RENEW_EVERY: Duration = Duration::from_secs(30);
const _: () = assert!(RENEW_EVERY.as_millis() * 3 <= fs_proto::msg::inode::LEASE_MS as u128);

/// How long its requests are tried; what fails is tried again later.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How long they are tried when the client ends.
pub(crate) const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// The housekeeper's thread, with its bell.
#[derive(Default)]
pub(crate) struct Keeper {
    running: Mutex<Option<Running>>,
}

struct Running {
    pid: u32,
    bell: Arc<Bell>,
    thread: JoinHandle<()>,
}

/// What the thread sleeps on. Of the standard library, whose waiters are known to the kernel only: parking_lot keeps them in a list
/// in the process's memory, where a forked child would find the parent's sleeping thread, whose memory its own threads reuse.
#[derive(Default)]
struct Bell {
    rung: StdMutex<Rung>,
    changed: Condvar,
}

#[derive(Default, Clone, Copy)]
struct Rung {
    wake: bool,
    stop: bool,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, Rung> {
        // Two flags: no panic can leave them half set.
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self, stop: bool) {
        let mut rung = self.lock();
        rung.wake = true;
        rung.stop |= stop;
        self.changed.notify_one();
    }
}

impl Keeper {
    /// Starts the thread; also once in each forked child, which then tells the servers what it has open.
    pub fn start(&self, shared: &Arc<Shared>) -> Result<()> {
        let mut running = self.running.lock();
        let inherited = disown(&mut running);
        let bell = Arc::new(Bell::default());
        let (its_bell, its_shared) = (bell.clone(), shared.clone());
        let thread = std::thread::Builder::new()
            .name("hayate-keeper".to_owned())
            .spawn(move || run(&its_bell, &its_shared, inherited))
            .map_err(|e| Error::System { what: "start the housekeeping thread", cause: e.to_string() })?;
        if inherited {
            bell.ring(false);
        }
        *running = Some(Running { pid: std::process::id(), bell, thread });
        Ok(())
    }

    pub fn wake(&self) {
        if let Some(running) = &*self.running.lock() {
            running.bell.ring(false);
        }
    }

    /// Lets it do a last round and waits for its end.
    pub fn stop(&self) {
        let mut running = self.running.lock();
        disown(&mut running);
        let Some(Running { bell, thread, .. }) = running.take() else { return };
        drop(running);
        bell.ring(true);
        if thread.join().is_err() {
            tracing::error!("the housekeeping thread panicked: open files may stay announced for a while");
        }
    }
}

/// In a forked child, forgets the parent's thread: it does not exist here, must be neither joined nor detached, and its bell
/// would ring for nobody. Answers whether there was one.
fn disown(running: &mut Option<Running>) -> bool {
    match running.take() {
        Some(parents) if parents.pid != std::process::id() => {
            std::mem::forget(parents);
            true
        }
        own => {
            *running = own;
            false
        }
    }
}

/// Waits for the next round; answers whether it is the last.
fn wait(bell: &Bell, shared: &Shared) -> bool {
    let mut rung = bell.lock();
    if !rung.wake && !rung.stop {
        rung = if shared.opens.is_empty() && shared.locks.is_idle() {
            bell.changed.wait(rung).unwrap_or_else(PoisonError::into_inner)
        } else {
            bell.changed.wait_timeout(rung, TICK).unwrap_or_else(PoisonError::into_inner).0
        };
    }
    rung.wake = false;
    rung.stop
}

fn run(bell: &Bell, shared: &Arc<Shared>, renew_first: bool) {
    let mut renewed = Instant::now();
    let mut renew_now = renew_first;
    loop {
        let last = wait(bell, shared);
        let renew = !last && (std::mem::take(&mut renew_now) || renewed.elapsed() >= RENEW_EVERY);
        if renew {
            renewed = Instant::now();
        }
        let round = lane::block_on(shared, async |core| {
            round(core, last, renew).await;
            Ok(())
        });
        if let Err(e) = round {
            tracing::warn!(error = %e, "housekeeping could not be done; it is tried again");
        }
        if last {
            return;
        }
    }
}

async fn round(core: &Core, last: bool, renew: bool) {
    let patience = if last { LAST_PATIENCE } else { PATIENCE };
    if !last {
        core.renew_locks(patience).await;
    }
    core.close_deferred(patience).await;
    core.release_idle(patience).await;
    core.publish_overdue(if last { Duration::ZERO } else { PUBLISH_AGE }, patience).await;
    if renew {
        core.renew(patience).await;
    }
}
