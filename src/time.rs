//! Times as people read them (UTC, RFC 3339) and as durations are counted (seconds since boot).

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// The last second of the year 9999, which RFC 3339 can write.
const LAST: u64 = 253_402_300_799;

/// Seconds since 1970, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) u64);

/// A moment: the wall clock for people, the time since boot for counting, because a wall clock
/// that is set (a node without a battery, NTP) must not make anything due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// The wall clock.
    pub(crate) at: Time,
    /// Seconds since boot, suspends included.
    pub(crate) uptime: u64,
}

impl Stamp {
    /// This moment.
    pub(crate) fn now() -> Self {
        let (at, boottime) = (Time::now(), clock_gettime(ClockId::Boottime));
        let uptime = boottime.tv_sec.cast_unsigned();
        Self { at, uptime }
    }

    /// The time from `earlier` to this moment, nothing if it lies in the future.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        Duration::from_secs(self.uptime.saturating_sub(earlier.uptime))
    }
}

impl Time {
    /// This second.
    pub(crate) fn now() -> Self {
        Self(UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()))
    }

    /// How long ago it was, by the wall clock; nothing if it lies in the future.
    pub(crate) fn age(self) -> Duration {
        Duration::from_secs(Self::now().0.saturating_sub(self.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = UNIX_EPOCH + Duration::from_secs(self.0.min(LAST));
        write!(f, "{}", humantime::format_rfc3339_seconds(moment))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let moment = humantime::parse_rfc3339(&text).map_err(D::Error::custom)?;
        let since = moment.duration_since(UNIX_EPOCH);
        Ok(Self(since.map_err(D::Error::custom)?.as_secs()))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A duration as in `500ms`, `45s`, `15m`, `3h 20m`, `2days 4h`: its two largest units.
pub(crate) fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let shown = match seconds {
        0 => Duration::from_millis(duration.subsec_millis().into()),
        1..HOUR => Duration::from_secs(seconds),
        HOUR..DAY => Duration::from_secs(seconds / 60 * 60),
        _ => Duration::from_secs(seconds / HOUR * HOUR),
    };
    humantime::format_duration(shown).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Time> {
        serde_json::from_value(text.into()).ok()
    }

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
            assert_eq!(serde_json::to_value(Time(second)).unwrap(), text);
            assert_eq!(parse(text), Some(Time(second)));
        }
        for day in (0..60_000).step_by(17) {
            assert_eq!(parse(&Time(day * DAY).to_string()), Some(Time(day * DAY)));
        }
    }

    #[test]
    fn other_texts_are_no_times() {
        for text in [
            "",
            "Z",
            "2026-11-24",
            "2026-13-01T00:00:00Z",
            "1-1-1T0:0:0Z",
            "2026-11-24T25:00:00Z",
            "1969-12-31T23:59:59Z",
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
        assert_eq!(
            words,
            ["0s", "59s", "1m", "1m 1s", "1h", "1h 1m", "1day 1h"]
        );
        assert_eq!(in_words(Duration::from_millis(500)), "500ms");
    }
}
