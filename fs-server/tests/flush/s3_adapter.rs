//! The S3 adapter alone, on a server in this process.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_net::Secret;
use fs_proto::{FileKind, ServerId};
use fs_server::ServerConfig;
use fs_server::tier::s3::S3;
use fs_server::tier::{Attributes, Base, Destination, Dir, Make, Place, Tier, TierError, TierResult};

use crate::s3_memory::{self, Fate};
use crate::s3_server::S3Server;

const ME: ServerId = ServerId(3);
const MIB: u64 = 1 << 20;

fn config(id: ServerId) -> ServerConfig {
    ServerConfig::new(id, "job/7".to_owned(), Secret::from_raw([1; 32]), "/nonexistent/store".into())
}

fn name(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn attributes(mode: u32) -> Attributes {
    Attributes {
        mode: Some(mode),
        owner: Some((12, 34)),
        xattrs: Some(vec![(name("user.colour"), name("blue"))]),
        atime: 1_000_000_007,
        mtime: 2_000_000_000,
    }
}

fn root(tier: &S3) -> Dir {
    tier.base(Base::Root).unwrap()
}

fn staged(tier: &S3, text: &str) -> Place {
    Place::new(&tier.base(Base::Staging(ME)).unwrap(), &name(text))
}

fn file(size: u64, to: &Place) -> Make {
    Make::File { size, to: Some(Box::new(Destination { place: to.clone(), attributes: attributes(0o640) })) }
}

fn put(tier: &S3, to: &Place, content: &[u8]) -> u64 {
    let at = staged(tier, "f-3-put");
    let id = tier.make(&at, &file(content.len() as u64, to)).unwrap();
    tier.open_file(&at).unwrap().write_at(0, content).unwrap();
    tier.set(&at, id, &attributes(0o640)).unwrap();
    tier.rename(&at, to).unwrap();
    id
}

fn mkdir(tier: &S3, at: &Place) -> Dir {
    let id = tier.make(at, &Make::Directory).unwrap();
    let dir = tier.open_dir(at).unwrap();
    assert_eq!(dir.id, id);
    dir
}

#[test]
fn every_kind_of_object_has_its_place_and_metadata() {
    // Goal: the mapping of docs/decisions/0019: keys, contents, metadata; staging leaves nothing.
    let server = S3Server::start();
    let (tier, client) = (server.tier(&config(ME)), server.client());
    let dir = mkdir(&tier, &Place::new(&root(&tier), &name("dir")));
    let id = put(&tier, &Place::new(&dir, &name("100% \u{fc}")), b"content");
    let link = staged(&tier, "f-3-l");
    tier.make(&link, &Make::Symlink { target: name("../x") }).unwrap();
    tier.rename(&link, &Place::new(&dir, &name("link"))).unwrap();
    let pipe = staged(&tier, "f-3-p");
    tier.make(&pipe, &Make::Special { kind: FileKind::Fifo, rdev: 0 }).unwrap();
    tier.rename(&pipe, &Place::new(&dir, &name("pipe"))).unwrap();
    tier.set(&Place::itself(&dir), dir.id, &attributes(0o750)).unwrap();
    let expected =
        ["dir/.hayate-attributes", "dir/.hayate-directory", "dir/100% \u{fc}", "dir/link", "dir/pipe"];
    assert_eq!(server.keys(), expected);
    let meta = |key: &str| client.head(&format!("run/{key}")).unwrap().unwrap().meta;
    let stored = meta("dir/100% \u{fc}");
    assert_eq!((&stored["mode"][..], &stored["uid"][..], &stored["gid"][..]), ("33184", "12", "34"));
    assert_eq!((&stored["mtime"][..], &stored["atime"][..]), ("2.000000000", "1.000000007"));
    assert_eq!(stored["hayate-id"], format!("{id:016x}"));
    assert_eq!(stored["xattr"], "%7B%22user.colour%22%3A%22Ymx1ZQ%3D%3D%22%7D");
    assert_eq!(
        (&meta("dir/.hayate-attributes")["mode"][..], &meta("dir/pipe")["mode"][..]),
        ("16872", "4480")
    );
    assert_eq!(client.get("run/dir/link").unwrap().unwrap(), b"../x");
    assert_eq!(client.get("run/dir/100% \u{fc}").unwrap().unwrap(), b"content");
    assert!(tier.rest(ME).unwrap());
}

#[test]
fn a_file_in_parts_is_whole_or_absent() {
    // Goal: parts that two servers write make one file, seen only when published, with its metadata. Method: two adapters, the second
    // knows of the upload by its name in the first one's staging alone.
    let server = S3Server::start();
    let (home, other) = (server.tier(&config(ME)), server.tier(&config(ServerId(4))));
    let to = Place::new(&root(&home), &name("large"));
    let (size, part) = (17 * MIB + 5, home.facts().part_bytes(17 * MIB + 5).unwrap());
    let content: Vec<u8> = (0..size).map(|at| (at * 7 / 3) as u8).collect();
    let at = staged(&home, "f-3-1");
    let id = home.make(&at, &file(size, &to)).unwrap();
    let theirs = Place::new(&other.base(Base::Staging(ME)).unwrap(), &name("f-3-1"));
    let files = [home.open_file(&at).unwrap(), other.open_file(&theirs).unwrap()];
    for (index, piece) in content.chunks(part as usize).enumerate() {
        files[index % 2].write_at(index as u64 * part, piece).unwrap();
    }
    assert!(files[0].write_at(5, &content[..10]).is_err(), "not at the beginning of a part");
    assert!(home.look(&to).unwrap().is_none());
    home.collect(&at, &[files[0].receipt()]).unwrap();
    assert!(home.rename(&at, &to).is_err(), "published without the other server's parts");
    home.collect(&at, &[files[1].receipt()]).unwrap();
    assert_eq!(home.look(&at).unwrap().unwrap().size, size);
    home.rename(&at, &to).unwrap();
    let found = home.look(&to).unwrap().unwrap();
    assert_eq!((found.id, found.size), (id, size));
    let client = server.client();
    assert!(client.get("run/large").unwrap().unwrap() == content);
    assert_eq!(client.head("run/large").unwrap().unwrap().meta["mode"], "33184");
    assert!(home.rest(ME).unwrap() && server.open_uploads().is_empty());
}

#[test]
fn a_start_gives_up_what_a_former_run_began() {
    // Goal: after a crash in the middle of an upload the next start leaves no part of it on the server, and touches nobody else's.
    let server = S3Server::start();
    for id in [ME, ServerId(33)] {
        let tier = server.tier(&config(id));
        let at = Place::new(&tier.base(Base::Staging(id)).unwrap(), &name(&format!("f-{}-1", id.0)));
        tier.make(&at, &file(9 * MIB, &Place::new(&root(&tier), &name("large")))).unwrap();
        tier.open_file(&at).unwrap().write_at(0, &vec![1; 8 << 20]).unwrap();
    }
    let before = server.open_uploads().len();
    let tier = server.tier(&config(ME));
    assert_eq!(server.open_uploads().len() * 2, before);
    assert!(tier.rest(ME).unwrap() && !tier.facts().left_over);
    assert!(matches!(&server.keys()[..], [key] if key.ends_with("/f-33-1")), "{:?}", server.keys());
    server.tier(&config(ServerId(33)));
    assert_eq!((server.open_uploads().len(), server.keys().len()), (0, 0));
}

#[test]
fn an_upload_that_is_not_there_is_given_up() {
    // Goal: an upload that another has ended is no error, also where a server denies what it does not know (s3s-fs does); one with parts is.
    let uploads = |server: &S3Server| {
        let client = server.client();
        let upload = client.create_upload("run/x", &BTreeMap::default()).unwrap();
        client.put_part("run/x", &upload, 1, b"part").unwrap();
        (client, upload)
    };
    let server = S3Server::start();
    let (client, upload) = uploads(&server);
    assert_eq!([(); 2].map(|()| client.abort("run/x", &upload)), [Ok(()), Ok(())]);
    let (server, bucket) = s3_memory::start();
    let (client, upload) = uploads(&server);
    bucket.hook(|method, _| {
        if *method == hyper::Method::DELETE { Fate::Denied(403, "AccessDenied") } else { Fate::Served }
    });
    assert!(matches!(client.abort("run/x", &upload), Err(TierError::Failed(_))));
    assert_eq!(client.abort("run/x", "another"), Ok(()));
}

#[test]
fn what_a_former_run_sent_late_is_given_up_too() {
    // Goal: what a server that was killed had on its way, and came after the next run's start had looked, is gone once that run rests.
    let server = S3Server::start();
    let former = server.tier(&config(ME));
    let tier = server.tier(&config(ME));
    former
        .make(&staged(&former, "f-3-1"), &file(9 * MIB, &Place::new(&root(&former), &name("large"))))
        .unwrap();
    assert_eq!((server.open_uploads().len(), server.keys().len()), (1, 1));
    assert!(tier.rest(ME).unwrap());
    assert_eq!((server.open_uploads().len(), server.keys().len()), (0, 0));
}

#[test]
fn who_may_not_give_up_uploads_can_use_the_tier() {
    // Goal: a bucket whose policy allows everything but the end of uploads, or that has lost an upload but not its parts, is of use after a crash in the middle of one, and no drain waits for its end.
    let (server, bucket) = s3_memory::start();
    let begun = server.tier(&config(ME));
    let at = staged(&begun, "f-3-1");
    begun.make(&at, &file(9 * MIB, &Place::new(&root(&begun), &name("large")))).unwrap();
    begun.open_file(&at).unwrap().write_at(0, &vec![1; 8 << 20]).unwrap();
    bucket.hook(|method, key| {
        let is_end = *method == hyper::Method::DELETE && key == "run/large";
        if is_end { Fate::Denied(403, "AccessDenied") } else { Fate::Served }
    });
    let tier = server.tier(&config(ME));
    put(&tier, &Place::new(&root(&tier), &name("small")), b"content");
    assert!(tier.rest(ME).unwrap() && !tier.facts().left_over);
    assert_eq!(server.keys(), ["small"]);
}

#[test]
fn links_are_copies_with_the_same_number() {
    let server = S3Server::start();
    let tier = server.tier(&config(ME));
    let (first, second) = (Place::new(&root(&tier), &name("a")), Place::new(&root(&tier), &name("b")));
    let id = put(&tier, &first, b"content");
    let at = staged(&tier, "f-3-2");
    assert_eq!(tier.make(&at, &Make::Link { of: first.clone() }).unwrap(), id);
    tier.rename(&at, &second).unwrap();
    assert_eq!(tier.look(&second).unwrap().unwrap().id, id);
    assert_eq!(server.client().get("run/b").unwrap().unwrap(), b"content");
    // What is stored with a copy changes with a new copy only.
    assert!(matches!(tier.set(&second, id, &attributes(0o600)), Err(TierError::Missing(_))));
    let at = staged(&tier, "f-3-3");
    tier.make(&at, &Make::Link { of: first }).unwrap();
    put(&tier, &Place::new(&root(&tier), &name("a")), b"another");
    assert!(tier.rename(&at, &second).is_err(), "the source was replaced");
}

#[test]
fn directories_move_with_all_below_and_go_when_they_are_empty() {
    let server = S3Server::start();
    let tier = server.tier(&config(ME));
    let (a, b) = (Place::new(&root(&tier), &name("a")), Place::new(&root(&tier), &name("b")));
    let dir = mkdir(&tier, &a);
    let sub = mkdir(&tier, &Place::new(&dir, &name("sub")));
    let id = put(&tier, &Place::new(&sub, &name("f")), b"content");
    assert!(matches!(tier.remove(&a, true), Err(TierError::Occupied(_))));
    assert!(matches!(tier.make(&a, &Make::Directory), Err(TierError::Occupied(_))));
    let inside = Place::new(&sub, &name("a"));
    assert!(matches!(tier.rename(&a, &inside), Err(TierError::BelowItself(_))));
    tier.rename(&a, &b).unwrap();
    // The server of the test keeps an empty directory of its own for a prefix, and answers for it.
    assert!(tier.look(&a).unwrap().is_none_or(|found| found.id != dir.id));
    assert_eq!(tier.look(&b).unwrap().unwrap().id, dir.id);
    let moved = tier.open_dir(&b).unwrap();
    let sub = tier.open_dir(&Place::new(&moved, &name("sub"))).unwrap();
    let there = Place::new(&sub, &name("f"));
    assert_eq!(tier.look(&there).unwrap().unwrap().id, id);
    tier.remove(&there, false).unwrap();
    tier.remove(&Place::new(&moved, &name("sub")), true).unwrap();
    tier.remove(&b, true).unwrap();
    assert!(matches!(tier.remove(&b, true), Err(TierError::Missing(_))));
    assert!(server.keys().is_empty(), "{:?}", server.keys());
}

#[test]
fn a_change_in_a_directory_that_moved_is_taken_back() {
    // Goal: what is published, made or set through a handle of before a move fails, and leaves nothing at the old place.
    let server = S3Server::start();
    let tier = server.tier(&config(ME));
    let a = Place::new(&root(&tier), &name("a"));
    let stale = mkdir(&tier, &a);
    tier.rename(&a, &Place::new(&root(&tier), &name("b"))).unwrap();
    let at = staged(&tier, "f-3-1");
    let to = Place::new(&stale, &name("f"));
    tier.make(&at, &file(1, &to)).unwrap();
    assert!(matches!(tier.rename(&at, &to), Err(TierError::Failed(_))));
    assert!(tier.make(&Place::new(&stale, &name("sub")), &Make::Directory).is_err());
    assert!(tier.set(&Place::itself(&stale), stale.id, &attributes(0o700)).is_err());
    assert_eq!(server.keys(), ["b/.hayate-directory"]);
}

/// A directory "a" of three files and a subdirectory, whose move to "b" was cut off after two objects.
fn cut_off(server: &S3Server, tier: &S3) -> (Dir, Place, Place) {
    let [a, b] = ["a", "b"].map(|text| Place::new(&root(tier), &name(text)));
    let dir = mkdir(tier, &a);
    for text in ["f", "g", "h"] {
        put(tier, &Place::new(&dir, &name(text)), b"content");
    }
    mkdir(tier, &Place::new(&dir, &name("sub")));
    server.allow_copies(2);
    assert!(matches!(tier.move_directory(dir.id, &a, &b), Err(TierError::Failed(_))));
    server.allow_copies(i64::MAX);
    assert_eq!(server.keys().iter().filter(|key| key.starts_with("b/")).count(), 2, "{:?}", server.keys());
    (dir, a, b)
}

const WHOLE: [&str; 5] = [".hayate-directory", "f", "g", "h", "sub/.hayate-directory"];

fn at(dir: &str) -> Vec<String> {
    WHOLE.iter().map(|rest| format!("{dir}/{rest}")).collect()
}

#[test]
fn a_move_that_was_cut_off_is_undone() {
    // Goal: when a move fails in the middle and is not wanted any more, everything comes back to where the directory is, and meanwhile nothing
    // is published into it. Method: each of those who undo: the owner of the new name, the mover who meets it, and the one who tidies up.
    let undo: [fn(&S3, &Dir, &Place); 3] = [
        |tier, _, b| tier.undo_move(b).unwrap(),
        |tier, dir, _| {
            let to = Place::new(dir, &name("new"));
            let at = staged(tier, "f-3-new");
            tier.make(&at, &file(1, &to)).unwrap();
            assert!(matches!(tier.rename(&at, &to), Err(TierError::Failed(_))));
        },
        |tier, _, _| assert!(tier.rest(ME).unwrap()),
    ];
    for undo in undo {
        let server = S3Server::start();
        let tier = server.tier(&config(ME));
        let (dir, a, b) = cut_off(&server, &tier);
        undo(&tier, &dir, &b);
        assert_eq!(server.keys(), at("a"));
        assert_eq!(tier.look(&a).unwrap().map(|found| found.id), Some(dir.id));
        put(&tier, &Place::new(&dir, &name("later")), b"later");
    }
}

#[test]
fn a_move_that_was_cut_off_goes_on() {
    // Goal: whoever wants the move yet does it again, also after a restart, and also if all but the announcement was done.
    let server = S3Server::start();
    let tier = server.tier(&config(ME));
    let (dir, a, b) = cut_off(&server, &tier);
    drop(tier);
    let tier = server.tier(&config(ME));
    assert!(tier.facts().left_over, "what was cut off is to be looked after");
    assert!(tier.move_directory(dir.id, &a, &b).unwrap());
    assert_eq!(server.keys(), at("b"));
    assert!(tier.move_directory(dir.id, &a, &b).unwrap(), "it is there");
    assert!(!tier.move_directory(7, &a, &b).unwrap(), "another is nowhere");
}

#[test]
fn moves_that_meet_wait_for_each_other() {
    // Goal: a directory that is partly moved is not moved elsewhere by another server, and nothing is moved into or out of its places.
    let server = S3Server::start();
    let tier = server.tier(&config(ME));
    let (dir, a, b) = cut_off(&server, &tier);
    let other = server.tier(&config(ServerId(4)));
    let place = |dir: &Dir, text: &str| Place::new(dir, &name(text));
    let sub = other.look(&place(&dir, "sub")).unwrap();
    let x = mkdir(&other, &place(&root(&other), "x"));
    let before = server.keys();
    for (id, from, to) in [
        (dir.id, a.clone(), place(&root(&other), "c")),
        (x.id, place(&root(&other), "x"), b.clone()),
        (x.id, place(&root(&other), "x"), place(&dir, "x")),
        (sub.map_or(0, |sub| sub.id), place(&dir, "sub"), place(&root(&other), "s")),
    ] {
        assert!(other.move_directory(id, &from, &to).is_err() || id == 0, "{:?} to {:?}", from.name, to.name);
    }
    assert_eq!(server.keys(), before);
    tier.undo_move(&b).unwrap();
    assert!(other.move_directory(dir.id, &a, &place(&root(&other), "c")).unwrap());
    assert!(other.move_directory(x.id, &place(&root(&other), "x"), &b).unwrap());
}

#[test]
fn of_two_moves_that_begin_together_one_goes_on() {
    // Goal: no two movers keep each other from moving for ever. Method: two servers swap directories by way of staging, as flushing does it.
    let server = S3Server::start();
    let servers = [ServerId(3), ServerId(4)];
    let tiers = servers.map(|id| server.tier(&config(id)));
    let [a, b] = ["a", "b"].map(|text| Place::new(&root(&tiers[0]), &name(text)));
    let [one, two] = [&a, &b].map(|at| mkdir(&tiers[0], at).id);
    let moves = [(one, &a, &b), (two, &b, &a)];
    std::thread::scope(|scope| {
        for ((tier, own), (id, from, to)) in tiers.iter().zip(servers).zip(moves) {
            scope.spawn(move || {
                let aside = Place::new(&tier.base(Base::Staging(own)).unwrap(), &name("d"));
                for (from, to) in [(from, &aside), (&aside, to)] {
                    let deadline = Instant::now() + Duration::from_secs(60);
                    while !matches!(tier.move_directory(id, from, to), Ok(true)) {
                        assert!(Instant::now() < deadline, "{:?} does not get to {:?}", from.name, to.name);
                    }
                }
            });
        }
    });
    assert_eq!([&a, &b].map(|at| tiers[0].look(at).unwrap().unwrap().id), [two, one]);
}

#[test]
fn a_publication_that_was_held_up_replaces_nothing_newer() {
    // Goal: a request that comes late, because its server or the network stood still, finds that somebody published meanwhile and changes nothing; tried again it replaces what is there.
    // Method: small and large files, new and there already; a server that has a newer object when the request which publishes arrives.
    for (size, is_new) in [(100, true), (100, false), (17 << 20, true), (17 << 20, false)] {
        let (server, bucket) = s3_memory::start();
        let tier = server.tier(&config(ME));
        let to = Place::new(&root(&tier), &name("f"));
        if !is_new {
            put(&tier, &to, b"what was there before");
        }
        let at = staged(&tier, "f-3-late");
        let id = tier.make(&at, &file(size, &to)).unwrap();
        let part = tier.facts().part_bytes(size).unwrap();
        let open = tier.open_file(&at).unwrap();
        let content = vec![5; size as usize];
        for (index, data) in content.chunks(part as usize).enumerate() {
            open.write_at(index as u64 * part, data).unwrap();
        }
        tier.collect(&at, &[open.receipt()]).unwrap();
        tier.set(&at, id, &attributes(0o640)).unwrap();
        let newer = std::sync::Arc::clone(&bucket);
        bucket.hook(move |method, key| {
            if key == "run/f" && matches!(method.as_str(), "PUT" | "POST") {
                newer.put("f", b"newer", &[], 0);
            }
            Fate::Served
        });
        assert!(matches!(tier.rename(&at, &to), Err(TierError::Failed(_))), "{size} {is_new}");
        assert_eq!(bucket.get("f").as_deref(), Some(&b"newer"[..]), "{size} {is_new}");
        bucket.unhook();
        tier.rename(&at, &to).unwrap();
        assert!(bucket.get("f").unwrap() == content, "{size} {is_new}");
    }
}

/// Makes a file in a bucket, by one request or in parts.
fn try_put(tier: &S3, to: &Place, size: u64) -> TierResult<()> {
    let at = staged(tier, "f-3-try");
    let id = tier.make(&at, &file(size, to))?;
    let (open, part) = (tier.open_file(&at)?, tier.facts().part_bytes(size).unwrap());
    let content = vec![5; size as usize];
    for (index, data) in content.chunks(part as usize).enumerate() {
        open.write_at(index as u64 * part, data)?;
    }
    tier.collect(&at, &[open.receipt()])?;
    tier.set(&at, id, &attributes(0o640))?;
    tier.rename(&at, to)
}

/// Put by one request, and in parts.
const SIZES: [u64; 2] = [100, 9 * MIB];

#[test]
fn what_a_bucket_refuses_of_one_object_is_refused() {
    // Goal: what a bucket does not take of one key is a refusal that tells the key and why, whichever request about it is answered so; others go on, and nothing is left of finding out.
    // Method: each kind of request denied by itself; codes that are the object's fault, and such that may be anything's. (An answer to HEAD has none.)
    let codes =
        [(403, "AccessDenied"), (400, "InvalidArgument"), (400, "KeyTooLongError"), (400, "EntityTooLarge")];
    let [small, large] = SIZES;
    let requests = [("PUT", small), ("HEAD", small), ("POST", large), ("PUT", large), ("HEAD", large)];
    for ((status, code), (denied, size)) in codes.into_iter().flat_map(|code| requests.map(|one| (code, one)))
    {
        let (server, bucket) = s3_memory::start();
        let tier = server.tier(&config(ME));
        bucket.hook(move |method, key| {
            if key == "run/f" && method.as_str() == denied {
                Fate::Denied(status, code)
            } else {
                Fate::Served
            }
        });
        let [to, other] = ["f", "other"].map(|text| Place::new(&root(&tier), &name(text)));
        let error = try_put(&tier, &to, size).unwrap_err();
        let TierError::Refused(text) = &error else { panic!("{code} {denied} {size}: {error:?}") };
        assert!(text.contains("run/f") && text.contains(&status.to_string()), "{text}");
        assert!(text.contains(code) || denied == "HEAD", "{text}");
        try_put(&tier, &other, size).unwrap();
        assert_eq!(server.keys(), ["other"]);
    }
}

#[test]
fn what_a_bucket_refuses_of_all_is_a_failure() {
    // Goal: bad credentials, a bucket that may only be read, and one that is gone are failures that may pass, and so is what is cut off on its way, or comes when the server has too much
    // to do; a quota that is used up is no space.
    let (full, failed) = (
        "QuotaExceeded",
        [
            (403, "AccessDenied"),
            (403, "InvalidAccessKeyId"),
            (404, "NoSuchBucket"),
            (400, "ExpiredToken"),
            (400, "RequestTimeout"),
            (503, "SlowDown"),
        ],
    );
    for ((status, code), size) in
        failed.into_iter().chain([(403, full)]).flat_map(|code| SIZES.map(|size| (code, size)))
    {
        let (server, bucket) = s3_memory::start();
        let tier = server.tier(&config(ME));
        bucket.hook(move |method, _| {
            if matches!(method.as_str(), "PUT" | "POST") { Fate::Denied(status, code) } else { Fate::Served }
        });
        let to = Place::new(&root(&tier), &name("f"));
        let error = try_put(&tier, &to, size).unwrap_err();
        let is_right = match &error {
            TierError::Full(text) => code == full && text.contains(code),
            TierError::Failed(text) => code != full && text.contains(code),
            _ => false,
        };
        assert!(is_right, "{size}: {error:?}");
        bucket.unhook();
        try_put(&tier, &to, size).unwrap();
    }
}
