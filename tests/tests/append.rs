//! Goal: appends of several clients follow each other, each whole, none lost. Method: threads of several clients write records that say
//! who wrote them and how long they are; the file is read as a chain of records.

use std::collections::HashMap;

use fs_client::{Client, NetCounters, OpenOptions};
use hayate_tests::Cluster;

const APPEND: OpenOptions = OpenOptions {
    read: false,
    write: true,
    create: true,
    create_new: false,
    truncate: false,
    append: true,
    mode: 0o644,
    layout: None,
};

/// Length, writer, number, and filling that depends on both.
fn record(writer: u8, number: u32, len: usize) -> Vec<u8> {
    let mut record = (len as u32).to_le_bytes().to_vec();
    record.push(writer);
    record.extend(number.to_le_bytes());
    record.resize(len, writer ^ number as u8);
    record
}

fn content(client: &Client, path: &str) -> Vec<u8> {
    let file = client.open_path(path, &OpenOptions::read_only()).expect("open");
    let size = file.attr().expect("attr").size as usize;
    file.read_bytes_at(size, 0).expect("read").to_vec()
}

fn check(bytes: &[u8], writers: u8, records: u32) {
    let mut next: HashMap<u8, u32> = HashMap::new();
    let mut at = 0;
    while at < bytes.len() {
        let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let number = next.entry(bytes[at + 4]).or_default();
        let expected = record(bytes[at + 4], *number, len);
        assert!(bytes[at..at + len] == expected, "the record at byte {at} is torn or out of order");
        (*number, at) = (*number + 1, at + len);
    }
    assert_eq!(next.len(), usize::from(writers));
    assert!(next.values().all(|count| *count == records), "{next:?}");
}

fn race(path: &'static str, len: fn(u32) -> usize, records: u32) {
    let cluster = Cluster::start(3);
    let threads: Vec<_> = (0..4u8)
        .map(|writer| {
            let client = cluster.client();
            std::thread::spawn(move || {
                let file = client.open_path(path, &APPEND).expect("open");
                let mut last = None;
                for number in 0..records {
                    let at = file.append(&record(writer, number, len(number))).expect("append");
                    assert!(last.is_none_or(|last| at > last), "appends of one do not go backwards");
                    last = Some(at);
                }
                file.close().expect("close");
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    check(&content(&cluster.client(), path), 4, records);
}

#[test]
fn small_records_of_odd_sizes() {
    // Begins beside the inode and grows out of it on the way.
    race("/small", |number| 9 + (number as usize * 37) % 391, 200);
}

#[test]
fn records_across_chunks() {
    race("/large", |number| 100_001 + number as usize * 70_003, 12);
}

#[test]
fn appends_and_writes_of_one_handle() {
    let cluster = Cluster::start(2);
    let client = cluster.client();
    let options = OpenOptions { append: true, read: true, ..APPEND };
    let file = client.open_path("/f", &options).unwrap();
    file.write_at(&vec![1; 50_000], 0).unwrap();
    // What it wrote and did not publish counts.
    assert_eq!(file.append(b"tail").unwrap(), 50_000);
    file.set_len(10).unwrap();
    assert_eq!(file.append(b"again").unwrap(), 10);
    file.sync().unwrap();
    assert_eq!(content(&cluster.client(), "/f")[10..], *b"again");
}

#[test]
fn one_append_is_one_message() {
    let cluster = Cluster::start(1);
    let client = cluster.client();
    let file = client.open_path("/f", &APPEND).unwrap();
    for (len, what) in [(100, "beside the inode"), (2000, "growing out"), (100_000, "in chunks")] {
        let before = NetCounters::read(&client.counters().messages_sent);
        for _ in 0..64 {
            file.append(&vec![7; len]).unwrap();
        }
        let messages = NetCounters::read(&client.counters().messages_sent) - before;
        // The housekeeper may send one or two.
        assert!((64..=66).contains(&messages), "{what}: {messages} messages for 64 appends");
    }
}
