//! When the server saves: save points, and what its end saves.

use super::kind::OptionError;

/// One condition of `save`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavePoint {
    /// Seconds since the last snapshot, at least 1.
    pub after_s: u64,
    /// Changes since the last snapshot.
    pub changes: u64,
}

/// `save`: a snapshot is due when one of these conditions is met; without any, it never is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavePoints(pub Vec<SavePoint>);

impl Default for SavePoints {
    fn default() -> Self {
        Self(
            [(3600, 1), (300, 100), (60, 10_000)]
                .map(|(after_s, changes)| SavePoint { after_s, changes })
                .to_vec(),
        )
    }
}

impl SavePoints {
    pub(crate) fn show(&self) -> String {
        let points: Vec<String> = self
            .0
            .iter()
            .map(|point| format!("{} {}", point.after_s, point.changes))
            .collect();
        points.join(" ")
    }

    pub(crate) fn parse(words: &[String]) -> Result<Self, OptionError> {
        let refused = || OptionError::new("Invalid save parameters");
        let (pairs, []) = words.as_chunks::<2>() else {
            return Err(refused());
        };
        let mut points = Vec::with_capacity(pairs.len());
        for [after, changes] in pairs {
            let after_s = after.parse().ok().filter(|s| *s >= 1).ok_or_else(refused)?;
            let changes = changes.parse::<u32>().map_err(|_| refused())?.into();
            points.push(SavePoint { after_s, changes });
        }
        Ok(Self(points))
    }
}

/// `shutdown-on-sigint` and `shutdown-on-sigterm`: what SHUTDOWN would be given. Without flags, the server saves if there are save
/// points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShutdownFlags {
    /// Saves in any case.
    pub save: bool,
    /// Does not save.
    pub nosave: bool,
    /// Does not wait for replicas.
    pub now: bool,
    /// Stops even if saving fails.
    pub force: bool,
}

impl ShutdownFlags {
    fn named(&mut self) -> [(&'static str, &mut bool); 4] {
        [
            ("save", &mut self.save),
            ("nosave", &mut self.nosave),
            ("now", &mut self.now),
            ("force", &mut self.force),
        ]
    }

    pub(crate) fn show(mut self) -> String {
        let named = self.named().into_iter();
        let given: Vec<&str> = named
            .filter(|(_, is_given)| **is_given)
            .map(|(name, _)| name)
            .collect();
        match given.is_empty() {
            true => String::from("default"),
            false => given.join(" "),
        }
    }

    pub(crate) fn parse(words: &[String]) -> Result<Self, OptionError> {
        let mut flags = Self::default();
        for word in words {
            if word.eq_ignore_ascii_case("default") {
                continue;
            }
            let mut named = flags.named().into_iter();
            let Some((_, given)) = named.find(|(name, _)| name.eq_ignore_ascii_case(word)) else {
                return Err(unknown_flag());
            };
            *given = true;
        }
        if words.is_empty() {
            return Err(unknown_flag());
        }
        if flags.save && flags.nosave {
            return Err(OptionError::new(
                "shutdown options SAVE and NOSAVE can't be used simultaneously",
            ));
        }
        Ok(flags)
    }
}

fn unknown_flag() -> OptionError {
    OptionError::new("argument(s) must be one of the following: default, save, nosave, now, force")
}
