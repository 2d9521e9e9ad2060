//! Which tests have a meaning, and how many items lie where.

use super::spec::MdtestSpec;
use crate::error::{BenchError, Result};

fn wrong(what: &str) -> Result<()> {
    Err(BenchError::Options(what.to_owned()))
}

impl MdtestSpec {
    /// Distributes items over the tree as mdtest does: `items` and `items_per_dir` are as given, 0 for not given.
    ///
    /// # Errors
    /// [`BenchError::Options`] with what contradicts.
    pub fn distribute(&mut self) -> Result<()> {
        let holders = self.holders();
        if holders == 0 || holders > 1 << 24 {
            return wrong("the tree (-b, -z) must have 1 to 16 million directories");
        }
        match (self.items, self.items_per_dir) {
            (0, 0) => return wrong("give the number of items (-n) or of items per directory (-I)"),
            (0, per_dir) => self.items = per_dir * holders,
            (items, 0) => {
                self.items_per_dir = items / holders;
                self.items = self.items_per_dir * holders;
            }
            (items, per_dir) => {
                if self.unique_dir {
                    return wrong(
                        "give the number of items (-n) or of items per directory (-I), not both, with -u",
                    );
                }
                if items % per_dir != 0 {
                    return wrong("items (-n) must be a multiple of items per directory (-I)");
                }
                if self.depth > 0 {
                    return wrong("-n with -I makes its own directories, and no tree (-z)");
                }
            }
        }
        if self.items == 0 {
            wrong("there are fewer items (-n) than directories in the tree")
        } else {
            Ok(())
        }
    }

    /// Checks that the test has a meaning.
    ///
    /// # Errors
    /// [`BenchError::Options`] with what is wrong.
    pub fn validate(&self) -> Result<()> {
        let counts = [u64::from(self.tasks), self.items, self.items_per_dir, u64::from(self.repetitions)];
        let faults = [
            (counts.contains(&0), "tasks (-np), items (-n) and repetitions (-i) must be at least 1"),
            (
                self.repetitions > 1 && self.create != self.remove,
                "repetitions (-i) need the phases that create (-C) and remove (-r), or neither",
            ),
            (
                self.write_bytes.max(self.read_bytes) > 1 << 30,
                "files of a metadata test are at most 1 GiB (-w, -e)",
            ),
            (
                self.create && self.read && self.read_bytes > self.write_bytes,
                "read bytes (-e) must not be more than write bytes (-w)",
            ),
            (
                self.verify && (!self.read || self.read_bytes == 0),
                "to verify (-X) there must be something to read (-E, -e)",
            ),
            (
                self.verify_write && self.write_bytes == 0,
                "to verify writes (--verify-write) there must be something to write (-w)",
            ),
            (
                self.deadline_s > 0 && self.branch > 1 && self.depth > 0,
                "a deadline (-W) needs a tree of one branch (-b 1)",
            ),
            (!self.files && !self.dirs, "items are files (-F), directories (-D) or both"),
            (
                self.direct && !(self.write_bytes | self.read_bytes).is_multiple_of(512),
                "O_DIRECT (--posix.odirect) needs sizes (-w, -e) that are multiples of 512 bytes",
            ),
        ];
        let all = faults.iter().chain(&self.contradictions()).find(|(fault, _)| *fault).copied();
        all.map_or(Ok(()), |(_, what)| wrong(what))
    }

    /// What cannot go together.
    fn contradictions(&self) -> [(bool, &'static str); 9] {
        let many = self.directories.len() > 1;
        [
            (
                self.shared_files && self.collective,
                "-c and -S do not go together: tasks share the files already",
            ),
            (
                self.shared_files && self.unique_dir,
                "-u and -S do not go together: shared files have one directory",
            ),
            (self.shared_files && !self.files, "shared files (-S) need files (-F)"),
            (
                self.collective && self.deadline_s > 0,
                "-c and -W do not go together: task 0 would be ended before the others have begun",
            ),
            (
                self.make_node && self.write_bytes > 0,
                "-k and -w do not go together: mknod opens nothing to write to",
            ),
            (many && !self.unique_dir, "several directories (-d A@B) need a directory for each task (-u)"),
            (many && self.stride > 0, "several directories (-d A@B) and a stride (-N) do not go together"),
            (many && self.collective, "several directories (-d A@B) and -c do not go together"),
            (self.directories.len() > self.tasks as usize, "there are more directories (-d A@B) than tasks"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Api;

    fn spec() -> MdtestSpec {
        MdtestSpec { tasks: 3, ..MdtestSpec::new(Api::Null, "/d/", 30) }
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |spec: MdtestSpec, about: &str| {
            let mut spec = spec;
            let outcome = spec.distribute().and_then(|()| spec.validate());
            let message = outcome.expect_err(about).to_string();
            assert!(message.contains(about), "{message}");
        };
        refused(MdtestSpec { items: 0, items_per_dir: 0, ..spec() }, "-n");
        refused(MdtestSpec { items: 10, items_per_dir: 3, ..spec() }, "multiple");
        refused(MdtestSpec { items_per_dir: 3, unique_dir: true, ..spec() }, "-u");
        refused(MdtestSpec { items: 2, items_per_dir: 0, depth: 5, branch: 2, ..spec() }, "fewer items");
        refused(MdtestSpec { read_bytes: 5, ..spec() }, "-e");
        refused(MdtestSpec { verify: true, ..spec() }, "-X");
        refused(MdtestSpec { repetitions: 2, remove: false, ..spec() }, "-r");
        refused(MdtestSpec { files: false, ..spec() }, "-F");
        let shared = MdtestSpec { shared_files: true, items_per_dir: 0, ..spec() };
        refused(MdtestSpec { collective: true, ..shared.clone() }, "-c and -S");
        refused(MdtestSpec { unique_dir: true, ..shared.clone() }, "-u and -S");
        refused(MdtestSpec { files: false, dirs: true, ..shared }, "-S");
        refused(MdtestSpec { collective: true, deadline_s: 1, ..spec() }, "-c and -W");
        refused(MdtestSpec { make_node: true, write_bytes: 1, ..spec() }, "-k and -w");
        refused(MdtestSpec { verify_write: true, ..spec() }, "--verify-write");
        refused(MdtestSpec { direct: true, write_bytes: 100, ..spec() }, "--posix.odirect");
        let directories = vec!["a".to_owned(), "b".to_owned()];
        let two = MdtestSpec { directories, items_per_dir: 0, ..spec() };
        refused(two.clone(), "-u");
        refused(MdtestSpec { unique_dir: true, stride: 1, ..two.clone() }, "-N");
        refused(MdtestSpec { unique_dir: true, tasks: 1, ..two }, "more directories");
    }
}
