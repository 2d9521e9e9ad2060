//! The chunk store beside plain files: what do records, checksums and the index cost?
//!
//! Store and file take turns (A B A B ...) in one process, so that both see the same machine; figures are medians of the rounds, with
//! the ratio of the rates and the CPU time of either. Three comparisons:
//!
//! | | store | beside it |
//! |---|---|---|
//! | `buffered` | `--io buffered`, one thread, 32 writers of small records at once, as a server's worker has them | `pwrite`, `pread` of a file in the page cache |
//! | `buffered, cold` | the same, synced, the page cache dropped before reads | the same |
//! | `direct` | `--io direct`, 8 requests under way, 32 of strided records | a file opened with `O_DIRECT`, as many under way by io_uring |
//!
//! ```text
//! cargo run --release -p fs-server --example store_speed -- DIRECTORY [MIB per round] [rounds]
//! ```

mod bare;
mod measure;
mod work;

use measure::{Figures, Round, table};
use std::path::{Path, PathBuf};
use work::Kind;

type Failure = Box<dyn std::error::Error>;

/// What is compared, in the order of the table.
const MODES: [Kind; 3] = [Kind::Buffered, Kind::Cold, Kind::Direct];

fn rounds(mode: Kind, base: &Path, bytes: usize, count: usize) -> Result<Figures, Failure> {
    let dir = tempfile::tempdir_in(base)?;
    let mut figures = Figures::default();
    for _ in 0..count {
        let store: Round = work::of_store(mode, &dir.path().join("store"), bytes)?;
        let files: Round = work::of_files(mode, &dir.path().join("files"), bytes)?;
        figures.add(store, files);
    }
    Ok(figures)
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let base = PathBuf::from(
        arguments.next().ok_or("usage: store_speed DIRECTORY [MIB per round] [rounds] [mode]")?,
    );
    let bytes = arguments.next().map_or(Ok(512), |a| a.parse::<usize>())? << 20;
    let count: usize = arguments.next().map_or(Ok(5), |a| a.parse())?;
    let only = arguments.next();
    for mode in MODES.into_iter().filter(|mode| only.as_ref().is_none_or(|only| only == mode.name())) {
        let figures = rounds(mode, &base, bytes, count)?;
        println!("{}", table(mode.name(), &figures));
    }
    Ok(())
}
