//! What INFO and the log say about a certificate (RFC 5280, section 4.1).
//!
//! ```text
//! Certificate     = sequence { tbsCertificate, ... }
//! tbsCertificate  = sequence { [0] version?, serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, ... }
//! validity        = sequence { notBefore, notAfter }
//! ```

use std::fmt::Write as _;

use crate::der::{INTEGER, Reader, SEQUENCE};

/// The tag of the version, which certificates of version 1 lack.
const VERSION: u8 = 0xa0;
/// The tag of a date whose year has two digits.
const UTC_TIME: u8 = 0x17;
/// The tag of a date whose year has four digits.
const GENERALIZED_TIME: u8 = 0x18;

/// A certificate's serial number and dates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The serial number, in upper-case hexadecimal digits.
    pub serial: String,
    /// From when on it is valid, in seconds since the epoch.
    pub valid_from_s: i64,
    /// Until when it is valid, in seconds since the epoch.
    pub valid_until_s: i64,
}

impl CertificateFacts {
    /// The facts about a certificate in DER; `None` if it is none.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let mut fields = fields(certificate)?;
        let serial = fields.expect(INTEGER)?;
        let _signature = fields.expect(SEQUENCE)?;
        let _issuer = fields.expect(SEQUENCE)?;
        let mut validity = fields.sequence()?;
        Some(Self {
            serial: hex(serial),
            valid_from_s: seconds(validity.next()?)?,
            valid_until_s: seconds(validity.next()?)?,
        })
    }
}

/// The fields of a certificate from its serial number on.
fn fields(certificate: &[u8]) -> Option<Reader<'_>> {
    let mut fields = Reader::new(certificate).sequence()?.sequence()?;
    if fields.tag() == Some(VERSION) {
        fields.next()?;
    }
    Some(fields)
}

/// The content of the public key's information in a certificate in DER; `None` if it is none.
pub(crate) fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    const BEFORE: [u8; 5] = [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE];
    let mut fields = fields(certificate)?;
    for tag in BEFORE {
        fields.expect(tag)?;
    }
    fields.expect(SEQUENCE)
}

fn hex(number: &[u8]) -> String {
    // A leading zero byte only says that the number is not negative.
    let digits = match number {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    digits.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// The seconds since the epoch of a date such as `20261129161822Z`.
fn seconds((tag, text): (u8, &[u8])) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year_digits, century) = match tag {
        UTC_TIME => (2, true),
        GENERALIZED_TIME => (4, false),
        _ => return None,
    };
    if text.len() != year_digits + 10 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut year: i64 = text[..year_digits].parse().ok()?;
    if century {
        // RFC 5280: years from 50 on are in the twentieth century.
        year += if year >= 50 { 1900 } else { 2000 };
    }
    let part = |index: usize| text[year_digits + 2 * index..][..2].parse::<i64>().ok();
    let days = days_since_epoch(year, part(0)?, part(1)?);
    Some(((days * 24 + part(2)?) * 60 + part(3)?) * 60 + part(4)?)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. Years begin in March here, so that leap days come last
/// (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_converted() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "240229123456Z", Some(1_709_210_096)),
            (GENERALIZED_TIME, "20501231235959Z", Some(2_556_143_999)),
            (GENERALIZED_TIME, "20000301000000Z", Some(951_868_800)),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "700101000000", None),
            (GENERALIZED_TIME, "2050123123595xZ", None),
            (INTEGER, "700101000000Z", None),
        ] {
            assert_eq!(seconds((tag, text.as_bytes())), expected, "{text}");
        }
    }

    #[test]
    fn a_certificate_has_its_serial_number_and_dates() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.serial_number = Some(vec![0x82, 0x6f, 1].into());
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2051, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        let facts = CertificateFacts::of(certificate.der()).unwrap();
        assert_eq!(facts.serial, "826F01");
        assert_eq!(facts.valid_from_s, 1_709_164_800);
        assert_eq!(facts.valid_until_s, 2_556_144_000);
        for len in 0..certificate.der().len() {
            // A part of a certificate is no certificate, and reading it does not panic.
            assert_eq!(CertificateFacts::of(&certificate.der()[..len]), None);
        }
    }
}
