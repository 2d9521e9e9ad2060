//! Goal: `hayate flush PATH --wait` and `hayate status PATH` are about what is at and below the path, all of it and nothing else. Method: the real program, trees compared,
//! another process that writes without a pause; the attributes that say when and whether, on a mount.

mod common;

use common::{Sandbox, can_mount, pattern, tree, wait_until};
use rustix::fs::{XattrFlags, getxattr, removexattr, setxattr};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const NOTHING_BY_ITSELF: [&str; 2] = ["--flush-delay", "600000"];

/// A tree of directories and files that lie with their inodes, and in chunks of all servers.
fn make(root: &Path) {
    fs::create_dir_all(root.join("deep/er/empty")).unwrap();
    for index in 0..60_usize {
        fs::write(root.join(format!("f{index}")), pattern(index * 1_000)).unwrap();
    }
    fs::write(root.join("deep/large"), pattern(5_000_001)).unwrap();
    fs::write(root.join("deep/er/x"), "x").unwrap();
    std::os::unix::fs::symlink("large", root.join("deep/link")).unwrap();
}

fn lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn set(path: &Path, name: &str, value: &str) {
    setxattr(path, name, value.as_bytes(), XattrFlags::empty()).unwrap();
}

fn get(path: &Path, name: &str) -> String {
    let mut value = [0; 64];
    let len = getxattr(path, name, &mut value).unwrap();
    String::from_utf8_lossy(&value[..len]).into_owned()
}

#[test]
fn a_path_is_flushed_while_others_write() {
    // Goal: the command ends although another process writes all the time, beside the path and below it; all that was there is in tier 2 then, with modes, whatever
    // the policy; nothing else is. Method: servers that flush nothing by themselves for ten minutes; a writer that is still at it when the command has ended.
    let sandbox = Sandbox::new();
    sandbox.up(&[&["--nodes", "3", "--tier", &sandbox.word("tier")], &NOTHING_BY_ITSELF[..]].concat());
    make(&sandbox.path("from"));
    let before = tree(&sandbox.path("from"));
    fs::write(sandbox.path("one"), "one").unwrap();
    sandbox.ok(&["mkdir", "/a", "/a/b", "/other"]);
    sandbox.ok(&["cp", "-r", &sandbox.word("from"), "h:/a/b/run"]);
    sandbox.ok(&["cp", &sandbox.word("one"), "h:/other/waits"]);
    let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Not without end if the test fails.
            while !done.load(Ordering::Acquire) && rounds.load(Ordering::Acquire) < 1_000 {
                let round = rounds.fetch_add(1, Ordering::AcqRel);
                for dir in ["h:/other", "h:/a/b/run/deep"] {
                    sandbox.ok(&["cp", &sandbox.word("one"), &format!("{dir}/new{}", round % 50)]);
                }
            }
        });
        wait_until("a writer", || rounds.load(Ordering::Acquire) > 3);
        let said = sandbox.run(&["flush", "/a/b/run", "--wait"]);
        let written = rounds.load(Ordering::Acquire);
        wait_until("more of the writer", || rounds.load(Ordering::Acquire) > written + 2);
        done.store(true, Ordering::Release);
        assert!(said.code == Some(0) && said.out.contains("nothing unsafe"), "{said:?}");
    });
    let mut after = tree(&sandbox.path("tier/a/b/run"));
    after.retain(|(path, ..)| !path.to_string_lossy().contains("/new"));
    assert_eq!(before, after);
    assert!(!sandbox.path("tier/other").exists(), "something else was flushed");
    sandbox.ok(&["down", "--drain"]);
    assert_eq!(fs::read_to_string(sandbox.path("tier/other/waits")).unwrap(), "one");
    sandbox.assert_nothing_left();
}

#[test]
fn a_path_that_cannot_get_there_is_told_by_name() {
    // Goal: of a path of which a part is refused by the tier, that part is named with the reason, with status 3, and the rest is there. Method: a directory of somebody else's with
    // an entry, in the tier, where a file has to go.
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "2", "--tier", &sandbox.word("tier")]);
    sandbox.ok(&["mkdir", "/run"]);
    sandbox.ok(&["flush", "/run", "--wait"]);
    fs::create_dir_all(sandbox.path("tier/run/f7/theirs")).unwrap();
    make(&sandbox.path("run"));
    sandbox.ok(&["cp", "-r", &sandbox.word("run"), "h:/"]);
    let message = sandbox.fails(3, &["flush", "/run", "--wait"], &["1 of ", "/run/f7: ", "move it away"]);
    assert!(!message.contains("/run/f8"), "{message}");
    let without = |root: &Path| {
        let mut tree = tree(root);
        tree.retain(|(path, ..)| !path.starts_with("f7"));
        tree
    };
    assert_eq!(without(&sandbox.path("run")), without(&sandbox.path("tier/run")));
    let told = sandbox.run(&["status", "/run", "--json"]);
    let state = &lines(&told.out)[0];
    assert_eq!((told.code, &state["durable"]), (Some(3), &serde_json::json!(false)), "{told:?}");
    assert!(state["first"].as_array().unwrap().contains(&serde_json::json!("/run/f7")), "{state}");
    fs::remove_dir_all(sandbox.path("tier/run/f7")).unwrap();
    sandbox.ok(&["flush", "/run", "--wait"]);
    assert_eq!(tree(&sandbox.path("run")), tree(&sandbox.path("tier/run")));
    sandbox.ok(&["down", "--drain"]);
    sandbox.assert_nothing_left();
}

#[test]
fn the_state_of_a_directory_is_that_of_all_below() {
    // Goal: a directory with one file that is not in tier 2, deep below, is not there, and that file is named; once it is, the directory is. Method: status 0, 3, and 1 for what does
    // not exist, in words and as JSON.
    let sandbox = Sandbox::new();
    sandbox.up(&[&["--nodes", "2", "--tier", &sandbox.word("tier")], &NOTHING_BY_ITSELF[..]].concat());
    make(&sandbox.path("from"));
    sandbox.ok(&["cp", "-r", &sandbox.word("from"), "h:/run"]);
    sandbox.fails(3, &["status", "/run"], &["not everything"]);
    sandbox.ok(&["flush", "/run", "--wait"]);
    let names = tree(&sandbox.path("from")).len() + 1;
    let said = sandbox.ok(&["status", "/run", "/run/f1"]);
    assert!(said.contains(&format!("({names} names)")) && said.contains("/run/f1: in the"), "{said}");
    fs::write(sandbox.path("in"), "another").unwrap();
    sandbox.ok(&["cp", &sandbox.word("in"), "h:/run/deep/er/x"]);
    let told = sandbox.run(&["status", "/run", "/run/f1"]);
    assert_eq!(told.code, Some(3), "{told:?}");
    assert!(told.out.contains("NOT") && told.out.contains("  /run/deep/er/x\n"), "{}", told.out);
    let told = lines(&sandbox.run(&["status", "--json", "/run", "/run/f1"]).out);
    assert_eq!((&told[0]["durable"], &told[1]["durable"]), (&false.into(), &true.into()), "{told:?}");
    assert_eq!(told[0]["names"], names, "{told:?}");
    assert!(told[0]["first"].as_array().unwrap().contains(&"/run/deep/er/x".into()), "{told:?}");
    sandbox.ok(&["flush", "/run/deep/er/x", "--wait"]);
    assert_eq!(fs::read_to_string(sandbox.path("tier/run/deep/er/x")).unwrap(), "another");
    sandbox.ok(&["status", "/run/deep/er/x"]);
    sandbox.fails(1, &["status", "/none"], &["/none"]);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

#[test]
fn attributes_say_when_and_whether() {
    // Goal: on a mount `user.hayate.flush`, `.pin` and `.durable` are attributes like others: set, shown, inherited, removed, refused if they make no sense; a file under `demand`
    // becomes durable when it is asked for.
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let mount = sandbox.path("m");
    fs::create_dir(&mount).unwrap();
    sandbox.up(&["--nodes", "2", "--tier", &sandbox.word("tier"), "--mount", &sandbox.word("m")]);
    let (dir, file, other) = (mount.join("d"), mount.join("d/f"), mount.join("other"));
    let elsewhere = mount.join("e");
    fs::create_dir(&dir).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    set(&dir, "user.hayate.flush", "demand");
    set(&elsewhere, "user.hayate.flush", "demand");
    fs::write(elsewhere.join("g"), "not asked for").unwrap();
    set(&dir, "user.hayate.pin", "yes");
    assert_eq!(
        (get(&dir, "user.hayate.flush"), get(&dir, "user.hayate.pin")),
        ("demand".into(), "yes".into())
    );
    for (name, value) in [("flush", "soon"), ("pin", "maybe"), ("durable", "yes"), ("other", "1")] {
        let name = format!("user.hayate.{name}");
        let refused = setxattr(&dir, &name, value.as_bytes(), XattrFlags::empty());
        assert!(refused.is_err(), "{name} = {value} is taken");
    }
    fs::write(&file, "asked for").unwrap();
    fs::write(&other, "goes by itself").unwrap();
    assert_eq!(
        (get(&file, "user.hayate.flush"), get(&other, "user.hayate.flush")),
        ("demand".into(), "close".into())
    );
    wait_until("the file of another directory", || get(&other, "user.hayate.durable") == "yes");
    assert_eq!(get(&file, "user.hayate.durable"), "no");
    assert!(!sandbox.path("tier/d/f").exists());
    sandbox.ok(&["flush", "/d", "--wait"]);
    assert_eq!(get(&file, "user.hayate.durable"), "yes");
    assert_eq!(fs::read_to_string(sandbox.path("tier/d/f")).unwrap(), "asked for");
    // What waits elsewhere for somebody's demand goes on waiting.
    assert_eq!(get(&elsewhere.join("g"), "user.hayate.durable"), "no");
    assert!(!sandbox.path("tier/e/g").exists());
    fs::write(&file, "changed").unwrap();
    assert_eq!(get(&file, "user.hayate.durable"), "no");
    removexattr(&dir, "user.hayate.flush").unwrap();
    set(&dir, "user.hayate.pin", "no");
    assert_eq!(get(&dir, "user.hayate.pin"), "no");
    wait_until("the policy above", || get(&file, "user.hayate.flush") == "close");
    sandbox.ok(&["down", "--drain"]);
    assert_eq!(fs::read_to_string(sandbox.path("tier/d/f")).unwrap(), "changed");
    assert_eq!(fs::read_to_string(sandbox.path("tier/e/g")).unwrap(), "not asked for");
    sandbox.assert_nothing_left();
}
