//! A device of a test's own that fails what is written to it, and can lose power: an ext4 on a loop device whose image lies in a small file
//! system in memory. With no memory left, writes to new places of the device fail, and with them syncs. Some 400 KiB may still find memory.
//! Takes root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MEMORY_BYTES: u64 = 96 << 20;
const IMAGE_BYTES: u64 = 80 << 20;

/// The device, with all that was mounted of it; unmounted at the end.
pub struct Device {
    dir: tempfile::TempDir,
}

impl Device {
    /// None where this user may not mount, which is noted.
    pub fn mount() -> Option<Device> {
        let device = Device { dir: tempfile::tempdir().unwrap() };
        for name in ["memory", "store", "after"] {
            fs::create_dir(device.at(name)).unwrap();
        }
        let size = format!("size={MEMORY_BYTES}");
        let memory = device.word("memory");
        if !runs("mount", &["-t", "tmpfs", "-o", &size, "none", &memory]) {
            crate::skip::note("a device of its own needs root");
            return None;
        }
        let image = device.word("memory/image");
        File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        let lazy = "lazy_itable_init=0,lazy_journal_init=0";
        let is_made = runs("mkfs.ext4", &["-q", "-m", "0", "-E", lazy, &image]) && {
            // What the file system keeps for itself never fails, or it would go read-only: all is written, and what is free given back.
            fs::write(&image, fs::read(&image).unwrap()).unwrap();
            runs("mount", &["-o", "loop", &image, &device.word("store")])
                && runs("fstrim", &[&device.word("store")])
        };
        if !is_made {
            crate::skip::note("no ext4 on a loop device here");
            return None;
        }
        Some(device)
    }

    /// Where its file system is mounted.
    pub fn path(&self) -> PathBuf {
        self.at("store")
    }

    /// From now on it takes no write to a place that was not written yet.
    pub fn fail(&self) {
        // What is written already is on its way.
        rustix::fs::syncfs(File::open(self.path()).unwrap()).unwrap();
        let ballast = File::create(self.at("memory/ballast")).unwrap();
        let space = rustix::fs::statvfs(self.at("memory")).unwrap();
        let free = space.f_bavail * space.f_frsize;
        rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, free).unwrap();
    }

    /// It is well again.
    pub fn recover(&self) {
        fs::remove_file(self.at("memory/ballast")).unwrap();
    }

    /// The file system as it is found after a loss of power now, mounted beside this one.
    pub fn after_power_loss(&self) -> PathBuf {
        let (store, after) = (self.word("store"), self.word("after"));
        // Frozen, so that the copy is of one moment. That writes what the kernel takes for unwritten, and nothing else.
        assert!(runs("fsfreeze", &["-f", &store]));
        let is_copied = runs("cp", &["--sparse=always", &self.word("memory/image"), &self.word("copy")]);
        assert!(runs("fsfreeze", &["-u", &store]) && is_copied);
        assert!(runs("mount", &["-o", "loop", &self.word("copy"), &after]));
        self.at("after")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn word(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        for name in ["after", "store", "memory"].map(|name| self.at(name)).iter().filter(|p| is_mounted(p)) {
            let is_gone = runs("umount", &[name.to_str().unwrap()]);
            assert!(std::thread::panicking() || is_gone, "cannot unmount {}", name.display());
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    device(path) != device(path.parent().unwrap())
}

fn runs(program: &str, args: &[&str]) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let status = Command::new(program).args(args).env("PATH", path).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
