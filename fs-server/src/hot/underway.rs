//! Questions about names and inodes that this server has passed on to their homes, so that equal ones wait for the answer to the first instead of going there, too.
//!
//! Nobody is answered from here. Who has waited looks for an answer that is kept (`answers`), under a lease and not called back: what may not be given to others is given
//! to nobody but who asked for it. Who finds none asks for himself.
//!
//! A table of fixed size, a place for each hash of a request as it came, as in `watch`. That two requests have the same hash makes one of them wait in vain, and nothing else.
//!
//! # Invariants
//! - Nobody waits for an answer that could not be kept when it comes: to a question from before something was called back, or from so long ago that a lease would be over
//!   (`nobody_waits_for_what_could_not_be_kept`).
//! - If who asks goes away, one of those who wait asks in his place (`one_of_those_who_wait_follows_who_goes_away`).
//! - After an answer that others may not have, equal questions go their own ways for [`ALONE`] (`what_is_not_lent_is_not_waited_for`).

use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use fs_net::Frame;
use fs_proto::Flags;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::answers::Mark;

/// Questions of which it is known at once that they are under way, at most: 72 KiB, and a channel of 0.2 KiB for each that somebody waits for.
const PLACES: usize = 1024;
/// How long equal questions do not wait for each other after an answer that was not lent: longer than many of them take, so that a name that is asked for all the time and
/// is not hot pays for one of them in vain, and shorter than what makes it hot.
const ALONE: Duration = Duration::from_secs(1);

const _: () = assert!(ALONE.as_millis() < super::WINDOW.as_millis());

/// The table.
pub struct Underway {
    places: Vec<Mutex<Place>>,
    hasher: RandomState,
}

#[derive(Default)]
struct Place {
    /// Of the question that is under way, or was.
    print: u64,
    /// Grows with every question.
    turn: u64,
    /// When it was put; none: it is over.
    asked: Option<Mark>,
    /// Until when equal questions do not wait.
    alone_until: Option<Instant>,
    /// There if somebody waits, and gone when it is over.
    over: Option<watch::Sender<()>>,
}

/// What becomes of a question.
pub enum Put<'a> {
    /// It is passed on, and equal ones wait for it.
    First(Turn<'a>),
    /// An equal one is under way: to be looked for again when that is over, which is when the channel closes.
    Wait(watch::Receiver<()>),
    /// It is passed on, and nobody waits for it.
    Alone,
}

/// Others wait until it is dropped.
pub struct Turn<'a> {
    place: &'a Mutex<Place>,
    number: u64,
    is_in_vain: bool,
}

impl Default for Underway {
    fn default() -> Self {
        let places = std::iter::repeat_with(Mutex::default).take(PLACES).collect();
        Underway { places, hasher: RandomState::default() }
    }
}

impl Underway {
    /// A hash of a request as it came: who asks, in whose name, what.
    pub fn print(&self, frame: &Frame) -> u64 {
        let header = &frame.header;
        self.hasher.hash_one((header.op as u16, header.flags.has(Flags::CHECKED), &frame.meta))
    }

    /// A question with this hash is put at `mark`.
    pub fn put(&self, print: u64, mark: Mark) -> Put<'_> {
        let mutex = &self.places[print as usize % PLACES];
        let mut place = mutex.lock();
        let is_same = place.print == print;
        if is_same && place.alone_until.is_some_and(|until| until > mark.since()) {
            return Put::Alone;
        }
        if place.asked.is_some_and(|asked| asked.may_serve(mark)) {
            if !is_same {
                return Put::Alone;
            }
            return Put::Wait(place.over.get_or_insert_with(|| watch::Sender::new(())).subscribe());
        }
        let turn = place.turn + 1;
        // Who waits for what was here before looks again.
        *place = Place { print, turn, asked: Some(mark), ..Place::default() };
        Put::First(Turn { place: mutex, number: turn, is_in_vain: false })
    }
}

impl Turn<'_> {
    /// The answer is there, and not for others; or there will be none from there.
    pub fn was_in_vain(mut self) {
        self.is_in_vain = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut place = self.place.lock();
        if place.turn == self.number {
            (place.asked, place.over) = (None, None);
            place.alone_until = self.is_in_vain.then(|| Instant::now() + ALONE);
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what the module promises. Method: one after the other, with moments that are made up.
    use super::*;
    use crate::hot::LEASE;

    const ONE: u64 = 7;
    /// Another question with the same place.
    const OTHER: u64 = ONE + PLACES as u64;

    fn first(underway: &Underway, mark: Mark) -> Turn<'_> {
        let Put::First(turn) = underway.put(ONE, mark) else { panic!("nobody asks") };
        turn
    }

    fn waits(underway: &Underway, mark: Mark) -> watch::Receiver<()> {
        let Put::Wait(over) = underway.put(ONE, mark) else { panic!("somebody asks") };
        over
    }

    fn is_over(receiver: &watch::Receiver<()>) -> bool {
        receiver.has_changed().is_err()
    }

    #[test]
    fn equal_questions_wait_for_the_first_and_others_do_not() {
        let (underway, mark) = (Underway::default(), Mark::at(Instant::now(), 0));
        let turn = first(&underway, mark);
        let (one, two) = (waits(&underway, mark), waits(&underway, mark));
        assert!(matches!(underway.put(OTHER, mark), Put::Alone), "the place is taken");
        assert!(matches!(underway.put(ONE + 1, mark), Put::First(_)));
        assert!(!is_over(&one));
        drop(turn);
        assert!(is_over(&one) && is_over(&two));
        assert!(matches!(underway.put(OTHER, mark), Put::First(_)), "the place is free");
    }

    #[test]
    fn nobody_waits_for_what_could_not_be_kept() {
        let (underway, now) = (Underway::default(), Instant::now());
        let before = first(&underway, Mark::at(now, 3));
        let waiting = waits(&underway, Mark::at(now, 3));
        let after = first(&underway, Mark::at(now, 4));
        assert!(is_over(&waiting), "whoever waited for it looks again");
        drop(before);
        let waiting = waits(&underway, Mark::at(now + LEASE / 2, 4));
        let late = first(&underway, Mark::at(now + LEASE, 4));
        assert!(is_over(&waiting));
        let waiting = waits(&underway, Mark::at(now + LEASE, 4));
        after.was_in_vain();
        assert!(!is_over(&waiting), "what is late itself ends nothing else");
        drop(late);
        assert!(is_over(&waiting));
    }

    #[test]
    fn one_of_those_who_wait_follows_who_goes_away() {
        let (underway, mark) = (Underway::default(), Mark::at(Instant::now(), 0));
        let turn = first(&underway, mark);
        let waiting = waits(&underway, mark);
        drop(turn);
        assert!(is_over(&waiting));
        let next = first(&underway, mark);
        let waiting = waits(&underway, mark);
        assert!(!is_over(&waiting));
        drop(next);
    }

    #[test]
    fn what_is_not_lent_is_not_waited_for() {
        let (underway, mark) = (Underway::default(), Mark::at(Instant::now(), 0));
        first(&underway, mark).was_in_vain();
        assert!(matches!(underway.put(ONE, Mark::at(Instant::now(), 0)), Put::Alone));
        let later = Mark::at(Instant::now() + ALONE * 2, 0);
        drop(first(&underway, later));
        first(&underway, later).was_in_vain();
        assert!(matches!(underway.put(OTHER, mark), Put::First(_)), "only the same question");
    }
}
