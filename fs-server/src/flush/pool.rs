//! Threads for calls to the shared tier, which block for as long as it needs: requests never wait behind them.
//!
//! # Invariants
//! - A job never waits for another job: as many threads as there are suffice (jobs are plain closures without awaits).
//! - At most as many jobs run as the window says (`no_more_jobs_run_than_the_window_says`).
//! - A job that panics fails its caller and leaves the thread alive (`a_panic_fails_its_caller_only`).
//! - Jobs that nobody waits for any more do not pile up behind a tier that hangs (`what_was_given_up_does_not_pile_up`).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::window::Window;
use crate::tier::{TierError, TierResult};

/// Jobs that may wait before those are looked for that were given up.
const LOOSE: usize = 64;

/// What a thread is to do.
trait Job: Send {
    fn run(self: Box<Self>);
    /// Whether somebody waits for the outcome.
    fn is_awaited(&self) -> bool;
}

struct Asked<R, F> {
    body: F,
    answer: oneshot::Sender<TierResult<R>>,
}

impl<R: Send, F: FnOnce() -> TierResult<R> + Send> Job for Asked<R, F> {
    fn run(self: Box<Self>) {
        let Asked { body, answer } = *self;
        // Nobody waits any more if this fails.
        let _ = answer.send(body());
    }

    fn is_awaited(&self) -> bool {
        !self.answer.is_closed()
    }
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Box<dyn Job>>,
    /// With how many jobs those are looked for next that were given up.
    loose: usize,
    threads: usize,
    running: usize,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Whether jobs wait: who is asked after each call does not take the mutex.
    is_full: AtomicBool,
    changed: Condvar,
    window: Window,
}

/// The threads, started at the first job.
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// A pool in which as many jobs run as `window` says.
    pub fn new(window: Window) -> Self {
        let state = Mutex::default();
        let shared = Shared { state, is_full: AtomicBool::new(false), changed: Condvar::new(), window };
        Pool { shared: Arc::new(shared) }
    }

    /// How many jobs may run.
    pub fn window(&self) -> &Window {
        &self.shared.window
    }

    /// Whether jobs wait for others to end.
    pub fn is_full(&self) -> bool {
        self.shared.is_full.load(Ordering::Relaxed)
    }

    /// Runs `job` on a thread of the pool. Once it has begun it runs to its end even if the future is dropped.
    pub async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> TierResult<R> + Send + 'static,
    ) -> TierResult<R> {
        let (answer, answered) = oneshot::channel();
        if !self.submit(Box::new(Asked { body: job, answer })) {
            return Err(TierError::Failed("the server is ending".to_owned()));
        }
        answered.await.unwrap_or_else(|_| Err(TierError::Failed("a flush job ended unexpectedly".to_owned())))
    }

    fn submit(&self, job: Box<dyn Job>) -> bool {
        let mut state = self.shared.state.lock();
        if state.closed {
            return false;
        }
        if state.jobs.len() >= state.loose.max(LOOSE) {
            state.jobs.retain(|job| job.is_awaited());
            // Twice as many: a look at each job is paid for by a new one.
            state.loose = 2 * state.jobs.len();
        }
        state.jobs.push_back(job);
        self.shared.is_full.store(true, Ordering::Relaxed);
        if state.threads < self.shared.window.size() && state.running + state.jobs.len() > state.threads {
            let shared = Arc::clone(&self.shared);
            let spawned =
                std::thread::Builder::new().name("flush-io".to_owned()).spawn(move || work(&shared));
            match spawned {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    tracing::error!(%error, "no thread for flushing can be started");
                    state.jobs.pop_back();
                    return false;
                }
                Err(_) => {}
            }
        }
        drop(state);
        self.shared.changed.notify_one();
        true
    }

    /// Takes no more jobs and waits for those that run, at most `longest` (a tier that hangs must not hang the server).
    pub fn close(&self, longest: Duration) {
        let until = Instant::now() + longest;
        let mut state = self.shared.state.lock();
        state.closed = true;
        state.jobs.clear();
        self.shared.changed.notify_all();
        while state.threads > 0 {
            if self.shared.changed.wait_until(&mut state, until).timed_out() {
                tracing::warn!(
                    jobs = state.running,
                    "the shared tier does not answer; the server ends without waiting for it"
                );
                return;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

fn work(shared: &Shared) {
    let mut state = shared.state.lock();
    loop {
        let may_run = state.running < shared.window.size();
        let job = if may_run { state.jobs.pop_front() } else { None };
        if let Some(job) = job {
            state.running += 1;
            shared.is_full.store(!state.jobs.is_empty(), Ordering::Relaxed);
            drop(state);
            // The caller hears of a panic because its channel closes; the panic's own message is printed by the runtime.
            let _ = catch_unwind(AssertUnwindSafe(|| job.run()));
            state = shared.state.lock();
            state.running -= 1;
            // The window may have grown meanwhile.
            if state.jobs.len() > 1 {
                shared.changed.notify_one();
            }
        } else if state.closed {
            state.threads -= 1;
            shared.changed.notify_all();
            return;
        } else {
            shared.changed.wait(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::window::Call;
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_panic_fails_its_caller_only() {
        let pool = Pool::new(Window::fixed(1));
        let failed = block_on(pool.run::<()>(|| panic!("on purpose")));
        assert!(matches!(failed, Err(TierError::Failed(_))));
        assert_eq!(block_on(pool.run(|| Ok(5))), Ok(5));
        pool.close(Duration::from_secs(60));
        assert!(block_on(pool.run(|| Ok(5))).is_err());
    }

    #[test]
    fn no_more_jobs_run_than_the_window_says() {
        // Goal: with a window that shrinks from 8 to 2 while jobs run, the last of them run at most two at a time.
        use std::sync::atomic::{AtomicUsize, Ordering};
        let pool = Pool::new(Window::new(8, (2, 8)));
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let run = |count: usize| {
            let jobs = (0..count).map(|_| {
                let (running, most) = (Arc::clone(&running), Arc::clone(&most));
                pool.run(move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                })
            });
            block_on(futures_util::future::try_join_all(jobs)).unwrap();
            most.swap(0, Ordering::SeqCst)
        };
        assert!((3..=8).contains(&run(100)));
        for millis in [1, 1000, 1000, 1000, 1000] {
            (0..8).for_each(|_| pool.window().note(Call::Whole, Duration::from_millis(millis), true));
        }
        assert_eq!(pool.window().size(), 2);
        assert!(run(100) <= 2);
    }

    #[test]
    fn what_was_given_up_does_not_pile_up() {
        // Goal: behind a job that hangs, those whose callers went are dropped, and one whose caller waits is done. Method: callers that look once.
        use futures_util::FutureExt;
        let pool = Pool::new(Window::fixed(1));
        let (begin, begun) = std::sync::mpsc::channel();
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let hung = pool.run(move || {
            begin.send(()).unwrap();
            let _ = hang.recv();
            Ok(())
        });
        assert!(hung.now_or_never().is_none());
        begun.recv().unwrap();
        let mut wanted = Box::pin(pool.run(|| Ok(5)));
        assert!(wanted.as_mut().now_or_never().is_none());
        for _ in 0..10 * LOOSE {
            assert!(pool.run(|| Ok(6)).now_or_never().is_none());
        }
        assert!(pool.shared.state.lock().jobs.len() <= LOOSE);
        drop(release);
        assert_eq!(block_on(wanted), Ok(5));
    }

    #[test]
    fn jobs_run_at_the_same_time() {
        // Goal: two jobs that wait for each other both end, so they run on two threads.
        let pool = Pool::new(Window::fixed(2));
        let barrier = Arc::new(std::sync::Barrier::new(2));
        let other = Arc::clone(&barrier);
        let meet = |barrier: Arc<std::sync::Barrier>| {
            move || {
                barrier.wait();
                Ok(())
            }
        };
        block_on(async { tokio::try_join!(pool.run(meet(barrier)), pool.run(meet(other))) }).unwrap();
    }
}
