//! The ACL file: reading it at start and for ACL LOAD, writing it for ACL SAVE.

use std::io;
use std::path::Path;
use std::sync::Arc;

use damselfly_acl::{Definition, parse_file};
use damselfly_base::CommandError;

use super::{Account, DEFAULT, Users};
use crate::replace_file::replace_file;
use crate::shared::Shared;

/// Larger files are refused.
const FILE_BYTES_MAX: u64 = 64 << 20;

impl Users {
    /// Reads the users of a file.
    ///
    /// # Errors
    /// The file can't be read, or what is wrong in it.
    pub(super) fn read_file(&self, path: &str) -> Result<Definition, String> {
        let text = read_limited(Path::new(path))
            .map_err(|error| format!("Error loading ACLs, opening file '{path}': {error}"))?;
        parse_file(&text, path, self.new_users())
    }

    /// Takes over the users of a file at start.
    pub(super) fn start_with(&self, users: Definition) {
        for (name, user) in users {
            match name == DEFAULT {
                true => self.replace(&self.default, user),
                false => {
                    let account = Account::new(&name, user);
                    self.by_name().insert(name, account);
                }
            }
        }
    }

    /// Replaces all users by those of the ACL file (ACL LOAD). Returns true if the connection of the client `own_id` must be closed.
    ///
    /// # Errors
    /// There is no such file, or what is wrong in it. Then nothing has changed.
    pub fn load(&self, shared: &Shared, own_id: u64) -> Result<bool, CommandError> {
        let config = shared.config();
        let users = self
            .read_file(configured(&config.aclfile)?)
            .map_err(CommandError::err)?;
        Ok(self.replace_all(shared, users, own_id))
    }

    /// Writes all users into the ACL file (ACL SAVE). The file is replaced as a whole.
    ///
    /// # Errors
    /// There is no such file, or it can't be written.
    pub fn save(&self, shared: &Shared) -> Result<(), CommandError> {
        let config = shared.config();
        let path = configured(&config.aclfile)?;
        let mut text = Vec::new();
        for account in self.all() {
            text.extend_from_slice(&line(&account));
            text.push(b'\n');
        }
        replace_file(Path::new(path), &text).map_err(|error| {
            log::warn!("Can't write the ACL file '{path}': {error}");
            CommandError::err(
                "There was an error trying to save the ACLs. Please check the server logs for more information",
            )
        })
    }
}

/// A user in the form of the ACL file and of ACL LIST.
pub fn line(account: &Arc<Account>) -> Vec<u8> {
    [b"user ", account.name(), b" ", &account.description()].concat()
}

fn configured(path: &str) -> Result<&str, CommandError> {
    match path.is_empty() {
        false => Ok(path),
        true => Err(CommandError::err(
            "This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in the Redis configuration.",
        )),
    }
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("the file is too large"));
    }
    std::fs::read(path)
}
