//! Times in JSON: ISO-8601 in UTC with exactly three decimals (contract §0.2).

use prost_types::Timestamp;

/// First second of year 0001 and last of year 9999, the range of `google.protobuf.Timestamp`.
const RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Writes a time; `None` when it is out of range.
pub(crate) fn format(time: &Timestamp) -> Option<String> {
    if !RANGE.contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
        return None;
    }
    let (days, second_of_day) = (time.seconds.div_euclid(86_400), time.seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let millis = time.nanos / 1_000_000;
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"))
}

/// Reads an ISO-8601 time with an offset.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    RANGE.contains(&seconds).then_some(Timestamp { seconds, nanos })
}

/// The proleptic Gregorian date of a day counted from 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    // Count from 0000-03-01, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_decimals() {
        let at = |seconds, nanos| format(&Timestamp { seconds, nanos });
        assert_eq!(at(0, 0).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(at(1_775_984_400, 7_999_999).as_deref(), Some("2026-04-12T09:00:00.007Z"));
        assert_eq!(at(951_782_399, 0).as_deref(), Some("2000-02-28T23:59:59.000Z"));
        assert_eq!(at(951_782_400, 0).as_deref(), Some("2000-02-29T00:00:00.000Z"));
        assert_eq!(at(-1, 999_000_000).as_deref(), Some("1969-12-31T23:59:59.999Z"));
        assert_eq!(at(*RANGE.start(), 0).as_deref(), Some("0001-01-01T00:00:00.000Z"));
        assert_eq!(at(*RANGE.end(), 999_999_999).as_deref(), Some("9999-12-31T23:59:59.999Z"));
        assert_eq!(at(i64::MAX, 0), None);
        assert_eq!(at(0, -1), None);
    }

    #[test]
    fn what_is_written_reads_back() {
        for seconds in (-62_135_596_800..253_402_300_799).step_by(7_777_777_777) {
            let time = Timestamp { seconds, nanos: 123_000_000 };
            let text = format(&time).unwrap();
            // The parser's own range ends a day before the year does, because of offsets.
            if let Some(read) = parse(&text) {
                assert_eq!(read, time, "{text}");
            }
        }
        assert_eq!(parse("2026-04-12T11:00:00.5+02:00"), parse("2026-04-12T09:00:00.500Z"));
        for bad in ["", "2026-04-12", "2026-04-12T09:00:00", "yesterday", "1775984400"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
