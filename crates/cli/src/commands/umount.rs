//! `hayate umount`: ends a mount.

use crate::error::Result;
use crate::mounts;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `hayate umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Where it is mounted
    dir: PathBuf,
    /// Take it from the directory tree now, even if programs still use it
    #[arg(long)]
    lazy: bool,
    /// Do nothing if nothing is mounted there
    #[arg(long, hide = true)]
    if_mounted: bool,
}

/// Unmounts, and waits until the process behind the mount has ended.
pub fn run(args: &UmountArgs) -> Result<()> {
    if args.if_mounted && mounts::kind_at(&mounts::canonical(&args.dir)?)?.is_none() {
        return Ok(());
    }
    mounts::unmount(&args.dir, args.lazy)
}
