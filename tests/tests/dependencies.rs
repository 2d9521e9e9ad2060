//! Goal: dependencies between the crates run one way. Method: reads the manifests.

use std::collections::BTreeSet;
use std::path::Path;

const OURS: [&str; 11] = [
    "fs-proto",
    "fs-net",
    "fs-server",
    "fs-client",
    "fuse-mount",
    "libio",
    "hayate-c",
    "hayate-chfs",
    "bench",
    "hayate-bench",
    "hayate",
];

/// The crates of this project among the `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(manifest);
    let text = std::fs::read_to_string(&path).expect("a manifest");
    let section = text.split("\n[").find(|section| section.starts_with("dependencies]")).unwrap_or_default();
    let names = section.lines().filter_map(|line| line.split([' ', '=', '.']).next());
    names.filter(|name| OURS.contains(name)).map(str::to_owned).collect()
}

#[test]
fn dependencies_run_one_way() {
    let allowed: [(&str, &[&str]); 9] = [
        ("crates/fs-proto/Cargo.toml", &[]),
        ("crates/fs-net/Cargo.toml", &["fs-proto"]),
        ("fs-server/Cargo.toml", &["fs-proto", "fs-net"]),
        ("fs-client/Cargo.toml", &["fs-proto", "fs-net"]),
        ("fuse-mount/Cargo.toml", &["fs-proto", "fs-client"]),
        ("libio/Cargo.toml", &["fs-proto", "fs-client"]),
        ("libio/c/Cargo.toml", &["fs-proto", "fs-client", "libio"]),
        ("libio/chfs/Cargo.toml", &["fs-client", "hayate-c"]),
        ("bench/Cargo.toml", &["fs-proto", "fs-client", "libio"]),
    ];
    for (manifest, may) in allowed {
        let has = dependencies(manifest);
        let may: BTreeSet<String> = may.iter().map(|name| (*name).to_owned()).collect();
        assert!(has.is_subset(&may), "{manifest} depends on {:?}", has.difference(&may));
    }
    assert!(dependencies("fs-server/Cargo.toml").contains("fs-net"), "the manifests are read");
}
