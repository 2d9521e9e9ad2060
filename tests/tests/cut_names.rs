//! Goal: opening a name with `O_TRUNC` cuts what the name stands for, never a file that lost the name on another node and is open there. Method: a mount in this process that remembers names
//! for long, and a native client as the other node.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use fs_client::{Client, ClientConfig, OpenOptions};
use fuse_mount::{MountOptions, Mounted};
use hayate_tests::Cluster;

/// How the other node takes the name away.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Removes,
    Replaces,
}

/// Inline, and in chunks.
const SIZES: [usize; 2] = [100, 200_000];

/// Taken down also by a test that fails.
struct Mount(Option<Mounted>);

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mounted) = self.0.take() {
            mounted.unmount().expect("unmounted");
        }
    }
}

/// None where there is no FUSE, or the user may not mount.
fn mounted(cluster: &Cluster, dir: &Path) -> Option<Mount> {
    let mut config = ClientConfig::new(cluster.file().clone());
    config.checked = true;
    let client = Client::connect(config).expect("a client");
    let mut options = MountOptions::new(dir);
    options.entry_timeout = Duration::from_secs(600);
    match fuse_mount::mount(client, options) {
        Ok(mounted) => Some(Mount(Some(mounted))),
        Err(error) => {
            hayate_tests::skip::note(error);
            None
        }
    }
}

#[test]
fn a_file_that_lost_its_name_elsewhere_is_not_cut() {
    let (cluster, dir) = (Cluster::start(2), tempfile::tempdir().expect("a directory"));
    let Some(_mounted) = mounted(&cluster, dir.path()) else { return };
    let other = cluster.client();
    for change in [Change::Removes, Change::Replaces] {
        for size in SIZES {
            for open_here in [false, true] {
                let what = format!("{change:?}, {size} bytes, open here: {open_here}");
                check(&other, dir.path(), change, size, open_here, &what);
            }
        }
    }
}

fn check(other: &Client, dir: &Path, change: Change, size: usize, open_here: bool, what: &str) {
    // A name of its own: the kernel remembers those of the cases before.
    let name = format!("/{change:?}-{size}-{open_here}");
    let (path, content) = (dir.join(&name[1..]), vec![7; size]);
    other.put(&name, &content, 0o666).expect("written");
    let there = other.open_path(&name, &OpenOptions::read_only()).expect("open there");
    assert_eq!(std::fs::metadata(&path).expect("the kernel knows the name").len(), size as u64, "{what}");
    let here = open_here.then(|| std::fs::File::open(&path).expect("open here"));
    match change {
        Change::Removes => other.remove_file(&name).expect("removed"),
        Change::Replaces => {
            other.put("/new", b"new content", 0o666).expect("written");
            other.rename_path("/new", &name).expect("replaced");
        }
    }
    let opened = std::fs::File::options().write(true).truncate(true).open(&path);
    match (change, opened) {
        (Change::Removes, Err(e)) => assert_eq!(e.raw_os_error(), Some(libc::ENOENT), "{what}"),
        (Change::Replaces, Ok(mut file)) => file.write_all(b"cut").expect("written"),
        (_, opened) => panic!("{what}: {opened:?}"),
    }
    let mut found = vec![0; size + 1];
    let read = there.read_at(&mut found, 0).expect("read there");
    assert!(found[..read] == content, "{what}: {read} bytes are left of the file that lost its name");
    if let Some(mut here) = here {
        let mut found = Vec::new();
        here.read_to_end(&mut found).expect("read here");
        assert!(found == content, "{what}: {} bytes are left where it was open", found.len());
    }
    if change == Change::Replaces {
        assert_eq!(other.get(&name).expect("the new file"), b"cut"[..], "{what}");
    }
}
