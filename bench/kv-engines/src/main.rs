//! Key-value engines under the work of a Hayate server: one command runs all and prints tables.
//!
//! ```text
//! ROCKSDB_LIB_DIR=/usr/lib/x86_64-linux-gnu cargo run --release --features rocksdb -- all --dir DIRECTORY
//! ```
//!
//! Each run is a process of its own, so that its memory is its own. Rounds interleave the engines (A B A B), so that what else the
//! machine does hits all of them.

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod crash;
mod engine;
mod process;
mod run;
mod table;
mod workload;

use clap::Parser;

#[derive(Parser)]
enum Command {
    /// One run of one engine; prints JSON.
    Run(run::RunArgs),
    /// One kill of one engine; prints JSON.
    Crash(crash::CrashArgs),
    /// All engines in turn; prints tables in Markdown.
    All(table::AllArgs),
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Command::parse() {
        Command::Run(args) => println!("{}", serde_json::to_string(&run::run(&args)?)?),
        Command::Crash(args) => match &args.child {
            Some(dir) => crash::child(&args, dir)?,
            None => println!("{}", serde_json::to_string(&crash::run(&args)?)?),
        },
        Command::All(args) => table::all(&args)?,
    }
    Ok(())
}
