//! Moving a directory: an object store has none, so every object below is copied to its new key and removed from the old one.
//!
//! Others may publish into the directory, remove from it and make directories in it meanwhile, through handles (here: keys) that are about
//! to be wrong. So a move is announced first, and whoever changed something looks afterwards ([`S3::confirm`]): first for announcements
//! that concern the directory, then for the directory itself. If one is found, or the directory is not, the change is taken back. A change
//! that saw neither was made before the mover listed the objects, so the move takes it along.
//!
//! # Invariants
//! - Two moves whose places lie in each other do not run at the same time: each looks for the other after it was announced (`tests/flush`,
//!   `moves_that_meet_wait_for_each_other`).
//! - A move that was cut off stays announced, so nothing changes in either place, until it is done again by whoever wants it, or undone: by
//!   the owner of the new name, or by whoever began it when it meets it (`tests/flush`, `a_move_that_was_cut_off_is_undone`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::client::{Meta, failed};
use super::keys::marker;
use super::{PAGE, S3, S3Dir, dir_of, key_of, meta};
use crate::tier::{Place, TierError, TierResult};

const MOVED: &str = "its directory was moved or removed meanwhile; it is tried again in its new place";

/// How long a move that was announced in vain may take to be withdrawn; one that is there longer goes on.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A directory that is being moved. The paths are beginnings of keys and end with a slash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Move {
    from: String,
    to: String,
    id: u64,
}

impl Move {
    /// Whether one of its places lies in one of the other's.
    fn meets(&self, other: &Move) -> bool {
        [&self.from, &self.to].iter().any(|mine| {
            [&other.from, &other.to].iter().any(|its| mine.starts_with(*its) || its.starts_with(*mine))
        })
    }
}

/// Keys of the announcements that this process acts on.
pub(super) type Moves = Mutex<BTreeSet<String>>;

/// While one is acted on.
struct Carrying<'a>(&'a Moves, &'a str);

impl<'a> Carrying<'a> {
    fn enter(moves: &'a Moves, key: &'a str) -> TierResult<Self> {
        if moves.lock().insert(key.to_owned()) {
            Ok(Carrying(moves, key))
        } else {
            Err(TierError::Failed("the directory is being moved; it is tried again after that".to_owned()))
        }
    }
}

impl Drop for Carrying<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(self.1);
    }
}

impl S3 {
    fn announcements(&self) -> String {
        format!("{}.hayate-moving-{}/", self.target.prefix, crate::tier::plain_job(&self.job))
    }

    /// The key of an announcement. Its end says which directory changes: [`S3::confirm`] reads no more of it.
    fn announcement_of(&self, it: &Move) -> String {
        let [from, to] = [&it.from, &it.to].map(|path| xxh3_64(path.as_bytes()));
        format!("{}{to:016x}-{from:016x}", self.own_announcements())
    }

    /// The moves that are announced, by any server, under keys that are meant, with these.
    fn announced(&self, is_meant: impl Fn(&str) -> bool) -> TierResult<Vec<(String, Move)>> {
        let mut moves = Vec::new();
        self.each(&self.announcements(), |key| {
            if !is_meant(key) {
                return Ok(());
            }
            // Finished since it was listed, if it is gone.
            if let Some(text) = self.client.get(key)? {
                let it =
                    serde_json::from_slice(&text).map_err(|error| failed("read", key, &error.to_string()))?;
                moves.push((key.to_owned(), it));
            }
            Ok(())
        })?;
        Ok(moves)
    }

    /// Beginning of the keys of this server's announcements.
    fn own_announcements(&self) -> String {
        format!("{}{}-", self.announcements(), self.me.0)
    }

    /// Whether moves that this server began were cut off.
    pub(super) fn has_moves(&self) -> TierResult<bool> {
        Ok(!self.client.list(&self.own_announcements(), "", 1)?.is_empty())
    }

    /// Undoes what this server began and does not go on with.
    pub(super) fn undo_idle_moves(&self) -> TierResult<()> {
        let own = self.own_announcements();
        self.undo_moves(self.announced(|key| key.starts_with(&own))?)
    }

    /// See [`crate::tier::Tier::move_directory`].
    pub(super) fn move_announced(&self, id: u64, from: &Place, to: &Place) -> TierResult<bool> {
        let path_of = |place: &Place| key_of(place).map(|key| format!("{key}/"));
        let it = Move { from: path_of(from)?, to: path_of(to)?, id };
        if it.to.starts_with(&it.from) {
            return Err(TierError::BelowItself("a directory cannot move below itself".to_owned()));
        }
        if self.directory_id(&it.from)? != Some(id) {
            self.undo_moves_to(&it.to)?;
            return Ok(self.directory_id(&it.to)? == Some(id));
        }
        let key = self.announcement_of(&it);
        let _carrying = Carrying::enter(&self.carrying, &key)?;
        let is_new = self.client.head(&key)?.is_none();
        if is_new {
            let text = serde_json::to_vec(&it).unwrap_or_default();
            self.client.put(&key, &Meta::new(), &text)?;
        }
        if let Err(error) = self.may_move(&key, &it, dir_of(&to.dir)?) {
            if is_new {
                self.client.delete(&key)?;
            }
            return Err(error);
        }
        self.carry(&it)?;
        self.client.delete(&key)?;
        Ok(true)
    }

    /// After a move was announced: fails if another one meets it, or has moved what it moves or where to. Of two that begin at the same time
    /// the one with the lower key waits for the other to withdraw: else both would withdraw, again and again.
    fn may_move(&self, key: &str, it: &Move, target: &S3Dir) -> TierResult<()> {
        let began = Instant::now();
        loop {
            let others = self.announced(|_| true)?;
            let mut meeting =
                others.iter().filter(|(other, theirs)| other != key && theirs.meets(it)).peekable();
            if meeting.peek().is_none() {
                break;
            }
            if began.elapsed() > WITHDRAWN_WITHIN || meeting.any(|(other, _)| other.as_str() < key) {
                return Err(TierError::Failed(
                    "a directory in the way is being moved; it is tried again after that".to_owned(),
                ));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        self.precheck(target)?;
        if self.directory_id(&it.from)? == Some(it.id) {
            Ok(())
        } else {
            Err(TierError::Failed(MOVED.to_owned()))
        }
    }

    /// See [`crate::tier::Tier::undo_move`].
    pub(super) fn undo_moves_to(&self, to: &str) -> TierResult<()> {
        let hash = format!("-{:016x}-", xxh3_64(to.as_bytes()));
        let moves = self.announced(|key| key.contains(&hash))?;
        self.undo_moves(moves.into_iter().filter(|(_, it)| it.to == to))
    }

    fn undo_moves(&self, moves: impl IntoIterator<Item = (String, Move)>) -> TierResult<()> {
        for (key, it) in moves {
            let Ok(_carrying) = Carrying::enter(&self.carrying, &key) else { continue };
            // Finished since it was listed, and perhaps the directory has moved on.
            if self.client.head(&key)?.is_none() {
                continue;
            }
            self.undo(&it)?;
            self.client.delete(&key)?;
        }
        Ok(())
    }

    /// Brings back what was moved, unless the directory's marker has arrived: then it was not told yet, no more.
    fn undo(&self, it: &Move) -> TierResult<()> {
        if self.directory_id(&it.from)? != Some(it.id) {
            return Ok(());
        }
        if self.directory_id(&it.to)? == Some(it.id) {
            return self.client.delete(&marker(&it.from));
        }
        // One that was made at the new name, in vain.
        self.client.delete(&marker(&it.to))?;
        self.each(&it.to, |key| self.carry_object(key, &it.to, &it.from))
    }

    /// Moves everything. The directory's marker goes last: until then the directory is where it was, for others.
    fn carry(&self, it: &Move) -> TierResult<()> {
        let own = marker(&it.from);
        while self.carry_once(it, &own)? {}
        self.client.copy(&own, &marker(&it.to), None)?;
        self.client.delete(&own)
    }

    /// One round over all objects but the directory's own marker; true if there were any.
    fn carry_once(&self, it: &Move, marker: &str) -> TierResult<bool> {
        let mut moved = false;
        self.each(&it.from, |key| {
            if key == marker {
                return Ok(());
            }
            moved = true;
            self.carry_object(key, &it.from, &it.to)
        })?;
        Ok(moved)
    }

    fn carry_object(&self, key: &str, from: &str, to: &str) -> TierResult<()> {
        match self.copy_kept(key, &format!("{to}{}", &key[from.len()..])) {
            // Taken back by who made it, since it was listed.
            Ok(()) | Err(TierError::Missing(_)) => self.client.delete(key),
            Err(error) => Err(error),
        }
    }

    /// Copies an object so that it is known again. One of another tool gets a number, since its copy is another object for the server.
    fn copy_kept(&self, from: &str, to: &str) -> TierResult<()> {
        let Some(head) = self.client.head(from)? else { return Ok(()) };
        self.client.copy(from, to, meta::adopted(&head).as_ref())
    }

    /// After a change of something in `dir`: fails if the change may have come too late for a move or removal of the directory.
    pub(super) fn confirm(&self, dir: &S3Dir) -> TierResult<()> {
        if dir.is_base {
            return Ok(());
        }
        self.refuse_while_moving(&dir.path)?;
        if self.is_there(dir)? { Ok(()) } else { Err(TierError::Failed(MOVED.to_owned())) }
    }

    /// Fails if the move of a directory is announced, or of one above it. What this server does not go on with is undone.
    pub(super) fn refuse_while_moving(&self, path: &str) -> TierResult<()> {
        let announced = self.client.list(&self.announcements(), "", PAGE)?;
        let mut with_above = path.match_indices('/').filter_map(|(at, _)| {
            let hash = format!("{:016x}", xxh3_64(&path.as_bytes()[..=at]));
            announced.iter().find(|(key, _)| key.ends_with(&hash))
        });
        let Some((key, _)) = with_above.next() else { return Ok(()) };
        if key.starts_with(&self.own_announcements()) {
            self.undo_moves(self.announced(|own| own == key)?)?;
        }
        Err(TierError::Failed(MOVED.to_owned()))
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
        if self.directory_id(path)? == Some(id) { self.client.delete(&marker(path)) } else { Ok(()) }
    }

    /// Takes a change back that came too late: removes what is under `key`, if it is still the copy `id`.
    pub(super) fn take_back(&self, key: &str, id: u64) -> TierResult<()> {
        match self.client.head(key)? {
            Some(head) if meta::id_of(&head.meta) == id => self.client.delete(key),
            _ => Ok(()),
        }
    }
}
