//! Figures the way people read them: sizes in binary units, ages in their two largest parts.

/// A size: `7 B`, `1.50 KiB`, `12.00 GiB`.
#[expect(clippy::cast_precision_loss, reason = "two decimals of it are shown")]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.2} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// A size in MiB.
#[expect(clippy::cast_precision_loss, reason = "a size for people")]
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// An age: `42 s`, `5 min 3 s`, `2 h 10 min`, `3 d 4 h`.
pub(crate) fn age(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// A count and what is counted: `1 chunk`, `2 chunks`.
pub(crate) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Bytes moved in a time, in GB/s (10⁹ bytes).
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(crate) fn gb_per_s(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { bytes as f64 / 1e9 / seconds } else { 0.0 }
}

/// Rows in columns as wide as their widest cell; the columns whose title begins with a space stand to the right.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].trim_start().chars().count()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let titles = head.map(|title| title.trim_start().to_owned());
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for ((cell, width), title) in row.iter().zip(widths).zip(head) {
            let cell =
                if title.starts_with(' ') { format!("{cell:>width$}") } else { format!("{cell:width$}") };
            line.push_str(&cell);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages() {
        assert_eq!([0, 1023, 1 << 20, 3 << 29].map(size), ["0 B", "1023 B", "1.00 MiB", "1.50 GiB"]);
        let ages = [999, 59_999, 303_000, 7_800_000, 273_600_000].map(age);
        assert_eq!(ages, ["0 s", "59 s", "5 min 3 s", "2 h 10 min", "3 d 4 h"]);
        assert_eq!([count(1, "chunk"), count(0, "chunk")], ["1 chunk", "0 chunks"]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["ab".to_owned(), "1".to_owned()], ["c".to_owned(), "23456".to_owned()]];
        assert_eq!(table(["x", " size"], &rows), "x    size\nab      1\nc   23456\n");
    }
}
