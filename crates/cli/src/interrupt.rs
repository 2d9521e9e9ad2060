//! Ctrl-C and SIGTERM as something that commands ask for, so that they can take down what they started.
//!
//! # Invariants
//! - After [`watch`] no signal ends the process by itself: every loop that can last calls [`check`]
//!   (`tests/demo.rs`, `interrupted_demo_leaves_nothing`).

use crate::error::{CliError, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Waiting loops look at what they wait for this often: short against every start-up, cheap on a login node.
const POLL: Duration = Duration::from_millis(10);

/// From now on SIGINT, SIGTERM and SIGHUP only set the flag that [`check`] reads.
pub fn watch() -> Result<()> {
    let (ready, armed) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || watch_signals(&ready))
        .map_err(|error| CliError::Failed(format!("cannot start a thread for signals: {error}")))?;
    match armed.recv() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(CliError::Failed(format!("cannot catch signals: {error}"))),
        Err(_) => Err(CliError::Failed("cannot catch signals: their thread ended".into())),
    }
}

fn watch_signals(ready: &std::sync::mpsc::Sender<std::io::Result<()>>) {
    let outcome = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut hangup = signal(SignalKind::hangup())?;
            // The receiver waits for exactly this; if it is gone the process is ending.
            let _ = ready.send(Ok(()));
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
        })
    });
    let _ = ready.send(outcome);
}

/// Fails once the user wants to stop.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(CliError::Interrupted) } else { Ok(()) }
}

/// Asks `done` until it gives a value, at most `limit`; `None` when time is up.
pub fn wait_for<T>(limit: Duration, mut done: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = done()? {
            return Ok(Some(value));
        }
        check()?;
        if Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// As [`wait_for`], for taking down: an interrupt does not end it.
pub fn wait_anyway(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !done() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_the_value_or_the_limit() {
        let mut left = 3;
        let value = wait_for(Duration::from_secs(60), || {
            left -= 1;
            Ok((left == 0).then_some(7))
        });
        assert_eq!(value.ok().flatten(), Some(7));
        assert!(matches!(wait_for::<()>(Duration::ZERO, || Ok(None)), Ok(None)));
        assert!(!wait_anyway(Duration::ZERO, || false));
    }
}
