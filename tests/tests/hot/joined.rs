//! Goal: what all processes of a node ask at one moment is asked once at its home, before anything is known to be hot, and nobody hears by that what was so before a change
//! that had returned (decision 0046). Method: a way from the gateway to the home that holds answers back; what the home carried out, and what the gateway counts.

use std::rc::Rc;
use std::sync::OnceLock;
use std::thread::{Scope, ScopedJoinHandle};

use bytes::{Bytes, BytesMut};
use fs_client::{Attr, Caller, InodeId};
use fs_net::{Connection, Identity, NetEnv};
use fs_proto::msg::inode::Getattr;
use fs_proto::msg::session::Role;
use fs_proto::{ClientId, Header, Op, Status, Wire};

use super::relay::Relay;
use super::*;

const HOME: u16 = 0;
const GATEWAY: u16 = 3;
const ASKERS: usize = 24;

/// A cluster in which the gateway reaches the home by the relay.
struct Bed {
    cluster: Cluster,
    relay: Relay,
    maker: Client,
    /// On the gateway's node.
    clients: Vec<Client>,
}

fn bed() -> Bed {
    let relay = Relay::default();
    let (way, address) = (relay.clone(), OnceLock::new());
    let options = ClusterOptions { servers: 6, ..ClusterOptions::default() };
    let cluster = Cluster::told(options, move |server, file| {
        let Some(home) = file.members.iter_mut().find(|member| member.id == ServerId(HOME)) else { return };
        if server == ServerId(GATEWAY) {
            home.tcp = address.get_or_init(|| way.to(&home.tcp)).clone();
            home.host.push_str("-elsewhere");
        }
    });
    let maker = cluster.strict_client(Route::Owners);
    let clients: Vec<_> = (0..ASKERS).map(|_| on_node(&cluster, GATEWAY)).collect();
    let bed = Bed { cluster, relay, maker, clients };
    // All threads of the gateway are connected to the home afterwards.
    let (ino, _) = bed.make("/warm");
    for client in &bed.clients {
        getattr(client, ino);
    }
    bed
}

fn getattr(client: &Client, ino: InodeId) -> Attr {
    client.getattr(&Caller::ROOT, ino).expect("getattr")
}

impl Bed {
    /// A file whose attributes the home has.
    fn make(&self, name: &str) -> (InodeId, String) {
        let map = self.cluster.file().map().expect("a map");
        let mut made = (0..1000).map(|number| {
            let dir = format!("{name}-{number}");
            self.maker.mkdir_path(&dir, 0o755).expect("mkdir");
            let path = format!("{dir}/f");
            (self.maker.put(&path, b"content", 0o644).expect("put").ino, path)
        });
        let at_home = |(ino, _): &(InodeId, String)| map.owner(ino.partition()) == ServerId(HOME);
        made.find(at_home).expect("one of them is at home")
    }

    /// Two others ask, so that the next server that does so is lent the answer.
    fn two_have_asked(&self, ino: InodeId) {
        for server in [1, 2] {
            getattr(&on_node(&self.cluster, server), ino);
        }
    }

    fn asked(&self, op: &str) -> u64 {
        status(&self.maker, ServerId(HOME))["operations"][op].as_u64().unwrap_or(0)
    }

    fn joined(&self) -> u64 {
        hot(&self.maker, GATEWAY, "answers_joined")
    }

    /// Has clients ask, each on a thread of its own; returns when so many of them wait for another's answer.
    fn ask<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        clients: &'scope [Client],
        ino: InodeId,
        wait: u64,
    ) -> Vec<ScopedJoinHandle<'scope, Attr>> {
        let before = self.joined();
        let asking = clients.iter().map(|client| scope.spawn(move || getattr(client, ino))).collect();
        hayate_tests::until("they wait for each other", || self.joined() >= before + wait);
        asking
    }

    /// A client asks, with so long to wait; it ends with its connection after `after`, without its answer.
    fn ask_and_end(&self, ino: InodeId, deadline_ms: u32, after: impl FnOnce()) {
        let (file, id) = (self.cluster.file(), ClientId(0x7e57));
        let who = Identity { role: Role::Client { id }, job: file.job.clone(), secret: file.secret.clone() };
        let address = file.member(ServerId(GATEWAY)).expect("a member").tcp_address();
        let mut header = Header::request(Op::Getattr, ino.partition());
        (header.client, header.sequence, header.epoch, header.deadline_ms) = (id, 1, file.epoch, deadline_ms);
        let mut meta = BytesMut::new();
        Caller::ROOT.put(&mut meta);
        Getattr { ino }.put(&mut meta);
        let before = self.asked("getattr");
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime"), async move {
                    let env = Rc::new(NetEnv::new(1 << 20));
                    let connection = Connection::connect(&address, &who, &env, Duration::from_secs(30)).await;
                    let connection = connection.expect("a connection");
                    tokio::task::spawn_local(async move {
                        connection.call(header, meta.freeze(), Bytes::new()).await.is_ok()
                    });
                    // Then all of it is dropped.
                    let _ = ended.await;
                });
            });
            hayate_tests::until("the home has answered", || self.asked("getattr") > before);
            after();
            drop(end);
        });
    }
}

fn all(asking: Vec<ScopedJoinHandle<'_, Attr>>) -> Vec<Attr> {
    asking.into_iter().map(|asks| asks.join().expect("an answer")).collect()
}

/// Runs a test again, with another file, if the machine was so slow that nothing was lent.
fn when_lent(bed: &Bed, name: &str, test: impl Fn(InodeId, &str)) {
    for round in 0..5 {
        let (ino, path) = bed.make(&format!("/{name}{round}"));
        let lent = || hot(&bed.maker, HOME, "answers_lent");
        bed.two_have_asked(ino);
        let before = lent();
        test(ino, &path);
        if lent() > before {
            return;
        }
    }
    panic!("nothing was lent in five rounds");
}

#[test]
fn equal_questions_of_a_node_are_one_at_the_home() {
    let bed = bed();
    let fewest = std::cell::Cell::new(u64::MAX);
    when_lent(&bed, "f", |ino, _| {
        let (before, lent) = (bed.asked("getattr"), hot(&bed.maker, HOME, "answers_lent"));
        let held = bed.relay.hold();
        let answers = std::thread::scope(|scope| {
            let asking = bed.ask(scope, &bed.clients, ino, ASKERS as u64 - 1);
            drop(held);
            all(asking)
        });
        assert!(answers.iter().all(|attr| attr.ino == ino && attr.size == 7), "{answers:?}");
        if hot(&bed.maker, HOME, "answers_lent") > lent {
            fewest.set(bed.asked("getattr") - before);
        }
    });
    assert_eq!(fewest.get(), 1, "questions at the home");
}

/// Method: the first who asks ends, once with its connection only, once because its time is over; its answer has not come.
#[test]
fn others_get_their_answer_although_the_first_who_asked_is_gone() {
    let bed = bed();
    for (deadline_ms, most) in [(10_000, 1), (700, 2)] {
        when_lent(&bed, &format!("f{deadline_ms}-"), |ino, _| {
            let (before, lent) = (bed.asked("getattr"), hot(&bed.maker, HOME, "answers_lent"));
            let held = bed.relay.hold();
            let answers = std::thread::scope(|scope| {
                let mut asking = Vec::new();
                bed.ask_and_end(ino, deadline_ms, || {
                    asking = bed.ask(scope, &bed.clients, ino, ASKERS as u64);
                });
                if deadline_ms < 1_000 {
                    // One asks in its place, and the others wait again, for that one.
                    hayate_tests::until("one follows", || bed.asked("getattr") > before + 1);
                }
                drop(held);
                all(asking)
            });
            assert!(answers.iter().all(|attr| attr.ino == ino && attr.size == 7), "{answers:?}");
            let asked = bed.asked("getattr") - before;
            let is_lent = hot(&bed.maker, HOME, "answers_lent") > lent;
            assert!(asked <= most || !is_lent, "{asked} questions at the home, at most {most}");
        });
    }
}

/// Method: an answer is on its way, and others wait for it, when the file is changed; others ask when that has returned.
#[test]
fn who_asks_after_a_change_does_not_wait_for_what_was_asked_before() {
    let bed = bed();
    when_lent(&bed, "f", |ino, path| {
        let (early, late) = bed.clients.split_at(ASKERS / 2);
        let before = bed.asked("getattr");
        let held = bed.relay.hold();
        let (old, new) = std::thread::scope(|scope| {
            let old = bed.ask(scope, early, ino, early.len() as u64 - 1);
            hayate_tests::until("the home has answered", || bed.asked("getattr") > before);
            bed.maker.chmod(path, 0o4711).expect("chmod");
            let new = bed.ask(scope, late, ino, late.len() as u64 - 1);
            drop(held);
            (all(old), all(new))
        });
        assert!(new.iter().all(|attr| attr.mode & 0o7777 == 0o4711), "{new:?}");
        assert!(old.iter().all(|attr| matches!(attr.mode & 0o7777, 0o644 | 0o4711)), "{old:?}");
    });
}

/// Method: a directory that one of two users may search; processes of both ask for the same name at the same time.
#[test]
fn each_user_hears_what_he_may() {
    let bed = bed();
    let (ino, path) = bed.make("/d");
    let path = path.trim_end_matches("/f");
    // A narrow directory's names lie with it, and their inodes with them.
    let dir = bed.maker.stat(path).expect("stat").ino;
    assert_eq!(dir.partition(), ino.partition());
    bed.maker.chown(path, Some(7), Some(7)).expect("chown");
    bed.maker.chmod(path, 0o700).expect("chmod");
    let finds = |client: &Client, uid| {
        client.lookup(&Caller { uid, gid: uid, groups: vec![] }, dir, b"f").map_err(|error| error.code())
    };
    for server in [1, 2] {
        drop(finds(&on_node(&bed.cluster, server), 7));
    }
    let (before, held) = (bed.joined(), bed.relay.hold());
    std::thread::scope(|scope| {
        let asking = bed.clients.iter().zip([7, 8].into_iter().cycle());
        let asking: Vec<_> =
            asking.map(|(client, uid)| (uid, scope.spawn(move || finds(client, uid)))).collect();
        hayate_tests::until("they wait for each other", || bed.joined() >= before + ASKERS as u64 - 2);
        drop(held);
        for (uid, asks) in asking {
            let found = asks.join().expect("an answer");
            match uid {
                7 => assert_eq!(found.expect("who may search finds it").size, 7),
                _ => assert_eq!(found.expect_err("who may not does not"), Some(Status::AccessDenied)),
            }
        }
    });
}

/// Method: the home ends while one asks and others wait, and comes back: all get their answers, without waiting for each other.
#[test]
fn a_home_that_ends_fails_nobody_who_waits() {
    let mut bed = bed();
    let (ino, _) = bed.make("/f");
    let clients = std::mem::take(&mut bed.clients);
    std::thread::scope(|scope| {
        let held = bed.relay.hold();
        let asking = bed.ask(scope, &clients, ino, ASKERS as u64 - 1);
        bed.cluster.stop(HOME);
        bed.cluster.restart(HOME);
        drop(held);
        let began = Instant::now();
        let answers = all(asking);
        assert!(answers.iter().all(|attr| attr.ino == ino && attr.size == 7), "{answers:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    });
}
