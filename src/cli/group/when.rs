//! Times as Kafka's tools take them: `2026-01-31T12:00:00.000`, with `Z` or `+01:00` after it, and durations as
//! `P1DT2H3M4S`.

/// Days from 1970-01-01 to a day of the Gregorian calendar (the era arithmetic of Howard Hinnant's paper).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn number(text: &str, digits: usize, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let all_digits = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| all_digits && range.contains(n))
}

/// Milliseconds since the epoch; without a zone the time is UTC.
///
/// # Errors
/// A text that is no such time.
pub(super) fn date_time(text: &str) -> Result<i64, String> {
    parse_date_time(text)
        .ok_or_else(|| format!("{text:?} is no time: expected YYYY-MM-DDTHH:MM:SS.mmm, with Z or +HH:MM after it"))
}

fn parse_date_time(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let (time, zone_min) = match time.find(['Z', '+', '-']) {
        None => (time, 0),
        Some(at) => (&time[..at], zone(&time[at..])?),
    };
    let mut date = date.split('-');
    let (year, month, day) = (date.next()?, date.next()?, date.next()?);
    let day = days(number(year, 4, 1970..=9999)?, number(month, 2, 1..=12)?, number(day, 2, 1..=31)?);
    let mut parts = time.split(':');
    let (hour, minute) = (number(parts.next()?, 2, 0..=23)?, number(parts.next()?, 2, 0..=59)?);
    let (second, millis) = match parts.next() {
        None => (0, 0),
        Some(rest) => match rest.split_once('.') {
            None => (number(rest, 2, 0..=59)?, 0),
            Some((second, millis)) => (number(second, 2, 0..=59)?, number(millis, 3, 0..=999)?),
        },
    };
    let nothing_left = date.next().is_none() && parts.next().is_none();
    nothing_left.then(|| ((day * 24 + hour) * 60 + minute - zone_min) * 60_000 + second * 1000 + millis)
}

/// Minutes east of Greenwich.
fn zone(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits = text[1..].replace(':', "");
    let hours = number(digits.get(..2)?, 2, 0..=18)?;
    let minutes = if digits.len() == 2 { 0 } else { number(&digits[2..], 2, 0..=59)? };
    Some(sign * (hours * 60 + minutes))
}

/// Milliseconds of `P[n]DT[n]H[n]M[n]S`.
///
/// # Errors
/// A text that is no such duration.
pub(super) fn duration(text: &str) -> Result<i64, String> {
    parse_duration(text).ok_or_else(|| format!("{text:?} is no duration: expected PnDTnHnMnS"))
}

fn parse_duration(text: &str) -> Option<i64> {
    let rest = text.strip_prefix('P')?;
    let (date, time) = rest.split_once('T').unwrap_or((rest, ""));
    if (date.is_empty() && time.is_empty()) || rest.ends_with('T') {
        return None;
    }
    let units = |text: &str, known: &[(char, i64)]| -> Option<i64> {
        let (mut total, mut rest, mut known) = (0i64, text, known.iter());
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            let unit = rest[end..].chars().next()?;
            // Each once, in this order.
            let (_, ms) = known.find(|(name, _)| *name == unit)?;
            total = total.checked_add(rest[..end].parse::<i64>().ok()?.checked_mul(*ms)?)?;
            rest = &rest[end + 1..];
        }
        Some(total)
    };
    let date = units(date, &[('D', 86_400_000)])?;
    date.checked_add(units(time, &[('H', 3_600_000), ('M', 60_000), ('S', 1000)])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, ms) in [
            ("1970-01-01T00:00:00.000", 0),
            ("2000-03-01T00:00", 951_868_800_000),
            ("2024-02-29T23:59:59.999Z", 1_709_251_199_999),
            ("2026-11-21T08:00:00+01:00", 1_795_244_400_000),
            ("2026-11-21T08:00:00-0130", 1_795_253_400_000),
        ] {
            assert_eq!(date_time(text), Ok(ms), "{text}");
        }
        for wrong in ["", "now", "2026-11-21", "2026-13-01T00:00", "2026-11-21T8:00", "2026-11-21T08:00:00.5", "é"] {
            assert!(date_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [("PT1S", 1000), ("P1DT2H3M4S", 93_784_000), ("P2D", 172_800_000), ("PT90M", 5_400_000)] {
            assert_eq!(duration(text), Ok(ms), "{text}");
        }
        for wrong in ["", "P", "PT", "1H", "PT1X", "PT1S2H", "P1H", "PT-1S", "PT99999999999999999999S"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
