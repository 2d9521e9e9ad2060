//! A store belongs to one server of one cluster: a small file says to which.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::ServerConfig;
use crate::error::ServerError;

/// Version of the store's layout on disk.
const FORMAT: u32 = 1;
const FILE: &str = "hayate-store.toml";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    format: u32,
    job: String,
    server: u16,
    engine: String,
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
            let temporary = dir.join(format!("{FILE}.new"));
            fs::write(&temporary, text).map_err(|error| failed(format!("cannot be written: {error}")))?;
            fs::rename(&temporary, &path).map_err(|error| failed(format!("cannot be written: {error}")))
        }
        Err(error) => Err(failed(format!("{FILE} cannot be read: {error}"))),
    }
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
