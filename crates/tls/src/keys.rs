//! Private keys in PEM, plain or encrypted.
//!
//! rustls reads plain keys. Encrypted ones are decrypted here, if their encryption is what OpenSSL 1.1 and later write by default:
//! PBES2 with PBKDF2 and AES in CBC mode (RFC 8018):
//!
//! ```text
//! EncryptedPrivateKeyInfo = sequence { sequence { PBES2, parameters }, encrypted: octet string }
//! parameters              = sequence { sequence { PBKDF2, derivation }, sequence { cipher, iv: octet string } }
//! derivation              = sequence { salt: octet string, iterations, key length?, function? }
//! ```

use std::num::NonZeroU32;
use std::path::Path;

use aws_lc_rs::cipher::{self, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::der::{INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, Reader, SEQUENCE};

/// The largest file that is read as a certificate or a key.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// The most iterations of PBKDF2. They take a few seconds.
const ITERATIONS_MAX: u64 = 10_000_000;

const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
/// The functions for PBKDF2: HMAC with SHA-1, SHA-256, SHA-384 and SHA-512.
const HMAC: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02];
/// AES in all its modes.
const AES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01];

/// How to make a key that can be read.
const CONVERT: &str = "convert it with: openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out NEW";

/// Reads a private key from a PEM file. `password` is for an encrypted one; empty means none. `password_option` names its option.
///
/// # Errors
/// Why this is impossible, and what the user can do.
pub fn load(
    path: &Path,
    password: &str,
    password_option: &str,
) -> Result<PrivateKeyDer<'static>, String> {
    let text = read_text(path)?;
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(format!(
            "the key is encrypted in OpenSSL's old format, which is not supported; {CONVERT}"
        ));
    }
    // The reader of PEM does not know the label of encrypted keys, only that of plain ones.
    let label = "BEGIN ENCRYPTED PRIVATE KEY-----";
    if text.contains(label) {
        let renamed = text.replace("ENCRYPTED PRIVATE KEY", "PRIVATE KEY");
        let encrypted = PrivatePkcs8KeyDer::from_pem_slice(renamed.as_bytes())
            .map_err(|error| format!("it is no key in PEM: {error}"))?;
        if password.is_empty() {
            return Err(format!("the key is encrypted: set {password_option}"));
        }
        let mut reader = Reader::new(encrypted.secret_pkcs8_der());
        let encrypted = Encrypted::parse(&mut reader)
            .ok_or_else(|| format!("the encryption of the key is not supported; {CONVERT}"))?;
        let key = encrypted.decrypt(password.as_bytes()).ok_or_else(|| {
            format!(
                "the key can't be decrypted: {password_option} is wrong, or the file is damaged"
            )
        })?;
        return Ok(PrivatePkcs8KeyDer::from(key).into());
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            String::from("it contains no private key in PEM")
        }
        error => format!("it is no key in PEM: {error}"),
    })
}

/// Reads a file of certificates or keys.
///
/// # Errors
/// It can't be read, or can't be such a file.
pub fn read_text(path: &Path) -> Result<String, String> {
    let bytes = std::fs::metadata(path)
        .and_then(
            |metadata| match metadata.is_file() && metadata.len() <= FILE_BYTES_MAX {
                true => std::fs::read(path),
                false => Err(std::io::Error::other("not a file of at most 16 MiB")),
            },
        )
        .map_err(|error| error.to_string())?;
    // Anything may stand between the blocks of PEM, in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// An encrypted key, and how to decrypt it.
struct Encrypted<'d> {
    derivation: pbkdf2::Algorithm,
    salt: &'d [u8],
    iterations: NonZeroU32,
    /// The cipher and the length of its keys in bytes.
    cipher: (&'static cipher::Algorithm, usize),
    iv: [u8; 16],
    bytes: &'d [u8],
}

impl<'d> Encrypted<'d> {
    /// `None` if it is encrypted in another way.
    fn parse(reader: &mut Reader<'d>) -> Option<Self> {
        let mut outer = reader.sequence()?;
        let mut scheme = outer.sequence()?;
        let bytes = outer.expect(OCTET_STRING)?;
        if scheme.expect(OBJECT_IDENTIFIER)? != PBES2 {
            return None;
        }
        let mut parameters = scheme.sequence()?;
        let mut key = parameters.sequence()?;
        if key.expect(OBJECT_IDENTIFIER)? != PBKDF2 {
            return None;
        }
        let mut derivation = key.sequence()?;
        let salt = derivation.expect(OCTET_STRING)?;
        let iterations = derivation.integer().filter(|&n| n <= ITERATIONS_MAX)?;
        if derivation.tag() == Some(INTEGER) {
            derivation.next()?;
        }
        let function = match derivation.tag() {
            Some(SEQUENCE) => *derivation
                .sequence()?
                .expect(OBJECT_IDENTIFIER)?
                .strip_prefix(HMAC)?
                .first()?,
            _ => 7,
        };
        let mut encryption = parameters.sequence()?;
        let mode = encryption
            .expect(OBJECT_IDENTIFIER)?
            .strip_prefix(AES)?
            .first()?;
        Some(Self {
            derivation: match function {
                7 => pbkdf2::PBKDF2_HMAC_SHA1,
                9 => pbkdf2::PBKDF2_HMAC_SHA256,
                10 => pbkdf2::PBKDF2_HMAC_SHA384,
                11 => pbkdf2::PBKDF2_HMAC_SHA512,
                _ => return None,
            },
            salt,
            iterations: NonZeroU32::new(u32::try_from(iterations).ok()?)?,
            cipher: match mode {
                2 => (&cipher::AES_128, 16),
                22 => (&cipher::AES_192, 24),
                42 => (&cipher::AES_256, 32),
                _ => return None,
            },
            iv: encryption.expect(OCTET_STRING)?.try_into().ok()?,
            bytes,
        })
    }

    fn decrypt(&self, password: &[u8]) -> Option<Vec<u8>> {
        let (cipher, key_bytes) = self.cipher;
        let mut key = vec![0; key_bytes];
        pbkdf2::derive(
            self.derivation,
            self.iterations,
            self.salt,
            password,
            &mut key,
        );
        let key = UnboundCipherKey::new(cipher, &key).ok()?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
        let mut bytes = self.bytes.to_vec();
        let context = DecryptionContext::Iv128(FixedLength::from(self.iv));
        let plain = key.decrypt(&mut bytes, context).ok()?;
        // With a wrong password, the padding may seem right by chance.
        let is_key = Reader::new(plain).sequence()?.integer().is_some();
        is_key.then(|| plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgd49ZyUytx5s0kgrw
BDURxmd2kzMHqRmFD5LtahgyXCyhRANCAAQjHykf3hto1Pu9HGawhBDfk8oPh15P
4B4EC4m02AJdc2AAizlouDLTRo6qsQFtfir0YyIk9i/MhHGwS6a9Tlar
-----END PRIVATE KEY-----
";
    /// With OpenSSL 3's defaults: AES-256 and SHA-256.
    const ENCRYPTED: &str = "\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAhWmW73lbuYMQICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEM23F/Nr9MTVJcmX1hpwNl8EgZCG
z832Ea6iqneG3s8Q+ciI/CfJNQZz/TBsbrkXK15m8iCatxdQ+M07Zt47o/yp1bU/
QgBMyqJA0x9LBF5+xr/MLddJDmYiP41PG2tvxWm7wue3I7ORXcPb65xX2b06JhWF
Gd1qUfwKVjLYfsBUNw02LWRX3YgT5ja5cyWbVTrgtzJGU2z/tgKYGj6JPJlUN1A=
-----END ENCRYPTED PRIVATE KEY-----
";
    /// With AES-128 and SHA-1.
    const ENCRYPTED_SHORT: &str = "\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHeMEkGCSqGSIb3DQEFDTA8MBsGCSqGSIb3DQEFDDAOBAh1lr9y00i1BgICCAAw
HQYJYIZIAWUDBAECBBAGGVBamr6ECcVQEt2Icgb8BIGQbRdpa6O90Vy9jGifnzD1
+QY8y19v1IO5/iWZvki3u5pbVJwkczE/UfY+8PVX1gpYTdtGlKnc3pDWRY/Gsljs
kEVviexhVPQjFPIcP/qXIUq/oeDcfvJnzEME25WhYr8ydJeta+Yv6R+jxUg31JbT
IbtX27J4f7xriBVmlzJhR8QRemQzcBrEg7lMKKDMc8l4
-----END ENCRYPTED PRIVATE KEY-----
";
    const SCRYPT: &str = "\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHkME8GCSqGSIb3DQEFDTBCMCEGCSsGAQQB2kcECzAUBAhF2sr0/sOEDQICQAAC
AQgCAQEwHQYJYIZIAWUDBAEqBBAjxUFNcTJe2yfehLb5mDe8BIGQG9NRVDqM+R3u
7bySNAIFDY4Oz40adbG5rPZ8CGPn87wKJ8fhtA7ika1sQeaD1OgD+YyQkBCEECl9
HioQSApys1axuS6ecAxX5W+QrR/4knww7VCg3B5lDUsAI5QG9JSoD4ivwqMtxEs+
dFNCQtrrDhqsZMbeFKUkO2ORl7EspWpaOekxGohK1DWLWDlwTNb0
-----END ENCRYPTED PRIVATE KEY-----
";
    const OLD_FORMAT: &str = "\
-----BEGIN EC PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-256-CBC,7E9028CD4DF67D44F2E579C2F8AB6FBE

FrGB7lCYP5w+tQrrXtunGV8elwFAkHU8Z6hpAwQxeSEGih6ZMGKeVrHD0XAzI/80
nSra6Ig6x8nQt2S4jqk7IppQua9KFSaAv31mamTHsNhadSwv+cS1RCrgYJYJbceE
2mSZN/GVeNqDgpoq/642TIgb2j/Mx9LsGoW18mQhL8Q=
-----END EC PRIVATE KEY-----
";

    /// Loads a key from a file with this text.
    fn load_text(text: &str, password: &str) -> Result<PrivateKeyDer<'static>, String> {
        let name = format!("damselfly-key-{:?}.pem", std::thread::current().id());
        let path = std::env::temp_dir().join(format!("{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let loaded = load(&path, password, "tls-key-file-pass");
        std::fs::remove_file(&path).unwrap();
        loaded
    }

    #[test]
    fn encrypted_keys_are_decrypted() {
        let plain = load_text(PLAIN, "").unwrap();
        for encrypted in [ENCRYPTED, ENCRYPTED_SHORT] {
            assert_eq!(load_text(encrypted, "secret").unwrap(), plain);
            assert_eq!(
                load_text(encrypted, "").unwrap_err(),
                "the key is encrypted: set tls-key-file-pass"
            );
            let wrong = load_text(encrypted, "Secret").unwrap_err();
            assert!(wrong.contains("tls-key-file-pass is wrong"), "{wrong}");
        }
        // An unneeded password does no harm, as with OpenSSL.
        assert_eq!(load_text(PLAIN, "secret").unwrap(), plain);
    }

    #[test]
    fn other_encryption_is_refused_with_a_way_out() {
        for text in [SCRYPT, OLD_FORMAT] {
            let refused = load_text(text, "secret").unwrap_err();
            assert!(
                refused.contains("not supported") && refused.contains("openssl pkcs8"),
                "{refused}"
            );
        }
        let refused = load_text("nothing", "").unwrap_err();
        assert_eq!(refused, "it contains no private key in PEM");
        assert!(
            load(Path::new("/nowhere"), "", "")
                .unwrap_err()
                .contains("No such file")
        );
    }
}
