//! Everything at and below a path of the cluster, one name after the other, with memory for one line of directories only.

use crate::error::{CliError, Result, failed};
use crate::interrupt;
use fs_client::{Attr, Client, InodeId};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A name, and what it stands for.
#[derive(Debug, Clone)]
#[allow(clippy::struct_field_names)] // Of a name the name is a part.
pub struct Name {
    /// Its path.
    pub path: PathBuf,
    /// Its directory.
    pub parent: InodeId,
    /// The name; of the root empty.
    pub name: Vec<u8>,
    /// What it stands for.
    pub attr: Attr,
}

/// When a directory is met: twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before what is in it. All else is met once, like this.
    Before,
    /// After what is in it.
    After,
}

impl Name {
    /// What is at a path.
    pub fn find(client: &Client, path: &Path) -> Result<Name> {
        let attr = client.lstat(path).map_err(failed)?;
        if attr.ino == InodeId::ROOT {
            return Ok(Name { path: path.to_owned(), parent: InodeId::ROOT, name: Vec::new(), attr });
        }
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(CliError::Usage(format!("{}: give a path that ends in a name", path.display())));
        };
        let parent = client.stat(above).map_err(failed)?.ino;
        Ok(Name { path: path.to_owned(), parent, name: name.as_bytes().to_vec(), attr })
    }
}

/// Visits a name and all below. What goes meanwhile is left out.
pub fn each(client: &Client, top: &Name, visit: &mut dyn FnMut(&Name, When) -> Result<()>) -> Result<()> {
    interrupt::check()?;
    visit(top, When::Before)?;
    if !top.attr.is_dir() {
        return Ok(());
    }
    let entries = match client.read_dir_plus(&top.path) {
        Err(error) if error.is_not_found() => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = match entry {
            Err(error) if error.is_not_found() => return Ok(()),
            entry => entry.map_err(failed)?,
        };
        let Some(attr) = entry.attr else { continue };
        let path = top.path.join(OsStr::from_bytes(&entry.name));
        each(client, &Name { path, parent: top.attr.ino, name: entry.name.to_vec(), attr }, visit)?;
    }
    visit(top, When::After)
}
