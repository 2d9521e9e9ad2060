//! Standard output. A reader that goes away (`hayate ls | head`) ends the command quietly, not with a panic.

use crate::error::{CliError, Result};
use std::fmt::Display;
use std::io::{ErrorKind, Write};

/// Writes `text` and a line end.
pub fn line(text: impl Display) -> Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes `text` as it is.
pub fn text(text: &str) -> Result<()> {
    bytes(text.as_bytes())
}

/// Writes bytes, whatever they are.
pub fn bytes(raw: &[u8]) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(raw).and_then(|()| output.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => CliError::ReaderGone,
        _ => CliError::Failed(format!("cannot write to standard output: {error}")),
    })
}
