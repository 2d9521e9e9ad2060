//! Goal: the C interface does what its header says, from C. Method: the programs in `tests/c` are compiled with all warnings as errors, linked with the
//! library as a user's are, and run against a cluster.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use hayate_tests::Cluster;
use tempfile::TempDir;

/// Where cargo put the library: beside this test.
fn library_dir() -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    test.parent().expect("its directory").to_owned()
}

struct Program {
    dir: TempDir,
}

impl Program {
    fn compiled(name: &str) -> Program {
        let dir = tempfile::tempdir().expect("a directory");
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let libraries = library_dir();
        let done = Command::new("cc")
            .args(["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
            .arg(dir.path().join("program"))
            .arg(here.join(format!("tests/c/{name}.c")))
            .arg("-I")
            .arg(here.join("include"))
            .arg("-L")
            .arg(&libraries)
            .arg(format!("-Wl,-rpath,{}", libraries.display()))
            .arg("-lhayate")
            .output()
            .expect("a C compiler: install gcc");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Program { dir }
    }

    fn run(&self, cluster: &Path) -> Output {
        Command::new(self.dir.path().join("program"))
            .arg(cluster)
            .env_remove("HAYATE_CLUSTER")
            // Cargo's own has directories before this one where an older library may lie.
            .env("LD_LIBRARY_PATH", library_dir())
            .output()
            .expect("it runs")
    }

    /// Runs it on a cluster of its own.
    fn passes(&self) {
        let cluster = Cluster::start(3);
        let file = self.cluster_file(&cluster);
        let done = self.run(&file);
        assert!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    }

    fn cluster_file(&self, cluster: &Cluster) -> PathBuf {
        let path = self.dir.path().join("cluster.toml");
        cluster.file().store(&path).expect("written");
        path
    }
}

#[test]
fn every_function() {
    Program::compiled("files").passes();
}

#[test]
fn bad_arguments() {
    Program::compiled("bad").passes();
}

#[test]
fn checkpoints() {
    Program::compiled("checkpoints").passes();
}

#[test]
fn threads() {
    Program::compiled("threads").passes();
}

#[test]
fn forks() {
    Program::compiled("forks").passes();
}

/// Goal: short processes do not suffer: connecting, one call and ending take less than 5 ms (measured with an optimised build, and said in
/// `docs/clients.md`). Method: the best of many runs, because others use the machine, against a bound that also an unoptimised build holds.
#[test]
fn start_up() {
    const RUNS: usize = 30;
    const BOUND: Duration = Duration::from_millis(25);
    let program = Program::compiled("short");
    let cluster = Cluster::start(3);
    let file = program.cluster_file(&cluster);
    let mut took: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let began = Instant::now();
            let done = program.run(&file);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            began.elapsed()
        })
        .collect();
    took.sort();
    println!("connect, stat, exit: best {:?}, median {:?}", took[0], took[RUNS / 2]);
    assert!(took[0] < BOUND, "{took:?}");
}
