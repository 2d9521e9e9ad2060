//! Programs that a test runs to their end: one that hangs is ended, with all that it has started, and the test says so.

use std::process::Command;

/// Seconds that no program of a test needs, however slow the machine: who takes longer hangs.
const LIMIT_S: &str = "600";

/// The same command, under coreutils' timeout(1): it ends its whole process group, so that what was forked or launched goes, too, and says so on standard error.
pub fn watched(command: &Command) -> Command {
    let mut watched = Command::new("timeout");
    watched
        .args(["--verbose", "--kill-after=10", LIMIT_S])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => watched.env(name, value),
            None => watched.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        watched.current_dir(dir);
    }
    watched
}
