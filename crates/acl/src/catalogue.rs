//! The commands that rules name, and their categories.

use std::collections::HashMap;

/// All categories, in the order in which Redis lists them.
pub const CATEGORIES: &[&str] = &[
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// A set of categories, one bit each, in the order of [`CATEGORIES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Categories(u32);

impl Categories {
    /// The categories with these names. Other names are ignored.
    pub fn named(names: &[&str]) -> Self {
        let places = names.iter().filter_map(|name| place_of(name.as_bytes()));
        Self(places.fold(0, |bits, place| bits | 1 << place))
    }

    /// The category of this name, in any case.
    pub fn find(name: &[u8]) -> Option<Self> {
        place_of(name).map(Self::at)
    }

    /// The category at this place of [`CATEGORIES`].
    pub(crate) fn at(place: usize) -> Self {
        Self(1 << place)
    }

    /// True if both sets have a category in common.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

fn place_of(name: &[u8]) -> Option<usize> {
    CATEGORIES
        .iter()
        .position(|known| known.as_bytes().eq_ignore_ascii_case(name))
}

/// The most commands and subcommands. One more bit says that commands of the future are allowed.
pub(crate) const COMMANDS_MAX: usize = 511;

/// A command or subcommand.
#[derive(Debug)]
pub(crate) struct Command {
    /// In lower case; `container|subcommand` for a subcommand.
    pub name: String,
    pub categories: Categories,
    /// The numbers of its subcommands.
    pub subcommands: Vec<usize>,
}

impl Command {
    pub fn is_subcommand(&self) -> bool {
        self.name.contains('|')
    }
}

/// All commands, by number.
#[derive(Debug)]
pub struct Catalogue {
    commands: Vec<Command>,
    by_name: HashMap<String, usize>,
}

impl Catalogue {
    /// A catalogue of the server's commands, which get their numbers in this order. A container comes before its subcommands, whose names
    /// are `container|subcommand`, in lower case.
    ///
    /// # Panics
    /// If there are too many commands.
    pub fn new<'a>(commands: impl IntoIterator<Item = (&'a str, Categories)>) -> Self {
        let mut catalogue = Self {
            commands: Vec::new(),
            by_name: HashMap::new(),
        };
        for (name, categories) in commands {
            catalogue.add(name, categories);
        }
        assert!(
            catalogue.commands.len() <= COMMANDS_MAX,
            "too many commands"
        );
        catalogue
    }

    fn add(&mut self, name: &str, categories: Categories) {
        let number = self.commands.len();
        if let Some((container, _)) = name.split_once('|')
            && let Some(&container) = self.by_name.get(container)
        {
            self.commands[container].subcommands.push(number);
        }
        self.by_name.insert(name.to_owned(), number);
        self.commands.push(Command {
            name: name.to_owned(),
            categories,
            subcommands: Vec::new(),
        });
    }

    /// The commands, by number.
    pub(crate) fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// The number of the command of this name, in any case.
    pub(crate) fn find(&self, name: &[u8]) -> Option<usize> {
        let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
        self.by_name.get(&name).copied()
    }
}
