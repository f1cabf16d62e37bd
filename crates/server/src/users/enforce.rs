//! What happens to connections when their user loses rights: those that receive what the user may no longer see are closed at once, replicas included.
//! For everything else, the check of the next command is enough.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_acl::User;
use damselfly_commands::Args;
use damselfly_pubsub::Topic;

use super::{Account, Asked};
use crate::clients::Client;
use crate::registry::REGISTRY;
use crate::session::Session;
use crate::shared::Shared;

/// Closes the connections of an account that subscribe to, monitor, track or replicate what the user may no longer see. `before` is the user before the
/// change. Returns true if that of the client `own_id` must be closed.
pub(super) fn enforce(shared: &Shared, account: &Arc<Account>, before: &User, own_id: u64) -> bool {
    let user = account.user();
    let has_fewer_channels = user.has_fewer_channels(before);
    disconnect(shared, own_id, |client| {
        client.is_user(account) && sees_too_much(shared, client, &user, has_fewer_channels)
    })
}

/// Closes the connections that `is_wrong` selects. Returns true if that of the client `own_id` is one of them: it is closed after its reply.
pub(super) fn disconnect(shared: &Shared, own_id: u64, is_wrong: impl Fn(&Client) -> bool) -> bool {
    let mut includes_own = false;
    for client in shared.clients.all() {
        if !is_wrong(&client) {
            continue;
        }
        if client.id == own_id {
            includes_own = true;
        } else {
            shared.clients.kill(&client, &shared.threads);
        }
    }
    includes_own
}

/// True if a client receives messages that the user may not see.
fn sees_too_much(shared: &Shared, client: &Client, user: &User, checks_channels: bool) -> bool {
    // By the names that rules use: `rename-command` may have given them to other commands.
    let may_run = |name: &str| {
        let row = REGISTRY.rows().iter().find(|row| row.name == name);
        let args = Args::new(&[], &[], None);
        row.is_some_and(|row| user.check(&Asked { row, args }).is_ok())
    };
    client.monitor.load(Relaxed) && !may_run("monitor")
        || client.tracks.load(Relaxed) && !may_run("client|tracking")
        || client.is_replica.load(Relaxed) && !may_run("psync") && !may_run("sync")
        || checks_channels && client.is_subscriber() && !allows_all(shared, client, user)
}

/// True if the user may have all subscriptions of a client.
fn allows_all(shared: &Shared, client: &Client, user: &User) -> bool {
    let names = shared.pubsub.subscriptions(client.thread, client.place);
    names
        .iter()
        .all(|(topic, name)| user.allows_subscription(name, *topic == Topic::Pattern))
}

/// To be called once a client has begun to subscribe, to monitor, to track or to replicate. If its user was changed since the command was checked, the
/// change may have been enforced before this client was known to receive messages.
#[cold]
fn recheck_changed(shared: &Shared, session: &mut Session) {
    let exists = session.login.refresh(&shared.users);
    let user = session.login.user();
    if !exists || sees_too_much(shared, &session.client, user, true) {
        session.closing = true;
    }
}

/// See [`recheck_changed`].
#[inline]
pub fn recheck(shared: &Shared, session: &mut Session) {
    if !session.login.is_current(&shared.users) {
        recheck_changed(shared, session);
    }
}
