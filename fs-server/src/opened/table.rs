//! The table: which client has which file open, and what homes may have been told of that.
//!
//! # Invariants
//! - A file's end is told only when no client has it open and none is opening it (`the_last_who_closes_ends_it`, `what_is_being_opened_is_not_ended`). Which file a creation
//!   opens is known when it is answered: what was told of that file meanwhile is taken back first (`a_creation_takes_back_what_was_told_meanwhile`).
//! - What is told has a stamp, drawn under the lock under which it was decided; homes let nothing undo what has a greater one (`opens.rs`).
//! - Only what a client has written since it opened the file counts, whenever others of the node did (`each_writer_has_its_own_version`).
//! - The table keeps to its part of the pool (`a_full_table_takes_nobody`).

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fs_net::{Budget, Charge};
use fs_proto::msg::inode::OpenInode;
use fs_proto::msg::name::OpenMode;
use fs_proto::msg::node::NodeOpens;
use fs_proto::{ClientId, InodeId, ServerId};
use parking_lot::Mutex;

use crate::hash::Map;
use crate::opens::{PAGE_BYTES, Pages, overtaken};

/// Part of the pool that the table has at most, as a divisor: what lives here needs the rest.
const POOL_PART: usize = 2;
/// Ends that are remembered while files are created, at most: 128 KiB.
const ENDED_MAX: usize = 8192;
/// Files of which homes have to be told once more, at most.
const UNHEARD_MAX: usize = 4096;
/// See the module.
pub struct Opened {
    server: ServerId,
    session: u64,
    pool: Budget,
    most_pages: usize,
    started: Instant,
    /// How long a client counts that is not heard of, as at homes.
    lease: Duration,
    is_restart: bool,
    count: AtomicUsize,
    /// Until when homes may know clients of this node themselves: milliseconds of the table.
    passed_until: AtomicU64,
    table: Mutex<Table>,
}

struct Table {
    since: Instant,
    lease_ms: u64,
    files: Map<InodeId, File>,
    pages: Pages,
    stamp: u64,
    /// Stamps of creations under way.
    creating: BTreeSet<u64>,
    /// What was ended since the first of them began, and when.
    ended: VecDeque<(u64, InodeId)>,
    /// Of what was ended up to here not all is remembered.
    forgotten: u64,
    /// Homes did not answer when they were told of these.
    unheard: Vec<InodeId>,
    unheard_lost: Vec<InodeId>,
}

#[derive(Default)]
struct File {
    clients: Vec<Client>,
    /// Stamp of the last message from which the home may know that it is open; 0: there was none.
    told: u64,
    /// And that it is written.
    told_writing: u64,
}

struct Client {
    id: ClientId,
    /// Of its last opening.
    stamp: u64,
    /// From which version on it writes.
    writes: Option<u64>,
    /// Openings under way, and those for writing of them.
    opening: u32,
    opening_to_write: u32,
    /// When its lease is over; milliseconds of the table.
    until: u64,
    /// When it was last opened for writing.
    written: u64,
    /// It has the file open, whatever is under way.
    is_open: bool,
    /// From which version on it was seen to write without having opened the file here to write: homes know it by the last run of the server, or itself.
    found: Option<u64>,
}

impl Client {
    /// Whether homes have to know that somebody of the node has the file open because of it.
    fn counts(&self) -> bool {
        self.is_open || self.opening > 0
    }

    fn may_write(&self) -> bool {
        self.writes.is_some() || self.opening_to_write > 0
    }
}

/// A client that writes a file, as far as that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownWriter {
    /// The client.
    pub client: ClientId,
    /// From which version on, by its opening.
    pub opened: Option<u64>,
    /// From which version on it was seen to write without one.
    pub found: Option<u64>,
}

impl KnownWriter {
    /// From which version on its writes count for a home that says `version`. Who was seen may have closed the file since, by another way.
    pub fn counts_from(&self, version: u64) -> u64 {
        let found = self.found.map(|found| found.max(version));
        self.opened.into_iter().chain(found).min().unwrap_or(version)
    }
}

/// What a client was that closed a file.
struct Left {
    /// It wrote it, having opened it here.
    wrote: bool,
    /// It was seen to write it.
    was_found: bool,
}

impl File {
    fn is_open(&self) -> bool {
        self.clients.iter().any(Client::counts)
    }

    fn may_be_written(&self) -> bool {
        self.clients.iter().any(Client::may_write)
    }
}

/// A client closes a file with its last publishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// Stamp of the client's opening.
    seen: u64,
    /// With the closing something ends for the node.
    pub end: Option<End>,
}

/// Something ends with a client's closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// When.
    pub stamp: u64,
    /// Others of the node read yet.
    pub reads: bool,
}

/// What a client's renewal comes to.
#[derive(Debug)]
pub struct Renewed {
    /// What the home has to hear from the client itself.
    pub pass_on: Vec<OpenInode>,
    /// What the home has to hear for the node.
    pub news: NodeOpens,
}

/// What is open now, to be told again.
#[derive(Debug)]
pub struct Round {
    /// When.
    pub stamp: u64,
    /// What was sent before has been answered, or given up.
    pub settled: u64,
    /// Each file, and whether it is written.
    pub open: Vec<(InodeId, bool)>,
}

/// Whether there is nothing to tell.
pub fn is_empty(news: &NodeOpens) -> bool {
    news.open.is_empty() && news.read.is_empty() && news.closed.is_empty() && news.lost.is_empty()
}

impl Opened {
    /// An empty table of a run of the server that begins at `session`, within its part of the pool. `is_restart`: there was one before.
    pub fn new(server: ServerId, session: u64, pool: Budget, lease: Duration, is_restart: bool) -> Opened {
        let most_pages = pool.stats().size as usize / POOL_PART / PAGE_BYTES;
        let now = Instant::now();
        let table = Table {
            since: now,
            lease_ms: lease.as_millis() as u64,
            files: Map::default(),
            pages: Pages::default(),
            stamp: session,
            creating: BTreeSet::new(),
            ended: VecDeque::new(),
            forgotten: 0,
            unheard: Vec::new(),
            unheard_lost: Vec::new(),
        };
        Opened {
            server,
            session,
            pool,
            most_pages,
            started: now,
            lease,
            is_restart,
            count: AtomicUsize::new(0),
            passed_until: AtomicU64::new(0),
            table: Mutex::new(table),
        }
    }

    /// Openings: a file counts once for each client.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of this run of the server.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Whether clients may have files open, by the server's last run, that it does not know of.
    pub fn is_forgetful(&self) -> bool {
        self.is_restart && self.started.elapsed() < self.doubtful()
    }

    /// How long a client counts that is not heard of.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Longer than a lease, should clocks or messages be slow.
    fn doubtful(&self) -> Duration {
        self.lease + self.lease / 9
    }

    /// A client tells a home itself that it has something open.
    pub fn note_passed(&self) {
        let until = self.started.elapsed() + self.doubtful();
        self.passed_until.fetch_max(until.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether homes may know clients themselves that are known here.
    pub fn may_have_passed(&self) -> bool {
        (self.started.elapsed().as_millis() as u64) < self.passed_until.load(Ordering::Relaxed)
    }

    /// Nothing to tell yet.
    fn nothing(&self) -> NodeOpens {
        NodeOpens {
            server: self.server,
            session: self.session,
            stamp: 0,
            settled: 0,
            open: Vec::new(),
            read: Vec::new(),
            closed: Vec::new(),
            lost: Vec::new(),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.lock();
        let made = act(&mut table);
        let unused = table.shrink();
        self.count.store(table.pages.used, Ordering::Relaxed);
        drop(table);
        drop(unused);
        made
    }

    /// A client is about to open a file by a message to its home; answers the message's stamp. None: there is no room.
    pub fn begin(&self, ino: InodeId, client: ClientId, writes: bool) -> Option<u64> {
        self.with(|table| {
            let stamp = table.next();
            let (now, lease) = (table.now(), table.lease_ms);
            let known = table.client(ino, client, &self.pool, self.most_pages)?;
            known.opening += 1;
            known.opening_to_write += u32::from(writes);
            known.stamp = stamp;
            known.until = now + lease;
            if writes {
                known.written = now;
            }
            table.tell(ino, stamp, writes);
            Some(stamp)
        })
    }

    /// That has ended. `opened`: with this version, else in vain.
    pub fn settle(&self, ino: InodeId, client: ClientId, writes: bool, opened: Option<u64>) {
        self.with(|table| {
            let (now, lease) = (table.now(), table.lease_ms);
            let Some(known) = table.find(ino, client) else { return };
            known.opening -= 1;
            known.opening_to_write -= u32::from(writes);
            if let Some(version) = opened {
                known.is_open = true;
                known.until = now + lease;
                if writes {
                    known.writes.get_or_insert(version);
                }
            }
            let is_over = !known.counts() && known.found.is_none();
            if is_over {
                table.remove(ino, client);
                table.drop_if_closed(ino);
            }
            // Others may have closed it meanwhile, who were not the last then.
            if opened.is_none() && table.unheard.len() < UNHEARD_MAX {
                table.unheard.push(ino);
            }
        });
    }

    /// A client has opened a file for reading by an answer that was lent; false: there is no room.
    pub fn note(&self, ino: InodeId, client: ClientId) -> bool {
        self.with(|table| {
            let (stamp, now, lease) = (table.next(), table.now(), table.lease_ms);
            let Some(known) = table.client(ino, client, &self.pool, self.most_pages) else { return false };
            (known.is_open, known.stamp, known.until) = (true, stamp, now + lease);
            true
        })
    }

    /// A file is about to be created, or found, and opened; answers the message's stamp. None: there is no room.
    pub fn begin_creation(&self) -> Option<u64> {
        self.with(|table| {
            if !table.pages.make_room(&self.pool, self.most_pages) {
                return None;
            }
            // For the opening that it will be.
            table.pages.used += 1;
            let stamp = table.next();
            table.creating.insert(stamp);
            Some(stamp)
        })
    }

    /// The creation that began at `began` is over. `opened`: which file the client has open by it, and of which version if it writes. Answers what the home has
    /// to be told before the client may count on it; `again`: in any case. And whether the client had the file open before, or was opening it.
    pub fn end_creation(
        &self,
        began: u64,
        client: ClientId,
        opened: Option<(InodeId, Option<u64>)>,
        again: bool,
    ) -> (NodeOpens, bool) {
        let (mut news, mut was_open) = (self.nothing(), false);
        self.with(|table| {
            table.pages.used -= 1;
            table.creating.remove(&began);
            if let Some((ino, version)) = opened {
                let is_undone = again || table.was_ended_since(ino, began);
                let stamp = if is_undone { table.next() } else { began };
                let (now, lease) = (table.now(), table.lease_ms);
                if let Some(known) = table.client(ino, client, &self.pool, usize::MAX) {
                    was_open = known.counts();
                    (known.is_open, known.until) = (true, now + lease);
                    known.stamp = known.stamp.max(stamp);
                    if let Some(version) = version {
                        known.writes.get_or_insert(version);
                        known.written = now;
                    }
                }
                table.tell(ino, stamp, version.is_some());
                if is_undone {
                    (news.stamp, news.settled) = (stamp, table.settled());
                    news.open.push(self.record(ino, version.is_some()));
                }
            }
            table.forget_ended();
        });
        (news, was_open)
    }

    /// A creation opened the file in vain, as of `stamp`: it is closed, but for what the client has opened since.
    pub fn take_back(&self, ino: InodeId, client: ClientId, stamp: u64) -> NodeOpens {
        let mut news = self.nothing();
        self.with(|table| {
            if table.find(ino, client).is_some_and(|known| known.stamp == stamp) {
                table.shut(ino, client, &mut news);
            }
            table.sign(&mut news);
        });
        news
    }

    /// Whether a creation is under way that began before.
    pub fn is_creating_since(&self, stamp: u64) -> bool {
        self.table.lock().creating.first().is_some_and(|began| *began < stamp)
    }

    fn record(&self, ino: InodeId, writes: bool) -> OpenInode {
        let mode = if writes { OpenMode::Write { via: Some(self.server) } } else { OpenMode::Read {} };
        OpenInode { ino, mode }
    }

    /// The client has closed these. Answers of which of them nothing was known, and what ended so.
    pub fn close(&self, client: ClientId, inos: &[InodeId]) -> (Vec<InodeId>, NodeOpens) {
        let (mut unknown, mut news) = (Vec::new(), self.nothing());
        self.with(|table| {
            for ino in inos {
                if !table.shut(*ino, client, &mut news) {
                    unknown.push(*ino);
                }
            }
            table.sign(&mut news);
        });
        (unknown, news)
    }

    /// A client is about to close a file by a message to its home. None: nothing is known of it.
    pub fn begin_closing(&self, ino: InodeId, client: ClientId) -> Option<Closing> {
        self.with(|table| {
            let file = table.files.get(&ino)?;
            let known = file.clients.iter().find(|known| known.id == client)?;
            let (seen, told) = (known.stamp, file.told);
            let is_other = |other: &&Client| other.id != client && other.counts();
            let mut others = file.clients.iter().filter(is_other).peekable();
            let reads = others.peek().is_some();
            let is_end = known.opening == 0 && !others.any(Client::may_write);
            // Of readers some stay: nothing ends.
            let is_end = is_end && told != 0 && (!reads || known.writes.is_some());
            let end = is_end.then(|| End { stamp: table.next(), reads });
            if let Some(end) = end {
                table.note_ended(ino, end.stamp);
            }
            Some(Closing { seen, end })
        })
    }

    /// The client has closed it. Answers what ended by that and was not told with it.
    pub fn end_closing(&self, ino: InodeId, client: ClientId, closing: Closing) -> NodeOpens {
        let mut news = self.nothing();
        self.with(|table| {
            if table.find(ino, client).is_none_or(|known| known.stamp != closing.seen) {
                return;
            }
            let Some(left) = table.leave(ino, client) else { return };
            if let (Some(end), Some(file)) = (closing.end, table.files.get_mut(&ino)) {
                if file.told < end.stamp && !file.is_open() && !end.reads {
                    file.told = 0;
                }
                if file.told_writing < end.stamp && !file.may_be_written() {
                    file.told_writing = 0;
                }
            }
            table.end(ino, left.wrote, &mut news);
            table.sign(&mut news);
        });
        news
    }

    /// The client has these open.
    pub fn renew(&self, client: ClientId, open: Vec<OpenInode>) -> Renewed {
        let (mut pass_on, mut news) = (Vec::new(), self.nothing());
        self.with(|table| {
            let (now, stamp, lease) = (table.now(), table.next(), table.lease_ms);
            for record in open {
                let (ino, writes) = (record.ino, record.mode.writes());
                let mut known = table.find(ino, client);
                if let Some(known) = &mut known {
                    known.until = now + lease;
                }
                if let Some(known) = known.filter(|known| known.counts()) {
                    known.found.take_if(|_| !writes);
                    let is_over = now >= known.written + overtaken(lease) && known.opening_to_write == 0;
                    if writes && !known.may_write() {
                        pass_on.push(record);
                    } else if !writes && is_over && known.writes.take().is_some() {
                        table.end(ino, true, &mut news);
                    }
                } else if !writes && let Some(known) = table.client(ino, client, &self.pool, self.most_pages)
                {
                    (known.is_open, known.stamp, known.until) = (true, stamp, now + lease);
                    known.found = None;
                    table.tell(ino, stamp, false);
                    news.open.push(record);
                } else {
                    // From which version on it writes is not known here.
                    pass_on.push(record);
                }
            }
            table.sign(&mut news);
        });
        Renewed { pass_on, news }
    }

    /// A client has written a file, of version `since`: it may have it open by the last run of the server. Homes know that from others, but have to ask here how far it wrote.
    pub fn found_writing(&self, ino: InodeId, client: ClientId, since: u64) {
        self.with(|table| {
            let until = table.now() + table.lease_ms;
            let Some(known) = table.client(ino, client, &self.pool, self.most_pages) else { return };
            if known.writes.is_none() {
                known.found.get_or_insert(since);
                known.until = known.until.max(until);
            }
        });
    }

    /// Who writes a file.
    pub fn writers(&self, ino: InodeId) -> Vec<KnownWriter> {
        let table = self.table.lock();
        let Some(file) = table.files.get(&ino) else { return Vec::new() };
        let known = file.clients.iter().filter(|known| known.writes.is_some() || known.found.is_some());
        known
            .map(|known| KnownWriter { client: known.id, opened: known.writes, found: known.found })
            .collect()
    }

    /// Whether no other client may write the file.
    pub fn is_sole_writer(&self, ino: InodeId, client: ClientId) -> bool {
        let table = self.table.lock();
        let others = |file: &File| file.clients.iter().any(|known| known.id != client && known.may_write());
        !table.files.get(&ino).is_some_and(others)
    }

    /// A stamp, if only this client has the file open.
    pub fn alone(&self, ino: InodeId, client: ClientId) -> Option<u64> {
        let mut table = self.table.lock();
        let stamp = table.next();
        let file = table.files.get(&ino)?;
        file.clients.iter().all(|known| known.id == client).then_some(stamp)
    }

    /// All that is open.
    pub fn round(&self) -> Round {
        self.with(|table| {
            let (stamp, settled) = (table.next(), table.settled());
            let mut open = Vec::with_capacity(table.files.len());
            for (ino, file) in table.files.iter_mut().filter(|(_, file)| file.is_open()) {
                let writes = file.may_be_written();
                file.told = stamp;
                if writes {
                    file.told_writing = stamp;
                }
                open.push((*ino, writes));
            }
            Round { stamp, settled, open }
        })
    }

    /// Homes were told, as of `stamp`, that these are open: some may have been closed meanwhile, and the home heard of that first.
    pub fn after_round(&self, stamp: u64, open: &[(InodeId, bool)]) -> NodeOpens {
        let mut news = self.nothing();
        self.with(|table| {
            for (ino, wrote) in open {
                match table.files.get(ino).filter(|file| file.is_open()) {
                    None => news.closed.push(*ino),
                    Some(file) if *wrote && file.told_writing <= stamp && !file.may_be_written() => {
                        news.read.push(*ino);
                    }
                    Some(_) => {}
                }
            }
            table.sign(&mut news);
        });
        news
    }

    /// A home did not answer when it was told: later again.
    pub fn not_heard(&self, news: &NodeOpens) {
        self.with(|table| {
            let room = UNHEARD_MAX.saturating_sub(table.unheard.len());
            // Of those that have no room the home knows for a lease more, or hears with the next round.
            table.unheard.extend(news.closed.iter().chain(&news.read).take(room));
            let room = UNHEARD_MAX.saturating_sub(table.unheard_lost.len());
            table.unheard_lost.extend(news.lost.iter().take(room));
        });
    }

    /// What has to be told once more.
    pub fn again(&self) -> NodeOpens {
        let mut news = self.nothing();
        self.with(|table| {
            news.lost = std::mem::take(&mut table.unheard_lost);
            let mut unheard = std::mem::take(&mut table.unheard);
            unheard.sort_unstable();
            unheard.dedup();
            for ino in unheard {
                match table.files.get(&ino).filter(|file| file.is_open()) {
                    None => news.closed.push(ino),
                    Some(file) if file.told_writing != 0 && !file.may_be_written() => news.read.push(ino),
                    Some(_) => {}
                }
            }
            table.sign(&mut news);
        });
        news
    }

    /// Forgets clients that were not heard of for a lease. Answers what ended so.
    pub fn expire(&self, now: Instant) -> NodeOpens {
        let mut news = self.nothing();
        self.with(|table| {
            let now = table.moment(now);
            let mut over = Vec::new();
            for (ino, file) in &mut table.files {
                let before = file.clients.len();
                let mut wrote = false;
                file.clients.retain(|known| {
                    let stays = known.until > now || known.opening > 0;
                    wrote |= !stays && known.writes.is_some();
                    stays
                });
                if file.clients.len() < before {
                    over.push((*ino, before - file.clients.len(), wrote));
                }
            }
            for (ino, clients, wrote) in over {
                table.pages.used -= clients;
                if wrote {
                    news.lost.push(ino);
                }
                table.end(ino, wrote, &mut news);
            }
            table.sign(&mut news);
        });
        news
    }
}

impl Table {
    /// A stamp greater than all before.
    fn next(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// All that has a smaller stamp has been answered, or given up, or is known as an opening under way.
    fn settled(&self) -> u64 {
        self.creating.first().copied().unwrap_or(self.stamp)
    }

    fn now(&self) -> u64 {
        self.moment(Instant::now())
    }

    /// Milliseconds since the table was made.
    fn moment(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.since).as_millis() as u64
    }

    fn find(&mut self, ino: InodeId, client: ClientId) -> Option<&mut Client> {
        self.files.get_mut(&ino)?.clients.iter_mut().find(|known| known.id == client)
    }

    /// What is known of a client and a file, from now on at least. None: there is no room.
    fn client(&mut self, ino: InodeId, client: ClientId, pool: &Budget, most: usize) -> Option<&mut Client> {
        if self.find(ino, client).is_none() {
            if !self.pages.make_room(pool, most) {
                return None;
            }
            self.pages.used += 1;
            let clients = &mut self.files.entry(ino).or_default().clients;
            if clients.is_empty() {
                // Most files are open at one.
                clients.reserve_exact(1);
            }
            clients.push(Client {
                id: client,
                stamp: 0,
                writes: None,
                opening: 0,
                opening_to_write: 0,
                until: 0,
                written: 0,
                is_open: false,
                found: None,
            });
        }
        self.find(ino, client)
    }

    fn remove(&mut self, ino: InodeId, client: ClientId) {
        if let Some(file) = self.files.get_mut(&ino) {
            let before = file.clients.len();
            file.clients.retain(|known| known.id != client);
            self.pages.used -= before - file.clients.len();
        }
    }

    fn drop_if_closed(&mut self, ino: InodeId) {
        if self.files.get(&ino).is_some_and(|file| file.clients.is_empty()) {
            self.files.remove(&ino);
        }
    }

    /// A message that is sent with this stamp says that the file is open.
    fn tell(&mut self, ino: InodeId, stamp: u64, writes: bool) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.told = file.told.max(stamp);
            if writes {
                file.told_writing = file.told_writing.max(stamp);
            }
        }
    }

    /// A client closes the file; false: its home has to hear that from itself.
    fn shut(&mut self, ino: InodeId, client: ClientId, news: &mut NodeOpens) -> bool {
        let Some(left) = self.leave(ino, client) else { return false };
        self.end(ino, left.wrote, news);
        !left.was_found
    }

    /// A client has the file open no longer, but by what is under way. None: nothing is known of it.
    fn leave(&mut self, ino: InodeId, client: ClientId) -> Option<Left> {
        let known = self.find(ino, client)?;
        let left = Left { wrote: known.writes.take().is_some(), was_found: known.found.take().is_some() };
        known.is_open = false;
        if known.opening == 0 {
            self.remove(ino, client);
        }
        Some(left)
    }

    /// A client has closed the file, or (`wrote`) writes it no longer: adds what ended so for the node.
    fn end(&mut self, ino: InodeId, wrote: bool, news: &mut NodeOpens) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        if !file.is_open() {
            if file.told != 0 {
                news.closed.push(ino);
            }
            (file.told, file.told_writing) = (0, 0);
            self.drop_if_closed(ino);
        } else if wrote && file.told_writing != 0 && !file.may_be_written() {
            news.read.push(ino);
        }
    }

    /// Gives news their stamp, and remembers what ends by them.
    fn sign(&mut self, news: &mut NodeOpens) {
        if is_empty(news) {
            return;
        }
        (news.stamp, news.settled) = (self.next(), self.settled());
        for ino in news.closed.iter().chain(&news.read) {
            self.note_ended(*ino, news.stamp);
        }
    }

    fn note_ended(&mut self, ino: InodeId, stamp: u64) {
        if self.creating.is_empty() {
            return;
        }
        self.ended.push_back((stamp, ino));
        if self.ended.len() > ENDED_MAX
            && let Some((stamp, _)) = self.ended.pop_front()
        {
            self.forgotten = stamp;
        }
    }

    fn was_ended_since(&self, ino: InodeId, stamp: u64) -> bool {
        self.forgotten > stamp || self.ended.iter().any(|(at, ended)| *ended == ino && *at > stamp)
    }

    /// Forgets what was ended before any creation began that is under way.
    fn forget_ended(&mut self) {
        let first = self.creating.first().copied().unwrap_or(u64::MAX);
        while self.ended.front().is_some_and(|(at, _)| *at < first) {
            self.ended.pop_front();
        }
    }

    /// Pages that are not needed any more; to be dropped outside of the lock.
    fn shrink(&mut self) -> Vec<Charge> {
        let unused = self.pages.unused();
        if !unused.is_empty() {
            // The memory goes back before it is said to be free.
            self.files.shrink_to(2 * self.files.len());
        }
        unused
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
