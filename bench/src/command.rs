//! Commands that a user has a run call.

use std::process::Command;

use crate::error::{BenchError, Result};

/// Runs a command by the shell, to its end.
///
/// # Errors
/// If there is no shell, or the command fails.
pub fn call(line: &str) -> Result<()> {
    let failed = |why: String| BenchError::Options(format!("the command '{line}' {why}"));
    let status = Command::new("/bin/sh").args(["-c", line]).status();
    let status = status.map_err(|error| failed(format!("cannot be started: {error}")))?;
    if status.success() { Ok(()) } else { Err(failed(format!("failed: {status}"))) }
}
