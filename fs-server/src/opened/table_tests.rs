//! Goal: what the table promises (`table.rs`). Method: its calls, in the orders in which requests and answers can come.

use super::*;

const INO: InodeId = InodeId(7);
const ONE: ClientId = ClientId(1);
const OTHER: ClientId = ClientId(2);
const SERVER: ServerId = ServerId(3);
const LEASE: Duration = Duration::from_secs(90);

fn table() -> Opened {
    Opened::new(SERVER, 1000, Budget::new(1 << 20), LEASE, false)
}

fn open(table: &Opened, client: ClientId, version: Option<u64>) {
    let writes = version.is_some();
    table.begin(INO, client, writes).expect("room");
    table.settle(INO, client, writes, Some(version.unwrap_or(0)));
}

/// Who writes the file, and from which version on that counts for a home that says 0.
fn writers(table: &Opened) -> Vec<(ClientId, u64)> {
    table.writers(INO).iter().map(|known| (known.client, known.counts_from(0))).collect()
}

fn read(ino: InodeId) -> OpenInode {
    OpenInode { ino, mode: OpenMode::Read {} }
}

fn write(ino: InodeId) -> OpenInode {
    OpenInode { ino, mode: OpenMode::Write { via: Some(SERVER) } }
}

#[test]
fn the_last_who_closes_ends_it() {
    let table = table();
    open(&table, ONE, Some(4));
    open(&table, OTHER, None);
    let (unknown, news) = table.close(ONE, &[INO, InodeId(8)]);
    assert_eq!((unknown, &news.read[..], news.closed.len()), (vec![InodeId(8)], &[INO][..], 0));
    let (_, news) = table.close(OTHER, &[INO]);
    assert!(news.closed == [INO] && news.read.is_empty() && table.is_empty());
    assert!(is_empty(&table.close(OTHER, &[INO]).1), "it is told once");
}

#[test]
fn what_is_being_opened_is_not_ended() {
    let table = table();
    open(&table, ONE, None);
    table.begin(INO, OTHER, true).expect("room");
    assert!(is_empty(&table.close(ONE, &[INO]).1));
    table.settle(INO, OTHER, true, None);
    assert_eq!(table.again().closed, [INO], "in vain, and the one who closed was not the last then");
    open(&table, ONE, None);
    table.begin(INO, ONE, false).expect("room");
    assert!(is_empty(&table.close(ONE, &[INO]).1), "it opens the file again");
    table.settle(INO, ONE, false, Some(0));
    assert_eq!(table.close(ONE, &[INO]).1.closed, [INO]);
}

#[test]
fn what_closes_with_its_last_publishing_is_ended_with_it() {
    let table = table();
    open(&table, ONE, Some(4));
    let closing = table.begin_closing(INO, ONE).expect("known");
    assert!(closing.end.is_some_and(|end| !end.reads));
    assert!(is_empty(&table.end_closing(INO, ONE, closing)) && table.is_empty());
    open(&table, ONE, Some(4));
    open(&table, OTHER, None);
    let closing = table.begin_closing(INO, ONE).expect("known");
    assert!(closing.end.is_some_and(|end| end.reads));
    assert!(is_empty(&table.close(OTHER, &[INO]).1), "the other closes meanwhile");
    assert_eq!(table.end_closing(INO, ONE, closing).closed, [INO]);
    open(&table, ONE, Some(4));
    open(&table, OTHER, Some(4));
    let closing = table.begin_closing(INO, ONE).expect("known");
    assert_eq!(closing.end, None, "the other writes");
    assert!(is_empty(&table.end_closing(INO, ONE, closing)));
}

#[test]
fn a_round_that_comes_late_is_taken_back() {
    let table = table();
    open(&table, ONE, Some(4));
    let closing = table.begin_closing(INO, ONE).expect("known");
    let round = table.round();
    assert_eq!(round.open, [(INO, true)]);
    assert_eq!(table.end_closing(INO, ONE, closing).closed, [INO], "the round may have come after it");
    assert_eq!(table.after_round(round.stamp, &round.open).closed, [INO]);
    open(&table, ONE, Some(4));
    open(&table, OTHER, None);
    let round = table.round();
    let (_, news) = table.close(ONE, &[INO]);
    assert_eq!(news.read, [INO]);
    assert_eq!(table.after_round(round.stamp, &round.open).read, [INO]);
    let later = table.round();
    assert!(later.open == [(INO, false)] && later.settled >= news.stamp);
    assert!(is_empty(&table.after_round(later.stamp, &later.open)));
}

/// Goal: a creation that nobody waits for any more leaves no writer at the home. Method: what is told while it is under way, and after.
#[test]
fn what_is_told_does_not_end_creations_under_way() {
    let table = table();
    open(&table, OTHER, None);
    let began = table.begin_creation().expect("room");
    assert!(table.round().settled <= began, "the home does not take it for over");
    table.end_creation(began, ONE, None, false);
    assert!(table.round().settled > began);
}

#[test]
fn who_opens_again_is_not_closed_by_what_came_before() {
    let table = table();
    open(&table, ONE, Some(4));
    let closing = table.begin_closing(INO, ONE).expect("known");
    open(&table, ONE, Some(6));
    assert!(is_empty(&table.end_closing(INO, ONE, closing)) && table.len() == 1);
}

#[test]
fn a_creation_takes_back_what_was_told_meanwhile() {
    let table = table();
    let began = table.begin_creation().expect("room");
    open(&table, OTHER, None);
    let ended = table.close(OTHER, &[INO]).1;
    let (news, _) = table.end_creation(began, ONE, Some((INO, Some(5))), false);
    assert!(news.open == [write(INO)] && news.stamp > ended.stamp);
    assert_eq!(writers(&table), [(ONE, 5)]);
    let began = table.begin_creation().expect("room");
    assert!(is_empty(&table.end_creation(began, OTHER, Some((INO, None)), false).0));
    let began = table.begin_creation().expect("room");
    assert!(!is_empty(&table.end_creation(began, OTHER, Some((INO, None)), true).0));
    let began = table.begin_creation().expect("room");
    assert!(table.is_creating_since(began + 1) && !table.is_creating_since(began));
    table.end_creation(began, OTHER, None, false);
    assert_eq!(table.len(), 2);
}

/// Goal: what is forgotten of ends counts as ended. Method: more of them than are remembered.
#[test]
fn a_creation_during_many_ends_is_told_again() {
    let table = table();
    let began = table.begin_creation().expect("room");
    for ino in 0..=ENDED_MAX as u64 {
        table.begin(InodeId(100 + ino), ONE, false).expect("room");
        table.settle(InodeId(100 + ino), ONE, false, Some(0));
        assert_eq!(table.close(ONE, &[InodeId(100 + ino)]).1.closed.len(), 1);
    }
    assert!(!is_empty(&table.end_creation(began, ONE, Some((INO, None)), false).0));
    assert!(table.table.lock().ended.is_empty());
}

#[test]
fn each_writer_has_its_own_version() {
    let table = table();
    open(&table, ONE, Some(4));
    table.begin(INO, OTHER, true).expect("room");
    assert_eq!(writers(&table), [(ONE, 4)]);
    assert!(!table.is_sole_writer(INO, ONE), "it may write as soon as it is answered");
    table.settle(INO, OTHER, true, Some(9));
    open(&table, ONE, Some(11));
    assert_eq!(writers(&table), [(ONE, 4), (OTHER, 9)], "that of the beginning");
    table.close(OTHER, &[INO]);
    assert!(table.is_sole_writer(INO, ONE) && table.alone(INO, ONE).is_some());
    open(&table, OTHER, None);
    assert!(table.is_sole_writer(INO, ONE) && table.alone(INO, ONE).is_none());
}

#[test]
fn renewals_keep_and_after_a_restart_tell() {
    let table = table();
    let news = table.renew(ONE, vec![read(INO), write(InodeId(8))]);
    assert_eq!((&news.pass_on[..], &news.news.open[..]), (&[write(InodeId(8))][..], &[read(INO)][..]));
    let news = table.renew(ONE, vec![read(INO)]);
    assert!(news.pass_on.is_empty() && is_empty(&news.news));
    assert_eq!(table.renew(ONE, vec![write(INO)]).pass_on, [write(INO)]);
    open(&table, ONE, Some(3));
    assert!(table.renew(ONE, vec![write(INO)]).pass_on.is_empty());
    assert!(is_empty(&table.renew(ONE, vec![read(INO)]).news), "it may have opened since");
    table.table.lock().since -= Duration::from_secs(60);
    assert_eq!(table.renew(ONE, vec![read(INO)]).news.read, [INO]);
    assert!(writers(&table).is_empty());
}

#[test]
fn who_is_not_heard_of_is_forgotten() {
    let table = table();
    open(&table, ONE, Some(4));
    open(&table, OTHER, None);
    assert!(is_empty(&table.expire(Instant::now())));
    table.table.lock().since -= Duration::from_secs(60);
    table.renew(OTHER, vec![read(INO)]);
    let news = table.expire(Instant::now() + Duration::from_secs(60));
    assert_eq!((&news.lost[..], &news.read[..], news.closed.len()), (&[INO][..], &[INO][..], 0));
    table.not_heard(&news);
    let again = table.again();
    assert!(again.lost == [INO] && again.read == [INO] && again.stamp > news.stamp);
    assert_eq!(table.expire(Instant::now() + LEASE * 2).closed, [INO]);
    assert!(table.is_empty());
}

#[test]
fn what_is_opened_by_a_lent_answer_is_told_with_the_next_round() {
    let table = table();
    assert!(table.note(INO, ONE));
    assert!(is_empty(&table.close(ONE, &[INO]).1), "the home knows of nothing");
    assert!(table.note(INO, ONE));
    assert_eq!(table.round().open, [(INO, false)]);
    assert_eq!(table.close(ONE, &[INO]).1.closed, [INO]);
}

#[test]
fn a_full_table_takes_nobody() {
    let pool = Budget::new(4 * PAGE_BYTES);
    let table = Opened::new(SERVER, 1000, pool.clone(), LEASE, false);
    let took = (1..10_000).filter(|ino| table.begin(InodeId(*ino), ONE, false).is_some()).count();
    assert!((256..=512).contains(&took), "{took}");
    assert!(pool.used() <= 2 * PAGE_BYTES);
    assert!(!table.note(InodeId(20_000), ONE) && table.begin_creation().is_none());
    let renewed = table.renew(ONE, vec![read(InodeId(20_000))]);
    assert_eq!(renewed.pass_on.len(), 1);
    for ino in 1..10_000 {
        table.settle(InodeId(ino), ONE, false, None);
    }
    assert!(table.is_empty() && pool.used() <= PAGE_BYTES);
    table.begin_creation().expect("room");
    table.found_writing(INO, OTHER, 6);
    assert_eq!((writers(&table), table.len()), (vec![(OTHER, 6)], 2));
}

/// Goal: a client that was seen to write is asked for, and homes hear nothing of it from here: it may have closed the file by another way.
#[test]
fn who_was_seen_to_write_is_not_told() {
    let table = table();
    table.found_writing(INO, ONE, 6);
    table.found_writing(INO, ONE, 8);
    assert_eq!(writers(&table), [(ONE, 6)]);
    assert!(table.round().open.is_empty());
    let writes = vec![write(INO)];
    let renewed = table.renew(ONE, writes.clone());
    assert_eq!((renewed.pass_on, is_empty(&renewed.news)), (writes, true), "its home has to know it");
    open(&table, OTHER, None);
    assert_eq!(table.round().open, [(INO, false)]);
    let (unknown, news) = table.close(OTHER, &[INO]);
    assert_eq!((unknown, news.closed), (vec![], vec![INO]));
    assert_eq!(writers(&table), [(ONE, 6)]);
    let (unknown, news) = table.close(ONE, &[INO]);
    assert_eq!((unknown, is_empty(&news), table.len()), (vec![INO], true, 0));
    table.found_writing(INO, ONE, 6);
    let news = table.expire(Instant::now() + LEASE * 2);
    assert!(is_empty(&news) && table.is_empty(), "homes forget it themselves");
}

/// Goal: what was written before somebody closed the file by another way, and others cut it, does not count again when it is opened here.
#[test]
fn what_was_seen_counts_from_where_the_home_says() {
    let table = table();
    table.found_writing(INO, ONE, 6);
    let from = |version| table.writers(INO)[0].counts_from(version);
    assert_eq!((from(4), from(9)), (6, 9));
    open(&table, ONE, Some(12));
    assert_eq!((from(4), from(9), from(20)), (6, 9, 12));
    let (unknown, _) = table.close(ONE, &[INO]);
    assert_eq!((unknown, writers(&table)), (vec![INO], vec![]));
}

/// Goal: a creation in vain takes back itself, and no other opening of the same client.
#[test]
fn what_a_client_has_open_otherwise_stays_when_a_creation_is_taken_back() {
    let table = table();
    let create = || {
        let began = table.begin_creation().expect("room");
        table.end_creation(began, ONE, Some((INO, None)), true)
    };
    let (news, was_open) = create();
    assert!(!was_open);
    assert_eq!(table.take_back(INO, ONE, news.stamp).closed, [INO]);
    assert!(table.is_empty());
    let (news, _) = create();
    table.begin(INO, ONE, true).expect("room");
    assert!(is_empty(&table.take_back(INO, ONE, news.stamp)), "opened since");
    table.settle(INO, ONE, true, Some(4));
    assert!(create().1, "open before");
    assert_eq!(writers(&table), [(ONE, 4)]);
}
