//! Appends JSON to a buffer without the machinery of a serializer: for records of decisions and answers to queries, of
//! which every request has one.
//!
//! Each function appends what serde_json would append; a property test compares the two.

use std::net::IpAddr;

const SECONDS_OF_A_DAY: i64 = 86_400;

/// A string with its quotes.
pub fn text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    // the usual text has nothing to escape
    if has_escaped(bytes) {
        escaped(out, bytes);
    } else {
        out.extend_from_slice(bytes);
    }
    out.push(b'"');
}

fn is_escaped(byte: u8) -> bool {
    (byte < b' ') | (byte == b'"') | (byte == b'\\')
}

/// Looks at eight bytes at once. Most texts are short, so the last eight bytes are looked at again instead of one by
/// one.
fn has_escaped(bytes: &[u8]) -> bool {
    let Some(last) = bytes.last_chunk::<8>() else {
        return bytes.iter().any(|byte| is_escaped(*byte));
    };
    let (eights, _in_last) = bytes.as_chunks::<8>();
    eights.iter().any(word_has_escaped) || word_has_escaped(last)
}

/// True if one of the eight bytes must be escaped. A subtraction in a byte borrows into its highest bit only if the
/// byte was smaller, or if a byte below it was found.
fn word_has_escaped(bytes: &[u8; 8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHEST_BITS: u64 = ONES << 7;
    let word = u64::from_le_bytes(*bytes);
    let less = |word: u64, than: u8| word.wrapping_sub(ONES.wrapping_mul(than.into())) & !word;
    let quotes = word ^ ONES.wrapping_mul(b'"'.into());
    let backslashes = word ^ ONES.wrapping_mul(b'\\'.into());
    (less(word, b' ') | less(quotes, 1) | less(backslashes, 1)) & HIGHEST_BITS != 0
}

#[cold]
fn escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for &byte in bytes {
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            _ if byte < b' ' => {
                let digit = |value: u8| HEX.get(usize::from(value)).copied().unwrap_or(b'0');
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
                continue;
            }
            _ => {
                out.push(byte);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
}

/// A string, or `null`.
pub fn optional_text(out: &mut Vec<u8>, value: Option<&str>) {
    match value {
        Some(value) => text(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

/// A list.
pub fn list<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, item: impl Fn(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (at, value) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        item(out, value);
    }
    out.push(b']');
}

/// An integer.
pub fn number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// An IP address as a string.
pub fn ip(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                out.push(if at > 0 { b'.' } else { b'"' });
                number(out, octet);
            }
            out.push(b'"');
        }
        IpAddr::V6(address) => text(out, &address.to_string()),
    }
}

/// A UTC time without quotes, with `N` digits after the second: `2026-01-31T23:59:59.999Z`. Outside the years 0-9999 it
/// appends nothing and returns false.
pub fn time<const N: usize>(out: &mut Vec<u8>, unix_seconds: i64, fraction: u32) -> bool {
    let (year, month, day) = civil_from_days(unix_seconds.div_euclid(SECONDS_OF_A_DAY));
    let Some(year) = u32::try_from(year).ok().filter(|year| *year <= 9999) else {
        return false;
    };
    // less than the seconds of a day
    let rest = u32::try_from(unix_seconds.rem_euclid(SECONDS_OF_A_DAY)).unwrap_or_default();
    out.extend_from_slice(&digits::<4>(year));
    for (before, number) in [
        (b'-', month),
        (b'-', day),
        (b'T', rest / 3600),
        (b':', rest / 60 % 60),
        (b':', rest % 60),
    ] {
        let [tens, ones] = digits::<2>(number);
        out.extend_from_slice(&[before, tens, ones]);
    }
    out.push(b'.');
    out.extend_from_slice(&digits::<N>(fraction));
    out.push(b'Z');
    true
}

/// A number of so many decimal digits, with leading zeros.
fn digits<const N: usize>(mut number: u32) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
    digits
}

/// Days since 1970-01-01 → proleptic Gregorian date (Howard Hinnant's `civil_from_days`).
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (
        year,
        u32::try_from(month).unwrap_or_default(),
        u32::try_from(day).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn appended(append: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        append(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn texts_numbers_and_addresses_are_written_as_serde_json_writes_them(
            one in any::<String>(), ascii in "[ -~\\x00-\\x1f]{0,40}", unsigned in any::<u64>(), signed in any::<i64>(), ip4 in any::<u32>(), ip6 in any::<u128>(),
        ) {
            for value in [one.as_str(), ascii.as_str()] {
                prop_assert_eq!(appended(|out| text(out, value)), serde_json::to_string(value).unwrap());
            }
            prop_assert_eq!(appended(|out| number(out, unsigned)), unsigned.to_string());
            prop_assert_eq!(appended(|out| number(out, signed)), signed.to_string());
            for address in [IpAddr::from(ip4.to_be_bytes()), IpAddr::from(ip6.to_be_bytes())] {
                prop_assert_eq!(appended(|out| ip(out, address)), serde_json::to_string(&address).unwrap());
            }
            let texts = [Some(one.as_str()), None, Some("b")];
            prop_assert_eq!(appended(|out| list(out, texts, optional_text)), serde_json::to_string(&texts).unwrap());
        }

        #[test]
        fn times_are_written_as_humantime_writes_them(seconds in 0..253_402_300_800_u64, micros in 0..1_000_000_u32) {
            let time_of = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros.into());
            let expected = humantime::format_rfc3339_micros(time_of).to_string();
            let seconds = i64::try_from(seconds).unwrap();
            prop_assert_eq!(appended(|out| assert!(time::<6>(out, seconds, micros))), expected);
        }
    }

    #[test]
    fn years_beyond_four_digits_are_no_times() {
        for seconds in [i64::MIN, -62_167_219_201, 253_402_300_800, i64::MAX] {
            assert_eq!(appended(|out| assert!(!time::<3>(out, seconds, 0))), "");
        }
        assert_eq!(
            appended(|out| assert!(time::<3>(out, -62_167_219_200, 7))),
            "0000-01-01T00:00:00.007Z"
        );
    }
}
