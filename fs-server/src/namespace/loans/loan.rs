//! What is lent of one key: to which servers, and until when. 16 bytes, while servers have numbers below 32.
//!
//! ```text
//! kind, phase     u8 each
//! until           u16   end of the last lease, or of cooling
//! whole           u16   end of the last lease of the whole
//! turned          u16   when `fresh` was begun
//! fresh, before   u32 each: a bit for each server; or a pointer to more of such pairs, where servers have higher numbers
//! ```
//!
//! Leases have no times of their own. Who asked in this turn is in `fresh`, who did in the turn before is in `before`; a turn takes a lease at least, and two at most while
//! anybody asks. So a server is known for as long as its lease and not for more than three, at two bits instead of a number and two moments.
//!
//! # Invariants
//! - A server whose lease is not over is in one of the sets, and [`Loan::until`] is not before its end (`a_server_is_known_as_long_as_its_lease`).
//! - A moment that is too long ago to be told from one to come counts as one to come: that costs a recall, and a change a lease at most (`what_nobody_tidied_delays_a_lease_at_most`).

use std::time::{Duration, Instant};

use fs_proto::ServerId;

use super::Extent;
use crate::hot::{COOLING, LEASE_HELD};
use crate::namespace::locks::Mode;

/// Parts of a second, and their length.
const TICKS: u64 = 64;
const TICK_NS: u32 = 1_000_000_000 / TICKS as u32;
const TICK: Duration = Duration::from_nanos(TICK_NS as u64);
/// One more than the time has, and as moments are rounded down: never too short.
const LEASE_TICKS: u16 = ticks(LEASE_HELD) as u16 + 1;
const COOLING_TICKS: u16 = ticks(COOLING) as u16 + 1;
/// Servers of a pair of sets.
const BITS: usize = u32::BITS as usize;

const _: () = assert!(size_of::<Loan>() == 16);
const _: () = assert!(COOLING_TICKS < i16::MAX as u16 && LEASE_TICKS < COOLING_TICKS);
const _: () = assert!(TICK_NS as u64 * TICKS == 1_000_000_000);

/// Rounded up.
const fn ticks(time: Duration) -> u64 {
    time.as_secs() * TICKS + time.subsec_nanos().div_ceil(TICK_NS) as u64
}

/// Bytes of the heap for a block of so many: with its head, what is left over of its place, and whole pages where it has a mapping of its own.
pub const fn heap(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..0x1_0000 => (bytes + 8).next_multiple_of(16) + 16,
        _ => (bytes + 16).next_multiple_of(4096),
    }
}

/// A moment, modulo 17 minutes: of two the later one is known if there are not more than eight between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick(u16);

impl Tick {
    /// That of `now`, counted from `since`, which may be later.
    pub fn of(now: Instant, since: Instant) -> Tick {
        let passed = now.saturating_duration_since(since);
        let passed = passed.as_secs() * TICKS + u64::from(passed.subsec_nanos() / TICK_NS);
        Tick((passed as u16).wrapping_sub(ticks(since.saturating_duration_since(now)) as u16))
    }

    fn plus(self, ticks: u16) -> Tick {
        Tick(self.0.wrapping_add(ticks))
    }

    /// How long it is after another; negative: before.
    fn since(self, other: Tick) -> i16 {
        self.0.wrapping_sub(other.0) as i16
    }

    fn is_after(self, other: Tick) -> bool {
        self.since(other) > 0
    }

    fn max(self, other: Tick) -> Tick {
        if other.is_after(self) { other } else { self }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Lent,
    /// It is not lent again until all have given back.
    CalledBack,
    /// It is lent to nobody, and for a while will not be.
    Cooling,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    until: Tick,
    whole: Tick,
    turned: Tick,
}

/// The same of a row of servers.
#[derive(Debug, Clone, Copy, Default)]
struct Pair {
    fresh: u32,
    before: u32,
}

#[derive(Debug)]
struct Pairs(Vec<Pair>);

#[derive(Debug)]
enum Form {
    /// Servers with numbers below [`BITS`].
    Few { phase: Phase, times: Times, pair: Pair },
    /// Others, too.
    Many { phase: Phase, times: Times, pairs: Box<Pairs> },
}

/// See the module.
#[derive(Debug)]
pub struct Loan(Form);

impl Loan {
    /// One that is not lent to anybody yet, with room for servers up to this one.
    pub fn new(server: ServerId, now: Tick) -> Loan {
        let (phase, times) = (Phase::Lent, Times { until: now, whole: now, turned: now });
        Loan(match pairs_for(server) {
            1 => Form::Few { phase, times, pair: Pair::default() },
            count => Form::Many { phase, times, pairs: Box::new(Pairs(vec![Pair::default(); count])) },
        })
    }

    /// Bytes of the heap that a new one takes, or one that [`Loan::widen`] has made room in.
    pub fn heap_bytes_for(server: ServerId) -> usize {
        heap_of(pairs_for(server))
    }

    /// Bytes of the heap that it takes.
    pub fn heap_bytes(&self) -> usize {
        heap_of(self.pairs().len())
    }

    /// Whether a server has a place in it.
    pub fn has_place(&self, server: ServerId) -> bool {
        usize::from(server.0) / BITS < self.pairs().len()
    }

    /// Makes room for servers up to this one.
    pub fn widen(&mut self, server: ServerId) {
        let mut pairs = Vec::with_capacity(pairs_for(server));
        pairs.extend_from_slice(self.pairs());
        pairs.resize(pairs_for(server), Pair::default());
        let (phase, times) = (self.phase(), *self.times());
        self.0 = Form::Many { phase, times, pairs: Box::new(Pairs(pairs)) };
    }

    fn phase(&self) -> Phase {
        let (Form::Few { phase, .. } | Form::Many { phase, .. }) = &self.0;
        *phase
    }

    fn phase_mut(&mut self) -> &mut Phase {
        let (Form::Few { phase, .. } | Form::Many { phase, .. }) = &mut self.0;
        phase
    }

    fn times(&self) -> &Times {
        let (Form::Few { times, .. } | Form::Many { times, .. }) = &self.0;
        times
    }

    fn times_mut(&mut self) -> &mut Times {
        let (Form::Few { times, .. } | Form::Many { times, .. }) = &mut self.0;
        times
    }

    fn pairs(&self) -> &[Pair] {
        match &self.0 {
            Form::Few { pair, .. } => std::slice::from_ref(pair),
            Form::Many { pairs, .. } => &pairs.0,
        }
    }

    fn pairs_mut(&mut self) -> &mut [Pair] {
        match &mut self.0 {
            Form::Few { pair, .. } => std::slice::from_mut(pair),
            Form::Many { pairs, .. } => &mut pairs.0,
        }
    }

    /// Whether a lease is out, or it still cools.
    pub fn is_on(&self, now: Tick) -> bool {
        self.times().until.is_after(now)
    }

    /// Whether it only says that it is not to be lent for a while.
    pub fn is_cooling(&self) -> bool {
        self.phase() == Phase::Cooling
    }

    /// Whether more of it may be lent.
    pub fn is_open(&self) -> bool {
        self.phase() == Phase::Lent
    }

    /// Lends it to a server that has a place in it.
    pub fn lend(&mut self, server: ServerId, extent: Extent, now: Tick) {
        if !self.is_on(now) {
            self.pairs_mut().fill(Pair::default());
            *self.times_mut() = Times { until: now, whole: now, turned: now };
        }
        self.turn(now);
        let times = self.times_mut();
        // Others may have come in between with a later moment.
        let until = times.until.max(now.plus(LEASE_TICKS));
        times.until = until;
        if extent == Extent::Whole {
            times.whole = until;
        } else if !times.whole.is_after(now) {
            // Not to be taken for one to come when it is very old.
            times.whole = now;
        }
        let at = usize::from(server.0);
        self.pairs_mut()[at / BITS].fresh |= 1 << (at % BITS);
    }

    /// Forgets servers whose leases are over.
    pub fn turn(&mut self, now: Tick) {
        let passed = now.since(self.times().turned);
        if passed < LEASE_TICKS as i16 {
            return;
        }
        let is_late = passed >= 2 * LEASE_TICKS as i16;
        for pair in self.pairs_mut() {
            *pair = Pair { fresh: 0, before: if is_late { 0 } else { pair.fresh } };
        }
        self.times_mut().turned = now;
    }

    /// Whether it is in the way of who has the key in this mode.
    pub fn forbids(&self, mode: Mode, now: Tick) -> bool {
        let times = self.times();
        !self.is_cooling()
            && match mode {
                Mode::Shared => false,
                Mode::Touch => times.whole.is_after(now),
                Mode::Alter | Mode::Exclusive => times.until.is_after(now),
            }
    }

    /// The end of the last lease, as seen at a moment of this tick.
    pub fn until(&self, now: Tick, moment: Instant) -> Instant {
        let left = self.times().until.since(now).clamp(0, LEASE_TICKS as i16);
        moment + TICK * u32::from(left as u16)
    }

    /// Calls it back. False: that was done before.
    pub fn call_back(&mut self) -> bool {
        std::mem::replace(self.phase_mut(), Phase::CalledBack) != Phase::CalledBack
    }

    /// Those that may have it.
    pub fn servers(&self) -> impl Iterator<Item = ServerId> {
        self.pairs().iter().enumerate().flat_map(|(at, pair)| {
            let all = pair.fresh | pair.before;
            (0..BITS)
                .filter(move |bit| all & (1 << bit) != 0)
                .map(move |bit| ServerId((at * BITS + bit) as u16))
        })
    }

    /// A server has given it back. Answers whether that was the last.
    pub fn give_back(&mut self, server: ServerId) -> bool {
        let at = usize::from(server.0);
        if let Some(pair) = self.pairs_mut().get_mut(at / BITS) {
            pair.fresh &= !(1 << (at % BITS));
            pair.before &= !(1 << (at % BITS));
        }
        self.is_empty()
    }

    /// Whether nobody may have it.
    pub fn is_empty(&self) -> bool {
        self.pairs().iter().all(|pair| pair.fresh | pair.before == 0)
    }

    /// From now on it only cools.
    pub fn cool(&mut self, now: Tick) {
        let times = Times { until: now.plus(COOLING_TICKS), whole: now, turned: now };
        self.0 = Form::Few { phase: Phase::Cooling, times, pair: Pair::default() };
    }
}

/// Bytes of the heap that so many pairs take: they have just as much room.
const fn heap_of(pairs: usize) -> usize {
    if pairs == 1 { 0 } else { heap(size_of::<Pairs>()) + heap(pairs * size_of::<Pair>()) }
}

/// Pairs of sets in which a server has a place: few sizes, as servers come in any order.
fn pairs_for(server: ServerId) -> usize {
    (usize::from(server.0) / BITS + 1).next_power_of_two()
}
