//! Files of users: one line per user, `user NAME RULE...`, separated by single blanks. There are no comments, because ACL SAVE replaces the
//! file.

use std::collections::BTreeMap;

use crate::rule::{RuleError, merge_selectors};
use crate::user::{NewUsers, User, is_valid_name};

/// The users that a file defines, by name.
pub type Definition = BTreeMap<Vec<u8>, User>;

/// Reads the text of a file. `path` is for error texts.
///
/// # Errors
/// All mistakes, in the words of Redis. The texts contain no password.
pub fn parse(text: &[u8], path: &str, new_users: NewUsers<'_>) -> Result<Definition, String> {
    let (mut users, mut errors) = (Definition::new(), String::new());
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = trim(line, b" \t\r\n");
        if !line.is_empty() {
            errors += &add_line(
                &mut users,
                line,
                &format!("{path}:{}", index + 1),
                new_users,
            );
        }
    }
    match errors.is_empty() {
        true => Ok(users),
        false => Err(format!(
            "{errors}WARNING: ACL errors detected, no change to the previously active ACL rules was performed"
        )),
    }
}

/// Adds the user of one line, and returns what is wrong with it.
fn add_line(users: &mut Definition, line: &[u8], place: &str, new_users: NewUsers<'_>) -> String {
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(b"user"), Some(name)) = (words.next(), words.next()) else {
        return format!("{place} should start with user keyword followed by the username. ");
    };
    let shown = String::from_utf8_lossy(name);
    if !is_valid_name(name) {
        return format!("'{place}: username '{shown}' contains invalid characters. ");
    }
    if users.contains_key(name) {
        let number = place.rsplit(':').next().unwrap_or_default();
        return format!("WARNING: Duplicate user '{shown}' found on line {number}. ");
    }
    let Ok(rules) = merge_selectors(words) else {
        return format!("{place}: Unmatched parenthesis in selector definition.");
    };
    let (mut user, mut errors, mut has_error) = (User::new(new_users), String::new(), false);
    for rule in &rules {
        let rule = trim(rule, b"\t\r\n");
        match user.apply(rule, new_users) {
            Ok(()) => {}
            // The name of a command is no secret.
            Err(error @ RuleError::Unknown) => {
                let rule = String::from_utf8_lossy(rule);
                errors += &format!("{place}: Error in applying operation '{rule}': {error}. ");
            }
            // Other mistakes may be consequences of the first one.
            Err(_) if has_error => {}
            Err(error) => {
                has_error = true;
                errors += &format!("{place}: {error}. ");
            }
        }
    }
    users.insert(name.to_vec(), user);
    errors
}

fn trim<'t>(text: &'t [u8], blanks: &[u8]) -> &'t [u8] {
    let is_kept = |byte: &u8| !blanks.contains(byte);
    let start = text.iter().position(is_kept).unwrap_or(text.len());
    let end = text
        .iter()
        .rposition(is_kept)
        .map_or(start, |last| last + 1);
    &text[start..end]
}
