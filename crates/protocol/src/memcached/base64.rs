//! Base64, for keys that are not text. Ours, since decoding happens in place and must accept exactly what memcached accepts.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends the encoded form of `bytes` to `out`.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| chunk.get(index).copied().unwrap_or(0);
        let bits = u32::from_be_bytes([0, byte(0), byte(1), byte(2)]);
        for place in 0..4 {
            out.push(match place <= chunk.len() {
                true => ALPHABET[(bits >> (18 - 6 * place)) as usize & 63],
                false => b'=',
            });
        }
    }
}

/// Decodes `text` in place and returns the length of the result; `None` if it is not valid. Bytes outside the alphabet are skipped, as
/// memcached does.
pub(super) fn decode(text: &mut [u8]) -> Option<usize> {
    let is_valid = |byte: u8| byte == b'=' || value(byte).is_some();
    let count = text.iter().filter(|&&byte| is_valid(byte)).count();
    if count == 0 || !count.is_multiple_of(4) {
        return None;
    }
    let (mut bits, mut filled, mut padding, mut len) = (0_u32, 0, 0, 0);
    for at in 0..text.len() {
        let byte = text[at];
        if !is_valid(byte) {
            continue;
        }
        padding += usize::from(byte == b'=');
        bits = bits << 6 | value(byte).unwrap_or(0);
        filled += 1;
        if filled == 4 {
            // Three bytes replace four or more that were read already.
            text[len..len + 3].copy_from_slice(&bits.to_be_bytes()[1..]);
            len += 3;
            (bits, filled) = (0, 0);
            if padding > 2 {
                return None;
            }
            if padding > 0 {
                len -= padding;
                break;
            }
        }
    }
    Some(len)
}

fn value(byte: u8) -> Option<u32> {
    Some(u32::from(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Option<Vec<u8>> {
        let mut text = text.as_bytes().to_vec();
        let len = decode(&mut text)?;
        text.truncate(len);
        Some(text)
    }

    #[test]
    fn bytes_of_every_length_round_trip() {
        for len in 0..100_u8 {
            let bytes: Vec<u8> = (0..len).map(|byte| byte.wrapping_mul(37)).collect();
            let mut text = Vec::new();
            encode(&bytes, &mut text);
            assert_eq!(text.len(), usize::from(len).div_ceil(3) * 4);
            if len > 0 {
                assert_eq!(decoded(std::str::from_utf8(&text).unwrap()), Some(bytes));
            }
        }
    }

    #[test]
    fn text_that_is_not_base64_is_refused() {
        assert_eq!(decoded("Zm9v"), Some(b"foo".to_vec()));
        assert_eq!(decoded("Zm8="), Some(b"fo".to_vec()));
        assert_eq!(decoded("Zg=="), Some(b"f".to_vec()));
        for text in ["", "Zm9", "Zm9vY", "****", "Z===", "===="] {
            assert_eq!(decoded(text), None, "{text:?}");
        }
    }
}
