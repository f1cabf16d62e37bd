//! The forms of option values: parsing, limits and error texts.

use std::borrow::Cow;
use std::fmt;

/// The form of an option's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `yes` or `no`.
    Bool,
    /// A decimal number within inclusive limits.
    Integer {
        /// The smallest number allowed.
        min: i64,
        /// The largest number allowed.
        max: i64,
    },
    /// An octal number, as for file permissions.
    Octal {
        /// The largest number allowed.
        max: u32,
    },
    /// A number of bytes with an optional unit: `kb`, `mb`, `gb` are powers of 1024; `k`, `m`, `g` are powers of 1000.
    Memory {
        /// The fewest bytes allowed.
        min: u64,
        /// The most bytes allowed.
        max: u64,
    },
    /// Like [`Kind::Memory`], or a percentage of `maxmemory` such as `5%`.
    MemoryOrPercent,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A single text.
    Text,
    /// Any number of words.
    Words,
    /// Groups of words with these meanings. A file has one line per group, and repeated lines add up.
    Groups(&'static [&'static str]),
}

/// A value that passed the checks of its [`Kind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Integer`].
    Integer(i64),
    /// Of [`Kind::Octal`].
    Octal(u32),
    /// Of [`Kind::Memory`] and [`Kind::MemoryOrPercent`].
    Bytes(u64),
    /// Of [`Kind::MemoryOrPercent`].
    Percent(u8),
    /// Of [`Kind::Choice`], in the spelling of the option.
    Choice(&'static str),
    /// Of [`Kind::Text`].
    Text(String),
    /// Of [`Kind::Words`] and [`Kind::Groups`].
    Words(Vec<String>),
}

/// Why a value was refused; the text is sent to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError(Cow<'static, str>);

impl OptionError {
    pub(crate) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OptionError {}

impl Kind {
    /// A decimal number from `min` to `max`.
    pub(crate) const fn integer(min: i64, max: i64) -> Self {
        Self::Integer { min, max }
    }

    /// A number of bytes from `min` to `max`.
    pub(crate) const fn memory(min: u64, max: u64) -> Self {
        Self::Memory { min, max }
    }

    /// Parses `words`, the values as the user gave them.
    pub fn parse(&self, words: &[&str]) -> Result<Value, OptionError> {
        if let Kind::Words | Kind::Groups(_) = self {
            return Ok(Value::Words(match words {
                [""] => Vec::new(),
                [one] => one.split(' ').map(str::to_owned).collect(),
                many => many.iter().map(|word| (*word).to_owned()).collect(),
            }));
        }
        let [word] = words else {
            return Err(OptionError::new("wrong number of arguments"));
        };
        self.parse_one(word)
    }

    fn parse_one(&self, word: &str) -> Result<Value, OptionError> {
        match *self {
            Kind::Bool => match word {
                yes if yes.eq_ignore_ascii_case("yes") => Ok(Value::Bool(true)),
                no if no.eq_ignore_ascii_case("no") => Ok(Value::Bool(false)),
                _ => Err(OptionError::new("argument must be 'yes' or 'no'")),
            },
            Kind::Integer { min, max } => {
                let number = strict_integer(word).ok_or(OptionError::new(
                    "argument couldn't be parsed into an integer",
                ))?;
                if (min..=max).contains(&number) {
                    return Ok(Value::Integer(number));
                }
                Err(OptionError::new(format!(
                    "argument must be between {min} and {max} inclusive"
                )))
            }
            Kind::Octal { max } => {
                let number = i64::from_str_radix(word, 8).map_err(|_| {
                    OptionError::new("argument couldn't be parsed as an octal number")
                })?;
                match u32::try_from(number) {
                    Ok(number) if number <= max => Ok(Value::Octal(number)),
                    Ok(_) | Err(_) => Err(OptionError::new(format!(
                        "argument must be between 0 and {max:o} inclusive"
                    ))),
                }
            }
            Kind::Memory { min, max } => {
                let bytes =
                    memory(word).ok_or(OptionError::new("argument must be a memory value"))?;
                if (min..=max).contains(&bytes) {
                    return Ok(Value::Bytes(bytes));
                }
                Err(OptionError::new(format!(
                    "argument must be between {min} and {max} inclusive"
                )))
            }
            Kind::MemoryOrPercent => memory_or_percent(word),
            Kind::Choice(names) => names
                .iter()
                .find(|name| name.eq_ignore_ascii_case(word))
                .map(|name| Value::Choice(name))
                .ok_or_else(|| {
                    let names = names.join(", ");
                    OptionError::new(format!("argument(s) must be one of the following: {names}"))
                }),
            Kind::Text | Kind::Words | Kind::Groups(_) => Ok(Value::Text(word.to_owned())),
        }
    }

    /// The form of the values for the help and the documentation, such as `yes|no`.
    pub fn usage(&self) -> String {
        match *self {
            Kind::Bool => "yes|no".to_owned(),
            Kind::Integer { .. } => "number".to_owned(),
            Kind::Octal { .. } => "octal".to_owned(),
            Kind::Memory { .. } => "bytes".to_owned(),
            Kind::MemoryOrPercent => "bytes|percent".to_owned(),
            Kind::Choice(names) => names.join("|"),
            Kind::Text => "text".to_owned(),
            Kind::Words => "word ...".to_owned(),
            Kind::Groups(words) => format!("{} ...", words.join(" ")),
        }
    }

    /// The limits of the values for the documentation, or an empty text.
    pub fn limits(&self) -> String {
        match *self {
            Kind::Integer { min, max } => match (min, max) {
                (i64::MIN, i64::MAX) => String::new(),
                (_, i64::MAX) => format!("at least {min}"),
                (_, _) => format!("{min} to {max}"),
            },
            Kind::Octal { max } => format!("0 to {max:o}"),
            Kind::Memory { min: 0, .. } => String::new(),
            Kind::Memory { min, .. } => format!("at least {}", memory_text(min)),
            Kind::Bool
            | Kind::MemoryOrPercent
            | Kind::Choice(_)
            | Kind::Text
            | Kind::Words
            | Kind::Groups(_) => String::new(),
        }
    }
}

/// The type of a field that holds an option's value.
pub(crate) trait Setting: Sized {
    /// The value as CONFIG GET shows it.
    fn show(&self) -> String;
    /// The field's value, or `None` if `value` is of another kind or too large for the field.
    fn from_value(value: Value) -> Option<Self>;
}

impl Value {
    /// Stores the value in `field`.
    pub(crate) fn store<T: Setting>(self, field: &mut T) -> Result<(), OptionError> {
        *field = T::from_value(self).ok_or(OptionError::new("argument is out of range"))?;
        Ok(())
    }

    /// The words of a value that consists of words or is a text; none for other values.
    pub(crate) fn words(self) -> Vec<String> {
        match self {
            Value::Words(words) => words,
            Value::Text(text) => vec![text],
            Value::Bool(_)
            | Value::Integer(_)
            | Value::Octal(_)
            | Value::Bytes(_)
            | Value::Percent(_)
            | Value::Choice(_) => Vec::new(),
        }
    }
}

impl Setting for bool {
    fn show(&self) -> String {
        if *self { "yes" } else { "no" }.to_owned()
    }

    fn from_value(value: Value) -> Option<Self> {
        if let Value::Bool(value) = value {
            Some(value)
        } else {
            None
        }
    }
}

macro_rules! number_settings {
    ($($number:ty),*) => {$(
        impl Setting for $number {
            fn show(&self) -> String {
                self.to_string()
            }

            fn from_value(value: Value) -> Option<Self> {
                match value {
                    Value::Integer(number) => number.try_into().ok(),
                    Value::Bytes(bytes) => bytes.try_into().ok(),
                    Value::Octal(_)
                    | Value::Bool(_)
                    | Value::Percent(_)
                    | Value::Choice(_)
                    | Value::Text(_)
                    | Value::Words(_) => None,
                }
            }
        }
    )*};
}

number_settings!(u16, u32, u64, usize, i32, i64);

impl Setting for String {
    fn show(&self) -> String {
        self.clone()
    }

    fn from_value(value: Value) -> Option<Self> {
        if let Value::Text(text) = value {
            Some(text)
        } else {
            None
        }
    }
}

impl Setting for Vec<String> {
    fn show(&self) -> String {
        self.join(" ")
    }

    fn from_value(value: Value) -> Option<Self> {
        if let Value::Words(words) = value {
            Some(words)
        } else {
            None
        }
    }
}

/// Parses digits with an optional leading `-`. Leading zeros, `+` and blanks are refused.
pub(crate) fn strict_integer(word: &str) -> Option<i64> {
    let digits = word.strip_prefix('-').unwrap_or(word);
    let strict =
        digits.bytes().all(|b| b.is_ascii_digit()) && (!digits.starts_with('0') || word == "0");
    if strict { word.parse().ok() } else { None }
}

/// Parses digits and an optional unit as a number of bytes. As in Redis, no digits at all mean 0, and a number over 64 bits means
/// the largest one; if multiplying by the unit overflows, it is refused.
pub(crate) fn memory(word: &str) -> Option<u64> {
    // Redis reads sizes as C strings, which end at a zero byte.
    let word = word.split('\0').next().unwrap_or_default();
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = word.split_at(digits);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    let number: u64 = match number {
        "" => 0,
        digits => digits.parse().unwrap_or(u64::MAX),
    };
    number.checked_mul(factor)
}

/// Formats `bytes` for a file, in the largest unit that divides it: `64mb`.
pub(crate) fn memory_text(bytes: u64) -> String {
    for (shift, unit) in [(30, "gb"), (20, "mb"), (10, "kb")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

fn memory_or_percent(word: &str) -> Result<Value, OptionError> {
    let refused = || OptionError::new("argument must be a memory or percent value");
    let Some(digits) = word.strip_suffix('%') else {
        return memory(word)
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .map(Value::Bytes)
            .ok_or_else(refused);
    };
    match strict_integer(digits) {
        Some(0) => Ok(Value::Bytes(0)),
        Some(percent @ 1..=100) => u8::try_from(percent)
            .map(Value::Percent)
            .map_err(|_| refused()),
        Some(101..) => Err(OptionError::new(
            "percentage argument must be less or equal to 100",
        )),
        Some(..0) | None => Err(refused()),
    }
}
