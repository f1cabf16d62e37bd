//! What memcached's clients keep with a string, as a metadata field in front of its key.
//!
//! ```text
//! AUX | "mc-item" | flags in decimal, then X if the value is stale, and Z if a client was told to replace it
//! ```
//!
//! Redis and Valkey skip metadata fields that they do not know, wherever they are.

use damselfly_collections::Element;
use damselfly_value::Attributes;

/// The name of the field.
pub(crate) const NAME: &[u8] = b"mc-item";

/// The attributes that a value of the field stands for; `None` if it is none.
pub(crate) fn parse(value: Element<'_>) -> Option<Attributes> {
    match value {
        Element::Integer(number) => u32::try_from(number).ok().map(Attributes::of_flags),
        Element::Bytes(text) => Attributes::from_text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_but_for_the_cas_number() {
        for flags in [0, 1, 77, u32::MAX] {
            for (is_stale, is_claimed) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                let attributes = Attributes {
                    flags,
                    cas: None,
                    is_stale,
                    is_claimed,
                };
                let with_cas = Attributes {
                    cas: Some(5),
                    ..attributes
                };
                match with_cas.to_text() {
                    Some(text) => {
                        assert_eq!(parse(Element::Bytes(text.as_bytes())), Some(attributes));
                    }
                    None => assert_eq!(attributes, Attributes::NONE),
                }
            }
        }
        assert_eq!(parse(Element::Integer(9)), Some(Attributes::of_flags(9)));
    }

    #[test]
    fn a_value_of_another_form_is_refused() {
        for text in ["", "X", "-1", "1Y", "4294967296", "1X1", "\u{7f}"] {
            assert_eq!(parse(Element::Bytes(text.as_bytes())), None, "{text}");
        }
        assert_eq!(parse(Element::Integer(-1)), None);
        assert_eq!(parse(Element::Integer(1 << 32)), None);
    }
}
