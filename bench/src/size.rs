//! Sizes as IOR reads and prints them.

/// Reads `8`, `4k`, `2m`, `1g` or `1t` (case does not matter; powers of 1024).
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (digits, shift) = match text.chars().last().map(|c| c.to_ascii_lowercase()) {
        Some('k') => (&text[..text.len() - 1], 10),
        Some('m') => (&text[..text.len() - 1], 20),
        Some('g') => (&text[..text.len() - 1], 30),
        Some('t') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("'{text}' is no size: give bytes, or 4k, 2m, 1g"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' is more than 2^64 bytes"))
}

/// `262144 bytes`, `1 MiB`, `1.50 GiB`: as in IOR's options block, which knows no KiB.
pub fn human(bytes: u64) -> String {
    let (unit, name) = match bytes {
        b if b >= 1 << 40 => (1_u64 << 40, "TiB"),
        b if b >= 1 << 30 => (1 << 30, "GiB"),
        b if b >= 1 << 20 => (1 << 20, "MiB"),
        _ => return format!("{bytes} bytes"),
    };
    if bytes.is_multiple_of(unit) {
        format!("{} {name}", bytes / unit)
    } else {
        format!("{:.2} {name}", bytes as f64 / unit as f64)
    }
}

/// A number with the digits that IOR's result table shows: 6 decimals below 1, 2 below 3600, none above.
pub fn table_number(value: f64) -> String {
    match value {
        v if v < 0.0 => "-".to_owned(),
        v if v < 1.0 => format!("{v:.6}"),
        v if v < 3600.0 => format!("{v:.2}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_ior_reads_them() {
        for (text, bytes) in
            [("8", 8), ("4k", 4096), ("4K", 4096), ("2m", 2 << 20), ("1G", 1 << 30), ("3t", 3 << 40)]
        {
            assert_eq!(parse(text), Ok(bytes));
        }
        for text in ["", "k", "1.5m", "-1", "4kb", "20000000t"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    /// Against values in published outputs of IOR.
    #[test]
    fn sizes_and_numbers_are_printed_as_ior_prints_them() {
        for (bytes, text) in
            [(262_144, "262144 bytes"), (1 << 20, "1 MiB"), (321 << 30, "321 GiB"), (3 << 19, "1.50 MiB")]
        {
            assert_eq!(human(bytes), text);
        }
        let table = [
            (912.4, "912.40"),
            (4281.9, "4282"),
            (2316.13, "2316.13"),
            (0.001_868, "0.001868"),
            (10_485_760.0, "10485760"),
            (178.42, "178.42"),
        ];
        for (value, text) in table {
            assert_eq!(table_number(value), text);
        }
    }
}
