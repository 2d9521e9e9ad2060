//! Launching by Slurm's srun: one job step with one task a host. The step lasts as long as the servers.

use super::{CommandLine, Work};

/// One command for all hosts. `--overlap` lets the job's own steps use the same CPUs.
pub fn command_line(work: &Work) -> CommandLine {
    let count = work.hosts.len();
    let mut args = vec![
        format!("--nodes={count}"),
        format!("--ntasks={count}"),
        "--ntasks-per-node=1".to_owned(),
        format!("--nodelist={}", work.hosts.join(",")),
        "--overlap".to_owned(),
        "--kill-on-bad-exit=0".to_owned(),
        "--input=none".to_owned(),
        work.exe.to_owned(),
    ];
    args.extend((work.args)(None));
    CommandLine { program: "srun".to_owned(), args }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_task_a_host() {
        let hosts = ["n1".to_owned(), "n2".to_owned()];
        let args = |index: Option<usize>| {
            assert_eq!(index, None);
            vec!["server".to_owned()]
        };
        let line = command_line(&Work { exe: "hayate", hosts: &hosts, args: &args, log: None });
        assert_eq!(
            line.to_string(),
            "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --nodelist=n1,n2 --overlap --kill-on-bad-exit=0 \
             --input=none hayate server"
        );
    }
}
