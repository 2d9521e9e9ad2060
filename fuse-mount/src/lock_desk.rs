//! The thread on which locks are waited for, and on which the kernel's caches are emptied after one was had.
//!
//! A FUSE thread must not do either: those who wait would take all of them, and whoever is waited for could not unlock; and the kernel
//! empties a cache only when reads under way have ended, which FUSE threads answer.
//!
//! # Invariants
//! - Every request that is handed over is answered once, also when its process is interrupted before it arrives here
//!   (`an_interruption_that_comes_first_is_not_lost`).
//! - What is remembered of interruptions is bounded: [`EARLY_MAX`] numbers.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use fs_client::aio::Core;
use fs_client::{Client, LockWish, Locked};
use fuser::{Errno, INodeNo, Notifier, ReplyEmpty};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use crate::adapter::OpenFile;
use crate::failure::{Missing, attempt};

/// Interruptions that are remembered for a request that is not here yet. They also come for requests that are no locks, and after the
/// answer.
const EARLY_MAX: usize = 256;

/// A request that waits for a lock.
pub(crate) struct Wait {
    pub open: Arc<OpenFile>,
    pub wish: LockWish,
    /// The kernel's number of the request.
    pub unique: u64,
    pub reply: ReplyEmpty,
}

enum Job {
    Wait(Wait, oneshot::Receiver<()>),
    /// Empty the kernel's cache of a file, which may be older than this version, then answer.
    Refresh(Arc<OpenFile>, u64, ReplyEmpty),
    /// Empty them; nobody waits.
    Forget(u64),
}

/// Requests that can be interrupted.
#[derive(Default)]
struct Interrupts {
    waiting: HashMap<u64, oneshot::Sender<()>>,
    early: VecDeque<u64>,
}

/// See the module.
pub(crate) struct LockDesk {
    /// Taken at the end.
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
    interrupts: Arc<Mutex<Interrupts>>,
    notifier: Arc<OnceLock<Notifier>>,
}

impl Interrupts {
    /// Expects the interruption of a request; it is there already if it came first.
    fn expect(&mut self, unique: u64) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        if let Some(at) = self.early.iter().position(|early| *early == unique) {
            self.early.remove(at);
            // The receiver is here.
            let _ = tell.send(());
        } else {
            self.waiting.insert(unique, tell);
        }
        told
    }

    fn interrupt(&mut self, unique: u64) {
        if let Some(tell) = self.waiting.remove(&unique) {
            // It may have been answered just now.
            let _ = tell.send(());
            return;
        }
        if self.early.len() == EARLY_MAX {
            self.early.pop_front();
        }
        self.early.push_back(unique);
    }
}

impl LockDesk {
    /// Starts the thread, which ends with the desk.
    ///
    /// # Errors
    /// The system's, if it gives no thread.
    pub fn open(client: &Client) -> std::io::Result<LockDesk> {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let (interrupts, notifier) = <(Arc<Mutex<Interrupts>>, Arc<OnceLock<Notifier>>)>::default();
        let told = (Arc::clone(&interrupts), Arc::clone(&notifier));
        let client = client.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("hayate-locks".to_owned());
        let thread = thread.spawn(move || LocalSet::new().block_on(&runtime, run(client, inbox, told)))?;
        Ok(LockDesk { jobs: Some(jobs), thread: Some(thread), interrupts, notifier })
    }

    /// Where the kernel is told that its caches are old, once the session has begun.
    pub fn notifier(&self) -> Arc<OnceLock<Notifier>> {
        Arc::clone(&self.notifier)
    }

    /// Hands a request over.
    pub fn wait(&self, wait: Wait) {
        let interrupted = self.interrupts.lock().expect(wait.unique);
        self.hand_over(Job::Wait(wait, interrupted));
    }

    /// The lock is had, and the content is another than before: the answer follows when the kernel has forgotten what it knew.
    pub fn refresh(&self, open: Arc<OpenFile>, version: u64, reply: ReplyEmpty) {
        self.hand_over(Job::Refresh(open, version, reply));
    }

    /// The kernel's copy of a file is wrong.
    pub fn forget(&self, ino: u64) {
        self.hand_over(Job::Forget(ino));
    }

    /// The kernel says that the process which asked has a signal to take.
    pub fn interrupt(&self, unique: u64) {
        self.interrupts.lock().interrupt(unique);
    }

    fn hand_over(&self, job: Job) {
        let left = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|mpsc::error::SendError(job)| job),
            None => Some(job),
        };
        match left {
            None | Some(Job::Forget(_)) => {}
            Some(Job::Wait(Wait { reply, .. }, _) | Job::Refresh(_, _, reply)) => reply.error(Errno::ENOLCK),
        }
    }
}

/// Waits for the thread, which has a share in the client: what that has to say at its end is said before this returns.
impl Drop for LockDesk {
    fn drop(&mut self) {
        self.jobs.take();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread for locks panicked");
        }
    }
}

/// What the thread does, until the desk is gone.
async fn run(
    client: Client,
    mut inbox: mpsc::UnboundedReceiver<Job>,
    (interrupts, notifier): (Arc<Mutex<Interrupts>>, Arc<OnceLock<Notifier>>),
) {
    let core = match client.core() {
        Ok(core) => core,
        Err(error) => {
            tracing::error!(%error, "locks cannot be waited for");
            return;
        }
    };
    while let Some(job) = inbox.recv().await {
        let (core, interrupts, notifier) = (Rc::clone(&core), Arc::clone(&interrupts), Arc::clone(&notifier));
        tokio::task::spawn_local(async move {
            match job {
                Job::Wait(wait, interrupted) => serve(&core, wait, interrupted, &interrupts, &notifier).await,
                Job::Forget(ino) => _ = forget(&notifier, ino),
                Job::Refresh(open, version, reply) => {
                    refresh(&notifier, open, version);
                    reply.ok();
                }
            }
        });
    }
}

/// Waits, and answers: `EINTR` makes the kernel start the call again, or end it, as the signal wants.
async fn serve(
    core: &Core,
    wait: Wait,
    interrupted: oneshot::Receiver<()>,
    interrupts: &Mutex<Interrupts>,
    notifier: &OnceLock<Notifier>,
) {
    let Wait { open, wish, unique, reply } = wait;
    let ino = open.file.ino().0;
    let give_up = async {
        if interrupted.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let locked = open.file.lock_on(core, &wish, give_up).await;
    interrupts.lock().waiting.remove(&unique);
    let done = attempt("setlkw", ino, Missing::Inode, || Ok(locked?));
    match done {
        Ok(Locked::Yes { changed: Some(version) }) => refresh(notifier, open, version),
        _ => drop(open), // As `refresh` does.
    }
    match done {
        Ok(Locked::Yes { .. }) => reply.ok(),
        Ok(Locked::Busy(_)) => reply.error(Errno::EAGAIN),
        Ok(Locked::GivenUp) => reply.error(Errno::EINTR),
        Err(errno) => reply.error(errno),
    }
}

/// Empties the cache, and tells the client only then: whoever shares the lock meanwhile empties it, too. The opening is let go of before its
/// process is answered, which may close it.
fn refresh(notifier: &OnceLock<Notifier>, open: Arc<OpenFile>, version: u64) {
    if forget(notifier, open.node()) {
        open.file.set_copied(version);
    }
}

fn forget(notifier: &OnceLock<Notifier>, ino: u64) -> bool {
    let Some(notifier) = notifier.get() else { return false };
    let told = notifier.inval_inode(INodeNo(ino), 0, 0);
    told.inspect_err(
        |error| tracing::warn!(ino, %error, "the kernel could not be told that its copy of a file is old"),
    )
    .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_that_comes_first_is_not_lost() {
        let mut interrupts = Interrupts::default();
        interrupts.interrupt(7);
        assert_eq!(interrupts.expect(7).try_recv(), Ok(()));
        let mut later = interrupts.expect(8);
        assert!(later.try_recv().is_err());
        interrupts.interrupt(8);
        assert_eq!(later.try_recv(), Ok(()));
        (0..1000).for_each(|unique| interrupts.interrupt(unique));
        assert_eq!(interrupts.early.len(), EARLY_MAX);
    }
}
