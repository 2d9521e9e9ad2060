//! The table at the end.

use super::burst::Measured;
use crate::size;
use crate::table::Table;
use std::fmt::Write;

/// What is shown.
#[derive(Debug)]
pub struct Report {
    /// Name and measure of each phase.
    pub phases: Vec<(&'static str, Measured)>,
    /// Bytes of chunks on each server, after the burst.
    pub server_bytes: Vec<u64>,
}

impl Report {
    /// The table, and a line on balance.
    pub fn render(&self) -> String {
        let mut table = Table::new(&["phase", ">bytes", ">seconds", ">MiB/s"]);
        for (name, Measured { bytes, seconds }) in &self.phases {
            let rate = size::rate(*bytes, *seconds);
            table.row(vec![
                (*name).to_owned(),
                size::format(*bytes),
                format!("{seconds:.2}"),
                format!("{rate:.0}"),
            ]);
        }
        for (server, bytes) in self.server_bytes.iter().enumerate() {
            table.row(vec![format!("on server {server}"), size::format(*bytes)]);
        }
        let mut text = table.render();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "balance: the fullest server holds {:.2} times the mean",
            balance(&self.server_bytes)
        );
        text
    }
}

/// Largest over mean; 1 when nothing is stored.
pub fn balance(bytes: &[u64]) -> f64 {
    let sum: u64 = bytes.iter().sum();
    match (bytes.iter().max(), sum) {
        (Some(max), 1..) => *max as f64 * bytes.len() as f64 / sum as f64,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_is_max_over_mean() {
        assert!((balance(&[1, 1, 1, 1]) - 1.0).abs() < 1e-9);
        assert!((balance(&[4, 0, 0, 0]) - 4.0).abs() < 1e-9);
        assert!((balance(&[]) - 1.0).abs() < 1e-9 && (balance(&[0, 0]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn report_shows_rates_and_servers() {
        let measured = Measured { bytes: 64 << 20, seconds: 2.0 };
        let text =
            Report { phases: vec![("burst", measured)], server_bytes: vec![1 << 20, 3 << 20] }.render();
        assert!(text.contains("64.0 MiB") && text.contains("2.00") && text.contains("32"), "{text}");
        assert!(text.contains("on server 1") && text.contains("1.50 times the mean"), "{text}");
    }
}
