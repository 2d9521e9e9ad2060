//! Goal: a directory of 100,000 entries (a million with HAYATE_TEST_LONG) is listed once and whole, in pages, by a client that needs memory for a page
//! only; and a position leads on to what follows it although the directory has become wide since. Method: a cluster in this process.
//! `--nocapture` shows rates. The same through a mount: `tests/e2e/positions.py`.

use std::collections::HashSet;
use std::time::Instant;

use fs_client::{Caller, Client, InodeId};
use hayate_tests::Cluster;

const ROOT: Caller = Caller::ROOT;
const PAGE: usize = 4096;

fn name(n: usize) -> Vec<u8> {
    format!("entry-{n}").into_bytes()
}

fn make(client: &Client, dir: InodeId, numbers: std::ops::Range<usize>) {
    for first in numbers.clone().step_by(10_000) {
        let names: Vec<_> = (first..numbers.end.min(first + 10_000)).map(name).collect();
        let files: Vec<(&[u8], &[u8])> = names.iter().map(|name| (&name[..], &b""[..])).collect();
        for made in client.put_many(&ROOT, dir, &files, 0o644).expect("put") {
            made.expect("put");
        }
    }
}

/// Goes on from `after`; gives every page to `page`.
fn list(
    client: &Client,
    dir: InodeId,
    mut after: u64,
    plus: bool,
    mut page: impl FnMut(Vec<(Vec<u8>, InodeId)>),
) {
    loop {
        let listed = client.readdir(&ROOT, dir, after, PAGE, plus).expect("a page");
        if let Some(last) = listed.entries.last() {
            assert!(last.cookie > after, "positions ascend");
            after = last.cookie;
        }
        assert!(listed.entries.len() <= 2 * PAGE, "a page is bounded");
        page(listed.entries.iter().map(|entry| (entry.name.to_vec(), entry.ino)).collect());
        if listed.end {
            return;
        }
    }
}

#[test]
fn every_entry_is_listed_once() {
    let entries = if std::env::var_os("HAYATE_TEST_LONG").is_some() { 1_000_000 } else { 100_000 };
    let cluster = Cluster::start(4);
    let client = cluster.client();
    let dir = client.mkdir_path("/many", 0o755).expect("mkdir").ino;
    make(&client, dir, 0..5000);
    let narrow = client.readdir(&ROOT, dir, 0, 1000, false).expect("a page").entries;
    let position = narrow[999].cookie;
    let mut known: HashSet<Vec<u8>> = HashSet::new();
    list(&client, dir, position, false, |page| known.extend(page.into_iter().map(|(name, _)| name)));
    assert_eq!(known.len(), 4000);
    let began = Instant::now();
    make(&client, dir, 5000..entries);
    println!("{entries} entries are made in {:?}", began.elapsed());
    for plus in [false, true] {
        let (began, mut names, mut inodes) = (Instant::now(), HashSet::new(), HashSet::new());
        list(&client, dir, 0, plus, |page| {
            for (name, ino) in page {
                assert!(inodes.insert(ino) && names.insert(name), "an entry is listed twice");
            }
        });
        assert_eq!(names.len(), entries);
        println!("listed in {:?}{}", began.elapsed(), if plus { " with attributes" } else { "" });
    }
    list(&client, dir, position, false, |page| {
        for (name, _) in page {
            known.remove(&name);
        }
    });
    assert!(known.is_empty(), "an old position leads to all that followed it: {} are missing", known.len());
}
