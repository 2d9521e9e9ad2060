//! `hayate ls`: lists directories by the native client.

use crate::args::Global;
use crate::error::{Result, failed};
use crate::table::Table;
use crate::{out, side, when};
use clap::Args;
use fs_client::{Attr, Client, DirEntry, FileKind};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Arguments of `hayate ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// What to list
    #[arg(default_value = "/")]
    paths: Vec<PathBuf>,
    /// Mode, links, owner, size and time, too
    #[arg(short, long)]
    long: bool,
    /// Names that begin with a dot, too
    #[arg(short, long)]
    all: bool,
    /// And all directories below
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// A line of a listing.
struct Line {
    name: Vec<u8>,
    kind: FileKind,
    attr: Option<Attr>,
}

/// Lists every path, directories after a heading if there are several.
pub fn run(global: &Global, args: &LsArgs) -> Result<()> {
    let client = global.connect()?;
    let headings = args.paths.len() > 1 || args.recursive;
    for path in &args.paths {
        let path = side::in_cluster(path);
        let attr = client.lstat(&path).map_err(failed)?;
        if attr.is_dir() {
            list(&client, &path, args, headings)?;
        } else {
            let name = path.as_os_str().as_bytes().to_vec();
            let line = Line { name, kind: attr.kind, attr: Some(attr) };
            show(&client, Path::new("/"), &[line], args.long)?;
        }
    }
    Ok(())
}

fn list(client: &Client, dir: &Path, args: &LsArgs, heading: bool) -> Result<()> {
    let read = if args.long { client.read_dir_plus(dir) } else { client.read_dir(dir) };
    let mut lines = Vec::new();
    for entry in read.map_err(failed)? {
        let DirEntry { name, kind, attr, .. } = entry.map_err(failed)?;
        if args.all || !name.starts_with(b".") {
            lines.push(Line { name: name.to_vec(), kind, attr });
        }
    }
    lines.sort_by(|a, b| a.name.cmp(&b.name));
    if heading {
        out::bytes(format!("{}:\n", dir.display()).as_bytes())?;
    }
    show(client, dir, &lines, args.long)?;
    if args.recursive {
        for line in lines.iter().filter(|line| line.kind == FileKind::Directory) {
            out::bytes(b"\n")?;
            list(client, &dir.join(OsStr::from_bytes(&line.name)), args, true)?;
        }
    }
    Ok(())
}

fn show(client: &Client, dir: &Path, lines: &[Line], long: bool) -> Result<()> {
    if !long {
        let names: Vec<u8> = lines.iter().flat_map(|line| [line.name.as_slice(), b"\n"].concat()).collect();
        return out::bytes(&names);
    }
    let mut table = Table::new(&["mode", ">links", ">uid", ">gid", ">size", "modified (UTC)", "name"]);
    for line in lines {
        table.row(row(client, dir, line)?);
    }
    let text = table.render();
    out::bytes(text.split_once('\n').map_or("", |(_, rows)| rows).as_bytes())
}

fn row(client: &Client, dir: &Path, line: &Line) -> Result<Vec<String>> {
    let mut name = String::from_utf8_lossy(&line.name).into_owned();
    let letter = when::kind_letter(line.kind);
    let Some(attr) = &line.attr else {
        // It vanished between its name and its attributes.
        return Ok(vec![
            format!("{letter}?????????"),
            "?".into(),
            "?".into(),
            "?".into(),
            "?".into(),
            "?".into(),
            name,
        ]);
    };
    if line.kind == FileKind::Symlink {
        let target = client.read_link(dir.join(OsStr::from_bytes(&line.name))).map_err(failed)?;
        name = format!("{name} -> {}", target.display());
    }
    Ok(vec![
        format!("{letter}{}", when::mode(attr.mode)),
        attr.nlink.to_string(),
        attr.uid.to_string(),
        attr.gid.to_string(),
        attr.size.to_string(),
        when::utc(attr.mtime),
        name,
    ])
}
