//! Launching by mpirun. Only options that Open MPI, MPICH and Intel MPI share; the servers themselves use no MPI.

use super::{CommandLine, Work};

/// One command for all hosts, which lasts as long as the servers.
pub fn command_line(work: &Work) -> CommandLine {
    let count = work.hosts.len().to_string();
    let hosts = work.hosts.join(",");
    let mut args = vec!["-n".to_owned(), count, "-host".to_owned(), hosts, work.exe.to_owned()];
    args.extend((work.args)(None));
    CommandLine { program: "mpirun".to_owned(), args }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_a_host() {
        let hosts = ["n1".to_owned(), "n2".to_owned(), "n3".to_owned()];
        let args = |_| vec!["server".to_owned(), "--id".to_owned(), "auto".to_owned()];
        let line = command_line(&Work { exe: "/x/hayate", hosts: &hosts, args: &args, log: None });
        assert_eq!(line.to_string(), "mpirun -n 3 -host n1,n2,n3 /x/hayate server --id auto");
    }
}
