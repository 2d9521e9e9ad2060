//! `hayate stat`: all attributes of files.

use crate::args::Global;
use crate::error::{Result, failed};
use crate::{out, side, when};
use clap::Args;
use fs_client::{Attr, FileKind};
use std::path::{Path, PathBuf};

/// Arguments of `hayate stat`.
#[derive(Debug, Args)]
pub struct StatArgs {
    /// Files
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Follow symbolic links
    #[arg(short = 'L', long)]
    dereference: bool,
}

/// Shows each.
pub fn run(global: &Global, args: &StatArgs) -> Result<()> {
    let client = global.connect()?;
    for path in &args.paths {
        let path = side::in_cluster(path);
        let attr = if args.dereference { client.stat(&path) } else { client.lstat(&path) };
        out::text(&text(&path, &attr.map_err(failed)?))?;
    }
    Ok(())
}

fn text(path: &Path, attr: &Attr) -> String {
    let kind = match attr.kind {
        FileKind::File => "regular file",
        FileKind::Directory if attr.wide => "directory (wide)",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "character device",
        FileKind::BlockDevice => "block device",
    };
    format!(
        "  file: {}\n  kind: {kind}\n  size: {}\n inode: {} ({:?})\n links: {}\n  mode: {:04o} {}{}\n   uid: {}\n   gid: {}\n\
         chunks: {} bytes, {:?}\naccess: {}\nmodify: {}\nchange: {}\n birth: {}\n",
        path.display(),
        attr.size,
        attr.ino.0,
        attr.ino,
        attr.nlink,
        attr.mode,
        when::kind_letter(attr.kind),
        when::mode(attr.mode),
        attr.uid,
        attr.gid,
        attr.layout.chunk_bytes(),
        attr.layout.placement,
        when::utc(attr.atime),
        when::utc(attr.mtime),
        when::utc(attr.ctime),
        when::utc(attr.btime),
    )
}
