//! Which IP addresses RDMA devices have: those of the network interfaces that their ports belong to.
//!
//! Addresses and states are asked for each time; which interfaces belong to a port is remembered for a minute, because the only way to know is to look at
//! every place of its table of GIDs (1,024 of soft-RoCE), which would hold up the thread at each connection that it is asked for.

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, openat};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

const CLASS: &str = "/sys/class/infiniband";
const NET: &str = "/sys/class/net";
/// Of Ethernet.
const HARDWARE_BYTES: usize = 6;
/// How long it is remembered which interfaces a port has.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Longer than names of interfaces are.
const NAME_BYTES: usize = 64;

/// The interfaces of a port, and when they were looked up.
type Known = BTreeMap<PathBuf, (Instant, BTreeSet<String>)>;

static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());

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

/// Interfaces of a port. One that has none is looked at each time: it may be about to get some.
fn interfaces_of(port: &Path) -> BTreeSet<String> {
    let now = Instant::now();
    if let Some((then, names)) = KNOWN.lock().get(port)
        && now.duration_since(*then) < REMEMBERED
    {
        return names.clone();
    }
    let names = look_up(port);
    if !names.is_empty() {
        KNOWN.lock().insert(port.to_owned(), (now, names.clone()));
    }
    names
}

/// RoCE names interfaces with the GIDs, iWARP does with newer kernels (6.6); its only GID is its interfaces' hardware address. InfiniBand has them below the
/// device.
fn look_up(port: &Path) -> BTreeSet<String> {
    let mut names = names_in(&port.join("gid_attrs/ndevs")).unwrap_or_default();
    if fs::read_to_string(port.join("../../node_type")).is_ok_and(|kind| kind.contains("RNIC")) {
        let gid = fs::read_to_string(port.join("gids/0")).unwrap_or_default();
        names.extend(interfaces_with(&gid, Path::new(NET)));
    }
    if names.is_empty() {
        let device = port.join("../../device/net");
        let below = fs::read_dir(device).into_iter().flatten().flatten();
        names.extend(below.filter_map(|entry| entry.file_name().into_string().ok()));
    }
    names
}

/// Interfaces whose hardware address is the beginning of a GID, as the system writes these: `02:42:ac:11:00:02`, `0242:ac11:0002:0000:0000:0000:0000:0000`.
fn interfaces_with(gid: &str, net: &Path) -> BTreeSet<String> {
    let digits = |text: &str| text.chars().filter(char::is_ascii_hexdigit).collect::<String>();
    let wanted = digits(gid);
    let has_it = |folder: &Path| {
        let address = digits(&fs::read_to_string(folder.join("address")).unwrap_or_default());
        address.len() == 2 * HARDWARE_BYTES && wanted.starts_with(&address)
    };
    let entries = fs::read_dir(net).into_iter().flatten().flatten();
    entries
        .filter(|entry| has_it(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// What the files of a folder say, each a name. Those of empty places of a table cannot be read.
fn names_in(folder: &Path) -> std::io::Result<BTreeSet<String>> {
    let (entries, folder) = (fs::read_dir(folder)?, fs::File::open(folder)?);
    let mut names = BTreeSet::new();
    for entry in entries.flatten() {
        let mut name = [0; NAME_BYTES];
        let read = openat(&folder, entry.file_name(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::io::read(&file, &mut name));
        if let Ok(len) = read {
            names.insert(String::from_utf8_lossy(&name[..len]).trim().to_owned());
        }
    }
    Ok(names)
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
    fn names_of_interfaces_are_read_and_remembered() {
        let port = tempfile::TempDir::new().expect("a folder");
        assert!(interfaces_of(port.path()).is_empty());
        let folder = port.path().join("gid_attrs/ndevs");
        fs::create_dir_all(folder.join("2")).expect("made: a place that cannot be read");
        for (place, name) in [("0", "eth0\n"), ("1", "eth0\n"), ("7", "eth0.12\n")] {
            fs::write(folder.join(place), name).expect("written");
        }
        let names = BTreeSet::from(["eth0".to_owned(), "eth0.12".to_owned()]);
        assert_eq!(interfaces_of(port.path()), names);
        fs::remove_dir_all(&folder).expect("removed");
        assert_eq!(interfaces_of(port.path()), names);
        assert!(look_up(port.path()).is_empty());
    }

    #[test]
    fn interfaces_of_iwarp_are_those_with_its_hardware_address() {
        let net = tempfile::TempDir::new().expect("a folder");
        for (name, address) in [
            ("eth0", "02:42:ac:11:00:02\n"),
            ("eth0.7", "02:42:ac:11:00:02\n"),
            ("eth1", "02:42:ac:11:00:03\n"),
            ("lo", "00:00:00:00:00:00\n"),
            ("tun0", "\n"),
        ] {
            fs::create_dir(net.path().join(name)).expect("made");
            fs::write(net.path().join(name).join("address"), address).expect("written");
        }
        let gid = "0242:ac11:0002:0000:0000:0000:0000:0000\n";
        let names = BTreeSet::from(["eth0".to_owned(), "eth0.7".to_owned()]);
        assert_eq!(interfaces_with(gid, net.path()), names);
        assert!(interfaces_with("", net.path()).is_empty());
    }

    #[test]
    fn addresses_of_interfaces_are_found() {
        let all = all_addresses();
        assert!(all.contains(&("lo".to_owned(), IpAddr::from([127, 0, 0, 1]))), "{all:?}");
        assert!(addresses_of("no such device", false).is_empty());
    }
}
