//! A file system in memory that notes what it is asked, and when on its task's clock: for tests of options whose effect is a call, or none.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use super::{Attributes, Backend, Capacity, IoFailure, IoResult, Listed, OpenFile, OpenHow, Storage};
use crate::clock::{now_ns, skipped};

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `open`, `write`, `read`, `sync`, `close`, `unlink`, `sync_host`.
    pub what: &'static str,
    /// Of which open file, from 1; 0: of a name.
    pub handle: usize,
    /// When, by the clock of the task.
    pub at_ns: u64,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    files: HashMap<String, Vec<u8>>,
    opened: Vec<(String, OpenHow, ThreadId)>,
    resident_bytes: u64,
}

/// See the module. Copies share everything.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    /// How long each write takes, by the clock of its task.
    pub write_takes: Duration,
    /// How long each sync does.
    pub sync_takes: Duration,
    /// Opening a path that ends so waits until somebody has written; for as long as this at most, by the real clock.
    pub slow_open: Option<(&'static str, Duration)>,
    state: Arc<(Mutex<State>, Condvar)>,
}

struct FakeFile {
    fake: Fake,
    path: String,
    handle: usize,
}

impl Fake {
    /// One that is not like others.
    pub fn with(change: impl FnOnce(&mut Fake)) -> Fake {
        let mut fake = Fake::default();
        change(&mut fake);
        fake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a task: waiting takes no time in its thread from now on.
    pub fn for_task(&self) -> Fake {
        skipped::begin();
        self.clone()
    }

    /// A file that is there before.
    pub fn put(&self, path: &str, content: Vec<u8>) {
        self.state().files.insert(path.to_owned(), content);
    }

    /// How many bytes a file has.
    pub fn size(&self, path: &str) -> Option<usize> {
        self.state().files.get(path).map(Vec::len)
    }

    /// Everything that was asked, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// What was asked of one open file, in order.
    pub fn calls_of(&self, handle: usize) -> Vec<&'static str> {
        self.calls().iter().filter(|call| call.handle == handle).map(|call| call.what).collect()
    }

    /// How often something was asked.
    pub fn count(&self, what: &str) -> usize {
        self.calls().iter().filter(|call| call.what == what).count()
    }

    /// How files were opened, by handle from 1.
    pub fn opened(&self) -> Vec<OpenHow> {
        self.state().opened.iter().map(|(_, how, _)| *how).collect()
    }

    /// What each task opened, in its order, by the first thing it opened.
    pub fn opened_by_tasks(&self) -> Vec<Vec<String>> {
        let state = self.state();
        let mut tasks: Vec<(ThreadId, Vec<String>)> = Vec::new();
        for (path, _, thread) in &state.opened {
            match tasks.iter_mut().find(|(of, _)| of == thread) {
                Some((_, paths)) => paths.push(path.clone()),
                None => tasks.push((*thread, vec![path.clone()])),
            }
        }
        let mut all: Vec<Vec<String>> = tasks.into_iter().map(|(_, paths)| paths).collect();
        all.sort();
        all
    }

    /// The most memory that this process had at a write.
    pub fn resident_bytes(&self) -> u64 {
        self.state().resident_bytes
    }

    fn note(&self, what: &'static str, handle: usize) {
        self.state().calls.push(Call { what, handle, at_ns: now_ns() });
        self.state.1.notify_all();
    }

    fn wait_for_a_write(&self, longest: Duration) {
        let none = |state: &mut State| !state.calls.iter().any(|call| call.what == "write");
        drop(self.state.1.wait_timeout_while(self.state(), longest, none));
    }
}

/// Memory of this process that is there.
pub fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

fn missing(path: &str) -> IoFailure {
    IoFailure {
        action: "cannot find",
        path: path.to_owned(),
        why: "no such file".to_owned(),
        not_found: true,
    }
}

impl Backend for Fake {
    fn open(&self, path: &str, how: OpenHow) -> IoResult<Box<dyn OpenFile>> {
        if let Some((_, longest)) = self.slow_open.filter(|(end, _)| path.ends_with(end)) {
            self.wait_for_a_write(longest);
        }
        let handle = {
            let mut state = self.state();
            if how.create {
                state.files.entry(path.to_owned()).or_default();
            } else if !state.files.contains_key(path) {
                return Err(missing(path));
            }
            state.opened.push((path.to_owned(), how, std::thread::current().id()));
            state.opened.len()
        };
        self.note("open", handle);
        Ok(Box::new(FakeFile { fake: self.clone(), path: path.to_owned(), handle }))
    }

    fn make_file(&self, path: &str) -> IoResult<()> {
        self.put(path, Vec::new());
        Ok(())
    }

    fn stat(&self, path: &str) -> IoResult<Attributes> {
        let bytes = self.size(path).ok_or_else(|| missing(path))? as u64;
        Ok(Attributes { bytes, ..Attributes::default() })
    }

    fn unlink(&self, path: &str) -> IoResult<()> {
        self.note("unlink", 0);
        self.state().files.remove(path).map(drop).ok_or_else(|| missing(path))
    }

    fn mkdir(&self, _path: &str) -> IoResult<()> {
        Ok(())
    }

    fn rmdir(&self, _path: &str) -> IoResult<()> {
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> IoResult<()> {
        let mut state = self.state();
        let content = state.files.remove(from).ok_or_else(|| missing(from))?;
        state.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn list(&self, _dir: &str) -> IoResult<Vec<Listed>> {
        Ok(Vec::new())
    }

    fn capacity(&self, _path: &str) -> IoResult<Capacity> {
        Ok(Capacity::default())
    }

    fn storage(&self, _path: &str) -> Storage {
        Storage::Local
    }

    fn sync_host(&self) -> IoResult<()> {
        skipped::wait(self.sync_takes);
        self.note("sync_host", 0);
        Ok(())
    }
}

impl OpenFile for FakeFile {
    fn write_at(&self, data: &[u8], offset: u64) -> IoResult<()> {
        skipped::wait(self.fake.write_takes);
        let resident = resident_bytes();
        {
            let mut state = self.fake.state();
            state.resident_bytes = state.resident_bytes.max(resident);
            let (from, to) = (offset as usize, offset as usize + data.len());
            let content = state.files.entry(self.path.clone()).or_default();
            content.resize(content.len().max(to), 0);
            content[from..to].copy_from_slice(data);
        }
        self.fake.note("write", self.handle);
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> IoResult<usize> {
        self.fake.note("read", self.handle);
        let state = self.fake.state();
        let content = state.files.get(&self.path).ok_or_else(|| missing(&self.path))?;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let bytes = rest.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&rest[..bytes]);
        Ok(bytes)
    }

    fn sync(&self) -> IoResult<()> {
        skipped::wait(self.fake.sync_takes);
        self.fake.note("sync", self.handle);
        Ok(())
    }

    fn close(self: Box<Self>) -> IoResult<()> {
        self.fake.note("close", self.handle);
        Ok(())
    }
}
