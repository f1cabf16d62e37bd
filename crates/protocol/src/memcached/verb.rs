//! What a request asks for.

/// What a request asks for, or what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `get` of one key. Arguments: name, key.
    Get,
    /// `get` of several keys, or the last part of them: ends the reply.
    GetMany,
    /// A part of the keys of a `get` which is not the last.
    GetPart,
    /// `gets`, likewise.
    Gets,
    /// `gets` of several keys, or the last part.
    GetsMany,
    /// A part of a `gets`.
    GetsPart,
    /// `gat`: name, expiry, keys.
    Gat,
    /// A part of a `gat`.
    GatPart,
    /// `gats`, likewise.
    Gats,
    /// A part of a `gats`.
    GatsPart,
    /// `set`: name, key, flags, expiry, length, perhaps `noreply`, and the data last.
    Set,
    /// `add`, likewise.
    Add,
    /// `replace`, likewise.
    Replace,
    /// `append`, likewise.
    Append,
    /// `prepend`, likewise.
    Prepend,
    /// `cas`: as `set`, with the number after the length.
    Cas,
    /// `touch`: name, key, expiry, perhaps `noreply`.
    Touch,
    /// `delete`: name, key, perhaps `0`, perhaps `noreply`.
    Delete,
    /// `incr`: name, key, number, perhaps `noreply`.
    Incr,
    /// `decr`, likewise.
    Decr,
    /// `mg`: name, key, flags.
    MetaGet,
    /// `mg` with a flag that changes the expiry or who replaces the value.
    MetaGetTouch,
    /// `mg` with a flag that creates the key.
    MetaGetCreate,
    /// `ms`: name, key, length, flags, and the data last.
    MetaSet,
    /// `md`: name, key, flags.
    MetaDelete,
    /// `ma`: name, key, flags.
    MetaArithmetic,
    /// `me`: name, key, flags.
    MetaDebug,
    /// `mn`.
    MetaNoop,
    /// `flush_all`: name, perhaps the delay, perhaps `noreply`.
    FlushAll,
    /// `stats`, with the rest of the line.
    Stats,
    /// `lru_crawler`: name, subcommand, perhaps its argument.
    LruCrawler,
    /// `version`.
    Version,
    /// `verbosity`: name, level, perhaps `noreply`.
    Verbosity,
    /// `shutdown`, with the rest of the line.
    Shutdown,
    /// `quit`.
    Quit,
    /// A `set` whose data is user and password, from a client that has not authenticated. Arguments: name, data.
    Authenticate,
    /// Any other request of such a client.
    Unauthenticated,
    /// There is no such command, or the number of arguments is wrong.
    Unknown,
    /// The line is wrong in some other way.
    BadFormat,
    /// The same for `delete`, whose error shows its usage.
    BadDelete,
    /// The data of a storage command does not end with a line end.
    BadData,
    /// A storage command whose data is too large, and is skipped. Arguments: name, key.
    TooLarge,
    /// The same for `set` and `ms`, which then remove the key.
    TooLargeToSet,
    /// There are too many flags of a meta request.
    TooManyFlags,
    /// The same for `mg`, with another text.
    TooManyGetFlags,
}

impl Verb {
    /// Every verb, in order.
    pub const ALL: [Self; 45] = [
        Self::Get,
        Self::GetMany,
        Self::GetPart,
        Self::Gets,
        Self::GetsMany,
        Self::GetsPart,
        Self::Gat,
        Self::GatPart,
        Self::Gats,
        Self::GatsPart,
        Self::Set,
        Self::Add,
        Self::Replace,
        Self::Append,
        Self::Prepend,
        Self::Cas,
        Self::Touch,
        Self::Delete,
        Self::Incr,
        Self::Decr,
        Self::MetaGet,
        Self::MetaGetTouch,
        Self::MetaGetCreate,
        Self::MetaSet,
        Self::MetaDelete,
        Self::MetaArithmetic,
        Self::MetaDebug,
        Self::MetaNoop,
        Self::FlushAll,
        Self::Stats,
        Self::LruCrawler,
        Self::Version,
        Self::Verbosity,
        Self::Shutdown,
        Self::Quit,
        Self::Authenticate,
        Self::Unauthenticated,
        Self::Unknown,
        Self::BadFormat,
        Self::BadDelete,
        Self::BadData,
        Self::TooLarge,
        Self::TooLargeToSet,
        Self::TooManyFlags,
        Self::TooManyGetFlags,
    ];

    /// For a retrieval of several keys, the verb of all its parts but the last.
    pub(super) fn part(self) -> Self {
        match self {
            Self::GetMany => Self::GetPart,
            Self::GetsMany => Self::GetsPart,
            Self::Gat => Self::GatPart,
            Self::Gats => Self::GatsPart,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Verb;

    #[test]
    fn verbs_are_listed_in_order() {
        for (place, verb) in Verb::ALL.into_iter().enumerate() {
            assert_eq!(verb as usize, place);
        }
    }
}
