//! Which server a request is sent to.
//!
//! # Invariants
//! - [`View::via`] names a server only if every request of this client goes through it first (`via_is_named_only_when_all_passes_it`).

use std::collections::HashMap;
use std::sync::Arc;

use fs_net::{Address, ClusterFile};
use fs_proto::placement::entry_partition;
use fs_proto::{InodeId, Partition, PartitionMap, ServerId};

use crate::config::Route;
use crate::error::{Error, Result};

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The owner of a partition.
    Partition(Partition),
    /// One server, whatever it owns.
    Server(ServerId),
    /// The owner of a name, given by its hash: that depends on whether the directory is wide.
    Name { parent: InodeId, hash: u64 },
}

impl Target {
    /// The home of an inode.
    pub fn home(ino: InodeId) -> Target {
        Target::Partition(ino.partition())
    }

    /// With names settled: `wide` says whether the directory is believed wide.
    pub fn settle(self, wide: impl Fn(InodeId) -> bool) -> Target {
        match self {
            Target::Name { parent, hash } => Target::Partition(entry_partition(parent, hash, wide(parent))),
            other => other,
        }
    }
}

/// The cluster as this client sees it now: owners, addresses, first hops.
#[derive(Debug, Clone)]
pub(crate) struct View {
    map: Arc<PartitionMap>,
    /// The best address from here, and the TCP address.
    addresses: HashMap<ServerId, [Address; 2]>,
    local: Vec<ServerId>,
    stores: Vec<ServerId>,
    members: Vec<ServerId>,
    /// First hop of what is not for a local server; absent: the owner itself.
    gateway: Option<ServerId>,
    /// Go through `gateway` even for servers of this host.
    always: bool,
    /// See [`View::via`].
    via: Option<ServerId>,
}

impl View {
    pub fn new(cluster: &ClusterFile, route: Route) -> Result<View> {
        let map = cluster.map().map_err(|e| Error::Cluster(e.to_string()))?;
        View::with_map(Arc::new(map), cluster, route)
    }

    /// The same map, with sockets looked at again.
    pub fn again(&self, cluster: &ClusterFile, route: Route) -> Result<View> {
        View::with_map(self.map.clone(), cluster, route)
    }

    fn with_map(map: Arc<PartitionMap>, cluster: &ClusterFile, route: Route) -> Result<View> {
        let members: Vec<ServerId> = map.members().iter().map(|m| m.id).collect();
        let stores = map.members().iter().filter(|m| m.weight > 0).map(|m| m.id).collect();
        let mut addresses = HashMap::new();
        let mut local = Vec::new();
        for id in &members {
            let Some(entry) = cluster.member(*id) else { continue };
            if ClusterFile::is_local(entry) {
                local.push(*id);
                addresses.insert(*id, [entry.unix_address(), entry.tcp_address()]);
            } else {
                addresses.insert(*id, [entry.tcp_address(), entry.tcp_address()]);
            }
        }
        let (gateway, always) = match route {
            Route::Gateway(id) if addresses.contains_key(&id) => (Some(id), true),
            Route::Gateway(id) => {
                return Err(Error::Cluster(format!(
                    "server {id}, which was chosen as gateway, is not a member of the cluster"
                )));
            }
            Route::Owners => (None, false),
            // Clients of one node spread over its servers, if it has several.
            Route::Auto => (pick(&local, std::process::id() as usize), false),
        };
        let mut view = View { map, addresses, local, stores, members, gateway, always, via: None };
        view.via = view.common_hop();
        Ok(view)
    }

    pub fn epoch(&self) -> u64 {
        self.map.epoch()
    }

    pub fn address(&self, server: ServerId) -> Option<Address> {
        self.addresses.get(&server).map(|[best, _]| best.clone())
    }

    pub fn tcp_address(&self, server: ServerId) -> Option<Address> {
        self.addresses.get(&server).map(|[_, tcp]| tcp.clone())
    }

    /// All members, pure gateways included.
    pub fn members(&self) -> &[ServerId] {
        &self.members
    }

    /// Members with a store.
    pub fn stores(&self) -> &[ServerId] {
        &self.stores
    }

    /// The server that will answer. Names must be settled.
    pub fn owner(&self, target: Target) -> ServerId {
        match target {
            Target::Server(id) => id,
            Target::Partition(partition) => self.map.owner(partition),
            Target::Name { parent, .. } => self.map.owner(parent.partition()),
        }
    }

    /// The server that a request for `owner` is sent to.
    pub fn first_hop(&self, owner: ServerId) -> ServerId {
        match self.gateway {
            Some(gateway) if self.always || !self.local.contains(&owner) => gateway,
            _ => owner,
        }
    }

    /// Whether a server runs on this host, or is the one that everything goes through.
    pub fn is_near(&self, server: ServerId) -> bool {
        self.gateway == Some(server) || self.local.contains(&server)
    }

    /// The one server that all requests pass first, if there is one.
    pub fn via(&self) -> Option<ServerId> {
        self.via
    }

    fn common_hop(&self) -> Option<ServerId> {
        let mut hops = self.stores.iter().map(|owner| self.first_hop(*owner));
        let first = hops.next()?;
        hops.all(|hop| hop == first).then_some(first)
    }
}

fn pick(from: &[ServerId], by: usize) -> Option<ServerId> {
    if from.is_empty() { None } else { Some(from[by % from.len()]) }
}

#[cfg(test)]
mod tests {
    //! Goal: hops and `via` for every route. Method: a cluster file whose sockets are files in a directory.
    use super::*;
    use fs_net::{MemberEntry, Secret, host_name};
    use std::path::Path;

    /// `hosts`: for each server whether it runs here.
    fn cluster(dir: &Path, here: &[bool]) -> ClusterFile {
        let member = |(number, here): (usize, &bool)| {
            let unix = dir.join(format!("{number}.sock"));
            std::fs::write(&unix, b"").unwrap();
            MemberEntry {
                id: ServerId(number as u16),
                host: if *here { host_name() } else { "elsewhere".to_owned() },
                tcp: format!("192.0.2.1:{}", 7000 + number),
                unix,
                stores: vec![],
                weight: 1,
                metrics: None,
                pid: 1,
            }
        };
        ClusterFile {
            name: "test".to_owned(),
            job: "1".to_owned(),
            secret: Secret::random(),
            epoch: 1,
            tier: None,
            members: here.iter().enumerate().map(member).collect(),
            events: vec![],
        }
    }

    #[test]
    fn via_is_named_only_when_all_passes_it() {
        let dir = tempfile::tempdir().unwrap();
        let via = |here: &[bool], route| View::new(&cluster(dir.path(), here), route).unwrap().via();
        assert_eq!(via(&[false, true, false], Route::Auto), Some(ServerId(1)));
        assert_eq!(via(&[true, true, false], Route::Auto), None);
        assert_eq!(via(&[false, false], Route::Auto), None);
        assert_eq!(via(&[false], Route::Auto), Some(ServerId(0)));
        assert_eq!(via(&[true, false], Route::Owners), None);
        assert_eq!(via(&[true, true, false], Route::Gateway(ServerId(2))), Some(ServerId(2)));
    }

    #[test]
    fn first_hops_follow_the_route() {
        let dir = tempfile::tempdir().unwrap();
        let hops = |here: &[bool], route| {
            let view = View::new(&cluster(dir.path(), here), route).unwrap();
            view.stores().iter().map(|owner| view.first_hop(*owner).0).collect::<Vec<_>>()
        };
        assert_eq!(hops(&[false, true, false], Route::Auto), [1, 1, 1]);
        assert_eq!(hops(&[false, false], Route::Auto), [0, 1]);
        assert_eq!(hops(&[true, true], Route::Auto), [0, 1]);
        assert_eq!(hops(&[true, true], Route::Gateway(ServerId(0))), [0, 0]);
        assert_eq!(hops(&[true, false], Route::Owners), [0, 1]);
    }

    #[test]
    fn servers_of_this_host_are_reached_by_their_socket() {
        let dir = tempfile::tempdir().unwrap();
        let view = View::new(&cluster(dir.path(), &[true, false]), Route::Auto).unwrap();
        assert!(matches!(view.address(ServerId(0)), Some(Address::Unix(_))));
        assert!(matches!(view.address(ServerId(1)), Some(Address::Tcp(_))));
    }

    #[test]
    fn a_gateway_that_is_no_member_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = View::new(&cluster(dir.path(), &[true]), Route::Gateway(ServerId(9))).unwrap_err();
        assert!(error.to_string().contains("server 9"), "{error}");
    }
}
