//! Locks of files: taken, waited for, given back, kept alive, claimed again.
//!
//! # Invariants
//! - What this client wrote is published before a lock goes, so that whoever locks next sees it (`tests/tests/locks.rs`,
//!   `who_locks_next_sees_what_was_written`).
//! - A request about locks ends with a definite answer, or its owner is doubtful and everything it may have is given back at its next
//!   unlocking of the whole file.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use fs_proto::lock::{HeldLock, LockFamily, LockRange};
use fs_proto::msg::lock::{
    CLAIMS_MAX, LockAnswer, LockCancel, LockClear, LockOutcome, LockRenew, LockSet, LockStanding, LockTest,
};
use fs_proto::{Attr, InodeId, ServerId};

use super::call::Patience;
use super::inodes::FAN_OUT;
use super::{Core, Handle};
use crate::error::{Error, LockFailure, Result};
use crate::locks::{Due, LockWish, Locked, Ticket};
use crate::router::Target;
use crate::window;

/// How often a question is repeated that a server has no room to keep, and giving up is said again.
const AGAIN: Duration = Duration::from_millis(200);

/// One request to lock, with all its sendings.
struct Asking<'a> {
    handle: &'a Handle,
    wish: &'a LockWish,
    ticket: Ticket,
    home: ServerId,
}

impl Core {
    fn lock_home(&self, ino: InodeId) -> ServerId {
        self.shared.view().owner(Target::home(ino))
    }

    /// See [`crate::File::try_lock`].
    pub async fn try_lock(&self, handle: &Handle, wish: &LockWish) -> Result<Locked> {
        self.take_lock(handle, wish, false, std::future::pending()).await
    }

    /// See [`crate::File::lock`]; given up when `give_up` ends.
    pub async fn lock(
        &self,
        handle: &Handle,
        wish: &LockWish,
        give_up: impl Future<Output = ()>,
    ) -> Result<Locked> {
        self.take_lock(handle, wish, true, give_up).await
    }

    async fn take_lock(
        &self,
        handle: &Handle,
        wish: &LockWish,
        waits: bool,
        give_up: impl Future<Output = ()>,
    ) -> Result<Locked> {
        let (book, ino) = (&self.shared.locks, handle.ino());
        let asking = Asking { handle, wish, ticket: book.ticket(), home: self.lock_home(ino) };
        let mut given_up = false;
        let mut give_up = pin!(give_up);
        loop {
            let stamp = handle.inode.stamp();
            let asked = self.ask_lock(&asking, waits, &mut give_up, &mut given_up).await;
            let answer = asked.inspect_err(|_| book.doubt(ino, wish.owner))?;
            match answer.outcome {
                LockOutcome::Granted { attr } => return Ok(self.note_lock(&asking, attr, stamp)),
                LockOutcome::Conflict { holder } => return Ok(Locked::Busy(holder)),
                LockOutcome::Cancelled {} if given_up => return Ok(Locked::GivenUp),
                LockOutcome::Waiting {} | LockOutcome::Cancelled {} | LockOutcome::Cleared {} => {}
                LockOutcome::Deadlock {} => return Err(Error::Lock(LockFailure::Deadlock)),
                LockOutcome::TooMany {} => return Err(Error::Lock(LockFailure::TooMany)),
                LockOutcome::Restarted {} => self.claim(asking.home, answer.session, answer.lease_ms).await?,
                LockOutcome::Lost {} => self.lose_all(asking.home),
            }
        }
    }

    /// Sends the wish once, and that it is given up if it is.
    async fn ask_lock(
        &self,
        asking: &Asking<'_>,
        waits: bool,
        give_up: &mut (impl Future<Output = ()> + Unpin),
        given_up: &mut bool,
    ) -> Result<LockAnswer> {
        let (handle, wish, book) = (asking.handle, asking.wish, &self.shared.locks);
        let (park_ms, _place) = if waits { book.park() } else { (0, None) };
        let request = LockSet {
            ino: handle.ino(),
            family: wish.family,
            owner: wish.owner,
            range: wish.range,
            kind: wish.kind,
            pid: wish.pid,
            wait_ms: waits.then_some(park_ms),
            count: book.count(&asking.ticket, asking.home),
        };
        let mut asked = pin!(self.exchange(
            &handle.who,
            Target::home(request.ino),
            &request,
            Bytes::new(),
            self.patience()
        ));
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut asked => break answer?.body,
                () = &mut *give_up, if !*given_up => *given_up = true,
                () = tokio::time::sleep(AGAIN), if *given_up => {}
            }
            let cancel = LockCancel { ino: request.ino, serial: request.count.serial };
            if let Err(e) = self.ask(&handle.who, Target::home(request.ino), &cancel).await {
                tracing::debug!(error = %e, "giving up a lock could not be told; it is tried again");
            }
        };
        if !matches!(answer.outcome, LockOutcome::Restarted {} | LockOutcome::Lost {}) {
            book.heard(asking.home, answer.session, answer.lease_ms);
        }
        if matches!(answer.outcome, LockOutcome::Waiting {}) && park_ms == 0 {
            tokio::time::sleep(AGAIN).await;
        }
        Ok(answer)
    }

    fn note_lock(&self, asking: &Asking<'_>, attr: Attr, stamp: u64) -> Locked {
        let inode = &asking.handle.inode;
        self.shared.locks.hold(inode.ino, asking.wish);
        let changed = inode.is_changed(&attr).then_some(attr.version);
        let mut attr = inode.learn(attr, stamp);
        self.note_attr(&mut attr);
        Locked::Yes { changed }
    }

    /// See [`crate::File::unlock`].
    pub async fn unlock(
        &self,
        handle: &Handle,
        family: LockFamily,
        owner: u64,
        range: LockRange,
    ) -> Result<()> {
        let (book, ino) = (&self.shared.locks, handle.ino());
        if range == LockRange::ALL && book.forgive(ino, owner) {
            handle.inode.set_lock_lost(false);
        }
        if !book.may_hold(ino, family, owner) {
            return Ok(());
        }
        let published = self.flush(handle).await;
        let (ticket, home) = (book.ticket(), self.lock_home(ino));
        loop {
            let request = LockClear { ino, family, owner, range, count: book.count(&ticket, home) };
            let answer = self.ask(&handle.who, Target::home(ino), &request).await;
            let answer = answer.inspect_err(|_| book.doubt(ino, owner))?;
            match answer.outcome {
                LockOutcome::Restarted {} => self.claim(home, answer.session, answer.lease_ms).await?,
                LockOutcome::Lost {} => {
                    self.lose_all(home);
                    break;
                }
                _ => {
                    book.heard(home, answer.session, answer.lease_ms);
                    break;
                }
            }
        }
        book.drop_range(ino, family, owner, range);
        published
    }

    /// Gives back whatever an owner has of a file; no message if it has nothing.
    pub async fn unlock_owner(&self, handle: &Handle, family: LockFamily, owner: u64) -> Result<()> {
        self.unlock(handle, family, owner, LockRange::ALL).await
    }

    /// Gives back all locks of a file that is not open here any more.
    pub(super) async fn unlock_file(&self, handle: &Handle) -> Result<()> {
        for (family, owner) in self.shared.locks.owners(handle.ino()) {
            self.unlock_owner(handle, family, owner).await?;
        }
        Ok(())
    }

    /// See [`crate::File::test_lock`].
    pub async fn test_lock(&self, handle: &Handle, wish: &LockWish) -> Result<Option<HeldLock>> {
        let LockWish { family, owner, range, kind, .. } = *wish;
        let request = LockTest { ino: handle.ino(), family, owner, range, kind };
        self.ask(&handle.who, Target::home(request.ino), &request).await
    }

    /// Whether a lock's holder is this client.
    pub fn is_own(&self, held: &HeldLock) -> bool {
        held.owner.client == self.seat.client
    }

    // --- after a restart, and against silence ---

    /// Claims what is held at a server that was restarted.
    async fn claim(&self, server: ServerId, session: u64, lease_ms: u32) -> Result<()> {
        let book = &self.shared.locks;
        let _alone = book.claiming.lock().await;
        if book.session(server) == session {
            return Ok(()); // Another has done it.
        }
        let view = self.shared.view();
        let claims = book.claims(|ino| view.owner(Target::home(ino)) == server);
        let parts = claims.len().div_ceil(CLAIMS_MAX);
        for (number, part) in claims.chunks(CLAIMS_MAX).enumerate() {
            let more = number + 1 < parts;
            let request = LockRenew { session, claims: part.to_vec(), more, leave: false };
            let renewed = self.ask(&self.caller, Target::Server(server), &request).await?;
            match renewed.standing {
                LockStanding::Known { refused } => {
                    let lost: Vec<_> =
                        refused.iter().filter_map(|at| part.get(*at as usize)).copied().collect();
                    self.lose(server, &lost);
                }
                LockStanding::Restarted {} | LockStanding::Lost {} => {
                    self.lose_all(server);
                    return Ok(());
                }
            }
        }
        if claims.is_empty() {
            book.forget_session(server);
        } else {
            tracing::info!(%server, locks = claims.len(), "locks were claimed after the server's restart");
            book.heard(server, session, lease_ms);
        }
        Ok(())
    }

    /// The server gave all that this client had there to others, or may have.
    fn lose_all(&self, server: ServerId) {
        let view = self.shared.view();
        let book = &self.shared.locks;
        book.forget_session(server);
        let claims = book.claims(|ino| view.owner(Target::home(ino)) == server);
        self.lose(server, &claims);
    }

    fn lose(&self, server: ServerId, claims: &[fs_proto::msg::lock::LockClaim]) {
        if claims.is_empty() {
            return;
        }
        tracing::error!(%server, locks = claims.len(), first = ?claims[0].ino, "locks are lost: the server did not hear of this client in time, or did not get them back; their files cannot be read or written until they are unlocked or closed");
        self.shared.locks.lose(claims);
        for inode in claims.iter().filter_map(|claim| self.shared.opens.get(claim.ino)) {
            inode.set_lock_lost(true);
        }
    }

    /// Signs of life where they are due.
    pub(crate) async fn renew_locks(&self, patience: Duration) {
        let view = self.shared.view();
        let due = self.shared.locks.due(|server, ino| view.owner(Target::home(ino)) == server);
        let sent = due.into_iter().map(|due| async move {
            if let Err(e) = self.renew_at(due, patience).await {
                tracing::warn!(server = %due.server, error = %e, "locks could not be kept alive; it is tried again");
            }
        });
        window::all(sent, FAN_OUT).await;
    }

    async fn renew_at(&self, due: Due, patience: Duration) -> Result<()> {
        let request = LockRenew { session: due.session, claims: Vec::new(), more: false, leave: due.leave };
        let (target, patience) = (Target::Server(due.server), Patience::up_to(patience));
        let renewed = self.exchange(&self.caller, target, &request, Bytes::new(), patience).await?.body;
        match renewed.standing {
            LockStanding::Known { .. } if due.leave => self.shared.locks.forget_session(due.server),
            LockStanding::Known { .. } => {
                self.shared.locks.heard(due.server, renewed.session, renewed.lease_ms);
            }
            LockStanding::Restarted {} => self.claim(due.server, renewed.session, renewed.lease_ms).await?,
            LockStanding::Lost {} => self.lose_all(due.server),
        }
        Ok(())
    }
}
