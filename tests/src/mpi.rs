//! The MPIs of this machine. Each has its own compiler and its own launcher; the plain names `mpicc` and `mpirun` may belong to different ones, and Debian's compilers come
//! without headers.

use std::io::Write;
use std::process::{Command, Stdio};

/// An MPI that programs can be compiled for and run with.
pub struct Mpi {
    /// Its compiler for C.
    pub compiler: &'static str,
    launcher: &'static str,
}

/// What Open MPI wants to be told: that it may run as the superuser, and more ranks than there are cores.
const OPEN_MPI: [&str; 3] =
    ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe"];

impl Mpi {
    /// MPICH and Open MPI as far as they are here, else what goes by the plain names. Notes it where there is none.
    pub fn installed() -> Vec<Mpi> {
        let mut found: Vec<_> = [("mpicc.mpich", "mpirun.mpich"), ("mpicc.openmpi", "mpirun.openmpi")]
            .into_iter()
            .filter_map(Mpi::usable)
            .collect();
        if found.is_empty() {
            found.extend(Mpi::usable(("mpicc", "mpirun")));
        }
        if found.is_empty() {
            crate::skip::note("no MPI with its compiler and headers is installed");
        }
        found
    }

    fn usable((compiler, launcher): (&'static str, &'static str)) -> Option<Mpi> {
        let runs = Command::new(launcher).arg("--version").output().is_ok_and(|done| done.status.success());
        (runs && has_headers(compiler)).then_some(Mpi { compiler, launcher })
    }

    /// Its compiler for C++.
    pub fn cpp(&self) -> String {
        self.compiler.replace("mpicc", "mpicxx")
    }

    /// So many ranks of what is added.
    pub fn ranks(&self, count: usize) -> Command {
        let mut command = Command::new(self.launcher);
        for variable in OPEN_MPI {
            command.env(variable, "1");
        }
        command.args(["-n", &count.to_string()]);
        command
    }
}

fn has_headers(compiler: &str) -> bool {
    let quiet = Command::new(compiler)
        .args(["-x", "c", "-fsyntax-only", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut running) = quiet else { return false };
    // A compiler that ends without reading says by its exit status what that means.
    let _read_or_not = running.stdin.take().map(|mut stdin| stdin.write_all(b"#include <mpi.h>\n"));
    running.wait().is_ok_and(|status| status.success())
}
