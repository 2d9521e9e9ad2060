//! What a sequence needs of a way to reach the cluster.

use std::collections::BTreeMap;

use crate::reference::{Model, Node};
use crate::steps::{Step, xattr_name};

/// Errnos.
pub type Outcome<T> = Result<T, i32>;

/// A way to reach the cluster: a client, or a mount.
pub trait Access {
    /// An open file.
    type File;

    /// Which refusal of a move into the own subtree comes, where several are right, differs: the kernel looks itself.
    const SAME_REFUSALS: bool;

    /// Carries out a step that is about names.
    fn attempt(&self, step: &Step) -> Outcome<()>;
    /// Opens what is there for reading, and for writing.
    fn open(&self, path: &str, writes: bool) -> Outcome<Self::File>;
    /// Writes, so that everybody sees it.
    fn write(&self, file: &Self::File, offset: u64, data: &[u8]);
    /// Reads as far as the file goes.
    fn read(&self, file: &Self::File, offset: u64, len: usize) -> Vec<u8>;
    /// The first data (or hole) from `at` on.
    fn seek(&self, file: &Self::File, at: u64, data: bool) -> Option<u64>;
    /// Names of a directory, and whether each is one.
    fn list(&self, dir: &str) -> Vec<(String, bool)>;
    /// Size and number of links.
    fn size_and_links(&self, path: &str) -> (usize, usize);
    /// All of a file, in as few requests as there are.
    fn get(&self, path: &str) -> Vec<u8>;
    /// Extended attributes.
    fn xattrs(&self, path: &str) -> BTreeMap<String, Vec<u8>>;
}

/// Files that stay open while other things happen, each with its number in the model.
pub struct Kept<F>([Option<(usize, F)>; 3]);

impl<F> Default for Kept<F> {
    fn default() -> Self {
        Kept([const { None }; 3])
    }
}

impl<F> Kept<F> {
    /// Carries a step out, below `root`; answers the errno, 0 for success.
    pub fn step<A: Access<File = F>>(&mut self, by: &A, root: &str, step: &Step, model: &mut Model) -> i32 {
        let outcome = match step {
            Step::Keep(path, place) => self.keep(by, root, path, *place, model),
            Step::WriteKept(place, offset, data) => {
                if let Some((number, file)) = &self.0[*place] {
                    by.write(file, *offset, data);
                    model.write(*number, *offset, data);
                }
                Ok(())
            }
            Step::ReadKept(place, offset, len) => {
                if let Some((number, file)) = &self.0[*place] {
                    let content = &model.files[*number];
                    let from = (*offset as usize).min(content.len());
                    let want = &content[from..(from + len).min(content.len())];
                    let got = by.read(file, *offset, *len);
                    assert!(got == want, "{len} bytes at {offset} of a kept file: {} came", got.len());
                }
                Ok(())
            }
            _ => by.attempt(&crate::steps::below(root, step)),
        };
        outcome.err().unwrap_or(0)
    }

    fn keep<A: Access<File = F>>(
        &mut self,
        by: &A,
        root: &str,
        path: &str,
        place: usize,
        model: &Model,
    ) -> Outcome<()> {
        let file = by.open(&format!("{root}{path}"), true)?;
        if let Ok(number) = model.file(path) {
            self.0[place] = Some((number, file));
        }
        Ok(())
    }
}

/// Whether `found` is what `expected` asks for.
pub fn agrees<A: Access>(step: &Step, expected: i32, found: i32) -> bool {
    let nested = match step {
        Step::Rename(from, to) | Step::Exchange(from, to) => {
            to.starts_with(&format!("{from}/")) || from.starts_with(&format!("{to}/"))
        }
        _ => false,
    };
    expected == found || (!A::SAME_REFUSALS && nested && expected != 0 && found != 0)
}

/// Compares all that can be seen below `root` with the model.
pub fn compare(by: &impl Access, root: &str, model: &Model) {
    let mut seen = 0;
    let mut dirs = vec![(root.to_owned(), String::new())];
    while let Some((there, here)) = dirs.pop() {
        for (name, is_dir) in by.list(&there) {
            seen += 1;
            let (there, here) = (format!("{there}/{name}"), format!("{here}/{name}"));
            match model.at(&here) {
                Some(Node::Dir) => {
                    assert!(is_dir, "{here} should be a directory");
                    assert_eq!(by.size_and_links(&there).0, model.children(&here), "entries of {here}");
                    dirs.push((there, here));
                }
                Some(Node::File(file)) => compare_file(by, &there, &here, model, *file),
                None => panic!("{here} is listed and should not be there"),
            }
        }
    }
    assert_eq!(seen, model.names.len(), "every name is listed");
}

fn compare_file(by: &impl Access, there: &str, here: &str, model: &Model, number: usize) {
    let content = &model.files[number];
    let names = model.names.values().filter(|node| **node == Node::File(number)).count();
    assert_eq!(by.size_and_links(there), (content.len(), names), "size and links of {here}");
    let opened = by.open(there, false).expect("open");
    assert!(by.read(&opened, 0, content.len() + 1) == *content, "content of {here}");
    follow_holes(by, &opened, content);
    assert!(by.get(there) == *content, "content of {here} at once");
    let xattrs = model.xattrs.iter().filter(|((file, _), _)| *file == number);
    let xattrs: BTreeMap<_, _> =
        xattrs.map(|((_, name), value)| (xattr_name(*name), value.clone())).collect();
    assert_eq!(by.xattrs(there), xattrs, "extended attributes of {here}");
}

/// Follows data and holes from the beginning to the end: what is a hole must be zeros.
fn follow_holes<A: Access>(by: &A, file: &A::File, content: &[u8]) {
    let end = content.len() as u64;
    let mut at = 0;
    while at < end {
        let data = by.seek(file, at, true).unwrap_or(end);
        let zeros = content[at as usize..data as usize].iter().all(|byte| *byte == 0);
        assert!(data >= at && zeros, "hole {at}..{data}");
        if data == end {
            break;
        }
        at = by.seek(file, data, false).expect("the end is a hole");
        assert!(at > data && at <= end, "data {data}..{at} of {end}");
    }
    assert_eq!((by.seek(file, end, true), by.seek(file, end, false)), (None, None));
}
