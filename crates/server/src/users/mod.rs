//! The users: who they are, how connections become one of them, and what happens to connections when a user is changed.
//!
//! ```text
//!   ACL SETUSER ──► Account: the user as a whole is replaced ──► generation + 1
//!                                                                     │ compared before every command
//!   session: Login ◄── takes the user again if the generation has changed
//! ```
//!
//! The rules themselves are in the crate `acl`. A [`Login`] holds the user as a value that never changes, and the generation in which it was
//! taken. So a change made by any thread holds for the next command of every connection, also within a batch that was read before. A client
//! that may do everything pays for one comparison.

mod config;
mod enforce;
mod file;
mod login;
mod request;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use damselfly_acl::{
    Catalogue, Categories, Credentials, Definition, Log, NewUsers, Reason, Refused, User,
};

pub use damselfly_acl::Context;
use damselfly_config::Config;
pub use enforce::recheck;
pub use file::line;
pub use login::{Login, refusal, refusal_in_exec, refusal_in_script, require};
pub use request::{Asked, Channels, OnlyKey, channels_of, only_key_of};

use crate::admin::client;
use crate::admin::command::facts;
use crate::clients::Client;
use crate::clock;
use crate::event_loop::parser::Protocol;
use crate::registry::REGISTRY;
use crate::shared::Shared;

/// The commands that rules may name. Their numbers are the indexes of the rows.
static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    let categories = |command| Categories::named(&facts::categories(command));
    let rows = REGISTRY.rows().iter();
    Catalogue::new(rows.map(|row| (row.name.as_str(), categories(&row.command))))
});

/// The commands that rules may name.
pub fn catalogue() -> &'static Catalogue {
    &CATALOGUE
}

/// The name of the user of connections that have not logged in.
pub const DEFAULT: &[u8] = b"default";

/// A user with a name, as connections refer to it.
#[derive(Debug)]
pub struct Account {
    name: Vec<u8>,
    user: Mutex<Arc<User>>,
    is_deleted: AtomicBool,
}

impl Account {
    fn new(name: &[u8], user: User) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_vec(),
            user: Mutex::new(Arc::new(user)),
            is_deleted: AtomicBool::new(false),
        })
    }

    /// The name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The name as text.
    pub fn shown_name(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    /// The user as of now.
    pub fn user(&self) -> Arc<User> {
        self.slot().clone()
    }

    fn slot(&self) -> MutexGuard<'_, Arc<User>> {
        self.user.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once the user was deleted: its connections are being closed.
    pub fn is_deleted(&self) -> bool {
        self.is_deleted.load(Acquire)
    }

    /// The rules, as ACL LIST shows them behind the name.
    pub fn description(&self) -> Vec<u8> {
        self.user().description(&CATALOGUE)
    }
}

/// How many requests and logins were refused, by reason.
#[derive(Debug, Default)]
pub struct RefusalCounts {
    /// Logins.
    pub logins: AtomicU64,
    /// Commands.
    pub commands: AtomicU64,
    /// Keys.
    pub keys: AtomicU64,
    /// Channels.
    pub channels: AtomicU64,
}

/// All users.
#[derive(Debug)]
pub struct Users {
    /// Grows with every change of a user. Starts with 1.
    generation: AtomicU64,
    by_name: Mutex<BTreeMap<Vec<u8>, Arc<Account>>>,
    /// The user of connections that have not logged in. It is never deleted.
    default: Arc<Account>,
    new_users_use_all_channels: AtomicBool,
    log: Mutex<Log>,
    /// For INFO.
    pub refusals: RefusalCounts,
}

/// A login that was refused.
pub struct WrongLogin;

impl Default for Users {
    fn default() -> Self {
        let new_users = NewUsers {
            catalogue: &CATALOGUE,
            all_channels: false,
        };
        let default = Account::new(DEFAULT, User::unrestricted(new_users));
        Self {
            generation: AtomicU64::new(1),
            by_name: Mutex::new(BTreeMap::from([(DEFAULT.to_vec(), default.clone())])),
            default,
            new_users_use_all_channels: AtomicBool::new(false),
            log: Mutex::default(),
            refusals: RefusalCounts::default(),
        }
    }
}

impl Users {
    /// A number that changes with every change of a user.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// To be called after a change of an account, and before any connection is examined that it concerns.
    fn note_change(&self) {
        self.generation.fetch_add(1, AcqRel);
    }

    fn by_name(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Arc<Account>>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a new user and a new selector may do.
    fn new_users(&self) -> NewUsers<'static> {
        NewUsers {
            catalogue: &CATALOGUE,
            all_channels: self.new_users_use_all_channels.load(Relaxed),
        }
    }

    /// The user of connections that have not logged in.
    pub fn default_account(&self) -> &Arc<Account> {
        &self.default
    }

    /// The user of this name.
    pub fn find(&self, name: &[u8]) -> Option<Arc<Account>> {
        self.by_name().get(name).cloned()
    }

    /// All users, by name.
    pub fn all(&self) -> Vec<Arc<Account>> {
        self.by_name().values().cloned().collect()
    }

    /// The user that a new connection is before it logs in. If there is no `memcached-user`, it is one who may do nothing else.
    pub fn first_account(&self, speaks: Protocol, config: &Config) -> Arc<Account> {
        let name = match speaks {
            Protocol::Resp => return self.default.clone(),
            Protocol::Memcached => config.memcached_user.as_bytes(),
        };
        let found = self.find(name);
        found.unwrap_or_else(|| Account::new(name, User::nobody()))
    }

    /// Creates or changes a user as rules say. Returns true if the connection of the client `own_id` must be closed.
    ///
    /// # Errors
    /// A rule is wrong: the text that ACL SETUSER returns. Then nothing has changed.
    pub fn set<'a>(
        &self,
        shared: &Shared,
        name: &[u8],
        rules: impl IntoIterator<Item = &'a [u8]>,
        own_id: u64,
    ) -> Result<bool, String> {
        let mut by_name = self.by_name();
        let Some(account) = by_name.get(name).cloned() else {
            let mut user = User::new(self.new_users());
            user.apply_words(rules, self.new_users())?;
            by_name.insert(name.to_vec(), Account::new(name, user));
            return Ok(false);
        };
        let before = account.user();
        let mut user = User::clone(&before);
        user.apply_words(rules, self.new_users())?;
        self.replace(&account, user);
        drop(by_name);
        Ok(enforce::enforce(shared, &account, &before, own_id))
    }

    fn replace(&self, account: &Account, user: User) {
        *account.slot() = Arc::new(user);
        self.note_change();
    }

    /// Deletes users. Returns how many existed, and true if the connection of the client `own_id` must be closed.
    pub fn delete<'a>(
        &self,
        shared: &Shared,
        names: impl Iterator<Item = &'a [u8]>,
        own_id: u64,
    ) -> (usize, bool) {
        let mut by_name = self.by_name();
        let gone: Vec<_> = names.filter_map(|name| by_name.remove(name)).collect();
        drop(by_name);
        (gone.len(), self.close_all(shared, &gone, own_id))
    }

    /// Takes all rights from accounts that are no longer listed, and closes their connections. Returns true for the client `own_id`.
    fn close_all(&self, shared: &Shared, gone: &[Arc<Account>], own_id: u64) -> bool {
        for account in gone {
            *account.slot() = Arc::new(User::nobody());
            account.is_deleted.store(true, Release);
        }
        self.note_change();
        enforce::disconnect(shared, own_id, |client| {
            gone.iter().any(|account| client.is_user(account))
        })
    }

    /// Replaces all users by those of a file. The connections of all users but the default one are closed. Returns true if that of the
    /// client `own_id` must be closed.
    fn replace_all(&self, shared: &Shared, mut users: Definition, own_id: u64) -> bool {
        let default = users.remove(DEFAULT);
        let default = default.unwrap_or_else(|| self.initial_default(&shared.config()));
        let mut by_name = self.by_name();
        let before = self.default.user();
        self.replace(&self.default, default);
        let accounts = users
            .into_iter()
            .map(|(name, user)| (name.clone(), Account::new(&name, user)));
        let mut gone = std::mem::replace(&mut *by_name, accounts.collect());
        gone.remove(DEFAULT);
        by_name.insert(DEFAULT.to_vec(), self.default.clone());
        drop(by_name);
        let gone: Vec<_> = gone.into_values().collect();
        let closes_default = enforce::enforce(shared, &self.default, &before, own_id);
        self.close_all(shared, &gone, own_id) | closes_default
    }

    /// Finds the user with this name and password.
    ///
    /// # Errors
    /// There is none, or the user is disabled.
    fn authenticate(&self, name: &[u8], password: &[u8]) -> Result<Arc<Account>, WrongLogin> {
        // Always, so that the time does not reveal whether a user exists.
        let credentials = Credentials::new(password);
        let account = self.find(name).ok_or(WrongLogin)?;
        match account.user().accepts(&credentials) {
            true => Ok(account),
            false => Err(WrongLogin),
        }
    }

    /// Adds a refusal to the log, and counts it.
    #[cold]
    fn note_refusal(
        &self,
        shared: &Shared,
        who: &Client,
        (reason, context): (Reason, Context),
        object: &[u8],
        user: &[u8],
    ) {
        let count = match reason {
            Reason::Command => &self.refusals.commands,
            Reason::Key => &self.refusals.keys,
            Reason::Channel => &self.refusals.channels,
            Reason::Login => &self.refusals.logins,
        };
        count.fetch_add(1, Relaxed);
        let len_max = shared.config().acllog_max_len;
        let refused = Refused {
            reason,
            context,
            object: object.to_vec(),
            user: user.to_vec(),
            client: client::line(who, clock::now_ms()),
        };
        let len_max = usize::try_from(len_max).unwrap_or(usize::MAX);
        self.log().add(refused, clock::now_ms(), len_max);
    }

    /// Calls `read` with the log.
    pub fn with_log<R>(&self, read: impl FnOnce(&mut Log) -> R) -> R {
        read(&mut self.log())
    }
}
