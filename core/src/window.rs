//! Calendar windows of budgets: aligned in the budget's own time zone, so no reset job exists (design §6).

use std::{fmt, str::FromStr};

use jiff::{Timestamp, civil::Date, tz::AmbiguousOffset};

/// How long a budget's window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interval {
    /// From midnight to midnight.
    Daily,
    /// From Monday to Monday.
    Weekly,
    /// From the first to the first.
    Monthly,
    /// From January to January.
    Yearly,
    /// One window without end.
    None,
}

impl Interval {
    /// The word on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::None => "none",
        }
    }

    /// The interval a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly, Self::None]
            .into_iter()
            .find(|i| i.as_str() == word)
    }
}

/// An IANA time zone known to the bundled database.
#[derive(Clone, PartialEq, Eq)]
pub struct TimeZone(jiff::tz::TimeZone);

/// A name that is no IANA time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown time zone {0:?}; use an IANA name such as Europe/Berlin")]
pub struct UnknownTimeZone(pub String);

impl TimeZone {
    /// Coordinated Universal Time, the default.
    #[must_use]
    pub fn utc() -> Self {
        Self(jiff::tz::TimeZone::UTC)
    }

    /// The IANA name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The first instant of a calendar day here. Midnight where it exists once; the earlier of two midnights; where
    /// the clock jumps over midnight, the instant of the jump. `None` outside the years jiff knows.
    fn first_instant_ms(&self, day: Date) -> Option<i64> {
        let midnight = self.0.to_ambiguous_timestamp(day.at(0, 0, 0, 0));
        let instant = match midnight.offset() {
            // Read with the offset after the jump, the missing midnight falls before it.
            AmbiguousOffset::Gap { after, .. } => {
                let before_jump = after.to_timestamp(midnight.datetime()).ok()?;
                self.0.following(before_jump).next()?.timestamp()
            }
            _ => midnight.earlier().ok()?,
        };
        Some(instant.as_millisecond())
    }
}

impl fmt::Debug for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TimeZone {
    type Err = UnknownTimeZone;
    fn from_str(name: &str) -> Result<Self, UnknownTimeZone> {
        jiff::tz::TimeZone::get(name).map(Self).map_err(|_| UnknownTimeZone(name.to_owned()))
    }
}

/// One window: `[start_ms, end_ms)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Inclusive; 0 for the window without end. Also the window's id.
    pub start_ms: i64,
    /// Exclusive; `None` never ends.
    pub end_ms: Option<i64>,
}

impl Window {
    /// The window of [`Interval::None`].
    pub const ENDLESS: Self = Self { start_ms: 0, end_ms: None };

    /// Whether an instant lies inside.
    #[must_use]
    pub fn contains(&self, now_ms: i64) -> bool {
        self.start_ms <= now_ms && self.end_ms.is_none_or(|end| now_ms < end)
    }
}

/// The years in which windows exist: within what jiff can count, with a year to spare on either side.
const FIRST_MS: i64 = -62_104_060_800_000; // 0002-01-01
const LAST_MS: i64 = 253_339_228_799_999; // 9997-12-31

/// The window of `interval` in `zone` that contains an instant.
///
/// Windows of one interval and zone tile time: each ends where the next begins, whatever daylight saving does around
/// midnight. Instants outside the years 2 to 9997 count as the nearest of those years.
#[must_use]
pub fn window_at(interval: Interval, zone: &TimeZone, now_ms: i64) -> Window {
    calendar_window(interval, zone, now_ms.clamp(FIRST_MS, LAST_MS)).unwrap_or(Window::ENDLESS)
}

/// `None` for the interval without calendar.
fn calendar_window(interval: Interval, zone: &TimeZone, now_ms: i64) -> Option<Window> {
    let today = zone.0.to_datetime(Timestamp::from_millisecond(now_ms).ok()?).date();
    let mut first_day = first_day_of(interval, today)?;
    let mut next_day = day_after(interval, first_day)?;
    // The local date alone does not decide: a clock set back across midnight shows yesterday's date again after
    // today's has begun (St John's until 2011, 00:01 to 23:01). Yesterday's window ended at the first midnight.
    while now_ms >= zone.first_instant_ms(next_day)? {
        first_day = next_day;
        next_day = day_after(interval, next_day)?;
    }
    Some(Window { start_ms: zone.first_instant_ms(first_day)?, end_ms: zone.first_instant_ms(next_day) })
}

/// The first day of the window that a day belongs to.
fn first_day_of(interval: Interval, day: Date) -> Option<Date> {
    match interval {
        Interval::Daily => Some(day),
        Interval::Weekly => {
            day.checked_sub(jiff::Span::new().days(day.weekday().to_monday_zero_offset())).ok()
        }
        Interval::Monthly => Some(day.first_of_month()),
        Interval::Yearly => Some(day.first_of_year()),
        Interval::None => None,
    }
}

/// The first day of the window after the one that begins on `first_day`.
fn day_after(interval: Interval, first_day: Date) -> Option<Date> {
    match interval {
        Interval::Daily => first_day.tomorrow().ok(),
        Interval::Weekly => first_day.checked_add(jiff::Span::new().days(7)).ok(),
        Interval::Monthly => first_day.last_of_month().tomorrow().ok(),
        Interval::Yearly => first_day.last_of_year().tomorrow().ok(),
        Interval::None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALENDAR: [Interval; 4] = [Interval::Daily, Interval::Weekly, Interval::Monthly, Interval::Yearly];

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().expect("a timestamp").as_millisecond()
    }

    fn zone(name: &str) -> TimeZone {
        name.parse().expect("a time zone")
    }

    /// Expected windows, each also asked for at its first and at its last millisecond.
    #[test]
    fn windows_follow_the_calendar_of_the_zone() {
        use Interval::{Daily, Monthly, Weekly, Yearly};
        for (interval, name, start, end) in [
            (Daily, "UTC", "2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z"),
            (Weekly, "UTC", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (Monthly, "UTC", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"),
            (Yearly, "UTC", "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"),
            (Monthly, "UTC", "1969-12-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            (Daily, "Asia/Kolkata", "2026-11-23T18:30:00Z", "2026-11-24T18:30:00Z"),
            // 23 and 25 hours.
            (Daily, "Europe/Berlin", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            (Daily, "Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            (Monthly, "America/New_York", "2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z"),
            // Midnight does not exist: the day begins at 01:00.
            (Daily, "America/Sao_Paulo", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"),
            (Daily, "Africa/Cairo", "2024-04-25T22:00:00Z", "2024-04-26T21:00:00Z"),
            (Daily, "Asia/Beirut", "2022-03-26T22:00:00Z", "2022-03-27T21:00:00Z"),
            // The jump leads over midnight, from 23:30 to 00:30: the day begins with the jump.
            (Daily, "America/Toronto", "1919-03-31T04:30:00Z", "1919-04-01T04:00:00Z"),
            // The hour before midnight exists twice, or the one after it: one window of 25 hours.
            (Daily, "America/Sao_Paulo", "2019-02-16T02:00:00Z", "2019-02-17T03:00:00Z"),
            (Daily, "America/Havana", "2020-11-01T04:00:00Z", "2020-11-02T05:00:00Z"),
            // From 00:01 back to 23:01: the day has begun, and yesterday's date on the clock does not undo it.
            (Daily, "America/St_Johns", "2010-11-07T02:30:00Z", "2010-11-08T03:30:00Z"),
            // Samoa had no 30 December 2011.
            (Daily, "Pacific/Apia", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"),
            (Daily, "Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"),
        ] {
            let expected = Window { start_ms: ms(start), end_ms: Some(ms(end)) };
            let quarter_hours = (ms(start)..ms(end)).step_by(900_000).take(110);
            for now_ms in quarter_hours.chain([ms(start) + 1, ms(end) - 1]) {
                assert_eq!(
                    window_at(interval, &zone(name), now_ms),
                    expected,
                    "{interval:?} {name} {start} {now_ms}"
                );
            }
            assert!(!expected.contains(ms(end)) && !expected.contains(ms(start) - 1));
        }
    }

    #[test]
    fn without_interval_there_is_one_window_without_end() {
        for now_ms in [0, 1, i64::MAX] {
            assert_eq!(window_at(Interval::None, &TimeZone::utc(), now_ms), Window::ENDLESS);
            assert!(Window::ENDLESS.contains(now_ms));
        }
    }

    /// From window to window through 22 years of the zones with the oddest clocks.
    #[test]
    fn windows_tile_time() {
        for name in [
            "UTC",
            "America/Sao_Paulo",
            "America/St_Johns",
            "America/Havana",
            "Africa/Cairo",
            "Asia/Beirut",
            "Asia/Gaza",
            "Asia/Tehran",
            "Pacific/Apia",
            "Pacific/Kwajalein",
            "Antarctica/Troll",
            "Australia/Lord_Howe",
        ] {
            let zone = zone(name);
            for interval in CALENDAR {
                let mut now_ms = ms("1990-06-15T12:34:56.789Z");
                let mut window = window_at(interval, &zone, now_ms);
                while now_ms < ms("2012-06-01T00:00:00Z") {
                    assert!(window.contains(now_ms), "{name} {interval:?} {window:?} {now_ms}");
                    let end_ms = window.end_ms.expect("calendar windows end");
                    assert_eq!(window_at(interval, &zone, end_ms - 1), window, "{name} {interval:?}");
                    let next = window_at(interval, &zone, end_ms);
                    assert_eq!(next.start_ms, end_ms, "{name} {interval:?} after {window:?}");
                    (window, now_ms) = (next, end_ms);
                }
            }
        }
    }

    #[test]
    fn absurd_times_give_windows_and_no_panic() {
        for now_ms in [i64::MIN, FIRST_MS - 1, FIRST_MS, -1, LAST_MS, LAST_MS + 1, i64::MAX] {
            for interval in CALENDAR {
                for zone in [TimeZone::utc(), zone("Pacific/Apia"), zone("America/Adak")] {
                    let window = window_at(interval, &zone, now_ms);
                    assert!(
                        window.contains(now_ms.clamp(FIRST_MS, LAST_MS)),
                        "{interval:?} {zone:?} {window:?}"
                    );
                    assert!(window.end_ms.is_some(), "{interval:?} {now_ms}");
                }
            }
        }
    }
}
