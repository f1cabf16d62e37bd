//! The flags of meta requests.

use super::number;

/// The flags of a meta request, except those that only ask for something in the reply.
#[derive(Clone, Copy, Debug, Default)]
pub struct MetaFlags {
    /// `b`: the key was sent in base64.
    pub is_base64: bool,
    /// `q`: leave out the usual reply.
    pub is_quiet: bool,
    /// `v`: return the value.
    pub wants_value: bool,
    /// `u`: do not count this as a use of the key.
    pub is_untouched: bool,
    /// `I`: make the value stale, or accept a value that is.
    pub invalidates: bool,
    /// `x`: remove the value, but keep the key.
    pub removes_value: bool,
    /// `M`: the mode.
    pub mode: Option<u8>,
    /// `T`: the new expiry.
    pub ttl: Option<i64>,
    /// `N`: create the key if it is absent, with this expiry.
    pub vivify: Option<i64>,
    /// `R`: replace the value if less than this expiry remains.
    pub recache: Option<i64>,
    /// `F`: client flags.
    pub client_flags: u32,
    /// `C`: the CAS number that the value must have.
    pub cas: Option<u64>,
    /// `E`: the CAS number that the value gets.
    pub new_cas: Option<u64>,
    /// `D`: how much to add or subtract.
    pub delta: Option<u64>,
    /// `J`: the first number of a counter.
    pub initial: Option<u64>,
}

const BAD_TOKEN: &str = "CLIENT_ERROR bad token in command line format";

impl MetaFlags {
    /// Reads flags. Every flag may be given once.
    ///
    /// # Errors
    /// The line for the client. If several flags are wrong, it names the last of them, as in memcached.
    pub fn parse<'a>(flags: impl Iterator<Item = &'a [u8]>) -> Result<Self, &'static str> {
        let mut parsed = Self::default();
        let (mut seen, mut error) = (0_u128, None);
        for flag in flags {
            let (name, token) = flag.split_first().ok_or("CLIENT_ERROR invalid flag")?;
            if *name >= 127 || seen & 1 << name != 0 {
                return Err("CLIENT_ERROR duplicate flag");
            }
            seen |= 1 << name;
            if let Err(why) = parsed.note(*name, token) {
                error = Some(why);
                if why == INVALID_FLAG {
                    return Err(why);
                }
            }
        }
        match error {
            None => Ok(parsed),
            Some(error) => Err(error),
        }
    }

    fn note(&mut self, name: u8, token: &[u8]) -> Result<(), &'static str> {
        let signed = || number::signed(token).ok_or(BAD_TOKEN);
        let unsigned = |why: &'static str| number::unsigned(token).ok_or(why);
        match name {
            b'b' => self.is_base64 = true,
            b'q' => self.is_quiet = true,
            b'v' => self.wants_value = true,
            b'u' => self.is_untouched = true,
            b'I' => self.invalidates = true,
            b'x' => self.removes_value = true,
            b'N' => self.vivify = Some(signed()?),
            b'T' => self.ttl = Some(signed()?),
            b'R' => self.recache = Some(signed()?),
            b'F' => {
                let flags = number::unsigned_32(token);
                self.client_flags = flags.ok_or("CLIENT_ERROR bad command line format")?;
            }
            b'C' => self.cas = Some(unsigned(BAD_TOKEN)?),
            b'E' => self.new_cas = Some(unsigned(BAD_TOKEN)?),
            b'J' => self.initial = Some(unsigned("CLIENT_ERROR invalid numeric initial value")?),
            b'D' => self.delta = Some(unsigned("CLIENT_ERROR invalid numeric delta value")?),
            b'M' => match token {
                [mode] => self.mode = Some(*mode),
                _ => return Err("CLIENT_ERROR incorrect length for M token"),
            },
            // These only ask for something in the reply, or are for proxies.
            b'O' | b'P' | b'L' | b'k' | b's' | b't' | b'c' | b'f' | b'l' | b'h' => {}
            _ => return Err(INVALID_FLAG),
        }
        Ok(())
    }
}

const INVALID_FLAG: &str = "CLIENT_ERROR invalid flag";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &str) -> Result<MetaFlags, &'static str> {
        MetaFlags::parse(flags.split(' ').map(str::as_bytes))
    }

    #[test]
    fn flags_are_read_with_their_tokens() {
        let flags = parse("b q v T-1 N30 C18446744073709551615 E7 F4294967295 MA Ox k").unwrap();
        assert!(flags.is_base64 && flags.is_quiet && flags.wants_value);
        assert_eq!((flags.ttl, flags.vivify), (Some(-1), Some(30)));
        assert_eq!((flags.cas, flags.new_cas), (Some(u64::MAX), Some(7)));
        assert_eq!((flags.client_flags, flags.mode), (u32::MAX, Some(b'A')));
    }

    #[test]
    fn wrong_flags_have_memcacheds_errors() {
        for (flags, error) in [
            ("v v", "CLIENT_ERROR duplicate flag"),
            ("O1 O2", "CLIENT_ERROR duplicate flag"),
            ("\u{7f}", "CLIENT_ERROR duplicate flag"),
            ("!", "CLIENT_ERROR invalid flag"),
            ("T", BAD_TOKEN),
            ("Cx", BAD_TOKEN),
            ("MAB", "CLIENT_ERROR incorrect length for M token"),
            ("Jx", "CLIENT_ERROR invalid numeric initial value"),
            ("Dx", "CLIENT_ERROR invalid numeric delta value"),
        ] {
            assert_eq!(parse(flags).err(), Some(error), "{flags}");
        }
    }
}
