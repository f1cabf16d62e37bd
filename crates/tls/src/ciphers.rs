//! The options that choose protocols and ciphers, with OpenSSL's names.

use rustls::crypto::aws_lc_rs::cipher_suite as suite;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

/// The ciphers for TLS 1.3 and their names.
const SUITES_13: &[(&str, SupportedCipherSuite)] = &[
    ("TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        suite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
];

/// The ciphers for TLS 1.2 and OpenSSL's names for them.
const SUITES_12: &[(&str, SupportedCipherSuite)] = &[
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
];

/// OpenSSL's words for groups of ciphers that include all of ours.
const ALL: &[&str] = &[
    "DEFAULT", "ALL", "HIGH", "ECDHE", "kECDHE", "kEECDH", "EECDH", "AEAD", "TLSv1.2",
];

/// OpenSSL's words for groups of ciphers that include none of ours. A list may exclude them.
const NONE: &[&str] = &[
    "aNULL",
    "eNULL",
    "NULL",
    "COMPLEMENTOFALL",
    "COMPLEMENTOFDEFAULT",
    "LOW",
    "MEDIUM",
    "EXP",
    "EXPORT",
    "ADH",
    "AECDH",
    "DH",
    "DHE",
    "EDH",
    "kDHE",
    "kEDH",
    "RSA",
    "kRSA",
    "PSK",
    "kPSK",
    "aPSK",
    "kRSAPSK",
    "kDHEPSK",
    "kECDHEPSK",
    "SRP",
    "kSRP",
    "aSRP",
    "DSS",
    "aDSS",
    "GOST",
    "aGOST",
    "kGOST",
    "MD5",
    "SHA",
    "SHA1",
    "SHA256",
    "SHA384",
    "RC4",
    "RC2",
    "DES",
    "3DES",
    "IDEA",
    "SEED",
    "CAMELLIA",
    "ARIA",
    "CBC",
    "AESCCM",
    "AESCCM8",
    "SSLv3",
    "TLSv1",
    "TLSv1.0",
];

/// The versions that `tls-protocols` names; all supported ones if it is empty.
///
/// # Errors
/// It names others, or none.
pub fn versions(option: &str) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let mut found = Vec::new();
    for word in option.split_ascii_whitespace() {
        let version = match word.to_ascii_lowercase().as_str() {
            "tlsv1.2" => &version::TLS12,
            "tlsv1.3" => &version::TLS13,
            "tlsv1" | "tlsv1.1" => {
                return Err(format!(
                    "tls-protocols: {word} is not supported, because it is not secure. Use TLSv1.2 and TLSv1.3"
                ));
            }
            _ => {
                return Err(format!(
                    "Invalid tls-protocols specified: '{word}'. Use a combination of 'TLSv1.2' and 'TLSv1.3'."
                ));
            }
        };
        if !found.contains(&version) {
            found.push(version);
        }
    }
    match found.is_empty() {
        true => Ok(vec![&version::TLS13, &version::TLS12]),
        false => Ok(found),
    }
}

/// The suites that `tls-ciphersuites` (TLS 1.3) and `tls-ciphers` (TLS 1.2) choose, in this order; empty options choose all.
///
/// # Errors
/// An option names a suite that is not supported, or leaves none.
pub fn suites(ciphersuites: &str, ciphers: &str) -> Result<Vec<SupportedCipherSuite>, String> {
    let mut chosen = choose("tls-ciphersuites", ciphersuites, SUITES_13)?;
    chosen.extend(choose("tls-ciphers", ciphers, SUITES_12)?);
    Ok(chosen)
}

fn choose(
    option: &str,
    list: &str,
    known: &[(&str, SupportedCipherSuite)],
) -> Result<Vec<SupportedCipherSuite>, String> {
    let all = || known.iter().map(|(_, suite)| *suite);
    let mut chosen: Vec<SupportedCipherSuite> = Vec::new();
    let words = list.split([':', ',', ' ']).filter(|word| !word.is_empty());
    for word in words {
        let (excludes, name) = match word.strip_prefix(['!', '-']) {
            Some(name) => (true, name),
            None => (false, word),
        };
        let found: Vec<_> = known
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name) || ALL.contains(&name))
            .map(|(_, suite)| *suite)
            .collect();
        if found.is_empty() && !(excludes && NONE.contains(&name)) {
            let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "{option}: '{word}' is not supported. Choose from {}",
                names.join(":")
            ));
        }
        chosen.retain(|suite| !found.contains(suite));
        if !excludes {
            chosen.extend(found);
        }
    }
    match (chosen.is_empty(), list.trim().is_empty()) {
        (true, true) => Ok(all().collect()),
        (true, false) => Err(format!("{option}: '{list}' leaves no cipher")),
        (false, _) => Ok(chosen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_choose_and_exclude_ciphers() {
        let chosen = |list: &str| {
            let suites = choose("tls-ciphers", list, SUITES_12);
            suites.map(|suites| suites.len())
        };
        assert_eq!(chosen(""), Ok(6));
        assert_eq!(chosen("DEFAULT:!MEDIUM:!aNULL"), Ok(6));
        assert_eq!(chosen("HIGH:!ECDHE-RSA-AES128-GCM-SHA256"), Ok(5));
        assert_eq!(chosen("ECDHE-RSA-AES128-GCM-SHA256"), Ok(1));
        for refused in [
            "AES128-SHA",
            "MEDIUM",
            "DEFAULT:!AES128",
            "DEFAULT:!ALL",
            "@STRENGTH",
        ] {
            assert!(chosen(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn the_order_of_a_list_is_kept() {
        let list = "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";
        let suites = choose("tls-ciphersuites", list, SUITES_13).unwrap();
        assert_eq!(suites, [SUITES_13[1].1, SUITES_13[2].1]);
    }

    #[test]
    fn old_versions_are_refused() {
        assert_eq!(versions("").unwrap().len(), 2);
        assert_eq!(versions("TLSv1.3").unwrap(), [&version::TLS13]);
        assert!(versions("TLSv1.1 TLSv1.2").unwrap_err().contains("secure"));
        assert!(versions("SSLv3").unwrap_err().contains("Invalid"));
    }
}
