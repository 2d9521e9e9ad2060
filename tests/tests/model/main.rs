//! Goal: whatever sequence of operations several clients carry out, the cluster answers and looks as a small model in memory does.
//! Method: generated sequences (shrunk on failure, replayable by the seed that a failure names) on a three-server cluster whose directories
//! become wide at six entries, in each layout in turn, through two clients without caches in turn, or two mounts that ask always, with restarts of servers in
//! between; after each sequence the whole tree is compared. `HAYATE_MODEL_CASES`: how many sequences; `HAYATE_MODEL_SEED`: which.

mod access;
mod by_client;
mod by_mount;
mod reference;
mod steps;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use access::{Access, Kept, agrees, compare};
use by_mount::AtMount;
use fs_client::{Client, ClientConfig, LayoutWish, Route};
use fs_proto::ServerId;
use fuse_mount::{MountOptions, Mounted};
use hayate_tests::{Cluster, ClusterOptions};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use reference::Model;
use steps::Step;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|number| number.parse().ok())
}

fn cluster() -> Cluster {
    Cluster::with(ClusterOptions { servers: 3, wide_threshold: 6, ..ClusterOptions::default() })
}

/// A client that asks always.
fn strict(cluster: &Cluster, route: Route, checked: bool) -> Client {
    let mut config = ClientConfig::new(cluster.file().clone());
    (config.attr_ttl, config.entry_ttl, config.route) = (Duration::ZERO, Duration::ZERO, route);
    config.checked = checked;
    Client::connect(config).expect("a client connects")
}

/// Runs sequences by `sides` in turn, each in a directory of its own.
fn follow<A: Access>(cluster: &RefCell<Cluster>, sides: &[A], cases: u32, restarts: bool) {
    let cases = number("HAYATE_MODEL_CASES").map_or(cases, |cases| cases as u32);
    let seed = number("HAYATE_MODEL_SEED").unwrap_or_else(rand::random);
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        rng_seed: RngSeed::Fixed(seed),
        ..ProptestConfig::default()
    });
    let round = Cell::new(0_usize);
    let settings = strict(&cluster.borrow(), Route::Owners, true);
    let outcome = runner.run(&prop::collection::vec(steps::step(), 1..80), |sequence| {
        round.set(round.get() + 1);
        let root = format!("/round{}", round.get());
        sides[0].attempt(&Step::Mkdir(root.clone())).expect("mkdir");
        let layout = ["striped", "local", "writer"][round.get() % 3];
        let wish = LayoutWish::parse(layout.as_bytes()).expect("a layout");
        settings.set_layout_path(&root, wish).expect("a directory takes any layout");
        let (mut model, mut kept) = (Model::default(), Kept::default());
        for (n, step) in sequence.iter().enumerate() {
            if let (Step::Restart(server), true) = (step, restarts) {
                cluster.borrow_mut().restart(*server);
            }
            let expected = model.step(step);
            let found = kept.step(&sides[n % sides.len()], &root, step, &mut model);
            prop_assert!(agrees::<A>(step, expected, found), "step {n} {step:?}: {found}, not {expected}");
        }
        compare(&sides[sequence.len() % sides.len()], &root, &model);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("HAYATE_MODEL_SEED={seed}: {error}");
    }
}

#[test]
fn behaves_like_the_model() {
    let cluster = cluster();
    let sides = [strict(&cluster, Route::Auto, false), strict(&cluster, Route::Gateway(ServerId(1)), false)];
    follow(&RefCell::new(cluster), &sides, 24, true);
}

/// A server that a client is inside of is not restarted: the client would keep its store open.
#[test]
fn clients_inside_servers_behave_like_the_model() {
    let cluster = cluster();
    let sides = [0, 2].map(|server| cluster.inside_client(server, false));
    follow(&RefCell::new(cluster), &sides, 16, false);
}

/// A mount of each client, which checks no permissions; None where there is no FUSE, or the user may not mount.
fn mounts(clients: [Client; 2], dir: &std::path::Path, restarts: bool) -> Option<Vec<(Mounted, AtMount)>> {
    let one = |client, name: &str| {
        let at = dir.join(name);
        std::fs::create_dir(&at).expect("a directory");
        let mut options = MountOptions::new(&at);
        (options.attr_timeout, options.entry_timeout) = (Duration::ZERO, Duration::ZERO);
        match fuse_mount::mount(client, options) {
            Ok(mounted) => Some((mounted, AtMount { dir: at, publishes: restarts })),
            Err(error) => {
                hayate_tests::skip::note(error);
                None
            }
        }
    };
    let [first, second] = clients;
    Some(vec![one(first, "one")?, one(second, "other")?])
}

/// As [`follow`], by mounts, which are unmounted whatever comes: a directory that is still mounted must not be removed through.
fn follow_by_mounts(cluster: Cluster, clients: [Client; 2], restarts: bool) {
    let cluster = RefCell::new(cluster);
    let dir = tempfile::TempDir::with_prefix("hayate-model-").expect("a directory");
    let Some(mounts) = mounts(clients, dir.path(), restarts) else { return };
    let (mounted, sides): (Vec<_>, Vec<_>) = mounts.into_iter().unzip();
    let outcome =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| follow(&cluster, &sides, 16, restarts)));
    for mounted in mounted {
        mounted.unmount().expect("unmounted");
    }
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn mounts_behave_like_the_model() {
    let cluster = cluster();
    let clients = [strict(&cluster, Route::Auto, true), strict(&cluster, Route::Gateway(ServerId(1)), true)];
    follow_by_mounts(cluster, clients, true);
}

#[test]
fn mounts_inside_servers_behave_like_the_model() {
    let cluster = cluster();
    let clients = [0, 1].map(|server| cluster.inside_client(server, true));
    follow_by_mounts(cluster, clients, false);
}
