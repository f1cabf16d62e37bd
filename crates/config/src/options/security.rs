//! Options for passwords and permissions.

use super::Opt;
use crate::kind::Kind;
use crate::types::{Allow, PubSubDefault};

pub(super) static OPTIONS: &[Opt] = &[
    Opt::at_start(
        "memcached-enable-shutdown",
        Kind::Bool,
        field!(memcached_enable_shutdown),
        "Lets memcached clients stop the server with `shutdown`.",
    ),
    Opt::live(
        "requirepass",
        Kind::Text,
        field!(requirepass),
        "Password of the user `default`, which every connection is that has not logged in; empty means none. Rules of that user override it.",
    ),
    Opt::at_start(
        "aclfile",
        Kind::Text,
        field!(aclfile),
        "File of users, which ACL LOAD reads and ACL SAVE writes; empty means none. Then users may be in the configuration file, one line `user NAME RULE ...` for each.",
    ),
    Opt::live(
        "acllog-max-len",
        Kind::integer(0, i64::MAX),
        field!(acllog_max_len),
        "Maximum length of the log of refused commands and logins (ACL LOG), in entries.",
    ),
    Opt::live(
        "acl-pubsub-default",
        Kind::Choice(PubSubDefault::NAMES),
        field!(acl_pubsub_default),
        "Channels that new users may use without a rule: none (`resetchannels`) or all (`allchannels`).",
    ),
    Opt::live(
        "memcached-user",
        Kind::Text,
        field!(memcached_user),
        "User of new connections to `memcached-port`. If the user has a password, clients must first authenticate, as memcached's text protocol does it: they `set` any key to the name and the password of a user, with a blank between.",
    ),
    Opt::at_start(
        "enable-protected-configs",
        Kind::Choice(Allow::NAMES),
        field!(enable_protected_configs),
        "Who may change protected options with CONFIG SET: nobody (`no`), everybody (`yes`), or clients on this machine (`local`).",
    ),
    Opt::at_start(
        "enable-debug-command",
        Kind::Choice(Allow::NAMES),
        field!(enable_debug_command),
        "Who may use DEBUG: nobody (`no`), everybody (`yes`), or clients on this machine (`local`).",
    ),
    Opt::at_start(
        "enable-module-command",
        Kind::Choice(Allow::NAMES),
        field!(enable_module_command),
        "Who may try to load modules: nobody (`no`), everybody (`yes`), or clients on this machine (`local`). There are no modules, so that only the error differs.",
    ),
];
