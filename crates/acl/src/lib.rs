//! Users and their rights (ACL), without I/O, clock or threads: rules, their texts, and the check of a request.
//!
//! ```text
//!   "+@read ~app:*"  ──► User::apply ──► User ──► User::check(request)   may it run?
//!     rules                                └────► User::description      rules again, for ACL LIST and files
//! ```
//!
//! A [`User`] is a plain value in the form that is quick to check: one bit per command, compiled patterns. The server shares it between
//! sessions and replaces it as a whole. A user has one root [`Selector`] and any number of further ones; a request may run if one of them
//! alone allows it.
//!
//! The rules, their order and their error texts are those of Redis 7.0 (`ACL SETUSER`).

mod catalogue;
mod describe;
mod file;
mod log;
mod pattern;
mod rule;
mod selector;
mod user;

pub use catalogue::{CATEGORIES, Catalogue, Categories};
pub use file::{Definition, parse as parse_file};
pub use log::{Context, Entry, Log, Reason, Refused};
pub use pattern::KeyUse;
pub use rule::{RuleError, merge_selectors};
pub use selector::{Channel, Denied, Key, Request, Selector};
pub use user::{Credentials, NewUsers, User, is_valid_name};
