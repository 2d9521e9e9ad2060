//! Which IP addresses RDMA devices have: those of the network interfaces that their ports belong to.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

const CLASS: &str = "/sys/class/infiniband";

/// A device's ports, with their folders.
pub(super) fn ports(device: &str) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(Path::new(CLASS).join(device).join("ports")) else { return Vec::new() };
    let number = |path: PathBuf| Some((path.file_name()?.to_str()?.parse().ok()?, path));
    let mut ports: Vec<_> = entries.flatten().filter_map(|entry| number(entry.path())).collect();
    ports.sort();
    ports
}

/// IP addresses of a port.
pub(super) fn addresses_of_port(port: &Path) -> Vec<IpAddr> {
    let names = interfaces_of(port);
    let mut found: Vec<_> =
        all_addresses().into_iter().filter(|(name, _)| names.contains(name)).map(|(_, ip)| ip).collect();
    found.sort();
    found.dedup();
    found
}

fn is_port_up(port: &Path) -> bool {
    fs::read_to_string(port.join("state")).unwrap_or_default().contains("ACTIVE")
}

/// Whether any port of a device is up.
pub(super) fn is_up(device: &str) -> bool {
    ports(device).iter().any(|(_, port)| is_port_up(port))
}

/// IP addresses of a device, of one family.
pub(super) fn addresses_of(device: &str, is_v6: bool) -> Vec<IpAddr> {
    ports(device)
        .iter()
        .filter(|(_, port)| is_port_up(port))
        .flat_map(|(_, port)| addresses_of_port(port))
        .filter(|ip| ip.is_ipv6() == is_v6)
        .collect()
}

/// Interfaces of a port: RoCE and iWARP name them with the GIDs, InfiniBand has them below the device.
fn interfaces_of(port: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(port.join("gid_attrs/ndevs")).into_iter().flatten().flatten() {
        // Empty places of the table cannot be read.
        if let Ok(name) = fs::read_to_string(entry.path()) {
            names.insert(name.trim().to_owned());
        }
    }
    if names.is_empty() {
        let device = port.join("../../device/net");
        let below = fs::read_dir(device).into_iter().flatten().flatten();
        names.extend(below.filter_map(|entry| entry.file_name().into_string().ok()));
    }
    names
}

/// All interfaces' addresses, but for those that only mean something together with an interface.
fn all_addresses() -> Vec<(String, IpAddr)> {
    let mut found = Vec::new();
    let mut list = null_mut();
    // SAFETY: the list is written, read below, and freed once.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return found;
    }
    let mut at = list;
    while !at.is_null() {
        // SAFETY: an entry of the list.
        let entry = unsafe { &*at };
        if let Some(ip) = ip_of(entry.ifa_addr) {
            // SAFETY: every entry has a name.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
            found.push((name, ip));
        }
        at = entry.ifa_next;
    }
    // SAFETY: as above.
    unsafe { libc::freeifaddrs(list) };
    found
}

#[allow(clippy::cast_ptr_alignment)] // read as unaligned
fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: an address begins with its family, which says how long it is; it is copied, wherever it lies.
    unsafe {
        match i32::from((*address).sa_family) {
            libc::AF_INET => {
                let v4: libc::sockaddr_in = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()))
            }
            libc::AF_INET6 => {
                let v6: libc::sockaddr_in6 = address.cast::<libc::sockaddr_in6>().read_unaligned();
                let ip = std::net::Ipv6Addr::from(v6.sin6_addr.s6_addr);
                (!ip.is_unicast_link_local()).then_some(IpAddr::from(ip))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_interfaces_are_found() {
        let all = all_addresses();
        assert!(all.contains(&("lo".to_owned(), IpAddr::from([127, 0, 0, 1]))), "{all:?}");
        assert!(addresses_of("no such device", false).is_empty());
    }
}
