//! The `hayate` command: starts and stops clusters, mounts them, and moves files in and out.
//!
//! | module | what |
//! |---|---|
//! | [`args`] | the command line |
//! | [`commands`] | the commands, one a file |
//! | [`launch`] | starting servers, here or on many hosts |
//! | [`demo`] | parts of the demonstration: content, workload, report |
//! | [`place`], [`process`], [`mounts`] | directories, daemons and mounts of a cluster on this machine |
//! | [`below`] | walking through a tree of the cluster |
//! | [`drain`] | waiting for the shared tier |
//! | [`probe`] | asking one server whether it lives |
//! | [`interrupt`] | Ctrl-C as something to ask for |
//! | [`error`], [`logging`], [`out`], [`progress`], [`size`], [`table`] | talking to people |
//!
//! Deliberately absent: anything about files, chunks or messages (fs-client knows), and about serving (fs-server).

mod allocator;
mod args;
mod below;
mod commands;
mod demo;
mod descriptors;
mod drain;
mod error;
mod interrupt;
mod launch;
mod logging;
mod mounts;
mod out;
mod place;
mod probe;
mod process;
mod progress;
mod report;
mod side;
mod sidecar;
mod size;
mod table;
mod transfer;
mod when;

use clap::Parser;
use error::CliError;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = args::Cli::parse_from(words());
    let outcome = logging::start(&cli.global.log, cli.global.log_format).and_then(|()| commands::run(cli));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, CliError::ReaderGone) {
                eprintln!("hayate: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// The command line; `bench` takes IOR's `-np`, which is not of the usual form.
fn words() -> Vec<OsString> {
    let words: Vec<OsString> = std::env::args_os().collect();
    if words.iter().any(|word| word == "bench") { bench::cli::accept_np(words).collect() } else { words }
}
