//! What memcached clients keep with a string besides its bytes. `docs/decisions/0022-memcached.md` says why it is stored so.

use crate::block::{Block, Shape};
use crate::{Entry, EntryRef};

/// Client flags are stored. This bit and the next have the value of the number of bytes that they stand for.
pub(crate) const FLAGS_BIT: u8 = 4;
/// A CAS number is stored.
pub(crate) const CAS_BIT: u8 = 8;
const STALE_BIT: u8 = 16;
const CLAIMED_BIT: u8 = 32;
/// The letters that stand for marks in texts.
const STALE: u8 = b'X';
const CLAIMED: u8 = b'Z';
/// The bits of an attribute byte that are the width of the lengths.
pub(crate) const WIDTH_BITS: u8 = 3;

const _: () =
    assert!(size_of::<u32>() == FLAGS_BIT as usize && size_of::<u64>() == CAS_BIT as usize);

/// What memcached clients keep with a string besides its bytes. A string that is set without attributes has none, and stores none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Bits that are only for the client.
    pub flags: u32,
    /// The CAS number, if a client has asked for one since the value changed.
    pub cas: Option<u64>,
    /// The value is out of date, but may be used until a client has replaced it.
    pub is_stale: bool,
    /// A client has been told to replace the value.
    pub is_claimed: bool,
}

impl Attributes {
    /// No attributes.
    pub const NONE: Self = Self {
        flags: 0,
        cas: None,
        is_stale: false,
        is_claimed: false,
    };

    /// Only client flags.
    pub const fn of_flags(flags: u32) -> Self {
        Self {
            flags,
            ..Self::NONE
        }
    }

    /// How files and the log show the attributes; `None` if there are none. CAS numbers are left out: they are valid in one process only.
    pub fn to_text(self) -> Option<String> {
        let Self {
            flags,
            cas: _,
            is_stale,
            is_claimed,
        } = self;
        if flags == 0 && !is_stale && !is_claimed {
            return None;
        }
        let marks = [(is_stale, STALE), (is_claimed, CLAIMED)];
        let marks = marks
            .iter()
            .filter(|(is_set, _)| *is_set)
            .map(|(_, mark)| char::from(*mark));
        Some(flags.to_string() + &String::from_iter(marks))
    }

    /// The attributes that a text of [`Attributes::to_text`] shows; `None` for any other text.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?;
        let marks_at = text.find(|letter: char| !letter.is_ascii_digit());
        let (flags, marks) = text.split_at(marks_at.unwrap_or(text.len()));
        let mut attributes = Self::of_flags(flags.parse().ok()?);
        for mark in marks.bytes() {
            match mark {
                STALE => attributes.is_stale = true,
                CLAIMED => attributes.is_claimed = true,
                _ => return None,
            }
        }
        Some(attributes)
    }

    /// The bits of the attribute byte; zero if there are no attributes.
    #[inline]
    pub(crate) fn bits(self) -> u8 {
        let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        bit(self.flags != 0, FLAGS_BIT)
            | bit(self.cas.is_some(), CAS_BIT)
            | bit(self.is_stale, STALE_BIT)
            | bit(self.is_claimed, CLAIMED_BIT)
    }
}

impl Block {
    /// Writes the flags and the CAS number to where `shape` has them.
    #[inline]
    pub(crate) fn write_attributes(self, shape: Shape, attributes: Attributes) {
        debug_assert_eq!(shape.attributes, attributes.bits());
        if shape.attributes == 0 {
            return;
        }
        let mut at = shape.attributes_at();
        if attributes.flags != 0 {
            self.write(at, attributes.flags.to_le_bytes());
            at += size_of::<u32>();
        }
        if let Some(cas) = attributes.cas {
            self.write(at, cas.to_le_bytes());
        }
    }

    pub(crate) fn read_attributes(self, shape: Shape) -> Attributes {
        let has = |bit: u8| shape.attributes & bit != 0;
        let mut at = shape.attributes_at();
        let mut attributes = Attributes {
            is_stale: has(STALE_BIT),
            is_claimed: has(CLAIMED_BIT),
            ..Attributes::NONE
        };
        if has(FLAGS_BIT) {
            attributes.flags = u32::from_le_bytes(self.read(at));
            at += size_of::<u32>();
        }
        if has(CAS_BIT) {
            attributes.cas = Some(u64::from_le_bytes(self.read(at)));
        }
        attributes
    }
}

impl Entry {
    /// Replaces the attributes and keeps everything else.
    pub fn set_attributes(&mut self, attributes: Attributes) {
        let old = self.0.shape();
        let new = Shape {
            attributes: attributes.bits(),
            ..old
        };
        if new.attributes != old.attributes {
            self.reshape(new, new.total());
        }
        self.0.write_attributes(new, attributes);
    }

    /// Drops the CAS number, for a copy or a moved entry: its number was given to clients for another key, or before the key was gone.
    pub fn drop_cas(&mut self) {
        let attributes = self.view().attributes();
        if attributes.cas.is_some() {
            self.set_attributes(Attributes {
                cas: None,
                ..attributes
            });
        }
    }
}

impl EntryRef<'_> {
    /// The attributes.
    #[inline]
    pub fn attributes(self) -> Attributes {
        let shape = self.block().shape();
        if shape.attributes == 0 {
            return Attributes::NONE;
        }
        self.block().read_attributes(shape)
    }
}
