//! Nothing: the harness's own cost.
//!
//! Writes are dropped and reads leave the buffer as it is, so verification of reads finds wrong content, as it should.
//! Sizes are remembered, because a run asks for them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::{Attributes, Backend, Capacity, IoFailure, IoResult, Listed, OpenFile, OpenHow, Storage};

type Sizes = Rc<RefCell<HashMap<String, u64>>>;

/// A file system that stores nothing but sizes, for one task.
#[derive(Debug, Default)]
pub struct Null {
    sizes: Sizes,
}

struct NullFile {
    sizes: Sizes,
    path: String,
}

impl Backend for Null {
    fn open(&self, path: &str, how: OpenHow) -> IoResult<Box<dyn OpenFile>> {
        if how.create {
            self.sizes.borrow_mut().entry(path.to_owned()).or_insert(0);
        }
        // Files of other tasks are opened too: they exist, though this task cannot know.
        Ok(Box::new(NullFile { sizes: Rc::clone(&self.sizes), path: path.to_owned() }))
    }

    fn make_file(&self, path: &str) -> IoResult<()> {
        self.sizes.borrow_mut().entry(path.to_owned()).or_insert(0);
        Ok(())
    }

    fn stat(&self, path: &str) -> IoResult<Attributes> {
        let bytes = self.sizes.borrow().get(path).copied().unwrap_or(0);
        Ok(Attributes { bytes, ..Attributes::default() })
    }

    fn rename(&self, from: &str, to: &str) -> IoResult<()> {
        let mut sizes = self.sizes.borrow_mut();
        if let Some(bytes) = sizes.remove(from) {
            sizes.insert(to.to_owned(), bytes);
        }
        Ok(())
    }

    fn list(&self, _dir: &str) -> IoResult<Vec<Listed>> {
        Ok(Vec::new())
    }

    fn unlink(&self, path: &str) -> IoResult<()> {
        match self.sizes.borrow_mut().remove(path) {
            Some(_) => Ok(()),
            None => Err(IoFailure {
                action: "cannot remove",
                path: path.to_owned(),
                why: "no such file".to_owned(),
                not_found: true,
            }),
        }
    }

    fn mkdir(&self, _path: &str) -> IoResult<()> {
        Ok(())
    }

    fn rmdir(&self, _path: &str) -> IoResult<()> {
        Ok(())
    }

    fn storage(&self, _path: &str) -> Storage {
        Storage::Nothing
    }

    fn capacity(&self, _path: &str) -> IoResult<Capacity> {
        Ok(Capacity::default())
    }
}

impl OpenFile for NullFile {
    fn write_at(&self, data: &[u8], offset: u64) -> IoResult<()> {
        let mut sizes = self.sizes.borrow_mut();
        if let Some(size) = sizes.get_mut(&self.path) {
            *size = (*size).max(offset + data.len() as u64);
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], _offset: u64) -> IoResult<usize> {
        Ok(buffer.len())
    }

    fn sync(&self) -> IoResult<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> IoResult<()> {
        Ok(())
    }
}
