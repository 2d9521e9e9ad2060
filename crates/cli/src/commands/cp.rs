//! `hayate cp`: into, out of and within the cluster.

use crate::args::Global;
use crate::error::{CliError, Result, failed};
use crate::side::{self, Side};
use crate::transfer::{Cluster, Local, Node, Tree};
use clap::Args;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Arguments of `hayate cp`.
#[derive(Debug, Args)]
#[command(
    after_help = "Paths in the cluster begin with h: or hayate:, as in `hayate cp -r results h:/run7`."
)]
pub struct CpArgs {
    /// What to copy, and last where to; with several sources that is a directory
    #[arg(required = true, num_args = 2..)]
    paths: Vec<PathBuf>,
    /// Directories with all they hold
    #[arg(short, long)]
    recursive: bool,
}

/// Copies every source.
pub fn run(global: &Global, args: &CpArgs) -> Result<()> {
    let sides: Vec<Side> = args.paths.iter().map(|path| side::parse(path)).collect();
    let [sources @ .., destination] = sides.as_slice() else { return Ok(()) };
    if !sides.iter().any(|side| matches!(side, Side::Cluster(_))) {
        return Err(CliError::Usage("no path is in the cluster: write h:/PATH for those that are".into()));
    }
    let cluster = Cluster(global.connect()?);
    for source in sources {
        let (from, source): (&dyn Tree, &Path) = tree(&cluster, source);
        let (to, target): (&dyn Tree, &Path) = tree(&cluster, destination);
        let target = place(to, target, source, sources.len() > 1)?;
        copy(from, source, to, &target, args.recursive)?;
    }
    Ok(())
}

fn tree<'a>(cluster: &'a Cluster, side: &'a Side) -> (&'a dyn Tree, &'a Path) {
    match side {
        Side::Local(path) => (&Local, path),
        Side::Cluster(path) => (cluster, path),
    }
}

/// Where a source goes: into the target if that is a directory, else to its very name.
fn place(to: &dyn Tree, target: &Path, source: &Path, several: bool) -> Result<PathBuf> {
    let is_dir = to.look(target, true)?.is_some_and(Node::is_dir);
    if !is_dir && several {
        return Err(CliError::Usage(format!(
            "{} is not a directory, and there are several sources",
            target.display()
        )));
    }
    match source.file_name() {
        Some(name) if is_dir => Ok(target.join(name)),
        _ => Ok(target.to_path_buf()),
    }
}

fn copy(from: &dyn Tree, source: &Path, to: &dyn Tree, target: &Path, recursive: bool) -> Result<()> {
    // What the user names is followed; links further down are copied as links.
    let node = from.look(source, true)?.ok_or_else(|| missing(source))?;
    if !node.is_dir() {
        return from.read(source, &mut *to.write(target, node.mode)?);
    }
    if !recursive {
        return Err(CliError::Usage(format!(
            "{} is a directory: -r copies it with all it holds",
            source.display()
        )));
    }
    copy_tree(from, source, to, target, node.mode)
}

fn copy_tree(from: &dyn Tree, source: &Path, to: &dyn Tree, target: &Path, mode: u32) -> Result<()> {
    // Listed first: a directory may be copied into itself.
    let names: Vec<OsString> = from.names(source)?;
    to.make_dir(target, mode)?;
    for name in names {
        let (source, target) = (source.join(&name), target.join(&name));
        let Some(node) = from.look(&source, false)? else { continue };
        if node.is_dir() {
            copy_tree(from, &source, to, &target, node.mode)?;
        } else if node.is_link() {
            to.link(&from.link_target(&source)?, &target)?;
        } else if node.is_file() {
            from.read(&source, &mut *to.write(&target, node.mode)?)?;
        } else {
            return Err(failed(format!(
                "{}: neither a file, a directory nor a symbolic link",
                source.display()
            )));
        }
    }
    Ok(())
}

fn missing(path: &Path) -> CliError {
    CliError::Failed(format!("{}: no such file or directory", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Goal: trees are copied whole, names go where `cp` puts them. Method: local to local, as the walk is the same.
    #[test]
    fn trees_are_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(a.join("sub/empty")).unwrap();
        fs::write(a.join("sub/f"), b"content").unwrap();
        std::os::unix::fs::symlink("sub/f", a.join("l")).unwrap();
        copy(&Local, &a, &Local, &b, true).unwrap();
        assert_eq!(fs::read(b.join("sub/f")).unwrap(), b"content");
        assert_eq!(fs::read_link(b.join("l")).unwrap(), Path::new("sub/f"));
        assert!(b.join("sub/empty").is_dir());
        assert_eq!(place(&Local, &b, &a, false).unwrap(), b.join("a"));
        assert_eq!(place(&Local, &dir.path().join("new"), &a, false).unwrap(), dir.path().join("new"));
    }

    #[test]
    fn directories_need_a_switch_and_sources_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("t");
        assert!(copy(&Local, dir.path(), &Local, &target, false).unwrap_err().to_string().contains("-r"));
        let none = dir.path().join("none");
        assert!(copy(&Local, &none, &Local, &target, true).unwrap_err().to_string().contains("no such file"));
        assert!(place(&Local, &target, &none, true).is_err());
    }
}
