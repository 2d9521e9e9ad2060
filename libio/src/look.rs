//! What there is of a set: in the namespace, at single servers, and in the shared tier.
//!
//! # Invariants
//! - A version is offered only if no more servers have lost their stores since its commit than it can spare, or it is whole in the shared
//!   tier (`more_lost_than_spared_falls_back`).

use std::collections::BTreeSet;

use crate::attempt::Group;
use crate::checkpoints::{here, listed, manifest, undamaged};
use crate::copies::Survey;
use crate::error::{Error, Result};
use crate::format::Manifest;
use crate::snapshot::Snapshot;

/// All that is found of a set at one moment.
pub(crate) struct Look {
    pub group: Group,
    pub survey: Survey,
    pub versions: BTreeSet<u64>,
}

/// Whether a version can be restarted from.
pub(crate) enum Offer {
    Yes,
    /// Without these servers it is not whole.
    Lost(Vec<u16>),
    No,
}

/// A version that needs servers.
type Lost = Option<(u64, Vec<u16>)>;

impl Look {
    pub fn take(group: &Group) -> Result<Look> {
        let survey = Survey::take(&group.disk, &group.keys)?;
        let mut group = group.clone();
        if !survey.silent.is_empty() {
            group.disk = group.disk.hasty()?;
        }
        let mut versions: BTreeSet<u64> = survey.versions().collect();
        match listed(&group) {
            Ok(listed) => versions.extend(listed),
            Err(e @ Error::FileSystem(_)) if !versions.is_empty() => {
                tracing::warn!(set = group.set, error = %e, "versions are those that single servers know of");
            }
            Err(e) => return Err(e),
        }
        Ok(Look { group, survey, versions })
    }

    /// The newest version below `below` that can be restarted from, and the newest that could be, were it not for servers, if that is newer.
    pub fn newest(&self, below: u64) -> Result<(Option<u64>, Lost)> {
        let mut lost = None;
        for version in self.versions.range(..below).rev() {
            match self.offered(*version)? {
                Offer::Yes => return Ok((Some(*version), lost)),
                Offer::Lost(servers) => lost = lost.or(Some((*version, servers))),
                Offer::No => {}
            }
        }
        Ok((None, lost))
    }

    /// The newest version below `below` that is in tier 1, and no server has lost anything since.
    pub fn base(&self, below: u64) -> Result<Option<Manifest>> {
        for version in self.versions.range(..below).rev() {
            if let Ok(Some(manifest)) = here(&self.group, *version)
                && self.survey.lost(&manifest).is_empty()
                && !self.has_failed(&manifest)?
            {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    pub fn manifest(&self, version: u64) -> Result<Option<Manifest>> {
        match manifest(&self.group, version) {
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
            Err(Error::FileSystem(_)) if !self.survey.silent.is_empty() => {
                return Ok(Offer::Lost(self.survey.silent.keys().copied().collect()));
            }
            Err(e) => return Err(e),
        };
        if self.has_failed(&manifest)? {
            return Ok(Offer::No);
        }
        let lost = self.survey.lost(&manifest);
        let spared = lost.len() <= usize::from(manifest.spare);
        if (spared && self.is_here(&manifest))
            || Snapshot::new(self.group.clone(), manifest).is_whole_in_tier()
        {
            return Ok(Offer::Yes);
        }
        Ok(if spared { Offer::No } else { Offer::Lost(lost) })
    }

    /// Whether the manifest is this cluster's: of the namespace, or a copy at a server.
    fn is_here(&self, manifest: &Manifest) -> bool {
        here(&self.group, manifest.version).is_ok_and(|found| found.is_some())
            || self.survey.manifest(&self.group.disk, manifest.version).is_some()
    }

    /// A mark that cannot be looked for counts as none.
    fn has_failed(&self, manifest: &Manifest) -> Result<bool> {
        match self.group.has_failed(manifest) {
            Err(Error::FileSystem(_)) if !self.survey.silent.is_empty() => Ok(false),
            other => other,
        }
    }
}
