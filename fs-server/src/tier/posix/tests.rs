//! The POSIX adapter on real directories: staging, publishing, links, attributes, and what must not be followed or torn.

use std::fs as std_fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use fs_net::Secret;

pub(super) const ME: ServerId = ServerId(3);

fn config(store: &Path) -> ServerConfig {
    ServerConfig::new(ME, "job/7".to_owned(), Secret::from_raw([1; 32]), store.to_owned())
}

fn name(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(super) struct Bench {
    pub(super) tier: Posix,
    dir: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tier = Posix::open(dir.path(), &config(Path::new("/nonexistent/store"))).unwrap();
        Bench { tier, dir }
    }

    pub(super) fn root(&self, at: &str) -> Place {
        Place::new(&self.tier.base(Base::Root).unwrap(), &name(at))
    }

    pub(super) fn staged(&self, at: &str) -> Place {
        Place::new(&self.tier.base(Base::Staging(ME)).unwrap(), &name(at))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn some_attributes() -> Attributes {
    Attributes {
        mode: Some(0o4640),
        owner: None,
        xattrs: Some(vec![(name("user.colour"), name("blue"))]),
        atime: 1_000_000_007,
        mtime: -5,
    }
}

#[test]
fn a_staged_file_gets_its_attributes_and_its_place() {
    // Goal: content, mode, times to the nanosecond (also before 1970) and attributes arrive; staging leaves no trace.
    let bench = Bench::new();
    let (staged, place) = (bench.staged("f-3-1"), bench.root("a"));
    let id = bench.tier.make(&staged, &Make::File { size: 8, to: None }).unwrap();
    let file = bench.tier.open_file(&staged).unwrap();
    file.write_at(3, b"xyz").unwrap();
    bench.tier.set(&staged, id, &some_attributes()).unwrap();
    bench.tier.rename(&staged, &place).unwrap();
    assert!(bench.tier.rest(ME).unwrap());
    let path = bench.dir.path().join("a");
    let meta = std_fs::metadata(&path).unwrap();
    assert_eq!(std_fs::read(&path).unwrap(), b"\0\0\0xyz\0\0");
    assert_eq!((meta.ino(), meta.mode() & 0o7777), (id, 0o4640));
    assert_eq!((meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec()), (1, 7, -1, 999_999_995));
    let mut value = [0; 8];
    if let Ok(len) = fs::getxattr(&path, "user.colour", &mut value[..]) {
        assert_eq!(&value[..len], b"blue");
    }
    assert_eq!(std_fs::read_dir(bench.dir.path()).unwrap().count(), 1);
}

#[test]
fn symlinks_are_not_followed() {
    // Goal: a link in the tier to a place outside is replaced, removed or refused, and what it leads to stays untouched.
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std_fs::write(&victim, "secret").unwrap();
    std_fs::set_permissions(&victim, PermissionsExt::from_mode(0o600)).unwrap();
    symlink(&victim, bench.dir.path().join("file")).unwrap();
    symlink(outside.path(), bench.dir.path().join("dir")).unwrap();
    assert!(matches!(bench.tier.open_dir(&bench.root("dir")), Err(TierError::Occupied(_))));
    assert!(bench.tier.open_file(&bench.root("file")).is_err());
    let link = bench.tier.look(&bench.root("file")).unwrap().unwrap();
    assert_ne!(link.id, std_fs::metadata(&victim).unwrap().ino());
    let attributes = Attributes { mode: Some(0o666), xattrs: None, ..some_attributes() };
    bench.tier.set(&bench.root("file"), link.id, &attributes).unwrap();
    bench.tier.make(&bench.staged("f-3-1"), &Make::File { size: 1, to: None }).unwrap();
    bench.tier.rename(&bench.staged("f-3-1"), &bench.root("file")).unwrap();
    bench.tier.remove(&bench.root("dir"), false).unwrap();
    let meta = std_fs::metadata(&victim).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.len(), meta.nlink()), (0o600, 6, 1));
    assert!(meta.mtime() > 0);
}

#[test]
fn handles_stay_with_directories_that_move() {
    let bench = Bench::new();
    bench.tier.make(&bench.root("a"), &Make::Directory).unwrap();
    let dir = bench.tier.open_dir(&bench.root("a")).unwrap();
    bench.tier.rename(&bench.root("a"), &bench.root("b")).unwrap();
    bench.tier.make(&bench.root("a"), &Make::Directory).unwrap();
    bench.tier.make(&Place::new(&dir, &name("f")), &Make::File { size: 0, to: None }).unwrap();
    assert!(bench.dir.path().join("b/f").exists() && !bench.dir.path().join("a/f").exists());
    assert!(matches!(bench.tier.remove(&bench.root("b"), true), Err(TierError::Occupied(_))));
    let into_itself = Place::new(&dir, &name("b"));
    assert!(matches!(bench.tier.rename(&bench.root("b"), &into_itself), Err(TierError::BelowItself(_))));
}

#[test]
fn an_object_that_was_exchanged_is_missing() {
    let bench = Bench::new();
    let id = bench.tier.make(&bench.root("a"), &Make::File { size: 0, to: None }).unwrap();
    let outcome = bench.tier.set(&bench.root("a"), id + 1, &some_attributes());
    assert!(matches!(outcome, Err(TierError::Missing(_))));
}

#[test]
fn stale_staging_of_this_server_goes_and_that_of_others_stays() {
    let bench = Bench::new();
    // Goal: a start removes what its own former run staged, and neither the staging of others nor a directory that made way.
    bench.tier.make(&bench.staged("f-3-9"), &Make::File { size: 1, to: None }).unwrap();
    bench.tier.make(&bench.staged("d-1"), &Make::Directory).unwrap();
    let other = bench.dir.path().join(staging_name("job/7", ServerId(33)));
    std_fs::create_dir(&other).unwrap();
    std_fs::write(other.join("f-33-9"), "x").unwrap();
    let again = Posix::open(bench.dir.path(), &config(Path::new("/nonexistent/store"))).unwrap();
    assert!(again.facts().left_over && !bench.tier.facts().left_over);
    assert!(bench.tier.look(&bench.staged("f-3-9")).unwrap().is_none());
    assert!(bench.tier.look(&bench.staged("d-1")).unwrap().is_some() && other.join("f-33-9").exists());
    assert!(!bench.tier.rest(ME).unwrap());
    let others = bench.tier.base(Base::Staging(ServerId(33))).unwrap();
    assert_eq!(bench.tier.look(&Place::new(&others, &name("f-33-9"))).unwrap().unwrap().size, 1);
    assert!(matches!(bench.tier.base(Base::Staging(ServerId(4))), Err(TierError::Missing(_))));
}

#[test]
fn unusable_directories_are_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = |path: &Path, store: &Path| match Posix::open(path, &config(store)) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{} was taken", path.display()),
    };
    let nowhere = Path::new("/nonexistent/store");
    assert!(refusal(&dir.path().join("none"), nowhere).contains("--tier"));
    std_fs::write(dir.path().join("file"), "").unwrap();
    assert!(refusal(&dir.path().join("file"), nowhere).contains("not a directory"));
    std_fs::create_dir(dir.path().join("tier")).unwrap();
    assert!(refusal(&dir.path().join("tier"), dir.path()).contains("inside the store"));
    if !rustix::process::geteuid().is_root() {
        std_fs::set_permissions(dir.path().join("tier"), PermissionsExt::from_mode(0o500)).unwrap();
        assert!(refusal(&dir.path().join("tier"), nowhere).contains("cannot be written"));
    }
}

#[test]
fn a_removed_staging_directory_is_made_again() {
    // Goal: the first that is made there after staging was removed from outside fails, the next does not.
    let bench = Bench::new();
    let place = bench.staged("x");
    std_fs::remove_dir(bench.dir.path().join(staging_name("job/7", ME))).unwrap();
    let lost = bench.tier.make(&place, &Make::File { size: 0, to: None });
    assert!(matches!(lost, Err(TierError::Failed(_))), "{lost:?}");
    bench.tier.reset();
    bench.tier.make(&bench.staged("x"), &Make::File { size: 0, to: None }).unwrap();
}

#[test]
fn a_reset_waits_for_nobody() {
    // Goal: who resets is a thread of requests, and goes on while another one hangs in the tier with the bases locked; they are opened anew afterwards.
    let bench = Bench::new();
    let before = bench.tier.base(Base::Root).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let locked = bench.tier.bases.lock();
        let tier = &bench.tier;
        scope.spawn(move || {
            tier.reset();
            let _ = tell.send(());
        });
        let went_on = told.recv_timeout(std::time::Duration::from_secs(30));
        drop(locked);
        went_on.unwrap();
    });
    let after = bench.tier.base(Base::Root).unwrap();
    assert_ne!(fd(&before).unwrap().as_raw_fd(), fd(&after).unwrap().as_raw_fd());
}

#[test]
fn a_file_keeps_capabilities_and_bits_when_its_owner_is_set() {
    // Goal: what the kernel takes away with the owner is there in the end. Method: a file of root becomes somebody else's; only root can try.
    const CAPABILITY: &str = "security.capability";
    let bench = Bench::new();
    let path = bench.dir.path().join("program");
    let id = bench.tier.make(&bench.root("program"), &Make::File { size: 0, to: None }).unwrap();
    // Version 2, effective: CAP_NET_RAW.
    let value = [&[1_u8, 0, 0, 2, 0, 0x20][..], &[0; 14]].concat();
    if !bench.tier.is_root || fs::setxattr(&path, CAPABILITY, &value, fs::XattrFlags::empty()).is_err() {
        return crate::skip::note("setting capabilities needs root and a file system that keeps them");
    }
    let attributes = Attributes {
        mode: Some(0o6755),
        owner: Some((4_321, 4_321)),
        xattrs: Some(vec![(name(CAPABILITY), Bytes::from(value.clone()))]),
        ..Attributes::default()
    };
    bench.tier.set(&bench.root("program"), id, &attributes).unwrap();
    let meta = std_fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (4_321, 4_321, 0o6755));
    let mut found = [0; 32];
    let len = fs::getxattr(&path, CAPABILITY, &mut found[..]).unwrap();
    assert_eq!(&found[..len], value);
}
