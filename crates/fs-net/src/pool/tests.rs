//! The pool within one thread, by hand-polled futures, and between threads.

use super::*;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

const MIB: usize = 1 << 20;

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The buffer that a get gives without waiting.
fn get(pool: &BufferPool, class: BufferClass, len: usize) -> Option<PoolBuffer> {
    match poll_once(pin!(pool.get_for(class, None, len))) {
        Poll::Ready(got) => Some(got.expect("not too large")),
        Poll::Pending => None,
    }
}

#[test]
fn buffers_have_the_length_asked_and_are_used_again() {
    let pool = BufferPool::new(64 * MIB);
    for len in [0, 1, 4096, 4097, MIB, MIB + 1, 16 * MIB] {
        let buffer = pool.try_get(len).expect("the pool is empty");
        assert_eq!(buffer.len(), len);
    }
    let mut first = pool.try_get(5000).expect("room");
    first.fill(7);
    let at = first.as_ptr();
    let frozen = first.freeze();
    let piece = frozen.slice(10..20);
    drop(frozen);
    assert_eq!((pool.stats().used, &piece[..]), (8192, &[7; 10][..]));
    drop(piece);
    assert_eq!(pool.stats().used, 0);
    assert_eq!(pool.try_get(8000).expect("room").as_ptr(), at);
    assert_eq!(
        poll_once(pin!(pool.get(16 * MIB + 1))).map(Result::err),
        Poll::Ready(Some(TooLarge(16 * MIB + 1)))
    );
}

/// Goal: idle buffers of one size make room for others. Method: fill the budget with each size in turn.
#[test]
fn budget_is_never_exceeded() {
    let pool = BufferPool::new(16 * MIB);
    for len in [MIB, 4096, 16 * MIB, 64 * 1024, MIB] {
        let held: Vec<_> = std::iter::from_fn(|| pool.try_get(len)).collect();
        assert_eq!(held.len(), 16 * MIB / len);
        let stats = pool.stats();
        assert_eq!((stats.used, stats.idle, stats.peak), (stats.size, 0, stats.size));
        drop(held);
        assert_eq!((pool.stats().used, pool.stats().idle), (0, stats.size));
    }
}

#[test]
fn waiters_are_served_in_order() {
    let pool = BufferPool::new(16 * MIB);
    let whole = pool.try_get(16 * MIB).expect("room");
    let mut large = Box::pin(pool.get(12 * MIB));
    let mut small = Box::pin(pool.get(4096));
    assert!(poll_once(large.as_mut()).is_pending() && poll_once(small.as_mut()).is_pending());
    drop(whole);
    // The small one must not overtake, nor a newcomer that would fit.
    assert!(poll_once(small.as_mut()).is_pending());
    assert!(pool.try_get(4096).is_none());
    let Poll::Ready(Ok(held)) = poll_once(large.as_mut()) else { panic!("the first waiter was not served") };
    assert_eq!(pool.stats().waits, 2);
    drop(held);
    assert!(poll_once(small.as_mut()).is_ready());
    assert!(pool.stats().wait_ns > 0);
}

#[test]
fn a_dropped_get_gives_its_grant_back() {
    let pool = BufferPool::new(16 * MIB);
    let whole = pool.try_get(16 * MIB).expect("room");
    let mut granted = Box::pin(pool.get(16 * MIB));
    let mut next = Box::pin(pool.get(16 * MIB));
    let mut last = Box::pin(pool.get(4096));
    assert!(poll_once(granted.as_mut()).is_pending());
    assert!(poll_once(next.as_mut()).is_pending());
    assert!(poll_once(last.as_mut()).is_pending());
    drop(whole);
    assert_eq!(pool.stats().used, 16 * MIB as u64);
    drop(granted);
    // Granted to `next` now, which is dropped before it looks, too.
    assert_eq!(pool.stats().used, 16 * MIB as u64);
    drop(next);
    assert!(poll_once(last.as_mut()).is_ready());
    assert_eq!(pool.stats().used, 0);
}

#[test]
fn higher_classes_keep_a_reserve() {
    use BufferClass::{ClientRequest, Local, PeerReply, PeerRequest};
    let pool = BufferPool::new(64 * MIB);
    let mut held = Vec::new();
    for class in [ClientRequest, Local, PeerReply, PeerRequest] {
        held.push(get(&pool, class, 16 * MIB).expect("each class has its quarter"));
        assert!(get(&pool, class, 4096).is_none(), "{class:?} is above its limit");
    }
    // The highest class that waits comes first, the others wait with it.
    let mut low = Box::pin(pool.get_for(ClientRequest, None, 4096));
    let mut high = Box::pin(pool.get_for(PeerRequest, None, 4096));
    assert!(poll_once(low.as_mut()).is_pending() && poll_once(high.as_mut()).is_pending());
    held.truncate(3);
    assert!(poll_once(low.as_mut()).is_pending() && poll_once(high.as_mut()).is_ready());
    drop(held);
    assert!(poll_once(low.as_mut()).is_ready());
}

/// Goal: no wake-up is lost between threads. Method: threads that together want more than there is, many times.
#[test]
fn threads_share_the_pool() {
    let pool = BufferPool::new(16 * MIB);
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let pool = &pool;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                runtime.block_on(async {
                    for round in 0..500usize {
                        let len = (4 * MIB) << ((thread + round) % 3);
                        let buffer = pool.get(len).await.expect("not too large");
                        tokio::task::yield_now().await;
                        assert!(pool.stats().used <= pool.stats().size);
                        drop(buffer);
                    }
                });
            });
        }
    });
    assert_eq!(pool.stats().used, 0);
}
