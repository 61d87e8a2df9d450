//! Durations and sizes: a number with its unit. A number without one is an error, because nobody
//! can see what it means.

use std::time::Duration;

/// Reads `250ms`, `30s`, `5m`, `2h`; fractions such as `1.5s` too.
///
/// # Errors
/// What is accepted.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    const FORMS: &str = "write a number with its unit: 250ms, 30s, 5m or 2h";
    let (number, unit) = split(text);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(FORMS),
    };
    let number: f64 = number.parse().map_err(|_| FORMS)?;
    // A year is longer than any wait, and far from where arithmetic on instants could overflow.
    let total = number * seconds;
    if !(0.0..=31_536_000.0).contains(&total) {
        return Err("a duration lies between 0s and 8760h");
    }
    Ok(Duration::from_secs_f64(total))
}

/// Reads `512B`, `64KiB`, `16MiB`, `1GiB`, and the decimal `kB`, `MB`, `GB`.
///
/// # Errors
/// What is accepted.
pub fn bytes(text: &str) -> Result<u64, &'static str> {
    const FORMS: &str = "write a whole number with its unit: 512B, 64KiB, 16MiB or 1GiB";
    let (number, unit) = split(text);
    let factor = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(FORMS),
    };
    let number: u64 = number.parse().map_err(|_| FORMS)?;
    number.checked_mul(factor).filter(|bytes| *bytes < 1 << 50).ok_or("a size is below 1024 TiB")
}

fn split(text: &str) -> (&str, &str) {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number, unit.trim_start())
}

/// Writes a duration as it is read.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) && millis > 60_000 => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        _ => format!("{millis}ms"),
    }
}

/// Writes a size as it is read.
#[must_use]
pub fn bytes_text(bytes: u64) -> String {
    match bytes {
        0 => "0B".to_owned(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["0s", "250ms", "1s", "60s", "90s", "5m", "2h"] {
            assert_eq!(duration_text(duration(text).unwrap()), text);
        }
        for text in ["0B", "512B", "64KiB", "16MiB", "1GiB", "1000B"] {
            assert_eq!(bytes_text(bytes(text).unwrap()), text);
        }
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(bytes("2 MB"), Ok(2_000_000));
    }

    #[test]
    fn numbers_without_a_unit_and_nonsense_are_refused() {
        for text in ["30", "s", "", "-1s", "1 day", "1e9h", "..s", "99999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["64", "64K", "KiB", "-1B", "1.5MiB", "99999999999999999999B", "9999999GiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
