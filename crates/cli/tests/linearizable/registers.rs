//! Registers: eight bytes each of a file that all have open; some in chunks of several servers, some beside the inode.

use std::os::unix::fs::FileExt;

use fs_client::{Client, File, OpenOptions};
use porcupine_rs::{Model, Operation};
use rand::RngExt;

use crate::history::{self, Came, History};

/// Registers of a file.
pub const REGISTERS: usize = 48;

/// A call on a register, and what it wrote or read. `None`: no answer came.
#[derive(Debug, Clone)]
pub enum Op {
    Write(usize, u64),
    Read(usize, Option<u64>),
}

impl history::Call for Op {
    fn lose_answer(&mut self) {
        if let Op::Read(_, value) = self {
            *value = None;
        }
    }

    /// A write is sent again, and done again (decision 0005).
    fn twice(&self) -> Option<Op> {
        matches!(self, Op::Write(..)).then(|| self.clone())
    }
}

/// A register's value, at first 0.
#[derive(Debug, Clone)]
pub struct Register;

impl Model for Register {
    type State = u64;
    type Op = Op;
    type Metadata = ();

    fn partition_operations(history: &[Operation<Self>]) -> Vec<Vec<Operation<Self>>> {
        crate::by_object(history, |op| match op {
            Op::Write(register, _) | Op::Read(register, _) => *register,
        })
    }

    fn init() -> u64 {
        0
    }

    fn step(state: &u64, op: &Op) -> (bool, u64) {
        match *op {
            Op::Write(_, value) => (true, value),
            Op::Read(_, value) => (value.is_none_or(|value| value == *state), *state),
        }
    }
}

/// A file of registers: so many bytes lie between two of them.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub path: &'static str,
    pub distance: u64,
}

/// Beyond a chunk in two steps, and within what lies beside the inode.
pub const PLACES: [Place; 2] =
    [Place { path: "/wide", distance: 700_000 }, Place { path: "/small", distance: 40 }];

impl Place {
    /// Makes it.
    pub fn make(self, client: &Client) {
        let options = OpenOptions { write: true, create_new: true, ..OpenOptions::default() };
        let file = client.open_path(self.path, &options).unwrap();
        file.set_len(self.distance * REGISTERS as u64).unwrap();
        file.close().unwrap();
    }

    /// Opens it.
    pub fn open(self, client: &Client) -> File {
        let options = OpenOptions { read: true, write: true, ..OpenOptions::default() };
        client.open_path(self.path, &options).unwrap()
    }
}

/// An open file of registers: by the client library, or by a mount.
pub trait Registers {
    /// Writes one; None if no answer came.
    fn store(&self, at: u64, value: u64) -> Option<()>;
    /// Reads one.
    fn load(&self, at: u64) -> Option<u64>;
}

impl Registers for File {
    fn store(&self, at: u64, value: u64) -> Option<()> {
        self.write_at(&value.to_le_bytes(), at).ok()
    }

    fn load(&self, at: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        let came = self.read_at(&mut bytes, at).ok()?;
        assert_eq!(came, bytes.len(), "the file is longer");
        Some(u64::from_le_bytes(bytes))
    }
}

impl Registers for std::fs::File {
    fn store(&self, at: u64, value: u64) -> Option<()> {
        self.write_all_at(&value.to_le_bytes(), at).ok()
    }

    fn load(&self, at: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read_exact_at(&mut bytes, at).ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}

/// One call of a client, recorded. `value` is of this call only.
pub fn call(file: &impl Registers, place: Place, number: u32, history: &History<Register>, value: u64) {
    history.record(number, |register| {
        let at = register as u64 * place.distance;
        let came = |answered: bool| if answered { Came::Answer } else { Came::Nothing };
        if rand::rng().random_range(0..3) == 0 {
            let stored = file.store(at, value);
            return (Op::Write(register, value), came(stored.is_some()));
        }
        let loaded = file.load(at);
        (Op::Read(register, loaded), came(loaded.is_some()))
    });
}
