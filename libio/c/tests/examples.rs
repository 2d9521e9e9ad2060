//! Goal: the heat equation in C, killed at any moment and started again, comes to the same result as one that nobody disturbs, also with MPI, and with another number
//! of ranks. Method: the example, compiled as its first lines say, as processes that are killed by SIGKILL, by their numbers.

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Program, linked_as_compiled};
use hayate_tests::Cluster;
use hayate_tests::mpi::Mpi;

const SOURCE: &str = "../examples/heat.c";
const NUMBERS: [&str; 3] = ["60", "5", "96"];

fn start(mut command: Command, cluster: &Path) -> Child {
    command.arg(cluster).args(NUMBERS).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().expect("the example runs")
}

fn lines(heat: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(heat.stdout.take().expect("its output")).lines().map(|line| line.expect("a line"))
}

/// Runs it to its end; answers the first line, and that with the result.
fn finish(mut heat: Child) -> (String, String) {
    let lines: Vec<String> = lines(&mut heat).collect();
    assert!(heat.wait().expect("it ends").success(), "{lines:?}");
    let result = lines.iter().find(|line| line.starts_with("step "));
    (lines[0].clone(), result.expect("a result").clone())
}

/// Waits until it has saved `count` times.
fn saves(heat: &mut Child, count: usize) {
    assert_eq!(lines(heat).filter(|line| line.starts_with("saved ")).take(count).count(), count);
}

/// Kills them. One that mpirun ends after the first is gone cannot be killed any more: how the run ended tells whether any was.
fn kill(pids: &[String]) {
    Command::new("kill").arg("-KILL").args(pids).stderr(Stdio::null()).status().expect("kill");
}

/// Numbers of the processes that run this program.
fn running(program: &Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let runs = processes
        .filter(|process| std::fs::read_link(process.path().join("exe")).is_ok_and(|exe| exe == program));
    runs.map(|process| process.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn it_is_killed_and_goes_on() {
    let program = Program::compiled("cc", SOURCE, &[]);
    let (first, straight) = finish(start(program.command(), &program.cluster_file(&Cluster::start(2))));
    assert!(first == "starting at step 0" && straight.starts_with("step 60: "), "{first}, {straight}");
    let cluster = Cluster::start(2);
    let file = program.cluster_file(&cluster);
    for count in [1, 2, 3] {
        let mut heat = start(program.command(), &file);
        saves(&mut heat, count);
        heat.kill().expect("killed");
        assert_eq!(heat.wait().expect("it ends").signal(), Some(9));
    }
    let (first, last) = finish(start(program.command(), &file));
    let begin: u64 = first["starting at step ".len()..].parse().expect("a number");
    assert!(begin >= 30, "{first}");
    assert_eq!(last, straight);
}

/// One rank of two is killed, then all of three; two others finish. What was written by two is read by three.
#[test]
fn with_mpi_other_numbers_of_ranks_go_on() {
    for mpi in Mpi::installed() {
        other_numbers_of_ranks_go_on(&mpi);
    }
}

fn other_numbers_of_ranks_go_on(mpi: &Mpi) {
    let program = Program::compiled(mpi.compiler, SOURCE, &["-DHAYATE_WITH_MPI"]);
    let path = program.path().canonicalize().expect("the program");
    let ranks = |count: usize| {
        let mut command = linked_as_compiled(mpi.ranks(count));
        command.arg(&path);
        command
    };
    let alone = Program::compiled("cc", SOURCE, &[]);
    let (_, straight) = finish(start(alone.command(), &alone.cluster_file(&Cluster::start(2))));
    let cluster = Cluster::start(2);
    let file = program.cluster_file(&cluster);
    for (count, killed) in [(2, 1), (3, 3)] {
        let mut heat = start(ranks(count), &file);
        saves(&mut heat, 2);
        kill(&running(&path)[..killed]);
        assert!(!heat.wait().expect("it ends").success());
        // Those that were not killed are ended by mpirun, after it has ended itself perhaps.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !running(&path).is_empty() {
            assert!(std::time::Instant::now() < end, "{:?}", running(&path));
            std::thread::yield_now();
        }
    }
    let (first, last) = finish(start(ranks(2), &file));
    let begin: u64 = first["starting at step ".len()..].parse().expect("a number");
    assert!(begin >= 20, "{first}");
    assert_eq!(last, straight);
}
