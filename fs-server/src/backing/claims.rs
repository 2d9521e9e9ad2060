//! Who works with the chunks of a file here: anybody at once, but for those who cut or drop chunks, who are alone with it; and one who fills a
//! chunk that is not there. Whoever copies a file for the shared tier takes minutes: that keeps out only those who drop chunks of it to fetch them
//! again. What is cut under a copy makes another version, and the copy is thrown away.
//!
//! # Invariants
//! - Whoever is alone with a file has nobody beside it, and everybody comes to the turn (`who_is_alone_waits_for_all_and_keeps_out_all`).
//! - A copy holds up nobody but who drops (`a_copy_keeps_out_who_drops_and_nobody_else`).
//! - One fills a chunk at a time (`one_fills_a_chunk`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use fs_proto::{ChunkIndex, InodeId};
use parking_lot::Mutex;
use tokio::sync::oneshot;

const SHARDS: usize = 64;

#[derive(Default)]
struct Uses {
    users: u32,
    copies: u32,
    alone: bool,
    wants_alone: u32,
    filling: HashSet<ChunkIndex>,
    waiters: Vec<oneshot::Sender<()>>,
}

impl Uses {
    fn is_idle(&self) -> bool {
        let is_used = self.users > 0 || self.copies > 0 || self.alone || self.wants_alone > 0;
        !is_used && self.filling.is_empty()
    }

    fn wait(&mut self) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        self.waiters.retain(|waiter| !waiter.is_closed());
        self.waiters.push(wake);
        woken
    }
}

type Shard = HashMap<InodeId, Uses>;

/// All claims of a server.
pub struct Claims {
    shards: Vec<Mutex<Shard>>,
}

impl Default for Claims {
    fn default() -> Self {
        Claims { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Claims {
    fn shard(&self, ino: InodeId) -> &Mutex<Shard> {
        &self.shards[ino.place(SHARDS)]
    }

    /// Changes what is known of a file, wakes who waits, and forgets a file that nobody uses.
    fn change(&self, ino: InodeId, change: impl FnOnce(&mut Uses)) {
        let mut shard = self.shard(ino).lock();
        let uses = shard.entry(ino).or_default();
        change(uses);
        let waiters = std::mem::take(&mut uses.waiters);
        if uses.is_idle() {
            shard.remove(&ino);
        }
        drop(shard);
        // A waiter that gave up needs no waking.
        for waiter in waiters {
            let _ = waiter.send(());
        }
    }

    /// Takes what `take` can have, or waits until something changes and tries again.
    async fn taken(&self, ino: InodeId, mut take: impl FnMut(&mut Uses) -> bool) {
        loop {
            let woken = {
                let mut shard = self.shard(ino).lock();
                let uses = shard.entry(ino).or_default();
                if take(uses) {
                    return;
                }
                uses.wait()
            };
            let _ = woken.await;
        }
    }

    /// To use chunks of a file, once nobody is, or waits to be, alone with it.
    pub async fn enter(self: &Arc<Self>, ino: InodeId) -> Use {
        self.taken(ino, |uses| {
            let free = !uses.alone && uses.wants_alone == 0;
            uses.users += u32::from(free);
            free
        })
        .await;
        Use { claims: Arc::clone(self), ino }
    }

    /// To be alone with a file, once nobody uses it.
    pub async fn alone(self: &Arc<Self>, ino: InodeId) -> Alone {
        let wish = Wish::new(self, ino);
        self.taken(ino, |uses| {
            let free = !uses.alone && uses.users == 0;
            uses.alone |= free;
            free
        })
        .await;
        drop(wish);
        Alone { claims: Arc::clone(self), ino }
    }

    /// To drop chunks of a file, once nobody uses or copies it. A copy takes long, so nobody is kept out while one is waited for.
    pub async fn dropping(self: &Arc<Self>, ino: InodeId) -> Alone {
        loop {
            self.taken(ino, |uses| uses.copies == 0).await;
            let alone = self.alone(ino).await;
            if !self.is_copied(ino) {
                return alone;
            }
        }
    }

    /// As [`Claims::dropping`], if that needs no waiting.
    pub fn try_dropping(self: &Arc<Self>, ino: InodeId) -> Option<Alone> {
        let mut free = false;
        self.change(ino, |uses| {
            free = !uses.alone && uses.users == 0 && uses.copies == 0;
            uses.alone |= free;
        });
        free.then(|| Alone { claims: Arc::clone(self), ino })
    }

    fn is_copied(&self, ino: InodeId) -> bool {
        self.shard(ino).lock().get(&ino).is_some_and(|uses| uses.copies > 0)
    }

    /// To copy chunks of a file: none is dropped meanwhile, though some may be cut.
    pub async fn copy(self: &Arc<Self>, ino: InodeId) -> Copied {
        self.taken(ino, |uses| {
            uses.copies += u32::from(!uses.alone);
            !uses.alone
        })
        .await;
        Copied { claims: Arc::clone(self), ino }
    }

    /// To be the one who fills a chunk.
    pub async fn fill(&self, used: &Use, chunk: ChunkIndex) -> Filling {
        self.taken(used.ino, |uses| uses.filling.insert(chunk)).await;
        Filling { used: used.clone(), chunk }
    }
}

/// A file is used. Clones count.
pub struct Use {
    claims: Arc<Claims>,
    ino: InodeId,
}

impl Clone for Use {
    fn clone(&self) -> Self {
        self.claims.change(self.ino, |uses| uses.users += 1);
        Use { claims: Arc::clone(&self.claims), ino: self.ino }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.claims.change(self.ino, |uses| uses.users -= 1);
    }
}

/// Nobody else uses the file.
pub struct Alone {
    claims: Arc<Claims>,
    ino: InodeId,
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.claims.change(self.ino, |uses| uses.alone = false);
    }
}

/// A file is being copied.
pub struct Copied {
    claims: Arc<Claims>,
    ino: InodeId,
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.claims.change(self.ino, |uses| uses.copies -= 1);
    }
}

/// Somebody waits to be alone: nobody new begins meanwhile.
struct Wish<'a>(&'a Claims, InodeId);

impl<'a> Wish<'a> {
    fn new(claims: &'a Claims, ino: InodeId) -> Self {
        claims.change(ino, |uses| uses.wants_alone += 1);
        Wish(claims, ino)
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.0.change(self.1, |uses| uses.wants_alone -= 1);
    }
}

/// Who fills a chunk that was not there; the file is used as long.
pub struct Filling {
    used: Use,
    chunk: ChunkIndex,
}

impl Filling {
    /// The use of the file.
    pub fn used(&self) -> &Use {
        &self.used
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let chunk = self.chunk;
        self.used.claims.change(self.used.ino, |uses| {
            uses.filling.remove(&chunk);
        });
    }
}

#[cfg(test)]
mod tests {
    //! Method: futures that are polled by hand.
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    const INO: InodeId = InodeId(5);

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn ready<F: Future>(future: F) -> F::Output {
        match poll(pin!(future)) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("it has to wait"),
        }
    }

    #[test]
    fn who_is_alone_waits_for_all_and_keeps_out_all() {
        let claims = Arc::new(Claims::default());
        let first = ready(claims.enter(INO));
        let second = first.clone();
        let mut alone = pin!(claims.alone(INO));
        assert!(poll(alone.as_mut()).is_pending());
        let mut late = pin!(claims.enter(INO));
        assert!(poll(late.as_mut()).is_pending(), "somebody waits to be alone");
        let filling = ready(claims.fill(&second, ChunkIndex(1)));
        drop(first);
        drop(second);
        assert!(poll(alone.as_mut()).is_pending(), "a chunk is being filled");
        drop(filling);
        let Poll::Ready(held) = poll(alone.as_mut()) else { panic!("nobody is left") };
        assert!(poll(late.as_mut()).is_pending());
        drop(held);
        assert!(poll(late.as_mut()).is_ready());
    }

    #[test]
    fn who_gives_up_waiting_to_be_alone_holds_up_nobody() {
        let claims = Arc::new(Claims::default());
        let used = ready(claims.enter(INO));
        {
            let mut alone = pin!(claims.alone(INO));
            assert!(poll(alone.as_mut()).is_pending());
        }
        drop(ready(claims.enter(INO)));
        drop(used);
        assert!(claims.shards.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn a_copy_keeps_out_who_drops_and_nobody_else() {
        let claims = Arc::new(Claims::default());
        let copied = ready(claims.copy(INO));
        drop(ready(claims.alone(INO)));
        let mut dropping = pin!(claims.dropping(INO));
        assert!(poll(dropping.as_mut()).is_pending() && claims.try_dropping(INO).is_none());
        drop(ready(claims.enter(INO)));
        drop(copied);
        let Poll::Ready(alone) = poll(dropping.as_mut()) else { panic!("nobody copies") };
        assert!(poll(pin!(claims.copy(INO))).is_pending());
        drop(alone);
        drop(claims.try_dropping(INO).unwrap());
        assert!(claims.shards.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn one_fills_a_chunk() {
        let claims = Arc::new(Claims::default());
        let used = ready(claims.enter(INO));
        let first = ready(claims.fill(&used, ChunkIndex(1)));
        drop(ready(claims.fill(&used, ChunkIndex(2))));
        let mut second = pin!(claims.fill(&used, ChunkIndex(1)));
        assert!(poll(second.as_mut()).is_pending());
        drop(first);
        assert!(poll(second).is_ready());
    }
}
