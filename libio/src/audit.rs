//! Every place where a version is kept, looked at for itself. Reading is content with the first place that is right; who looks after a set wants to know of the
//! others, too, before they are needed.
//!
//! # Invariants
//! - Data, copies, parity, seals and manifests, at every server and in the shared tier, are compared with their checksums (`every_place_is_looked_at`).
//! - A version that is not in the shared tier yet is not damaged for that.

use std::collections::BTreeMap;
use std::fmt;

use fs_proto::checksum;

use crate::checkpoints;
use crate::copies::{self, Survey};
use crate::error::{Error, Result};
use crate::format::{BLOCK_BYTES, Manifest, Place, SealedRegion, Spread};
use crate::snapshot::Snapshot;
use crate::spread::{part_end, place};
use crate::stored::{Silent, files, first_wrong};
use crate::tier::Tier;

/// A place that does not have what was written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// A path, and which of its copies.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// A walk over the places of one version.
struct Audit<'a> {
    of: &'a Snapshot,
    survey: Survey,
    silent: Silent,
    found: Vec<Damage>,
    buf: Vec<u8>,
}

impl Snapshot {
    /// Looks at every place where this version is kept, and answers those that do not have what was written. The version may be readable all the same: see
    /// [`Snapshot::verify`].
    ///
    /// # Errors
    /// [`Error::FileSystem`] if no server can be asked at all.
    pub fn audit(&self) -> Result<Vec<Damage>> {
        let survey = Survey::take(&self.group().disk, &self.group().keys)?;
        let silent = Silent::default();
        survey.silent.keys().for_each(|server| silent.add(*server));
        let mut audit = Audit { of: self, survey, silent, found: Vec::new(), buf: Vec::new() };
        audit.manifests();
        let mut regions = BTreeMap::new();
        for rank in 0..self.nranks() {
            audit.seals(rank);
            // A rank without any seal is told of once, above.
            if let Ok(seal) = self.seal(rank) {
                let stored = self.stored_regions(rank, &seal).into_iter();
                regions.extend(stored.map(|(path, region)| (path, region.clone())));
            }
        }
        for (path, region) in &regions {
            audit.region(path, region);
            audit.region_in_tier(path, region);
        }
        Ok(audit.found)
    }
}

impl Audit<'_> {
    fn note(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.found.push(Damage { place: place.into(), what: what.into() });
    }

    fn tier(&self) -> Option<&Tier> {
        self.of.group().disk.tier()
    }

    fn manifests(&mut self) {
        let (group, manifest) = (self.of.group(), self.of.manifest());
        let path = group.paths.manifest(manifest.version);
        if let Some(what) = differs(checkpoints::here(group, manifest.version), manifest) {
            self.note(&path, what);
        }
        match checkpoints::in_tier(group, manifest.version) {
            Ok(None) => {}
            found => {
                if let Some(what) = differs(found, manifest) {
                    self.note(in_tier(&path), what);
                }
            }
        }
        for (server, good) in self.survey.copies_of(&group.disk, manifest) {
            if !good {
                self.note(at(&path, server), "the copy of the manifest is missing, or damaged");
            }
        }
    }

    fn seals(&mut self, rank: u32) {
        let (group, path) = (self.of.group(), self.of.seal_path(rank));
        let sum = self.of.manifest().seals[rank as usize].clone();
        match group.disk.read_raw(&path) {
            Ok(Some(text)) if sum.fits(&text) => {}
            Ok(Some(_)) => self.note(&path, "it differs from its checksum"),
            Ok(None) => self.note(&path, "it is missing"),
            Err(e) => self.note(&path, e.to_string()),
        }
        if let Some(Ok(Some(text))) = self.tier().map(|tier| tier.read_raw(&path))
            && !sum.fits(&text)
        {
            self.note(in_tier(&path), "it differs from its checksum");
        }
        for copy in &sum.copies {
            if copies::read(&group.disk, &self.silent, &sum, [*copy]).is_none() {
                self.note(at(&path, copy.0), "the copy of the seal is missing, or damaged");
            }
        }
    }

    fn region(&mut self, path: &str, region: &SealedRegion) {
        match &region.spread {
            Some(spread) => self.parts(path, region, spread),
            None => self.file(path, region),
        }
    }

    fn file(&mut self, path: &str, region: &SealedRegion) {
        let file = match self.of.group().disk.open(path) {
            Ok(Some(file)) => file,
            Ok(None) => return self.note(path, "it is missing"),
            Err(e) => return self.note(path, e.to_string()),
        };
        let wrong = self.first_wrong(
            region,
            |_| true,
            |block, buf| file.read_at(buf, block * BLOCK_BYTES).is_ok_and(|read| read == buf.len()),
        );
        self.note_block(path.to_owned(), wrong);
    }

    /// Each part with data, and each copy or parity, at its server.
    fn parts(&mut self, path: &str, region: &SealedRegion, spread: &Spread) {
        let parts = spread.data.len() as u64;
        for (number, from) in (0..).zip(&spread.data) {
            let wrong = self.first_wrong_at(*from, region, |block| block % parts == number, parts);
            self.note_block(at(&format!("{path}.{number}"), from.0), wrong);
        }
        for (number, from) in spread.extra.iter().enumerate() {
            let wrong = if parts == 1 {
                self.first_wrong_at(*from, region, |_| true, 1)
            } else {
                self.first_wrong_stripe(*from, spread, number)
            };
            let kind = if parts == 1 { "copy" } else { "parity" };
            self.note_block(at(&format!("{path}, {kind} {number}"), from.0), wrong);
        }
    }

    /// The first block that one server does not have right.
    fn first_wrong_at(
        &mut self,
        from: Place,
        region: &SealedRegion,
        is_there: impl Fn(u64) -> bool,
        parts: u64,
    ) -> Option<u64> {
        let client = self.of.group().disk.client();
        self.first_wrong(region, is_there, |block, buf| {
            client.read_spot(from.into(), buf, place(block * BLOCK_BYTES, parts).1).is_ok()
        })
    }

    fn first_wrong_stripe(&mut self, from: Place, spread: &Spread, number: usize) -> Option<u64> {
        let client = self.of.group().disk.client();
        let mut right = |stripe: u64, bytes: u32, crc: Option<&u32>| {
            self.buf.resize(bytes as usize, 0);
            client.read_spot(from.into(), &mut self.buf, stripe * BLOCK_BYTES).is_ok()
                && crc == Some(&checksum::crc(&self.buf))
        };
        let wrong = spread.stripes.iter().find(|sum| !right(sum.stripe, sum.bytes, sum.crcs.get(number)));
        wrong.map(|sum| sum.stripe)
    }

    /// The first of the blocks that `is_there` that `read` does not give right.
    fn first_wrong(
        &mut self,
        region: &SealedRegion,
        is_there: impl Fn(u64) -> bool,
        read: impl Fn(u64, &mut [u8]) -> bool,
    ) -> Option<u64> {
        first_wrong(region, &mut self.buf, is_there, read)
    }

    fn note_block(&mut self, place: String, wrong: Option<u64>) {
        if let Some(block) = wrong {
            self.note(place, format!("block {block} is missing, or differs from its checksum"));
        }
    }

    fn region_in_tier(&mut self, path: &str, region: &SealedRegion) {
        let Some(tier) = self.tier().cloned() else { return };
        let (paths, end) = (files(path, region), region.end());
        let parts = paths.len() as u64;
        for (number, file) in (0..).zip(&paths) {
            let Some(size) = tier.size(file) else { continue };
            let should = part_end(end, number, parts);
            if size != should {
                self.note(in_tier(file), format!("it has {size} bytes instead of {should}"));
                continue;
            }
            let opened = match tier.open(file) {
                Ok(Some(opened)) => opened,
                Ok(None) => continue,
                Err(e) => {
                    self.note(in_tier(file), e.to_string());
                    continue;
                }
            };
            let wrong = self.first_wrong(
                region,
                |block| block % parts == number,
                |block, buf| tier.fill(&opened, file, buf, place(block * BLOCK_BYTES, parts).1).is_ok(),
            );
            self.note_block(in_tier(file), wrong);
        }
    }
}

/// What is wrong with a manifest that should be this one.
fn differs(found: Result<Option<Manifest>>, manifest: &Manifest) -> Option<String> {
    match found {
        Ok(Some(there)) if there == *manifest => None,
        Ok(Some(_)) => Some("it is another attempt's".to_owned()),
        Ok(None) => Some("it is missing".to_owned()),
        Err(Error::Corrupt { what, .. }) => Some(what),
        Err(e) => Some(e.to_string()),
    }
}

fn in_tier(path: &str) -> String {
    format!("{path} in the shared tier")
}

fn at(path: &str, server: u16) -> String {
    format!("{path} at server {server}")
}
