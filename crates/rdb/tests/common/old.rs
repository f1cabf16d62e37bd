//! Small writers of old and of foreign encodings, which we only read.

use damselfly_collections::Element;
use damselfly_rdb::Checksum;

/// A file in the making.
pub struct OldFile {
    pub bytes: Vec<u8>,
    version: u32,
}

impl OldFile {
    pub fn new(version: u32) -> Self {
        let header = match version {
            80.. => format!("VALKEY{version:03}"),
            _ => format!("REDIS{version:04}"),
        };
        Self {
            bytes: header.into_bytes(),
            version,
        }
    }

    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A key with a value of this type.
    pub fn entry(mut self, kind: u8, key: &str, value: &[u8]) -> Self {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&string(key.as_bytes()));
        self.raw(value)
    }

    /// The whole file: with end and checksum, if the version has one.
    pub fn end(mut self) -> Vec<u8> {
        self.bytes.push(255);
        if self.version >= 5 {
            let checksum = Checksum::of(&self.bytes);
            self.bytes.extend_from_slice(&checksum.to_le_bytes());
        }
        self.bytes
    }
}

pub fn length(length: u64) -> Vec<u8> {
    match length {
        0..0x40 => vec![length as u8],
        0x40..0x4000 => vec![0x40 | (length >> 8) as u8, length as u8],
        0x4000..0x1_0000_0000 => [&[0x80][..], &(length as u32).to_be_bytes()].concat(),
        _ => [&[0x81][..], &length.to_be_bytes()].concat(),
    }
}

pub fn string(bytes: &[u8]) -> Vec<u8> {
    [length(bytes.len() as u64), bytes.to_vec()].concat()
}

/// So many, then strings.
pub fn strings(count: u64, texts: &[&str]) -> Vec<u8> {
    let texts = texts.iter().map(|text| string(text.as_bytes()));
    [length(count), texts.collect::<Vec<_>>().concat()].concat()
}

/// A ziplist, as a string. Texts of integers become integers.
pub fn ziplist(texts: &[&str]) -> Vec<u8> {
    string(&raw_ziplist(texts))
}

pub fn raw_ziplist(texts: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0; 10];
    let mut previous = 10;
    for text in texts {
        let start = bytes.len();
        match start - previous {
            before @ 0..254 => bytes.push(before as u8),
            before => {
                bytes.push(254);
                bytes.extend_from_slice(&(before as u32).to_le_bytes());
            }
        }
        match Element::new(text.as_bytes()) {
            Element::Integer(number) => ziplist_integer(number, &mut bytes),
            Element::Bytes(text) => {
                match text.len() {
                    len @ 0..64 => bytes.push(len as u8),
                    len @ 64..16384 => {
                        bytes.extend_from_slice(&(0x4000 | len as u16).to_be_bytes())
                    }
                    len => {
                        bytes.push(0x80);
                        bytes.extend_from_slice(&(len as u32).to_be_bytes());
                    }
                }
                bytes.extend_from_slice(text);
            }
        }
        previous = start;
    }
    bytes.push(255);
    let total = bytes.len() as u32;
    bytes[..4].copy_from_slice(&total.to_le_bytes());
    bytes[4..8].copy_from_slice(&(previous as u32).to_le_bytes());
    bytes[8..10].copy_from_slice(&(texts.len() as u16).to_le_bytes());
    bytes
}

fn ziplist_integer(number: i64, bytes: &mut Vec<u8>) {
    let little = number.to_le_bytes();
    let (encoding, width) = match number {
        0..=12 => (0xf1 + number as u8, 0),
        -0x80..=0x7f => (0xfe, 1),
        -0x8000..=0x7fff => (0xc0, 2),
        -0x80_0000..=0x7f_ffff => (0xf0, 3),
        -0x8000_0000..=0x7fff_ffff => (0xd0, 4),
        _ => (0xe0, 8),
    };
    bytes.push(encoding);
    bytes.extend_from_slice(&little[..width]);
}

/// A zipmap, as a string; every value has an unused byte behind it.
pub fn zipmap(texts: &[&str]) -> Vec<u8> {
    let mut bytes = vec![(texts.len() / 2).min(254) as u8];
    for (at, text) in texts.iter().enumerate() {
        match text.len() {
            len @ 0..254 => bytes.push(len as u8),
            len => {
                bytes.push(254);
                bytes.extend_from_slice(&(len as u32).to_le_bytes());
            }
        }
        if at % 2 == 1 {
            bytes.push(1);
        }
        bytes.extend_from_slice(text.as_bytes());
        if at % 2 == 1 {
            bytes.push(b'?');
        }
    }
    bytes.push(255);
    string(&bytes)
}

/// A listpack, as a string.
pub fn listpack(texts: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0; 6];
    for text in texts {
        Element::new(text.as_bytes()).append_to(&mut bytes);
    }
    bytes.push(255);
    let total = bytes.len() as u32;
    bytes[..4].copy_from_slice(&total.to_le_bytes());
    bytes[4..6].copy_from_slice(&(texts.len() as u16).to_le_bytes());
    string(&bytes)
}

/// An intset, as a string.
pub fn intset(width: u32, integers: &[i64]) -> Vec<u8> {
    let mut bytes = [width.to_le_bytes(), (integers.len() as u32).to_le_bytes()].concat();
    for integer in integers {
        bytes.extend_from_slice(&integer.to_le_bytes()[..width as usize]);
    }
    string(&bytes)
}

/// A score as text.
pub fn text_score(score: &str) -> Vec<u8> {
    match score {
        "nan" => vec![253],
        "inf" => vec![254],
        "-inf" => vec![255],
        _ => [&[score.len() as u8], score.as_bytes()].concat(),
    }
}

fn lengths(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|&number| length(number)).collect()
}

fn raw_id(ms: u64, seq: u64) -> Vec<u8> {
    [ms.to_be_bytes(), seq.to_be_bytes()].concat()
}

/// A stream of type 1 to 5: entries 5-1, 5-2 (deleted), 6-0, and a group with a consumer that has 5-1 pending.
pub fn stream(of: u32) -> Vec<u8> {
    let node = listpack(&[
        "2", "1", "2", "a", "b", "0", // live, deleted, names
        "2", "0", "0", "1", "two", "5", // 5-1
        "3", "0", "1", "3", "4", "5", // 5-2, deleted
        "0", "1", "-1", "1", "other", "x", "6", // 6-0
    ]);
    let mut bytes = [length(1), string(&raw_id(5, 1)), node].concat();
    bytes.extend(lengths(&[2, 6, 0]));
    if of >= 2 {
        bytes.extend(lengths(&[5, 1, 5, 2, 3]));
    }
    bytes.extend([length(1), string(b"group"), lengths(&[5, 1])].concat());
    if of >= 2 {
        bytes.extend(length(1));
    }
    bytes.extend(
        [
            length(1),
            raw_id(5, 1),
            1000_u64.to_le_bytes().to_vec(),
            length(2),
        ]
        .concat(),
    );
    bytes.extend(
        [
            length(1),
            string(b"consumer"),
            2000_u64.to_le_bytes().to_vec(),
        ]
        .concat(),
    );
    if of >= 3 {
        bytes.extend(3000_u64.to_le_bytes());
    }
    bytes.extend([length(1), raw_id(5, 1)].concat());
    if of >= 5 {
        bytes.extend(length(0));
    }
    if of >= 4 {
        bytes.extend(lengths(&[100, 1000, 1]));
        bytes.extend(
            [
                string(b"producer"),
                length(1),
                string(b"iid"),
                lengths(&[5, 1, 1, 0]),
            ]
            .concat(),
        );
    }
    bytes
}
