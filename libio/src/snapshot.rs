//! A committed version, read by anybody, with any number of readers.
//!
//! # Invariants
//! - No byte is handed out that was not checked: data against its block's checksum, that against the seal's, that against the
//!   manifest's (`damaged_data_are_found`).
//! - What tier 1 has lost is read from the shared tier, block by block (`what_tier_1_lost_is_read_from_the_shared_tier`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fs_client::{InodeId, Status};

use crate::attempt::Group;
use crate::checkpoints;
use crate::copies;
use crate::error::{Error, Result};
use crate::extents::clipped;
use crate::format::{self, Manifest, Packed, Seal, SealedRegion};
use crate::packed;
use crate::several::for_ranks;
use crate::spread::part_end;
use crate::stored::{Silent, Stored, files, is_good_in_tier};
use crate::tier::Tier;

/// Bytes read at once by [`Snapshot::verify`].
const VERIFY_BYTES: usize = 8 << 20;

/// One region of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionInfo {
    /// Its name.
    pub name: String,
    /// Its size in bytes: where the last write to it ended.
    pub bytes: u64,
}

/// Size of a region, and where its parts are: (rank, number among the rank's regions), by rank.
#[derive(Default)]
struct Parts {
    bytes: u64,
    of: Vec<(u32, usize)>,
}

/// What a rank wrote of a region, to be read.
enum Part<'a> {
    Plain(Box<Stored<'a>>),
    /// With the path of its file.
    Packed(String, &'a SealedRegion, &'a Packed),
}

/// A committed version. Usable from every thread; remembers the seals of the ranks that it read from.
pub struct Snapshot {
    group: Group,
    manifest: Manifest,
    /// The manifest's file, if it was read from tier 1.
    name: Option<InodeId>,
    /// Tier 1 could not tell: it is not asked, and waited for, at every read.
    unasked: AtomicBool,
    seals: Mutex<HashMap<u32, Arc<Seal>>>,
    index: OnceLock<BTreeMap<String, Parts>>,
    silent: Silent,
}

impl Snapshot {
    pub(crate) fn new(group: Group, manifest: Manifest) -> Snapshot {
        Snapshot {
            group,
            manifest,
            name: None,
            unasked: AtomicBool::new(false),
            seals: Mutex::default(),
            index: OnceLock::new(),
            silent: Silent::default(),
        }
    }

    /// One whose manifest is this file.
    pub(crate) fn named(self, name: Option<InodeId>) -> Snapshot {
        Snapshot { name, ..self }
    }

    /// One whose reader knows already that these servers do not answer.
    pub(crate) fn without(self, silent: impl IntoIterator<Item = u16>) -> Snapshot {
        silent.into_iter().for_each(|server| self.silent.add(server));
        self
    }

    /// Whether no two parts of anything are at one host.
    pub(crate) fn is_apart(&self) -> bool {
        !self.manifest.hosts.is_empty()
    }

    /// Whether the version is still the one that was opened, as far as tier 1 can tell: its number may have been removed, and written again. One message.
    pub fn is_current(&self) -> bool {
        if self.name.is_none() || self.unasked.load(Ordering::Relaxed) {
            return true;
        }
        let path = self.group.paths.manifest(self.manifest.version);
        self.group.disk.inode(&path).map_or_else(
            |_| {
                self.unasked.store(true, Ordering::Relaxed);
                true
            },
            |now| now == self.name,
        )
    }

    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The version.
    pub fn version(&self) -> u64 {
        self.manifest.version
    }

    /// How many ranks wrote it. Any number may read it.
    pub fn nranks(&self) -> u32 {
        self.manifest.seals.len() as u32
    }

    /// Bytes that all ranks wrote.
    pub fn bytes(&self) -> u64 {
        self.manifest.bytes
    }

    /// All regions, by name. Reads the seals of all ranks, the first time.
    pub fn regions(&self) -> Result<Vec<RegionInfo>> {
        let regions = self.index()?.iter();
        Ok(regions.map(|(name, parts)| RegionInfo { name: name.clone(), bytes: parts.bytes }).collect())
    }

    /// Size of a region in bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn size(&self, name: &str) -> Result<u64> {
        Ok(self.parts(name)?.bytes)
    }

    /// Reads from region `name`, whoever wrote it; answers how many bytes, fewer than asked for only at the region's end. Blocks of 1 MiB
    /// are checked whole, so aligned reads cost least.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if what is stored is not what was written, and neither is what the shared tier has; [`Error::NotFound`].
    pub fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let parts = self.parts(name)?;
        let wanted = (buf.len() as u64).min(parts.bytes.saturating_sub(offset)) as usize;
        let buf = &mut buf[..wanted];
        buf.fill(0);
        for (rank, index) in &parts.of {
            let seal = self.seal(*rank)?;
            let mut part = None;
            for (from, to) in clipped(&seal.regions[*index].extents, offset, offset + wanted as u64) {
                if part.is_none() {
                    part = Some(self.part(*rank, *index, &seal)?);
                }
                let room = &mut buf[(from - offset) as usize..(to - offset) as usize];
                part.as_mut().map_or(Ok(()), |part| self.read_part(part, from, room))?;
            }
        }
        Ok(wanted)
    }

    /// Reads and checks every byte that a rank wrote.
    pub fn verify(&self) -> Result<()> {
        let mut buf = vec![0; VERIFY_BYTES];
        for rank in 0..self.nranks() {
            let seal = self.seal(rank)?;
            for (index, region) in seal.regions.iter().enumerate() {
                let mut part = self.part(rank, index, &seal)?;
                for (mut from, to) in region.extents.iter().copied() {
                    while from < to {
                        let some = (to - from).min(VERIFY_BYTES as u64);
                        self.read_part(&mut part, from, &mut buf[..some as usize])?;
                        from += some;
                    }
                }
            }
        }
        Ok(())
    }

    fn read_part(&self, part: &mut Part, offset: u64, buf: &mut [u8]) -> Result<()> {
        match part {
            Part::Plain(stored) => stored.read(offset, buf),
            Part::Packed(path, region, packed) => {
                packed::read(&self.group, path, region, packed, &self.silent, offset, buf)
            }
        }
    }

    /// The seals of all ranks.
    fn seals(&self) -> Result<Vec<Arc<Seal>>> {
        for_ranks(self.nranks(), |rank| self.seal(rank))
    }

    fn index(&self) -> Result<&BTreeMap<String, Parts>> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let mut index: BTreeMap<String, Parts> = BTreeMap::new();
        for (rank, seal) in (0..).zip(self.seals()?) {
            for (at, region) in seal.regions.iter().enumerate() {
                let parts = index.entry(region.name.clone()).or_default();
                parts.bytes = parts.bytes.max(region.end());
                parts.of.push((rank, at));
            }
        }
        Ok(self.index.get_or_init(|| index))
    }

    fn parts(&self, name: &str) -> Result<&Parts> {
        self.index()?.get(name).ok_or_else(|| self.not_found(format!("region {name:?}")))
    }

    fn rank_dir(&self, rank: u32) -> String {
        format!("{}/r{rank}", self.group.paths.attempt_data(&self.manifest.full_name()))
    }

    pub(crate) fn seal_path(&self, rank: u32) -> String {
        format!("{}/seal", self.rank_dir(rank))
    }

    fn not_found(&self, what: String) -> Error {
        let what = format!("{what} (version {})", self.manifest.version);
        Error::NotFound { set: self.group.set.clone(), what }
    }

    /// A file that must be there is not: the version was pruned, or is damaged.
    fn missing(&self, path: &str) -> Error {
        match checkpoints::manifest(&self.group, self.manifest.version) {
            Ok(Some(manifest)) if manifest == self.manifest => Error::corrupt(path, "it is missing"),
            Ok(_) => self.not_found("the whole".to_owned()),
            Err(e) => e,
        }
    }

    pub(crate) fn seal(&self, rank: u32) -> Result<Arc<Seal>> {
        // A map of finished values: no panic can leave it half changed.
        let known = self.seals.lock().unwrap_or_else(PoisonError::into_inner).get(&rank).cloned();
        if let Some(seal) = known {
            return Ok(seal);
        }
        let seal = Arc::new(self.load_seal(rank)?);
        self.seals.lock().unwrap_or_else(PoisonError::into_inner).insert(rank, seal.clone());
        Ok(seal)
    }

    /// From a copy, else from tier 1's file, else from the shared tier.
    fn load_seal(&self, rank: u32) -> Result<Seal> {
        let path = self.seal_path(rank);
        let sum =
            self.manifest.seals.get(rank as usize).ok_or_else(|| self.not_found(format!("rank {rank}")))?;
        if let Some(text) = copies::read(&self.group.disk, &self.silent, sum, sum.copies.iter().copied()) {
            return format::decode(&path, &text);
        }
        let disk = self.silent.disk(&self.group.disk);
        let first = disk.read_raw(&path).inspect_err(|e| self.silent.note(e)).map_err(|e| damage(e, &path));
        let failure = match first.map(|text| text.map(|text| self.checked_seal(rank, &path, &text))) {
            Ok(Some(Ok(seal))) => return Ok(seal),
            Ok(None) => None,
            Ok(Some(Err(e))) | Err(e) => Some(e),
        };
        let seal = self.seal_in_tier(rank, &path);
        seal.ok_or_else(|| failure.unwrap_or_else(|| self.missing(&path)))
    }

    fn seal_in_tier(&self, rank: u32, path: &str) -> Option<Seal> {
        let text = self.group.disk.tier()?.read_raw(path).ok()??;
        self.checked_seal(rank, path, &text).ok()
    }

    fn checked_seal(&self, rank: u32, path: &str, text: &[u8]) -> Result<Seal> {
        let sum = &self.manifest.seals[rank as usize];
        if !sum.fits(text) {
            return Err(Error::corrupt(path, "it differs from its checksum in the manifest"));
        }
        format::decode(path, text)
    }

    fn part<'a>(&'a self, rank: u32, index: usize, seal: &'a Seal) -> Result<Part<'a>> {
        let path = format!("{}/{index}", self.rank_dir(rank));
        let region = &seal.regions[index];
        if let Some(packed) = &region.packed {
            return Ok(Part::Packed(path, region, packed));
        }
        let stored = Stored::open(&self.group.disk, path, region, &self.silent)?;
        if stored.is_anywhere() {
            Ok(Part::Plain(Box::new(stored)))
        } else {
            Err(self.missing(stored.path()))
        }
    }

    /// Whether this is the version, and the attempt, of a manifest.
    pub(crate) fn is_of(&self, manifest: &Manifest) -> bool {
        self.manifest == *manifest
    }

    /// Paths of all seals and files that it has, and those of other versions that it has blocks in.
    pub(crate) fn all_files(&self) -> Result<BTreeSet<String>> {
        let mut paths = BTreeSet::new();
        for (rank, seal) in (0..).zip(self.seals()?) {
            paths.insert(self.seal_path(rank));
            for (path, region) in self.stored_regions(rank, &seal) {
                paths.extend(files(&path, region));
            }
        }
        Ok(paths)
    }

    /// What the files of a rank are, with their paths; and those of other versions.
    pub(crate) fn stored_regions<'a>(&self, rank: u32, seal: &'a Seal) -> Vec<(String, &'a SealedRegion)> {
        let (dir, data) = (self.rank_dir(rank), &self.group.paths.data);
        let own = seal
            .regions
            .iter()
            .enumerate()
            .map(|(index, region)| (format!("{dir}/{index}"), region.stored()));
        let packed = seal.regions.iter().filter_map(|region| region.packed.as_ref());
        let borrowed =
            packed.flat_map(|packed| &packed.sources).map(|source| (source.path(data), &source.file));
        own.chain(borrowed).collect()
    }

    /// Whether manifest, seals and files of the right sizes are in the shared tier, as far as that can be seen from here; and, if stores were `lost` since
    /// the commit, whether every byte is the right one: a server that had lost its share may have flushed holes since, which have the right size.
    pub(crate) fn is_whole_in_tier(&self, lost: bool) -> bool {
        let Some(tier) = self.group.disk.tier() else { return false };
        let manifest = checkpoints::in_tier(&self.group, self.manifest.version);
        if !manifest.is_ok_and(|manifest| manifest.as_ref() == Some(&self.manifest))
            || !self.all_in_tier(&|path, region| has_sizes(tier, path, region))
        {
            return false;
        }
        let id = self.manifest.full_name();
        if !lost || self.group.disk.was_whole(&id) {
            return true;
        }
        let whole = self.all_in_tier(&|path, region| is_good_in_tier(tier, path, region));
        if whole {
            self.group.disk.note_whole(id);
        }
        whole
    }

    /// Whether the tier has all seals, and this holds for all that they name.
    fn all_in_tier(&self, holds: &dyn Fn(&str, &SealedRegion) -> bool) -> bool {
        (0..self.nranks()).all(|rank| {
            let seal = self.seal_in_tier(rank, &self.seal_path(rank));
            seal.is_some_and(|seal| {
                let mut stored = self.stored_regions(rank, &seal).into_iter();
                stored.all(|(path, region)| holds(&path, region))
            })
        })
    }
}

fn has_sizes(tier: &Tier, path: &str, region: &SealedRegion) -> bool {
    let files = files(path, region);
    let (count, end) = (files.len() as u64, region.end());
    (0..).zip(&files).all(|(part, file)| tier.size(file) == Some(part_end(end, part, count)))
}

/// Damage that the file system found itself is damage here too.
pub(crate) fn damage(e: Error, path: &str) -> Error {
    match &e {
        Error::FileSystem(inner)
            if inner.code() == Some(Status::Corrupt) || matches!(inner, fs_client::Error::Corrupt { .. }) =>
        {
            Error::corrupt(path, inner.to_string())
        }
        _ => e,
    }
}
