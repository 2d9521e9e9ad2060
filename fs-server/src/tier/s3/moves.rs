//! Moving a directory: an object store has none, so every object below is copied to its new key and removed from the old one.
//!
//! Others may publish into the directory, remove from it and make directories in it meanwhile, through handles (here: keys) that are about
//! to be wrong. So a move is announced first, and whoever changed something looks afterwards ([`S3::confirm`]): first for announcements
//! that concern the directory, then for the directory itself. If one is found, or the directory is not, the change is taken back. A change
//! that saw neither was made before the mover listed the objects, so the move takes it along.
//!
//! A crash in the middle leaves the directory at its old place, as far as it has not moved; the move is repeated by whoever began it.

use xxhash_rust::xxh3::xxh3_64;

use super::client::Meta;
use super::keys::DIRECTORY;
use super::{PAGE, S3, S3Dir, meta};
use crate::tier::{TierError, TierResult};

const MOVED: &str = "its directory was moved or removed meanwhile; it is tried again in its new place";

impl S3 {
    fn announcements(&self) -> String {
        format!("{}.hayate-moving-{}/", self.target.prefix, crate::tier::plain_job(&self.job))
    }

    /// Beginning of the keys of this server's announcements.
    pub(super) fn own_announcements(&self) -> String {
        format!("{}{}-", self.announcements(), self.me.0)
    }

    /// Moves everything below `from` to below `to`: both are beginnings of keys and end with a slash.
    pub(super) fn move_all(&self, from: &str, to: &str) -> TierResult<()> {
        if to.starts_with(from) {
            return Err(TierError::BelowItself("a directory cannot move below itself".to_owned()));
        }
        let announcement = format!("{}{:016x}", self.own_announcements(), xxh3_64(from.as_bytes()));
        self.client.put(&announcement, &Meta::new(), from.as_bytes())?;
        let marker = format!("{from}{DIRECTORY}");
        while self.move_once(from, to, &marker)? {}
        self.client.copy(&marker, &format!("{to}{DIRECTORY}"), None)?;
        self.client.delete(&marker)?;
        self.client.delete(&announcement)
    }

    /// One round over all objects but the directory's own marker; true if there were any.
    fn move_once(&self, from: &str, to: &str, marker: &str) -> TierResult<bool> {
        let mut moved = false;
        self.each(from, |key| {
            if key == marker {
                return Ok(());
            }
            moved = true;
            self.copy_kept(key, &format!("{to}{}", &key[from.len()..]))?;
            self.client.delete(key)
        })?;
        Ok(moved)
    }

    /// Copies an object so that it is known again. One of another tool gets a number, since its copy is another object for the server.
    fn copy_kept(&self, from: &str, to: &str) -> TierResult<()> {
        let Some(head) = self.client.head(from)? else { return Ok(()) };
        let meta = (meta::id_of(&head.meta) == 0).then(|| meta::adopted(&head));
        self.client.copy(from, to, meta.as_ref())
    }

    /// After a change of something in `dir`: fails if the change may have come too late for a move or removal of the directory.
    pub(super) fn confirm(&self, dir: &S3Dir) -> TierResult<()> {
        if dir.is_base {
            return Ok(());
        }
        let prefix = self.announcements();
        let announced = self.client.list(&prefix, "", PAGE)?;
        let above = dir
            .path
            .match_indices('/')
            .map(|(at, _)| format!("{:016x}", xxh3_64(&dir.path.as_bytes()[..=at])));
        let is_moving = above.into_iter().any(|hash| announced.iter().any(|(key, _)| key.ends_with(&hash)));
        if is_moving || !self.is_there(dir)? {
            return Err(TierError::Failed(MOVED.to_owned()));
        }
        Ok(())
    }

    /// Before a change of something in `dir`: fails if the directory is not the one at that place any more. So what is changed through an old
    /// handle does not meet what lies there now, but for a move within the request itself.
    pub(super) fn precheck(&self, dir: &S3Dir) -> TierResult<()> {
        if dir.is_base || self.is_there(dir)? { Ok(()) } else { Err(TierError::Failed(MOVED.to_owned())) }
    }

    fn is_there(&self, dir: &S3Dir) -> TierResult<bool> {
        Ok(self.directory_id(&dir.path)? == Some(dir.id))
    }

    /// As [`S3::take_back`], of a directory's marker.
    pub(super) fn take_directory_back(&self, path: &str, id: u64) -> TierResult<()> {
        if self.directory_id(path)? == Some(id) {
            self.client.delete(&format!("{path}{DIRECTORY}"))
        } else {
            Ok(())
        }
    }

    /// Takes a change back that came too late: removes what is under `key`, if it is still the copy `id`.
    pub(super) fn take_back(&self, key: &str, id: u64) -> TierResult<()> {
        match self.client.head(key)? {
            Some(head) if meta::id_of(&head.meta) == id => self.client.delete(key),
            _ => Ok(()),
        }
    }
}
