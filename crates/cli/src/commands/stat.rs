//! `hayate stat`: all attributes of files.

use crate::args::Global;
use crate::error::{Result, failed};
use crate::{out, side, size, when};
use clap::Args;
use fs_client::{Attr, Client, FileKind, Held, Located, layout_text};
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
        let attr = attr.map_err(failed)?;
        let place = place(&client, &path, &attr).map_err(failed)?;
        out::text(&text(&path, &attr, &place))?;
    }
    Ok(())
}

/// Lines about a file's or directory's layout and, of a file, the servers that hold it.
fn place(client: &Client, path: &Path, attr: &Attr) -> fs_client::Result<String> {
    let layout = format!("layout: {}\n", layout_text(attr.layout, true));
    match attr.kind {
        FileKind::Directory => Ok(layout),
        FileKind::File => Ok(layout + &holders(&client.located_path(path)?)),
        _ => Ok(String::new()),
    }
}

fn holders(located: &Located) -> String {
    match located {
        Located::Inode(server) => format!("    on: server {server}, with its inode\n"),
        Located::Chunks(held) if held.is_empty() => "    on: no server, it has no data\n".to_owned(),
        Located::Chunks(held) => held.iter().map(line).collect(),
    }
}

fn line(held: &Held) -> String {
    format!("    on: server {}, {} chunks, {}\n", held.server, held.chunks, size::format(held.bytes))
}

fn text(path: &Path, attr: &Attr, place: &str) -> String {
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
         {place}access: {}\nmodify: {}\nchange: {}\n birth: {}\n",
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
        when::utc(attr.atime),
        when::utc(attr.mtime),
        when::utc(attr.ctime),
        when::utc(attr.btime),
    )
}
