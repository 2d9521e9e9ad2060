//! Goal: a cluster whose tier is a bucket flushes everything, also when servers are killed in the middle, and a download is equal to
//! what was written. Method: an S3 server in this process, the real program, kill -9, and the bucket read back object by object.

mod common;
#[path = "../../../fs-server/tests/flush/s3_server.rs"]
#[allow(dead_code)]
mod s3_server;

use common::{Sandbox, pattern, tree};
use fs_server::tier::s3::client::Meta;
use s3_server::S3Server;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

fn sandbox(server: &S3Server) -> Sandbox {
    Sandbox::with(server.environment())
}

/// Relative paths and contents of a directory's files.
fn files_of(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = tree(root).into_iter().filter(|(_, mode, _)| mode & 0o170_000 == 0o100_000);
    files.map(|(path, _, content)| (path.to_str().unwrap().to_owned(), content)).collect()
}

/// Downloads everything below `run/`.
fn download(server: &S3Server) -> BTreeMap<String, Vec<u8>> {
    let client = server.client();
    let keys = server.keys().into_iter().filter(|key| !key.contains(".hayate-"));
    keys.map(|key| {
        let content = client.get(&format!("run/{key}")).unwrap().unwrap();
        (key.strip_prefix("run/").unwrap().to_owned(), content)
    })
    .collect()
}

#[test]
fn a_burst_survives_kills_on_its_way_to_a_bucket() {
    const FILES: usize = 150;
    /// Servers killed, all rounds together.
    const KILLS: usize = 4;
    let server = S3Server::start();
    let sandbox = sandbox(&server);
    sandbox.up(&["--nodes", "3", "--tier2", "s3://bucket/run", "--flush-delay", "600000"]);
    let from = sandbox.path("from");
    fs::create_dir_all(from.join("deep")).unwrap();
    for index in 0..FILES {
        // Some in parts by all servers, some in one part, most in one request.
        let bytes = [index * 7, 300_000 + index, 17_000_000 + index]
            [usize::from(index % 10 == 0) + usize::from(index % 50 == 0)];
        fs::write(from.join(format!("deep/f{index}")), pattern(bytes)).unwrap();
    }
    sandbox.ok(&["cp", "-r", &sandbox.word("from"), "h:/run"]);
    let arrived = || server.keys().iter().filter(|key| key.starts_with("run/deep/f")).count();
    for (part, victims) in [(FILES / 20, 0..3), (FILES / 3, 1..2)] {
        sandbox.kill_in_flush(victims, arrived, part..FILES);
    }
    let said = sandbox.ok(&["down", "--drain"]);
    assert!(said.contains("nothing unsafe"), "{said}");
    let written = files_of(&from);
    let flushed = download(&server);
    assert_eq!(written.keys().collect::<Vec<_>>(), flushed.keys().collect::<Vec<_>>());
    assert!(written == flushed, "a file differs");
    // Nobody knows of an upload whose server was killed before it could note it: decision 0019. Without parts it is one entry.
    assert!(server.open_uploads().len() <= KILLS, "{:?}", server.open_uploads());
    assert!(!server.keys().iter().any(|key| key.contains("hayate-staging")), "{:?}", server.keys());
    sandbox.assert_nothing_left();
}

#[test]
fn every_layout_arrives_in_a_bucket() {
    // Chunks lie where the layout says, and parts are gathered from there; a hole is a chunk that was never written.
    let server = S3Server::start();
    let sandbox = sandbox(&server);
    sandbox.up(&["--nodes", "3", "--tier2", "s3://bucket/run"]);
    let from = sandbox.path("from");
    fs::write(&from, pattern(21_000_007)).unwrap();
    let holes = fs::File::create(sandbox.path("holes")).unwrap();
    holes.set_len(20_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, b"in the middle", 9_000_000).unwrap();
    sandbox.ok(&["mkdir", "h:/run"]);
    let mut written = BTreeMap::new();
    for layout in ["striped", "local", "writer"] {
        sandbox.ok(&["mkdir", "--layout", layout, &format!("h:/run/{layout}")]);
        for name in ["from", "holes"] {
            let to = format!("{layout}/{name}");
            sandbox.ok(&["cp", &sandbox.word(name), &format!("h:/run/{to}")]);
            written.insert(to, fs::read(sandbox.path(name)).unwrap());
        }
    }
    let said = sandbox.ok(&["down", "--drain"]);
    assert!(said.contains("nothing unsafe"), "{said}");
    let flushed = download(&server);
    let same = |(name, content): (&String, &Vec<u8>)| flushed.get(name) == Some(content);
    assert!(written.iter().all(same), "of {:?}", flushed.keys());
}

#[test]
fn a_bucket_that_cannot_be_used_is_refused_with_advice() {
    let server = S3Server::start();
    let mut sandbox = sandbox(&server);
    sandbox.up_fails(1, &["--nodes", "1", "--tier", "s3://no-such-bucket/run"], &["AWS_ENDPOINT_URL"]);
    sandbox.up_fails(2, &["--nodes", "1", "--tier", "s3://"], &["s3://BUCKET/PREFIX"]);
    sandbox.variables.push(("AWS_SECRET_ACCESS_KEY", "wrong".to_owned()));
    sandbox.up_fails(1, &["--nodes", "1", "--tier", "s3://bucket/run"], &["SignatureDoesNotMatch"]);
}

#[test]
fn commands_give_a_tier_that_hangs_up_in_time() {
    // Goal: who waits for a tier that neither answers nor fails is told after `--stall`, by a message that says for how long nothing moved and what is not safe, and by status 3; nothing was
    // stopped, and all is well when the tier answers again. Method: a bucket that takes requests and keeps its answers back; each command that waits.
    let server = S3Server::start();
    let sandbox = sandbox(&server);
    sandbox.up(&["--nodes", "2", "--tier", "s3://bucket/run"]);
    fs::write(sandbox.path("in"), pattern(300_000)).unwrap();
    // Afterwards nobody has to look into the bucket before a name is made.
    sandbox.ok(&["mkdir", "/before"]);
    sandbox.ok(&["flush", "--wait"]);
    server.hang(true);
    sandbox.ok(&["cp", &sandbox.word("in"), "h:/file"]);
    let began = Instant::now();
    let stalled = "no progress for 1 s";
    sandbox.fails(3, &["flush", "/file", "--wait", "--stall", "1"], &[stalled, "/file is NOT safe yet"]);
    sandbox.fails(3, &["flush", "--wait", "--stall", "1"], &[stalled, "NOT safe", "nothing was stopped"]);
    sandbox.fails(
        3,
        &["down", "--drain", "--stall", "1", "--report", &sandbox.word("report")],
        &[stalled, "NOT safe", "nothing was stopped", "report"],
    );
    let report = fs::read_to_string(sandbox.path("report")).unwrap();
    assert!(report.contains("\"/file\"") && report.lines().count() == 1, "{report}");
    fs::create_dir(sandbox.path("old")).unwrap();
    fs::write(sandbox.path("old/moves"), "from the old tier").unwrap();
    let migrate = ["migrate", "--from", &sandbox.word("old"), "--to", "s3://bucket/run"];
    let words = [stalled, "have not moved", "the servers go on trying"];
    sandbox.fails(3, &[&migrate[..], &["--stall", "1"]].concat(), &words);
    // Each gives up after a second, and not after the minute or two of before.
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    server.hang(false);
    sandbox.ok(&migrate);
    sandbox.ok(&["down", "--drain"]);
    let arrived = server.client().get("run/moves").unwrap().unwrap();
    assert_eq!(arrived, b"from the old tier");
    assert!(server.client().get("run/file").unwrap().unwrap() == pattern(300_000));
    sandbox.assert_nothing_left();
}

#[test]
fn trees_are_staged_from_a_bucket() {
    // Goal: `hayate stage` fetches trees that others put into a bucket: all of it is at hand afterwards, also when the bucket has gone, and as it was put there. What is not
    // there, and what cannot be fetched, is told by its name; and a person sees how far it is.
    let server = S3Server::start();
    let client = server.client();
    let mut put = BTreeMap::new();
    for index in 0..60_usize {
        let bytes = [index * 41, 20_000 + index, 300_000 + index][index % 3]
            + if index % 20 == 7 { 9_000_000 } else { 0 };
        let key = format!("f{}/deep/{index}", index % 7);
        client.put(&format!("run/tree/{key}"), &Meta::new(), &pattern(bytes)).unwrap();
        put.insert(key, pattern(bytes));
    }
    for key in ["run/other", "run/left"] {
        client.put(key, &Meta::new(), &pattern(100_000)).unwrap();
    }
    let sandbox = sandbox(&server);
    sandbox.up(&["--nodes", "3", "--tier", "s3://bucket/run"]);
    sandbox.fails(1, &["stage", "/tree/none"], &["/tree/none"]);
    let said = sandbox.ok(&["stage", "/tree/f1", "h:/other"]);
    let below = put.iter().filter(|(key, _)| key.starts_with("f1/"));
    assert!(said.contains(&format!("{} files", 1 + below.count())), "{said}");
    if let Some(shown) = on_a_terminal(&sandbox, &["stage", "--parallel", "3", "/tree"]) {
        assert!(shown.contains("staging") && shown.contains(" MiB/"), "{shown}");
        assert!(shown.contains(&format!("{} files", put.len())), "{shown}");
    }
    sandbox.ok(&["stage", "/tree"]);
    drop(server);
    sandbox.ok(&["cp", "-r", "h:/tree", &sandbox.word("out")]);
    assert!(files_of(&sandbox.path("out")) == put, "what was staged is not what was put there");
    sandbox.fails(1, &["stage", "/left"], &["/left"]);
}

/// What a command that succeeds shows on a terminal; None if there is no program that makes one.
fn on_a_terminal(sandbox: &Sandbox, args: &[&str]) -> Option<String> {
    let inner = sandbox.hayate(args);
    let words = std::iter::once(inner.get_program()).chain(inner.get_args());
    let line: Vec<_> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let mut command = std::process::Command::new("script");
    command
        .args(["-q", "-e", "-c", &line.join(" "), "/dev/null"])
        .envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    match command.output() {
        Ok(output) if output.status.success() => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => panic!("{args:?}: {output:?}"),
        Err(error) => {
            common::skip::note(format!("script(1) cannot be run ({error}), so nothing of the bar is shown"));
            None
        }
    }
}
