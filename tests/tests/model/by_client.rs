//! By the client library.

use std::collections::BTreeMap;

use fs_client::{Caller, Client, File, FileKind, InodeId, OpenOptions, Result};

use crate::access::{Access, Outcome};
use crate::steps::{Step, Zeros, xattr_name};

const READ_WRITE: OpenOptions = OpenOptions {
    read: true,
    write: true,
    create: false,
    create_new: false,
    truncate: false,
    append: false,
    mode: 0,
    layout: None,
};

impl Access for Client {
    type File = File;

    const SAME_REFUSALS: bool = true;

    fn attempt(&self, step: &Step) -> Outcome<()> {
        let outcome: Result<()> = match step {
            Step::Mkdir(path) => self.mkdir_path(path, 0o755).map(drop),
            Step::Write(path, offset, data) => {
                let options = OpenOptions { write: true, create: true, ..OpenOptions::default() };
                self.open_path(path, &options).and_then(|file| {
                    file.write_at(data, *offset)?;
                    file.close()
                })
            }
            Step::Put(path, data) => self.put(path, data, 0o644).map(drop),
            Step::Zero(path, offset, len, how) => change(self, path, |file| {
                let range = *offset..*offset + *len;
                match how {
                    Zeros::Punch => file.punch(range),
                    Zeros::KeepSize => file.zero_range(range, true),
                    Zeros::Reach => file.zero_range(range, false),
                }
            }),
            Step::SetXattr(path, name, value) => change(self, path, |file| {
                self.setxattr(&Caller::ROOT, file.ino(), xattr_name(*name).as_bytes(), value, false, false)
            }),
            Step::RemoveXattr(path, name) => change(self, path, |file| {
                self.removexattr(&Caller::ROOT, file.ino(), xattr_name(*name).as_bytes())
            }),
            Step::Truncate(path, size) => self.truncate_path(path, *size).map(drop),
            Step::Remove(path) => self.remove_file(path),
            Step::Rmdir(path) => self.remove_dir(path),
            Step::Rename(from, to) => self.rename_path(from, to),
            Step::Exchange(one, other) => return exchange(self, one, other),
            Step::Link(from, to) => self.link_path(from, to).map(drop),
            Step::Restart(_) | Step::Keep(..) | Step::WriteKept(..) | Step::ReadKept(..) => Ok(()),
        };
        outcome.map_err(|error| error.errno())
    }

    fn open(&self, path: &str, writes: bool) -> Outcome<File> {
        let options = if writes { READ_WRITE } else { OpenOptions::read_only() };
        self.open_path(path, &options).map_err(|error| error.errno())
    }

    fn write(&self, file: &File, offset: u64, data: &[u8]) {
        file.write_at(data, offset).and_then(|()| file.flush()).expect("write");
    }

    fn read(&self, file: &File, offset: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0xee; len];
        let got = file.read_at(&mut buf, offset).expect("read");
        buf.truncate(got);
        buf
    }

    fn seek(&self, file: &File, at: u64, data: bool) -> Option<u64> {
        if data { file.seek_data(at) } else { file.seek_hole(at) }.expect("seek")
    }

    fn list(&self, dir: &str) -> Vec<(String, bool)> {
        let entries = self.read_dir(dir).expect("list").map(|entry| entry.expect("an entry"));
        let named = entries.map(|entry| {
            (String::from_utf8(entry.name.to_vec()).expect("UTF-8"), entry.kind == FileKind::Directory)
        });
        named.filter(|(name, _)| name != "." && name != "..").collect()
    }

    fn size_and_links(&self, path: &str) -> (usize, usize) {
        let attr = self.stat(path).expect("stat");
        (attr.size as usize, attr.nlink as usize)
    }

    fn get(&self, path: &str) -> Vec<u8> {
        Client::get(self, path).expect("get").to_vec()
    }

    fn xattrs(&self, path: &str) -> BTreeMap<String, Vec<u8>> {
        let ino = self.stat(path).expect("stat").ino;
        let names = self.listxattr(&Caller::ROOT, ino).expect("list");
        let valued = names.into_iter().map(|name| {
            let value = self.getxattr(&Caller::ROOT, ino, &name).expect("an attribute").to_vec();
            (String::from_utf8(name.to_vec()).expect("UTF-8"), value)
        });
        valued.collect()
    }
}

/// Opens what is there, changes it and closes it.
fn change(client: &Client, path: &str, change: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let file = client.open_path(path, &OpenOptions { write: true, ..OpenOptions::default() })?;
    change(&file)?;
    file.close()
}

/// The directory of a path, and its last name.
fn parent<'a>(client: &Client, path: &'a str) -> Outcome<(InodeId, &'a [u8])> {
    let (dir, name) = path.rsplit_once('/').expect("absolute");
    let attr = client.stat(dir).map_err(|error| error.errno())?;
    if attr.is_dir() { Ok((attr.ino, name.as_bytes())) } else { Err(libc::ENOTDIR) }
}

fn exchange(client: &Client, one: &str, other: &str) -> Outcome<()> {
    let (one, other) = (parent(client, one)?, parent(client, other)?);
    let done = client.rename(&Caller::ROOT, one.0, one.1, other.0, other.1, false, true);
    done.map_err(|error| error.errno())
}
