//! A script's text, and the flags in its first line.
//!
//! ```text
//! #!lua flags=no-writes,allow-stale
//! return redis.call('get', KEYS[1])
//! ```

use damselfly_base::CommandError;
use damselfly_base::sha1::sha1;

use crate::function_registration::split_words;

/// The chunk name of all scripts. In messages, it appears without the `@`.
pub(crate) const CHUNK_NAME: &[u8] = b"@user_script";

/// The flags that a script or function declares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// It writes nothing.
    pub const NO_WRITES: Flags = Flags(1);
    /// It may run when the server is out of memory.
    pub const ALLOW_OOM: Flags = Flags(2);
    /// It may run on a replica that has lost its primary.
    pub const ALLOW_STALE: Flags = Flags(4);
    /// It must not run in a cluster.
    pub const NO_CLUSTER: Flags = Flags(8);
    /// It may access keys of several slots.
    pub const ALLOW_CROSS_SLOT_KEYS: Flags = Flags(16);

    /// Every flag with its name.
    pub const ALL: &[(Flags, &'static str)] = &[
        (Flags::NO_WRITES, "no-writes"),
        (Flags::ALLOW_OOM, "allow-oom"),
        (Flags::ALLOW_STALE, "allow-stale"),
        (Flags::NO_CLUSTER, "no-cluster"),
        (Flags::ALLOW_CROSS_SLOT_KEYS, "allow-cross-slot-keys"),
    ];

    /// The flag of this name.
    pub fn from_name(name: &[u8]) -> Option<Flags> {
        let (flag, _) = Flags::ALL
            .iter()
            .find(|(_, known)| known.as_bytes() == name)?;
        Some(*flag)
    }

    /// Whether all of `flags` are set.
    pub fn contains(self, flags: Flags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// The union of `self` and `flags`.
    #[must_use]
    pub fn with(self, flags: Flags) -> Flags {
        Flags(self.0 | flags.0)
    }

    /// The names of the flags that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Flags::ALL
            .iter()
            .filter(move |(flag, _)| self.contains(*flag))
            .map(|(_, name)| *name)
    }
}

/// A script as EVAL and SCRIPT LOAD receive it; not yet compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    digest: [u8; 20],
    body: Vec<u8>,
    /// Where the code begins: at the end of the first line if that begins with `#!`.
    code_start: usize,
    flags: Option<Flags>,
}

impl Script {
    /// Reads the flags of the first line of `body`, if it begins with `#!`.
    ///
    /// # Errors
    /// The error reply if that line is invalid.
    pub fn parse(body: &[u8]) -> Result<Script, CommandError> {
        let (code_start, flags) = match body.starts_with(b"#!") {
            true => {
                let (len, flags) = shebang(body)?;
                (len, Some(flags))
            }
            false => (0, None),
        };
        Ok(Script {
            digest: sha1(body),
            body: body.to_vec(),
            code_start,
            flags,
        })
    }

    /// The SHA-1 of the whole body: its name for EVALSHA.
    pub fn digest(&self) -> &[u8; 20] {
        &self.digest
    }

    /// The whole text.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The flags in its first line; `None` if that does not begin with `#!`. Then the rules of older versions apply:
    /// each command is checked on its own when the script calls it.
    pub fn flags(&self) -> Option<Flags> {
        self.flags
    }

    pub(crate) fn code(&self) -> &[u8] {
        &self.body[self.code_start..]
    }
}

/// Parses a digest of 40 hexadecimal digits of either case.
pub fn parse_digest(hex: &[u8]) -> Option<[u8; 20]> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if hex.len() != 40 {
        return None;
    }
    let mut digest = [0; 20];
    for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(digest)
}

/// The length of the first line, without its line end, and its flags.
fn shebang(body: &[u8]) -> Result<(usize, Flags), CommandError> {
    let len = body
        .iter()
        .position(|&byte| byte == b'\n')
        .ok_or_else(|| CommandError::err("Invalid script shebang"))?;
    let words = split_words(&body[..len])
        .filter(|words| !words.is_empty())
        .ok_or_else(|| CommandError::err("Invalid engine in script shebang"))?;
    let mut words = words.iter().map(Vec::as_slice);
    let engine = words.next().unwrap_or_default();
    if engine != b"#!lua" {
        return Err(CommandError::quoting(
            "Unexpected engine in script shebang: ",
            engine,
            "",
        ));
    }
    let mut flags = Flags::default();
    for word in words {
        let Some(names) = word.strip_prefix(b"flags=") else {
            return Err(CommandError::quoting(
                "Unknown lua shebang option: ",
                word,
                "",
            ));
        };
        if names.is_empty() {
            continue;
        }
        for name in names.split(|&byte| byte == b',') {
            let flag = Flags::from_name(name).ok_or_else(|| {
                CommandError::quoting("Unexpected flag in script shebang: ", name, "")
            })?;
            flags = flags.with(flag);
        }
    }
    Ok((len, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_sets_flags() {
        let script = Script::parse(b"#!lua flags=no-writes,allow-oom\nreturn 1").unwrap();
        let flags = script.flags().unwrap();
        assert_eq!(
            flags.names().collect::<Vec<_>>(),
            ["no-writes", "allow-oom"]
        );
        assert_eq!(script.code(), b"\nreturn 1");
        assert_eq!(Script::parse(b"return 1").unwrap().flags(), None);
    }

    #[test]
    fn the_first_line_is_split_as_the_one_of_a_library() {
        for (line, flags) in [
            ("#!lua\r", vec![]),
            ("#!lua\tflags=no-writes \r", vec!["no-writes"]),
            ("#!lua 'flags=allow-oom'", vec!["allow-oom"]),
        ] {
            let script = Script::parse(format!("{line}\nreturn 1").as_bytes()).unwrap();
            let found: Vec<_> = script.flags().unwrap().names().collect();
            assert_eq!(found, flags, "{line}");
        }
        let error = Script::parse(b"#!lua \"flags=no-writes\nreturn 1").unwrap_err();
        assert_eq!(error.to_bytes(), b"ERR Invalid engine in script shebang");
    }

    #[test]
    fn digests_are_parsed_in_either_case() {
        let script = Script::parse(b"return 1").unwrap();
        let hex = damselfly_base::sha1::hex(script.digest());
        assert_eq!(parse_digest(hex.as_bytes()), Some(*script.digest()));
        assert_eq!(
            parse_digest(hex.to_uppercase().as_bytes()),
            Some(*script.digest())
        );
        assert_eq!(parse_digest(b"abc"), None);
        assert_eq!(parse_digest(&[b'x'; 40]), None);
    }
}
