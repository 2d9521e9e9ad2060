//! The order of the queue, what leaves it and what stays, and what is there after reopening.

use super::*;
use crate::kv::{self, KvKind};

const DIR: InodeId = InodeId(7);

fn name(text: &'static str) -> FlushItem {
    FlushItem::Name(DIR, Bytes::from_static(text.as_bytes()))
}

fn open(dir: &tempfile::TempDir, delay: Duration) -> FlushQueue {
    let kv = kv::open(KvKind::Fjall, &dir.path().join("kv"), 8 << 20).unwrap();
    FlushQueue::open(kv, true, delay).unwrap()
}

#[test]
fn noted_again_while_flushing_stays() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::ZERO);
    queue.note_now(&name("a")).unwrap();
    let taken = queue.take(9);
    assert_eq!((taken.len(), queue.take(9).len()), (1, 0));
    queue.note_now(&name("a")).unwrap();
    queue.done(&taken[0], Batch::default()).unwrap();
    let again = queue.take(9);
    assert_eq!(again.len(), 1);
    queue.done(&again[0], Batch::default()).unwrap();
    assert!(queue.is_empty() && queue.take(9).is_empty());
}

#[test]
fn what_is_not_done_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::ZERO);
    for item in [name("a"), name("b"), FlushItem::Inode(DIR)] {
        queue.note_now(&item).unwrap();
    }
    let taken = queue.take(1);
    assert_eq!(taken[0].item, name("a"));
    queue.done(&taken[0], Batch::default()).unwrap();
    queue.take(9);
    drop(queue);
    assert_eq!(open(&dir, Duration::ZERO).len(), (1, 1));
}

#[test]
fn items_come_in_the_order_they_are_due() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::ZERO);
    queue.note_now(&name("a")).unwrap();
    queue.note_now(&name("b")).unwrap();
    let first = queue.take(1);
    queue.postpone(&first[0], Duration::from_secs(1000));
    assert_eq!(queue.take(9).iter().map(|t| t.item.clone()).collect::<Vec<_>>(), [name("b")]);
    queue.set_hurry(true);
    let hurried = queue.take(9);
    assert_eq!((hurried.len(), hurried[0].attempts), (1, 1));
    let items = queue.items.lock();
    assert!(items.order.is_empty() && items.ready.is_empty() && items.noted.len() == 2);
}

#[test]
fn the_oldest_of_what_is_due_goes_first() {
    // Goal: what had to be put off and is due again goes before what was noted later and has been due for longer; noting it again
    // while it is ready takes it out of turn, once.
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::ZERO);
    for item in ["a", "b", "c"] {
        queue.note_now(&name(item)).unwrap();
    }
    let first = queue.take(1);
    assert_eq!(first[0].item, name("a"));
    queue.postpone(&first[0], Duration::ZERO);
    let taken = |limit| queue.take(limit).into_iter().map(|taken| taken.item).collect::<Vec<_>>();
    assert_eq!(taken(1), [name("a")]);
    queue.note_now(&name("b")).unwrap();
    assert_eq!((taken(9), taken(9)), (vec![name("b"), name("c")], Vec::new()));
}

#[test]
fn names_of_directories_go_before_all_else() {
    // Goal: the name of a directory is taken before older names, by itself, however it was noted before; and it is no reason to hold the others back.
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::ZERO);
    for item in ["a", "b", "c", "d"] {
        queue.note_now(&name(item)).unwrap();
    }
    let taken = queue.take_groups(1, 1, 1);
    for led in ["d", "e"] {
        queue.note_directory(&mut Batch::default(), DIR, &Bytes::from_static(led.as_bytes()));
    }
    queue.give_back(&taken[0], false);
    let groups = queue.take_groups(9, 64, 1).into_iter();
    let groups: Vec<Vec<_>> = groups.map(|group| group.into_iter().map(|t| t.item).collect()).collect();
    assert_eq!(groups, [vec![name("d")], vec![name("e")], vec![name("a"), name("b"), name("c")]]);
}

#[test]
fn in_a_hurry_directories_wait_for_names_and_for_nothing_else() {
    // Goal: while names are due the times of a directory wait for them; with the last of them they are due at once, and so are those that are noted later.
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::from_secs(1000));
    queue.set_hurry(true);
    queue.note_now(&name("a")).unwrap();
    let taken = queue.take(9);
    let earliest = Instant::now() + HURRIED_INODE;
    for dir in [1, 2] {
        queue.note_touched(InodeId(dir)).unwrap();
    }
    assert!(queue.items.lock().order.keys().all(|(due, _)| *due >= earliest));
    queue.done(&taken[0], Batch::default()).unwrap();
    let dirs = queue.take(9);
    assert_eq!(dirs.len(), 2);
    queue.postpone(&dirs[0], Duration::from_secs(1000));
    queue.done(&dirs[1], Batch::default()).unwrap();
    queue.note_touched(InodeId(3)).unwrap();
    // What failed has its pause all the same.
    assert_eq!(
        queue.take(9).iter().map(|t| t.item.clone()).collect::<Vec<_>>(),
        [FlushItem::Inode(InodeId(3))]
    );
}

#[test]
fn names_of_a_directory_come_together() {
    // Goal: a name brings the oldest others of its directory that are due, as many as make the shares that are wanted, and neither an inode, nor a name
    // of another directory, nor one that was given back, which comes alone and is as old as before.
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::ZERO);
    let other = FlushItem::Name(InodeId(8), Bytes::from_static(b"a"));
    for item in [name("a"), FlushItem::Inode(DIR), name("b"), other.clone(), name("c"), name("d")] {
        queue.note_now(&item).unwrap();
    }
    let of = |groups: Vec<Vec<Taken>>| -> Vec<Vec<FlushItem>> {
        groups.into_iter().map(|group| group.into_iter().map(|taken| taken.item).collect()).collect()
    };
    let first = queue.take_groups(1, 64, 2);
    queue.give_back(&first[0][1..2], true);
    queue.give_back(&first[0][2..], false);
    assert_eq!(of(first), [[name("a"), name("b"), name("c")]]);
    let rest = [vec![FlushItem::Inode(DIR)], vec![name("b")], vec![other], vec![name("c"), name("d")]];
    assert_eq!(of(queue.take_groups(9, 2, 1)), rest);
}

#[test]
fn steady_changes_do_not_starve() {
    // Goal: an item noted all the time is due no later than ten delays after the first note.
    let dir = tempfile::tempdir().unwrap();
    let delay = Duration::from_secs(100);
    let queue = open(&dir, delay);
    queue.note_now(&name("a")).unwrap();
    queue.items.lock().noted.get_mut(&name("a")).unwrap().first -= delay * 9 + delay / 2;
    queue.note_now(&name("a")).unwrap();
    let left = queue.items.lock().order.first_key_value().unwrap().0.0 - Instant::now();
    assert!(left <= delay / 2, "{left:?}");
    // It has waited, but was not tried: who has to be patient with it begins now.
    let now = Instant::now();
    queue.set_hurry(true);
    assert!(queue.take(1)[0].tried >= now);
}

#[test]
fn what_is_asked_for_is_forced_however_it_is_taken() {
    // Goal: an item that is asked for is taken as such at once, also if it is parked, or was taken before it was asked for.
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::from_secs(1000));
    queue.note_now(&name("a")).unwrap();
    queue.note_forced(&name("a"), false).unwrap();
    let taken = queue.take(9);
    assert!(taken.len() == 1 && taken[0].forced);
    queue.done(&taken[0], Batch::default()).unwrap();
    queue.set_hurry(true);
    queue.note_now(&name("b")).unwrap();
    let before = queue.take(9);
    queue.note_forced(&name("b"), false).unwrap();
    queue.park(&before[0], Duration::from_secs(1000));
    let again = queue.take(9);
    assert!(!before[0].forced && again[0].forced);
    queue.park(&queue_unforced(&again[0]), Duration::from_secs(1000));
    assert!(queue.take(9)[0].forced);
}

#[test]
fn who_asked_hears_when_he_was_answered() {
    // Goal: an attempt that began after somebody asked answers him, also if the item changes meanwhile; one that began before does not.
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::ZERO);
    queue.note_now(&name("a")).unwrap();
    assert!(!queue.is_asked_for(&name("a")));
    let before = queue.take(9);
    queue.note_forced(&name("a"), true).unwrap();
    queue.done(&before[0], Batch::default()).unwrap();
    assert!(queue.is_asked_for(&name("a")));
    let after = queue.take(9);
    assert!(after[0].forced && after[0].open && !before[0].open);
    queue.note_now(&name("a")).unwrap();
    queue.done(&after[0], Batch::default()).unwrap();
    assert!(!queue.is_asked_for(&name("a")) && queue.is_noted(&name("a")));
    assert!(!queue.take(9)[0].forced);
}

#[test]
fn what_is_tried_soon_is_known() {
    // Goal: a delay is told from a turn that comes, or came.
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::from_secs(60));
    let within = |secs| queue.is_tried_within(&name("a"), Duration::from_secs(secs));
    assert!(!within(100));
    queue.note_now(&name("a")).unwrap();
    assert!(within(61) && !within(30));
    queue.note_forced(&name("a"), false).unwrap();
    assert!(within(0));
    let taken = queue.take(1);
    queue.postpone(&taken[0], Duration::from_secs(60));
    assert!(within(0), "what failed has its own pauses");
}

#[test]
fn what_needs_nothing_but_the_tier_is_ripe() {
    // Goal: names that wait for their policy or for a closing, directories, and inodes make no room.
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::ZERO);
    let mut batch = Batch::default();
    queue.note_directory(&mut batch, DIR, &Bytes::from_static(b"dir"));
    queue.note_inode(&mut batch, DIR);
    assert!(queue.ripe_names(1).is_empty());
    queue.note_now(&name("a")).unwrap();
    assert_eq!(queue.ripe_names(1).len(), 1);
    let taken = queue.take(9).into_iter().find(|taken| taken.item == name("a")).unwrap();
    assert_eq!(queue.ripe_names(1).len(), 1);
    queue.postpone_as(&taken, Duration::ZERO, Put::Open);
    assert!(queue.ripe_names(1)[0].2, "found open: whoever asks looks whether it is yet");
    let again = queue.take(1);
    queue.postpone(&again[0], Duration::ZERO);
    assert_eq!(queue.ripe_names(1).len(), 1);
    let again = queue.take(1);
    queue.park(&again[0], Duration::from_secs(1000));
    assert!(queue.ripe_names(1).is_empty());
}

#[test]
fn what_is_refused_in_a_row_makes_no_hope() {
    // Goal: a name that the tier refuses is ripe until it did so often enough; a failure of another kind, or a change, begins anew.
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::ZERO);
    let attempt = |why| queue.postpone_as(&queue.take(1)[0], Duration::ZERO, why);
    queue.note_now(&name("a")).unwrap();
    assert!((1..REFUSALS).all(|_| !attempt(Put::Refused)));
    assert!(!attempt(Put::Off) && queue.ripe_names(1).len() == 1);
    assert!((1..REFUSALS).all(|_| !attempt(Put::Refused)) && queue.ripe_names(1).len() == 1);
    assert!(attempt(Put::Refused) && queue.ripe_names(1).is_empty() && attempt(Put::Refused));
    queue.note_now(&name("a")).unwrap();
    assert_eq!(queue.ripe_names(1).len(), 1);
}

/// The same, as if it had been taken before anybody asked.
fn queue_unforced(taken: &Taken) -> Taken {
    Taken { forced: false, generation: 0, ..taken.clone() }
}

#[test]
fn what_is_parked_is_known_and_idle() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::ZERO);
    queue.note_now(&name("a")).unwrap();
    let taken = queue.take(9);
    assert!(queue.oldest().is_some());
    queue.park(&taken[0], Duration::from_secs(1000));
    assert!(
        queue.is_idle() && !queue.is_empty() && queue.oldest().is_none() && queue.some_names(9).is_empty()
    );
    queue.note_now(&name("a")).unwrap();
    assert!(!queue.is_idle() && queue.take(9).len() == 1 && queue.parked() == 0);
}

#[test]
fn a_touched_directory_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::ZERO);
    queue.note_touched(DIR).unwrap();
    let taken = queue.take(1);
    queue.note_touched(DIR).unwrap();
    queue.done(&taken[0], Batch::default()).unwrap();
    assert_eq!(queue.len(), (0, 1));
    drop(queue);
    assert_eq!(open(&dir, Duration::ZERO).len(), (0, 1));
}

#[test]
fn what_is_told_of_an_item_waits_for_its_flush() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::ZERO);
    let tell = || {
        let mut told = false;
        let is_idle = queue.while_idle(&name("a"), || {
            told = true;
            Ok(())
        });
        assert_eq!(is_idle.unwrap(), told);
        told
    };
    assert!(tell());
    queue.note_now(&name("a")).unwrap();
    assert!(tell());
    let taken = queue.take(9);
    queue.note_now(&name("a")).unwrap();
    assert!(!tell());
    queue.done(&taken[0], Batch::default()).unwrap();
    assert!(tell(), "noted again, and not begun yet");
}

#[test]
fn what_is_asked_for_is_not_put_off_by_changes() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(&dir, Duration::from_secs(1000));
    queue.note_touched(DIR).unwrap();
    assert!(queue.take(9).is_empty());
    queue.note_forced(&FlushItem::Inode(DIR), false).unwrap();
    queue.note_touched(DIR).unwrap();
    let taken = queue.take(9);
    assert!(taken.len() == 1 && taken[0].forced);
    queue.note_touched(DIR).unwrap();
    queue.done(&taken[0], Batch::default()).unwrap();
    assert!(queue.take(9).is_empty(), "nobody asked for what came later");
    queue.note_forced(&FlushItem::Inode(DIR), false).unwrap();
    let taken = queue.take(9);
    queue.note_forced(&FlushItem::Inode(DIR), false).unwrap();
    queue.note_touched(DIR).unwrap();
    queue.done(&taken[0], Batch::default()).unwrap();
    assert_eq!(queue.take(9).len(), 1, "asked for again while it was flushed");
}
