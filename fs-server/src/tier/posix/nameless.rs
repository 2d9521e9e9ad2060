//! Small files that get their name when they are complete (`O_TMPFILE` and `linkat`), on file systems of this machine: no entry of staging is made and
//! removed for them, and none is moved between directories, for which Linux lets only one thread of a file system in at a time.
//! `docs/decisions/0034-flush-of-small-files.md`.
//!
//! # Invariants
//! - Nothing is under the name before the file is whole, and what was there is replaced at once (`a_file_is_shown_whole_or_not_at_all`).
//! - A file system that cannot do this has it done in staging (`a_file_system_that_makes_no_nameless_files_has_them_staged`).

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use rustix::fs::{self, AtFlags, OFlags};
use rustix::io::{self, Errno};

use super::{Posix, failed, fd, not_made, staged_mode};
use crate::tier::{Place, Publication, Staged, Tier, TierResult};

/// What became of a file.
pub enum Shown {
    /// It is under its name.
    Yes(Staged),
    /// It is not wanted any more, and gone.
    NotWanted,
    /// To be staged: that cannot be done here.
    CannotBe,
}

impl Posix {
    pub(super) fn show_nameless(&self, new: &mut Publication<'_>) -> TierResult<Shown> {
        if self.is_remote || self.needs_names.load(Ordering::Relaxed) {
            return Ok(Shown::CannotBe);
        }
        let (at, to) = (new.at, new.to);
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = match fs::openat(fd(&at.dir)?, c".", flags, staged_mode(to)) {
            Ok(file) => file,
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
                return Ok(self.give_up_nameless());
            }
            Err(error) => return Err(not_made(at, error)),
        };
        let (file, staged) = self.complete(file, at, new.size, to, new.fill)?;
        if !(new.is_wanted)() {
            return Ok(Shown::NotWanted);
        }
        if link(&file, &to.place).is_ok() {
            return Ok(Shown::Yes(staged));
        }
        // Something is there, which only a rename replaces; or the directory is in the way, which the rename will say and mend.
        match link(&file, at) {
            Ok(()) => {
                self.rename(at, &to.place)?;
                Ok(Shown::Yes(staged))
            }
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => Err(failed("link", &at.name, error)),
            Err(_) => Ok(self.give_up_nameless()),
        }
    }

    pub(super) fn give_up_nameless(&self) -> Shown {
        self.needs_names.store(true, Ordering::Relaxed);
        Shown::CannotBe
    }
}

/// Needs the right to find what has no name (`CAP_DAC_READ_SEARCH`), or since Linux 6.10 to be who opened it.
fn link(file: &OwnedFd, to: &Place) -> io::Result<()> {
    let dir = fd(&to.dir).map_err(|_| Errno::BADF)?;
    fs::linkat(file, c"", dir, &to.name[..], AtFlags::EMPTY_PATH)
}

#[cfg(test)]
mod tests {
    //! Goal: a file is under its name whole or not at all, whatever is there and whatever the file system can. Method: real directories.
    use std::fs as std_fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    use rustix::fs::Mode;

    use super::super::tests::{Bench, ME};
    use super::*;
    use crate::tier::{Attributes, Destination, TierError, staging_name};

    impl Bench {
        /// Names in staging.
        fn names_staged(&self) -> Vec<String> {
            let staging = self.path(&staging_name("job/7", ME));
            let names = std_fs::read_dir(staging).unwrap();
            names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
        }

        /// Publishes `text` under a name; the names in staging while it is filled.
        fn publish(&self, name: &str, text: &str, is_wanted: bool) -> (TierResult<Option<Staged>>, usize) {
            let attributes = Attributes { mode: Some(0o4640), atime: 7, mtime: -5, ..Attributes::default() };
            let to = Destination { place: self.root(name), attributes };
            let mut names = 0;
            let mut fill = |file: &dyn crate::tier::TierFile| {
                names = self.names_staged().len();
                file.write_at(0, text.as_bytes())
            };
            let (at, size) = (self.staged("f-3-1"), text.len() as u64);
            let new = Publication { at: &at, size, to: &to, fill: &mut fill, is_wanted: &|| is_wanted };
            (self.tier.publish(new), names)
        }

        fn is_shown(&self, name: &str, text: &str, staged: Staged) {
            let meta = std_fs::metadata(self.path(name)).unwrap();
            assert_eq!(std_fs::read_to_string(self.path(name)).unwrap(), text);
            assert_eq!((meta.ino(), meta.nlink(), meta.mode() & 0o7777), (staged.id, 1, 0o4640));
            assert_eq!((meta.atime_nsec(), meta.mtime(), meta.mtime_nsec()), (7, -1, 999_999_995));
            assert_eq!(staged.found.unwrap().mtime, -5);
            assert!(self.names_staged().is_empty());
        }
    }

    /// Whether the temporary folder's file system makes nameless files and lets them get names.
    fn can_be_nameless(dir: &Path) -> bool {
        let flags = OFlags::WRONLY | OFlags::TMPFILE;
        let Ok(file) = fs::open(dir, flags, Mode::from_raw_mode(0o600)) else { return false };
        fs::linkat(&file, c"", fs::CWD, dir.join("linked"), AtFlags::EMPTY_PATH).is_ok()
    }

    #[test]
    fn a_file_is_shown_whole_or_not_at_all() {
        let bench = Bench::new();
        let elsewhere = tempfile::tempdir().unwrap();
        let expected = usize::from(!can_be_nameless(elsewhere.path()));
        let (shown, names) = bench.publish("a", "one", true);
        assert_eq!(names, expected, "names in staging");
        bench.is_shown("a", "one", shown.unwrap().unwrap());
        let (shown, _) = bench.publish("a", "second", false);
        assert_eq!(shown.unwrap(), None);
        assert_eq!(std_fs::read_to_string(bench.path("a")).unwrap(), "one");
        let (shown, _) = bench.publish("a", "third", true);
        bench.is_shown("a", "third", shown.unwrap().unwrap());
        let (shown, _) = bench.publish("empty", "", true);
        bench.is_shown("empty", "", shown.unwrap().unwrap());
        std_fs::create_dir(bench.path("d")).unwrap();
        std_fs::set_permissions(bench.path("d"), std_fs::Permissions::from_mode(0o755)).unwrap();
        let (shown, _) = bench.publish("d", "no directory", true);
        assert!(matches!(shown, Err(TierError::Occupied(_))), "{shown:?}");
        assert!(bench.path("d").is_dir());
    }

    #[test]
    fn a_file_system_that_makes_no_nameless_files_has_them_staged() {
        let bench = Bench::new();
        bench.tier.give_up_nameless();
        let (shown, names) = bench.publish("a", "one", true);
        assert_eq!(names, 1, "names in staging");
        bench.is_shown("a", "one", shown.unwrap().unwrap());
        let (shown, _) = bench.publish("a", "second", true);
        bench.is_shown("a", "second", shown.unwrap().unwrap());
    }
}
