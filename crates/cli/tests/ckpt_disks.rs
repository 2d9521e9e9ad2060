//! Goal: a version that meets a device that is full, or that fails its writes, is refused on all ranks, wherever in its writes that happens, and the version
//! before it stays whole. Method: real devices: an ext4 on a loop device whose image lies in a tmpfs. Free space of the ext4 is taken away: writes end
//! with ENOSPC. Or memory of the tmpfs is: the ext4 has room, and the device below it fails writes and fsyncs with EIO. How much is left grows from run
//! to run, so each run fails at a later write, until a version fits. Needs root.

mod common;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::versions::{SET, assert_whole, checkpoints, content};
use common::{PATIENCE, Sandbox, wait_until};
use libio::{Checkpoints, Error, Options, Redundancy, Result};

const MIB: u64 = 1 << 20;

/// How much more is left in each run.
const STEP: u64 = 5 * MIB;

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Room in the file system of the stores.
    Space,
    /// Memory below the device.
    Device,
}

/// The device of the stores of all servers of a sandbox.
struct Device<'a>(&'a Sandbox);

impl Device<'_> {
    /// Mounted at `store`; none where this user may not.
    fn mount(sandbox: &Sandbox) -> Option<Device<'_>> {
        let (memory, image, store) =
            (sandbox.word("memory"), sandbox.word("memory/image"), sandbox.word("store"));
        fs::create_dir(&memory).unwrap();
        fs::create_dir(&store).unwrap();
        if !runs("mount", &["-t", "tmpfs", "-o", "size=256m", "none", &memory]) {
            return None;
        }
        File::create(&image).unwrap().set_len(160 * MIB).unwrap();
        // What is written later must not be what a lazy initialisation still has to write.
        let made =
            runs("mkfs.ext4", &["-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", &image]);
        (made && runs("mount", &["-o", "loop", &image, &store])).then_some(Device(sandbox))
    }

    /// Leaves this much, as a program would that writes: servers look at their room every 50 ms.
    fn leave(&self, fault: Fault, bytes: u64) {
        let place = self.ballast(fault);
        let ballast = File::create(&place).unwrap();
        for left in [bytes + 12 * MIB, bytes] {
            // What servers have written and their file system has not placed yet is not counted as taken, so what is said to be free may be too much.
            let mut take = ballast.metadata().unwrap().len() + free(&place).saturating_sub(left);
            while let Err(e) = rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, take) {
                assert_eq!(e, rustix::io::Errno::NOSPC);
                take -= MIB / 4;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn give_back(&self, fault: Fault) {
        fs::remove_file(self.ballast(fault)).unwrap();
    }

    fn ballast(&self, fault: Fault) -> PathBuf {
        self.0.path(if fault == Fault::Space { "store/ballast" } else { "memory/ballast" })
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        // After a failure servers still have it open; the sandbox ends them, and detaches what is mounted in it.
        if std::thread::panicking() {
            return;
        }
        for dir in ["store", "memory"] {
            // A server that ended a moment ago may still be closing its files.
            wait_until("the device can be unmounted", || runs("umount", &[&self.0.word(dir)]));
        }
    }
}

fn runs(program: &str, args: &[&str]) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let status = Command::new(program).args(args).env("PATH", path).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn free(path: &std::path::Path) -> u64 {
    let stat = rustix::fs::statvfs(path.parent().unwrap()).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// A version by two ranks; what each heard.
fn save(checkpoints: &Checkpoints, version: u64, redundancy: Redundancy) -> Vec<Result<()>> {
    let options = Options { redundancy, timeout: Duration::from_secs(20), ..Options::default() };
    let rank = |rank| {
        let mut writer = checkpoints.begin_with(SET, version, rank, 2, &options)?;
        let wrote = writer.write(&format!("field.{rank}"), &content(version, rank), 0);
        let verdict = writer.commit(true);
        wrote.and(verdict)
    };
    std::thread::scope(|scope| {
        let ranks = [0, 1].map(|number| scope.spawn(move || rank(number)));
        ranks.map(|rank| rank.join().unwrap()).into()
    })
}

/// Version 2 with so much left; whether it was committed.
fn attempt(
    checkpoints: &Checkpoints,
    device: &Device,
    fault: Fault,
    left: u64,
    redundancy: Redundancy,
) -> bool {
    device.leave(fault, left);
    let heard = save(checkpoints, 2, redundancy);
    let what = format!("{fault:?}, {left} bytes left: {heard:?}");
    let committed = heard.iter().all(Result::is_ok);
    assert!(committed || heard.iter().all(Result::is_err), "the ranks differ: {what}");
    // Each rank meets the device itself, or a store that refuses since it failed, or hears that the other did.
    let expected: &[i32] = match fault {
        Fault::Space => &[libc::ENOSPC, libc::ECANCELED],
        // A loop device whose memory is full says that to its file system, too.
        Fault::Device => &[libc::EIO, libc::ENOSPC, libc::EROFS, libc::ECANCELED],
    };
    for error in heard.iter().filter_map(|said| said.as_ref().err()) {
        assert!(expected.contains(&error.errno()), "{what}");
        assert!(!matches!(error, Error::TimedOut { .. }), "{what}");
    }
    assert_eq!(checkpoints.latest(SET).unwrap(), Some(if committed { 2 } else { 1 }), "{what}");
    assert_whole(checkpoints, if committed { 2 } else { 1 });
    committed
}

/// Servers look for room now and then.
fn fits_again(checkpoints: &Checkpoints, redundancy: Redundancy, left: u64) {
    let end = Instant::now() + PATIENCE;
    while let Err(error) = save(checkpoints, 3, redundancy).into_iter().collect::<Result<Vec<()>>>() {
        assert!(Instant::now() < end, "{redundancy:?}, {left} bytes had been left: {error:?}");
    }
}

#[test]
fn a_device_without_room_refuses_and_recovers() {
    for redundancy in [Redundancy::None, Redundancy::Copies(1)] {
        let (mut refused, mut left) = (0, 0);
        loop {
            let sandbox = Sandbox::new();
            let Some(device) = Device::mount(&sandbox) else { return shows_nothing() };
            sandbox.up(&["--nodes", "3"]);
            let checkpoints = checkpoints(&sandbox);
            save(&checkpoints, 1, redundancy).into_iter().collect::<Result<Vec<()>>>().unwrap();
            let committed = attempt(&checkpoints, &device, Fault::Space, left, redundancy);
            device.give_back(Fault::Space);
            fits_again(&checkpoints, redundancy, left);
            assert_eq!(checkpoints.latest(SET).unwrap(), Some(3));
            assert_whole(&checkpoints, 3);
            sandbox.ok(&["down", "--discard"]);
            if committed {
                break;
            }
            (refused, left) = (refused + 1, left + STEP);
        }
        assert!(refused > 1, "{redundancy:?}: no version met a full device");
    }
}

#[test]
fn a_device_that_fails_is_refused_by_all() {
    for io in ["buffered", "direct"] {
        let (mut refused, mut left) = (0, 0);
        loop {
            let sandbox = Sandbox::new();
            let Some(device) = Device::mount(&sandbox) else { return shows_nothing() };
            sandbox.up(&["--nodes", "3", "--io", io, "--durability", "device"]);
            let checkpoints = checkpoints(&sandbox);
            save(&checkpoints, 1, Redundancy::None).into_iter().collect::<Result<Vec<()>>>().unwrap();
            let committed = attempt(&checkpoints, &device, Fault::Device, left, Redundancy::None);
            // Its file system may be read-only by now.
            (0..3).for_each(|server| sandbox.kill_server(server));
            if committed {
                break;
            }
            (refused, left) = (refused + 1, left + STEP);
        }
        assert!(refused > 1, "{io}: no version met a failing device");
    }
}

fn shows_nothing() {
    common::skip::note("mounting a device needs root, a loop device and mkfs.ext4");
}
