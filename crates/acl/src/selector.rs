//! A selector: commands, keys and channels that are allowed together.

use std::collections::BTreeMap;

use crate::catalogue::{COMMANDS_MAX, Catalogue, Categories};
use crate::pattern::{Head, KeyPattern, KeyUse, Pattern};
use crate::rule::{RuleError, has_blanks};

/// A request, as rules see it.
pub trait Request {
    /// The number of its command or subcommand in the catalogue.
    fn command(&self) -> usize;
    /// True if every user may run the command, whatever the rules say: AUTH, HELLO, QUIT, RESET.
    fn is_always_allowed(&self) -> bool;
    /// The first argument after the name.
    fn first_argument(&self) -> Option<&[u8]>;
    /// Its only key, if the command always has exactly one.
    fn only_key(&self) -> Option<Key<'_>>;
    /// Its keys.
    fn keys(&self) -> impl Iterator<Item = Key<'_>>;
    /// True if it has channels.
    fn has_channels(&self) -> bool;
    /// The channels that it publishes or subscribes to.
    fn channels(&self) -> impl Iterator<Item = Channel<'_>>;
}

/// A key of a request.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The index of the argument.
    pub place: usize,
    /// The key.
    pub name: &'a [u8],
    /// How the command uses it.
    pub used: KeyUse,
}

/// A channel of a request.
#[derive(Clone, Copy, Debug)]
pub struct Channel<'a> {
    /// The index of the argument.
    pub place: usize,
    /// The channel.
    pub name: &'a [u8],
    /// The name is a pattern, which must be allowed literally.
    pub is_pattern: bool,
}

/// Why a request may not run. Of several reasons, the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denied {
    /// The command is not allowed.
    Command,
    /// The key at this argument is not allowed.
    Key(usize),
    /// The channel at this argument is not allowed.
    Channel(usize),
}

/// A set of commands, one bit each. The last bit stands for commands of the future.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommandSet([u64; (COMMANDS_MAX + 1) / 64]);

impl CommandSet {
    pub const ALL: Self = Self([u64::MAX; (COMMANDS_MAX + 1) / 64]);

    #[inline]
    pub fn has(&self, command: usize) -> bool {
        let word = self.0.get(command / 64);
        word.is_some_and(|word| word & 1 << (command % 64) != 0)
    }

    pub fn has_future(&self) -> bool {
        self.has(COMMANDS_MAX)
    }

    fn set_one(&mut self, command: usize, allowed: bool) {
        let bit = 1 << (command % 64);
        match allowed {
            true => self.0[command / 64] |= bit,
            false => self.0[command / 64] &= !bit,
        }
    }

    /// Allows or forbids a command and its subcommands.
    pub fn set(&mut self, catalogue: &Catalogue, command: usize, allowed: bool) {
        self.set_one(command, allowed);
        for &subcommand in &catalogue.commands()[command].subcommands {
            self.set_one(subcommand, allowed);
        }
    }

    /// Allows or forbids all commands of a category, with their subcommands.
    pub fn set_category(&mut self, catalogue: &Catalogue, category: Categories, allowed: bool) {
        for command in in_category(catalogue, category) {
            self.set(catalogue, command, allowed);
        }
    }
}

/// The numbers of the commands and subcommands of a category.
pub(crate) fn in_category(
    catalogue: &Catalogue,
    category: Categories,
) -> impl Iterator<Item = usize> {
    let commands = catalogue.commands().iter().enumerate();
    let of_category = commands.filter(move |(_, command)| command.categories.intersects(category));
    of_category.map(|(number, _)| number)
}

/// Commands, keys and channels that are allowed together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    pub(crate) commands: CommandSet,
    /// First arguments with which commands are allowed that are not allowed otherwise.
    pub(crate) first_arguments: BTreeMap<usize, Vec<Box<[u8]>>>,
    pub(crate) all_keys: bool,
    pub(crate) keys: Vec<KeyPattern>,
    pub(crate) all_channels: bool,
    pub(crate) channels: Vec<Pattern>,
}

impl Selector {
    /// A selector that allows nothing, or only all channels.
    pub(crate) fn new(all_channels: bool) -> Self {
        Self {
            all_channels,
            ..Self::default()
        }
    }

    /// True if nothing is refused.
    pub(crate) fn has_all_rights(&self) -> bool {
        self.commands == CommandSet::ALL && self.all_keys && self.all_channels
    }

    /// The selector that these words describe, within parentheses. A rule may not end with a parenthesis, since the text of the selector
    /// would then end there for whoever reads it from a file.
    ///
    /// # Errors
    /// A rule is wrong.
    pub(crate) fn parse(
        words: &[u8],
        catalogue: &Catalogue,
        all_channels: bool,
    ) -> Result<Self, RuleError> {
        let mut selector = Self::new(all_channels);
        let rules = words.split(|&byte| has_blanks(&[byte]));
        for rule in rules.filter(|rule| !rule.is_empty()) {
            if rule.ends_with(b")") {
                return Err(RuleError::Syntax);
            }
            selector.apply(rule, catalogue)?;
        }
        Ok(selector)
    }

    /// Changes the selector as a rule says.
    ///
    /// # Errors
    /// The rule is wrong; then nothing has changed.
    pub(crate) fn apply(&mut self, rule: &[u8], catalogue: &Catalogue) -> Result<(), RuleError> {
        let is = |word: &str| rule.eq_ignore_ascii_case(word.as_bytes());
        if is("allkeys") || is("~*") {
            self.set_all_keys(true);
        } else if is("resetkeys") {
            self.set_all_keys(false);
        } else if is("allchannels") || is("&*") {
            self.set_all_channels(true);
        } else if is("resetchannels") {
            self.set_all_channels(false);
        } else if is("allcommands") || is("+@all") {
            self.set_all_commands(CommandSet::ALL);
        } else if is("nocommands") || is("-@all") {
            self.set_all_commands(CommandSet::default());
        } else {
            return match rule {
                [b'~' | b'%', ..] if self.all_keys => Err(RuleError::AfterAllKeys),
                [b'~', pattern @ ..] => self.add_keys(pattern, KeyUse::BOTH),
                [b'%', rest @ ..] => {
                    let (allows, pattern) = split_key_use(rest)?;
                    self.add_keys(pattern, allows)
                }
                [b'&', pattern @ ..] => self.add_channels(pattern),
                [b'+', b'@', name @ ..] => self.set_category(catalogue, name, true),
                [b'-', b'@', name @ ..] => self.set_category(catalogue, name, false),
                [b'+', name @ ..] => self.allow(catalogue, name),
                [b'-', name @ ..] => {
                    let command = catalogue.find(name).ok_or(RuleError::Unknown)?;
                    self.set_command(catalogue, command, false);
                    Ok(())
                }
                _ => Err(RuleError::Syntax),
            };
        }
        Ok(())
    }

    fn set_all_keys(&mut self, all: bool) {
        self.all_keys = all;
        self.keys.clear();
    }

    fn set_all_channels(&mut self, all: bool) {
        self.all_channels = all;
        self.channels.clear();
    }

    fn set_all_commands(&mut self, commands: CommandSet) {
        self.commands = commands;
        self.first_arguments.clear();
    }

    fn set_command(&mut self, catalogue: &Catalogue, command: usize, allowed: bool) {
        self.commands.set(catalogue, command, allowed);
        self.first_arguments.remove(&command);
    }

    fn set_category(
        &mut self,
        catalogue: &Catalogue,
        name: &[u8],
        allowed: bool,
    ) -> Result<(), RuleError> {
        let category = Categories::find(name).ok_or(RuleError::Unknown)?;
        for command in in_category(catalogue, category) {
            self.set_command(catalogue, command, allowed);
        }
        Ok(())
    }

    fn add_keys(&mut self, pattern: &[u8], allows: KeyUse) -> Result<(), RuleError> {
        if has_blanks(pattern) {
            return Err(RuleError::Syntax);
        }
        let same = |known: &&mut KeyPattern| *known.pattern.text == *pattern;
        match self.keys.iter_mut().find(same) {
            Some(known) => known.allows = known.allows.or(allows),
            None => self.keys.push(KeyPattern {
                pattern: Pattern::new(pattern),
                allows,
            }),
        }
        Ok(())
    }

    fn add_channels(&mut self, pattern: &[u8]) -> Result<(), RuleError> {
        if self.all_channels {
            return Err(RuleError::AfterAllChannels);
        }
        if has_blanks(pattern) {
            return Err(RuleError::Syntax);
        }
        if !self.channels.iter().any(|known| *known.text == *pattern) {
            self.channels.push(Pattern::new(pattern));
        }
        Ok(())
    }

    /// `+command`, `+container|subcommand` or `+command|argument`.
    fn allow(&mut self, catalogue: &Catalogue, name: &[u8]) -> Result<(), RuleError> {
        let Some(bar) = name.iter().rposition(|&byte| byte == b'|') else {
            let command = catalogue.find(name).ok_or(RuleError::Unknown)?;
            self.set_command(catalogue, command, true);
            return Ok(());
        };
        let (before, argument) = (&name[..bar], &name[bar + 1..]);
        let number = catalogue.find(before).ok_or(RuleError::Unknown)?;
        let command = &catalogue.commands()[number];
        if command.is_subcommand() {
            return Err(RuleError::FirstArgumentOfSubcommand);
        }
        if argument.is_empty() {
            return Err(RuleError::Syntax);
        }
        if !command.subcommands.is_empty() {
            let subcommand = catalogue.find(name).ok_or(RuleError::Unknown)?;
            self.set_command(catalogue, subcommand, true);
            return Ok(());
        }
        if has_blanks(argument) {
            return Err(RuleError::Syntax);
        }
        if self.commands.has(number) {
            return Ok(());
        }
        let allowed = self.first_arguments.entry(number).or_default();
        if !allowed
            .iter()
            .any(|known| known.eq_ignore_ascii_case(argument))
        {
            allowed.push(argument.into());
        }
        Ok(())
    }

    /// True if the request may run, otherwise why not.
    ///
    /// # Errors
    /// It may not run.
    #[inline]
    pub(crate) fn check(&self, request: &impl Request) -> Result<(), Denied> {
        if !self.commands.has(request.command())
            && !request.is_always_allowed()
            && !self.allows_first_argument(request)
        {
            return Err(Denied::Command);
        }
        if !self.all_keys {
            match request.only_key() {
                Some(key) if self.allows_key(&key) => {}
                Some(key) => return Err(Denied::Key(key.place)),
                None => self.check_keys(request)?,
            }
        }
        if !self.all_channels && request.has_channels() {
            self.check_channels(request)?;
        }
        Ok(())
    }

    #[cold]
    fn allows_first_argument(&self, request: &impl Request) -> bool {
        let allowed = self.first_arguments.get(&request.command());
        let given = request.first_argument();
        allowed.zip(given).is_some_and(|(allowed, given)| {
            allowed
                .iter()
                .any(|known| known.eq_ignore_ascii_case(given))
        })
    }

    #[inline(never)]
    fn check_keys(&self, request: &impl Request) -> Result<(), Denied> {
        let refused = request.keys().find(|key| !self.allows_key(key));
        refused.map_or(Ok(()), |key| Err(Denied::Key(key.place)))
    }

    #[inline(never)]
    fn check_channels(&self, request: &impl Request) -> Result<(), Denied> {
        let refused = request
            .channels()
            .find(|channel| !allows_channel(&self.channels, channel.name, channel.is_pattern));
        refused.map_or(Ok(()), |channel| Err(Denied::Channel(channel.place)))
    }

    #[inline]
    fn allows_key(&self, key: &Key<'_>) -> bool {
        let head = Head::of(key.name);
        self.keys.iter().any(|known| {
            known.pattern.matches_with(key.name, head) && known.allows.covers(key.used)
        })
    }

    /// True if every key may be read.
    pub(crate) fn reads_all_keys(&self) -> bool {
        let is_all =
            |known: &KeyPattern| known.allows.covers(KeyUse::READ) && *known.pattern.text == *b"*";
        self.all_keys || self.keys.iter().any(is_all)
    }
}

/// True if one of these patterns allows a channel.
pub(crate) fn allows_channel<'p>(
    allowed: impl IntoIterator<Item = &'p Pattern>,
    channel: &[u8],
    is_pattern: bool,
) -> bool {
    allowed.into_iter().any(|known| match is_pattern {
        true => *known.text == *channel,
        false => known.matches(channel),
    })
}

/// Splits what follows the `%` of a rule: letters, `~`, pattern. Without `~`, the pattern is empty, as in Redis.
fn split_key_use(rest: &[u8]) -> Result<(KeyUse, &[u8]), RuleError> {
    let tilde = rest.iter().position(|&byte| byte == b'~');
    let letters = &rest[..tilde.unwrap_or(rest.len())];
    let mut allows = KeyUse::NONE;
    for letter in letters {
        let one = match letter.to_ascii_uppercase() {
            b'R' => KeyUse::READ,
            b'W' => KeyUse::WRITE,
            _ => return Err(RuleError::Syntax),
        };
        if allows.covers(one) {
            return Err(RuleError::Syntax);
        }
        allows = allows.or(one);
    }
    if allows == KeyUse::NONE {
        return Err(RuleError::Syntax);
    }
    Ok((allows, tilde.map_or(&[], |tilde| &rest[tilde + 1..])))
}
