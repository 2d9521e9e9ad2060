//! The command line.

use crate::commands::{
    bench, cat, ckpt, cp, demo, df, down, flush, ls, migrate, mkdir, mount, rm, scrub, server, stage, stat,
    status, umount, up,
};
use crate::error::{Result, failed};
use crate::logging::LogFormat;
use crate::place;
use clap::{Args, Parser, Subcommand};
use fs_client::{Client, ClientConfig};
use fs_net::ClusterFile;
use std::path::PathBuf;

/// An ad-hoc parallel file system: the local storage of many nodes as one, for as long as a job runs.
#[derive(Debug, Parser)]
#[command(name = "hayate", version, about, max_term_width = 110, after_help = AFTER)]
pub struct Cli {
    /// Options of all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER: &str = "Start with `hayate demo`: it shows everything on this machine and leaves nothing behind.\n\
    Exit codes: 0 done, 1 failed, 2 wrong command line or file, 3 data is not safe, 130 interrupted.";

/// Options of all commands.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The cluster file [default: $XDG_RUNTIME_DIR/hayate/cluster.toml, else /tmp/hayate-UID/cluster.toml]
    #[arg(long, global = true, value_name = "FILE", env = "HAYATE_CLUSTER")]
    pub cluster: Option<PathBuf>,
    /// What to log: a level, or directives such as info,fs_server::flush=debug
    #[arg(long, global = true, value_name = "FILTER", env = "HAYATE_LOG", default_value = "warn")]
    pub log: String,
    /// How log lines look
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value = "human")]
    pub log_format: LogFormat,
}

impl Global {
    /// Where the cluster file is or shall be, as an absolute path.
    pub fn cluster_path(&self) -> Result<PathBuf> {
        match &self.cluster {
            Some(path) => place::absolute(path),
            None => Ok(fs_net::default_cluster_path()),
        }
    }

    /// The cluster file.
    pub fn load_cluster(&self) -> Result<ClusterFile> {
        ClusterFile::load(&self.cluster_path()?).map_err(failed)
    }

    /// A client of the cluster.
    pub fn connect(&self) -> Result<Client> {
        let config = ClientConfig::load(&self.cluster_path()?).map_err(failed)?;
        Client::connect(config).map_err(failed)
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // There is one of it in the whole run.
pub enum Command {
    /// Start a cluster, on this machine or on many hosts
    Up(up::UpArgs),
    /// Bring the data to safety and stop the cluster
    Down(down::DownArgs),
    /// Show the servers and how they are
    Status(status::StatusArgs),
    /// Run one server (what `up` starts on every node)
    Server(server::ServerArgs),
    /// Mount the file system on a directory
    Mount(mount::MountArgs),
    /// Unmount it
    Umount(umount::UmountArgs),
    /// List a directory
    Ls(ls::LsArgs),
    /// Write files to standard output
    Cat(cat::CatArgs),
    /// Copy into, out of and within the file system (paths within begin with h:)
    Cp(cp::CpArgs),
    /// Show all attributes of files
    Stat(stat::StatArgs),
    /// Show the space of the servers
    Df(df::DfArgs),
    /// Make directories
    Mkdir(mkdir::MkdirArgs),
    /// Remove files and directories
    Rm(rm::RmArgs),
    /// Copy to the shared tier now
    Flush(flush::FlushArgs),
    /// Fetch trees from the shared tier before they are read
    Stage(stage::StageArgs),
    /// Move the tree of an old file system to the shared tier, while it is used
    Migrate(migrate::MigrateArgs),
    /// Verify everything that the servers hold
    Scrub(scrub::ScrubArgs),
    /// List, show, verify, prune, pin and export checkpoints
    Ckpt(ckpt::CkptArgs),
    /// Measure, as IOR and mdtest do
    Bench(bench::BenchCommand),
    /// Show everything: four servers here, a checkpoint burst, a flush, every byte verified
    Demo(demo::DemoArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_has_help() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for option in command.get_arguments().filter(|option| !option.is_hide_set()) {
                assert!(option.get_help().is_some(), "{} {}", command.get_name(), option.get_id());
            }
        }
    }
}
