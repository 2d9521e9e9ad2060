//! `hayate ckpt`: checkpoint sets and their versions, as the library (`libio`) keeps them.

use crate::args::Global;
use crate::error::{CliError, Result, cannot, failed};
use crate::table::Table;
use crate::{out, side, size};
use clap::{Args, Subcommand};
use libio::{Checkpoints, Snapshot, State, VersionInfo};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 8 << 20;

/// Arguments of `hayate ckpt`.
#[derive(Debug, Args)]
pub struct CkptArgs {
    /// Directory of the sets, as the application gave it to the library
    #[arg(long, global = true, value_name = "DIR", default_value = "/checkpoints")]
    root: PathBuf,
    #[command(subcommand)]
    command: CkptCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum CkptCommand {
    /// List the versions of a set, or of all sets
    List {
        /// The set
        set: Option<String>,
    },
    /// Show the regions of a version
    Show {
        /// The set
        set: String,
        /// The version [default: the newest to restart from]
        version: Option<u64>,
    },
    /// Read and check every byte of a version, at every place: data, copies and parity in tier 1, and what the shared tier has
    Verify {
        /// The set
        set: String,
        /// The version [default: all that were committed, also those that are not offered any more]
        version: Option<u64>,
    },
    /// Remove old versions; pinned ones, and the newest that is durable, stay
    Prune {
        /// The set
        set: String,
        /// How many of the newest complete versions to keep
        #[arg(long, value_name = "N")]
        keep: usize,
    },
    /// Remove one version, whichever it is: one that failed, is damaged or lost, and whose number is to be written again
    Remove {
        /// The set
        set: String,
        /// The version
        version: u64,
    },
    /// Keep a version whatever is pruned
    Pin {
        /// The set
        set: String,
        /// The version
        version: u64,
        /// Let it be pruned again
        #[arg(long)]
        off: bool,
    },
    /// Write the regions of a version into files of a new local directory
    Export {
        /// The set
        set: String,
        /// The version
        version: u64,
        /// The directory
        dir: PathBuf,
    },
}

/// Does it.
pub fn run(global: &Global, args: &CkptArgs) -> Result<()> {
    let root = side::in_cluster(&args.root);
    let root = root.to_str().ok_or_else(|| CliError::Usage("--root must be text".into()))?;
    let checkpoints = Checkpoints::open(global.connect()?, root).map_err(failed)?;
    match &args.command {
        CkptCommand::List { set } => list(&checkpoints, set.as_deref()),
        CkptCommand::Show { set, version } => show(&checkpoints, set, *version),
        CkptCommand::Verify { set, version } => verify(&checkpoints, set, *version),
        CkptCommand::Prune { set, keep } => prune(&checkpoints, set, *keep),
        CkptCommand::Remove { set, version } => checkpoints.remove(set, *version).map_err(failed),
        CkptCommand::Pin { set, version, off } => checkpoints.pin(set, *version, !off).map_err(failed),
        CkptCommand::Export { set, version, dir } => export(&checkpoints, set, *version, dir),
    }
}

fn list(checkpoints: &Checkpoints, set: Option<&str>) -> Result<()> {
    let sets = match set {
        Some(set) => vec![set.to_owned()],
        None => checkpoints.sets().map_err(failed)?,
    };
    let mut table = Table::new(&["set", ">version", "state", ">ranks", ">size", "pinned"]);
    for set in &sets {
        for info in checkpoints.list(set).map_err(failed)? {
            table.row(row(set, &info));
        }
    }
    out::text(&table.render())
}

fn row(set: &str, info: &VersionInfo) -> Vec<String> {
    vec![
        set.to_owned(),
        info.version.to_string(),
        info.state.name().to_owned(),
        info.nranks.map_or_else(String::new, |ranks| ranks.to_string()),
        info.bytes.map_or_else(String::new, size::format),
        if info.pinned { "yes" } else { "" }.to_owned(),
    ]
}

fn snapshot(checkpoints: &Checkpoints, set: &str, version: Option<u64>) -> Result<Snapshot> {
    let version = match version {
        Some(version) => version,
        None => checkpoints.latest(set).map_err(failed)?.ok_or_else(|| {
            CliError::Failed(format!("checkpoint set {set:?} has no version to restart from"))
        })?,
    };
    checkpoints.snapshot(set, version).map_err(failed)
}

fn show(checkpoints: &Checkpoints, set: &str, version: Option<u64>) -> Result<()> {
    let snapshot = snapshot(checkpoints, set, version)?;
    let state = checkpoints.state(set, snapshot.version()).map_err(failed)?;
    let (ranks, bytes) = (snapshot.nranks(), size::format(snapshot.bytes()));
    out::line(format_args!("{set} {}: {}, {ranks} ranks, {bytes}", snapshot.version(), state.name()))?;
    let mut table = Table::new(&["region", ">bytes"]);
    for region in snapshot.regions().map_err(failed)? {
        table.row(vec![region.name.escape_debug().to_string(), region.bytes.to_string()]);
    }
    out::text(&table.render())
}

/// All versions are looked at, also after one that is damaged.
fn verify(checkpoints: &Checkpoints, set: &str, version: Option<u64>) -> Result<()> {
    let versions = if let Some(version) = version {
        vec![version]
    } else {
        // Not only those that would be offered: whether one of them should be is the question.
        let all = checkpoints.list(set).map_err(failed)?;
        let committed = |info: &VersionInfo| {
            info.state >= State::Committed || matches!(info.state, State::Failed | State::Damaged)
        };
        all.iter().filter(|info| committed(info)).map(|info| info.version).collect()
    };
    let mut damaged = Vec::new();
    for version in versions {
        if !verify_version(checkpoints, set, version)? {
            damaged.push(version.to_string());
        }
    }
    if damaged.is_empty() {
        return Ok(());
    }
    Err(CliError::Unsafe(format!("not whole: {set} {}", damaged.join(", "))))
}

/// Whether every copy of it, in either tier, is as it was written.
fn verify_version(checkpoints: &Checkpoints, set: &str, version: u64) -> Result<bool> {
    let looked = checkpoints.snapshot(set, version).and_then(|snapshot| Ok((snapshot.audit()?, snapshot)));
    let (found, snapshot) = match looked {
        Ok(looked) => looked,
        Err(e) => {
            out::line(format_args!("{set} {version}: {e}"))?;
            return Ok(false);
        }
    };
    let bytes = size::format(snapshot.bytes());
    if found.is_empty() {
        out::line(format_args!("{set} {version}: whole, {bytes}"))?;
        return Ok(true);
    }
    for damage in found {
        out::line(format_args!("{set} {version}: {damage}"))?;
    }
    match snapshot.verify() {
        Ok(()) => out::line(format_args!(
            "{set} {version}: can be restarted from, by what else there is of it, {bytes}"
        ))?,
        Err(e) => out::line(format_args!("{set} {version}: {e}"))?,
    }
    Ok(false)
}

fn prune(checkpoints: &Checkpoints, set: &str, keep: usize) -> Result<()> {
    let removed = checkpoints.prune(set, keep).map_err(failed)?;
    let removed: Vec<_> = removed.iter().map(ToString::to_string).collect();
    if removed.is_empty() {
        return out::line("nothing to remove");
    }
    out::line(format_args!("removed: {}", removed.join(", ")))
}

fn export(checkpoints: &Checkpoints, set: &str, version: u64, dir: &Path) -> Result<()> {
    let snapshot = snapshot(checkpoints, set, Some(version))?;
    std::fs::create_dir(dir).map_err(cannot("make", dir))?;
    for region in snapshot.regions().map_err(failed)? {
        let path = dir.join(file_name(&region.name));
        let file = File::create_new(&path).map_err(cannot("make", &path))?;
        copy(&snapshot, &region.name, region.bytes, file, &path)?;
        out::line(format_args!("{}: {}", path.display(), size::format(region.bytes)))?;
    }
    Ok(())
}

fn copy(snapshot: &Snapshot, region: &str, bytes: u64, mut file: File, path: &Path) -> Result<()> {
    let (mut buf, mut offset) = (vec![0; PIECE_BYTES], 0);
    while offset < bytes {
        let read = snapshot.read(region, offset, &mut buf).map_err(failed)?;
        file.write_all(&buf[..read]).map_err(cannot("write", path))?;
        offset += read as u64;
    }
    file.sync_all().map_err(cannot("write", path))
}

/// A file name for a region: what cannot be in one, and `%`, as `%` and two hexadecimal digits. No two regions get the same.
fn file_name(region: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+=,".contains(&byte);
    let mut name: String = region
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") })
        .collect();
    if name.starts_with('.') {
        name.replace_range(..1, "%2e");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_become_file_names() {
        for (region, name) in
            [("u", "u"), ("a/b c", "a%2fb%20c"), ("..", "%2e."), ("50%", "50%25"), ("é", "%c3%a9")]
        {
            assert_eq!(file_name(region), name);
        }
    }
}
