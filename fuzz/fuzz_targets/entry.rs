//! The entry: after any sequence of changes it equals a model of plain variables.
#![no_main]

use damselfly_value::{Attributes, Entry, NewValue, Text};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// Lengths around every boundary of the layout: lengths of one, two and four bytes, and the slack of growing values.
const LENGTHS: [usize; 16] = [
    0, 1, 2, 7, 8, 9, 31, 32, 100, 254, 255, 256, 257, 65_535, 65_536, 70_000,
];

/// The expected contents of an entry.
struct Model {
    entry: Entry,
    key: Vec<u8>,
    text: Vec<u8>,
    deadline_ms: Option<i64>,
    access: u32,
    attributes: Attributes,
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // The only possible error is that the input is used up.
    let _ = drive(&mut Unstructured::new(data));
});

fn drive(source: &mut Unstructured<'_>) -> Result<()> {
    let key = bytes(source)?;
    let mut model = Model {
        entry: Entry::new(&key, NewValue::Integer(0), None),
        key,
        text: b"0".to_vec(),
        deadline_ms: None,
        access: 0,
        attributes: Attributes::NONE,
    };
    while !source.is_empty() {
        model.change(source)?;
        model.check();
    }
    Ok(())
}

impl Model {
    fn change(&mut self, source: &mut Unstructured<'_>) -> Result<()> {
        match source.int_in_range(0..=8_u8)? {
            0 => {
                self.text = bytes(source)?;
                self.attributes = attributes(source)?;
                let value = NewValue::compact(&self.text);
                self.entry.set_with(value, self.attributes);
            }
            1 => {
                self.text = bytes(source)?;
                self.entry.set(NewValue::Bytes(&self.text));
                self.attributes = Attributes::NONE;
            }
            2 => {
                let shift = source.int_in_range(0..=63)?;
                let number = source.arbitrary::<i64>()? >> shift;
                self.text = number.to_string().into_bytes();
                self.entry.set(NewValue::Integer(number));
                self.attributes = Attributes::NONE;
            }
            3 => {
                self.deadline_ms = source.arbitrary()?;
                self.entry.set_deadline_ms(self.deadline_ms);
            }
            4 => {
                let len = *source.choose(&LENGTHS)?;
                self.text.resize(len, 0);
                let edited = self.entry.edit(len);
                assert_eq!(edited, self.text);
                if let (Some(last), byte) = (edited.last_mut(), source.arbitrary()?) {
                    *last = byte;
                    self.text[len - 1] = byte;
                }
                self.attributes = Attributes::NONE;
            }
            5 => {
                self.key = bytes(source)?;
                self.entry = self.entry.view().to_entry(&self.key);
            }
            6 => {
                let text = std::mem::take(&mut self.text);
                self.entry = Entry::new(&self.key, NewValue::compact(&text), self.deadline_ms);
                (self.text, self.access) = (text, 0);
                self.attributes = Attributes::NONE;
            }
            7 => {
                self.attributes = attributes(source)?;
                self.entry.set_attributes(self.attributes);
            }
            _ => {
                self.access = source.arbitrary::<u32>()? >> 8;
                self.entry.view().set_access(self.access);
            }
        }
        Ok(())
    }

    fn check(&self) {
        let view = self.entry.view();
        assert_eq!(view.key(), self.key);
        assert_eq!(view.deadline_ms(), self.deadline_ms);
        assert_eq!(view.has_deadline(), self.deadline_ms.is_some());
        assert_eq!(view.access(), self.access);
        assert_eq!(view.attributes(), self.attributes);
        match view.text().expect("a string") {
            Text::Integer(number) => assert_eq!(number.to_string().as_bytes(), self.text),
            Text::Bytes { bytes, .. } => assert_eq!(bytes, self.text),
            Text::Packed(packed) => assert_eq!(packed.to_vec(), self.text),
        }
        assert!(view.allocated_bytes() >= self.key.len());
    }
}

/// Attributes, often none.
fn attributes(source: &mut Unstructured<'_>) -> Result<Attributes> {
    Ok(Attributes {
        flags: if source.arbitrary()? {
            source.arbitrary()?
        } else {
            0
        },
        cas: source.arbitrary()?,
        is_stale: source.arbitrary()?,
        is_claimed: source.arbitrary()?,
    })
}

/// A text of one of the lengths: a few bytes of the input, repeated.
fn bytes(source: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = *source.choose(&LENGTHS)?;
    let pattern: [u8; 3] = source.arbitrary()?;
    let mut bytes = pattern.repeat(len / pattern.len() + 1);
    bytes.truncate(len);
    Ok(bytes)
}
