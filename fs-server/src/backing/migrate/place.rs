//! Whether a directory or a bucket can be an old tier: the checks before anything is changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::config::ServerConfig;
use crate::tier::both::Old;
use crate::tier::posix::Posix;
use crate::tier::s3::S3;
use crate::tier::s3::target::is_s3;
use crate::tier::{Base, Tier};

fn is_bucket(path: &Path) -> bool {
    is_s3(&path.to_string_lossy())
}

/// An old tier, that is only read. Nothing of it is opened yet.
pub fn reading(path: &Path, config: &ServerConfig) -> Result<Arc<dyn Tier>, String> {
    if is_bucket(path) {
        return Ok(Arc::new(S3::reading_from_env(path, config)?));
    }
    Ok(Arc::new(Posix::reading(path, config)))
}

/// Opens the old tier, or says what is wrong with it.
pub fn open(path: &Path, config: &ServerConfig) -> Result<Old, String> {
    if is_bucket(path) { bucket(path, config) } else { directory(path, config) }
}

fn bucket(path: &Path, config: &ServerConfig) -> Result<Old, String> {
    let shown = path.display();
    let old = S3::old_target(path).map_err(|reason| format!("{shown}: {reason}"))?;
    if let Some(tier) = config.tier.as_deref().filter(|tier| is_bucket(tier)) {
        let new = S3::target(tier).map_err(|error| error.to_string())?;
        refuse_nested(path, tier, (old.is_within(&new), new.is_within(&old)), ("a prefix", "prefixes"))?;
    }
    let unreadable = |reason: String| {
        format!(
            "{shown} cannot be read: {reason}; check the bucket, and in the servers' environment AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the same with HAYATE_OLD_ before them"
        )
    };
    let tier = S3::reading_from_env(path, config).map_err(unreadable)?;
    tier.check_readable().map_err(unreadable)?;
    Ok(Old { tier: Arc::new(tier), id: old.number() })
}

fn directory(path: &Path, config: &ServerConfig) -> Result<Old, String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!(
            "{shown} is no absolute path; name the directory as it is on every server (--from DIR)"
        ));
    }
    let meta = std::fs::metadata(path).map_err(|error| {
        format!("{shown}: {error}; mount the old file system under this path on every server")
    })?;
    if !meta.is_dir() {
        return Err(format!("{shown} is not a directory; name the old file system's directory (--from DIR)"));
    }
    apart(path, config)?;
    let tier = Posix::reading(path, config);
    let root = tier.base(Base::Root).and_then(|root| tier.list(&root, &mut |_| false).map(|()| root.id));
    let id = root.map_err(|error| format!("{shown} cannot be read: {error}; let this user read it"))?;
    Ok(Old { tier: Arc::new(tier), id })
}

/// Refuses an old tier that is the shared one, lies in it or around it: a tree would move into itself. The last two say what is to be named instead.
fn refuse_nested(
    old: &Path,
    tier: &Path,
    (is_inside, is_around): (bool, bool),
    (one, several): (&str, &str),
) -> Result<(), String> {
    let (shown, tier) = (old.display(), tier.display());
    Err(match (is_inside, is_around) {
        (false, false) => return Ok(()),
        (true, true) => format!("{shown} is the shared tier itself; --from must name another"),
        (true, false) => format!(
            "{shown} lies inside the shared tier {tier}, where its files are already; --from must name {one} outside"
        ),
        (false, true) => format!(
            "the shared tier {tier} lies inside {shown} and would move into itself; --from must name {several} without it"
        ),
    })
}

/// The old tier, the shared one and the stores must not lie in each other: a tree would move into itself.
fn apart(path: &Path, config: &ServerConfig) -> Result<(), String> {
    let shown = path.display();
    if let Some(tier) = config.tier.as_deref().filter(|tier| !is_bucket(tier)) {
        let nested = (is_within(path, tier), is_within(tier, path));
        refuse_nested(path, tier, nested, ("a directory", "directories"))?;
    }
    for store in &config.stores {
        if is_within(path, store) || is_within(store, path) {
            return Err(format!(
                "{shown} and the store {} lie in each other; --from must name a directory apart from it",
                store.display()
            ));
        }
    }
    Ok(())
}

/// Whether `inner` is `outer` or lies in it, under whatever name.
fn is_within(inner: &Path, outer: &Path) -> bool {
    let (Ok(inner), Ok(outer)) = (inner.canonicalize(), std::fs::metadata(outer)) else { return false };
    let same = |meta: &Metadata| meta.dev() == outer.dev() && meta.ino() == outer.ino();
    inner.ancestors().any(|above| std::fs::metadata(above).is_ok_and(|meta| same(&meta)))
}
