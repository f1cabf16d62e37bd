//! The arguments of one request: slices of the connection's input, without a copy.

use damselfly_base::{CommandError, number};
use damselfly_engine::Key;
use damselfly_protocol::request::Span;

use crate::Result;

/// One request. Argument 0 is the command's name.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    input: &'a [u8],
    spans: &'a [Span],
    /// The argument index and hash of the first key, if known already.
    first_key: Option<(usize, u64)>,
}

/// The arguments of one request, copied for later use.
#[derive(Clone, Debug)]
pub struct OwnedArgs {
    input: Box<[u8]>,
    spans: Box<[Span]>,
}

impl OwnedArgs {
    /// Copies arguments.
    pub fn copy<'a>(args: impl Iterator<Item = &'a [u8]>) -> Self {
        let (mut input, mut spans) = (Vec::new(), Vec::with_capacity(args.size_hint().0));
        for arg in args {
            spans.push(Span {
                start: input.len(),
                len: arg.len(),
            });
            input.extend_from_slice(arg);
        }
        Self {
            input: input.into(),
            spans: spans.into(),
        }
    }

    /// The arguments.
    pub fn borrow(&self) -> Args<'_> {
        Args::new(&self.input, &self.spans, None)
    }
}

impl<'a> Args<'a> {
    /// The arguments that `spans` cut out of `input`; `first_key` is the argument index and hash of a key.
    #[inline]
    pub fn new(input: &'a [u8], spans: &'a [Span], first_key: Option<(usize, u64)>) -> Self {
        Self {
            input,
            spans,
            first_key,
        }
    }

    /// The number of arguments, including the name.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "there is always the name")]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// An argument.
    ///
    /// # Panics
    /// If there are fewer. The row's arity is the number of arguments that a command can rely on.
    #[inline]
    pub fn at(&self, index: usize) -> &'a [u8] {
        self.spans[index].of(self.input)
    }

    /// An argument, or `None` past the last one.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|span| span.of(self.input))
    }

    /// The request that remains without the first `skipped` arguments.
    pub fn behind(&self, skipped: usize) -> Self {
        Self {
            input: self.input,
            spans: self.spans.get(skipped..).unwrap_or_default(),
            first_key: None,
        }
    }

    /// An argument as a key.
    #[inline]
    pub fn key(&self, index: usize) -> Key<'a> {
        let bytes = self.at(index);
        match self.first_key {
            Some((place, hash)) if place == index => Key { bytes, hash },
            _ => Key::new(bytes),
        }
    }

    /// A copy that outlives the connection's input.
    pub fn to_owned(&self) -> OwnedArgs {
        OwnedArgs::copy(self.from(0))
    }

    /// Appends a copy to `bytes` and `spans`, from which [`Args::new`] makes the arguments again.
    #[inline]
    pub fn copy_to(&self, bytes: &mut Vec<u8>, spans: &mut Vec<Span>) {
        let (Some(first), Some(last)) = (self.spans.first(), self.spans.last()) else {
            return;
        };
        // The arguments are in order, so one copy takes them all, with the bytes between them: cheaper than one copy each.
        let (from, start) = (first.start, bytes.len());
        bytes.extend_from_slice(&self.input[from..last.start + last.len]);
        spans.extend(self.spans.iter().map(|span| Span {
            start: span.start - from + start,
            len: span.len,
        }));
    }

    /// All arguments from `first` on.
    #[inline]
    pub fn from(
        &self,
        first: usize,
    ) -> impl DoubleEndedIterator<Item = &'a [u8]> + ExactSizeIterator + Clone + use<'a> {
        let input = self.input;
        self.spans
            .get(first..)
            .unwrap_or_default()
            .iter()
            .map(move |span| span.of(input))
    }

    /// True if the argument is this word, in any case.
    #[inline]
    pub fn is(&self, index: usize, word: &str) -> bool {
        self.get(index)
            .is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// An argument as a 64-bit integer.
    ///
    /// # Errors
    /// `value is not an integer or out of range`.
    #[inline]
    pub fn integer(&self, index: usize) -> Result<i64> {
        Ok(number::parse_integer(self.at(index)).ok_or(CommandError::NotInteger)?)
    }

    /// An argument as a database index.
    ///
    /// # Errors
    /// If it is not a 32-bit integer, or no database has that index.
    pub fn database(&self, index: usize, databases: usize) -> Result<usize> {
        let number = self.integer(index)?;
        if i32::try_from(number).is_err() {
            return Err(CommandError::err(
                "value is out of range, value must between -2147483648 and 2147483647",
            )
            .into());
        }
        usize::try_from(number)
            .ok()
            .filter(|&number| number < databases)
            .ok_or(CommandError::DatabaseOutOfRange.into())
    }
}
