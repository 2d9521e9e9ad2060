//! Launching by PBS: `pbsdsh -n INDEX` starts a task on the INDEX-th node of the job, for OpenPBS and Torque alike.
//! It returns when the task ends, so `up` leaves it running as it does srun.

use super::{CommandLine, Work};
use crate::error::{CliError, Result, cannot};
use std::path::Path;

/// The lines of `$PBS_NODEFILE`: the nodes of the job in the order of their indexes.
pub fn node_file() -> Result<Vec<String>> {
    let path = std::env::var_os("PBS_NODEFILE").ok_or_else(|| {
        CliError::Usage("--launcher pbsdsh works inside a PBS job only (PBS_NODEFILE is not set)".into())
    })?;
    let path = Path::new(&path);
    let text = std::fs::read_to_string(path).map_err(cannot("read", path))?;
    Ok(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect())
}

/// One command a host.
pub fn command_lines(work: &Work, nodes: &[String]) -> Result<Vec<CommandLine>> {
    let line = |(index, host): (usize, &String)| {
        let node = nodes.iter().position(|node| same_host(node, host)).ok_or_else(|| {
            CliError::Usage(format!(
                "host {host} of the hostfile is not a node of this PBS job (see $PBS_NODEFILE)"
            ))
        })?;
        let mut args = vec!["-n".to_owned(), node.to_string(), "--".to_owned(), work.exe.to_owned()];
        args.extend((work.args)(Some(index)));
        Ok(CommandLine { program: "pbsdsh".to_owned(), args })
    };
    work.hosts.iter().enumerate().map(line).collect()
}

/// Equal names, or one is the other's without its domain.
fn same_host(one: &str, other: &str) -> bool {
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    one == other || ((!one.contains('.') || !other.contains('.')) && short(one) == short(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Vec<String> {
        ["n1.site", "n1.site", "n2.site", "n2.site"].map(str::to_owned).to_vec()
    }

    #[test]
    fn index_is_the_first_line_of_the_host() {
        let hosts = ["n2".to_owned(), "n1.site".to_owned()];
        let args = |index: Option<usize>| vec![format!("--id={}", index.unwrap())];
        let lines =
            command_lines(&Work { exe: "hayate", hosts: &hosts, args: &args, log: None }, &nodes()).unwrap();
        assert_eq!(lines[0].to_string(), "pbsdsh -n 2 -- hayate --id=0");
        assert_eq!(lines[1].to_string(), "pbsdsh -n 0 -- hayate --id=1");
    }

    #[test]
    fn foreign_host_is_an_error() {
        let hosts = ["n3".to_owned()];
        let args = |_| Vec::new();
        let work = Work { exe: "hayate", hosts: &hosts, args: &args, log: None };
        assert!(command_lines(&work, &nodes()).unwrap_err().to_string().contains("n3"));
    }

    #[test]
    fn domains_are_compared_only_when_both_have_one() {
        assert!(same_host("a", "a.x") && same_host("a.x", "a.x"));
        assert!(!same_host("a.x", "a.y") && !same_host("a", "b"));
    }
}
