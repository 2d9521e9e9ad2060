//! Whether a directory can be an old tier: the checks before anything is changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::config::ServerConfig;
use crate::tier::both::Old;
use crate::tier::posix::Posix;
use crate::tier::s3::target::is_s3;
use crate::tier::{Base, Tier};

/// Opens the old tier, or says what is wrong with it.
pub fn open(path: &Path, config: &ServerConfig) -> Result<Old, String> {
    let shown = path.display();
    if is_s3(&path.to_string_lossy()) {
        return Err(format!("{shown} is a bucket; only a directory can be moved from (--from DIR)"));
    }
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

/// The old tier, the shared one and the stores must not lie in each other: a tree would move into itself.
fn apart(path: &Path, config: &ServerConfig) -> Result<(), String> {
    let shown = path.display();
    if let Some(tier) = config.tier.as_deref().filter(|tier| !is_s3(&tier.to_string_lossy())) {
        let new = tier.display();
        match (is_within(path, tier), is_within(tier, path)) {
            (false, false) => {}
            (true, true) => {
                return Err(format!("{shown} is the shared tier itself; --from must name another"));
            }
            (true, false) => {
                return Err(format!(
                    "{shown} lies inside the shared tier {new}, where its files are already; --from must name a directory outside"
                ));
            }
            (false, true) => {
                return Err(format!(
                    "the shared tier {new} lies inside {shown} and would move into itself; --from must name directories without it"
                ));
            }
        }
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
