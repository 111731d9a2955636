//! Sizes as people write them: `8MiB`, `1.5GiB`, `512KiB`, `4096`.
//!
//! Units are binary, or decimal where that is what was written (`GB`). A fraction must come to whole bytes.

/// The bytes in a size.
///
/// # Errors
/// What is wrong with it, and what it should look like.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("", 1),
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    const EXAMPLE: &str = "write a size like 8MiB, 1.5GiB or 4096";
    let text = text.trim();
    let end = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim());
    let scale = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, scale)| *scale);
    let scale = scale.ok_or_else(|| {
        if number.is_empty() {
            format!("no number in it: {EXAMPLE}")
        } else {
            format!("unknown unit `{unit}`: {EXAMPLE}")
        }
    })?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err(format!("`{number}` is no number: {EXAMPLE}"));
    }
    let too_large = || format!("more than {} bytes: {EXAMPLE}", u64::MAX);
    // Digits are read as one number, and divided by what the point stands for: exact, unlike a float.
    let digits = format!("{whole}{}", fraction.trim_end_matches('0'));
    let digits: u128 = if digits.is_empty() { Ok(0) } else { digits.parse() }.map_err(|_| too_large())?;
    let parts = 10_u128
        .checked_pow(u32::try_from(fraction.trim_end_matches('0').len()).unwrap_or(u32::MAX))
        .ok_or_else(too_large)?;
    let scaled = digits.checked_mul(u128::from(scale)).ok_or_else(too_large)?;
    if !scaled.is_multiple_of(parts) {
        return Err(format!("no whole number of bytes: {EXAMPLE}"));
    }
    let bytes = u64::try_from(scaled / parts).map_err(|_| too_large())?;
    if bytes == 0 { Err(format!("nothing: {EXAMPLE}")) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_are_read_exactly() {
        for (text, bytes) in [
            ("8MiB", 8 << 20),
            ("1.5MiB", 3 << 19),
            ("4GiB", 4 << 30),
            ("0.5gib", 1 << 29),
            (" 64 KiB ", 64 << 10),
            ("4096", 4096),
            ("7B", 7),
            ("1.000GB", 1_000_000_000),
            (".5kib", 512),
            ("16TiB", 16 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_said() {
        for (text, what) in [
            ("", "no number"),
            ("MiB", "no number"),
            ("8Mib ytes", "unknown unit"),
            ("8M", "unknown unit `M`"),
            ("-8MiB", "no number"),
            ("1.5.2MiB", "no number"),
            (".", "no number"),
            ("0", "nothing"),
            ("1.0001KiB", "no whole number of bytes"),
            ("99999999999GiB", "more than"),
            ("9999999999999999999999999999999999999999", "more than"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(what) && error.contains("8MiB"), "{text}: {error}");
        }
    }
}
