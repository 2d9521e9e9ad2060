//! The budget within one thread, by hand-polled futures. What buffers add is in `pool/tests.rs`.

use super::*;
use fs_proto::{ClientId, ServerId};
use std::collections::VecDeque;
use std::pin::pin;

const MIB: usize = 1 << 20;
const CLASS: BufferClass = BufferClass::ClientRequest;

fn client(budget: &Budget, id: u64) -> Account {
    budget.account(&Role::Client { id: ClientId(id) })
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn now(budget: &Budget, account: &Account, bytes: usize) -> Option<Charge> {
    budget.try_get(CLASS, Some(account), bytes)
}

/// Goal: a client with 500 connections gets no more of what is given out than one with four.
/// Method: both always want more; whoever holds something longest gives it back.
#[test]
fn a_greedy_peer_gets_its_turn_and_no_more() {
    let budget = Budget::new(16 * MIB);
    let accounts = [client(&budget, 1), client(&budget, 2)];
    let wait = |peer: usize| (peer, Box::pin(budget.get(CLASS, Some(&accounts[peer]), MIB)));
    let mut waiting: Vec<_> = (0..500).map(|_| wait(0)).chain((0..4).map(|_| wait(1))).collect();
    let (mut held, mut got) = (VecDeque::new(), [0_usize; 2]);
    for _ in 0..2_000 {
        for (peer, future) in &mut waiting {
            if let Poll::Ready(charge) = poll_once(future.as_mut()) {
                got[*peer] += 1;
                held.push_back(charge);
                *future = wait(*peer).1;
            }
        }
        assert!(budget.used() <= 16 * MIB);
        held.pop_front();
    }
    assert!(got[1] * 10 >= got[0] * 9, "{got:?}: the second asked whenever it had got what it asked for");
    assert!(got[0] + got[1] >= 1_900, "{got:?}");
}

/// Goal: who keeps everything is kept from having everything. Method: three peers take what they get and give nothing back; a fourth comes.
#[test]
fn a_peer_that_lets_nothing_go_leaves_room() {
    let budget = Budget::new(64 * MIB);
    let mut kept = Vec::new();
    for (id, expected) in [(1, 43), (2, 14), (3, 5)] {
        let account = client(&budget, id);
        let before = kept.len();
        kept.extend(std::iter::from_fn(|| now(&budget, &account, MIB)));
        assert_eq!(kept.len() - before, expected, "peer {id} of 64 MiB");
        let mut more = pin!(budget.get(CLASS, Some(&account), MIB));
        assert!(poll_once(more.as_mut()).is_pending());
    }
    let late = client(&budget, 4);
    let got = now(&budget, &late, MIB).expect("somebody new is not held up");
    assert_eq!(budget.held(CLASS, &late), MIB);
    drop((got, kept));
    assert_eq!((budget.used(), budget.stats().peak), (0, 63 * MIB as u64));
}

#[test]
fn who_holds_nothing_may_have_something_large() {
    let budget = Budget::new(16 * MIB);
    let account = client(&budget, 1);
    let all = now(&budget, &account, 16 * MIB).expect("the first");
    assert!(now(&budget, &account, 1).is_none());
    drop(all);
    assert!(now(&budget, &account, 1).is_some());
}

#[test]
fn accounts_are_of_peers_and_end_with_them() {
    let budget = Budget::new(MIB);
    let (one, same) = (client(&budget, 7), client(&budget, 7));
    let other = budget.account(&Role::Server { id: ServerId(7) });
    let mut charge = budget.charge(CLASS, None, 100);
    charge.assign(one.clone());
    assert_eq!((budget.held(CLASS, &same), budget.held(CLASS, &other)), (100, 0));
    drop(charge);
    assert_eq!(budget.held(CLASS, &same), 0);
    drop((one, same, other));
    for id in 0..10_000 {
        client(&budget, id);
    }
    assert!(budget.0.shares.lock().by_peer.len() <= 64);
}

#[test]
fn what_is_in_use_anyway_is_counted_and_holds_up_others() {
    let budget = Budget::new(1_000);
    let over = budget.charge(CLASS, None, 1_500);
    let account = client(&budget, 1);
    let mut wait = Box::pin(budget.get(CLASS, Some(&account), 10));
    assert!(!budget.has_room(CLASS, Some(&account), 10) && poll_once(wait.as_mut()).is_pending());
    assert_eq!((budget.stats().waits, budget.stats().waiting), (1, 1));
    drop(over);
    assert!(poll_once(wait.as_mut()).is_ready() && budget.stats().wait_ns > 0);
    assert_eq!((budget.used(), budget.stats().waiting), (0, 0));
}
