//! `hayate mkdir`: makes directories.

use crate::args::Global;
use crate::error::{Result, failed};
use crate::side;
use clap::Args;
use fs_client::LayoutWish;
use std::path::PathBuf;

/// Arguments of `hayate mkdir`.
#[derive(Debug, Args)]
pub struct MkdirArgs {
    /// Directories
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Make those above as well; it is no error if they exist
    #[arg(short, long)]
    parents: bool,
    /// Permission bits in octal
    #[arg(short, long, default_value = "755", value_parser = octal)]
    mode: u32,
    /// Layout of the files that will be made in them: striped, local or writer, and maybe a chunk size, as in local,chunk=4M
    #[arg(short, long, value_parser = layout)]
    layout: Option<LayoutWish>,
}

fn layout(text: &str) -> std::result::Result<LayoutWish, String> {
    LayoutWish::parse(text.as_bytes()).map_err(|error| error.to_string())
}

fn octal(text: &str) -> std::result::Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(format!("'{text}' is not an octal mode such as 755")),
    }
}

/// Makes them.
pub fn run(global: &Global, args: &MkdirArgs) -> Result<()> {
    let client = global.connect()?;
    for path in &args.paths {
        let path = side::in_cluster(path);
        let made = if args.parents {
            client.mkdir_all(&path, args.mode)
        } else {
            client.mkdir_path(&path, args.mode)
        };
        made.map_err(failed)?;
        if let Some(wish) = args.layout {
            client.set_layout_path(&path, wish).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::octal;

    #[test]
    fn modes_are_octal() {
        assert_eq!(octal("1777"), Ok(0o1777));
        assert!(octal("8").is_err() && octal("17777").is_err() && octal("").is_err());
    }
}
