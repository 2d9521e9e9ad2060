//! What a sequence is made of, and how one is made up.

use proptest::prelude::*;

/// One operation.
#[derive(Debug, Clone)]
pub enum Step {
    Mkdir(String),
    Write(String, u64, Vec<u8>),
    Put(String, Vec<u8>),
    /// Opens a file and keeps it open, in one of a few places.
    Keep(String, usize),
    /// Writes to what is kept there, whatever became of its name.
    WriteKept(usize, u64, Vec<u8>),
    /// Reads so many bytes of what is kept there.
    ReadKept(usize, u64, usize),
    /// Zeros from an offset on, so many.
    Zero(String, u64, u64, Zeros),
    Truncate(String, u64),
    Remove(String),
    Rmdir(String),
    Rename(String, String),
    /// Each name stands for what the other stood for.
    Exchange(String, String),
    /// Sets one of a few extended attributes of a file.
    SetXattr(String, u8, Vec<u8>),
    RemoveXattr(String, u8),
    Link(String, String),
    Restart(u16),
}

/// How zeros are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Zeros {
    Punch,
    KeepSize,
    Reach,
}

fn path() -> impl Strategy<Value = String> {
    let part = |number: &u8| ["/n0", "/n1", "/n2", "/n3", "/n4"][usize::from(*number)];
    prop::collection::vec(0..5u8, 1..4).prop_map(move |parts| parts.iter().map(part).collect())
}

/// Bytes up to which a file lies with its inode here (the default).
const INLINE: u64 = 16 << 10;

/// Offsets near the borders of 1 MiB chunks, around the size at which files leave their inodes, and small ones.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..100u64,
        3 => INLINE - 300..INLINE + 100,
        1 => (1 << 20) - 50..(1u64 << 20) + 50,
        1 => (3 << 20) - 10..(3u64 << 20) + 10
    ]
}

/// Contents: mostly small, sometimes around the size at which files leave their inodes.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let large = (INLINE as usize - 20..INLINE as usize + 20, any::<u8>());
    prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 1..200),
        1 => large.prop_map(|(len, first)| (0..len).map(|at| first.wrapping_add(at as u8)).collect())
    ]
}

/// Lengths of holes: within a chunk, or over some.
fn hole() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 1..20_000u64, 1 => 1..4u64 << 20]
}

fn zeros() -> impl Strategy<Value = Zeros> {
    prop_oneof![3 => Just(Zeros::Punch), 1 => Just(Zeros::KeepSize), 1 => Just(Zeros::Reach)]
}

pub fn step() -> impl Strategy<Value = Step> {
    let place = || 0..3usize;
    prop_oneof![
        6 => path().prop_map(Step::Mkdir),
        8 => (path(), offset(), data()).prop_map(|(path, offset, data)| Step::Write(path, offset, data)),
        4 => (path(), data()).prop_map(|(path, data)| Step::Put(path, data)),
        3 => (path(), place()).prop_map(|(path, place)| Step::Keep(path, place)),
        4 => (place(), offset(), data()).prop_map(|(place, offset, data)| Step::WriteKept(place, offset, data)),
        2 => (place(), offset(), 1..20_000usize).prop_map(|(place, offset, len)| Step::ReadKept(place, offset, len)),
        5 => (path(), offset(), hole(), zeros()).prop_map(|(path, offset, len, how)| Step::Zero(path, offset, len, how)),
        3 => (path(), offset()).prop_map(|(path, size)| Step::Truncate(path, size)),
        3 => path().prop_map(Step::Remove),
        2 => path().prop_map(Step::Rmdir),
        6 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => (path(), path()).prop_map(|(from, to)| Step::Link(from, to)),
        3 => (path(), path()).prop_map(|(from, to)| Step::Exchange(from, to)),
        2 => (path(), 0..3u8, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(path, name, value)| Step::SetXattr(path, name, value)),
        1 => (path(), 0..3u8).prop_map(|(path, name)| Step::RemoveXattr(path, name)),
        1 => (0..3u16).prop_map(Step::Restart),
    ]
}

/// The step with its paths below `root`.
pub fn below(root: &str, step: &Step) -> Step {
    let at = |path: &String| format!("{root}{path}");
    match step {
        Step::Mkdir(path) => Step::Mkdir(at(path)),
        Step::Write(path, offset, data) => Step::Write(at(path), *offset, data.clone()),
        Step::Put(path, data) => Step::Put(at(path), data.clone()),
        Step::Keep(path, place) => Step::Keep(at(path), *place),
        Step::WriteKept(..) | Step::ReadKept(..) => step.clone(),
        Step::Zero(path, offset, len, how) => Step::Zero(at(path), *offset, *len, *how),
        Step::Truncate(path, size) => Step::Truncate(at(path), *size),
        Step::Remove(path) => Step::Remove(at(path)),
        Step::Rmdir(path) => Step::Rmdir(at(path)),
        Step::Rename(from, to) => Step::Rename(at(from), at(to)),
        Step::Link(from, to) => Step::Link(at(from), at(to)),
        Step::Exchange(from, to) => Step::Exchange(at(from), at(to)),
        Step::SetXattr(path, name, value) => Step::SetXattr(at(path), *name, value.clone()),
        Step::RemoveXattr(path, name) => Step::RemoveXattr(at(path), *name),
        Step::Restart(server) => Step::Restart(*server),
    }
}

/// The extended attribute that a number stands for.
pub fn xattr_name(number: u8) -> String {
    format!("user.x{number}")
}
