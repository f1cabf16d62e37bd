//! Parses the usage line of a command into its arguments, as COMMAND DOCS describes them.
//!
//! ```text
//! sequence     ─► part*                        SET key value [NX | XX] [EX seconds]
//! part         ─► word | [ alternatives ] | < alternatives > | ...
//! alternatives ─► sequence ( | sequence )*
//! ```
//!
//! A word in capitals is a token, which is typed as it is. `[x ...]` after `x` means that `x` may be repeated.

use super::facts::Spec;

/// One argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// The word before it.
    pub token: Option<String>,
    /// It may be left out.
    pub optional: bool,
    /// It may be repeated.
    pub multiple: bool,
    /// It may be repeated, each time after its token.
    pub multiple_token: bool,
}

/// The kind of an argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A key, with the index of its key specification if that is known.
    Key(Option<usize>),
    /// Any text.
    String,
    /// An integer.
    Integer,
    /// A number.
    Double,
    /// A glob pattern.
    Pattern,
    /// A Unix time.
    UnixTime,
    /// Only the token.
    PureToken,
    /// One of these.
    OneOf(Vec<Argument>),
    /// All of these, in this order.
    Block(Vec<Argument>),
}

impl Kind {
    /// Redis's name for the kind.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Double => "double",
            Self::Pattern => "pattern",
            Self::UnixTime => "unix-time",
            Self::PureToken => "pure-token",
            Self::OneOf(_) => "oneof",
            Self::Block(_) => "block",
        }
    }
}

/// The arguments that a usage line describes. `name_words` is the number of words in the command's name, and `specs` says which
/// arguments are keys.
pub fn arguments(usage: &str, name_words: usize, specs: &[Spec]) -> Vec<Argument> {
    let spaced = ["[", "]", "<", ">"]
        .iter()
        .fold(usage.to_owned(), |text, mark| {
            text.replace(mark, &format!(" {mark} "))
        });
    let words: Vec<&str> = spaced.split_whitespace().skip(name_words).collect();
    let mut rest = &words[..];
    let parts = sequence(&mut rest);
    Converter {
        specs,
        place: Some(name_words),
    }
    .arguments(&parts)
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Word(String),
    Optional(Vec<Vec<Part>>),
    Choice(Vec<Vec<Part>>),
    /// These parts, once or more.
    Repeated(Vec<Part>),
    Ellipsis,
}

fn sequence(words: &mut &[&str]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    while let Some((&word, rest)) = words.split_first() {
        if ["]", ">", "|"].contains(&word) {
            break;
        }
        *words = rest;
        match word {
            "[" => {
                let inner = alternatives(words);
                optional(&mut parts, inner);
            }
            "<" => parts.push(Part::Choice(alternatives(words))),
            "..." => parts.push(Part::Ellipsis),
            word => parts.push(Part::Word(word.to_owned())),
        }
    }
    parts
}

/// Reads up to the closing bracket and skips it.
fn alternatives(words: &mut &[&str]) -> Vec<Vec<Part>> {
    let mut all = vec![sequence(words)];
    while let Some((&mark, rest)) = words.split_first() {
        *words = rest;
        if mark != "|" {
            break;
        }
        all.push(sequence(words));
    }
    all
}

/// Adds the contents of square brackets. If they only repeat the parts before them, those become repeated.
fn optional(parts: &mut Vec<Part>, mut inner: Vec<Vec<Part>>) {
    if let [only] = &mut inner[..]
        && only.last() == Some(&Part::Ellipsis)
    {
        only.pop();
        let only = std::mem::take(only);
        if parts.ends_with(&only) {
            parts.truncate(parts.len() - only.len());
            parts.push(Part::Repeated(only));
        } else {
            parts.push(Part::Optional(vec![vec![Part::Repeated(only)]]));
        }
        return;
    }
    parts.push(Part::Optional(inner));
}

fn is_token(word: &str) -> bool {
    !word.bytes().any(|byte| byte.is_ascii_lowercase())
}

struct Converter<'a> {
    specs: &'a [Spec],
    /// The position of the next argument in a request, as long as it is known.
    place: Option<usize>,
}

impl Converter<'_> {
    /// The arguments of a sequence. A token belongs to everything after it, up to the next token.
    fn arguments(&mut self, parts: &[Part]) -> Vec<Argument> {
        let mut arguments = Vec::new();
        let mut rest = parts;
        while let Some((part, behind)) = rest.split_first() {
            match part {
                Part::Word(word) if is_token(word) => {
                    let end = behind
                        .iter()
                        .position(|part| matches!(part, Part::Word(word) if is_token(word)))
                        .unwrap_or(behind.len());
                    self.advance();
                    let inner = self.arguments(&behind[..end]);
                    arguments.push(behind_token(word, inner));
                    rest = &behind[end..];
                    continue;
                }
                Part::Word(word) => arguments.push(self.value(word)),
                Part::Optional(inner) => {
                    self.place = None;
                    let mut argument = self.one_of(inner);
                    argument.optional = true;
                    arguments.push(argument);
                }
                Part::Choice(inner) => {
                    let place = self.place;
                    arguments.push(self.one_of(inner));
                    self.place = place.filter(|_| inner.iter().all(|inner| inner.len() == 1));
                    self.advance();
                }
                Part::Repeated(inner) => {
                    let has_token =
                        matches!(inner.first(), Some(Part::Word(word)) if is_token(word));
                    let mut argument = block(self.arguments(inner));
                    argument.multiple = true;
                    argument.multiple_token = has_token;
                    arguments.push(argument);
                    self.place = None;
                }
                // The argument before it may be repeated.
                Part::Ellipsis => {
                    if let Some(argument) = arguments.last_mut() {
                        argument.multiple = true;
                    }
                }
            }
            rest = behind;
        }
        arguments
    }

    fn advance(&mut self) {
        self.place = self.place.map(|place| place + 1);
    }

    fn one_of(&mut self, alternatives: &[Vec<Part>]) -> Argument {
        let mut arguments: Vec<Argument> = alternatives
            .iter()
            .map(|parts| block(self.arguments(parts)))
            .collect();
        if arguments.len() == 1 {
            return arguments.remove(0);
        }
        argument(&joined(&arguments), Kind::OneOf(arguments))
    }

    fn value(&mut self, word: &str) -> Argument {
        let of_place = self
            .place
            .and_then(|place| self.specs.iter().position(|spec| spec.has(place)));
        self.advance();
        let kind = match of_place {
            Some(index) => Kind::Key(Some(index)),
            None if word == "key" || word == "destination" => {
                Kind::Key(self.specs.len().checked_sub(1))
            }
            None => kind_of(word),
        };
        argument(word, kind)
    }
}

fn argument(name: &str, kind: Kind) -> Argument {
    Argument {
        name: name.to_owned(),
        kind,
        token: None,
        optional: false,
        multiple: false,
        multiple_token: false,
    }
}

/// Several arguments as one block.
fn block(mut arguments: Vec<Argument>) -> Argument {
    if arguments.len() == 1 {
        return arguments.remove(0);
    }
    argument(&joined(&arguments), Kind::Block(arguments))
}

fn joined(arguments: &[Argument]) -> String {
    let names: Vec<&str> = arguments
        .iter()
        .map(|argument| argument.name.as_str())
        .collect();
    names.join("_")
}

fn behind_token(token: &str, mut inner: Vec<Argument>) -> Argument {
    let mut argument = match &inner[..] {
        [] => argument(&token.to_ascii_lowercase(), Kind::PureToken),
        [only] if only.token.is_none() && !only.optional && only.kind != Kind::PureToken => {
            inner.remove(0)
        }
        _ => self::argument(&token.to_ascii_lowercase(), Kind::Block(inner)),
    };
    argument.token = Some(token.to_owned());
    argument
}

/// The kind of an argument, by its name.
fn kind_of(name: &str) -> Kind {
    match name {
        "seconds" | "milliseconds" | "count" | "index" | "index1" | "index2" | "db"
        | "destination-db" | "decrement" | "start" | "end" | "stop" | "offset" | "cursor"
        | "numkeys" | "len" | "min-match-len" | "protover" | "client-id" | "port" | "version"
        | "percentage" | "samples" => Kind::Integer,
        "timeout" | "score" | "weight" | "longitude" | "latitude" | "radius" | "width"
        | "height" | "min-score" | "max-score" => Kind::Double,
        "pattern" => Kind::Pattern,
        name if name.starts_with("unix-time") => Kind::UnixTime,
        _ => Kind::String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An argument in short: `name:type`, with its token before it, and `?`, `*` and `+` after it for optional, multiple and
    /// multiple token.
    fn short(argument: &Argument) -> String {
        let token = argument
            .token
            .as_ref()
            .map(|token| format!("{token} "))
            .unwrap_or_default();
        let inner = match &argument.kind {
            Kind::OneOf(inner) | Kind::Block(inner) => {
                let inner: Vec<String> = inner.iter().map(short).collect();
                format!("({})", inner.join(" "))
            }
            Kind::Key(Some(index)) => index.to_string(),
            _ => String::new(),
        };
        let marks = [
            (argument.optional, "?"),
            (argument.multiple, "*"),
            (argument.multiple_token, "+"),
        ];
        let marks: String = marks
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, mark)| *mark)
            .collect();
        format!(
            "{token}{}:{}{inner}{marks}",
            argument.name,
            argument.kind.name()
        )
    }

    #[test]
    fn usage_lines_become_arguments() {
        use super::super::facts::Place;
        use damselfly_commands::Access;
        let place = Place::Range {
            first: 1,
            last: 0,
            step: 1,
        };
        let access = Access::Read;
        let first_key = [Spec { access, place }];
        for (usage, expected) in [
            ("GET key", "key:key0"),
            (
                "SET key value [NX | XX] [GET] [EX seconds | KEEPTTL]",
                "key:key0 value:string nx_xx:oneof(NX nx:pure-token XX xx:pure-token)? GET get:pure-token? seconds_keepttl:oneof(EX seconds:integer KEEPTTL keepttl:pure-token)?",
            ),
            (
                "MSET key value [key value ...]",
                "key_value:block(key:key0 value:string)*",
            ),
            ("DEL key [key ...]", "key:key0*"),
            (
                "SCAN cursor [MATCH pattern] [COUNT count]",
                // The key specification is this test's, not SCAN's.
                "cursor:key0 MATCH pattern:pattern? COUNT count:integer?",
            ),
            (
                "HELLO [protover [AUTH username password] [SETNAME clientname]]",
                "protover_auth_clientname:block(protover:integer AUTH auth:block(username:string password:string)? SETNAME clientname:string?)?",
            ),
            (
                "SORT key [GET pattern [GET pattern ...]] [LIMIT offset count]",
                "key:key0 GET pattern:pattern?*+ LIMIT limit:block(offset:integer count:integer)?",
            ),
            (
                "BITOP <AND | OR> destkey",
                "and_or:oneof(AND and:pure-token OR or:pure-token) destkey:string",
            ),
            ("COMMAND [command ...]", "command:string?*"),
        ] {
            let shown: Vec<String> = arguments(usage, 1, &first_key).iter().map(short).collect();
            assert_eq!(shown.join(" "), expected, "{usage}");
        }
    }
}
