//! The process that serves a FUSE mount, and its CPU time, which is neither the tasks' nor, mostly, the servers'.
//!
//! The mount of a path is the longest mount point above it in `/proc/self/mountinfo`. Its process has `/dev/fuse` open, and the kernel (since Linux 6.16) tells for which
//! connection: the minor number of the mount's device. Of older kernels the process is known by the mount point among its arguments. Processes of other users are not
//! seen, unless by root; notes say when nobody was found.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::backend::posix::there;

/// A FUSE mount of this host, and who serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    point: PathBuf,
    connection: u32,
    pids: Vec<u32>,
    by_server: bool,
}

/// CPU time of a mount's processes until one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountUsage {
    /// Nanoseconds of each thread that is there.
    threads: BTreeMap<u32, u64>,
    /// Ticks of the processes, threads that have ended included.
    ticks: u64,
}

/// Ticks of `/proc/PID/stat` in a second, on every Linux.
const TICKS_PER_S: f64 = 100.0;

impl Mount {
    /// The FUSE mount that a path is on, which need not exist yet; none if it is on something else.
    pub fn of(path: &str) -> Option<Mount> {
        let path = there(path).canonicalize().ok()?;
        let (point, connection) = find(&fs::read_to_string("/proc/self/mountinfo").ok()?, &path)?;
        let mut mount = Mount { point, connection, pids: Vec::new(), by_server: false };
        let all =
            fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        mount.pids = all.filter(|pid| mount.is_served_by(*pid)).collect();
        mount.by_server = mount.pids.iter().any(|pid| arguments(*pid).iter().any(|word| word == "server"));
        Some(mount)
    }

    fn is_served_by(&self, pid: u32) -> bool {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        let fuse = open
            .filter_map(Result::ok)
            .filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == Path::new("/dev/fuse")));
        let named = || arguments(pid).iter().any(|word| Path::new(word) == self.point);
        fuse.into_iter().any(|entry| {
            let told = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", entry.file_name().display()));
            connection(&told.unwrap_or_default()).map_or_else(named, |number| number == self.connection)
        })
    }

    /// Whether its process was found.
    pub fn is_found(&self) -> bool {
        !self.pids.is_empty()
    }

    /// Whether one of Hayate's servers serves it, whose CPU time this is, too.
    pub fn is_by_server(&self) -> bool {
        self.by_server
    }

    /// CPU time so far; none if there is no process of it.
    pub fn usage(&self) -> Option<MountUsage> {
        let mut usage = MountUsage::default();
        for pid in &self.pids {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            for task in tasks.filter_map(Result::ok) {
                let told = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                let number = task.file_name().to_str().and_then(|name| name.parse().ok());
                if let (Some(thread), Some(ns)) = (number, first_number(&told)) {
                    usage.threads.insert(thread, ns);
                }
            }
            usage.ticks += ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        }
        self.is_found().then_some(usage)
    }
}

impl MountUsage {
    /// Seconds used since `before`: of the threads, to the nanosecond; if some have ended, of the whole processes, in hundredths.
    pub fn seconds_since(&self, before: &MountUsage) -> f64 {
        if before.threads.keys().any(|thread| !self.threads.contains_key(thread)) {
            return self.ticks.saturating_sub(before.ticks) as f64 / TICKS_PER_S;
        }
        let earlier = |thread| before.threads.get(thread).copied().unwrap_or(0);
        self.threads.iter().map(|(thread, ns)| ns.saturating_sub(earlier(thread))).sum::<u64>() as f64 / 1e9
    }
}

/// Mount point and minor device number of the FUSE mount that holds a path; none if the nearest mount is of another kind.
fn find(mountinfo: &str, path: &Path) -> Option<(PathBuf, u32)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let words: Vec<&str> = before.split(' ').collect();
        let point = PathBuf::from(unescaped(words.get(4)?));
        path.starts_with(&point).then_some((point, (*words.get(2)?).to_owned(), after.to_owned()))
    });
    // Of mounts on the same point the last one is seen.
    let (point, device, kind) = mounts.max_by_key(|(point, ..)| point.components().count())?;
    let fuse = kind.starts_with("fuse.") || kind.starts_with("fuse ") || kind.starts_with("fuseblk ");
    Some((point, device.split_once(':')?.1.parse().ok()?)).filter(|_| fuse)
}

/// Blanks and the like are written as `\040`.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                whole.push(char::from(byte));
                whole.push_str(&part[3..]);
            }
            None => whole.push_str(part),
        }
    }
    whole
}

/// The connection of an open `/dev/fuse`, where the kernel tells.
fn connection(fdinfo: &str) -> Option<u32> {
    fdinfo.lines().find_map(|line| line.strip_prefix("fuse_connection:")?.trim().parse().ok())
}

fn arguments(pid: u32) -> Vec<String> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Of `/proc/PID/stat`: user and system time. The name in it may have anything but the last parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 0:21 / / rw,relatime - overlay overlay rw
63 22 0:39 / /mnt/a rw,relatime shared:1 - fuse.hayate hayate rw,user_id=0
64 63 0:40 / /mnt/a/below rw - ext4 /dev/vda rw
65 22 0:41 / /mnt/with\\040blank rw - fuse x rw
66 22 0:42 / /mnt/twice rw - tmpfs tmpfs rw
67 66 0:43 / /mnt/twice rw - fuseblk /dev/vdb rw
";

    #[test]
    fn the_mount_of_a_path_is_the_nearest() {
        let found = |path: &str| find(MOUNTS, Path::new(path)).map(|(_, connection)| connection);
        assert_eq!(found("/mnt/a/x/y"), Some(39));
        assert_eq!(found("/mnt/ab"), None, "a name that only begins so");
        assert_eq!(found("/mnt/a/below/x"), None, "another file system in it");
        assert_eq!(found("/mnt/with blank"), Some(41));
        assert_eq!(found("/mnt/twice/f"), Some(43), "the last one is seen");
        assert_eq!(found("/home"), None);
        assert_eq!(connection("pos:\t0\nino:\t90\nfuse_connection:\t39\n"), Some(39));
        assert_eq!(connection("pos:\t0\n"), None, "an older kernel");
        assert_eq!(Mount::of("/proc/none"), None);
    }

    /// Goal: what a process uses is counted, threads that are new too, and one that has ended does not hide it. Method: this process, whose CPU time the clock tells.
    #[test]
    fn cpu_time_is_that_of_the_process() {
        let mount =
            Mount { point: "/m".into(), connection: 0, pids: vec![std::process::id()], by_server: false };
        let before = mount.usage().expect("this process");
        let spin = || {
            let start = std::time::Instant::now();
            while start.elapsed().as_millis() < 60 {}
        };
        let own = |work: &dyn Fn()| {
            let start = crate::clock::cpu_ns(crate::clock::CpuOf::Process);
            work();
            (crate::clock::cpu_ns(crate::clock::CpuOf::Process) - start) as f64 / 1e9
        };
        let used = own(&spin);
        let after = mount.usage().expect("this process");
        // Other tests run beside, and threads' figures are as of their last turn.
        assert!(after.seconds_since(&before) >= (used * 0.5).min(0.02), "{used}");
        let ended = MountUsage { threads: [(u32::MAX, 7)].into(), ticks: after.ticks.saturating_sub(50) };
        assert!((after.seconds_since(&ended) - 0.5).abs() < 1e-9, "by ticks");
        assert_eq!(Mount { pids: Vec::new(), ..mount }.usage(), None);
        let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20";
        assert_eq!(ticks(stat), Some(42));
    }
}
