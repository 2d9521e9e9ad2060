//! Programs in C, compiled with all warnings as errors and linked with the library as a user's are.
#![allow(dead_code)] // Each test binary uses a part.

use std::path::{Path, PathBuf};
use std::process::Command;

use hayate_tests::Cluster;
use tempfile::TempDir;

/// A compiled program, in a directory of its own.
pub struct Program {
    pub dir: TempDir,
}

/// Where cargo put the library: beside this test.
fn library_dir() -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    test.parent().expect("its directory").to_owned()
}

impl Program {
    /// Compiles a source, whose path is from this crate's directory.
    pub fn compiled(compiler: &str, source: &str, more: &[&str]) -> Program {
        let dir = tempfile::tempdir().expect("a directory");
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let libraries = library_dir();
        let done = Command::new(compiler)
            .args(["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-ffp-contract=off"])
            .args(more)
            .arg("-o")
            .arg(dir.path().join("program"))
            .arg(here.join(source))
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

    /// It, to be run.
    pub fn command(&self) -> Command {
        linked_as_compiled(Command::new(self.path()))
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("program")
    }

    /// The file of a cluster, for the program.
    pub fn cluster_file(&self, cluster: &Cluster) -> PathBuf {
        let path = self.dir.path().join("cluster.toml");
        cluster.file().store(&path).expect("written");
        path
    }
}

/// Cargo's own list of libraries, which goes before the program's, has an older one if the tests alone were built since.
pub fn linked_as_compiled(mut command: Command) -> Command {
    command.env_remove("LD_LIBRARY_PATH").env_remove("HAYATE_CLUSTER");
    command
}
