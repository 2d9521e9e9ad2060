//! What can go wrong in a command, and the exit code that says so.
//!
//! One variant per thing that the caller of the command can do about it.

use std::fmt::Display;
use std::path::Path;
use thiserror::Error;

/// Why a command did not do what was asked. The text is for the user: what happened, to which path or server, what to do.
#[derive(Debug, Error)]
pub enum CliError {
    /// The command line, or a file named in it, is wrong: correct it. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// It was tried and failed. Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Data is not (all) where it has to be; nothing was stopped. Exit code 3.
    #[error("{0}")]
    Unsafe(String),
    /// A benchmark read so many wrong words. Exit code as the harness has it.
    #[error("{0} words of what was read are not what was written")]
    Wrong(u64),
    /// Nobody reads standard output any more. Exit code 141, as of a program that SIGPIPE ends; nothing is said.
    #[error("nobody reads the output any more")]
    ReaderGone,
    /// The user ended it. Exit code 130, as shells do.
    #[error("interrupted")]
    Interrupted,
    /// The same, with more to say.
    #[error("{0}")]
    CutOff(String),
}

/// Result of a command or a part of one.
pub type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    /// Exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Failed(_) => 1,
            CliError::Usage(_) => 2,
            CliError::Unsafe(_) => 3,
            CliError::Wrong(words) => bench::cli::exit_status(*words),
            CliError::ReaderGone => 141,
            CliError::Interrupted | CliError::CutOff(_) => 130,
        }
    }

    /// The same error with more to say after it.
    #[must_use]
    pub fn with(self, more: impl Display) -> CliError {
        match self {
            CliError::Failed(text) => CliError::Failed(format!("{text}{more}")),
            CliError::Usage(text) => CliError::Usage(format!("{text}{more}")),
            CliError::Unsafe(text) => CliError::Unsafe(format!("{text}{more}")),
            CliError::Interrupted => CliError::CutOff(format!("interrupted{more}")),
            CliError::CutOff(text) => CliError::CutOff(format!("{text}{more}")),
            CliError::Wrong(_) | CliError::ReaderGone => self,
        }
    }
}

/// Turns an error about `path` into one for the user: `cannot WHAT PATH: REASON`.
pub fn cannot<E: Display>(what: &'static str, path: &Path) -> impl FnOnce(E) -> CliError + use<E> {
    let path = path.to_path_buf();
    move |reason| CliError::Failed(format!("cannot {what} {}: {reason}", path.display()))
}

/// Turns an error of a lower layer, whose text already names what it is about, into one for the user.
pub fn failed<E: Display>(reason: E) -> CliError {
    CliError::Failed(reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: scripts can tell the kinds apart. Method: the codes are distinct and none is zero.
    #[test]
    fn exit_codes_tell_kinds_apart() {
        let all = [
            CliError::Usage(String::new()),
            CliError::Failed(String::new()),
            CliError::Unsafe(String::new()),
            CliError::Interrupted,
        ];
        let mut codes: Vec<u8> = all.iter().map(CliError::exit_code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), 4);
        assert!(!codes.contains(&0));
    }

    #[test]
    fn message_names_action_path_and_reason() {
        let error = cannot("read", Path::new("/x/y"))("no such file");
        assert_eq!(error.to_string(), "cannot read /x/y: no such file");
        assert_eq!(error.with("; try z").to_string(), "cannot read /x/y: no such file; try z");
    }
}
