//! Objects at single servers: copies, parity, seals and manifests that are found without the namespace (decision 0024).

use std::collections::{BTreeMap, BTreeSet};

use fs_client::{Client, ServerId, Spot};
use fs_proto::{InodeId, checksum};

use crate::error::{Error, Result};
use crate::format::{self, Manifest, Place, SealSum};
use crate::register::Disk;
use crate::state::Pauses;
use crate::stored::Silent;

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

/// Largest document that is read from copies, in bytes: a seal with checksums of some terabytes has a few dozen MiB.
const DOCUMENT_MAX: u64 = 1 << 30;

/// How the key of a mark of failure ends.
const FAILED: &str = ".failed";

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

    /// That a restart from an attempt failed: among the manifests, which no mark is taken for, as its value is none's.
    fn failed(&self, full_name: &str) -> String {
        format!("{}{FAILED}", self.manifest(full_name))
    }

    /// Where keys of a rank's data begin.
    pub fn rank(&self, full_name: &str, rank: u32) -> String {
        format!("{}d/{full_name}/r{rank}/", self.base)
    }

    /// Attempts' names have one length, so that none is the beginning of another's.
    fn data(&self, full_name: &str) -> String {
        format!("{}d/{full_name}", self.base)
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

/// Whether these are servers of as many hosts.
pub(crate) fn are_apart(client: &Client, servers: &[ServerId]) -> bool {
    let hosts: BTreeSet<_> = servers.iter().map(|server| host(client, *server)).collect();
    hosts.len() == servers.len()
}

/// The host of a server, as the cluster's file has it.
pub(crate) fn host(client: &Client, server: ServerId) -> Option<String> {
    client.cluster().member(server).map(|member| member.host.clone())
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
pub(crate) fn read(
    disk: &Disk,
    silent: &Silent,
    sum: &SealSum,
    places: impl IntoIterator<Item = Place>,
) -> Option<Vec<u8>> {
    // A damaged number asks for no memory.
    if sum.bytes > DOCUMENT_MAX {
        return None;
    }
    let mut text = vec![0; sum.bytes as usize];
    for place in places.into_iter().filter(|place| !silent.has(*place)) {
        let read = disk.client().read_spot(place.into(), &mut text, 0);
        if silent.heard(&read, place) && checksum::crc(&text) == sum.crc {
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
    let sum = SealSum::of(&text, Vec::new());
    let value = serde_json::to_vec(&sum).map_err(|e| Error::Invalid(e.to_string()))?;
    let key = keys.manifest(&manifest.full_name());
    let servers = ring(disk.client(), manifest.version as usize, usize::from(manifest.spare) + 1)?;
    let spots: Vec<_> =
        servers.into_iter().map(|server| make(disk, server, &key, &value)).collect::<Result<_>>()?;
    fill(disk, &spots, &text)
}

/// Marks at the servers with a copy of the manifest that a restart from it failed; answers whether one of them took it.
pub(crate) fn keep_failed(disk: &Disk, keys: &Keys, survey: &Survey, manifest: &Manifest) -> bool {
    let (key, mut kept) = (keys.failed(&manifest.full_name()), false);
    for (_, Place(server, _)) in survey.manifests.get(&manifest.version).into_iter().flatten() {
        match make(disk, ServerId(*server), &key, b"") {
            Ok(_) => kept = true,
            Err(e) => tracing::warn!(server, error = %e, "a failed restart is not remembered by a server"),
        }
    }
    kept
}

/// Removes the copies of the manifests of all attempts at a version, and marks of failure.
pub(crate) fn forget_manifests(disk: &Disk, keys: &Keys, version: u64) -> Result<()> {
    disk.step("remove")?;
    Ok(disk.client().vault_drop_all(&keys.manifest(&format!("{}.", format::version_name(version))))?)
}

/// Removes the copies, parity and seals at single servers of all attempts at a version.
pub(crate) fn forget_data(disk: &Disk, keys: &Keys, version: u64) -> Result<()> {
    disk.step("remove")?;
    Ok(disk.client().vault_drop_all(&keys.data(&format!("{}.", format::version_name(version))))?)
}

/// Removes what single servers keep of an attempt.
pub(crate) fn forget(disk: &Disk, keys: &Keys, full_name: &str) -> Result<()> {
    disk.step("remove")?;
    disk.client().vault_drop_all(&keys.manifest(full_name))?;
    Ok(disk.client().vault_drop_all(&keys.data(full_name))?)
}

/// Servers and the numbers of their stores, ascending.
pub(crate) type Stores = Vec<(u16, u64)>;

/// A prefix that no key has: only the number of the store is asked for.
const NOTHING: &str = "ckpt-stores ";

/// The numbers of all stores. A server that does not answer is waited for, up to the client's time-out, and then is an error: whether it still has what it
/// was given is not known.
pub(crate) fn stores(disk: &Disk) -> Result<Stores> {
    let (client, mut pauses) = (disk.client(), Pauses::until(disk.timeout()));
    let (mut stores, mut silent) = (Stores::new(), Vec::new());
    for (server, answer) in client.vault_list_all(NOTHING)? {
        match answer {
            Ok((store, _)) => stores.push((server.0, store)),
            Err(_) => silent.push(server),
        }
    }
    while let Some(server) = silent.last().copied() {
        match client.within(pauses.left()).vault_list(server, NOTHING) {
            Ok((store, _)) => {
                stores.push((server.0, store));
                silent.pop();
            }
            Err(e) if !pauses.sleep() => return Err(e.into()),
            Err(_) => {}
        }
    }
    stores.sort_unstable();
    Ok(stores)
}

/// The servers whose stores are not those that they were.
pub(crate) fn changed(before: &Stores, now: &Stores) -> BTreeSet<u16> {
    let differs = |(one, other): (&Stores, &Stores)| {
        let other = other.clone();
        let of = one.clone().into_iter().filter(move |store| !other.contains(store));
        of.map(|(server, _)| server).collect::<Vec<_>>()
    };
    [(before, now), (now, before)].into_iter().flat_map(differs).collect()
}

/// What the servers answered when they were asked for what they keep of a set.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The number of each store that answered.
    pub stores: BTreeMap<u16, u64>,
    /// Those that did not, and why.
    pub silent: BTreeMap<u16, fs_client::Error>,
    manifests: BTreeMap<u64, Vec<(SealSum, Place)>>,
    failed: BTreeSet<String>,
    /// Those that answered at first, and later did not.
    silent_since: Silent,
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
                let name = object.key.get(prefix.len()..).unwrap_or_default();
                if let Some(failed) = name.strip_suffix(FAILED.as_bytes()) {
                    survey.failed.insert(String::from_utf8_lossy(failed).into_owned());
                    continue;
                }
                let version = format::parse_leading_version(name);
                if let (Some(version), Ok(sum)) = (version, serde_json::from_slice(&object.value)) {
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
            format::decode("a copy of a manifest", &read(disk, &self.silent_since, sum, [*place])?).ok()
        });
        read.filter(|manifest: &Manifest| manifest.version == version).max_by_key(|manifest| manifest.attempt)
    }

    /// The servers that should have a copy of a manifest, and whether they have.
    pub fn copies_of(&self, disk: &Disk, manifest: &Manifest) -> Vec<(u16, bool)> {
        let kept = self.manifests.get(&manifest.version).into_iter().flatten();
        let is_it = |sum: &SealSum, place: Place| {
            let text = read(disk, &self.silent_since, sum, [place]);
            text.and_then(|text| format::decode::<Manifest>("a copy of a manifest", &text).ok()).as_ref()
                == Some(manifest)
        };
        let mut copies: Vec<_> = kept.map(|(sum, place)| (place.0, is_it(sum, *place))).collect();
        let wanted = if manifest.spare == 0 { 0 } else { usize::from(manifest.spare) + 1 };
        // Which servers had those that are gone is written nowhere: the stores that changed, or do not answer, are likely.
        let lost =
            self.lost(manifest).into_iter().filter(|server| !copies.iter().any(|(at, _)| at == server));
        let missing: Vec<_> = lost.take(wanted.saturating_sub(copies.len())).collect();
        copies.extend(missing.into_iter().map(|server| (server, false)));
        copies
    }

    /// Whether a server knows that a restart from it failed.
    pub fn has_failed(&self, manifest: &Manifest) -> bool {
        self.failed.contains(&manifest.full_name())
    }

    /// How many losses these servers of a version are.
    pub fn losses(manifest: &Manifest, lost: &[u16]) -> usize {
        if manifest.hosts.len() != manifest.stores.len() {
            return lost.len();
        }
        let hosts = manifest.stores.iter().zip(&manifest.hosts);
        let hosts = hosts.filter(|((server, _), _)| lost.contains(server)).map(|(_, host)| host);
        hosts.collect::<BTreeSet<_>>().len()
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
