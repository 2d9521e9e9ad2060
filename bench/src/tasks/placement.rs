//! On which nodes tasks are, as IOR and mdtest ask: how many nodes there are, who shares that of task 0, and how far the next node is.
//!
//! Launchers deal ranks to nodes in blocks (0 0 1 1) or in turn (0 1 0 1). IOR and mdtest tell which by task 1, and so does this.

/// The nodes of the tasks of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// How many nodes have a task; at least 1.
    pub nodes: u32,
    /// Of each task, whether it is on the node of task 0.
    with_first: Vec<bool>,
}

impl Placement {
    /// Of tasks whose nodes have these names.
    pub fn of<T: Ord>(names: &[T]) -> Self {
        let different: std::collections::BTreeSet<&T> = names.iter().collect();
        Placement {
            nodes: (different.len() as u32).max(1),
            with_first: names.iter().map(|name| Some(name) == names.first()).collect(),
        }
    }

    /// mdtest's line: a digit for each task, 1 if it is on the node of task 0.
    pub fn map(&self) -> String {
        self.with_first.iter().map(|with| if *with { '1' } else { '0' }).collect()
    }

    /// Tasks of a node: those of the first, as IOR and mdtest count.
    pub fn tasks_per_node(&self) -> u32 {
        (self.with_first.iter().filter(|with| **with).count() as u32).max(1)
    }

    /// How many tasks further the next node is: a node's tasks if they are dealt in blocks, one if they are dealt in turn. On one node another task is what there is.
    pub fn step(&self) -> u32 {
        let blocks = self.with_first.get(1).copied().unwrap_or(false);
        if blocks && self.nodes > 1 { self.tasks_per_node() } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whoever is a step further is on another node, however tasks were dealt. Method: maps of IOR's and mdtest's documentation.
    #[test]
    fn the_next_node_is_found_in_blocks_and_in_turn() {
        let of = |names: &str| Placement::of(&names.chars().collect::<Vec<_>>());
        for (names, nodes, map, each, step) in [
            ("aaaa", 1, "1111", 4, 1),
            ("aabb", 2, "1100", 2, 2),
            ("abab", 2, "1010", 2, 1),
            ("aabbcc", 3, "110000", 2, 2),
            ("abcabc", 3, "100100", 2, 1),
            ("aaab", 2, "1110", 3, 3),
            ("ab", 2, "10", 1, 1),
            ("a", 1, "1", 1, 1),
        ] {
            let placement = of(names);
            let found = (placement.nodes, placement.map(), placement.tasks_per_node(), placement.step());
            assert_eq!(found, (nodes, map.to_owned(), each, step), "{names}");
            let all: Vec<char> = names.chars().collect();
            let even = all.len() as u32 == nodes * each;
            let moved = |at: usize| all[at] != all[(at + placement.step() as usize) % all.len()];
            assert!(nodes == 1 || !even || (0..all.len()).all(moved), "{names}");
        }
        assert_eq!(Placement::of::<char>(&[]), Placement { nodes: 1, with_first: Vec::new() });
    }
}
