//! Owns: the text form of a certificate's subject: RFC 4514, in printable ASCII.
//! Invariant: two subjects never have the same text, and the text is always a valid field value.
//! Must not know: whether the certificate is trusted.

use std::fmt::Write;

use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::ToDer;
use x509_parser::prelude::{AttributeTypeAndValue, FromDer, GeneralName, X509Certificate, X509Name};

/// The request header that passes the subject of the client's certificate to a backend, in the notation of RFC 4514.
/// Like every `Linchpin-*` field, it is removed from what a client sends.
pub const SUBJECT_FIELD: &str = "linchpin-client-subject";

/// The longest text, in bytes. A longer one is not cut, since its beginning may be the subject of another client.
const MAX_BYTES: usize = 4096;

/// The attribute names of RFC 4514 §3; any other attribute is written with its object identifier.
const ATTRIBUTE_NAMES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// Returns the value of [`SUBJECT_FIELD`]. A certificate without a subject has its first alternative name instead:
/// `URI:spiffe://…`, `DNS:…`, `EMAIL:…`. `None` if it has neither, or the text is too long.
pub(super) fn field_value(der: &CertificateDer<'_>) -> Option<HeaderValue> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut text = rfc4514(certificate.subject());
    if text.is_empty() {
        let names = certificate.subject_alternative_name().ok()??;
        text = names.value.general_names.iter().find_map(alternative_name)?;
    }
    HeaderValue::try_from(text).ok().filter(|value| value.len() <= MAX_BYTES)
}

/// Writes a name in the notation of RFC 4514: the most specific part first.
pub(super) fn rfc4514(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let number = attribute.attr_type().to_id_string();
    let word = ATTRIBUTE_NAMES.iter().find(|(known, _)| *known == number);
    match (word, attribute.as_str()) {
        (Some((_, word)), Ok(value)) => format!("{word}={}", escaped(value)),
        _ => {
            let bytes = attribute.attr_value().to_der_vec().unwrap_or_default();
            bytes.iter().fold(format!("{number}=#"), |mut text, byte| {
                // Writing to a string can't fail.
                let _ = write!(text, "{byte:02x}");
                text
            })
        }
    }
}

fn alternative_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::URI(uri) => Some(format!("URI:{}", escaped(uri))),
        GeneralName::DNSName(name) => Some(format!("DNS:{}", escaped(name))),
        GeneralName::RFC822Name(name) => Some(format!("EMAIL:{}", escaped(name))),
        _ => None,
    }
}

/// Escapes a value as RFC 4514 §2.4 does, and every byte that is not printable ASCII as `\` and two digits.
fn escaped(value: &str) -> String {
    let last = value.len().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => text.extend(['\\', byte.into()]),
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(byte.into()),
            // Writing to a string can't fail.
            _ => drop(write!(text, "\\{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_separates_is_escaped() {
        for (value, text) in [
            ("alice", "alice"),
            ("a,CN=root", "a\\,CN=root"),
            ("a+b;c<d>e\"f\\", "a\\+b\\;c\\<d\\>e\\\"f\\\\"),
            ("#1", "\\#1"),
            (" a b ", "\\ a b\\ "),
            (" ", "\\ "),
            ("", ""),
            ("Zoë\r\nX: y\0", "Zo\\C3\\AB\\0D\\0AX: y\\00"),
        ] {
            assert_eq!(escaped(value), text);
        }
    }

    proptest! {
        #[test]
        fn a_value_is_a_valid_field_value_and_can_be_read_back(value in any::<String>()) {
            let text = escaped(&value);
            prop_assert!(HeaderValue::try_from(&text).is_ok());
            let (mut read, mut rest) = (Vec::new(), text.bytes());
            while let Some(byte) = rest.next() {
                prop_assert!(byte == b' ' || byte.is_ascii_graphic());
                match (byte, rest.clone().next()) {
                    (b'\\', Some(digit)) if digit.is_ascii_hexdigit() => {
                        let pair = [digit, rest.nth(1).unwrap()];
                        read.push(u8::from_str_radix(std::str::from_utf8(&pair).unwrap(), 16).unwrap());
                    }
                    (b'\\', _) => read.push(rest.next().unwrap()),
                    _ => read.push(byte),
                }
            }
            prop_assert_eq!(read, value.as_bytes());
        }
    }
}
