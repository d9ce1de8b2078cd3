//! The time of day in UTC for a run folder's name and its log, from the system clock, without a calendar library.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Now, as `YYYYMMDD-HHMMSS` in UTC.
pub fn stamp() -> String {
    stamp_of(since_epoch().as_secs())
}

/// Now, as RFC 3339 writes it: `2026-11-23T04:30:00.120Z`.
pub fn now() -> String {
    let now = since_epoch();
    written(now.as_secs(), now.subsec_millis())
}

fn written(seconds: u64, millis: u32) -> String {
    let (year, month, day) = date(seconds / 86_400);
    let rest = seconds % 86_400;
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

fn stamp_of(seconds: u64) -> String {
    let (year, month, day) = date(seconds / 86_400);
    let rest = seconds % 86_400;
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Year, month and day of a day counted from 1970-01-01. Years are counted from March, so that the leap day comes last
/// (Hinnant, "chrono-compatible low-level date algorithms").
fn date(day: u64) -> (u64, u64, u64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        assert_eq!(stamp_of(0), "19700101-000000");
        assert_eq!(stamp_of(951_782_400), "20000229-000000");
        assert_eq!(stamp_of(1_709_251_199), "20240229-235959");
        assert_eq!(stamp_of(1_735_689_600), "20250101-000000");
        assert_eq!(stamp_of(4_107_542_399), "21000228-235959");
        assert_eq!(stamp_of(4_107_542_400), "21000301-000000");
        assert_eq!(written(1_709_251_199, 7), "2024-02-29T23:59:59.007Z");
    }
}
