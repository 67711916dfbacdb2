//! Times as people read them (UTC, RFC 3339) and as durations are counted (seconds since boot).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::word;

const DAY: u64 = 86_400;

/// Seconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) u64);

/// A moment: the wall clock for people, the time since boot for counting, because a wall clock
/// that is set (a node without a battery, NTP) must not make anything due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// The wall clock.
    pub(crate) at: Time,
    /// Seconds since boot, suspends included.
    pub(crate) uptime: u64,
}

impl Stamp {
    /// This moment.
    pub(crate) fn now() -> Self {
        let uptime = clock_gettime(ClockId::Boottime).tv_sec;
        Self {
            at: Time::now(),
            uptime: u64::try_from(uptime).unwrap_or(0),
        }
    }

    /// The time from `earlier` to this moment, nothing if it lies in the future.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        Duration::from_secs(self.uptime.saturating_sub(earlier.uptime))
    }
}

impl Time {
    /// This second.
    pub(crate) fn now() -> Self {
        Self(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        )
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0 / DAY);
        let second = self.0 % DAY;
        let clock = [second / 3600, second / 60 % 60, second % 60];
        // Not with `write!`, which takes several times as long: a state has thousands of these.
        let mut text = *b"0000-00-00T00:00:00Z";
        let pairs = [year / 100 % 100, year % 100, month, day];
        for (at, pair) in [0, 2, 5, 8, 11, 14, 17]
            .into_iter()
            .zip(pairs.into_iter().chain(clock))
        {
            text[at] += u8::try_from(pair / 10).unwrap_or(0);
            text[at + 1] += u8::try_from(pair % 10).unwrap_or(0);
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, `civil_from_days`).
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// Days since 1970-01-01 of a date (Howard Hinnant, `days_from_civil`).
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 {
        year.checked_sub(1)?
    } else {
        year
    };
    let era = year / 400;
    let year_of_era = year % 400;
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word::read(deserializer, "a time like 2026-01-31T12:00:00Z", parse)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn parse(text: &str) -> Option<Time> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let numbers = |text: &str, separator| -> Option<[u64; 3]> {
        let mut numbers = text.split(separator).map(|part| part.parse().ok());
        let found = [numbers.next()??, numbers.next()??, numbers.next()??];
        numbers.next().is_none().then_some(found)
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_from_civil(year, month, day)?;
    Some(Time(days * DAY + hour * 3600 + minute * 60 + second))
}

/// A duration in words for people: `500ms`, `45s`, `15m`, `3h 20m`, `2d 4h`.
pub(crate) fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 && !duration.is_zero() {
        return format!("{}ms", duration.as_millis());
    }
    let two = |big: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit} {small}{small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..DAY => two(seconds / 3600, "h", seconds / 60 % 60, "m"),
        _ => two(seconds / DAY, "d", seconds / 3600 % 24, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_back() {
        for (second, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_499_999, "2026-11-24T05:59:59Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Time(second).to_string(), text);
            let json = format!("\"{text}\"");
            assert_eq!(serde_json::to_string(&Time(second)).unwrap(), json);
            assert_eq!(serde_json::from_str::<Time>(&json).unwrap(), Time(second));
        }
        for day in (0..60_000).step_by(17) {
            assert_eq!(parse(&Time(day * DAY).to_string()), Some(Time(day * DAY)));
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "Z",
            "2026-11-24",
            "2026-13-01T00:00:00Z",
            "1-1-1T0:0:0Z",
            "2026-11-24T25:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_moment_in_the_future_counts_as_now() {
        let stamp = |uptime| Stamp {
            at: Time(0),
            uptime,
        };
        assert_eq!(stamp(5).since(&stamp(9)), Duration::ZERO);
        assert_eq!(stamp(9).since(&stamp(5)), Duration::from_secs(4));
    }

    #[test]
    fn durations_read_like_words() {
        let words = [0, 59, 60, 61, 3600, 3660, 90_000].map(|s| in_words(Duration::from_secs(s)));
        assert_eq!(words, ["0s", "59s", "1m", "1m 1s", "1h", "1h 1m", "1d 1h"]);
        assert_eq!(in_words(Duration::from_millis(500)), "500ms");
    }
}
