//! The small model: names, and what files hold.

use std::collections::BTreeMap;

use crate::steps::{Step, Zeros};

/// What the model knows of a name: a directory, or which file.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Dir,
    File(usize),
}

#[derive(Default)]
pub struct Model {
    pub names: BTreeMap<String, Node>,
    pub files: Vec<Vec<u8>>,
    /// Extended attributes, by file and number.
    pub xattrs: BTreeMap<(usize, u8), Vec<u8>>,
}

pub fn parent(path: &str) -> &str {
    &path[..path.rfind('/').unwrap_or(0)]
}

impl Model {
    pub fn at(&self, path: &str) -> Option<&Node> {
        if path.is_empty() { Some(&Node::Dir) } else { self.names.get(path) }
    }

    /// The errno of reaching the directory of `path`.
    fn reach(&self, path: &str) -> std::result::Result<(), i32> {
        let mut upto = String::new();
        for part in parent(path).split('/').filter(|part| !part.is_empty()) {
            upto = format!("{upto}/{part}");
            match self.at(&upto) {
                None => return Err(libc::ENOENT),
                Some(Node::File(_)) => return Err(libc::ENOTDIR),
                Some(Node::Dir) => {}
            }
        }
        Ok(())
    }

    pub fn children(&self, dir: &str) -> usize {
        self.names.keys().filter(|path| parent(path) == dir).count()
    }

    pub fn file(&self, path: &str) -> std::result::Result<usize, i32> {
        match self.at(path) {
            None => Err(libc::ENOENT),
            Some(Node::Dir) => Err(libc::EISDIR),
            Some(Node::File(file)) => Ok(*file),
        }
    }

    /// Carries a step out; answers the errno, 0 for success.
    pub fn step(&mut self, step: &Step) -> i32 {
        self.attempt(step).err().unwrap_or(0)
    }

    fn attempt(&mut self, step: &Step) -> std::result::Result<(), i32> {
        match step {
            Step::Mkdir(path) => {
                self.reach(path)?;
                if self.at(path).is_some() {
                    return Err(libc::EEXIST);
                }
                self.names.insert(path.clone(), Node::Dir);
            }
            Step::Remove(path) => {
                self.reach(path)?;
                self.file(path)?;
                self.names.remove(path);
            }
            Step::Rmdir(path) => {
                self.reach(path)?;
                match self.at(path) {
                    None => return Err(libc::ENOENT),
                    Some(Node::File(_)) => return Err(libc::ENOTDIR),
                    Some(Node::Dir) if self.children(path) > 0 => return Err(libc::ENOTEMPTY),
                    Some(Node::Dir) => self.names.remove(path),
                };
            }
            Step::Rename(from, to) => self.rename(from, to)?,
            Step::Exchange(from, to) => self.exchange(from, to)?,
            Step::Link(from, to) => self.link(from, to)?,
            Step::Restart(_) | Step::WriteKept(..) | Step::ReadKept(..) => {}
            _ => self.attempt_with_file(step)?,
        }
        Ok(())
    }

    /// What is about the content of a file, and its extended attributes.
    fn attempt_with_file(&mut self, step: &Step) -> std::result::Result<(), i32> {
        match step {
            Step::Write(path, offset, data) => {
                let file = self.file_made(path)?;
                self.write(file, *offset, data);
            }
            Step::Put(path, data) => {
                let file = self.file_made(path)?;
                self.files[file].clone_from(data);
            }
            Step::Keep(path, _) => {
                self.file_reached(path)?;
            }
            Step::Zero(path, offset, len, how) => {
                self.zero(self.file_reached(path)?, *offset, *len, *how != Zeros::Reach);
            }
            Step::Truncate(path, size) => {
                let file = self.file_reached(path)?;
                self.files[file].resize(*size as usize, 0);
            }
            Step::SetXattr(path, name, value) => {
                self.xattrs.insert((self.file_reached(path)?, *name), value.clone());
            }
            Step::RemoveXattr(path, name) => {
                self.xattrs.remove(&(self.file_reached(path)?, *name)).ok_or(libc::ENODATA)?;
            }
            _ => unreachable!("{step:?} is about names"),
        }
        Ok(())
    }

    fn file_reached(&self, path: &str) -> std::result::Result<usize, i32> {
        self.reach(path)?;
        self.file(path)
    }

    /// The file of a path, made if there is nothing.
    fn file_made(&mut self, path: &str) -> std::result::Result<usize, i32> {
        self.reach(path)?;
        if self.at(path).is_none() {
            self.files.push(Vec::new());
            self.names.insert(path.to_owned(), Node::File(self.files.len() - 1));
        }
        self.file(path)
    }

    fn link(&mut self, from: &str, to: &str) -> std::result::Result<(), i32> {
        // In the order in which Linux looks.
        self.reach(from)?;
        let node = self.at(from).cloned().ok_or(libc::ENOENT)?;
        self.reach(to)?;
        if self.at(to).is_some() {
            return Err(libc::EEXIST);
        }
        if node == Node::Dir {
            return Err(libc::EPERM);
        }
        self.names.insert(to.to_owned(), node);
        Ok(())
    }

    pub fn write(&mut self, file: usize, offset: u64, data: &[u8]) {
        let end = offset as usize + data.len();
        let content = &mut self.files[file];
        content.resize(content.len().max(end), 0);
        content[offset as usize..end].copy_from_slice(data);
    }

    fn zero(&mut self, file: usize, offset: u64, len: u64, keep_size: bool) {
        let content = &mut self.files[file];
        let (from, to) = (offset as usize, (offset + len) as usize);
        let size = content.len();
        content[from.min(size)..to.min(size)].fill(0);
        content.resize(if keep_size { size } else { size.max(to) }, 0);
    }

    fn rename(&mut self, from: &str, to: &str) -> std::result::Result<(), i32> {
        self.reach(from)?;
        self.reach(to)?;
        let node = self.at(from).cloned().ok_or(libc::ENOENT)?;
        if from == to || (self.at(to) == Some(&node) && node != Node::Dir) {
            return Ok(());
        }
        match (&node, self.at(to)) {
            (Node::Dir, Some(Node::File(_))) => return Err(libc::ENOTDIR),
            (Node::File(_), Some(Node::Dir)) => return Err(libc::EISDIR),
            _ => {}
        }
        if node == Node::Dir && to.starts_with(&format!("{from}/")) {
            return Err(libc::EINVAL);
        }
        if self.at(to) == Some(&Node::Dir) && self.children(to) > 0 {
            return Err(libc::ENOTEMPTY);
        }
        let moved = self.take(from);
        self.names.remove(to);
        self.put_below(to, moved);
        Ok(())
    }

    fn exchange(&mut self, one: &str, other: &str) -> std::result::Result<(), i32> {
        self.reach(one)?;
        self.reach(other)?;
        if self.at(one).is_none() || self.at(other).is_none() {
            return Err(libc::ENOENT);
        }
        if one == other {
            return Ok(());
        }
        if one.starts_with(&format!("{other}/")) || other.starts_with(&format!("{one}/")) {
            return Err(libc::EINVAL);
        }
        let (first, second) = (self.take(one), self.take(other));
        self.put_below(other, first);
        self.put_below(one, second);
        Ok(())
    }

    /// Takes a name and all below it out, by what follows the name.
    fn take(&mut self, path: &str) -> Vec<(String, Node)> {
        let inside = format!("{path}/");
        let all = self.names.keys().filter(|name| *name == path || name.starts_with(&inside));
        let all: Vec<String> = all.cloned().collect();
        let taken = all.into_iter().map(|name| {
            let node = self.names.remove(&name).expect("listed just now");
            (name[path.len()..].to_owned(), node)
        });
        taken.collect()
    }

    fn put_below(&mut self, path: &str, all: Vec<(String, Node)>) {
        self.names.extend(all.into_iter().map(|(rest, node)| (format!("{path}{rest}"), node)));
    }
}
