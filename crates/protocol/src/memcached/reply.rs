//! Writes parts of replies.

/// Appends a line.
#[inline]
pub fn line(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a number.
#[inline]
pub fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends the line before a value of a classic retrieval. The value and another line end follow.
#[inline]
pub fn value_header(out: &mut Vec<u8>, key: &[u8], flags: u32, len: usize, cas: Option<u64>) {
    /// All but key and value: words, three numbers, two line ends, and the `END` that often follows.
    const OVERHEAD_BYTES: usize = 80;
    out.reserve(key.len() + len + OVERHEAD_BYTES);
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    match flags {
        0 => out.extend_from_slice(b" 0 "),
        flags => {
            out.push(b' ');
            number(out, flags.into());
            out.push(b' ');
        }
    }
    match len {
        10..100 => {
            let (tens, ones) = (b'0' + (len / 10) as u8, b'0' + (len % 10) as u8);
            out.extend_from_slice(&[tens, ones]);
        }
        _ => number(out, len as u64),
    }
    if let Some(cas) = cas {
        out.push(b' ');
        number(out, cas);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends one figure of `stats`.
pub fn stat(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in ["STAT ", name, " ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}
