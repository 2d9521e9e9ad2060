//! `hayate cat`: files to standard output.

use crate::args::Global;
use crate::error::{Result, cannot, failed};
use crate::{out, side};
use clap::Args;
use fs_client::OpenOptions;
use std::path::PathBuf;

/// Bytes read at once: several chunks, so that several servers work.
const PIECE_BYTES: usize = 4 << 20;

/// Arguments of `hayate cat`.
#[derive(Debug, Args)]
pub struct CatArgs {
    /// Files
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// Writes all files, one after the other.
pub fn run(global: &Global, args: &CatArgs) -> Result<()> {
    let client = global.connect()?;
    for path in &args.paths {
        let path = side::in_cluster(path);
        let file = client.open_path(&path, &OpenOptions::read_only()).map_err(failed)?;
        let mut offset = 0;
        loop {
            let piece = file.read_bytes_at(PIECE_BYTES, offset).map_err(cannot("read", &path))?;
            if piece.is_empty() {
                break;
            }
            out::bytes(&piece)?;
            offset += piece.len() as u64;
        }
    }
    Ok(())
}
