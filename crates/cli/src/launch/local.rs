//! Starting processes on this machine: daemons of this same program, detached from the terminal.

use super::CommandLine;
use crate::error::{CliError, Result, cannot};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// This program, for starting it again.
pub fn own_exe() -> Result<PathBuf> {
    std::env::current_exe()
        .map_err(|error| CliError::Failed(format!("cannot find the path of this program: {error}")))
}

/// Starts this program as a daemon: no terminal, output appended to `log`. The arguments contain `--detach`, by which it
/// leaves the session by itself.
pub fn spawn_daemon(args: &[String], log: &Path) -> Result<Child> {
    let mut command = Command::new(own_exe()?);
    command.args(args);
    quiet(&mut command, log)?;
    command.spawn().map_err(cannot("start", log))
}

/// Starts a launcher that stays as long as the servers. A process group of its own keeps Ctrl-C of the terminal from it.
pub fn spawn_launcher(line: &CommandLine, log: &Path) -> Result<Child> {
    let mut command = line.command();
    quiet(&mut command, log)?;
    command.process_group(0).spawn().map_err(|error| {
        CliError::Failed(format!("cannot start {}: {error}; is it installed, and on the PATH?", line.program))
    })
}

fn quiet(command: &mut Command, log: &Path) -> Result<()> {
    let open =
        || OpenOptions::new().create(true).append(true).mode(0o600).open(log).map_err(cannot("open", log));
    command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
    Ok(())
}

/// Leaves the terminal's session, so that neither Ctrl-C nor its end reaches this process.
pub fn detach() -> Result<()> {
    match rustix::process::setsid() {
        // Already a leader: some launcher did it.
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(CliError::Failed(format!("cannot leave the terminal's session: {error}"))),
    }
}
