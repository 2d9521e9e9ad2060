//! Logs to stderr (a daemon's stderr is its log file), as text for people or JSON for machines.

use crate::error::{CliError, Result};
use clap::ValueEnum;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text.
    Human,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        }
    }
}

/// Starts logging with `filter` (a level, or `tracing` directives such as `info,fs_server::flush=debug`).
pub fn start(filter: &str, format: LogFormat) -> Result<()> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|error| CliError::Usage(format!("--log '{filter}' is not a level or filter: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    let outcome = match format {
        LogFormat::Human => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    outcome.map_err(|error| CliError::Failed(format!("cannot start logging: {error}")))
}
