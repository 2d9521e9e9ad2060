//! Goal: the C interface does what its header says, from C. Method: the programs in `tests/c` are compiled with all warnings as errors, linked with the
//! library as a user's are, and run against a cluster.

mod common;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use common::{Program, linked_as_compiled};
use hayate_tests::mpi::Mpi;
use hayate_tests::{Cluster, ClusterOptions, watched};

fn compiled(name: &str) -> Program {
    Program::compiled("cc", &format!("tests/c/{name}.c"), &[])
}

fn run(program: &Program, cluster: &Path) -> Output {
    watched(program.command().arg(cluster)).output().expect("it runs")
}

/// Runs it on a cluster of its own.
fn passes(name: &str) {
    let (program, cluster) = (compiled(name), Cluster::start(3));
    succeeds(&run(&program, &program.cluster_file(&cluster)));
}

fn succeeds(done: &Output) {
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
fn errors_of_checkpoints() {
    passes("errors");
}

#[test]
fn the_shared_tier() {
    let (program, options) =
        (compiled("tier"), ClusterOptions { servers: 3, tier: true, ..ClusterOptions::default() });
    let cluster = Cluster::with(options);
    succeeds(&run(&program, &program.cluster_file(&cluster)));
}

/// Goal: the header for MPI, with ranks of each MPI that is here.
#[test]
fn mpi() {
    for mpi in Mpi::installed() {
        let program = Program::compiled(mpi.compiler, "tests/c/mpi.c", &[]);
        let cluster = Cluster::start(3);
        let mut command = linked_as_compiled(mpi.ranks(3));
        command.arg(program.path()).arg(program.cluster_file(&cluster));
        let done = watched(&command).output().expect("it runs");
        succeeds(&done);
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(said.contains("3 ranks"), "{}: not its ranks: {said}", mpi.compiler);
    }
}

#[test]
fn threads() {
    passes("threads");
}

#[test]
fn forks() {
    passes("forks");
}

/// Goal: short processes do not suffer. Method: the best of many runs, because others use the machine, against a bound that also an unoptimised build holds; the 5 ms of an optimised
/// one are measured by `bench/startup.py`.
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
            let done = program.command().arg(&file).output().expect("it runs"); // Alone: what watches it takes time, too.
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            began.elapsed()
        })
        .collect();
    took.sort();
    println!("connect, stat, exit: best {:?}, median {:?}", took[0], took[RUNS / 2]);
    assert!(took[0] < BOUND, "{took:?}");
}
