//! Objects at single servers: copies, parity, seals and manifests that are found without the namespace (decision 0024).

use std::collections::{BTreeMap, BTreeSet};

use fs_client::{Client, ServerId, Spot};
use fs_proto::{InodeId, checksum};

use crate::error::{Error, Result};
use crate::format::{self, Manifest, Place, SealSum};
use crate::register::Disk;

impl From<Place> for Spot {
    fn from(Place(server, ino): Place) -> Spot {
        Spot { server: ServerId(server), ino: InodeId(ino) }
    }
}

impl From<Spot> for Place {
    fn from(Spot { server, ino }: Spot) -> Place {
        Place(server.0, ino.0)
    }
}

/// The beginnings of a set's keys.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    base: String,
}

impl Keys {
    pub fn new(root: &str, set: &str) -> Keys {
        Keys { base: format!("ckpt {}/{set}\n", root.trim_end_matches('/')) }
    }

    fn manifests(&self) -> String {
        format!("{}m/", self.base)
    }

    fn manifest(&self, full_name: &str) -> String {
        format!("{}m/{full_name}", self.base)
    }

    /// Where keys of a rank's data begin.
    pub fn rank(&self, full_name: &str, rank: u32) -> String {
        format!("{}d/{full_name}/r{rank}/", self.base)
    }

    fn data(&self, full_name: &str) -> String {
        format!("{}d/{full_name}/", self.base)
    }
}

/// Servers for `count` parts of one thing, each another one: first one of this node, if it has one, then those that follow. As far as there are other
/// hosts, no two are of one host.
pub(crate) fn ring(client: &Client, turn: usize, count: usize) -> Result<Vec<ServerId>> {
    let (stores, near) = (client.stores()?, client.near()?);
    if stores.len() < count {
        return Err(Error::Invalid(format!(
            "such redundancy takes {count} servers, and the cluster has {} that keep data",
            stores.len()
        )));
    }
    let host = |server: ServerId| client.cluster().member(server).map(|member| member.host.as_str());
    let first = if near.is_empty() { stores[turn % stores.len()] } else { near[turn % near.len()] };
    let at = stores.iter().position(|server| *server == first).unwrap_or(0);
    let mut left: Vec<ServerId> = (0..stores.len()).map(|step| stores[(at + step) % stores.len()]).collect();
    let (mut chosen, mut hosts) = (Vec::with_capacity(count), BTreeSet::new());
    while chosen.len() < count {
        let other = left.iter().position(|server| !hosts.contains(&host(*server))).unwrap_or(0);
        let server = left.remove(other);
        hosts.insert(host(server));
        chosen.push(server);
    }
    Ok(chosen)
}

/// Makes an object, or finds the one that is there.
pub(crate) fn make(disk: &Disk, server: ServerId, key: &str, value: &[u8]) -> Result<Spot> {
    disk.step("create")?;
    Ok(Spot { server, ino: disk.client().vault_put(server, key, value)? })
}

/// Writes a document into objects and makes it durable.
pub(crate) fn fill(disk: &Disk, spots: &[Spot], text: &[u8]) -> Result<()> {
    let parts: Vec<_> = spots.iter().map(|spot| (*spot, text, 0)).collect();
    disk.step("write")?;
    disk.client().write_spots(&parts)?;
    disk.step("sync")?;
    spots.iter().try_for_each(|spot| Ok(disk.client().sync_spot(*spot)?))
}

/// A document's bytes from the first of these places where they are whole.
pub(crate) fn read(disk: &Disk, sum: &SealSum, places: impl IntoIterator<Item = Place>) -> Option<Vec<u8>> {
    let mut text = vec![0; sum.bytes as usize];
    for place in places {
        let read = disk.client().read_spot(place.into(), &mut text, 0);
        if read.is_ok() && checksum::crc(&text) == sum.crc {
            return Some(text);
        }
    }
    None
}

/// Keeps copies of a sealed version's manifest, so that it is found when any `spare` servers are lost.
pub(crate) fn keep_manifest(disk: &Disk, keys: &Keys, manifest: &Manifest) -> Result<()> {
    if manifest.spare == 0 {
        return Ok(());
    }
    let text = format::encode(manifest);
    let sum = SealSum { bytes: text.len() as u64, crc: checksum::crc(&text), copies: Vec::new() };
    let value = serde_json::to_vec(&sum).map_err(|e| Error::Invalid(e.to_string()))?;
    let key = keys.manifest(&manifest.full_name());
    let servers = ring(disk.client(), manifest.version as usize, usize::from(manifest.spare) + 1)?;
    let spots: Vec<_> =
        servers.into_iter().map(|server| make(disk, server, &key, &value)).collect::<Result<_>>()?;
    fill(disk, &spots, &text)
}

/// Removes what single servers keep of an attempt.
pub(crate) fn forget(disk: &Disk, keys: &Keys, full_name: &str) -> Result<()> {
    disk.step("remove")?;
    disk.client().vault_drop_all(&keys.manifest(full_name))?;
    Ok(disk.client().vault_drop_all(&keys.data(full_name))?)
}

/// What the servers answered when they were asked for what they keep of a set.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The number of each store that answered.
    pub stores: BTreeMap<u16, u64>,
    /// Those that did not, and why.
    pub silent: BTreeMap<u16, fs_client::Error>,
    manifests: BTreeMap<u64, Vec<(SealSum, Place)>>,
}

impl Survey {
    pub fn take(disk: &Disk, keys: &Keys) -> Result<Survey> {
        let (prefix, mut survey) = (keys.manifests(), Survey::default());
        for (server, answer) in disk.client().vault_list_all(&prefix)? {
            let (store, objects) = match answer {
                Ok(answer) => answer,
                Err(e) => {
                    survey.silent.insert(server.0, e);
                    continue;
                }
            };
            survey.stores.insert(server.0, store);
            for object in objects {
                let name = object.key.get(prefix.len()..).and_then(format::parse_leading_version);
                if let (Some(version), Ok(sum)) = (name, serde_json::from_slice(&object.value)) {
                    survey.manifests.entry(version).or_default().push((sum, Place(server.0, object.ino.0)));
                }
            }
        }
        Ok(survey)
    }

    /// Versions of which a copy of the manifest is kept.
    pub fn versions(&self) -> impl Iterator<Item = u64> + '_ {
        self.manifests.keys().copied()
    }

    /// The manifest of a version, from its copies: that of the newest attempt.
    pub fn manifest(&self, disk: &Disk, version: u64) -> Option<Manifest> {
        let copies = self.manifests.get(&version)?.iter();
        let read = copies.filter_map(|(sum, place)| {
            format::decode("a copy of a manifest", &read(disk, sum, [*place])?).ok()
        });
        read.filter(|manifest: &Manifest| manifest.version == version).max_by_key(|manifest| manifest.attempt)
    }

    /// The servers of a version that have lost what they had, or do not answer.
    pub fn lost(&self, manifest: &Manifest) -> Vec<u16> {
        let stores = manifest.stores.iter();
        stores
            .filter(|(server, store)| self.stores.get(server) != Some(store))
            .map(|(server, _)| *server)
            .collect()
    }
}
