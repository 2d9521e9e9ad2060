//! The shared tier, and an old one that things move away from: whatever concerns a directory of the old one goes there, and only looks.
//!
//! # Invariants
//! - Nothing is ever changed in the old tier (`the_old_tier_is_only_looked_at`; `tests/flush`: `a_tree_moves_while_it_is_used`).
//! - What is listed and read is the directory that was attached: another one under its path, such as the place where it is not mounted, is an error and
//!   never an empty tree (`another_directory_under_the_path_is_an_error`).

use std::sync::Arc;

use bytes::Bytes;
use fs_proto::ServerId;
use parking_lot::RwLock;

use super::{
    Attributes, Base, Destination, Dir, Facts, Fill, Found, Make, Place, Publication, Staged, Stripes,
    TakeListed, Tier, TierError, TierFile, TierResult,
};

/// Said of a directory under the old tier's path that is not the one.
pub const ANOTHER: &str = "the old tier is another than the one that the migration began with; mount its directory again, or start the servers with the environment of before";

/// An old tier.
#[derive(Clone)]
pub struct Old {
    /// Lists and reads.
    pub tier: Arc<dyn Tier>,
    /// Number of its directory.
    pub id: u64,
}

/// Both.
pub struct Both {
    new: Arc<dyn Tier>,
    old: RwLock<Option<Old>>,
}

/// A directory of the old tier. Names in it may be paths.
struct OldDir(Dir);

/// There is no old tier.
pub fn none() -> TierError {
    TierError::Missing("there is no old tier any more".to_owned())
}

fn only_read() -> TierError {
    TierError::Failed("the old tier is only read".to_owned())
}

impl Both {
    /// A tier, and no old one yet.
    pub fn new(new: Arc<dyn Tier>) -> Self {
        Both { new, old: RwLock::default() }
    }

    /// From now on this is the old tier, or there is none.
    pub fn set_old(&self, old: Option<Old>) {
        *self.old.write() = old;
    }

    /// Whether things move away from an old tier.
    pub fn has_old(&self) -> bool {
        self.old.read().is_some()
    }

    /// The root of the old tier: [`Place`]s in it have paths for names.
    pub fn old_root(&self) -> TierResult<Dir> {
        let old = self.old()?;
        let dir = old.tier.base(Base::Root).map_err(|error| TierError::Failed(error.to_string()))?;
        if dir.id != old.id {
            return Err(TierError::Failed(ANOTHER.to_owned()));
        }
        Ok(Dir::new(dir.id, OldDir(dir)))
    }

    fn old(&self) -> TierResult<Old> {
        self.old.read().clone().ok_or_else(none)
    }

    /// For a place in the old tier, that tier and the place there.
    fn in_old(&self, at: &Place) -> TierResult<Option<(Arc<dyn Tier>, Place)>> {
        let Some(OldDir(root)) = at.dir.handle() else { return Ok(None) };
        let (old, mut dir) = (self.old()?.tier, root.clone());
        let mut above: Vec<Bytes> = at.name.split(|byte| *byte == b'/').map(Bytes::copy_from_slice).collect();
        let name = above.pop().unwrap_or_default();
        for name in above {
            dir = old.open_dir(&Place { dir, name })?;
        }
        Ok(Some((old, Place { dir, name })))
    }

    /// The shared tier, for a place there.
    fn in_new(&self, at: &Place) -> TierResult<&dyn Tier> {
        if at.dir.handle::<OldDir>().is_some() { Err(only_read()) } else { Ok(self.new.as_ref()) }
    }
}

impl Tier for Both {
    fn facts(&self) -> Facts {
        self.new.facts()
    }

    fn base(&self, base: Base) -> TierResult<Dir> {
        self.new.base(base)
    }

    fn open_dir(&self, at: &Place) -> TierResult<Dir> {
        match self.in_old(at)? {
            Some((_, place)) if &place.name[..] == b"." => Ok(Dir::new(place.dir.id, OldDir(place.dir))),
            Some((old, place)) => old.open_dir(&place).map(|dir| Dir::new(dir.id, OldDir(dir))),
            None => self.new.open_dir(at),
        }
    }

    fn look(&self, at: &Place) -> TierResult<Option<Found>> {
        match self.in_old(at) {
            Ok(Some((old, place))) => old.look(&place),
            Ok(None) => self.new.look(at),
            // One of the directories above it went.
            Err(TierError::Missing(_) | TierError::Occupied(_)) if self.has_old() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, dir: &Dir, take: TakeListed<'_>) -> TierResult<()> {
        match dir.handle() {
            Some(OldDir(dir)) => self.old()?.tier.list(dir, take),
            None => self.new.list(dir, take),
        }
    }

    fn read(&self, at: &Place, wanted: &Found, offset: u64, out: &mut [u8]) -> TierResult<()> {
        match self.in_old(at)? {
            Some((old, place)) => old.read(&place, wanted, offset, out),
            None => self.new.read(at, wanted, offset, out),
        }
    }

    fn make(&self, at: &Place, what: &Make) -> TierResult<u64> {
        match what {
            Make::Link { of } => self.in_new(of).and(self.in_new(at))?.make(at, what),
            _ => self.in_new(at)?.make(at, what),
        }
    }

    fn stage(&self, at: &Place, size: u64, to: &Destination, fill: Fill<'_>) -> TierResult<Staged> {
        self.in_new(at)?.stage(at, size, to, fill)
    }

    fn publish(&self, new: Publication<'_>) -> TierResult<Option<Staged>> {
        self.in_new(new.at)?.publish(new)
    }

    fn shows_staged(&self) -> bool {
        self.new.shows_staged()
    }

    fn stripes(&self, at: &Place) -> TierResult<Option<Stripes>> {
        self.in_new(at)?.stripes(at)
    }

    fn open_file(&self, at: &Place) -> TierResult<Box<dyn TierFile>> {
        self.in_new(at)?.open_file(at)
    }

    fn collect(&self, at: &Place, receipts: &[Bytes]) -> TierResult<()> {
        self.in_new(at)?.collect(at, receipts)
    }

    fn set(&self, at: &Place, id: u64, attributes: &Attributes) -> TierResult<()> {
        self.in_new(at)?.set(at, id, attributes)
    }

    fn rename(&self, from: &Place, to: &Place) -> TierResult<()> {
        self.in_new(from).and(self.in_new(to))?.rename(from, to)
    }

    fn move_directory(&self, id: u64, from: &Place, to: &Place) -> TierResult<bool> {
        self.in_new(from).and(self.in_new(to))?.move_directory(id, from, to)
    }

    fn undo_move(&self, to: &Place) -> TierResult<()> {
        self.in_new(to)?.undo_move(to)
    }

    fn remove(&self, at: &Place, is_dir: bool) -> TierResult<()> {
        self.in_new(at)?.remove(at, is_dir)
    }

    fn rest(&self, me: ServerId) -> TierResult<bool> {
        self.new.rest(me)
    }

    fn reset(&self) {
        self.new.reset();
        if let Ok(old) = self.old() {
            old.tier.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServerConfig;
    use crate::tier::posix::Posix;
    use fs_net::Secret;
    use std::path::Path;

    /// An old tier at `old` and the shared one at `new`, both in a directory.
    fn both(dir: &Path) -> Both {
        for name in ["old/a", "new"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        std::fs::write(dir.join("old/a/f"), "old").unwrap();
        let config =
            ServerConfig::new(ServerId(0), "job".to_owned(), Secret::from_raw([1; 32]), dir.join("store"));
        let both = Both::new(Arc::new(Posix::open(&dir.join("new"), &config).unwrap()));
        let tier = Posix::reading(&dir.join("old"), &config);
        let id = tier.base(Base::Root).unwrap().id;
        both.set_old(Some(Old { tier: Arc::new(tier), id }));
        both
    }

    fn place(dir: &Dir, name: &'static str) -> Place {
        Place::new(dir, &Bytes::from_static(name.as_bytes()))
    }

    #[test]
    fn the_old_tier_is_only_looked_at() {
        // Goal: paths are found, and whatever would change something there is refused. Method: each call that changes, on places of the old tier.
        let dir = tempfile::tempdir().unwrap();
        let both = both(dir.path());
        let old = both.old_root().unwrap();
        let found = both.look(&place(&old, "a/f")).unwrap().unwrap();
        let mut read = [0; 3];
        both.read(&place(&old, "a/f"), &found, 0, &mut read).unwrap();
        assert_eq!(&read, b"old");
        assert!(both.look(&place(&old, "none/f")).unwrap().is_none());
        let a = both.open_dir(&place(&old, "a")).unwrap();
        let mut names = Vec::new();
        both.list(&a, &mut |page| {
            names.extend(page.into_iter().map(|listed| listed.name));
            true
        })
        .unwrap();
        assert_eq!(names, ["f"]);
        let (there, new) = (place(&a, "f"), both.base(Base::Root).unwrap());
        let here = place(&new, "f");
        assert!(both.remove(&there, false).is_err() && both.open_file(&there).is_err());
        assert!(both.rename(&there, &here).is_err() && both.rename(&here, &there).is_err());
        assert!(both.set(&there, found.id, &Attributes::default()).is_err());
        assert!(both.make(&place(&a, "g"), &Make::Directory).is_err());
        assert!(both.make(&here, &Make::Link { of: there.clone() }).is_err());
        assert_eq!(std::fs::read_dir(dir.path().join("old/a")).unwrap().count(), 1);
        both.set_old(None);
        assert!(both.old_root().is_err() && both.look(&there).is_err());
    }

    #[test]
    fn another_directory_under_the_path_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let both = both(dir.path());
        std::fs::rename(dir.path().join("old"), dir.path().join("away")).unwrap();
        std::fs::create_dir(dir.path().join("old")).unwrap();
        both.reset();
        assert!(matches!(both.old_root(), Err(TierError::Failed(_))));
        std::fs::remove_dir(dir.path().join("old")).unwrap();
        both.reset();
        assert!(matches!(both.old_root(), Err(TierError::Failed(_))));
    }
}
