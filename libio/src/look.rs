//! What there is of a set: in the namespace, at single servers, and in the shared tier.
//!
//! # Invariants
//! - A version is offered only if no more servers have lost their stores since its commit than it can spare, or it is whole in the shared
//!   tier (`more_lost_than_spared_falls_back`).
//! - What tier 1 lists is waited for while a server is away, whatever the shared tier has (`a_short_restart_sends_nobody_back`).

use std::cell::OnceCell;
use std::collections::BTreeSet;

use crate::attempt::Group;
use crate::checkpoints::{self, Listing, undamaged};
use crate::copies::Survey;
use crate::error::{Error, Result};
use crate::format::Manifest;
use crate::register::is_silence;
use crate::snapshot::Snapshot;

/// All that is found of a set at one moment.
pub(crate) struct Look {
    pub group: Group,
    pub survey: Survey,
    pub listing: Listing,
    /// Of both, and of the copies of manifests.
    pub versions: BTreeSet<u64>,
    /// Why tier 1 is not asked any more for manifests and marks: a server that has names did not answer.
    unanswered: OnceCell<Error>,
}

/// Whether a version can be restarted from.
pub(crate) enum Offer {
    Yes,
    /// Without these servers it is not whole.
    Lost(Vec<u16>),
    No,
}

/// The newest version that can be restarted from, and the newest that could be, were it not for servers, if that is newer.
pub(crate) type Newest = (Option<u64>, Option<(u64, Vec<u16>)>);

impl Look {
    pub fn take(group: &Group) -> Result<Look> {
        let survey = Survey::take(&group.disk, &group.keys)?;
        let mut group = group.clone();
        if !survey.silent.is_empty() {
            group.disk = group.disk.hasty();
        }
        let mut versions: BTreeSet<u64> = survey.versions().collect();
        let listing = Listing::take(&group)?;
        versions.extend(listing.versions());
        let unanswered = OnceCell::new();
        if let Some(e) = listing.unlisted.as_ref().filter(|e| is_silence(e)) {
            let _ = unanswered.set(e.clone()); // It is empty.
        }
        Ok(Look { group, survey, listing, versions, unanswered })
    }

    /// Unless a server with a store does not answer: nothing can be removed then.
    pub fn of_all(self) -> Result<Look> {
        match self.survey.silent.values().next() {
            Some(e) => Err(e.clone().into()),
            None => Ok(self),
        }
    }

    /// Unless a tier could not be listed and nothing else was found.
    pub fn complete(mut self) -> Result<Look> {
        let Listing { unlisted, untiered, .. } = &mut self.listing;
        let failure = unlisted.take_if(|_| self.versions.is_empty());
        match failure.or_else(|| untiered.take_if(|_| self.versions.is_empty())) {
            Some(e) => Err(e),
            None => Ok(self),
        }
    }

    /// Of the versions below `below`; none if it is `over` before one is found: each version may have to wait for a server.
    pub fn newest(&self, below: u64, over: &dyn Fn() -> bool) -> Result<Option<Newest>> {
        let mut lost = None;
        for version in self.versions.range(..below).rev() {
            if over() {
                return Ok(None);
            }
            match self.offered(*version)? {
                Offer::Yes => return Ok(Some((Some(*version), lost))),
                Offer::Lost(servers) => lost = lost.or(Some((*version, servers))),
                Offer::No => {}
            }
        }
        Ok(Some((None, lost)))
    }

    /// The newest version below `below` that is in tier 1, and no server has lost anything since.
    pub fn base(&self, below: u64) -> Result<Option<Manifest>> {
        for version in self.versions.range(..below).rev() {
            if let Ok(Some(manifest)) = self.here(*version)
                && self.survey.lost(&manifest).is_empty()
                && !self.has_failed(&manifest)?
            {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    /// Asks tier 1, unless a server did not answer before: there may be many versions.
    fn ask<T>(&self, ask: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(e) = self.unanswered.get() {
            return Err(e.clone());
        }
        ask().inspect_err(|e| {
            if is_silence(e) {
                let _ = self.unanswered.set(e.clone()); // It is empty, as was seen above.
            }
        })
    }

    /// The manifest of a version that tier 1 has.
    fn here(&self, version: u64) -> Result<Option<Manifest>> {
        self.ask(|| checkpoints::here(&self.group, version))
    }

    pub fn manifest(&self, version: u64) -> Result<Option<Manifest>> {
        match checkpoints::or_in_tier(self.here(version), &self.group, version) {
            Ok(Some(manifest)) => Ok(Some(manifest)),
            other => match self.survey.manifest(&self.group.disk, version) {
                Some(manifest) => Ok(Some(manifest)),
                None => other,
            },
        }
    }

    pub fn offered(&self, version: u64) -> Result<Offer> {
        let manifest = match undamaged(self.manifest(version)) {
            Ok(Some(manifest)) => manifest,
            Ok(None) => return Ok(Offer::No),
            Err(e @ Error::Tier { .. }) => {
                tracing::warn!(version, error = %e, "a version that only the shared tier may have is passed over");
                return Ok(Offer::No);
            }
            Err(Error::FileSystem(_)) if !self.survey.silent.is_empty() => {
                return Ok(Offer::Lost(self.survey.silent.keys().copied().collect()));
            }
            Err(e) => return Err(e),
        };
        if self.has_failed(&manifest)? {
            return Ok(Offer::No);
        }
        let lost = self.survey.lost(&manifest);
        let spared = Survey::losses(&manifest, &lost) <= usize::from(manifest.spare);
        if (spared && self.is_here(&manifest))
            || Snapshot::new(self.group.clone(), manifest).is_whole_in_tier(!lost.is_empty())
        {
            return Ok(Offer::Yes);
        }
        Ok(if spared { Offer::No } else { Offer::Lost(lost) })
    }

    /// Whether the manifest is this cluster's: of the namespace, or a copy at a server.
    fn is_here(&self, manifest: &Manifest) -> bool {
        self.here(manifest.version).is_ok_and(|found| found.is_some())
            || self.survey.manifest(&self.group.disk, manifest.version).is_some()
    }

    /// A mark that cannot be looked for counts as none.
    fn has_failed(&self, manifest: &Manifest) -> Result<bool> {
        if self.survey.has_failed(manifest) {
            return Ok(true);
        }
        if self.group.has_failed_in_tier(manifest) {
            return Ok(true);
        }
        match self.ask(|| self.group.has_failed_here(manifest)) {
            Err(Error::FileSystem(_)) if !self.survey.silent.is_empty() => Ok(false),
            other => other,
        }
    }
}
