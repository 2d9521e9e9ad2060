//! What may differ from the shared tier: names and inodes, remembered in the store so that a crash forgets none.
//!
//! # Invariants
//! - Whatever is in the map is in the store: a note's put is part of the batch that makes the change.
//! - An item is taken off only if nothing noted it again since its flush began (`noted_again_while_flushing_stays`).
//! - An item that is not being flushed is exactly once in the order, under when it is due, or ready (`items_come_in_the_order_they_are_due`).
//! - Of what is due the oldest is taken first: what was noted first, not what came due first (`the_oldest_of_what_is_due_goes_first`). Before everything else
//!   go names of directories, for which the names in them wait (`names_of_directories_go_before_all_else`).
//! - What another server tells of an item is not written down while it is being flushed: that flush does not know of it, and would undo it
//!   (`what_is_told_of_an_item_waits_for_its_flush`).
//! - Notes made without end do not put an item off without end (`steady_changes_do_not_starve`), and what somebody asked for not at all (`what_is_asked_for_is_not_put_off_by_changes`).
//! - Names that are taken together are of one directory, and none of them was given back to be flushed alone (`names_of_a_directory_come_together`).
//!
//! A note is made inside the lock section of what it notes, and the change is committed there: who takes an item and then reads
//! inside a section of the same keys sees the change that was noted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::InodeId;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::hash::Map;
use crate::kv::{Batch, Kv, KvError};
use crate::namespace::{encode_record, keys};

/// Something that may differ from the shared tier.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FlushItem {
    /// What a name stands for.
    Name(InodeId, Bytes),
    /// An inode's content or attributes.
    Inode(InodeId),
}

impl FlushItem {
    fn key(&self) -> Vec<u8> {
        match self {
            FlushItem::Name(parent, name) => keys::queued_name(*parent, name),
            FlushItem::Inode(ino) => keys::queued_inode(*ino),
        }
    }

    /// The item behind a stored key.
    pub fn from_key(key: &[u8]) -> Option<FlushItem> {
        match key.first()? {
            b'q' => keys::split_entry(key)
                .map(|(dir, _, name)| FlushItem::Name(dir, Bytes::copy_from_slice(name))),
            b'a' => keys::split_inode(key).map(FlushItem::Inode),
            _ => None,
        }
    }
}

/// An item noted again and again is put off by at most this many delays.
const LONGEST_DELAYS: u32 = 10;
/// Attempts, and the time since the first of them, for which the old name of something that moved waits, so that the new name's owner can take the copy over.
const PATIENCE: (u32, Duration) = (5, Duration::from_millis(300));
/// What was refused so often in a row is no hope for anybody: with the pauses between, ten seconds.
pub const REFUSALS: u32 = 8;
/// Pause of parked items in a hurry.
const HURRIED_PARKED: Duration = Duration::from_millis(500);
/// Among so many of the oldest, companions of a name are looked for.
const LOOK_AHEAD: usize = 256;
/// Delay of inodes in a hurry: attributes of a directory are set once after many of its entries.
const HURRIED_INODE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools)] // Any of them may hold with any other.
struct Noted {
    generation: u64,
    first: Instant,
    due: Instant,
    serial: u64,
    /// When it was taken for the first time since then.
    tried: Option<Instant>,
    /// A directory's name: others wait for it.
    leads: bool,
    busy: bool,
    /// Waits for the time that its policy says.
    parked: bool,
    /// At the last attempt somebody had the file open for writing.
    open: bool,
    /// Somebody asked for this very item, and has not got it.
    asked: Option<Asked>,
    /// Not with others: see [`FlushQueue::give_back`].
    alone: bool,
    /// What the name stood for when it was noted, as far as that was said.
    ino: Option<InodeId>,
    attempts: u32,
    /// Attempts in a row that the tier refused.
    refusals: u32,
}

/// What somebody asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// An attempt that begins with this or a later one answers it.
    generation: u64,
    /// Also if the file is open for writing, as it is then.
    open: bool,
}

/// Order of what is due.
type Rank = (bool, Instant, u64);

impl Noted {
    fn rank(&self) -> Rank {
        (!self.leads, self.first, self.serial)
    }

    /// Whether the tier refuses just this, and waiting for it is in vain.
    fn is_refused(&self) -> bool {
        self.refusals >= REFUSALS
    }
}

#[derive(Default)]
struct Items {
    noted: Map<FlushItem, Noted>,
    /// What is not being flushed, by when it is due.
    order: BTreeMap<(Instant, u64), FlushItem>,
    /// What was found to be due, and the directory with whose other names it may be taken: who changes anything of that puts it back into the order.
    ready: BTreeMap<Rank, (FlushItem, Option<InodeId>)>,
    /// What is not parked, by when it was noted first.
    ages: BTreeMap<(Instant, u64), FlushItem>,
    generation: u64,
    inodes: usize,
    parked: usize,
    hurry: bool,
}

impl Items {
    /// Puts an item that is not busy where it belongs in the order.
    fn schedule(&mut self, item: &FlushItem, due: Instant) {
        let Some(noted) = self.noted.get_mut(item) else { return };
        self.order.remove(&(noted.due, noted.serial));
        self.ready.remove(&noted.rank());
        noted.due = due;
        if !noted.busy {
            self.order.insert((due, noted.serial), item.clone());
        }
    }

    /// Counts the note; true if the item was not noted before.
    fn note(&mut self, item: &FlushItem, delay: Duration) -> bool {
        self.generation += 1;
        let (now, generation) = (Instant::now(), self.generation);
        if let Some(noted) = self.noted.get_mut(item) {
            // Perhaps it was closed: the next attempt finds out.
            (noted.generation, noted.open, noted.refusals) = (generation, false, 0);
            let due = (now + delay).min(noted.first + delay * LONGEST_DELAYS);
            // Who asked for it waits for no delay of others' changes.
            let due = if noted.asked.is_some() && !noted.busy { due.min(noted.due) } else { due };
            if std::mem::take(&mut noted.parked) {
                self.parked -= 1;
                self.ages.insert((noted.first, noted.serial), item.clone());
            }
            self.schedule(item, due);
            return false;
        }
        self.inodes += usize::from(matches!(item, FlushItem::Inode(_)));
        let noted = Noted {
            generation,
            first: now,
            due: now + delay,
            serial: generation,
            tried: None,
            leads: false,
            busy: false,
            parked: false,
            open: false,
            asked: None,
            alone: false,
            ino: None,
            attempts: 0,
            refusals: 0,
        };
        self.noted.insert(item.clone(), noted);
        self.ages.insert((now, generation), item.clone());
        self.order.insert((noted.due, noted.serial), item.clone());
        true
    }

    /// Finds what is due.
    fn find_ready(&mut self, now: Instant) {
        while let Some(first) = self.order.first_entry().filter(|first| first.key().0 <= now) {
            let item = first.remove();
            if let Some(noted) = self.noted.get(&item) {
                let dir = match item {
                    FlushItem::Name(parent, _) if !noted.alone && !noted.leads => Some(parent),
                    _ => None,
                };
                self.ready.insert(noted.rank(), (item, dir));
            }
        }
    }

    /// Takes an item off the order: it is being flushed from now on.
    fn begin(&mut self, item: FlushItem) -> Option<Taken> {
        let noted = self.noted.get_mut(&item)?;
        noted.busy = true;
        if std::mem::take(&mut noted.parked) {
            // Time has passed: it may go with others again.
            noted.alone = false;
            self.parked -= 1;
            self.ages.insert((noted.first, noted.serial), item.clone());
        }
        let tried = *noted.tried.get_or_insert_with(Instant::now);
        let (attempts, asked, generation, ino) = (noted.attempts, noted.asked, noted.generation, noted.ino);
        let (forced, open) = (asked.is_some(), asked.is_some_and(|asked| asked.open));
        Some(Taken { item, ino, attempts, tried, forced, open, generation })
    }

    /// The oldest item that is ready and, if it is a name, up to `most` - 1 names of the same directory that are nearly as old.
    fn pop_group(&mut self, most: usize) -> Option<Vec<Taken>> {
        let (_, (first, dir)) = self.ready.pop_first()?;
        let mut group = vec![first];
        if dir.is_some() && most > 1 {
            let near = self.ready.iter().take(LOOK_AHEAD).filter(|(_, (_, other))| *other == dir);
            let mates: Vec<_> = near.map(|(key, _)| *key).take(most - 1).collect();
            group.extend(mates.iter().filter_map(|key| self.ready.remove(key)).map(|(item, _)| item));
        }
        Some(group.into_iter().filter_map(|item| self.begin(item)).collect())
    }

    /// Whether something noted the item since it was taken.
    fn is_noted_since(&self, taken: &Taken) -> bool {
        self.noted.get(&taken.item).is_none_or(|noted| noted.generation != taken.generation)
    }

    /// The flush of an item that was noted again meanwhile is over.
    fn begin_again(&mut self, taken: &Taken) {
        let item = &taken.item;
        let Some(noted) = self.noted.get_mut(item) else { return };
        // Who asked before this attempt has got what he asked for: what comes later waits its turn.
        noted.asked = noted.asked.filter(|asked| asked.generation > taken.generation);
        let due = if noted.asked.is_some() { noted.due.min(Instant::now()) } else { noted.due };
        self.ages.remove(&(noted.first, noted.serial));
        (noted.busy, noted.alone, noted.attempts, noted.first) = (false, false, 0, Instant::now());
        (noted.tried, noted.open, noted.refusals) = (None, false, 0);
        self.ages.insert((noted.first, noted.serial), item.clone());
        self.schedule(item, due);
    }

    /// Whether names wait, or are being flushed, that do not wait for their policy.
    fn has_names(&self) -> bool {
        self.noted.len() > self.inodes + self.parked
    }

    /// No entry of a directory comes any more for now, so none of them has to wait for others; true if there was one.
    fn hasten_inodes(&mut self) -> bool {
        let now = Instant::now();
        let early =
            self.order.range((now, u64::MAX)..).filter(|(_, item)| matches!(item, FlushItem::Inode(_)));
        let early: Vec<_> = early.map(|(_, item)| item.clone()).collect();
        let fresh: Vec<_> = early.iter().filter(|item| self.noted[*item].attempts == 0).collect();
        for item in &fresh {
            self.schedule(item, now);
        }
        !fresh.is_empty()
    }

    fn remove(&mut self, item: &FlushItem) {
        if let Some(noted) = self.noted.remove(item) {
            self.order.remove(&(noted.due, noted.serial));
            self.ready.remove(&noted.rank());
            self.ages.remove(&(noted.first, noted.serial));
            self.parked -= usize::from(noted.parked);
            self.inodes -= usize::from(matches!(item, FlushItem::Inode(_)));
        }
    }
}

/// A taken item: what was noted when its flush began.
#[derive(Debug, Clone)]
pub struct Taken {
    /// What to flush.
    pub item: FlushItem,
    /// What the name stood for when it was noted, which saves a look; to be compared with what the inode says.
    pub ino: Option<InodeId>,
    /// How often it was tried before.
    pub attempts: u32,
    /// When it was tried first.
    pub tried: Instant,
    /// Somebody asked for this very item.
    pub forced: bool,
    /// And as it is, if it is open for writing.
    pub open: bool,
    generation: u64,
}

impl Taken {
    /// Whether this is one of the first attempts: what others are about to do may make it unnecessary.
    pub fn is_early(&self) -> bool {
        self.attempts < PATIENCE.0 || self.tried.elapsed() < PATIENCE.1
    }
}

/// Why an item is tried again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// Something was in the way, or failed.
    Off,
    /// Somebody has the file open for writing.
    Open,
    /// The tier refuses just this.
    Refused,
}

/// All that waits for flushing on this server.
pub struct FlushQueue {
    kv: Arc<dyn Kv>,
    enabled: bool,
    delay: Duration,
    items: Mutex<Items>,
    changed: Notify,
    emptied: Notify,
}

impl FlushQueue {
    /// The queue of a server; empty for ever when there is no shared tier (`enabled` false).
    pub fn open(kv: Arc<dyn Kv>, enabled: bool, delay: Duration) -> Result<Self, KvError> {
        let queue = FlushQueue {
            kv,
            enabled,
            delay,
            items: Mutex::default(),
            changed: Notify::new(),
            emptied: Notify::new(),
        };
        if enabled {
            queue.load(b'q')?;
            queue.load(b'a')?;
        }
        Ok(queue)
    }

    fn load(&self, kind: u8) -> Result<(), KvError> {
        let (from, to) = keys::range_of_kind(kind);
        let mut items = self.items.lock();
        self.kv.scan(&from, &to, &mut |key, _| {
            if let Some(item) = FlushItem::from_key(key) {
                items.note(&item, Duration::ZERO);
            }
            std::ops::ControlFlow::Continue(())
        })
    }

    /// Whether there is a shared tier.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// As [`FlushQueue::note_name`], of a name that stands for a directory from now on.
    pub fn note_directory(&self, batch: &mut Batch, parent: InodeId, name: &Bytes) {
        if self.enabled {
            let set = |noted: &mut Noted| noted.leads = true;
            self.note(batch, &FlushItem::Name(parent, name.clone()), true, set);
        }
    }

    /// Notes that a name changed, in the batch that changes it. `ino`: what it stands for from now on, if anything.
    pub fn note_name(&self, batch: &mut Batch, parent: InodeId, name: &Bytes, ino: Option<InodeId>) {
        if self.enabled {
            let set = |noted: &mut Noted| noted.ino = ino;
            self.note(batch, &FlushItem::Name(parent, name.clone()), true, set);
        }
    }

    /// Notes that an inode changed, in the batch that changes it.
    pub fn note_inode(&self, batch: &mut Batch, ino: InodeId) {
        if self.enabled {
            self.note(batch, &FlushItem::Inode(ino), true, |_| ());
        }
    }

    /// `put_again`: whoever noted it before may not have committed yet, as a name is noted under its own lock or its inode's, and a directory also under
    /// none, after one of its entries was flushed. `set`: what is known of it besides.
    fn note(&self, batch: &mut Batch, item: &FlushItem, put_again: bool, set: impl FnOnce(&mut Noted)) {
        let mut items = self.items.lock();
        let delay = match item {
            FlushItem::Inode(_) if items.hurry && items.has_names() => HURRIED_INODE.min(self.delay),
            _ if items.hurry => Duration::ZERO,
            _ => self.delay,
        };
        let idle = items.order.is_empty();
        if items.note(item, delay) || put_again {
            batch.put(item.key(), encode_record(&()));
        }
        // Not among what is ready, for which it matters who leads: a note puts it back into the order.
        if let Some(noted) = items.noted.get_mut(item) {
            set(noted);
        }
        let hurry = items.hurry;
        drop(items);
        // Notes come due in the order in which they are made: a sleeper that knows the first need not hear of the others.
        if idle || hurry {
            self.changed.notify_one();
        }
    }

    /// Notes what another server told about, or what this one found out itself.
    pub fn note_now(&self, item: &FlushItem) -> Result<(), KvError> {
        let mut batch = Batch::default();
        self.note(&mut batch, item, true, |_| ());
        self.kv.commit(batch)
    }

    /// Does `act`, unless the item is being flushed: then false. Nobody begins to flush it meanwhile.
    pub fn while_idle(
        &self,
        item: &FlushItem,
        act: impl FnOnce() -> Result<(), KvError>,
    ) -> Result<bool, KvError> {
        let items = self.items.lock();
        if items.noted.get(item).is_some_and(|noted| noted.busy) {
            return Ok(false);
        }
        act().map(|()| true)
    }

    /// Notes an item that somebody asked for, whatever its policy: due at once. `open`: also if it is open for writing.
    pub fn note_forced(&self, item: &FlushItem, open: bool) -> Result<(), KvError> {
        let mut batch = Batch::default();
        {
            // Under one lock: nobody takes the item between the note and the mark.
            let mut items = self.items.lock();
            items.note(item, Duration::ZERO);
            let generation = items.generation;
            if let Some(noted) = items.noted.get_mut(item) {
                let open = open || noted.asked.is_some_and(|asked| asked.open);
                noted.asked = Some(Asked { generation, open });
            }
        }
        batch.put(item.key(), encode_record(&()));
        self.changed.notify_one();
        self.kv.commit(batch)
    }

    /// Notes that the copy of a directory was changed by flushing one of its entries. No write if it is noted already.
    pub fn note_touched(&self, dir: InodeId) -> Result<(), KvError> {
        let mut batch = Batch::default();
        self.note(&mut batch, &FlushItem::Inode(dir), false, |_| ());
        if batch.is_empty() { Ok(()) } else { self.kv.commit(batch) }
    }

    /// Everything that waits is due now, and what is noted from now on at once, until the hurry ends.
    pub fn set_hurry(&self, hurry: bool) {
        let mut items = self.items.lock();
        items.hurry = hurry;
        if !hurry {
            return;
        }
        let now = Instant::now();
        for ((_, serial), item) in items.order.split_off(&(now, u64::MAX)) {
            if let Some(noted) = items.noted.get_mut(&item) {
                noted.due = now;
            }
            items.order.insert((now, serial), item);
        }
        drop(items);
        self.changed.notify_one();
    }

    /// Takes up to `limit` items that are due, the oldest first.
    pub fn take(&self, limit: usize) -> Vec<Taken> {
        self.take_groups(limit, 1, 1).into_iter().flatten().collect()
    }

    /// The same, with each name others of its directory: at most `most` together, and so many that everything that is due makes `shares`
    /// groups or more.
    pub fn take_groups(&self, limit: usize, most: usize, shares: usize) -> Vec<Vec<Taken>> {
        let mut items = self.items.lock();
        items.find_ready(Instant::now());
        let most = (items.ready.len() / shares.max(1)).clamp(1, most.max(1));
        let mut groups = Vec::new();
        while groups.len() < limit {
            let Some(group) = items.pop_group(most) else { break };
            groups.push(group);
        }
        groups.retain(|group| !group.is_empty());
        groups
    }

    /// Waits until something may be due, at most `longest`.
    pub async fn wait(&self, longest: Duration) {
        let now = Instant::now();
        let first = {
            let items = self.items.lock();
            if items.ready.is_empty() {
                items.order.first_key_value().map(|((due, _), _)| *due)
            } else {
                Some(now)
            }
        };
        let pause = first.map_or(longest, |due| due.saturating_duration_since(now).min(longest));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.changed.notified() => {}
        }
    }

    /// The item is in the shared tier as it was when taken; `batch` is what to remember of it.
    pub fn done(&self, taken: &Taken, batch: Batch) -> Result<(), KvError> {
        self.all_done(std::slice::from_ref(taken), batch, |batch| self.kv.commit(batch))
    }

    /// The same of several items, in the change that `commit` makes of the batch. It must not note anything.
    pub fn all_done<E>(
        &self,
        taken: &[Taken],
        mut batch: Batch,
        commit: impl FnOnce(Batch) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut items = self.items.lock();
        let (again, done): (Vec<_>, Vec<_>) = taken.iter().partition(|taken| items.is_noted_since(taken));
        // Under the mutex: a note that comes next finds the item gone and puts it again, after this delete.
        for taken in &done {
            batch.delete(taken.item.key());
        }
        commit(batch)?;
        for taken in &done {
            items.remove(&taken.item);
        }
        for taken in &again {
            items.begin_again(taken);
        }
        let hastened = items.hurry && !items.has_names() && items.hasten_inodes();
        let is_empty = items.noted.is_empty();
        drop(items);
        if hastened || !again.is_empty() {
            self.changed.notify_one();
        }
        if is_empty {
            self.emptied.notify_waiters();
        }
        Ok(())
    }

    /// Of each of these, whether something noted it since it was taken.
    pub fn are_noted_since<'a>(&self, taken: impl Iterator<Item = &'a Taken>) -> Vec<bool> {
        let items = self.items.lock();
        taken.map(|taken| items.is_noted_since(taken)).collect()
    }

    /// Whether the item was left at its last attempt because somebody has the file open for writing.
    pub fn is_open(&self, item: &FlushItem) -> bool {
        self.items.lock().noted.get(item).is_some_and(|noted| noted.open)
    }

    /// The item could not be flushed now: again after `pause`.
    pub fn postpone(&self, taken: &Taken, pause: Duration) {
        self.postpone_as(taken, pause, Put::Off);
    }

    /// The same, and why. True if waiting for it is in vain for now, as the tier refuses it.
    pub fn postpone_as(&self, taken: &Taken, pause: Duration, why: Put) -> bool {
        let mut items = self.items.lock();
        let Some(noted) = items.noted.get_mut(&taken.item) else { return false };
        (noted.busy, noted.open) = (false, why == Put::Open);
        noted.attempts = noted.attempts.saturating_add(1);
        noted.refusals = if why == Put::Refused { noted.refusals.saturating_add(1) } else { 0 };
        let is_in_vain = noted.is_refused();
        items.schedule(&taken.item, Instant::now() + pause);
        is_in_vain
    }

    /// The items were not tried, or are not to be flushed together with others: again at once, `alone` each by itself.
    pub fn give_back<'a>(&self, taken: impl IntoIterator<Item = &'a Taken>, alone: bool) {
        let (mut items, now) = (self.items.lock(), Instant::now());
        for taken in taken {
            let Some(noted) = items.noted.get_mut(&taken.item) else { continue };
            (noted.busy, noted.alone) = (false, noted.alone || alone);
            items.schedule(&taken.item, now);
        }
        drop(items);
        self.changed.notify_one();
    }

    /// From now on the item is not taken together with others.
    pub fn set_alone(&self, taken: &Taken) {
        if let Some(noted) = self.items.lock().noted.get_mut(&taken.item) {
            noted.alone = true;
        }
    }

    /// The item's policy says that its time comes after `pause`. In a hurry it is looked at again soon: what is asked for may have changed.
    pub fn park(&self, taken: &Taken, pause: Duration) {
        let mut guard = self.items.lock();
        let items = &mut *guard;
        let pause = if items.hurry { pause.min(HURRIED_PARKED) } else { pause };
        let Some(noted) = items.noted.get_mut(&taken.item) else { return };
        noted.busy = false;
        // Noted again meanwhile: looked at with the new state.
        let again = noted.generation != taken.generation || noted.asked.is_some();
        let due = if again { noted.due } else { Instant::now() + pause };
        noted.parked = !again;
        items.parked += usize::from(!again);
        if !again {
            items.ages.remove(&(noted.first, noted.serial));
        }
        items.schedule(&taken.item, due);
        drop(guard);
        if again {
            self.changed.notify_one();
        }
    }

    /// Ends when nothing waits. What is called between the call of this and the first wait is not missed.
    pub fn emptied(&self) -> Notified<'_> {
        self.emptied.notified()
    }

    /// How long the oldest item that is not parked waits: since it was noted first, or since the server's start.
    pub fn oldest(&self) -> Option<Duration> {
        self.items.lock().ages.first_key_value().map(|((first, _), _)| first.elapsed())
    }

    /// Whether nothing is to be done before some policy says so.
    pub fn is_idle(&self) -> bool {
        let items = self.items.lock();
        items.noted.len() == items.parked
    }

    /// Items that wait for their policy.
    pub fn parked(&self) -> usize {
        self.items.lock().parked
    }

    /// Whether the item waits or is being flushed.
    pub fn is_noted(&self, item: &FlushItem) -> bool {
        self.items.lock().noted.contains_key(item)
    }

    /// Whether the item was tried, or will be within this time.
    pub fn is_tried_within(&self, item: &FlushItem, time: Duration) -> bool {
        let until = Instant::now() + time;
        self.items.lock().noted.get(item).is_some_and(|noted| noted.tried.is_some() || noted.due <= until)
    }

    /// Whether the item waits, or is being flushed, for somebody who asked for it.
    pub fn is_asked_for(&self, item: &FlushItem) -> bool {
        self.items.lock().noted.get(item).is_some_and(|noted| noted.asked.is_some())
    }

    /// Up to `limit` names that wait, or are being flushed, and need nothing but a tier that takes them: not their policy's time, and nobody's closing, as far as
    /// the last attempt found. The oldest first, and with each whether a file was found open.
    pub fn ripe_names(&self, limit: usize) -> Vec<(InodeId, Bytes, bool)> {
        let items = self.items.lock();
        let ripe = items.ages.values().filter_map(|item| match item {
            FlushItem::Name(parent, name) => {
                let noted = items.noted.get(item)?;
                (!noted.leads && !noted.is_refused()).then(|| (*parent, name.clone(), noted.open))
            }
            FlushItem::Inode(_) => None,
        });
        ripe.take(limit).collect()
    }

    /// Whether anything is being flushed.
    pub fn is_busy(&self) -> bool {
        let items = self.items.lock();
        items.noted.len() > items.order.len() + items.ready.len()
    }

    /// Items that wait or are being flushed: names, inodes.
    pub fn len(&self) -> (usize, usize) {
        let items = self.items.lock();
        (items.noted.len() - items.inodes, items.inodes)
    }

    /// Up to `limit` of the names that wait or are being flushed, but for parked ones: any of them, of whatever age. With each what it stood for when it was noted,
    /// as far as that was said.
    pub fn some_names(&self, limit: usize) -> Vec<(InodeId, Bytes, Option<InodeId>)> {
        let items = self.items.lock();
        let names =
            items.noted.iter().filter(|(_, noted)| !noted.parked).filter_map(|(item, noted)| match item {
                FlushItem::Name(parent, name) => Some((*parent, name.clone(), noted.ino)),
                FlushItem::Inode(_) => None,
            });
        names.take(limit).collect()
    }

    /// Ends a wait of who flushes: there is something else to do.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.lock().noted.is_empty()
    }
}

#[cfg(test)]
mod tests;
