//! The measuring harness of Hayate: `hayate bench`.
//!
//! | module | what |
//! |---|---|
//! | [`cli`], [`common`] | the command line, and [`cli::run`], which the `hayate` command mounts |
//! | [`ior`] | bandwidth, with IOR's options, meaning and output |
//! | [`mdtest`] | metadata operations per second, with mdtest's options, meaning and output |
//! | [`io500`] | the phases of IO500, with its constants, lines, files and score |
//! | [`checkpoint`] | how long checkpoints stop the application, until they are safe, and the recovery |
//! | [`dataset`] | a data set for training: samples a second, accelerator utilisation |
//! | [`scale`] | a model of clusters of up to 10,000 nodes |
//! | [`compare`], [`charts`] | two runs against each other; a page with charts of many |
//! | [`backend`] | what is measured: POSIX, the native client, or nothing (the harness's own cost) |
//! | [`pattern`] | content that knows where it belongs, and the check of it |
//! | [`tasks`] | the processes (or threads, or ranks of mpirun) that do the work, their barriers and their reports |
//! | [`session`] | started tasks, what they measure, who watches the servers |
//! | [`phase`], [`results`] | what one task reports of one phase, and what that gives for all |
//! | [`servers`], [`mount`] | what the servers, and a mount's process, did meanwhile |
//! | [`configuration`], [`notes`] | how servers and clients are configured; who may have answered without the storage |
//! | [`seat`] | servers that stand for nodes |
//! | [`cost`], [`metrics`] | the table of costs, and figures that can be compared |
//! | [`machine`], [`clock`] | what figures belong to; wall and CPU time |
//! | [`histogram`] | how long operations took |
//! | [`size`] | `4k`, `1m` and `1 MiB` |
//! | [`permute`] | random order without a table |
//! | [`buffer`], [`csv`], [`command`] | aligned memory; CSV as IOR and mdtest write it; commands of the user |
//!
//! # Invariants
//! - What is read with verification on was compared byte by byte; the number of wrong words is returned
//!   (`ior::tests`, `pattern::tests`).
//! - A task that dies or fails ends the run with an error that names it; nothing waits for it (`tests/processes.rs`).
//! - Results are computed from the tasks' clocks only: from the first that began to the last that ended, as IOR does
//!   (`results::tests`).
//!
//! Deliberately absent: starting servers, caches to warm, and any knowledge of the protocol: this crate sees files only.

// The largest document has more keys than the macro of JSON recurses by default.
#![recursion_limit = "256"]

pub mod backend;
pub mod buffer;
pub mod charts;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod command;
pub mod common;
pub mod compare;
pub mod configuration;
pub mod cost;
pub mod csv;
pub mod dataset;
pub mod error;
pub mod histogram;
pub mod io500;
pub mod ior;
pub mod machine;
pub mod mdtest;
pub mod metrics;
pub mod mount;
pub mod notes;
pub mod pattern;
pub mod permute;
pub mod phase;
pub mod results;
pub mod scale;
pub mod seat;
pub mod servers;
pub mod session;
pub mod size;
pub mod tasks;

pub use error::{BenchError, Result};
