//! Goal: the heat equation, killed at any moment and started again, comes to the same result as one that nobody disturbs. Method: the example as a process of its
//! own, killed by SIGKILL when it has said that it saved so often, and in the middle of saving. In C: `libio/c/tests/examples.rs`; in Python:
//! `libio/python/tests/test_heat.py`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hayate_tests::Cluster;
use libio::{Checkpoints, State};

const STEPS: &str = "60";
const EVERY: &str = "5";
const SIDE: &str = "96";

/// Where cargo put the example: `cargo test` builds it.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let target = test.parent().and_then(Path::parent).expect("the target's directory");
    target.join("examples/heat")
}

fn start(cluster: &Path, every: &str) -> Child {
    let mut heat = Command::new(program());
    heat.arg(cluster).args([STEPS, every, SIDE]).stdout(Stdio::piped()).stderr(Stdio::inherit());
    heat.spawn().expect("the example runs")
}

/// Its lines, to its end.
fn finish(mut heat: Child) -> Vec<String> {
    let lines = lines(&mut heat).collect();
    assert!(heat.wait().expect("it ends").success());
    lines
}

fn lines(heat: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(heat.stdout.take().expect("its output")).lines().map(|line| line.expect("a line"))
}

fn kill(heat: &mut Child) {
    heat.kill().expect("killed");
    assert!(!heat.wait().expect("it ends").success());
}

/// The line with the result, which has every bit of the plate in a digest.
fn result(lines: &[String]) -> &str {
    let last = lines.last().expect("a line");
    assert!(last.starts_with("step 60: "), "{last}");
    last
}

fn place() -> (Cluster, tempfile::TempDir, PathBuf) {
    let (cluster, dir) = (Cluster::start(2), tempfile::tempdir().expect("a directory"));
    let file = dir.path().join("cluster.toml");
    cluster.file().store(&file).expect("cluster file");
    (cluster, dir, file)
}

#[test]
fn the_heat_equation_is_killed_and_goes_on() {
    let (_undisturbed, _dir, file) = place();
    let straight = finish(start(&file, EVERY));
    assert_eq!(straight[0], "starting at step 0");

    let (cluster, _dir, file) = place();
    let checkpoints = Checkpoints::open(cluster.client(), "/checkpoints").expect("open");
    for saved in 1..=3 {
        // After it has said that it saved: this version is there.
        let mut heat = start(&file, EVERY);
        let before: Vec<_> = lines(&mut heat).filter(|line| line.starts_with("saved ")).take(saved).collect();
        kill(&mut heat);
        let newest = checkpoints.latest("heat").expect("latest").expect("one was saved");
        let said: u64 = before[saved - 1]["saved ".len()..].parse().expect("a number");
        assert!(newest >= said, "{newest} after {said}");
    }
    kill_while_saving(&checkpoints, &file);
    let lines = finish(start(&file, EVERY));
    let newest: u64 = lines[0]["starting at step ".len()..].parse().expect("a number");
    assert!(newest >= 30, "{newest}");
    assert_eq!(result(&lines), result(&straight));
}

/// In the middle of a version: somebody has begun it, and nobody has committed it. It saves after every step, so it is hardly ever doing anything else.
fn kill_while_saving(checkpoints: &Checkpoints, file: &Path) {
    let (mut heat, end) = (start(file, "1"), Instant::now() + Duration::from_secs(60));
    loop {
        assert!(Instant::now() < end, "it was never seen saving");
        let list = checkpoints.list("heat").expect("list");
        if list.last().is_some_and(|info| matches!(info.state, State::Open | State::Sealed)) {
            break;
        }
        assert!(heat.try_wait().expect("asked").is_none(), "it was never seen saving, in 30 versions");
    }
    kill(&mut heat);
}
