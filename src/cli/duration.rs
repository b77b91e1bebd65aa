//! Durations as `500ms`, `5s`, `2m`.

use std::time::Duration;

/// The longest that may be given: an hour.
const LONGEST: Duration = Duration::from_secs(3600);

/// The greatest age that may be asked for, ten years: nothing runs for longer.
const OLDEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Reads a duration with its unit.
pub fn parse(text: &str) -> Result<Duration, String> {
    within(text, &["ms", "s", "m", "min"], LONGEST)
}

/// Reads an age, which may be of hours and days.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    within(text, &["ms", "s", "m", "min", "h", "d"], OLDEST)
}

/// Reads one number with one of these units: humantime knows more of both, such as `1h 30m`, which nobody is told of, and
/// `M` for a month, which one letter would make of a minute.
fn within(text: &str, units: &[&str], most: Duration) -> Result<Duration, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    if unit.len() == text.len() || unit.is_empty() {
        return Err("expected a number with a unit, such as 500ms, 5s or 2m".into());
    }
    if !units.contains(&unit) {
        let shown: Vec<&str> = units
            .iter()
            .copied()
            .filter(|unit| *unit != "min")
            .collect();
        let (last, others) = shown.split_last().unwrap_or((&"s", &[]));
        return Err(format!("expected a unit: {} or {last}", others.join(", ")));
    }
    let duration = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if duration > most {
        let most = humantime::format_duration(most);
        return Err(format!("expected at most {most}"));
    }
    Ok(duration)
}

/// Reads the pause between two rounds: seconds, as watch(1) has it, or with a unit.
pub fn parse_pause(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_millis(100)..=LONGEST;
    let pause = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?,
        Err(_) => parse(text)?,
    };
    bounds
        .contains(&pause)
        .then_some(pause)
        .ok_or_else(|| "expected something from 0.1 to 3600 seconds".into())
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
    fn ages_and_pauses() {
        assert_eq!(parse_age("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse_age("1d"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse_age("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_pause("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_pause("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_pause("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["h", "-1h", "5", "1w", "99999999999h", ""] {
            assert!(parse_age(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0", "-1", "nan", "inf", "1e9", "", "x"] {
            assert!(parse_pause(wrong).is_err(), "{wrong}");
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
