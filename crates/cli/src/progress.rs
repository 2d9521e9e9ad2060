//! Progress for people: a bar on a terminal, nothing elsewhere (logs and pipes stay clean).

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

const BYTES_STYLE: &str =
    "{msg:<28} [{bar:30}] {binary_bytes:>11}/{binary_total_bytes:<11} {binary_bytes_per_sec}";

/// A bar that counts `total` bytes.
pub fn bytes(message: &str, total: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    // The template is a constant that a test parses: the default style is only ever a formality.
    bar.set_style(ProgressStyle::with_template(BYTES_STYLE).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(message.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_is_valid() {
        assert!(ProgressStyle::with_template(BYTES_STYLE).is_ok());
    }
}
