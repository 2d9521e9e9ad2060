//! A bucket of an object store as shared tier: `docs/decisions/0019-tier-port.md` says how names, directories and attributes are mapped.
//!
//! # Invariants
//! - Under a key there is a whole object or none: files are put at once, or uploaded in parts and completed (`tests/flush`, `a_file_in_parts_is_whole_or_absent`).
//! - What is published while its directory moves is taken along or taken back (`tests/flush`,
//!   `a_change_in_a_directory_that_moved_is_taken_back`).
//! - A start gives up the uploads that this server had begun before (`tests/flush`, `a_start_gives_up_what_a_former_run_began`).
//!
//! - What is read of a file is of the object that was asked for, or nothing is (`tests/flush`, `what_is_read_of_a_bucket_is_of_one_object`).
//! - What was put under a key while a publication was on its way there is not replaced by it, if the server knows conditions (`tests/flush`,
//!   `a_publication_that_was_held_up_replaces_nothing_newer`).
//! - One that is only read gets no request that changes anything (`tests/flush`, `an_old_bucket_is_only_read`).
//!
//! Deliberately absent: locks, retries.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use fs_proto::{FileKind, ServerId};
use parking_lot::Mutex;
use rusty_s3::Credentials;

use self::client::{Client, Only, failed};
use self::draft::{Draft, PartFile, Record, SMALL, SmallFile, What};
use self::keys::{ATTRIBUTES, marker};
use self::target::Target;
use super::{
    Attributes, Base, Destination, Dir, Facts, Found, Make, Place, TakeListed, Tier, TierError, TierFile,
    TierResult, staged_prefix, staging_name,
};
use crate::config::ServerConfig;
use crate::error::ServerError;

pub mod client;
mod draft;
mod fault;
mod keys;
mod meta;
mod moves;
mod reading;
pub mod target;

/// Least bytes of a part: S3 wants 5 MiB of all but the last.
const PART: u64 = 8 << 20;
/// Keys of one page of a listing.
const PAGE: usize = 1_000;
/// Calls that are made at once: each waits for the network.
const THREADS: usize = 16;
/// Largest object that is copied in one request.
const COPY_MAX: u64 = 5 << 30;

const CHANGED: &str = "somebody else changed it at this moment; it is tried again";

/// Begins the names of variables that say of an old bucket what those without it say of the shared tier's.
const OLD: &str = "HAYATE_OLD_";

/// What is known of a bucket that cannot be used yet.
pub const UNOPENED: Facts =
    Facts { left_over: true, is_remote: false, threads: THREADS, part_bytes: Some(PART) };

/// The adapter.
pub struct S3 {
    client: Arc<Client>,
    target: Target,
    job: String,
    me: ServerId,
    drafts: Arc<Mutex<BTreeMap<String, Draft>>>,
    left_over: bool,
    told: AtomicBool,
    carrying: moves::Moves,
    /// It is listed and read, and others may use it: nothing is noted there, and what lies under a path is what is there now.
    is_read_only: bool,
    /// The server holds to conditions on what is put.
    knows_conditions: bool,
}

/// A directory: a beginning of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct S3Dir {
    path: String,
    id: u64,
    /// The root or a staging prefix, there without being made; or one of a tier that is only read. Whether it has moved is not looked for.
    is_base: bool,
}

impl S3Dir {
    /// One that is only read.
    fn of(path: String) -> Self {
        S3Dir { id: reading::number_of_path(&path), path, is_base: true }
    }
}

fn new_id() -> u64 {
    rand::random::<u64>() | 1
}

fn dir_of(dir: &Dir) -> TierResult<&S3Dir> {
    dir.handle().ok_or_else(|| TierError::Failed("a directory handle of another adapter".to_owned()))
}

fn key_of(at: &Place) -> TierResult<String> {
    keys::key(&dir_of(&at.dir)?.path, &at.name)
}

/// The same of what may be there: nothing is under a key that is too long.
fn key_there(at: &Place) -> TierResult<String> {
    key_of(at).map_err(|error| match error {
        TierError::Refused(text) => TierError::Missing(text),
        error => error,
    })
}

impl S3 {
    /// Checks that the bucket can be written, and gives up what a former run of this server left.
    pub fn open(
        tier: &Path,
        client: Client,
        target: Target,
        config: &ServerConfig,
    ) -> Result<Self, ServerError> {
        let mut s3 = S3::unopened(client, target, config);
        (s3.left_over, s3.knows_conditions) = s3.probe().map_err(|error| ServerError::Tier {
            path: tier.to_owned(),
            reason: format!(
                "cannot be used: {error}; check the bucket, AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ),
        })?;
        Ok(s3)
    }

    fn unopened(client: Client, target: Target, config: &ServerConfig) -> Self {
        S3 {
            client: Arc::new(client),
            target,
            job: config.job.clone(),
            me: config.id,
            drafts: Arc::default(),
            left_over: false,
            told: AtomicBool::new(false),
            carrying: moves::Moves::default(),
            is_read_only: false,
            knows_conditions: false,
        }
    }

    /// One that is only listed and read. Nothing is asked of the server yet.
    pub fn reading(client: Client, target: Target, config: &ServerConfig) -> Self {
        S3 { is_read_only: true, ..S3::unopened(client, target, config) }
    }

    /// Whether it can be read as an old tier, whose directories must not be between two places.
    pub fn check_readable(&self) -> Result<(), String> {
        let listed = |prefix: String| self.client.list(&prefix, "", 1).map_err(|error| error.to_string());
        listed(self.target.prefix.clone())?;
        if listed(format!("{}{}", self.target.prefix, keys::MOVING))?.is_empty() {
            return Ok(());
        }
        Err("a directory in it is half moved; start a cluster on it (hayate up --tier) and end it (hayate down --drain) first".to_owned())
    }

    /// The same with what the environment says.
    pub fn from_env(tier: &Path, config: &ServerConfig) -> Result<Self, ServerError> {
        let target = S3::target(tier)?;
        let client =
            Client::new(&target).map_err(|reason| ServerError::Tier { path: tier.to_owned(), reason })?;
        S3::open(tier, client, target, config)
    }

    /// As [`S3::reading`], of a bucket that may be on another server, with other keys: what the environment says of it begins with [`OLD`].
    pub fn reading_from_env(tier: &Path, config: &ServerConfig) -> Result<Self, String> {
        let target = S3::old_target(tier)?;
        let own = |name: &str| std::env::var(format!("{OLD}{name}")).ok();
        let client = Client::new(&target)?;
        let client = match (own("AWS_ACCESS_KEY_ID"), own("AWS_SECRET_ACCESS_KEY")) {
            (Some(key), Some(secret)) => client.with_credentials(match own("AWS_SESSION_TOKEN") {
                Some(token) => Credentials::new_with_token(key, secret, token),
                None => Credentials::new(key, secret),
            }),
            (None, None) => client,
            _ => {
                return Err(format!(
                    "{OLD}AWS_ACCESS_KEY_ID and {OLD}AWS_SECRET_ACCESS_KEY belong together; set both or none of them for the servers"
                ));
            }
        };
        Ok(S3::reading(client, target, config))
    }

    /// The bucket that `tier` and what the environment says of an old one name.
    pub fn old_target(tier: &Path) -> Result<Target, String> {
        let env = |name: &str| std::env::var(format!("{OLD}{name}")).or_else(|_| std::env::var(name)).ok();
        Target::parse(&tier.to_string_lossy(), env)
    }

    /// The bucket that `tier` and the environment name.
    pub fn target(tier: &Path) -> Result<Target, ServerError> {
        Target::parse(&tier.to_string_lossy(), |name| std::env::var(name).ok())
            .map_err(|reason| ServerError::Tier { path: tier.to_owned(), reason })
    }

    /// Returns whether something lies in staging that others take out, and whether the server knows conditions.
    fn probe(&self) -> TierResult<(bool, bool)> {
        let staging = self.staging(self.me);
        let probe = format!("{staging}{}probe", staged_prefix(self.me));
        // Some servers take an object without having its bucket.
        self.client.list(&staging, "", 1)?;
        self.client.put(&probe, &client::Meta::new(), b"")?;
        let keeps_to =
            |only: &Only| matches!(self.client.put_if(&probe, &client::Meta::new(), b"", only), Ok(false));
        let knows_conditions = keeps_to(&Only::IfNone) && keeps_to(&Only::IfTag("\"none\"".to_owned()));
        self.client.delete(&probe)?;
        self.client.may_probe_at(probe);
        self.give_up_all(self.me)?;
        Ok((self.has_moves()? || !self.client.list(&staging, "", 1)?.is_empty(), knows_conditions))
    }

    /// Does something with all keys that begin with `prefix`.
    fn each(&self, prefix: &str, mut body: impl FnMut(&str) -> TierResult<()>) -> TierResult<()> {
        let mut after = String::new();
        loop {
            let page = self.client.list(prefix, &after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after.clone_from(last);
            page.iter().try_for_each(|(key, _)| body(key))?;
        }
    }

    fn staging(&self, server: ServerId) -> String {
        format!("{}{}/", self.target.prefix, staging_name(&self.job, server))
    }

    /// Gives up what server `me` staged and nobody will publish.
    fn give_up_all(&self, me: ServerId) -> TierResult<()> {
        self.each(&format!("{}{}", self.staging(me), staged_prefix(me)), |key| self.give_up(key).map(drop))
    }

    /// Gives up the upload that is written down under `at`, if one is, and was not published just before a crash.
    fn give_up(&self, at: &str) -> TierResult<bool> {
        let Some(text) = self.client.get(at)? else { return Ok(false) };
        if let Ok(record) = Record::from_json(at, &text) {
            let there = self.client.head(&record.key)?;
            if there.is_none_or(|head| meta::id_of(&head.meta) != record.id) {
                self.abort(&record)?;
            }
        }
        self.client.delete(at)?;
        Ok(true)
    }

    /// Whoever may not end uploads can use the tier nevertheless, and be done with it.
    fn abort(&self, Record { key, upload, .. }: &Record) -> TierResult<()> {
        match self.client.abort(key, upload) {
            Err(error @ TierError::Refused(_)) => {
                tracing::warn!(
                    %error,
                    key,
                    upload,
                    "the parts of an upload that was interrupted stay in the bucket until its rule for incomplete uploads or somebody removes them (s3:AbortMultipartUpload must be allowed)"
                );
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn draft(&self, at: &str) -> Option<Draft> {
        self.drafts.lock().get(at).cloned()
    }

    fn stored(&self, kind: FileKind, id: u64, rdev: u32, attributes: Option<&Attributes>) -> client::Meta {
        let (meta, too_many) = meta::of(kind, id, rdev, attributes);
        if too_many && !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "extended attributes of more than 1,500 bytes do not fit beside an S3 object; such are left out there"
            );
        }
        meta
    }

    /// The number of a directory, which is the content of its marker; None if there is none.
    fn directory_id(&self, path: &str) -> TierResult<Option<u64>> {
        let marker = marker(path);
        let Some(text) = self.client.get(&marker)? else { return Ok(None) };
        let id = std::str::from_utf8(&text).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
        id.map(Some).ok_or_else(|| failed("read", &marker, "it is no marker of a directory"))
    }

    fn make_directory(&self, at: &Place) -> TierResult<u64> {
        let (dir, id) = (format!("{}/", key_of(at)?), new_id());
        if self.directory_id(&dir)?.is_some() {
            return Err(TierError::Occupied(format!("{dir:?} is a directory in the shared tier already")));
        }
        self.put_marker(&dir, id)?;
        self.confirm(dir_of(&at.dir)?).inspect_err(|_| drop(self.take_directory_back(&dir, id)))?;
        Ok(id)
    }

    fn put_marker(&self, dir: &str, id: u64) -> TierResult<()> {
        let meta = self.stored(FileKind::Directory, id, 0, None);
        self.client.put(&marker(dir), &meta, format!("{id:016x}").as_bytes())
    }

    fn begin(&self, at: &str, size: u64, to: Option<&Destination>, id: u64) -> TierResult<Draft> {
        let attributes = to.map(|to| to.attributes.clone());
        if size <= SMALL {
            return Ok(Draft { id, what: What::Small(vec![0; size as usize]), attributes });
        }
        let to = to.ok_or_else(|| failed("stage", at, "where it will be published is not known"))?;
        let meta = self.stored(FileKind::File, id, 0, Some(&to.attributes));
        let key = key_of(&to.place)?;
        let upload = self.client.create_upload(&key, &meta)?;
        let record = Record { key, upload, part_bytes: self.facts().part_bytes(size).unwrap_or(PART), id };
        if let Err(error) = self.client.put(at, &client::Meta::new(), &record.to_json()) {
            // Nobody would find it later.
            let _ = self.abort(&record);
            return Err(error);
        }
        Ok(Draft { id, what: What::Upload(record, BTreeMap::new()), attributes })
    }

    fn link(&self, of: &Place) -> TierResult<Draft> {
        let from = key_of(of)?;
        let missing = |why: &str| TierError::Missing(format!("{from:?} {why} in the shared tier"));
        let head = self.client.head(&from)?.ok_or_else(|| missing("is not there"))?;
        if head.size > COPY_MAX {
            return Err(missing("is too large to be copied"));
        }
        let what = What::Link(from, meta::adopted(&head));
        Ok(Draft { id: meta::number_of(&head), what, attributes: None })
    }

    /// Makes a draft visible under its name; it stays a draft, for [`Tier::remove`].
    fn publish(&self, at: &str, draft: &Draft, to: &Place) -> TierResult<()> {
        self.precheck(dir_of(&to.dir)?)?;
        let (key, attributes) = (key_of(to)?, draft.attributes.as_ref());
        // A request that is held up on its way must not replace what came after it.
        let only = if self.knows_conditions {
            Only::if_still(self.client.head(&key)?.as_ref())
        } else {
            Only::Always
        };
        let confirmed = |is_done| if is_done { Ok(()) } else { Err(failed("publish", &key, CHANGED)) };
        let put = |kind, rdev, body: &[u8]| {
            let meta = self.stored(kind, draft.id, rdev, attributes);
            self.client.put_if(&key, &meta, body, &only).and_then(confirmed)
        };
        match &draft.what {
            What::Small(data) => put(FileKind::File, 0, data)?,
            What::Symlink(target) => put(FileKind::Symlink, 0, target)?,
            What::Special(kind, rdev) => put(*kind, *rdev, b"")?,
            What::Link(from, adopted) => self.copy_link(from, &key, draft.id, adopted.as_ref())?,
            What::Upload(record, parts) => {
                if record.key != key {
                    return Err(failed("publish", &key, "its directory moved while it was uploaded"));
                }
                let tags: Vec<String> = parts.values().map(|(_, tag)| tag.clone()).collect();
                if parts.keys().copied().ne(1..=tags.len() as u16) {
                    return Err(failed("publish", &key, "a part is missing"));
                }
                self.client.complete(&key, &record.upload, &tags, &only).and_then(confirmed)?;
                self.client.delete(at)?;
            }
        }
        self.drafts.lock().remove(at);
        self.confirm(dir_of(&to.dir)?).inspect_err(|_| drop(self.take_back(&key, draft.id)))
    }

    fn copy_link(&self, from: &str, key: &str, id: u64, adopted: Option<&client::Meta>) -> TierResult<()> {
        self.client.copy(from, key, adopted)?;
        if self.client.head(key)?.is_some_and(|head| meta::id_of(&head.meta) == id) {
            return Ok(());
        }
        self.client.delete(key)?;
        Err(TierError::Failed(format!("{from:?} was replaced while it was copied in the shared tier")))
    }

    fn remove_directory(&self, at: &Place) -> TierResult<()> {
        let dir = format!("{}/", key_there(at)?);
        let own = [format!("{dir}{ATTRIBUTES}"), marker(&dir)];
        let below = self.client.list(&dir, "", 4)?;
        if below.iter().any(|(key, _)| *key != dir && !own.contains(key)) {
            return Err(TierError::Occupied(format!(
                "the directory {dir:?} is not empty in the shared tier"
            )));
        }
        if below.is_empty() {
            return Err(TierError::Missing(format!("{dir:?} is not there in the shared tier")));
        }
        // A part of what is in it may be on its way. Looked for last: a move that begins now finds it as empty as it was found here.
        self.refuse_while_moving(&dir)?;
        // The last is the object that other tools make for a directory.
        for key in own.iter().chain([&dir]) {
            self.client.delete(key)?;
        }
        self.confirm(dir_of(&at.dir)?)
    }

    fn set_directory(&self, dir: &S3Dir, attributes: &Attributes) -> TierResult<()> {
        self.precheck(dir)?;
        let key = format!("{}{ATTRIBUTES}", dir.path);
        self.client.put(&key, &self.stored(FileKind::Directory, dir.id, 0, Some(attributes)), b"")?;
        self.confirm(dir).inspect_err(|_| drop(self.take_back(&key, dir.id)))
    }
}

impl Tier for S3 {
    fn facts(&self) -> Facts {
        // What it has taken it keeps.
        Facts { left_over: self.left_over, is_remote: false, threads: THREADS, part_bytes: Some(PART) }
    }

    fn base(&self, base: Base) -> TierResult<Dir> {
        let (path, id) = match base {
            // One that is only read is known again by that.
            Base::Root if self.is_read_only => (self.target.prefix.clone(), self.target.number()),
            Base::Root => (self.target.prefix.clone(), 1),
            Base::Staging(server) => (self.staging(server), 2),
        };
        Ok(Dir::new(id, S3Dir { path, id, is_base: true }))
    }

    fn open_dir(&self, at: &Place) -> TierResult<Dir> {
        let path = format!("{}/", key_there(at)?);
        if self.is_read_only {
            // One that is not there is as one that is empty.
            let dir = S3Dir::of(path);
            return Ok(Dir::new(dir.id, dir));
        }
        let Some(id) = self.directory_found(&path)? else {
            return Err(TierError::Missing(format!("{path:?} is no directory in the shared tier")));
        };
        Ok(Dir::new(id, S3Dir { path, id, is_base: false }))
    }

    fn look(&self, at: &Place) -> TierResult<Option<Found>> {
        let key = match key_there(at) {
            Err(TierError::Missing(_)) => return Ok(None),
            key => key?,
        };
        if let Some(draft) = self.draft(&key) {
            return Ok(Some(Found { id: draft.id, is_dir: false, size: draft.size(), mtime: 0 }));
        }
        let head = self.client.head(&key)?;
        // Afterwards: what is found under an old path may be another directory's.
        self.precheck(dir_of(&at.dir)?)?;
        let leaf = head.as_ref().map(meta::found);
        if head.is_some_and(|head| meta::id_of(&head.meta) != 0) {
            return Ok(leaf);
        }
        let dir = self.directory_found(&format!("{key}/"))?;
        Ok(dir.map(|id| Found { id, is_dir: true, size: 0, mtime: 0 }).or(leaf))
    }

    fn list(&self, dir: &Dir, take: TakeListed<'_>) -> TierResult<()> {
        self.list_directory(dir_of(dir)?, take)
    }

    fn read(&self, at: &Place, wanted: &Found, offset: u64, out: &mut [u8]) -> TierResult<()> {
        let key = key_of(at)?;
        if self.client.read(&key, offset, out, |head| meta::is(head, wanted))? {
            return Ok(());
        }
        self.precheck(dir_of(&at.dir)?)?;
        Err(TierError::Missing(format!("{key:?} was changed in the shared tier by others")))
    }

    fn make(&self, at: &Place, what: &Make) -> TierResult<u64> {
        let (key, id) = (key_of(at)?, new_id());
        let draft = match what {
            Make::Directory => return self.make_directory(at),
            Make::File { size, to } => self.begin(&key, *size, to.as_deref(), id)?,
            Make::Symlink { target } => Draft { id, what: What::Symlink(target.clone()), attributes: None },
            Make::Special { kind, rdev } => Draft { id, what: What::Special(*kind, *rdev), attributes: None },
            Make::Link { of } => self.link(of)?,
        };
        let id = draft.id;
        self.drafts.lock().insert(key, draft);
        Ok(id)
    }

    fn open_file(&self, at: &Place) -> TierResult<Box<dyn TierFile>> {
        let key = key_of(at)?;
        let record = match self.draft(&key).map(|draft| draft.what) {
            Some(What::Small(_)) => {
                return Ok(Box::new(SmallFile { drafts: Arc::clone(&self.drafts), at: key }));
            }
            Some(What::Upload(record, _)) => record,
            Some(What::Symlink(_) | What::Special(..) | What::Link(..)) => {
                return Err(failed("fill", &key, "it is no file"));
            }
            None => {
                let text = self.client.get(&key)?;
                Record::from_json(
                    &key,
                    &text.ok_or_else(|| TierError::Missing(format!("{key:?} is not staged")))?,
                )?
            }
        };
        Ok(Box::new(PartFile { client: Arc::clone(&self.client), record, written: Mutex::default() }))
    }

    fn collect(&self, at: &Place, receipts: &[Bytes]) -> TierResult<()> {
        let key = key_of(at)?;
        let mut drafts = self.drafts.lock();
        let Some(draft) = drafts.get_mut(&key) else { return Ok(()) };
        receipts.iter().filter(|receipt| !receipt.is_empty()).try_for_each(|receipt| draft.collect(receipt))
    }

    fn set(&self, at: &Place, id: u64, attributes: &Attributes) -> TierResult<()> {
        if &at.name[..] == b"." {
            return self.set_directory(dir_of(&at.dir)?, attributes);
        }
        let key = key_of(at)?;
        let mut drafts = self.drafts.lock();
        match drafts.get_mut(&key).filter(|draft| draft.id == id) {
            // What is stored with an object cannot be changed without a new object.
            None | Some(Draft { what: What::Link(..), .. }) => {
                Err(TierError::Missing(format!("{key:?} is to be uploaded again with its new attributes")))
            }
            Some(draft) => {
                draft.attributes = Some(attributes.clone());
                Ok(())
            }
        }
    }

    fn rename(&self, from: &Place, to: &Place) -> TierResult<()> {
        let at = key_of(from)?;
        if let Some(draft) = self.draft(&at) {
            return self.publish(&at, &draft, to);
        }
        let missing = || TierError::Missing(format!("{at:?} is no directory in the shared tier"));
        let id = self.directory_id(&format!("{at}/"))?.ok_or_else(missing)?;
        if self.move_announced(id, from, to)? { Ok(()) } else { Err(missing()) }
    }

    fn move_directory(&self, id: u64, from: &Place, to: &Place) -> TierResult<bool> {
        self.move_announced(id, from, to)
    }

    fn undo_move(&self, to: &Place) -> TierResult<()> {
        match key_there(to) {
            Err(TierError::Missing(_)) => Ok(()),
            key => self.undo_moves_to(&format!("{}/", key?)),
        }
    }

    fn remove(&self, at: &Place, is_dir: bool) -> TierResult<()> {
        if is_dir {
            return self.remove_directory(at);
        }
        let (key, dir) = (key_there(at)?, dir_of(&at.dir)?);
        let draft = self.drafts.lock().remove(&key);
        let is_staging = dir.path == self.staging(self.me);
        if !is_staging {
            self.precheck(dir)?;
            self.client.delete(&key)?;
            return self.confirm(dir);
        }
        match draft {
            Some(Draft { what: What::Upload(..), .. }) | None if self.give_up(&key)? => Ok(()),
            Some(_) => Ok(()),
            None => Err(TierError::Missing(format!("{key:?} is not staged"))),
        }
    }

    fn rest(&self, me: ServerId) -> TierResult<bool> {
        self.undo_idle_moves()?;
        let is_empty = || Ok(self.client.list(&self.staging(me), "", 1)?.is_empty());
        if is_empty()? {
            return Ok(true);
        }
        // A request of a run that was killed may have come after the look of this one's start.
        self.give_up_all(me)?;
        is_empty()
    }

    fn reset(&self) {}
}
