//! What all ranks have sealed is finished by whoever comes, whether or not a rank of its group lives on.
//!
//! The last rank writes the manifest aside, then the verdict, then gives the manifest its name. It may die before each of these. Every seal is there by then, with sizes and
//! checksums, so anybody can write the same manifest from them, and does what is left: who joins the version, asks for the newest or for all, prunes, waits for it, or has waited in vain.
//!
//! # Invariants
//! - The verdict decides, and is placed once: a version is completed or given up, whoever tries either at the same moment, and what was given up stays so
//!   (`what_all_ranks_sealed_is_completed_by_who_comes_next`, `completing_and_giving_up_at_once_has_one_outcome`).
//! - Nothing is completed unless each rank's seal is whole, and durable, and every store is still the one that the rank wrote to.
//! - Of any number that complete one version at once each ends with the one manifest, or with none.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use fs_client::{ServerId, Status};

use crate::attempt::{Attempt, Group};
use crate::copies::{self, Stores};
use crate::error::{Error, Result};
use crate::format::{self, Manifest, Seal, SealSum, Verdict};
use crate::look::Look;
use crate::prune::readable;
use crate::register::is_silence;
use crate::several::for_ranks;

/// Seals that are looked for at a time, until one is missing.
const LOOKED_AT: u32 = 256;

/// What a rank's seal says.
struct Part {
    sum: SealSum,
    /// That the rank wrote.
    bytes: u64,
    /// Versions whose files it uses.
    needs: Vec<u64>,
    apart: bool,
}

impl Group {
    /// The manifest that an attempt's seals make.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a seal is missing or damaged; [`Error::Aborted`] if a store was lost since: the attempt is given up then.
    pub fn manifest_of(&self, attempt: &Attempt) -> Result<Manifest> {
        let Attempt { version, number, record } = attempt;
        let (version, attempt_number, id) = (*version, *number, record.id.clone());
        let stores = copies::stores(&self.disk)?;
        let mut manifest = Manifest {
            version,
            attempt: attempt_number,
            id,
            bytes: 0,
            spare: 0,
            needs: Vec::new(),
            stores,
            hosts: Vec::new(),
            seals: Vec::new(),
        };
        let (mut needs, mut apart) = (BTreeSet::new(), true);
        let read = |rank| self.part(attempt, rank, &manifest.stores);
        for part in for_ranks(record.nranks, read)? {
            manifest.bytes += part.bytes;
            manifest.seals.push(part.sum);
            needs.extend(part.needs);
            apart &= part.apart;
        }
        manifest.needs = needs.into_iter().collect();
        if apart {
            manifest.hosts = self.hosts(&manifest.stores);
        }
        // Not what this rank was told: another may have been told less.
        manifest.spare = manifest.seals.iter().map(SealSum::spare).min().unwrap_or(0);
        Ok(manifest)
    }

    /// Checks a rank's seal before it is vouched for.
    fn part(&self, attempt: &Attempt, rank: u32, stores: &Stores) -> Result<Part> {
        let path = self.seal_path(attempt, rank);
        let seal = self.disk.read_raw(&path)?.ok_or_else(|| Error::corrupt(&path, "it is missing"))?;
        let read: Seal = format::decode(&path, &seal)?;
        if read.rank != rank {
            return Err(Error::corrupt(&path, format!("it is the seal of rank {}", read.rank)));
        }
        self.refuse_changed(attempt, rank, &copies::changed(&read.stores, stores))?;
        let extents = read.regions.iter().flat_map(|region| &region.extents);
        let bytes = extents.map(|(from, to)| to - from).sum();
        let packed = read.regions.iter().filter_map(|region| region.packed.as_ref());
        let sources = packed.flat_map(|packed| &packed.sources);
        let needs = sources.filter_map(|source| format::parse_leading_version(source.attempt.as_bytes()));
        let needs = needs.collect();
        let sum = SealSum::of(&seal, read.copies);
        Ok(Part { sum, bytes, needs, apart: read.apart })
    }

    /// What a server kept when the rank wrote may be gone if its store is another one now.
    fn refuse_changed(&self, attempt: &Attempt, rank: u32, changed: &BTreeSet<u16>) -> Result<()> {
        if changed.is_empty() {
            return Ok(());
        }
        let servers: Vec<_> = changed.iter().map(ToString::to_string).collect();
        let reason =
            format!("the stores of servers {} are not those that rank {rank} wrote to", servers.join(", "));
        self.abort(attempt, &reason)?;
        Err(self.given_up(attempt, self.name.clone(), reason))
    }

    /// The hosts of these servers; none if one is not known.
    fn hosts(&self, stores: &Stores) -> Vec<String> {
        let client = self.disk.client();
        let hosts = stores.iter().map(|(server, _)| copies::host(client, ServerId(*server)));
        hosts.collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// Makes an attempt visible that all ranks have sealed. Answers whether it is visible; it is not if a rank is missing, or it was given up, or is being removed.
    pub fn complete(&self, attempt: &Attempt) -> Result<bool> {
        match self.verdict(attempt)? {
            Some(Verdict::Sealed(sealed)) => self.publish(attempt, &sealed),
            Some(Verdict::Aborted { .. }) => Ok(false),
            None if !self.is_fully_sealed(attempt)? => Ok(false),
            None => match self.vouch(attempt) {
                Ok(()) => Ok(true),
                // A seal that is not whole is none; given up, or removed, it was by somebody else meanwhile, or for a store that was lost.
                Err(Error::Corrupt { .. } | Error::Aborted { .. } | Error::Superseded { .. }) => Ok(false),
                Err(e) => Err(e),
            },
        }
    }

    /// As the last rank, which may be doing it at this moment.
    fn vouch(&self, attempt: &Attempt) -> Result<()> {
        for_ranks(attempt.record.nranks, |rank| self.disk.sync_file(&self.seal_path(attempt, rank)))?;
        tracing::info!(
            set = self.set,
            version = attempt.version,
            "all ranks had sealed it, and nobody went on: it is completed"
        );
        self.seal(attempt, &self.manifest_of(attempt)?)
    }

    /// Whether every rank's seal is there, whole or not.
    fn is_fully_sealed(&self, attempt: &Attempt) -> Result<bool> {
        let nranks = attempt.record.nranks;
        let has_sealed = |rank| Ok(self.disk.inode(&self.seal_path(attempt, rank))?.is_some());
        // Of an attempt that is being written one of these is usually missing.
        if nranks == 0 || !has_sealed(0)? || !has_sealed(nranks - 1)? {
            return Ok(false);
        }
        for from in (0..nranks).step_by(LOOKED_AT as usize) {
            let count = LOOKED_AT.min(nranks - from);
            if for_ranks(count, |at| has_sealed(from + at))?.contains(&false) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Completes an attempt, or else gives it up, unless it ended already.
    pub fn complete_or_abort(&self, attempt: &Attempt, reason: &str) -> Result<()> {
        let group = match self.complete(attempt) {
            Ok(true) => return Ok(()),
            Ok(false) => self,
            // A server that was waited for once is not waited for as long again.
            Err(e) if is_silence(&e) => &self.hasty(),
            Err(e) => {
                tracing::warn!(set = self.set, version = attempt.version, error = %e, "whether all ranks had sealed it is not known");
                self
            }
        };
        group.abort(attempt, reason)
    }

    /// Writes the manifest beside, as the last rank or in its place; answers the one that is there.
    pub fn draft(&self, attempt: &Attempt, manifest: &Manifest) -> Result<Manifest> {
        let path = self.draft_path(attempt);
        match self.disk.write_new(&path, &format::encode(manifest)) {
            Ok(()) => return Ok(manifest.clone()),
            Err(Error::FileSystem(e)) if e.code() == Some(Status::Exists) => {}
            Err(e) => return Err(e),
        }
        // Somebody else's, who lives and goes on, or died in the middle of it.
        match self.disk.read::<Manifest>(&path) {
            Ok(Some(there)) => Ok(there),
            // Without one it was published, or removed, between the two: so this one is not needed.
            Ok(None) => Ok(manifest.clone()),
            Err(Error::Corrupt { .. }) => {
                self.disk.replace(&self.paths.attempts, &attempt.draft_name(), manifest)?;
                Ok(manifest.clone())
            }
            Err(e) => Err(e),
        }
    }
}

/// Completes the newest attempts at versions of this range that have no manifest. Answers whether any is visible now.
///
/// # Errors
/// Of the first that could not be completed, if none was.
pub(crate) fn complete_unseen(look: &Look, range: Range<u64>) -> Result<bool> {
    if look.listing.unlisted.is_some() {
        return Ok(false); // Attempts are listed no better, and said it is.
    }
    let (group, listed) = (&look.group, look.listing.versions());
    let mut newest = BTreeMap::new();
    for (version, number) in group.attempts()? {
        // Not what single servers know of: a copy of a manifest may be there, and half written, before the manifest is published.
        if range.contains(&version) && !listed.contains(&version) {
            newest.insert(version, number);
        }
    }
    let (mut completed, mut failure) = (false, None);
    for (version, number) in newest.into_iter().rev() {
        let done = group
            .attempt(version, number)
            .and_then(|attempt| attempt.map(|attempt| group.complete(&attempt)).transpose());
        match readable(done) {
            Ok(done) => completed |= done == Some(true),
            Err(e) => failure = failure.or(Some(e)),
        }
    }
    match failure {
        Some(e) if !completed => Err(e),
        _ => Ok(completed),
    }
}
