//! Starting servers, here or on many hosts.
//!
//! `up` makes a *rendezvous directory* that every host sees and writes [`spec::LaunchSpec`] into it; each server binds its
//! addresses and leaves its member entry there ([`rendezvous`]); `up` collects them, writes the cluster file, and waits until
//! every server answers. What starts the processes is a [`Launcher`]; each builds its command lines in a pure function.
//!
//! # Invariants
//! - Either all servers answer in the end, or everything that was started is stopped again ([`started::Started`];
//!   `tests/bad_input.rs`).

pub mod hostfile;
pub mod local;
pub mod mpirun;
pub mod pbsdsh;
pub mod rendezvous;
pub mod spec;
pub mod srun;
pub mod ssh;
pub mod start;
pub mod started;

use crate::error::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What starts processes on other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Launcher {
    /// A secure shell to each host, without a password.
    Ssh,
    /// Slurm: a job step.
    Srun,
    /// PBS: a task on each node of the job.
    Pbsdsh,
    /// An MPI launcher (Open MPI, MPICH, Intel MPI).
    Mpirun,
}

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// Name or path of the program.
    pub program: String,
    /// Arguments.
    pub args: Vec<String>,
}

impl CommandLine {
    /// From words.
    pub fn new<S: Into<String>>(program: &str, args: impl IntoIterator<Item = S>) -> CommandLine {
        CommandLine { program: program.to_owned(), args: args.into_iter().map(Into::into).collect() }
    }

    /// The process builder for it.
    pub fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args);
        command
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", ssh::quote(arg)))
    }
}

/// What is to run once on every host.
pub struct Work<'a> {
    /// Path of this program on all hosts.
    pub exe: &'a str,
    /// Where to run; a server's number is its host's index.
    pub hosts: &'a [String],
    /// Arguments for host `Some(index)`, or for any host when the launcher starts all by one command.
    pub args: &'a dyn Fn(Option<usize>) -> Vec<String>,
    /// The process stays (a server), with its output appended to this file; else it ends by itself.
    pub log: Option<&'a dyn Fn(usize) -> String>,
}

impl Launcher {
    /// The command lines that do `work`.
    pub fn command_lines(self, work: &Work) -> Result<Vec<CommandLine>> {
        match self {
            Launcher::Ssh => Ok(ssh::command_lines(work)),
            Launcher::Srun => Ok(vec![srun::command_line(work)]),
            Launcher::Mpirun => Ok(vec![mpirun::command_line(work)]),
            Launcher::Pbsdsh => pbsdsh::command_lines(work, &pbsdsh::node_file()?),
        }
    }

    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Launcher::Ssh => "ssh",
            Launcher::Srun => "srun",
            Launcher::Pbsdsh => "pbsdsh",
            Launcher::Mpirun => "mpirun",
        }
    }
}

/// Names of the variables in which launchers tell a process its rank, most specific first.
const RANK_VARIABLES: [&str; 5] =
    ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID", "PBS_NODENUM"];

/// The rank that the launcher gave this process, by a look-up of environment variables.
pub fn rank(variable: impl Fn(&str) -> Option<String>) -> Option<u16> {
    RANK_VARIABLES.iter().find_map(|name| variable(name)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_is_found_in_any_launchers_variable() {
        for name in RANK_VARIABLES {
            assert_eq!(rank(|asked| (asked == name).then(|| "3".to_owned())), Some(3));
        }
        assert_eq!(rank(|_| None), None);
        assert_eq!(rank(|_| Some("x".into())), None);
    }

    /// An MPI launcher inside a Slurm job sets both; the inner one counts.
    #[test]
    fn inner_launcher_wins() {
        let both = |name: &str| match name {
            "PMI_RANK" => Some("5".to_owned()),
            "SLURM_PROCID" => Some("0".to_owned()),
            _ => None,
        };
        assert_eq!(rank(both), Some(5));
    }
}
