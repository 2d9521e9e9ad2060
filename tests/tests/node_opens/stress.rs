//! Goal: whatever clients of a node do with the same names at once, who has a file open reads what it wrote. Method: threads with clients of their own that open, make,
//! write, read, unlink and close at random, some through the gateway and some not; a seed replays what each does.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const CLIENTS: u64 = 6;
const NAMES: u32 = 3;
/// Each client writes its own part.
const PART: u64 = 40_000;

#[test]
fn racing_clients_of_a_node_lose_nothing() {
    let seed: u64 = std::env::var("HAYATE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("HAYATE_TEST_SEED={seed}");
    let cluster = cluster();
    let asker = outside(&cluster);
    let end = Instant::now() + Duration::from_secs(4);
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let client = if number == 0 { outside(&cluster) } else { on_node(&cluster) };
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed ^ number);
                let mut turn = 0;
                while Instant::now() < end {
                    turn += 1;
                    one_turn(&client, number, turn, &mut random);
                }
            });
        }
    });
    nothing_stays(&asker);
    for name in 0..NAMES {
        let _ = asker.remove_file(format!("/{name}"));
    }
    until("all of them are removed", || at_homes(&asker, "inodes") <= 1);
}

fn one_turn(client: &Client, number: u64, turn: u64, random: &mut StdRng) {
    let path = format!("/{}", random.random_range(0..NAMES));
    let file = match random.random_range(0..3) {
        0 => client.open_path(&path, &OpenOptions { read: true, write: true, ..OpenOptions::default() }),
        1 => client.open_path(&path, &OpenOptions::read_only()),
        _ => {
            let options = OpenOptions { read: true, write: true, create: true, ..OpenOptions::default() };
            client.open_path(&path, &options)
        }
    };
    let file = match file {
        Ok(file) => file,
        Err(error) => return assert_eq!(error.errno(), libc::ENOENT, "{error}"),
    };
    // Small files lie with their inodes, and all begin small.
    let at = if random.random_bool(0.5) { number * 64 } else { number * PART };
    let text = format!("{number:>4}/{turn:>10}");
    let writes = file.flags().writes();
    if writes {
        file.write_at(text.as_bytes(), at).unwrap_or_else(|error| panic!("{path} {number}: {error}"));
    }
    if random.random_bool(0.4) {
        let _ = client.remove_file(&path);
    }
    let pause = if random.random_bool(0.2) { random.random_range(0..400) } else { random.random_range(0..3) };
    std::thread::sleep(Duration::from_millis(pause));
    let size = file.attr().unwrap_or_else(|error| panic!("{path} {number}: {error}")).size;
    if writes {
        assert!(size >= at + text.len() as u64, "{path} {number}: {size}");
        let back =
            file.read_bytes_at(text.len(), at).unwrap_or_else(|error| panic!("{path} {number}: {error}"));
        assert!(back == text.as_bytes(), "{path} {number}: {back:?} in place of {text}");
    }
    file.close().unwrap_or_else(|error| panic!("{path} {number}: {error}"));
}
