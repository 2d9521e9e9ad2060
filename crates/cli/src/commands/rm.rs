//! `hayate rm`: removes files and directory trees.

use crate::args::Global;
use crate::error::{CliError, Result, failed};
use crate::side;
use clap::Args;
use fs_client::{Client, FileKind};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Arguments of `hayate rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// What to remove
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Directories with all they hold
    #[arg(short, long)]
    recursive: bool,
    /// What does not exist is no error
    #[arg(short, long)]
    force: bool,
}

/// Removes them.
pub fn run(global: &Global, args: &RmArgs) -> Result<()> {
    let client = global.connect()?;
    for path in &args.paths {
        let path = side::in_cluster(path);
        match client.lstat(&path) {
            Err(error) if error.is_not_found() && args.force => {}
            Err(error) => return Err(failed(error)),
            Ok(attr) if !attr.is_dir() => client.remove_file(&path).map_err(failed)?,
            Ok(_) if args.recursive => remove_tree(&client, &path)?,
            Ok(_) => {
                return Err(CliError::Usage(format!(
                    "{} is a directory: -r removes it with all it holds",
                    path.display()
                )));
            }
        }
    }
    Ok(())
}

/// Removes what is in `dir`, then `dir` (but for the root, which stays).
fn remove_tree(client: &Client, dir: &Path) -> Result<()> {
    for entry in client.read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = dir.join(OsStr::from_bytes(&entry.name));
        if entry.kind == FileKind::Directory {
            remove_tree(client, &path)?;
        } else {
            client.remove_file(&path).map_err(failed)?;
        }
    }
    if dir == Path::new("/") { Ok(()) } else { client.remove_dir(dir).map_err(failed) }
}
