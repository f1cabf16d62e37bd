//! Which arguments of a request are keys.

use damselfly_base::number::parse_integer;

use crate::Args;

/// Which arguments are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// This one.
    One(usize),
    /// Every `step`-th argument from `first` to the last.
    ToEnd {
        /// The first key.
        first: usize,
        /// The distance from one to the next.
        step: usize,
    },
    /// From this one to the last but one, as in commands that end with a timeout.
    ToLastButOne(usize),
    /// The arguments after this one, as many as it says.
    Counted(usize),
    /// The arguments after this one, as many pairs of key and value as it says.
    CountedPairs(usize),
    /// The first half of the arguments after the first option that is this word, in any case.
    HalfBehind {
        /// The word.
        word: &'static str,
        /// The first argument that can be the word if the options have their usual order, for COMMAND INFO.
        usually_from: usize,
        /// Options with the number of arguments that belong to each; those can't be the word.
        skipping: &'static [(&'static str, usize)],
    },
    /// This argument, unless an option is this word, in any case.
    OneUnless {
        /// The key.
        place: usize,
        /// The word.
        word: &'static str,
        /// The first argument that can be the word.
        from: usize,
        /// Options with the number of arguments that belong to each; those can't be the word.
        skipping: &'static [(&'static str, usize)],
    },
    /// All arguments after the first option that is this word, in any case, if another argument is empty.
    AllBehind {
        /// The argument that has to be empty.
        empty: usize,
        /// The word.
        word: &'static str,
        /// The first argument that can be the word.
        from: usize,
        /// Options with the number of arguments that belong to each; those can't be the word.
        skipping: &'static [(&'static str, usize)],
    },
    /// The argument after the last option that is this word, in any case.
    Behind {
        /// The word.
        word: &'static str,
        /// The first argument that can be the word.
        from: usize,
        /// Options with the number of arguments that belong to each; those can't be the word.
        skipping: &'static [(&'static str, usize)],
    },
}

impl At {
    /// The argument indexes of the keys in a request; none if the arguments are invalid, which the command itself reports.
    #[inline]
    pub fn places(self, args: Args<'_>) -> impl Iterator<Item = usize> + Clone + use<> {
        let len = args.len();
        let (first, end, step) = match self {
            Self::One(place) => (place, place + 1, 1),
            Self::ToEnd { first, step } => (first, len, step),
            Self::ToLastButOne(first) => (first, len - 1, 1),
            Self::Counted(count_at) => (count_at + 1, counted_end(args, count_at, 1), 1),
            Self::CountedPairs(count_at) => (count_at + 1, counted_end(args, count_at, 2), 2),
            Self::HalfBehind {
                word,
                usually_from: _,
                skipping,
            } => {
                let found = first_option(args, word, 1, skipping);
                found.map_or((0, 0, 1), |at| (at + 1, at + 1 + (len - at - 1) / 2, 1))
            }
            Self::OneUnless {
                place,
                word,
                from,
                skipping,
            } => match first_option(args, word, from, skipping) {
                None => (place, place + 1, 1),
                Some(_) => (0, 0, 1),
            },
            Self::AllBehind {
                empty,
                word,
                from,
                skipping,
            } => {
                let found = first_option(args, word, from, skipping)
                    .filter(|_| args.get(empty).is_some_and(<[u8]>::is_empty));
                found.map_or((0, 0, 1), |at| (at + 1, len, 1))
            }
            Self::Behind {
                word,
                from,
                skipping,
            } => {
                let found = last_option(args, word, from, skipping);
                found.map_or((0, 0, 1), |at| (at + 1, at + 2, 1))
            }
        };
        (first..end.min(len)).step_by(step)
    }
}

/// The first option that is `word`.
fn first_option(
    args: Args<'_>,
    word: &str,
    from: usize,
    skipping: &[(&str, usize)],
) -> Option<usize> {
    let mut at = from;
    while at < args.len() {
        if args.is(at, word) {
            return Some(at);
        }
        let option = skipping.iter().find(|(option, _)| args.is(at, option));
        at += 1 + option.map_or(0, |(_, count)| *count);
    }
    None
}

/// The last option that is `word` and has an argument after it.
fn last_option(
    args: Args<'_>,
    word: &str,
    from: usize,
    skipping: &[(&str, usize)],
) -> Option<usize> {
    let (mut at, mut found) = (from, None);
    while at + 1 < args.len() {
        if args.is(at, word) {
            found = Some(at);
        }
        let option = skipping.iter().find(|(option, _)| args.is(at, option));
        at += 1 + option.map_or(0, |(_, count)| *count);
    }
    found
}

/// The end of the keys that the argument at `count_at` counts, `step` apart; there are none if it is not a number or too large.
fn counted_end(args: Args<'_>, count_at: usize, step: usize) -> usize {
    let first = count_at + 1;
    let count = args.get(count_at).and_then(parse_integer);
    count
        .and_then(|count| usize::try_from(count).ok())
        .and_then(|count| first.checked_add(count.checked_mul(step)?))
        .filter(|&end| end <= args.len())
        .unwrap_or(first)
}
