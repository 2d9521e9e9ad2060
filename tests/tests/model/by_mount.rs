//! By the system calls of a program on a mount.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FallocateFlags, RenameFlags, SeekFrom, XattrFlags};

use crate::access::{Access, Outcome};
use crate::steps::{Step, Zeros, xattr_name};

/// Where it is mounted.
pub struct AtMount {
    pub dir: PathBuf,
    /// Files that stay open are published with each write: others see it at once only where no home is restarted.
    pub publishes: bool,
}

fn errno(error: impl Into<io::Error>) -> i32 {
    error.into().raw_os_error().expect("from the operating system")
}

impl AtMount {
    fn at(&self, path: &str) -> PathBuf {
        self.dir.join(path.trim_start_matches('/'))
    }

    fn change(&self, path: &str, change: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        change(&OpenOptions::new().write(true).open(self.at(path))?)
    }

    fn carry_out(&self, step: &Step) -> io::Result<()> {
        match step {
            Step::Mkdir(path) => fs::create_dir(self.at(path)),
            Step::Write(path, offset, data) => {
                let file = OpenOptions::new().write(true).create(true).truncate(false).open(self.at(path))?;
                file.write_all_at(data, *offset)
            }
            Step::Put(path, data) => fs::write(self.at(path), data),
            Step::Zero(path, offset, len, how) => self.change(path, |file| {
                let mode = match how {
                    Zeros::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    Zeros::KeepSize => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                    Zeros::Reach => FallocateFlags::ZERO_RANGE,
                };
                Ok(rustix::fs::fallocate(file, mode, *offset, *len)?)
            }),
            Step::SetXattr(path, name, value) => self.change(path, |file| {
                Ok(rustix::fs::fsetxattr(file, xattr_name(*name), value, XattrFlags::empty())?)
            }),
            Step::RemoveXattr(path, name) => {
                self.change(path, |file| Ok(rustix::fs::fremovexattr(file, xattr_name(*name))?))
            }
            Step::Truncate(path, size) => Ok(truncate(&self.at(path), *size)?),
            Step::Remove(path) => Ok(rustix::fs::unlink(self.at(path))?),
            Step::Rmdir(path) => fs::remove_dir(self.at(path)),
            Step::Rename(from, to) => fs::rename(self.at(from), self.at(to)),
            Step::Exchange(one, other) => {
                let (one, other) = (self.at(one), self.at(other));
                Ok(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
            }
            Step::Link(from, to) => fs::hard_link(self.at(from), self.at(to)),
            Step::Restart(_) | Step::Keep(..) | Step::WriteKept(..) | Step::ReadKept(..) => Ok(()),
        }
    }
}

/// By a descriptor: the model looks at a file in the order of open(2).
fn truncate(path: &Path, size: u64) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.set_len(size)
}

impl Access for AtMount {
    type File = File;

    const SAME_REFUSALS: bool = false;

    fn attempt(&self, step: &Step) -> Outcome<()> {
        self.carry_out(step).map_err(errno)
    }

    fn open(&self, path: &str, writes: bool) -> Outcome<File> {
        OpenOptions::new().read(true).write(writes).open(self.at(path)).map_err(errno)
    }

    fn write(&self, file: &File, offset: u64, data: &[u8]) {
        file.write_all_at(data, offset).expect("write");
        if self.publishes {
            file.sync_data().expect("fsync");
        }
    }

    fn read(&self, file: &File, offset: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0xee; len];
        let mut got = 0;
        while got < len {
            match file.read_at(&mut buf[got..], offset + got as u64).expect("read") {
                0 => break,
                more => got += more,
            }
        }
        buf.truncate(got);
        buf
    }

    fn seek(&self, file: &File, at: u64, data: bool) -> Option<u64> {
        match rustix::fs::seek(file, if data { SeekFrom::Data(at) } else { SeekFrom::Hole(at) }) {
            Err(rustix::io::Errno::NXIO) => None,
            found => Some(found.expect("seek")),
        }
    }

    fn list(&self, dir: &str) -> Vec<(String, bool)> {
        let entries = fs::read_dir(self.at(dir)).expect("list").map(|entry| entry.expect("an entry"));
        let named = entries.map(|entry| {
            (entry.file_name().into_string().expect("UTF-8"), entry.file_type().expect("a type").is_dir())
        });
        named.collect()
    }

    fn size_and_links(&self, path: &str) -> (usize, usize) {
        let attr = fs::symlink_metadata(self.at(path)).expect("stat");
        (attr.size() as usize, attr.nlink() as usize)
    }

    fn get(&self, path: &str) -> Vec<u8> {
        fs::read(self.at(path)).expect("read")
    }

    fn xattrs(&self, path: &str) -> BTreeMap<String, Vec<u8>> {
        let path = self.at(path);
        let mut list = vec![0; 1024];
        let len = rustix::fs::listxattr(&path, &mut list[..]).expect("list");
        let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let valued = names.map(|name| {
            let mut value = vec![0; 1024];
            let len = rustix::fs::getxattr(&path, name, &mut value[..]).expect("an attribute");
            value.truncate(len);
            (String::from_utf8(name.to_vec()).expect("UTF-8"), value)
        });
        valued.collect()
    }
}
