//! Durations as `500ms`, `5s`, `2m`.

use std::time::Duration;

/// The longest that may be given: an hour.
const LONGEST: Duration = Duration::from_secs(3600);

/// Reads a duration with its unit.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| "expected a number with a unit, such as 500ms, 5s or 2m".to_owned())?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" | "min" => number.checked_mul(60_000),
        _ => return Err("expected a unit: ms, s or m".into()),
    };
    millis
        .map(Duration::from_millis)
        .filter(|d| *d <= LONGEST)
        .ok_or_else(|| "at most an hour".into())
}

/// Reads how long a backend may be made to stand still.
pub fn parse_stop(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_millis(1)..=Duration::from_secs(1);
    let stop = parse(text)?;
    bounds
        .contains(&stop)
        .then_some(stop)
        .ok_or_else(|| "expected something from 1ms to 1s".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_neither_none_nor_long() {
        assert_eq!(parse_stop("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(parse_stop("1s"), Ok(Duration::from_secs(1)));
        for wrong in ["0ms", "0s", "1001ms", "2s", "1m", "50"] {
            assert!(parse_stop(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_with_units() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
        for wrong in [
            "",
            "5",
            "s",
            "-1s",
            "5 s",
            "1h",
            "61m",
            "99999999999999999999s",
            "1.5s",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
