//! Layouts of files on Lustre, set without its library: an extended attribute on a file that was made without objects.
//!
//! ```text
//! lov_user_md v1, 32 bytes, little endian
//! u32 magic 0x0BD10BD0   u32 pattern (1: RAID0, 0x200: several stripes on one target)   16 zero bytes
//! u32 stripe size in bytes, a multiple of 64 KiB   u16 stripes   u16 first target (0xffff: any)
//! ```
//! v3 (magic 0x0BD30BD0) has the same fields, and a pool's name behind them. The kernel turns "exists already" into success, so the layout is
//! read back. Who writes what of a large file follows from what was read (`flush/parts.rs`, decision 0045). Tried against a fake of the system
//! calls only: no Lustre was at hand.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{self, Mode, OFlags, XattrFlags};
use rustix::io::{self, Errno};

use crate::tier::Stripes;

/// What statfs says of Lustre.
pub const LUSTRE: u64 = 0x0BD0_0BD0;
/// In the environment of servers: where layouts come from.
const WHOSE: &str = "HAYATE_LUSTRE_LAYOUT";
const MAGIC_V1: u32 = 0x0BD1_0BD0;
const MAGIC_V3: u32 = 0x0BD3_0BD0;
const RAID0: u32 = 1;
const OVERSTRIPING: u32 = 0x200;
const ANY_TARGET: u16 = 0xffff;
const BLOB: usize = 32;
/// A file without objects: they come with its layout, or at the first write. `O_LOV_DELAY_CREATE`.
const DELAYED: OFlags = OFlags::from_bits_retain((libc::O_NOCTTY | libc::O_ASYNC) as u32);
/// Smaller files get what their directory says.
const SMALL: u64 = 64 << 10;
const LARGE: u64 = 1 << 30;
const STRIPE: u32 = 16 << 20;
/// A count that only wishes: one on each target.
const ALL_TARGETS: u16 = 0xffff;
/// Most stripes of a file.
const STRIPES_MAX: u64 = 2_000;

/// The system calls: what a test replaces.
pub trait Calls: Send + Sync {
    /// The kind of file system that a directory is on.
    fn fs_type(&self, dir: &OwnedFd) -> io::Result<u64>;
    /// Makes a file.
    fn create(&self, dir: &OwnedFd, name: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd>;
    /// Sets a layout.
    fn set(&self, file: &OwnedFd, blob: &[u8]) -> io::Result<()>;
    /// Reads it back; returns its bytes.
    fn get(&self, file: &OwnedFd, blob: &mut [u8]) -> io::Result<usize>;
    /// Opens a file that is there.
    fn open(&self, dir: &OwnedFd, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        fs::openat(dir, name, flags, Mode::empty())
    }
    /// Writes some of `data` into a file of a Lustre; returns how much. `is_direct`: the file was opened with `O_DIRECT`.
    fn write(&self, file: &OwnedFd, data: &[u8], offset: u64, is_direct: bool) -> io::Result<usize> {
        let _ = is_direct;
        io::pwrite(file, data, offset)
    }
}

/// The real ones.
pub struct Kernel;

impl Calls for Kernel {
    fn fs_type(&self, dir: &OwnedFd) -> io::Result<u64> {
        Ok(fs::fstatfs(dir)?.f_type as u64)
    }
    fn create(&self, dir: &OwnedFd, name: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        fs::openat(dir, name, flags, mode)
    }
    fn set(&self, file: &OwnedFd, blob: &[u8]) -> io::Result<()> {
        fs::fsetxattr(file, "lustre.lov", blob, XattrFlags::empty())
    }
    fn get(&self, file: &OwnedFd, blob: &mut [u8]) -> io::Result<usize> {
        fs::fgetxattr(file, "lustre.lov", blob)
    }
}

/// Stripes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    stripe_bytes: u32,
    stripes: u16,
}

impl Layout {
    /// For a file of `size` bytes; None leaves what its directory says. One to four stripes below 1 GiB, above one more for each GiB.
    fn of(size: u64) -> Option<Layout> {
        if size < SMALL {
            return None;
        }
        let stripes = if size < LARGE { size.div_ceil(LARGE / 4) } else { 4 + size / LARGE };
        Some(Layout { stripe_bytes: STRIPE, stripes: stripes.min(STRIPES_MAX) as u16 })
    }

    fn blob(self, pattern: u32) -> [u8; BLOB] {
        let mut blob = [0; BLOB];
        blob[..4].copy_from_slice(&MAGIC_V1.to_le_bytes());
        blob[4..8].copy_from_slice(&pattern.to_le_bytes());
        blob[24..28].copy_from_slice(&self.stripe_bytes.to_le_bytes());
        blob[28..30].copy_from_slice(&self.stripes.to_le_bytes());
        blob[30..].copy_from_slice(&ANY_TARGET.to_le_bytes());
        blob
    }

    /// Those of plain layouts; composite ones, of which each part of a file has its own, are not told.
    fn from_blob(blob: &[u8]) -> Option<Layout> {
        let magic = blob.get(..4)?.try_into().ok().map(u32::from_le_bytes)?;
        if magic != MAGIC_V1 && magic != MAGIC_V3 {
            return None;
        }
        let stripe_bytes = blob.get(24..28)?.try_into().ok().map(u32::from_le_bytes)?;
        let stripes = blob.get(28..30)?.try_into().ok().map(u16::from_le_bytes)?;
        Some(Layout { stripe_bytes, stripes })
    }
}

/// Makes files with layouts where that is possible.
pub struct Lustre {
    calls: Arc<dyn Calls>,
    /// Files get the layout of their directory, and none of ours.
    keeps: bool,
    /// Whether it is Lustre; unknown at first.
    is_there: Mutex<Option<bool>>,
    told: AtomicBool,
}

impl Lustre {
    /// With these system calls, and with the layouts that the environment says.
    pub fn new(calls: Arc<dyn Calls>) -> Self {
        let keeps = std::env::var_os(WHOSE).is_some_and(|whose| whose == "directory");
        Lustre { calls, keeps, is_there: Mutex::new(None), told: AtomicBool::new(false) }
    }

    /// The system calls.
    pub fn calls(&self) -> &Arc<dyn Calls> {
        &self.calls
    }

    /// Makes a file that will have `size` bytes.
    pub fn create(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        size: u64,
        flags: OFlags,
        mode: Mode,
    ) -> io::Result<OwnedFd> {
        let Some(layout) = Layout::of(size).filter(|_| !self.keeps && self.is_there(dir)) else {
            return self.calls.create(dir, name, flags, mode);
        };
        let file = self.calls.create(dir, name, flags | DELAYED, mode)?;
        match self.lay_out(&file, layout) {
            Ok(found) if found == layout => {}
            Ok(found) => self.tell(&format!("{layout:?} was wanted and {found:?} is there")),
            Err(Errno::OPNOTSUPP) => *self.is_there.lock() = Some(false),
            Err(error) => self.tell(&error.to_string()),
        }
        Ok(file)
    }

    /// The stripes of a file, as its layout is read now; None if they are not known.
    pub fn stripes(&self, dir: &OwnedFd, name: &[u8]) -> Option<Stripes> {
        if !self.is_there(dir) {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let read = self.calls.open(dir, name, flags).and_then(|file| self.read_layout(&file));
        match read {
            Ok(layout) if layout.stripe_bytes == 0 || matches!(layout.stripes, 0 | ALL_TARGETS) => None,
            Ok(layout) => Some(Stripes {
                stripe_bytes: u64::from(layout.stripe_bytes),
                count: u64::from(layout.stripes),
            }),
            Err(error) => {
                tracing::debug!(%error, "the layout of a staged file cannot be read");
                None
            }
        }
    }

    /// Whether a directory is on Lustre; looked at once.
    pub fn is_there(&self, dir: &OwnedFd) -> bool {
        let mut known = self.is_there.lock();
        *known.get_or_insert_with(|| self.calls.fs_type(dir).is_ok_and(|kind| kind == LUSTRE))
    }

    /// Sets a layout, with several stripes on one target if there are too few; returns what is there then.
    fn lay_out(&self, file: &OwnedFd, layout: Layout) -> io::Result<Layout> {
        match self.calls.set(file, &layout.blob(RAID0 | OVERSTRIPING)) {
            // Releases before 2.13 know no such pattern.
            Err(Errno::INVAL) => self.calls.set(file, &layout.blob(RAID0))?,
            outcome => outcome?,
        }
        self.read_layout(file)
    }

    fn read_layout(&self, file: &OwnedFd) -> io::Result<Layout> {
        // More than a v1 header: the objects follow.
        let mut blob = vec![0; 64 << 10];
        let len = self.calls.get(file, &mut blob)?;
        Layout::from_blob(&blob[..len]).ok_or(Errno::RANGE)
    }

    /// Says once that layouts are not as wanted: files are written all the same.
    fn tell(&self, reason: &str) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(reason, "files in the shared tier have not the layout that was asked of Lustre");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Lustre that does what a test says.
    #[derive(Default)]
    struct Fake {
        kind: u64,
        refuses: Option<Errno>,
        knows_no_overstriping: bool,
        keeps: Option<[u8; BLOB]>,
        log: Arc<Mutex<Vec<String>>>,
        stored: Mutex<Vec<u8>>,
    }

    impl Calls for Fake {
        fn fs_type(&self, _: &OwnedFd) -> io::Result<u64> {
            self.log.lock().push("statfs".to_owned());
            Ok(self.kind)
        }
        fn create(&self, dir: &OwnedFd, name: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
            let how = if flags.contains(DELAYED) { "delayed" } else { "plain" };
            self.log.lock().push(format!("create {how}"));
            Kernel.create(dir, name, flags.difference(DELAYED), mode)
        }
        fn set(&self, _: &OwnedFd, blob: &[u8]) -> io::Result<()> {
            self.log.lock().push(format!("set {}", hex::encode(blob)));
            if self.knows_no_overstriping && blob[5] == 2 {
                return Err(Errno::INVAL);
            }
            *self.stored.lock() = self.keeps.map_or_else(|| blob.to_vec(), |kept| kept.to_vec());
            self.refuses.map_or(Ok(()), Err)
        }
        fn get(&self, _: &OwnedFd, blob: &mut [u8]) -> io::Result<usize> {
            let stored = self.stored.lock();
            blob[..stored.len()].copy_from_slice(&stored);
            Ok(stored.len())
        }
    }

    /// Makes files of these sizes; returns what was called.
    fn calls(fake: Fake, sizes: &[u64]) -> (Vec<String>, bool) {
        let dir = tempfile::tempdir().unwrap();
        let handle = fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let (log, lustre) = (Arc::clone(&fake.log), Lustre::new(Arc::new(fake)));
        for (index, size) in sizes.iter().enumerate() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            lustre.create(&handle, format!("f{index}").as_bytes(), *size, flags, Mode::RUSR).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), sizes.len());
        let log = log.lock().clone();
        (log, lustre.told.load(Ordering::Relaxed))
    }

    /// `lov_user_md` of so many stripes of 16 MiB.
    fn blob(pattern: &str, stripes: &str) -> String {
        format!("set d00bd10b{pattern}0000{}00000001{stripes}ffff", "0".repeat(32))
    }

    #[test]
    fn golden_layouts_are_set_on_lustre_only() {
        // Goal: the bytes of TIER2's layout, for sizes around the borders; no call but one statfs elsewhere.
        let lustre = || Fake { kind: LUSTRE, ..Fake::default() };
        let (log, told) = calls(lustre(), &[SMALL - 1, SMALL, LARGE - 1, 10 * LARGE, 1 << 50]);
        let sets: Vec<_> = log.iter().filter(|call| call.starts_with("set")).cloned().collect();
        let expected = ["0100", "0400", "0e00", "d007"].map(|stripes| blob("0102", stripes));
        assert_eq!((sets, told), (expected.to_vec(), false));
        assert_eq!(log[..3], ["create plain", "statfs", "create delayed"]);
        let (log, _) = calls(Fake::default(), &[LARGE, LARGE]);
        assert_eq!(log, ["statfs", "create plain", "create plain"]);
    }

    #[test]
    fn what_an_older_or_another_lustre_says_is_taken() {
        // Goal: without overstriping the plain pattern is set; refused layouts leave a file; one that was not taken is told.
        let older = Fake { kind: LUSTRE, knows_no_overstriping: true, ..Fake::default() };
        let (log, told) = calls(older, &[LARGE / 4]);
        assert_eq!((&log[3..], told), (&[blob("0100", "0100")][..], false));
        let refuses = Fake { kind: LUSTRE, refuses: Some(Errno::OPNOTSUPP), ..Fake::default() };
        let (log, told) = calls(refuses, &[LARGE, LARGE]);
        assert_eq!((&log[3..], told), (&["create plain".to_owned()][..], false));
        let other = Layout { stripe_bytes: 1 << 20, stripes: 1 }.blob(RAID0);
        let keeps = Fake { kind: LUSTRE, keeps: Some(other), ..Fake::default() };
        assert!(calls(keeps, &[LARGE]).1);
        let fails = Fake { kind: LUSTRE, refuses: Some(Errno::ACCESS), ..Fake::default() };
        assert!(calls(fails, &[LARGE]).1);
    }

    #[test]
    fn objects_are_what_is_read_back() {
        // Goal: who writes what follows from the layout that is there and from nothing else: plain ones of both versions count, those that are composite, have no
        // objects yet, or cannot be read do not; and no other file system is asked.
        let dir = tempfile::tempdir().unwrap();
        let handle = fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        let read = |kind, blob: &[u8]| {
            let fake = Fake { kind, stored: Mutex::new(blob.to_vec()), ..Fake::default() };
            Lustre::new(Arc::new(fake)).stripes(&handle, b"f")
        };
        let layout = Layout { stripe_bytes: 4 << 20, stripes: 7 };
        let plain = layout.blob(RAID0);
        let with_pool = [&MAGIC_V3.to_le_bytes(), &plain[4..], &[b'p'; 16]].concat();
        let expected = Some(Stripes { stripe_bytes: 4 << 20, count: 7 });
        assert_eq!([read(LUSTRE, &plain), read(LUSTRE, &with_pool)], [expected, expected]);
        let composite = [&0x0BD6_0BD0_u32.to_le_bytes(), &plain[4..]].concat();
        let wish = Layout { stripes: ALL_TARGETS, ..layout }.blob(RAID0);
        let none = Layout { stripes: 0, ..layout }.blob(RAID0);
        for blob in [&composite[..], &wish, &none, &plain[..20], &[]] {
            assert_eq!(read(LUSTRE, blob), None, "{}", hex::encode(blob));
        }
        assert_eq!(read(0xEF53, &plain), None);
    }

    #[test]
    fn a_directorys_own_layout_is_kept_if_that_is_said() {
        let fake = Fake { kind: LUSTRE, ..Fake::default() };
        let log = Arc::clone(&fake.log);
        let lustre = Lustre { keeps: true, ..Lustre::new(Arc::new(fake)) };
        let dir = tempfile::tempdir().unwrap();
        let handle = fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        lustre.create(&handle, b"f", LARGE, OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).unwrap();
        assert_eq!(*log.lock(), ["create plain"]);
    }
}
