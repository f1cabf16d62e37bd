//! Reads DER, the encoding of certificates and keys: nested elements of a tag, a length and content.

/// The tag of a sequence.
pub const SEQUENCE: u8 = 0x30;
/// The tag of an integer.
pub const INTEGER: u8 = 0x02;
/// The tag of a string of bytes.
pub const OCTET_STRING: u8 = 0x04;
/// The tag of an object identifier.
pub const OBJECT_IDENTIFIER: u8 = 0x06;

/// The elements of some DER that are not read yet.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'d> {
    bytes: &'d [u8],
}

impl<'d> Reader<'d> {
    /// Reads the elements in `bytes`.
    pub fn new(bytes: &'d [u8]) -> Self {
        Self { bytes }
    }

    /// The tag of the next element.
    pub fn tag(&self) -> Option<u8> {
        self.bytes.first().copied()
    }

    /// The tag and the content of the next element; `None` if it is incomplete or its length is not in DER.
    pub fn next(&mut self) -> Option<(u8, &'d [u8])> {
        let (&tag, rest) = self.bytes.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // Longer lengths than three bytes do not occur in files of a sane size.
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let len = bytes
                    .iter()
                    .fold(0, |len, &byte| len << 8 | usize::from(byte));
                (len, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.bytes = rest;
        Some((tag, content))
    }

    /// The content of the next element, if it has this tag.
    pub fn expect(&mut self, tag: u8) -> Option<&'d [u8]> {
        match self.next()? {
            (found, content) if found == tag => Some(content),
            _ => None,
        }
    }

    /// The elements of the next element, which is a sequence.
    pub fn sequence(&mut self) -> Option<Reader<'d>> {
        self.expect(SEQUENCE).map(Reader::new)
    }

    /// The next element, an integer that is not negative and fits.
    pub fn integer(&mut self) -> Option<u64> {
        let bytes = self.expect(INTEGER)?;
        let is_fit = bytes.len() <= 9 && bytes.first().is_some_and(|first| first & 0x80 == 0);
        is_fit.then(|| {
            bytes
                .iter()
                .fold(0, |number, &byte| number << 8 | u64::from(byte))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_in_order() {
        let mut long = vec![SEQUENCE, 0x82, 1, 0];
        long.extend([7; 256]);
        let mut bytes = vec![INTEGER, 2, 1, 0];
        bytes.extend(&long);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.tag(), Some(INTEGER));
        assert_eq!(reader.integer(), Some(256));
        assert_eq!(reader.expect(SEQUENCE), Some(&[7; 256][..]));
        assert_eq!(reader.next(), None);
    }

    #[test]
    fn incomplete_elements_are_refused() {
        for bytes in [
            &[][..],
            &[SEQUENCE],
            &[SEQUENCE, 1],
            &[SEQUENCE, 0x82, 1],
            &[SEQUENCE, 0x80],
            &[SEQUENCE, 0x84, 0, 0, 0, 0],
        ] {
            assert_eq!(Reader::new(bytes).next(), None, "{bytes:?}");
        }
        assert_eq!(Reader::new(&[INTEGER, 1, 0x80]).integer(), None);
        assert_eq!(Reader::new(&[INTEGER, 0]).integer(), None);
    }
}
