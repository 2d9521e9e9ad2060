//! A store belongs to one server of one cluster, and what was flushed from it lies in one directory: small files say to which, and in which.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::ServerConfig;
use crate::error::ServerError;

/// Version of the store's layout on disk.
const FORMAT: u32 = 1;
const FILE: &str = "hayate-store.toml";
/// Beside it, in the first store.
const TIER_FILE: &str = "hayate-tier.toml";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    format: u32,
    job: String,
    server: u16,
    engine: String,
}

/// The directory of the shared tier.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TierIdentity {
    path: PathBuf,
    /// Its number there. As text: TOML has no numbers as large.
    number: String,
}

/// Whether a server has run on these stores before.
pub fn has_run(config: &ServerConfig) -> bool {
    config.stores.first().is_some_and(|store| store.join(FILE).exists())
}

/// Marks a new store as this server's, or checks that an old one is.
pub fn claim(config: &ServerConfig, dir: &Path) -> Result<(), ServerError> {
    let failed = |reason: String| ServerError::Store { path: dir.to_owned(), reason };
    fs::create_dir_all(dir).map_err(|error| failed(format!("cannot be made: {error}")))?;
    let mine = Identity {
        format: FORMAT,
        job: config.job.clone(),
        server: config.id.0,
        engine: config.kv.to_string(),
    };
    let path = dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let found: Identity = toml::from_str(&text).map_err(|error| {
                failed(format!("{FILE} cannot be understood ({}); restore or remove it", error.message()))
            })?;
            check(&found, &mine).map_err(failed)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let text = toml::to_string(&mine).map_err(|error| failed(error.to_string()))?;
            write(dir, FILE, &text).map_err(|error| failed(format!("cannot be written: {error}")))
        }
        Err(error) => Err(failed(format!("{FILE} cannot be read: {error}"))),
    }
}

/// Refuses another directory than the one that was under this path: mostly the place where a file system is not mounted, which would take
/// everything and have nothing.
pub fn check_tier(config: &ServerConfig, path: &Path, number: u64) -> Result<(), String> {
    let Some(store) = config.stores.first() else { return Ok(()) };
    let Ok(text) = fs::read_to_string(store.join(TIER_FILE)) else { return Ok(()) };
    let found: TierIdentity = toml::from_str(&text).map_err(|error| {
        format!("{TIER_FILE} in {} cannot be understood ({}); remove it", store.display(), error.message())
    })?;
    if found.path == path && found.number != number.to_string() {
        return Err(format!(
            "is not the directory that was flushed to before (number {number}, it was {}): mount the file system; if it was moved or restored on purpose, remove {TIER_FILE} \
             from {}",
            found.number,
            store.display()
        ));
    }
    Ok(())
}

/// Writes down which directory is flushed to.
pub fn claim_tier(config: &ServerConfig, path: &Path, number: u64) -> Result<(), ServerError> {
    let Some(store) = config.stores.first() else { return Ok(()) };
    let failed = |reason: String| ServerError::Store { path: store.clone(), reason };
    let mine = TierIdentity { path: path.to_owned(), number: number.to_string() };
    let text = toml::to_string(&mine).map_err(|error| failed(error.to_string()))?;
    if fs::read_to_string(store.join(TIER_FILE)).is_ok_and(|found| found == text) {
        return Ok(());
    }
    write(store, TIER_FILE, &text).map_err(|error| failed(format!("cannot be written: {error}")))
}

fn write(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    fs::write(&temporary, text)?;
    fs::rename(&temporary, dir.join(name))
}

fn check(found: &Identity, mine: &Identity) -> Result<(), String> {
    if found.format != mine.format {
        return Err(format!(
            "has format {}, this release of hayate knows {FORMAT}: use the release that made it",
            found.format
        ));
    }
    if found.job != mine.job {
        return Err(format!(
            "belongs to another cluster (job {}): name another directory with --store, or remove its content",
            found.job
        ));
    }
    if found.server != mine.server {
        return Err(format!(
            "belongs to server {} of this cluster, not to server {}",
            found.server, mine.server
        ));
    }
    if found.engine != mine.engine {
        return Err(format!("was made with --kv {}, not with --kv {}", found.engine, mine.engine));
    }
    Ok(())
}
