//! A directory of its own for each test, the real program run in it, and whatever it left behind ended at the end.
#![allow(dead_code)] // Each test binary uses a part.

#[path = "../../../../tests/src/skip.rs"]
pub mod skip;
pub mod versions;

use fs_client::{Client, ClientConfig};
use fs_net::{ClusterFile, MemberEntry};
use fs_server::tier::staging_name;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine before the test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A test's own place. Every process that was started in it has its path in the environment, and so is found again.
pub struct Sandbox {
    dir: tempfile::TempDir,
    /// More of the environment of everything that runs in it.
    pub variables: Vec<(&'static str, String)>,
}

/// Bytes that a process has of a kind of memory (RssAnon, RssShmem); none if it has ended.
pub fn memory_of(pid: u32, kind: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Whether a process has ended, waited for or not, with all that it had open: its environment goes before that. Its command line is not looked at, as [`Sandbox::processes`] does with all
/// processes: that may wait for whoever waits for a mount, which may wait for this one.
pub fn has_ended(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The first thread may have ended before the others.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])) && threads <= 1
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Exit code; absent after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Sandbox {
    /// A new one, with an empty tier directory.
    pub fn new() -> Sandbox {
        let sandbox = Sandbox {
            dir: tempfile::Builder::new().prefix("hayate-test-").tempdir().unwrap(),
            variables: Vec::new(),
        };
        fs::create_dir(sandbox.path("tier")).unwrap();
        sandbox
    }

    /// A new one, with more of the environment.
    pub fn with(variables: Vec<(&'static str, String)>) -> Sandbox {
        let mut sandbox = Sandbox::new();
        sandbox.variables = variables;
        sandbox
    }

    /// A client of its cluster.
    pub fn client(&self) -> Client {
        Client::connect(ClientConfig::load(&self.path("c.toml")).unwrap()).unwrap()
    }

    /// Nothing is copied to the tier's directory until [`Sandbox::let_copy`]: a file is where each server stages.
    pub fn hold_copies(&self) {
        self.staging().iter().for_each(|path| fs::write(path, "").unwrap());
    }

    /// Ends [`Sandbox::hold_copies`].
    pub fn let_copy(&self) {
        self.staging().iter().for_each(|path| fs::remove_file(path).unwrap());
    }

    fn staging(&self) -> Vec<PathBuf> {
        let cluster = ClusterFile::load(&self.path("c.toml")).unwrap();
        let name = |member: &MemberEntry| staging_name(&cluster.job, member.id);
        cluster.members.iter().map(|member| self.path("tier").join(name(member))).collect()
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as a word of a command line.
    pub fn word(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The program with arguments, not started.
    pub fn hayate(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hayate"));
        command.args(args).stdin(Stdio::null()).current_dir(self.dir.path());
        self.environment(&mut command);
        command
    }

    /// Gives a command the environment of this test.
    pub fn environment(&self, command: &mut Command) {
        command
            .env("HAYATE_CLUSTER", self.path("c.toml"))
            .env("HOME", self.dir.path())
            .env_remove("HAYATE_LOG")
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    /// Runs the program.
    pub fn run(&self, args: &[&str]) -> Said {
        said(self.hayate(args).output().unwrap())
    }

    /// Runs it; it must succeed. Answers its output.
    pub fn ok(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, Some(0), "hayate {args:?}: {said:?}");
        said.out
    }

    /// Runs it; it must fail with this code and name all of `words`. Answers its message.
    pub fn fails(&self, code: i32, args: &[&str], words: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, Some(code), "hayate {args:?}: {said:?}");
        for word in words {
            assert!(said.err.contains(word), "hayate {args:?} does not say '{word}': {}", said.err);
        }
        said.err
    }

    /// `hayate up` with a store of its own and more arguments.
    pub fn up(&self, more: &[&str]) -> String {
        let store = self.word("store");
        let mut args = vec!["up", "--store", &store];
        args.extend(more);
        self.ok(&args)
    }

    /// As [`Sandbox::ok`], by a process of the node of server `node`.
    pub fn ok_by(&self, node: usize, args: &[&str]) -> String {
        let said = said(self.hayate(args).env("HAYATE_GATEWAY", node.to_string()).output().unwrap());
        assert_eq!(said.code, Some(0), "hayate {args:?} by node {node}: {said:?}");
        said.out
    }

    /// `hayate up` that must fail, and leave nothing behind.
    pub fn up_fails(&self, code: i32, more: &[&str], words: &[&str]) -> String {
        let store = self.word("store");
        let mut args = vec!["up", "--store", &store];
        args.extend(more);
        let message = self.fails(code, &args, words);
        self.assert_nothing_left();
        assert!(!self.path("c.toml").exists(), "a cluster file was left behind");
        message
    }

    /// No process, mount, store or directory of this test is there any more.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.processes(), Vec::<(u32, String)>::new(), "processes were left behind");
        assert_eq!(self.mounts(), Vec::<PathBuf>::new(), "mounts were left behind");
        assert_eq!(self.run_dirs(), Vec::<PathBuf>::new(), "directories were left behind");
        let stores = fs::read_dir(self.path("store")).map_or(0, Iterator::count);
        assert_eq!(stores, 0, "stores were left behind");
    }

    /// The cluster file, parsed.
    pub fn cluster(&self) -> toml::Table {
        fs::read_to_string(self.path("c.toml")).unwrap().parse().unwrap()
    }

    /// A field of every member of the cluster file.
    pub fn members(&self, field: &str) -> Vec<toml::Value> {
        let cluster = self.cluster();
        cluster["members"].as_array().unwrap().iter().map(|member| member[field].clone()).collect()
    }

    /// Process numbers of the servers, by the cluster file.
    pub fn server_pids(&self) -> Vec<u32> {
        self.members("pid").iter().map(|pid| u32::try_from(pid.as_integer().unwrap()).unwrap()).collect()
    }

    /// Kills server `number` (SIGKILL), and waits until it is gone.
    pub fn kill_server(&self, number: usize) {
        let victim = self.server_pids()[number];
        kill(victim, rustix::process::Signal::KILL);
        wait_until("the server is gone", || has_ended(victim));
    }

    /// Begins a flush, kills these servers and whoever waits for it when as many files have `arrived` as `within` begins with, and starts them
    /// again. By then fewer have arrived than it ends with.
    pub fn kill_in_flush(&self, victims: Range<usize>, arrived: impl Fn() -> usize, within: Range<usize>) {
        let mut flush = self.hayate(&["flush", "--wait"]).stderr(Stdio::null()).spawn().unwrap();
        wait_until("a part of the files in the tier", || arrived() >= within.start);
        for victim in &self.server_pids()[victims] {
            kill(*victim, rustix::process::Signal::KILL);
        }
        assert!(arrived() < within.end, "the kill came after the flush: this run shows nothing");
        kill(flush.id(), rustix::process::Signal::KILL);
        flush.wait().unwrap();
        self.ok(&["up", "--restart"]);
    }

    /// Processes that were started in this test and live: number and command line.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let mark = self.dir.path().as_os_str().as_encoded_bytes();
        let own = std::process::id();
        let pids =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &u32| *pid != own)
            .filter_map(|pid| {
                let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
                let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                // A process that has ended and was not waited for has no environment.
                let ours = environment.windows(mark.len()).any(|window| window == mark);
                ours.then(|| (pid, String::from_utf8_lossy(&line).replace('\0', " ")))
            })
            .collect()
    }

    /// What is mounted in the sandbox.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let places = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        places.filter(|place| place.starts_with(self.dir.path())).collect()
    }

    /// Directories of clusters of this test below /tmp/hayate-UID: their launch file names the sandbox.
    pub fn run_dirs(&self) -> Vec<PathBuf> {
        let base = format!("/tmp/hayate-{}", rustix::process::geteuid().as_raw());
        let Ok(entries) = fs::read_dir(base) else { return Vec::new() };
        let mark = self.dir.path().to_str().unwrap();
        let dirs = entries.flatten().map(|entry| entry.path());
        dirs.filter(|dir| fs::read_to_string(dir.join("launch.toml")).is_ok_and(|text| text.contains(mark)))
            .collect()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            kill(pid, rustix::process::Signal::KILL);
        }
        for mount in self.mounts() {
            // Also a mount that a failed test left dead must go, or the directory cannot.
            let _ = Command::new("umount").arg("-l").arg(&mount).stderr(Stdio::null()).status();
            let _ = Command::new("fusermount3").arg("-uz").arg(&mount).stderr(Stdio::null()).status();
        }
        for dir in self.run_dirs() {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// Turns what a process left into text.
pub fn said(output: Output) -> Said {
    let text = |raw: Vec<u8>| String::from_utf8_lossy(&raw).into_owned();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Sends a signal; that the process has ended meanwhile is fine.
pub fn kill(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Waits until `done`, which must come within [`PATIENCE`].
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether this user can mount here; if not, the reason is one that `hayate mount` gives, and it is noted that the test shows less.
pub fn can_mount() -> bool {
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    let tool = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("fusermount3").exists()));
    let can = device && (rustix::process::geteuid().is_root() || tool);
    if !can {
        skip::note("no FUSE here, so nothing is mounted");
    }
    can
}

/// A shell script run where the test is root of namespaces of its own, so that it may mount; nothing if the system forbids them.
pub fn in_own_namespace(sandbox: &Sandbox, script: &str) -> Option<Said> {
    let mut unshare = Command::new("unshare");
    let root = rustix::process::geteuid().is_root();
    unshare.args(if root { &["--mount"][..] } else { &["--map-root-user", "--mount"][..] });
    let probe = unshare.args(["sh", "-c", "mount -t tmpfs none /mnt"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        skip::note("no mount namespaces here");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(if root { &["--mount"][..] } else { &["--map-root-user", "--mount"][..] });
    command
        .args(["sh", "-c", script])
        .env("HAYATE", env!("CARGO_BIN_EXE_hayate"))
        .env("BOX", sandbox.dir.path());
    command.current_dir(sandbox.dir.path()).stdin(Stdio::null());
    sandbox.environment(&mut command);
    Some(said(command.output().unwrap()))
}

/// Makes a program of a shell script. Another process writes it: a child of this one, started by another test at that moment,
/// would hold the file open for writing, and the kernel would refuse to run it.
pub fn write_program(path: &Path, script: &str) {
    let plain = path.with_extension("txt");
    fs::write(&plain, script).unwrap();
    assert!(Command::new("cp").arg(&plain).arg(path).status().unwrap().success());
    assert!(Command::new("chmod").arg("755").arg(path).status().unwrap().success());
}

/// Bytes that differ from place to place.
pub fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| ((i * 31) ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// All of a tree that a copy must keep: path, mode, and content or target, sorted.
pub fn tree(root: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_dir() {
                left.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else {
                fs::read(&path).unwrap()
            };
            found.push((path.strip_prefix(root).unwrap().to_path_buf(), meta.mode(), content));
        }
    }
    found.sort();
    found
}
