//! Goal: the C interface does what its header says, from C. Method: the programs in `tests/c` are compiled with all warnings as errors, linked with the
//! library as a user's are, and run against a cluster.

mod common;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use common::Program;
use hayate_tests::Cluster;

fn compiled(name: &str) -> Program {
    Program::compiled("cc", &format!("tests/c/{name}.c"), &[])
}

fn run(program: &Program, cluster: &Path) -> Output {
    program.command().arg(cluster).output().expect("it runs")
}

/// Runs it on a cluster of its own.
fn passes(name: &str) {
    let (program, cluster) = (compiled(name), Cluster::start(3));
    let done = run(&program, &program.cluster_file(&cluster));
    assert!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
}

#[test]
fn every_function() {
    passes("files");
}

#[test]
fn bad_arguments() {
    passes("bad");
}

#[test]
fn checkpoints() {
    passes("checkpoints");
}

#[test]
fn threads() {
    passes("threads");
}

#[test]
fn forks() {
    passes("forks");
}

/// Goal: short processes do not suffer: connecting, one call and ending take less than 5 ms (measured with an optimised build, and said in
/// `docs/clients.md`). Method: the best of many runs, because others use the machine, against a bound that also an unoptimised build holds.
#[test]
fn start_up() {
    const RUNS: usize = 30;
    const BOUND: Duration = Duration::from_millis(25);
    let program = compiled("short");
    let cluster = Cluster::start(3);
    let file = program.cluster_file(&cluster);
    let mut took: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let began = Instant::now();
            let done = run(&program, &file);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            began.elapsed()
        })
        .collect();
    took.sort();
    println!("connect, stat, exit: best {:?}, median {:?}", took[0], took[RUNS / 2]);
    assert!(took[0] < BOUND, "{took:?}");
}
