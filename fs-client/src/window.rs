//! Several futures at once, a bounded number, all on the calling task: they may borrow, and dropping the whole drops them.
//!
//! Every wake polls all that run. With at most a few dozen, each a flag to look at, that is cheaper than tasks of their own.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Runs the futures of `work`, at most `limit` at a time, and gives each result to `done` as it comes. Ends at the first error.
pub(crate) async fn each<F, T, E>(
    work: impl IntoIterator<Item = F>,
    limit: usize,
    mut done: impl FnMut(T),
) -> Result<(), E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut work = work.into_iter();
    let mut running: Vec<Pin<Box<F>>> = Vec::with_capacity(limit.min(16));
    poll_fn(|context| {
        loop {
            while running.len() < limit {
                let Some(next) = work.next() else { break };
                running.push(Box::pin(next));
            }
            if running.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let before = running.len();
            let mut at = 0;
            while at < running.len() {
                match running[at].as_mut().poll(context) {
                    Poll::Pending => at += 1,
                    Poll::Ready(Ok(value)) => {
                        drop(running.swap_remove(at));
                        done(value);
                    }
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                }
            }
            if running.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// As [`each`], with all results, whatever they are, in the order of `work`.
pub(crate) async fn all<F: Future>(work: impl IntoIterator<Item = F>, limit: usize) -> Vec<F::Output> {
    let mut results: Vec<Option<F::Output>> = Vec::new();
    let numbered = work.into_iter().enumerate().map(async |(at, future)| Ok::<_, ()>((at, future.await)));
    let ended = each(numbered, limit, |(at, value)| {
        if results.len() <= at {
            results.resize_with(at + 1, || None);
        }
        results[at] = Some(value);
    })
    .await;
    debug_assert_eq!(ended, Ok(()), "nothing above can fail");
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    //! Goal: the bound holds, everything runs, the first error ends it. Method: futures that count themselves.
    use super::*;
    use std::cell::Cell;

    async fn yield_times(n: usize) {
        for _ in 0..n {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn runs_all_but_not_too_many_at_once() {
        let (now, most, sum) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let (now_ref, most_ref) = (&now, &most);
        let work = (0..100usize).map(|i| async move {
            now_ref.set(now_ref.get() + 1);
            most_ref.set(most_ref.get().max(now_ref.get()));
            yield_times(i % 7).await;
            now_ref.set(now_ref.get() - 1);
            Ok::<_, ()>(i)
        });
        each(work, 5, |i| sum.set(sum.get() + i)).await.unwrap();
        assert_eq!((sum.get(), most.get(), now.get()), (4950, 5, 0));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_first_error_ends_it() {
        let started = Cell::new(0);
        let counted = &started;
        let work = (0..100usize).map(|i| async move {
            counted.set(counted.get() + 1);
            yield_times(2).await;
            if i == 3 { Err(i) } else { Ok(i) }
        });
        assert_eq!(each(work, 4, |_| ()).await, Err(3));
        assert!(started.get() < 10);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn all_keeps_the_order() {
        let work = (0..20usize).map(|i| async move {
            yield_times(20 - i).await;
            i
        });
        assert_eq!(all(work, 6).await, (0..20).collect::<Vec<_>>());
    }
}
