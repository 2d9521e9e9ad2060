//! Sizes as people write them: `64M`, `1.5GiB`, `4096`. Powers of 1024, as memory and chunks are.

const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a size in bytes. `K`, `M`, `G` and `T`, with or without `B` or `iB`, in any case, mean powers of 1024.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = factor(unit.trim()).ok_or_else(|| bad(text))?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| format!("'{text}' does not fit 64 bits"));
    }
    let value: f64 = number.parse().map_err(|_| bad(text))?;
    let bytes = value * factor as f64;
    if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(bad(text)) }
}

fn bad(text: &str) -> String {
    format!(
        "'{text}' is not a size: write bytes, or a number with K, M, G or T (1024 to the power of 1 to 4)"
    )
}

fn factor(unit: &str) -> Option<u64> {
    let lower = unit.to_ascii_lowercase();
    let letter = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    match letter {
        "" => Some(1),
        "k" => Some(1 << 10),
        "m" => Some(1 << 20),
        "g" => Some(1 << 30),
        "t" => Some(1 << 40),
        _ => None,
    }
}

/// Writes a number of bytes with three significant digits or exactly when small: `512 B`, `1.50 GiB`.
pub fn format(bytes: u64) -> String {
    let (name, factor) = UNITS.iter().find(|(_, factor)| bytes >= *factor).unwrap_or(&UNITS[4]);
    if *factor == 1 {
        return format!("{bytes} B");
    }
    let value = bytes as f64 / *factor as f64;
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {name}")
}

/// A rate in MiB/s.
pub fn rate(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / (1 << 20) as f64 / seconds.max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64k", 64 << 10),
            ("64 MiB", 64 << 20),
            ("64MB", 64 << 20),
            ("1.5G", 3 << 29),
            ("2t", 2 << 40),
            ("7b", 7),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "M", "-1", "1x", "1.2.3M", "1e9", "99999999999T", "inf"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn writes_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.50 KiB"),
            (64 << 20, "64.0 MiB"),
            (1 << 30, "1.00 GiB"),
            (500 << 30, "500 GiB"),
        ] {
            assert_eq!(format(bytes), text);
        }
    }

    #[test]
    fn rate_of_nothing_is_finite() {
        assert!(rate(1 << 20, 0.0).is_finite());
        assert!((rate(10 << 20, 2.0) - 5.0).abs() < 1e-9);
    }
}
