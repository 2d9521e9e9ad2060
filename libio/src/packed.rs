//! Packed regions: written beside an earlier version, and read from wherever their blocks are.

use std::collections::BTreeMap;

use crate::attempt::{Attempt, Group};
use crate::error::{Error, Result};
use crate::extents::Extents;
use crate::format::{self, BLOCK_BYTES, Manifest, Needed, Packed, PackedBlock, SealedRegion, Source};
use crate::look::Look;
use crate::options::Options;
use crate::pack::{self, Packer, Packing, Tape};
use crate::prune::readable;
use crate::region::Region;
use crate::register::Disk;
use crate::snapshot::Snapshot;
use crate::stored::{Silent, Stored};

/// The version whose blocks may be used again.
pub(crate) struct Base {
    group: Group,
    snapshot: Snapshot,
    attempt: String,
}

impl Base {
    /// The newest version before `attempt`'s that is whole in tier 1 and survives no less than is asked for; none if there is none, or it is being removed.
    pub fn find(group: &Group, attempt: &Attempt, options: &Options) -> Result<Option<Base>> {
        if !options.incremental {
            return Ok(None);
        }
        let look = Look::take(group)?;
        let Some(manifest) = look.base(attempt.version)? else { return Ok(None) };
        let spare = options.redundancy.parts().map_or(0, |(_, extra)| extra);
        if usize::from(manifest.spare) < spare {
            return Ok(None);
        }
        let name = manifest.full_name();
        let base = Base {
            group: group.clone(),
            snapshot: Snapshot::new(group.clone(), manifest.clone()),
            attempt: name,
        };
        base.need(&manifest, attempt)
    }

    /// Marks that the version is needed, and what it needs itself. Removal looks for such marks after its own, so one of the two sees the other.
    fn need(self, manifest: &Manifest, attempt: &Attempt) -> Result<Option<Base>> {
        let (dir, by) = (&self.group.paths.versions, attempt.full_name());
        let mut versions: Vec<u64> = manifest.needs.clone();
        versions.push(manifest.version);
        for version in versions {
            self.group.disk.place(dir, &format::needed_name(version, &by), &Needed {})?;
        }
        let (version, number) = (manifest.version, manifest.attempt);
        let used = format::attempt_full_name(version, number, &manifest.id);
        if self.group.is_marked(&used)? {
            return Ok(None);
        }
        // A removal that is over took its own mark with it, and the record before that.
        let record = readable(self.group.attempt(version, number))?;
        Ok(record.filter(|there| there.record.id == manifest.id).map(|_| self))
    }

    /// Whether no two parts of anything in it are at one host.
    pub fn is_apart(&self) -> bool {
        self.snapshot.is_apart()
    }

    /// The blocks that `rank` wrote of a region, by number, and the files they are in.
    pub fn blocks(&self, rank: u32, name: &str) -> Result<(BTreeMap<u64, PackedBlock>, Vec<Source>)> {
        let nothing = (BTreeMap::new(), Vec::new());
        if rank >= self.snapshot.nranks() {
            return Ok(nothing);
        }
        let seal = self.snapshot.seal(rank)?;
        let region = seal.regions.iter().enumerate().find(|(_, region)| region.name == name);
        let Some((index, packed)) = region.and_then(|(index, region)| Some((index, region.packed.as_ref()?)))
        else {
            return Ok(nothing);
        };
        let own = Source { attempt: self.attempt.clone(), rank, index, file: (*packed.file).clone() };
        let sources = packed.sources.iter().cloned().chain([own]).collect::<Vec<_>>();
        let last = sources.len();
        let numbered = |block: &PackedBlock| {
            let source = if block.source == 0 { last } else { block.source };
            (block.block, PackedBlock { source, ..block.clone() })
        };
        Ok((packed.blocks.iter().map(numbered).collect(), sources))
    }
}

/// A region that is being written, the one way or the other.
pub(crate) enum Written {
    Plain(Box<Region>),
    Packed(Box<PackedRegion>),
}

impl Written {
    pub fn is_routed(&self) -> bool {
        matches!(self, Written::Plain(region) if region.is_routed())
    }

    pub fn write(&mut self, data: &[u8], offset: u64) -> Result<()> {
        match self {
            Written::Plain(region) => region.write(data, offset),
            Written::Packed(region) => region.write(data, offset),
        }
    }

    /// The region that has the bytes.
    pub fn file(&self) -> &Region {
        match self {
            Written::Plain(region) => region,
            Written::Packed(region) => &region.tape.file,
        }
    }

    /// The same, to be changed.
    pub fn file_mut(&mut self) -> &mut Region {
        match self {
            Written::Plain(region) => region,
            Written::Packed(region) => &mut region.tape.file,
        }
    }

    /// Makes it durable and answers what is in it.
    pub fn seal(self) -> Result<SealedRegion> {
        match self {
            Written::Plain(region) => region.seal(),
            Written::Packed(region) => region.seal(),
        }
    }
}

/// A packed region that is being written.
pub(crate) struct PackedRegion {
    name: String,
    extents: Extents,
    packer: Packer,
    tape: RegionTape,
}

struct RegionTape {
    file: Region,
    end: u64,
    disk: Disk,
    data: String,
    sources: Vec<Source>,
}

impl PackedRegion {
    /// A new one, packed into `file`. `base`: the blocks that an earlier version has, and the files they are in.
    pub fn new(
        name: &str,
        packing: Packing,
        base: (BTreeMap<u64, PackedBlock>, Vec<Source>),
        file: Region,
        group: &Group,
    ) -> PackedRegion {
        let (blocks, sources) = base;
        let (disk, data) = (group.disk.clone(), group.paths.data.clone());
        let tape = RegionTape { file, end: 0, disk, data, sources };
        let (name, extents) = (name.to_owned(), Extents::default());
        PackedRegion { name, extents, packer: Packer::new(packing, blocks), tape }
    }

    fn write(&mut self, data: &[u8], offset: u64) -> Result<()> {
        self.packer.write(data, offset, &mut self.tape)?;
        self.extents.add(offset, offset + data.len() as u64);
        Ok(())
    }

    fn seal(self) -> Result<SealedRegion> {
        let (name, extents) = (self.name.clone(), self.extents.clone().into_ranges());
        let packed = Some(self.pack()?);
        Ok(SealedRegion { name, extents, runs: Vec::new(), spread: None, packed })
    }

    /// Stores what is left and answers where all is.
    fn pack(mut self) -> Result<Packed> {
        let mut blocks = self.packer.finish(&mut self.tape)?;
        let RegionTape { file, sources, .. } = self.tape;
        let file = Box::new(file.seal()?);
        // Only the sources that are used.
        let mut kept = Vec::new();
        for (number, source) in (1..).zip(sources) {
            if blocks.iter().any(|block| block.source == number) {
                kept.push((number, source));
            }
        }
        for block in blocks.iter_mut().filter(|block| block.source > 0) {
            block.source = 1 + kept.iter().position(|(number, _)| *number == block.source).unwrap_or(0);
        }
        Ok(Packed { blocks, file, sources: kept.into_iter().map(|(_, source)| source).collect() })
    }
}

impl Tape for RegionTape {
    fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        let at = self.end;
        self.file.write(bytes, at)?;
        self.end += bytes.len() as u64;
        Ok(at)
    }

    fn fetch(&mut self, block: &PackedBlock) -> Result<Vec<u8>> {
        let mut stored = vec![0; block.stored as usize];
        match block.source.checked_sub(1).and_then(|source| self.sources.get(source)) {
            None => self.file.read(&mut stored, block.offset)?,
            Some(source) => {
                read_source(&self.disk, &self.data, source, &Silent::default(), block.offset, &mut stored)?;
            }
        }
        pack::content(block, stored)
            .ok_or_else(|| Error::corrupt(&self.data, "a block that was written has changed"))
    }
}

/// Reads from an earlier attempt's file; `data` is the directory of all attempts' data.
fn read_source(
    disk: &Disk,
    data: &str,
    source: &Source,
    silent: &Silent,
    offset: u64,
    buf: &mut [u8],
) -> Result<()> {
    let mut stored = Stored::open(disk, source.path(data), &source.file, silent)?;
    if !stored.is_anywhere() {
        return Err(Error::corrupt(stored.path(), "it is missing"));
    }
    stored.read(offset, buf)
}

/// Reads a range of a packed region; the range lies within its extents. `path` is that of its own file.
pub(crate) fn read(
    group: &Group,
    path: &str,
    region: &SealedRegion,
    packed: &Packed,
    silent: &Silent,
    offset: u64,
    buf: &mut [u8],
) -> Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let at = offset + done as u64;
        let (number, start) = (at / BLOCK_BYTES, (at % BLOCK_BYTES) as usize);
        let some = (buf.len() - done).min(BLOCK_BYTES as usize - start);
        let part = &mut buf[done..done + some];
        part.fill(0);
        if let Ok(found) = packed.blocks.binary_search_by_key(&number, |block| block.block) {
            let block = &packed.blocks[found];
            let mut stored = vec![0; block.stored as usize];
            match block.source.checked_sub(1) {
                None => Stored::open(&group.disk, path.to_owned(), &packed.file, silent)?
                    .read(block.offset, &mut stored)?,
                Some(source) => {
                    let source = packed
                        .sources
                        .get(source)
                        .ok_or_else(|| Error::corrupt(path, "its seal makes no sense"))?;
                    read_source(&group.disk, &group.paths.data, source, silent, block.offset, &mut stored)?;
                }
            }
            let wrong = || {
                Error::corrupt(
                    path,
                    format!("block {number} (region {:?}) differs from its checksum", region.name),
                )
            };
            let content = pack::content(block, stored).ok_or_else(wrong)?;
            let here = content.get(start..).unwrap_or_default();
            let len = here.len().min(some);
            part[..len].copy_from_slice(&here[..len]);
        }
        done += some;
    }
    Ok(())
}
