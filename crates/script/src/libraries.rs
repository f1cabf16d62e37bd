//! All loaded libraries of the server, and their payload for DUMP and RESTORE:
//!
//! ```text
//! library... | format version: u16 LE | CRC-64 of all preceding bytes: u64 LE
//! library: 0xf5 | string: code
//!       or, in release candidates of Redis 7.0, 0xf6 | strings: name, engine | 0, or 1 and string: description | string: code
//! string: length, 6 bits | 01 and 14 bits | 0x80 and u32 BE | 0x81 and u64 BE; then the bytes
//!         or 0xc3, compressed length, length, then bytes compressed by LZF
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use damselfly_base::CommandError;

use crate::function_registration::{Function, Library, parse_first_line};

const LIBRARY_OPCODE: u8 = 0xf5;
const OLD_LIBRARY_OPCODE: u8 = 0xf6;
/// The format version that we write, and the newest that we read.
const FORMAT_VERSION: u16 = 10;
/// The size of an entry in the table of all functions.
const FUNCTION_SLOT_BYTES: usize = size_of::<(String, (Arc<Library>, usize))>();
const FOOTER_BYTES: usize = 10;

/// How FUNCTION RESTORE handles existing libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestorePolicy {
    /// Removes all of them.
    Flush,
    /// Keeps them; an existing library of the same name is an error.
    Append,
    /// Replaces those of the same name and keeps the others.
    Replace,
}

/// All libraries.
#[derive(Clone, Debug, Default)]
pub struct Libraries {
    libraries: BTreeMap<String, Arc<Library>>,
    /// Functions by name in lower case: the library, and the function's index in it.
    functions: HashMap<String, (Arc<Library>, usize)>,
    next_id: u64,
}

impl Libraries {
    /// No libraries.
    pub fn new() -> Libraries {
        Libraries::default()
    }

    /// A new id for [`crate::Interpreter::load_library`].
    pub fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Checks that a text may be loaded: its first line is valid, and its name is free or `replace` is set.
    ///
    /// # Errors
    /// The error reply if it may not.
    pub fn check(&self, code: &[u8], replace: bool) -> Result<(), CommandError> {
        let (name, _) = parse_first_line(code)?;
        if !replace && self.libraries.contains_key(&name) {
            return Err(CommandError::err(format!(
                "Library '{name}' already exists"
            )));
        }
        Ok(())
    }

    /// Adds a library, and replaces the one with the same name.
    ///
    /// # Errors
    /// The error reply if another library has a function of the same name. Nothing changes then.
    pub fn insert(&mut self, library: impl Into<Arc<Library>>) -> Result<(), CommandError> {
        let library = library.into();
        for function in &library.functions {
            if let Some((other, _)) = self.functions.get(&function.name.to_ascii_lowercase())
                && other.name != library.name
            {
                let name = &function.name;
                return Err(CommandError::err(format!("Function {name} already exists")));
            }
        }
        self.remove_named(&library.name);
        for (index, function) in library.functions.iter().enumerate() {
            let place = (Arc::clone(&library), index);
            let name = function.name.to_ascii_lowercase();
            self.functions.insert(name, place);
        }
        self.libraries.insert(library.name.clone(), library);
        Ok(())
    }

    /// Removes a library (FUNCTION DELETE).
    ///
    /// # Errors
    /// There is no library of this name.
    pub fn remove(&mut self, name: &[u8]) -> Result<(), CommandError> {
        match str::from_utf8(name) {
            Ok(name) if self.remove_named(name) => Ok(()),
            Ok(_) | Err(_) => Err(CommandError::err("Library not found")),
        }
    }

    fn remove_named(&mut self, name: &str) -> bool {
        let Some(library) = self.libraries.remove(name) else {
            return false;
        };
        for function in &library.functions {
            self.functions.remove(&function.name.to_ascii_lowercase());
        }
        true
    }

    /// Removes all libraries (FUNCTION FLUSH).
    pub fn clear(&mut self) {
        self.libraries.clear();
        self.functions.clear();
    }

    /// The library of a function, and the function's index in it. Names ignore case.
    pub fn function(&self, name: &[u8]) -> Option<(&Arc<Library>, usize)> {
        let (library, index) = self
            .functions
            .get(&str::from_utf8(name).ok()?.to_ascii_lowercase())?;
        Some((library, *index))
    }

    /// All libraries, ordered by name (FUNCTION LIST).
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Library>> {
        self.libraries.values()
    }

    /// Whether the library with this name and id is loaded (see [`crate::Interpreter::retain_libraries`]).
    pub fn contains(&self, name: &str, id: u64) -> bool {
        self.libraries
            .get(name)
            .is_some_and(|library| library.id == id)
    }

    /// How many libraries there are.
    pub fn len(&self) -> usize {
        self.libraries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.libraries.is_empty()
    }

    /// How many functions all libraries have.
    pub fn functions_len(&self) -> usize {
        self.functions.len()
    }

    /// Bytes that they take, without their copies in interpreters.
    pub fn bytes(&self) -> usize {
        let of_library = |library: &Arc<Library>| {
            let names = library.functions.iter().map(|function| {
                let description = function.description.as_ref().map_or(0, Vec::len);
                // Each name is stored in the library and in the table of all functions.
                2 * function.name.len() + description + size_of::<Function>() + FUNCTION_SLOT_BYTES
            });
            let own = library.code.len() + library.name.len();
            own + size_of::<Library>() + names.sum::<usize>()
        };
        size_of::<Self>() + self.libraries.values().map(of_library).sum::<usize>()
    }

    /// The payload of all libraries (FUNCTION DUMP).
    pub fn dump(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        for library in self.libraries.values() {
            payload.push(LIBRARY_OPCODE);
            push_len(&mut payload, library.code.len());
            payload.extend_from_slice(&library.code);
        }
        payload.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        let checksum = crc64(&payload);
        payload.extend_from_slice(&checksum.to_le_bytes());
        payload
    }

    /// Adds the libraries of a payload (FUNCTION RESTORE). `load` gets each text and an id, for
    /// [`crate::Interpreter::load_library`].
    ///
    /// # Errors
    /// The error reply if the payload is invalid, or a library does not load or may not be added. Nothing
    /// changes then.
    pub fn restore(
        &mut self,
        payload: &[u8],
        policy: RestorePolicy,
        mut load: impl FnMut(&[u8], u64) -> Result<Library, CommandError>,
    ) -> Result<(), CommandError> {
        let mut rest = checked(payload)?;
        let mut loaded = Self {
            next_id: self.next_id,
            ..Self::default()
        };
        while let Some(code) = take_library(&mut rest)? {
            loaded.check(&code, false)?;
            let id = loaded.next_id();
            loaded.insert(load(&code, id)?)?;
        }
        // All or nothing: build the new state separately from the old one.
        let mut restored = match policy {
            RestorePolicy::Flush => Self::default(),
            RestorePolicy::Append | RestorePolicy::Replace => self.clone(),
        };
        restored.next_id = loaded.next_id;
        for name in loaded.libraries.keys() {
            if restored.remove_named(name) && policy == RestorePolicy::Append {
                return Err(CommandError::err(format!("Library {name} already exists")));
            }
        }
        for library in loaded.libraries.into_values() {
            restored.insert(library)?;
        }
        *self = restored;
        Ok(())
    }
}

/// A payload without its footer, which is checked.
fn checked(payload: &[u8]) -> Result<&[u8], CommandError> {
    let wrong = || CommandError::err("DUMP payload version or checksum are wrong");
    let body_len = payload.len().checked_sub(FOOTER_BYTES).ok_or_else(wrong)?;
    let (checked, checksum) = payload
        .split_last_chunk()
        .map(|(checked, checksum)| (checked, u64::from_le_bytes(*checksum)))
        .ok_or_else(wrong)?;
    let (body, version) = checked.split_at(body_len);
    let version = u16::from_le_bytes(version.try_into().map_err(|_| wrong())?);
    if version > FORMAT_VERSION || crc64(checked) != checksum {
        return Err(wrong());
    }
    Ok(body)
}

/// The text of the next library; `None` at the end.
fn take_library(rest: &mut &[u8]) -> Result<Option<Vec<u8>>, CommandError> {
    let Some((&opcode, after)) = rest.split_first() else {
        return Ok(None);
    };
    *rest = after;
    let failed = |what: &str| CommandError::err(format!("Failed loading library {what}"));
    match opcode {
        LIBRARY_OPCODE => {
            let code = take_string(rest).ok_or_else(|| failed("payload"))?;
            Ok(Some(code))
        }
        OLD_LIBRARY_OPCODE => {
            let name = take_string(rest).ok_or_else(|| failed("name"))?;
            let engine =
                take_string(rest).ok_or_else(|| CommandError::err("Failed loading engine name"))?;
            let described = take_len(rest).ok_or_else(|| failed("description indicator"))?;
            if described != 0 {
                take_string(rest).ok_or_else(|| failed("description"))?;
            }
            let code = take_string(rest).ok_or_else(|| failed("blob"))?;
            let parts: [&[u8]; 6] = [b"#!", &engine, b" name=", &name, b"\n", &code];
            Ok(Some(parts.concat()))
        }
        _ => Err(CommandError::err("given type is not a function")),
    }
}

fn push_len(out: &mut Vec<u8>, len: usize) {
    match len {
        ..0x40 => out.push(len as u8),
        0x40..0x4000 => out.extend_from_slice(&[0x40 | (len >> 8) as u8, len as u8]),
        _ => match u32::try_from(len) {
            Ok(len) => {
                out.push(0x80);
                out.extend_from_slice(&len.to_be_bytes());
            }
            Err(_) => {
                out.push(0x81);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        },
    }
}

fn take<'p>(rest: &mut &'p [u8], len: usize) -> Option<&'p [u8]> {
    let (taken, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(taken)
}

/// A length; `None` if the payload is too short or the first byte begins no length.
fn take_len(rest: &mut &[u8]) -> Option<usize> {
    let first = take(rest, 1)?[0];
    match first {
        0..0x40 => Some(usize::from(first)),
        0x40..0x80 => Some(usize::from(first & 0x3f) << 8 | usize::from(take(rest, 1)?[0])),
        0x80 => Some(u32::from_be_bytes(take(rest, 4)?.try_into().ok()?) as usize),
        0x81 => usize::try_from(u64::from_be_bytes(take(rest, 8)?.try_into().ok()?)).ok(),
        _ => None,
    }
}

fn take_string(rest: &mut &[u8]) -> Option<Vec<u8>> {
    const COMPRESSED: u8 = 0xc3;
    if rest.first() != Some(&COMPRESSED) {
        let len = take_len(rest)?;
        return take(rest, len).map(<[u8]>::to_vec);
    }
    take(rest, 1)?;
    let (compressed_len, len) = (take_len(rest)?, take_len(rest)?);
    decompress(take(rest, compressed_len)?, len)
}

/// Decompresses LZF: runs of literals (first byte below 32: their number minus 1) and references to earlier output
/// (3 bits: length minus 2; 13 bits: distance minus 1).
fn decompress(mut rest: &[u8], len: usize) -> Option<Vec<u8>> {
    const LONG: usize = 7;
    let mut out = Vec::new();
    while let Some((&control, after)) = rest.split_first() {
        rest = after;
        let control = usize::from(control);
        if control < 32 {
            out.extend_from_slice(take(&mut rest, control + 1)?);
        } else {
            let mut count = control >> 5;
            if count == LONG {
                count += usize::from(take(&mut rest, 1)?[0]);
            }
            let distance = (control & 31) << 8 | usize::from(take(&mut rest, 1)?[0]);
            let from = out.len().checked_sub(distance + 1)?;
            for at in from..from + count + 2 {
                out.push(out[at]);
            }
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

/// The checksum of Redis payloads: CRC-64 with the Jones polynomial, reflected, starting at 0.
fn crc64(bytes: &[u8]) -> u64 {
    const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ u64::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Flags;

    fn library(name: &str, functions: &[&str]) -> Library {
        let function = |name: &&str| Function {
            name: (*name).into(),
            description: None,
            flags: Flags::default(),
        };
        Library {
            name: name.into(),
            code: format!("#!lua name={name}\n-- {}", functions.join(" ")).into_bytes(),
            functions: functions.iter().map(function).collect(),
            id: 0,
        }
    }

    fn load(code: &[u8], _: u64) -> Result<Library, CommandError> {
        let text = str::from_utf8(code).unwrap();
        let name = text.split(['=', '\n']).nth(1).unwrap();
        let functions: Vec<_> = text.split("-- ").nth(1).unwrap().split(' ').collect();
        Ok(library(name, &functions))
    }

    #[test]
    fn the_checksum_equals_that_of_redis() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn a_function_name_belongs_to_one_library() {
        let mut libraries = Libraries::new();
        libraries.insert(library("a", &["f", "g"])).unwrap();
        let error = libraries.insert(library("b", &["h", "g"])).unwrap_err();
        assert_eq!(error.to_string(), "ERR Function g already exists");
        assert!(libraries.function(b"h").is_none());
        libraries.insert(library("a", &["h"])).unwrap();
        assert!(libraries.function(b"f").is_none());
        assert_eq!(libraries.function(b"h").unwrap().1, 0);
        libraries.remove(b"a").unwrap();
        assert!(libraries.remove(b"a").is_err());
        assert_eq!(libraries.functions_len(), 0);
    }

    #[test]
    fn payloads_are_restored_with_every_policy() {
        let mut libraries = Libraries::new();
        libraries.insert(library("a", &["f"])).unwrap();
        libraries.insert(library("b", &["g"])).unwrap();
        let payload = libraries.dump();
        let error = libraries
            .restore(&payload, RestorePolicy::Append, load)
            .unwrap_err();
        assert_eq!(error.to_string(), "ERR Library a already exists");
        libraries
            .restore(&payload, RestorePolicy::Replace, load)
            .unwrap();
        assert_eq!(libraries.len(), 2);
        libraries.insert(library("c", &["h"])).unwrap();
        libraries
            .restore(&payload, RestorePolicy::Flush, load)
            .unwrap();
        assert_eq!(
            libraries.iter().map(|l| l.name()).collect::<Vec<_>>(),
            ["a", "b"]
        );
    }

    #[test]
    fn every_damaged_payload_is_refused() {
        let mut libraries = Libraries::new();
        libraries.insert(library("a", &["f"])).unwrap();
        let payload = libraries.dump();
        for at in 0..payload.len() {
            let mut damaged = payload.clone();
            damaged[at] ^= 1;
            assert!(checked(&damaged).is_err(), "{at}");
            assert!(checked(&payload[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn compressed_texts_are_read() {
        // Five literals, then 14 bytes copied from 5 bytes back, then a literal.
        let compressed = b"\x04hello\xe0\x05\x04\x00!";
        let text = decompress(compressed, 20);
        assert_eq!(text.as_deref(), Some(&b"hellohellohellohell!"[..]));
        assert_eq!(decompress(compressed, 19), None, "too long");
        assert_eq!(decompress(compressed, 21), None, "too short");
        assert_eq!(decompress(b"\x20\x05", 3), None, "before the beginning");
    }
}
