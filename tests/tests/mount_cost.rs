//! Goal: what the mount asks of the servers for a small file is a promise: of write and close together, one message. Method: a mount in
//! this process, ordinary file operations, and the servers' own counts of what they were asked.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use fs_client::{Client, ClientConfig, Route};
use fs_proto::ServerId;
use fuse_mount::{MountOptions, Mounted};
use hayate_tests::{Cluster, status};

/// Files of each kind.
const TIMES: usize = 64;
const CONTENT: [u8; 4000] = [7; 4000];

type Counts = BTreeMap<String, i64>;

struct Setup {
    cluster: Cluster,
    asker: Client,
    mounted: Option<Mounted>,
    dir: tempfile::TempDir,
}

/// None where there is no FUSE, or the user may not mount.
fn setup() -> Option<Setup> {
    let cluster = Cluster::start(2);
    let dir = tempfile::TempDir::with_prefix("hayate-mount-").expect("a directory");
    let mut config = ClientConfig::new(cluster.file().clone());
    config.checked = true;
    let client = Client::connect(config).expect("a client");
    match fuse_mount::mount(client, MountOptions::new(dir.path())) {
        Ok(mounted) => {
            let asker = cluster.client_by(Route::Owners);
            Some(Setup { cluster, asker, mounted: Some(mounted), dir })
        }
        Err(error) => {
            hayate_tests::skip::note(error);
            None
        }
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            mounted.unmount().expect("unmounted");
        }
    }
}

impl Setup {
    fn asked(&self) -> Counts {
        let mut counts = Counts::new();
        for member in &self.cluster.file().members {
            let status = status(&self.asker, member.id);
            for (op, count) in status["operations"].as_object().expect("counts") {
                *counts.entry(op.clone()).or_default() += count.as_i64().expect("a number");
            }
        }
        counts
    }

    /// What the servers were asked per operation by `op` for 0, 1, ..., giving back and renewing (which goes by time) not counted.
    fn measure(&self, name: &str, mut op: impl FnMut(&Path, usize)) -> BTreeMap<String, f64> {
        let before = self.asked();
        for i in 0..TIMES {
            op(self.dir.path(), i);
        }
        let mut asked = BTreeMap::new();
        for (op, count) in self.asked() {
            let count = count - before.get(&op).copied().unwrap_or(0);
            if count > 0
                && !matches!(op.as_str(), "release" | "renew" | "serverstatus" | "ping" | "hello" | "prove")
            {
                asked.insert(op, count as f64 / TIMES as f64);
            }
        }
        println!("| {name} | {asked:.2?} |");
        asked
    }
}

fn of(asked: &BTreeMap<String, f64>, op: &str) -> f64 {
    asked.get(op).copied().unwrap_or(0.0)
}

/// Waits until the kernel does not trust what it heard any more.
fn forget(setup: &Setup) {
    let deadline = Instant::now() + Duration::from_millis(1200);
    while Instant::now() < deadline {
        // The servers are idle meanwhile, but for this.
        setup.asker.server_status(ServerId(0)).expect("status");
    }
}

#[test]
fn of_small_files() {
    let Some(setup) = setup() else { return };
    println!("| operation through the mount | servers were asked |");
    let made = setup.measure("create, write, close", |dir, i| {
        let mut file = std::fs::File::create_new(dir.join(format!("f{i}"))).expect("create");
        file.write_all(&CONTENT).expect("write");
    });
    assert!(of(&made, "create") <= 1.0 && of(&made, "writeinline") <= 1.0, "{made:?}");
    assert!(
        of(&made, "publish") + of(&made, "writechunk") + of(&made, "open") == 0.0,
        "closing costs nothing: {made:?}"
    );
    // Before it creates, the kernel looks for the name and asks for the directory's attributes.
    assert!(of(&made, "lookup") <= 1.1 && of(&made, "getattr") <= 1.1, "{made:?}");

    // Its own pages are of the content that it wrote only as far as it knows: the version is another.
    forget(&setup);
    let read = setup.measure("open, read, close", |dir, i| {
        let mut content = Vec::new();
        std::fs::File::open(dir.join(format!("f{i}")))
            .expect("open")
            .read_to_end(&mut content)
            .expect("read");
        assert!(content == CONTENT);
    });
    assert!(of(&read, "openread") <= 1.0 && of(&read, "lookup") <= 1.1, "{read:?}");
    assert!(of(&read, "readinline") + of(&read, "readchunk") == 0.0, "reading costs nothing: {read:?}");

    let again = setup.measure("open, read, close again", |dir, i| {
        assert!(std::fs::read(dir.join(format!("f{i}"))).expect("read") == CONTENT);
    });
    assert!(of(&again, "openread") <= 1.0 && of(&again, "readinline") == 0.0, "{again:?}");

    let rewritten = setup.measure("open to rewrite, write, close", |dir, i| {
        std::fs::write(dir.join(format!("f{i}")), b"other").expect("write");
    });
    assert!(of(&rewritten, "writeinline") <= 1.0 && of(&rewritten, "publish") == 0.0, "{rewritten:?}");
    for i in 0..TIMES {
        assert!(std::fs::read(setup.dir.path().join(format!("f{i}"))).expect("read") == b"other");
    }
}
