//! `--spread`: servers of one host stand for nodes, and tasks are dealt to them as a launcher deals ranks to nodes.
//!
//! In blocks: then the task that is one node further (`-C` of IOR, `-N` of mdtest) is the client of another server. Dealt in turn, a shift by
//! the tasks of a node would meet the same server again whenever that number is a multiple of the servers'.

/// Which task a client is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Number of the task.
    pub rank: u32,
    /// How many tasks there are.
    pub tasks: u32,
}

impl Seat {
    /// Which of so many servers stands for the task's node.
    pub fn server(self, servers: usize) -> usize {
        (self.rank / tasks_per_node(self.tasks, servers)) as usize
    }
}

/// Tasks of each node but perhaps the last.
pub fn tasks_per_node(tasks: u32, servers: usize) -> u32 {
    tasks.div_ceil(u32::try_from(servers.max(1)).unwrap_or(u32::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(tasks: u32, servers: usize) -> Vec<usize> {
        (0..tasks).map(|rank| Seat { rank, tasks }.server(servers)).collect()
    }

    /// Every server that can have a task has one, none more than a node holds, and whoever is a node further has another server.
    #[test]
    fn tasks_fill_nodes_in_blocks() {
        assert_eq!(seats(8, 4), [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(seats(3, 4), [0, 1, 2]);
        assert_eq!(seats(5, 2), [0, 0, 0, 1, 1]);
        for (tasks, servers) in [(8, 2), (8, 4), (12, 3)] {
            let (all, step) = (seats(tasks, servers), tasks_per_node(tasks, servers) as usize);
            assert!(
                (0..all.len()).all(|rank| all[rank] != all[(rank + step) % all.len()]),
                "{tasks} {servers}"
            );
        }
    }
}
