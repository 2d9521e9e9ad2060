//! fjall's lists of tables: their checksums are written, and never compared by fjall 3.1.
//!
//! A flipped bit in such a list would make it leave out a table and delete its file. So we compare, before fjall opens.

use crate::kv::KvError;
use std::path::Path;

/// `current`: version:u64, xxh3-128 of the file `v<version>`, kind of checksum (0), little-endian.
const CURRENT_BYTES: usize = 25;

/// Compares the lists of all trees in `dir` with their checksums.
pub(super) fn check(dir: &Path) -> Result<(), KvError> {
    let trees = match std::fs::read_dir(dir.join("keyspaces")) {
        Ok(trees) => trees,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(KvError::from_io(error)),
    };
    for tree in trees {
        check_tree(&tree.map_err(KvError::from_io)?.path())?;
    }
    Ok(())
}

fn check_tree(tree: &Path) -> Result<(), KvError> {
    let current = match std::fs::read(tree.join("current")) {
        Ok(current) => current,
        // A tree that was being made when the process was killed; fjall makes it anew.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(KvError::from_io(error)),
    };
    let damaged = |what: &str| KvError::Corrupt(format!("{what} of the tables in {}", tree.display()));
    let Some(current) = current.first_chunk::<CURRENT_BYTES>().filter(|_| current.len() == CURRENT_BYTES)
    else {
        return Err(damaged("the mark of the list"));
    };
    let version = u64::from_le_bytes(current[..8].try_into().expect("eight bytes"));
    let list = std::fs::read(tree.join(format!("v{version}"))).map_err(|_| damaged("there is no list"))?;
    if current[24] != 0 || current[8..24] != xxhash_rust::xxh3::xxh3_128(&list).to_le_bytes() {
        return Err(damaged("a wrong checksum has the list"));
    }
    Ok(())
}
