//! What a certificate says beside what rustls asks of it: until when it is valid, and whom it names.
//!
//! Certificates come from the operator's files, or have been verified by rustls before; all the same
//! nothing here panics or reads beyond its input, whatever that is.

use std::fmt::Write as _;

/// DER tags (X.690 §8.1.2).
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const EXPLICIT_0: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;

/// What is left to read.
#[derive(Clone, Copy)]
struct Reader<'d>(&'d [u8]);

/// One value: its tag, its content, and both with the length between them.
struct Value<'d> {
    tag: u8,
    content: &'d [u8],
    whole: &'d [u8],
}

impl<'d> Reader<'d> {
    fn next(&mut self) -> Option<Value<'d>> {
        let (tag, first) = (*self.0.first()?, *self.0.get(1)?);
        // Lengths of 4 GiB and more, and the indefinite form, which DER does not have, are refused.
        let (at, length) = match first {
            0..=0x7f => (2, usize::from(first)),
            0x81..=0x84 => {
                let end = 2 + usize::from(first & 0x7f);
                let bytes = self.0.get(2..end)?;
                (end, bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)))
            }
            _ => return None,
        };
        let end = at.checked_add(length)?;
        let value = Value { tag, content: self.0.get(at..end)?, whole: self.0.get(..end)? };
        self.0 = self.0.get(end..)?;
        Some(value)
    }

    fn expect(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.next().filter(|value| value.tag == tag).map(|value| value.content)
    }
}

/// The validity and the subject of a certificate (RFC 5280 §4.1).
fn fields(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let certificate = Reader(der).expect(SEQUENCE)?;
    let mut reader = Reader(Reader(certificate).expect(SEQUENCE)?);
    let mut peek = reader;
    if peek.next()?.tag == EXPLICIT_0 {
        reader = peek;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        reader.next()?;
    }
    Some((reader.expect(SEQUENCE)?, reader.expect(SEQUENCE)?))
}

/// The end of its validity, in seconds since 1970.
#[must_use]
pub fn not_after(der: &[u8]) -> Option<i64> {
    let (validity, _) = fields(der)?;
    let mut reader = Reader(validity);
    reader.next()?;
    let end = reader.next()?;
    let digits = end.content.strip_suffix(b"Z")?;
    let number = |from: usize, to: usize| {
        let text = std::str::from_utf8(digits.get(from..to)?).ok()?;
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<i64>().ok())?
    };
    let (year, at) = match (end.tag, digits.len()) {
        // RFC 5280 §4.1.2.5.1: two digits are 1950 to 2049.
        (UTC_TIME, 12) => (number(0, 2).map(|year| year + if year < 50 { 2000 } else { 1900 })?, 2),
        (GENERALIZED_TIME, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let part = |index: usize| number(at + 2 * index, at + 2 * index + 2);
    let (month, day) = (part(0)?, part(1)?);
    let seconds = part(2)? * 3600 + part(3)? * 60 + part(4)?;
    (1..=12).contains(&month).then(|| days(year, month, day) * 86_400 + seconds)
}

/// Days since 1970 of a date of the Gregorian calendar. The year begins in March here, so that the
/// day that leap years have more is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, month) = (year.div_euclid(400), (month + 9) % 12);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The distinguished name of its subject, as RFC 4514 writes it, in ASCII alone.
#[must_use]
pub fn subject(der: &[u8]) -> Option<String> {
    let (_, subject) = fields(der)?;
    let mut names = Vec::new();
    let mut reader = Reader(subject);
    while !reader.0.is_empty() {
        let mut attributes = Reader(reader.expect(SET)?);
        let mut name = String::new();
        while !attributes.0.is_empty() {
            let mut attribute = Reader(attributes.expect(SEQUENCE)?);
            if !name.is_empty() {
                name.push('+');
            }
            append_attribute(&mut name, attribute.expect(OID)?, &attribute.next()?)?;
        }
        names.push(name);
    }
    // RFC 4514 §2.1: the last one first.
    names.reverse();
    Some(names.join(","))
}

fn append_attribute(name: &mut String, oid: &[u8], value: &Value<'_>) -> Option<()> {
    // RFC 4514 §3; 2.5.4.x are X.520's.
    let known = match oid {
        [0x55, 4, 3] => Some("CN"),
        [0x55, 4, 6] => Some("C"),
        [0x55, 4, 7] => Some("L"),
        [0x55, 4, 8] => Some("ST"),
        [0x55, 4, 9] => Some("STREET"),
        [0x55, 4, 10] => Some("O"),
        [0x55, 4, 11] => Some("OU"),
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => Some("UID"),
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => Some("DC"),
        _ => None,
    };
    let text = match value.tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING => std::str::from_utf8(value.content).ok(),
        _ => None,
    };
    match (known, text) {
        (Some(known), Some(text)) => {
            name.push_str(known);
            name.push('=');
            append_escaped(name, text);
        }
        // RFC 4514 §2.4: what has no short name, or is no text, is written as bytes.
        _ => {
            append_oid(name, oid)?;
            name.push_str("=#");
            append_hex(name, value.whole);
        }
    }
    Some(())
}

/// RFC 4514 §2.4. What is not printable ASCII is written as bytes, so that it fits into a field.
fn append_escaped(name: &mut String, text: &str) {
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => {
                name.push('\\');
                name.push(char::from(byte));
            }
            b'#' if at == 0 => name.push_str("\\#"),
            b' ' if at == 0 || at == last => name.push_str("\\ "),
            b' '..=b'~' => name.push(char::from(byte)),
            _ => {
                name.push('\\');
                append_hex(name, &[byte]);
            }
        }
    }
}

fn append_hex(name: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
}

/// X.690 §8.19.
fn append_oid(name: &mut String, oid: &[u8]) -> Option<()> {
    let (mut number, mut first) = (0_u64, true);
    for byte in oid {
        number = number.checked_mul(128)?.checked_add(u64::from(byte & 0x7f))?;
        if byte & 0x80 != 0 {
            continue;
        }
        let _ = if first {
            let top = (number / 40).min(2);
            write!(name, "{top}.{}", number - top * 40)
        } else {
            write!(name, ".{number}")
        };
        (number, first) = (0, false);
    }
    (!first && number == 0).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, date_time_ymd};

    fn certificate(names: &[(DnType, DnValue)], until: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn subject_of(names: &[(DnType, DnValue)]) -> String {
        subject(&certificate(names, (2040, 1, 1))).unwrap()
    }

    fn text(text: &str) -> DnValue {
        DnValue::Utf8String(text.to_owned())
    }

    #[test]
    fn the_end_is_the_second_that_the_certificate_says() {
        for (until, seconds) in [
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 951_782_400),
            ((2026, 12, 31), 1_798_675_200),
            ((2049, 12, 31), 2_524_521_600),
            // From here on the time has four digits for the year.
            ((2050, 1, 1), 2_524_608_000),
            ((2100, 3, 1), 4_107_542_400),
        ] {
            assert_eq!(not_after(&certificate(&[], until)), Some(seconds), "{until:?}");
        }
    }

    #[test]
    fn a_subject_is_written_last_name_first() {
        let names = [
            (DnType::CountryName, DnValue::PrintableString("DE".try_into().unwrap())),
            (DnType::OrganizationName, text("Harbour")),
            (DnType::CommonName, text("pilot 7")),
        ];
        assert_eq!(subject_of(&names), "CN=pilot 7,O=Harbour,C=DE");
        assert_eq!(subject_of(&[]), "");
    }

    #[test]
    fn a_name_cannot_pretend_to_be_two() {
        for (name, written) in [
            ("a,O=admin", "CN=a\\,O\\=admin"),
            ("a+OU=b", "CN=a\\+OU\\=b"),
            ("#00", "CN=\\#00"),
            (" a ", "CN=\\ a\\ "),
            ("\\\"<>;", "CN=\\\\\\\"\\<\\>\\;"),
            ("a\r\nb: c", "CN=a\\0d\\0ab: c"),
            ("Müller", "CN=M\\c3\\bcller"),
        ] {
            assert_eq!(subject_of(&[(DnType::CommonName, text(name))]), written);
        }
    }

    #[test]
    fn an_attribute_without_a_short_name_is_its_number_and_its_bytes() {
        let kind = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
        let names = [(kind, DnValue::Ia5String("a@b".try_into().unwrap()))];
        assert_eq!(subject_of(&names), "1.2.840.113549.1.9.1=#1603614062");
    }

    #[test]
    fn a_cut_certificate_is_none() {
        let whole = certificate(&[(DnType::CommonName, text("a"))], (2040, 1, 1));
        for end in 0..whole.len() {
            assert_eq!((not_after(&whole[..end]), subject(&whole[..end])), (None, None));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_no_subject_leaves_ascii(
            at in 0_usize..400, byte: u8, more in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut der = certificate(&[(DnType::CommonName, text("pilot"))], (2040, 1, 1));
            let at = at % der.len();
            der[at] = byte;
            for bytes in [&*der, &*more] {
                let _ = not_after(bytes);
                let subject = subject(bytes).unwrap_or_default();
                prop_assert!(subject.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            }
        }
    }
}
