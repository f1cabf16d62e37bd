//! Users and the configuration: `requirepass`, `acl-pubsub-default`, and the `user` lines of files.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_acl::{RuleError, User, is_valid_name, merge_selectors};
use damselfly_config::{Config, PubSubDefault, UserLine, quoted_word};

use super::{Account, DEFAULT, Users};

impl Users {
    /// The users with which the server starts: those of the configuration, or of its `aclfile`.
    ///
    /// # Errors
    /// A user or a file is wrong: one line that says where and why. It contains no password.
    pub fn new(config: &Config) -> Result<Self, String> {
        let users = Self::default();
        users.take_default_of_channels(config);
        users.set_password(config);
        for line in &config.users {
            users.define(line).map_err(|problem| {
                let UserLine { place, name, .. } = line;
                format!("{place}: option 'user': Error in user declaration '{name}': {problem}")
            })?;
        }
        if !config.aclfile.is_empty() {
            if !config.users.is_empty() {
                return Err(String::from(
                    "Configuring users in the configuration file and at the same time an ACL file (aclfile) is invalid: define either, but not both",
                ));
            }
            let loaded = users.read_file(&config.aclfile);
            let loaded = loaded
                .map_err(|errors| format!("Aborting startup because of ACL errors: {errors}"))?;
            users.start_with(loaded);
        }
        for account in users.all() {
            if !account.user().is_enabled() {
                log::info!(
                    "The user '{}' is disabled (there is no 'on' modifier in the user description). Make sure this is not a configuration error.",
                    account.shown_name()
                );
            }
        }
        let memcached_user = config.memcached_user.as_bytes();
        if config.memcached_port != 0 && users.find(memcached_user).is_none() {
            return Err(format!(
                "memcached-user: there is no user '{}'",
                config.memcached_user
            ));
        }
        Ok(users)
    }

    /// Defines the user of a line.
    fn define(&self, line: &UserLine) -> Result<(), String> {
        let name = line.name.as_bytes();
        if !is_valid_name(name) {
            return Err(String::from("Spaces not allowed in ACL usernames"));
        }
        let rules = merge_selectors(line.rules.iter().map(String::as_bytes));
        let rules = rules.map_err(|_| String::from("Unmatched parenthesis in acl selector"))?;
        let mut user = User::new(self.new_users());
        if name == DEFAULT {
            let reset = user.apply(b"reset", self.new_users());
            reset.map_err(|error| error.to_string())?;
        }
        for (index, rule) in rules.iter().enumerate() {
            user.apply(rule, self.new_users())
                .map_err(|error| match error {
                    RuleError::Unknown => format!("'{}': {error}", String::from_utf8_lossy(rule)),
                    // The rule may be a password.
                    _ => format!("rule {}: {error}", index + 1),
                })?;
        }
        match name == DEFAULT {
            true => self.replace(&self.default, user),
            false => {
                let account = Account::new(name, user);
                self.by_name().insert(name.to_vec(), account);
            }
        }
        Ok(())
    }

    /// Takes over what a change of the configuration says about users.
    pub fn apply_config(&self, old: &Config, new: &Config) {
        self.take_default_of_channels(new);
        if new.requirepass != old.requirepass {
            self.set_password(new);
        }
    }

    fn take_default_of_channels(&self, config: &Config) {
        let all = config.acl_pubsub_default == PubSubDefault::AllChannels;
        self.new_users_use_all_channels.store(all, Relaxed);
    }

    /// Makes `requirepass` the only password of the default user.
    fn set_password(&self, config: &Config) {
        // Against a change of its rules at the same moment.
        let _accounts = self.by_name();
        let mut user = User::clone(&self.default.user());
        user.set_only_password(config.requirepass.as_bytes());
        self.replace(&self.default, user);
    }

    /// The default user that no file defines: unrestricted, with the password `requirepass`.
    pub(super) fn initial_default(&self, config: &Config) -> User {
        let mut user = User::unrestricted(self.new_users());
        user.set_only_password(config.requirepass.as_bytes());
        user
    }

    /// The `user` lines for the configuration file, if it needs any: the users are not in an `aclfile`, and there is more to say than what
    /// `requirepass` does.
    ///
    /// # Errors
    /// A rule or a name is no text, so that the file could not give it again.
    pub fn config_lines(&self, config: &Config) -> Result<Vec<String>, String> {
        let initial = self.initial_default(config);
        let all = self.all();
        let is_initial = all.len() == 1 && *self.default.user() == initial;
        if !config.aclfile.is_empty() || is_initial {
            return Ok(Vec::new());
        }
        all.iter().map(|account| config_line(account)).collect()
    }
}

fn config_line(account: &Account) -> Result<String, String> {
    let description = account.description();
    let mut line = String::from("user");
    let words = description.split(|&byte| byte == b' ');
    for word in std::iter::once(account.name()).chain(words) {
        let word = std::str::from_utf8(word).map_err(|_| {
            format!(
                "the rules of user '{}' are not UTF-8 text; keep users in an ACL file (aclfile) instead",
                account.shown_name()
            )
        })?;
        line.push(' ');
        line.push_str(&quoted_word(word));
    }
    Ok(line)
}
