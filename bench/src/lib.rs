//! The measuring harness of Hayate: `hayate bench`.
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | the command line, and [`cli::run`], which the `hayate` command mounts |
//! | [`ior`] | bandwidth, with IOR's options, meaning and output |
//! | [`metadata`] | creates, stats, opens and removes per second, in the manner of mdtest |
//! | [`backend`] | what is measured: POSIX, the native client, or nothing (the harness's own cost) |
//! | [`pattern`] | content that knows where it belongs, and the check of it |
//! | [`tasks`] | the processes (or threads) that do the work, their barriers and their reports |
//! | [`phase`] | what one task reports of one phase |
//! | [`clock`] | wall and CPU time |
//! | [`size`] | `4k`, `1m` and `1 MiB` |
//! | [`permute`] | random order without a table |
//!
//! # Invariants
//! - What is read with verification on was compared byte by byte; the number of wrong words is returned
//!   (`ior::tests`, `pattern::tests`).
//! - A task that dies or fails ends the run with an error that names it; nothing waits for it (`tests/processes.rs`).
//! - Results are computed from the tasks' clocks only: from the first that began to the last that ended, as IOR does
//!   (`ior::stats::tests`).
//!
//! Deliberately absent: starting servers, caches to warm, and any knowledge of the protocol: this crate sees files only.

pub mod backend;
pub mod cli;
pub mod clock;
pub mod error;
pub mod ior;
pub mod metadata;
pub mod pattern;
pub mod permute;
pub mod phase;
pub mod size;
pub mod tasks;

pub use error::{BenchError, Result};
