//! A connection's user, and the check of its commands.

use std::sync::Arc;

use damselfly_acl::{Context as Within, Denied, Reason, User};
use damselfly_base::CommandError;
use damselfly_commands::{Args, sort};

use super::{Account, Asked, Users, WrongLogin};
use crate::clients::Client;
use crate::registry::{REGISTRY, Row};
use crate::session::{Context, Session};
use crate::shared::Shared;

/// The user that a connection is. Unless it has logged in, that is the one with which it began.
#[derive(Clone, Debug)]
pub struct Login {
    account: Arc<Account>,
    /// The user as of `generation`.
    user: Arc<User>,
    generation: u64,
    /// The client has given a password, or none was needed when it connected.
    is_authenticated: bool,
    /// The generation in which nothing is refused; zero for never.
    unrestricted_in: u64,
}

impl Login {
    /// The login of a new connection.
    pub fn new(users: &Users, account: Arc<Account>) -> Self {
        let generation = users.generation();
        let user = account.user();
        let mut login = Self {
            is_authenticated: user.is_open(),
            account,
            user,
            generation,
            unrestricted_in: 0,
        };
        login.note_rights();
        login
    }

    fn note_rights(&mut self) {
        let is_unrestricted = !self.must_authenticate() && self.user.has_all_rights();
        self.unrestricted_in = match is_unrestricted {
            true => self.generation,
            false => 0,
        };
    }

    /// True if no command can be refused.
    #[inline]
    pub fn has_all_rights(&self, users: &Users) -> bool {
        users.generation() == self.unrestricted_in
    }

    /// Takes the user again if any was changed. False if it was deleted: the connection must be closed.
    #[inline]
    pub fn refresh(&mut self, users: &Users) -> bool {
        let generation = users.generation();
        if generation != self.generation {
            self.generation = generation;
            self.user = self.account.user();
            self.note_rights();
        }
        !self.account.is_deleted()
    }

    /// True if no user was changed since the last refresh.
    #[inline]
    pub fn is_current(&self, users: &Users) -> bool {
        users.generation() == self.generation
    }

    /// The account.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The user as of the last refresh.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// True if the client has given a password, or none was needed when it connected.
    pub fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }

    /// True if the client has yet to log in.
    pub fn must_authenticate(&self) -> bool {
        !self.is_authenticated && !self.user.is_open()
    }

    /// The same, as of now.
    pub fn must_authenticate_now(&self) -> bool {
        !self.is_authenticated && !self.account.user().is_open()
    }

    /// Makes the connection this user, if name and password are right. `command` is the name of the command as the client wrote it.
    ///
    /// # Errors
    /// They are wrong.
    pub fn log_in(
        &mut self,
        shared: &Shared,
        client: &Client,
        (name, password): (&[u8], &[u8]),
        context: Within,
        command: &[u8],
    ) -> Result<(), WrongLogin> {
        let users = &shared.users;
        // Before the look-up, so that a change in between is noticed by the next command.
        let generation = users.generation();
        let account = match users.authenticate(name, password) {
            Ok(account) => account,
            Err(wrong) => {
                let what = (Reason::Login, context);
                users.note_refusal(shared, client, what, command, name);
                return Err(wrong);
            }
        };
        client.set_account(account.clone());
        *self = Self {
            user: account.user(),
            account,
            generation,
            is_authenticated: true,
            unrestricted_in: 0,
        };
        self.note_rights();
        Ok(())
    }

    /// Checks a request, and logs it if it may not run.
    ///
    /// # Errors
    /// It may not run.
    pub fn check(
        &mut self,
        shared: &Shared,
        client: &Client,
        request: (&'static Row, Args<'_>),
        context: Within,
    ) -> Result<(), Denied> {
        self.refresh(&shared.users);
        self.check_refreshed(shared, client, request, context)
    }

    /// As [`Self::check`], with the rights as of the last refresh.
    ///
    /// # Errors
    /// It may not run.
    #[inline]
    pub fn check_refreshed(
        &self,
        shared: &Shared,
        client: &Client,
        (row, args): (&'static Row, Args<'_>),
        context: Within,
    ) -> Result<(), Denied> {
        let checked = self.user.check(&Asked { row, args });
        if let Err(denied) = checked {
            note_denied(shared, client, &self.account, (row, args), denied, context);
        }
        checked
    }

    /// True if a request may run: no user was changed since the last refresh, and the rights as of then allow it. If false, [`Self::check`] says why.
    #[inline]
    pub fn may_run(&self, users: &Users, row: &'static Row, args: Args<'_>) -> bool {
        self.has_all_rights(users) || self.may_run_restricted(users, row, args)
    }

    #[inline(never)]
    fn may_run_restricted(&self, users: &Users, row: &'static Row, args: Args<'_>) -> bool {
        self.is_current(users)
            && !self.must_authenticate()
            && self.user.check(&Asked { row, args }).is_ok()
    }

    /// True if the user may run a request. Nothing is logged.
    pub fn allows(&mut self, users: &Users, row: &'static Row, args: Args<'_>) -> bool {
        self.refresh(users);
        self.user.check(&Asked { row, args }).is_ok()
    }

    /// The error if a request uses keys that only its patterns name, which the user may not read: SORT with BY or GET. As in Redis, this is
    /// an error of the command, not a refusal.
    #[inline]
    pub fn refused_patterns(
        &self,
        users: &Users,
        row: &'static Row,
        args: Args<'_>,
    ) -> Option<CommandError> {
        if !row.has_key_patterns || self.has_all_rights(users) {
            return None;
        }
        let error = sort::refused_pattern(args, row.name == "sort")?;
        (!self.user.may_read_all_keys(&Asked { row, args })).then_some(error)
    }
}

/// Logs a request that may not run.
#[cold]
pub fn note_denied(
    shared: &Shared,
    client: &Client,
    account: &Account,
    (row, args): (&'static Row, Args<'_>),
    denied: Denied,
    context: Within,
) {
    let (reason, object) = match denied {
        Denied::Command => (Reason::Command, permission(row).as_bytes()),
        Denied::Key(place) => (Reason::Key, args.at(place)),
        Denied::Channel(place) => (Reason::Channel, args.at(place)),
    };
    let users = &shared.users;
    users.note_refusal(shared, client, (reason, context), object, &account.name);
}

/// Checks that the user of a connection may also run the command of this name.
///
/// # Errors
/// The user may not.
pub fn require(context: &mut Context<'_>, name: &str) -> Result<(), CommandError> {
    let row = REGISTRY.rows().iter().find(|row| row.name == name);
    let Some(row) = row.filter(|_| !context.session.login.has_all_rights(&context.shared.users))
    else {
        return Ok(());
    };
    let Session { login, client, .. } = &mut *context.session;
    let request = (row, Args::new(&[], &[], None));
    login
        .check(context.shared, client, request, Within::TopLevel)
        .map_err(|denied| refusal(denied, row))
}

/// The name of the command that a user must be allowed to run. For memcached's commands, it is one of RESP.
pub fn permission(row: &Row) -> &'static str {
    &REGISTRY.rows()[row.permission].name
}

/// The error for a request that may not run.
#[cold]
pub fn refusal(denied: Denied, row: &Row) -> CommandError {
    CommandError::Text(match denied {
        Denied::Command => format!(
            "NOPERM this user has no permissions to run the '{}' command",
            permission(row)
        ),
        Denied::Key(_) => String::from(
            "NOPERM this user has no permissions to access one of the keys used as arguments",
        ),
        Denied::Channel(_) => String::from(
            "NOPERM this user has no permissions to access one of the channels used as arguments",
        ),
    })
}

/// The error for a queued command that may no longer run when EXEC runs it.
#[cold]
pub fn refusal_in_exec(denied: Denied) -> CommandError {
    let reason = match denied {
        Denied::Command => "no permission to execute the command or subcommand",
        Denied::Key(_) => "no permission to touch the specified keys",
        Denied::Channel(_) => "no permission to access one of the channels used as arguments",
    };
    CommandError::Text(format!(
        "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command is no longer allowed for the following reason: {reason}"
    ))
}

/// The error for a command that a script calls and the user may not run.
#[cold]
pub fn refusal_in_script(denied: Denied) -> CommandError {
    CommandError::err(match denied {
        Denied::Command => "The user executing the script can't run this command or subcommand",
        Denied::Key(_) => {
            "The user executing the script can't access at least one of the keys mentioned in the command arguments"
        }
        Denied::Channel(_) => {
            "The user executing the script can't publish to the channel mentioned in the command"
        }
    })
}
