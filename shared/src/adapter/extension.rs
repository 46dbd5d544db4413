//! Extensions of msgpack as read by `notepack.io`, which Node.js' adapters and emitters use.
//!
//! Its versions before 3 (adapter 7, `socket.io-redis` 6, emitters 4 and 3) wrote JavaScript values without a msgpack
//! form as extensions of type 0: dates in a fixed 8 bytes, `undefined` in a fixed byte, binary data other than buffers
//! with a length. Newer versions write dates as msgpack's timestamps (type -1).

use rmp::Marker;
use rmp::decode::RmpRead as _;

use super::msgpack::{MsgpackError, length, take};

/// The value of an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extension<'a> {
    /// JavaScript's `undefined`.
    Undefined,
    /// Milliseconds since the epoch; `None` where JavaScript has no such date.
    Date(Option<i64>),
    /// Binary data.
    Bytes(&'a [u8]),
    /// Of an unknown type: Node.js reads it as a list of the type and the data.
    Unknown(i8, &'a [u8]),
}

/// Reads the extension after `marker`.
pub(super) fn read<'a>(marker: Marker, input: &mut &'a [u8]) -> Result<Extension<'a>, MsgpackError> {
    let length = length(marker, input)?;
    let kind = i8::from_be_bytes([input.read_u8().map_err(|_| MsgpackError::Malformed)?]);
    let data = take(input, length)?;
    Ok(match (kind, marker) {
        (0, Marker::FixExt1) => Extension::Undefined,
        (0, Marker::FixExt8) => Extension::Date(data.try_into().ok().map(i64::from_be_bytes)),
        (0, _) => Extension::Bytes(data),
        (-1, _) => match timestamp(data) {
            Some(date) => Extension::Date(date),
            None => Extension::Unknown(kind, data),
        },
        _ => Extension::Unknown(kind, data),
    })
}

/// Whether the next value is JavaScript's `undefined`.
pub(super) fn is_undefined(input: &[u8]) -> bool {
    matches!(input, [0xd4, 0, _, ..])
}

/// Milliseconds of a timestamp in its forms of 4, 8 and 12 bytes; `None` in any other form.
fn timestamp(data: &[u8]) -> Option<Option<i64>> {
    let (seconds, nanos) = match data.len() {
        4 => (i64::from(u32::from_be_bytes(data.try_into().ok()?)), 0),
        8 => {
            let packed = u64::from_be_bytes(data.try_into().ok()?);
            (i64::try_from(packed & 0x3_ffff_ffff).ok()?, u32::try_from(packed >> 34).ok()?)
        }
        12 => {
            let (nanos, seconds) = data.split_first_chunk::<4>()?;
            (i64::from_be_bytes(seconds.try_into().ok()?), u32::from_be_bytes(*nanos))
        }
        _ => return None,
    };
    Some(seconds.checked_mul(1_000).and_then(|millis| millis.checked_add(i64::from(nanos / 1_000_000))))
}

/// A date as `JSON.stringify` writes it; `None` for a date that JavaScript does not support.
pub(super) fn iso(millis: i64) -> Option<String> {
    const DAY: i64 = 86_400_000;
    /// A hundred million days on either side of the epoch.
    const RANGE: i64 = 100_000_000 * DAY;
    if !(-RANGE..=RANGE).contains(&millis) {
        return None;
    }
    let (days, time) = (millis.div_euclid(DAY), millis.rem_euclid(DAY));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (time / 3_600_000, time / 60_000 % 60, time / 1_000 % 60);
    let year = match year {
        0..=9_999 => format!("{year:04}"),
        _ => format!("{year:+07}"),
    };
    Some(format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", time % 1_000))
}

/// Year, month and day of a day since the epoch. Years begin in March here, so that a leap day is a year's last.
fn civil(days: i64) -> (i64, i64, i64) {
    /// From 1 March of the year 0 to the epoch.
    const SHIFT: i64 = 719_468;
    /// Of 400 years.
    const ERA: i64 = 146_097;
    let days = days + SHIFT;
    let (era, of_era) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_javascript_writes_them() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_795_231_698_228, "2026-11-21T03:28:18.228Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (-62_167_219_200_000, "0000-01-01T00:00:00.000Z"),
            (-62_198_755_200_000, "-000001-01-01T00:00:00.000Z"),
            (253_402_300_800_000, "+010000-01-01T00:00:00.000Z"),
            (8_640_000_000_000_000, "+275760-09-13T00:00:00.000Z"),
            (-8_640_000_000_000_000, "-271821-04-20T00:00:00.000Z"),
        ] {
            assert_eq!(iso(millis).as_deref(), Some(text));
        }
        assert_eq!((iso(8_640_000_000_000_001), iso(i64::MIN)), (None, None));
    }
}
