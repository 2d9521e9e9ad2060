//! Goal: what options of IOR promise is what happens. Method: runs on a file system that notes each call, by tasks whose clocks can be moved.

use std::time::Duration;

use super::TestOutcome;
use super::plan::{Output, Plan, Test};
use super::spec::{IorSpec, Reorder};
use super::tests::{attempt_on, small};
use crate::backend::Connection;
use crate::backend::fake::{Fake, resident_bytes};
use crate::phase::Phase;
use crate::session::Session;
use crate::tasks::launch::Launch;

const FILE: &str = "/f";
const MINUTE: Duration = Duration::from_secs(60);

fn run_on(fake: &Fake, spec: IorSpec) -> TestOutcome {
    spec.validate().expect("a valid test");
    let connection = Connection::Fake(fake.clone());
    attempt_on(&connection, vec![Test::new(spec)], &Output::default()).0.expect("a run").tests.remove(0)
}

fn phases(outcome: &TestOutcome) -> Vec<Phase> {
    outcome.results.iter().map(|result| result.phase).collect()
}

/// `-T`: once the time is over no phase begins, and what is there is removed. Of a limit that is far, and of none, nothing is seen.
#[test]
fn a_time_limit_ends_the_test_between_phases() {
    let run = |max_minutes| {
        let fake = Fake::with(|fake| fake.write_takes = MINUTE);
        let outcome = run_on(&fake, IorSpec { max_minutes, repetitions: 2, ..small(FILE) });
        assert_eq!(fake.size(FILE), None, "it is removed");
        phases(&outcome)
    };
    let all = [Phase::Write, Phase::Read, Phase::Remove];
    // Each task writes twelve times.
    assert_eq!(run(11), [Phase::Write, Phase::Remove, Phase::Remove]);
    assert_eq!(run(60), [all, all].concat());
    assert_eq!(run(0), [all, all].concat());
}

/// `-e`: each task syncs once, after its last write and before its close, within the time of access; `-Y`: after each write. Reads do neither.
#[test]
fn syncs_are_where_they_were_asked_for() {
    let sync_takes = Duration::from_secs(100);
    let run = |spec: IorSpec| {
        let fake = Fake::with(|fake| fake.sync_takes = sync_takes);
        let outcome = run_on(&fake, spec);
        (fake, outcome)
    };
    let (none, _) = run(small(FILE));
    assert_eq!((none.count("sync"), none.count("write")), (0, 48));
    let (once, outcome) = run(IorSpec { fsync: true, ..small(FILE) });
    assert_eq!(once.count("sync"), 4);
    for handle in 1..=4 {
        let calls = once.calls_of(handle);
        assert_eq!((calls.len(), &calls[12..]), (15, &["write", "sync", "close"][..]), "{calls:?}");
    }
    assert!(outcome.results[0].access_s >= sync_takes.as_secs_f64(), "it is timed");
    assert!(outcome.results[0].close_s < sync_takes.as_secs_f64());
    let (each, outcome) = run(IorSpec { fsync_per_write: true, ..small(FILE) });
    assert_eq!(each.count("sync"), 48);
    let calls = each.calls_of(1);
    assert!(calls[1..25].chunks(2).all(|pair| pair == ["write", "sync"]), "{calls:?}");
    assert!(
        outcome.results[0].latency_s >= sync_takes.as_secs_f64(),
        "a transfer is there when it is synced"
    );
}

/// `-x` reaches the file system, whose part is `backend::posix::tests::a_single_attempt_is_one_call`.
#[test]
fn a_single_attempt_is_asked_for() {
    for single_attempt in [false, true] {
        let fake = Fake::default();
        run_on(&fake, IorSpec { single_attempt, ..small(FILE) });
        let opened = fake.opened();
        assert_eq!(opened.len(), 8);
        assert!(opened.iter().all(|how| how.single_attempt == single_attempt), "{opened:?}");
    }
}

/// `-E`: the file that is there is written into; without it, it is removed first, and nothing of it is left.
#[test]
fn an_existing_file_is_kept_if_asked() {
    for (use_existing, size) in [(true, 400_000), (false, 288_000)] {
        let fake = Fake::default();
        fake.put(FILE, vec![7; 400_000]);
        let outcome = run_on(&fake, IorSpec { use_existing, keep: true, ..small(FILE) });
        assert_eq!((outcome.errors, fake.size(FILE)), (0, Some(size)));
        let (unlinks, first) = (fake.count("unlink"), fake.calls()[0].what);
        assert_eq!((unlinks, first), if use_existing { (0, "open") } else { (1, "unlink") });
    }
}

/// `-g`: nobody transfers before all have opened, and nobody closes before all have transferred. Method: a task that opens late, for as long as
/// nobody writes: without the barrier the others do at once.
#[test]
fn barriers_part_open_access_and_close() {
    let late = ("f.00000001", Duration::from_millis(300));
    let fake = Fake::with(|fake| fake.slow_open = Some(late));
    let spec = IorSpec {
        intra_barriers: true,
        file_per_process: true,
        read: false,
        check_read: false,
        ..small(FILE)
    };
    run_on(&fake, spec);
    let order: Vec<&str> =
        fake.calls().iter().map(|call| call.what).filter(|what| *what != "unlink").collect();
    let expected = [vec!["open"; 4], vec!["write"; 48], vec!["close"; 4]].concat();
    assert_eq!(order, expected);
}

/// `-d`: every task waits before each phase that transfers, and not after its last.
#[test]
fn phases_are_delayed() {
    let fake = Fake::default();
    let delay = Duration::from_secs(1000);
    run_on(&fake, IorSpec { delay_s: delay.as_secs(), tasks: 1, ..small(FILE) });
    let calls = fake.calls();
    let opens: Vec<usize> = (0..calls.len()).filter(|at| calls[*at].what == "open").collect();
    assert_eq!(opens.len(), 2);
    for at in opens {
        let waited = Duration::from_nanos(calls[at].at_ns - calls[at - 1].at_ns);
        assert!(waited >= delay, "{waited:?} before call {at} of {calls:?}");
    }
    let [.., before, last] = &calls[..] else { panic!("{calls:?}") };
    assert!(last.what == "unlink" && Duration::from_nanos(last.at_ns - before.at_ns) < delay);
}

/// `-M`: while a task transfers, memory that caches could have is taken; what is given for a node is shared by its tasks.
#[test]
fn memory_is_taken_away() {
    let (fake, before) = (Fake::default(), resident_bytes());
    run_on(&fake, IorSpec { hog_bytes: 256 << 20, tasks: 1, ..small(FILE) });
    let grown = fake.resident_bytes().saturating_sub(before);
    // Other tests give memory back meanwhile.
    assert!(grown > 128 << 20, "{grown} bytes");
    let of_node = Test { hog_per_node: 8 << 20, ..Test::new(small(FILE)) };
    let connection = Connection::Fake(Fake::default());
    let (outcome, _) = attempt_on(&connection, vec![of_node], &Output::default());
    assert_eq!(outcome.expect("a run").tests[0].test.spec.hog_bytes, 2 << 20);
}

/// `-v`: more lines, each where IOR has it; twice: the kernel, too.
#[test]
fn verbose_runs_say_more() {
    let text = |verbose| {
        let connection = Connection::Fake(Fake::default());
        let spec = IorSpec { check_write: true, ..small(FILE) };
        let (outcome, text) =
            attempt_on(&connection, vec![Test::new(spec)], &Output { verbose, ..Output::default() });
        outcome.expect("a run");
        text
    };
    let kernel = crate::machine::Machine::this().kernel;
    let machine = |text: &str| text.lines().nth(3).expect("a line").ends_with(&kernel);
    let said = [
        "Participating tasks : 4\n",
        "Commencing write performance test: ",
        "Verifying contents of the file(s) just written.\n",
        "Commencing read performance test: ",
        "verbose             : ",
    ];
    let quiet = text(0);
    assert!(said.iter().all(|line| !quiet.contains(line)) && !machine(&quiet), "{quiet}");
    let once = text(1);
    assert!(said.iter().all(|line| once.contains(line)) && !machine(&once), "{once}");
    assert!(machine(&text(2)));
    // A published run of IOR 4.0 (-v -W -w -r -R): what begins is said before its row, some dates end with an empty line.
    let lines: Vec<&str> =
        once.lines().skip_while(|line| !line.starts_with("------")).skip(1).take(8).collect();
    let starts = [
        "Commencing write performance test: ",
        "write ",
        "Verifying contents",
        "",
        "",
        "Commencing read ",
        "",
        "read ",
    ];
    assert!(lines.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{lines:?}");
    let weekday = |date: &str| ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].contains(&&date[..3]);
    assert!(
        lines[4].is_empty() && lines[6].is_empty() && weekday(lines[3]) && weekday(&lines[0][35..]),
        "{lines:?}"
    );
}

/// Goal: a phase is announced before it has done anything. Method: what was written to when the line came.
#[test]
fn phases_are_announced_before_they_begin() {
    struct Said {
        fake: Fake,
        writes: Vec<usize>,
    }
    impl std::io::Write for Said {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            if text.starts_with(b"Commencing") {
                self.writes.push(self.fake.count("write"));
            }
            Ok(text.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let fake = Fake::default();
    let connection = Connection::Fake(fake.clone());
    let output = Output { verbose: 1, ..Output::default() };
    let plan = Plan { tests: vec![Test::new(small(FILE))], output };
    let mut session = Session::start(4, &Launch::Threads, &connection, None).expect("threads");
    let mut said = Said { fake, writes: Vec::new() };
    super::run(&plan, &mut session, &mut said).expect("a run");
    assert_eq!(said.writes, [0, 48]);
}

/// `-o A@B`: tasks with files of their own take A and B by turns, and all that was made is removed; one shared file is A's.
#[test]
fn several_test_files_are_taken_by_turns() {
    let several = |file_per_process| {
        let fake = Fake::default();
        let outcome = run_on(&fake, IorSpec { file_per_process, ..small("/a/f@/b/g") });
        assert_eq!(outcome.errors, 0);
        let opened = fake.opened_by_tasks().concat();
        assert!(opened.iter().all(|path| fake.size(path).is_none()), "{opened:?}");
        std::collections::BTreeSet::from_iter(opened)
    };
    let own = ["/a/f.00000000", "/a/f.00000002", "/b/g.00000001", "/b/g.00000003"];
    assert!(several(true).iter().eq(own));
    assert!(several(false).iter().eq(["/a/f"]));
}

/// `-W` with `-C` is of the file of two tasks further, whatever `-Q` is, and with `-Z` of the own one; the read has its own order.
#[test]
fn written_files_are_checked_in_an_order_of_their_own() {
    let opened = |reorder| {
        let fake = Fake::default();
        let spec = IorSpec { reorder, file_per_process: true, check_write: true, ..small(FILE) };
        assert_eq!(run_on(&fake, spec).errors, 0);
        fake.opened_by_tasks()
    };
    let files = |order: [u32; 3]| order.map(|task| format!("{FILE}.{task:08}")).to_vec();
    let constant = opened(Reorder::Constant { offset: 1 });
    assert_eq!(constant, [[0, 2, 1], [1, 3, 2], [2, 0, 3], [3, 1, 0]].map(files));
    let random = opened(Reorder::Random { seed: 3, offset: 1 });
    assert!(
        random.iter().all(|task| task.len() == 3 && task[0] == task[1] && task[1] != task[2]),
        "{random:?}"
    );
}
