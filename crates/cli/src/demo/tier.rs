//! The check of tier 2: every byte, by checksum, against what was generated; and nothing else is there.

use super::burst::{DIR, Plan, PlannedFile};
use super::content::{BLOCK_BYTES, Content, blocks, first_difference};
use crate::error::{CliError, Result, cannot};
use crate::{interrupt, progress};
use fs_proto::checksum::Crc;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Verifies all files of `plan` below `tier`; answers how many bytes.
pub fn verify(tier: &Path, plan: &Plan, content: &Content) -> Result<u64> {
    let bar = progress::bytes("verifying tier 2", plan.bytes());
    for file in plan.files() {
        verify_file(tier, &file, content)?;
        bar.inc(file.bytes);
        interrupt::check()?;
    }
    bar.finish_and_clear();
    verify_names(&tier.join(DIR), plan)?;
    Ok(plan.bytes())
}

fn verify_file(tier: &Path, file: &PlannedFile, content: &Content) -> Result<()> {
    let path = tier.join(&file.path);
    let size = std::fs::metadata(&path).map_err(cannot("find in tier 2", &path))?.len();
    if size != file.bytes {
        return Err(CliError::Unsafe(format!(
            "{} has {size} bytes instead of {}",
            path.display(),
            file.bytes
        )));
    }
    let (found, wanted) = (checksum(&path)?, content.checksum(file.number, file.bytes));
    if found == wanted {
        return Ok(());
    }
    let at = locate(&path, file, content)?;
    Err(CliError::Unsafe(format!(
        "{} has checksum {found:08x} instead of {wanted:08x}; the first wrong byte is at {at}",
        path.display()
    )))
}

fn checksum(path: &Path) -> Result<u32> {
    let mut source = File::open(path).map_err(cannot("open", path))?;
    let mut hasher = Crc::new();
    let mut piece = vec![0; BLOCK_BYTES];
    loop {
        match source.read(&mut piece).map_err(cannot("read", path))? {
            0 => return Ok(hasher.finalize()),
            bytes => hasher.update(&piece[..bytes]),
        }
    }
}

/// The offset of the first wrong byte.
fn locate(path: &Path, file: &PlannedFile, content: &Content) -> Result<u64> {
    let mut source = File::open(path).map_err(cannot("open", path))?;
    let (mut wanted, mut found) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    for (index, bytes) in blocks(file.bytes) {
        source.read_exact(&mut found[..bytes]).map_err(cannot("read", path))?;
        content.fill(file.number, index, &mut wanted[..bytes]);
        if let Some(at) = first_difference(&wanted[..bytes], &found[..bytes]) {
            return Ok(index * BLOCK_BYTES as u64 + at as u64);
        }
    }
    Ok(file.bytes)
}

/// A file that nobody wrote (a staging file left behind, say) is wrong, too.
fn verify_names(dir: &Path, plan: &Plan) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(cannot("list", dir))?;
    let known: Vec<_> =
        plan.files().iter().filter_map(|file| Some(file.path.file_name()?.to_owned())).collect();
    for entry in entries {
        let name = entry.map_err(cannot("list", dir))?.file_name();
        if !known.contains(&name) {
            return Err(CliError::Unsafe(format!("{} was never written", dir.join(name).display())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::burst::Run;
    use super::super::target::Mounted;
    use super::*;
    use std::os::unix::fs::FileExt;

    fn written(dir: &Path, content: &Content) -> Plan {
        let plan = Plan::new(2, (2 << 20) + 77);
        Run { plan, content, target: &Mounted(dir.to_path_buf()) }.write().unwrap();
        plan
    }

    #[test]
    fn right_tier_passes_and_a_wrong_byte_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::new(3);
        let plan = written(dir.path(), &content);
        assert_eq!(verify(dir.path(), &plan, &content).unwrap(), plan.bytes());
        let file = File::options().read(true).write(true).open(dir.path().join(plan.own(1).path)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 4321).unwrap();
        file.write_all_at(&[!byte[0]], 4321).unwrap();
        let error = verify(dir.path(), &plan, &content).unwrap_err();
        assert!(error.to_string().contains("first wrong byte is at 4321"), "{error}");
        assert_ne!(error.exit_code(), 0);
    }

    #[test]
    fn missing_short_and_foreign_files_are_noticed() {
        let content = Content::new(3);
        let short = tempfile::tempdir().unwrap();
        let plan = written(short.path(), &content);
        File::options().write(true).open(short.path().join(plan.shared().path)).unwrap().set_len(5).unwrap();
        assert!(verify(short.path(), &plan, &content).unwrap_err().to_string().contains("5 bytes instead"));
        let foreign = tempfile::tempdir().unwrap();
        written(foreign.path(), &content);
        std::fs::write(foreign.path().join(DIR).join("x"), "").unwrap();
        assert!(verify(foreign.path(), &plan, &content).unwrap_err().to_string().contains("never written"));
        let missing = tempfile::tempdir().unwrap();
        assert!(verify(missing.path(), &plan, &content).unwrap_err().to_string().contains("tier 2"));
    }
}
