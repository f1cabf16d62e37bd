//! From a selector back to rules.

use crate::catalogue::{CATEGORIES, Catalogue, Categories};
use crate::selector::{CommandSet, Selector, in_category};

impl Selector {
    /// The rules that give this selector.
    pub(crate) fn description(&self, catalogue: &Catalogue) -> Vec<u8> {
        let mut rules = self.key_rules();
        match self.all_channels {
            true => rules.push(b"&*".to_vec()),
            false => {
                rules.push(b"resetchannels".to_vec());
                rules.extend(self.channel_rules());
            }
        }
        rules.push(self.command_rules(catalogue));
        rules.join(&b' ')
    }

    /// The rules about keys.
    pub(crate) fn key_rules(&self) -> Vec<Vec<u8>> {
        match self.all_keys {
            true => vec![b"~*".to_vec()],
            false => self.keys.iter().map(|known| known.rule()).collect(),
        }
    }

    /// The rules about channels, unless all are allowed.
    fn channel_rules(&self) -> impl Iterator<Item = Vec<u8>> {
        self.channels
            .iter()
            .map(|known| [b"&", &*known.text].concat())
    }

    /// The patterns of keys, as ACL GETUSER shows them.
    pub fn keys_text(&self) -> Vec<u8> {
        self.key_rules().join(&b' ')
    }

    /// The patterns of channels, as ACL GETUSER shows them.
    pub fn channels_text(&self) -> Vec<u8> {
        match self.all_channels {
            true => b"&*".to_vec(),
            false => self.channel_rules().collect::<Vec<_>>().join(&b' '),
        }
    }

    /// The rules about commands: first all or none, then categories, then single commands. The categories are chosen as in Redis: of those
    /// that are mostly right, the one with the fewest exceptions comes next.
    pub fn command_rules(&self, catalogue: &Catalogue) -> Vec<u8> {
        let adds = !self.commands.has_future();
        let (mut text, mut described) = match adds {
            true => (b"-@all".to_vec(), CommandSet::default()),
            false => (b"+@all".to_vec(), CommandSet::ALL),
        };
        let mut left = self.commands;
        let mut unused: Vec<usize> = (0..CATEGORIES.len()).collect();
        while let Some(best) = best_category(catalogue, &left, &unused, adds) {
            unused.retain(|&place| place != best);
            let category = Categories::at(best);
            described.set_category(catalogue, category, adds);
            left.set_category(catalogue, category, !adds);
            text.extend_from_slice(if adds { b" +@" } else { b" -@" });
            text.extend_from_slice(CATEGORIES[best].as_bytes());
        }
        self.describe_exceptions(catalogue, &mut described, &mut text);
        assert!(
            described == self.commands,
            "the rules that are shown for a user must give the same rights"
        );
        text
    }

    /// Adds the commands about which the rules so far are wrong, and the first arguments.
    fn describe_exceptions(
        &self,
        catalogue: &Catalogue,
        described: &mut CommandSet,
        text: &mut Vec<u8>,
    ) {
        for (number, command) in catalogue.commands().iter().enumerate() {
            let is_allowed = self.commands.has(number);
            if is_allowed != described.has(number) {
                text.extend_from_slice(if is_allowed { b" +" } else { b" -" });
                text.extend_from_slice(command.name.as_bytes());
                described.set(catalogue, number, is_allowed);
            }
            if is_allowed {
                continue;
            }
            for argument in self.first_arguments.get(&number).into_iter().flatten() {
                text.extend_from_slice(b" +");
                text.extend_from_slice(command.name.as_bytes());
                text.push(b'|');
                text.extend_from_slice(argument);
            }
        }
    }
}

/// Of these categories, the one that describes `commands` best: more commands in it are allowed than not (or the opposite, if `adds` is
/// false), with the fewest exceptions, and then the most commands.
fn best_category(
    catalogue: &Catalogue,
    commands: &CommandSet,
    unused: &[usize],
    adds: bool,
) -> Option<usize> {
    let mut best: Option<(usize, usize, usize)> = None;
    for &place in unused {
        let (mut same, mut different) = (0, 0);
        for command in in_category(catalogue, Categories::at(place)) {
            match commands.has(command) == adds {
                true => same += 1,
                false => different += 1,
            }
        }
        let is_better = best.is_none_or(|(_, fewest, most)| {
            different < fewest || different == fewest && same > most
        });
        if same > different && is_better {
            best = Some((place, different, same));
        }
    }
    best.map(|(place, ..)| place)
}
