//! What the CSV files of IOR and mdtest have in common: C's numbers, and the file of single operations.

use std::io::{self, BufWriter, Write};

use crate::error::Result;
use crate::ior::write_file;

/// A number as C's `%.DIGITSe` prints it: `1.5000000000e+03`.
pub fn exponent(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$e}");
    let Some((mantissa, power)) = text.split_once('e') else { return text };
    let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
    format!("{mantissa}e{sign}{power:0>2}")
}

/// One operation: when it began and ended, in nanoseconds.
pub type Operation = (u64, u64);

/// Writes the operations of a phase that began at `start_ns`, each of `bytes` (1 for those that move none), with the columns of
/// `savePerOpDataCSV`: seconds since the begin, seconds that it took, bytes a second.
///
/// # Errors
/// Of writing.
pub fn operations(path: &str, start_ns: u64, bytes: u64, all: &[Operation]) -> Result<()> {
    write_file(path, false, |file| lines(BufWriter::new(file), start_ns, bytes, all))
}

fn lines(mut out: impl Write, start_ns: u64, bytes: u64, all: &[Operation]) -> io::Result<()> {
    writeln!(out, "time,runtime,tp")?;
    for (begin, end) in all {
        let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e9;
        let took = seconds(*begin, *end);
        let rate = bytes.max(1) as f64 / took.max(1e-9);
        let (at, took) = (exponent(seconds(start_ns, *begin), 8), exponent(took, 8));
        writeln!(out, "{at},{took},{}", exponent(rate, 6))?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_c() {
        for (value, digits, text) in [
            (0.0, 6, "0.000000e+00"),
            (1500.0, 10, "1.5000000000e+03"),
            (0.000_25, 6, "2.500000e-04"),
            (-1e-12, 2, "-1.00e-12"),
            (1e120, 1, "1.0e+120"),
        ] {
            assert_eq!(exponent(value, digits), text);
        }
    }

    #[test]
    fn operations_have_the_columns_of_ior() {
        let mut out = Vec::new();
        lines(&mut out, 1_000_000_000, 500, &[(1_500_000_000, 1_750_000_000)]).expect("memory");
        let expected = "time,runtime,tp\n5.00000000e-01,2.50000000e-01,2.000000e+03\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
