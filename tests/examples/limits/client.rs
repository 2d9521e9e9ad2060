//! One client with a budget of memory, put under one kind of load: `io` (that many threads that write and read files), `opens` (that many files open at once)
//! or `names` (a directory with that many entries, listed with attributes twice, and each looked up). The process has nothing else worth counting,
//! so what it takes is what the library takes.

use super::{Outcome, say, targets};
use fs_client::{Caller, Client, ClientConfig, Error, File, OpenOptions};
use fs_net::ClusterFile;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const PIECE: usize = 4 << 20;
const PIECES_OF_A_FILE: u64 = 8;
const READ: usize = 256 << 10;
const IO_TIME: Duration = Duration::from_secs(4);
/// Files that are put by one message.
const AT_ONCE: usize = 128;

type Done<T = ()> = Result<T, Error>;

pub fn run(cluster: &ClusterFile, memory_mib: usize, what: &str) -> Outcome {
    let mut config = ClientConfig::new(cluster.clone());
    config.memory_bytes = memory_mib << 20;
    config.timeout = Duration::from_secs(120);
    let client = Client::connect(config)?;
    let data: Vec<u8> = (0..PIECE).map(|at| (at * 31) as u8).collect();
    let mut open = Vec::new();
    for target in targets() {
        let began = Instant::now();
        let done = match what {
            "io" => io(&client, target, &data)?,
            "opens" => opens(&client, target, &mut open)?,
            "names" => names(&client, target)?,
            _ => return Err("limits client FILE MIB io|opens|names".into()),
        };
        say(done, began);
    }
    open.into_iter().try_for_each(File::close)?;
    Ok(())
}

/// Each thread has a file of its own; all are connected before the first begins. Answers how many MiB were moved.
fn io(client: &Client, threads: usize, data: &[u8]) -> Done<usize> {
    let ready = Barrier::new(threads);
    let moved: Vec<Done<usize>> = std::thread::scope(|scope| {
        let start = |number: usize| {
            let ready = &ready;
            scope.spawn(move || {
                let name = format!("/io-{number}");
                let options = OpenOptions { read: true, ..OpenOptions::create_truncate() };
                let file = client.open_path(&name, &options);
                ready.wait();
                let moved = write_and_read(&file?, data)?;
                client.remove_file(&name).map(|()| moved)
            })
        };
        let threads: Vec<_> = (0..threads).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    Ok(moved.into_iter().sum::<Done<usize>>()? >> 20)
}

fn write_and_read(file: &File, data: &[u8]) -> Done<usize> {
    let (began, mut moved, mut found) = (Instant::now(), 0, vec![0; READ]);
    while began.elapsed() < IO_TIME {
        for piece in 0..PIECES_OF_A_FILE {
            file.write_at(data, piece * data.len() as u64)?;
        }
        // Into memory of its own, so that what is counted is the library's but for a little.
        for at in (0..PIECES_OF_A_FILE as usize * data.len()).step_by(READ) {
            let len = file.read_at(&mut found, at as u64)?;
            assert!(found[..len] == data[at % data.len()..][..READ], "other bytes were read");
        }
        moved += 2 * PIECES_OF_A_FILE as usize * data.len();
    }
    Ok(moved)
}

/// Stops at the client's own limit, which it says by an error; answers how many are open.
fn opens(client: &Client, target: usize, open: &mut Vec<File>) -> Done<usize> {
    client.mkdir_all("/opens", 0o755)?;
    while open.len() < target {
        let options = OpenOptions { read: true, create: true, ..OpenOptions::default() };
        match client.open_path(format!("/opens/{}", open.len()), &options) {
            Ok(file) => open.push(file),
            Err(Error::Limit { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(open.len())
}

fn names(client: &Client, entries: usize) -> Done<usize> {
    let dir = client.mkdir_all("/names", 0o755)?.ino;
    let name = |number: usize| format!("an-entry-of-many-{number}");
    for first in (0..entries).step_by(AT_ONCE) {
        let names: Vec<String> = (first..entries.min(first + AT_ONCE)).map(name).collect();
        let files: Vec<(&[u8], &[u8])> = names.iter().map(|name| (name.as_bytes(), &b""[..])).collect();
        for made in client.put_many(&Caller::ROOT, dir, &files, 0o644)? {
            made?;
        }
    }
    let mut listed = 0;
    for entry in client.read_dir_plus("/names")?.chain(client.read_dir_plus("/names")?) {
        entry?;
        listed += 1;
    }
    for number in 0..entries {
        client.stat(format!("/names/{}", name(number)))?;
    }
    Ok(listed / 2)
}
