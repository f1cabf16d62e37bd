//! The usual request: a command on keys that nothing hinders. One function decides that, with one look at each thing that could hinder it; all
//! other requests go the long way (`run_any_request`), which treats each of those things.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_commands::Args;
use damselfly_engine::Now;

use super::{ARGS_MAX, Dispatcher};
use crate::registry::Row;
use crate::session::{Replies, Session};

impl Dispatcher {
    /// True if the request can run at once and its reply is all that follows, unless the command itself wants something else.
    #[inline]
    pub(super) fn is_usual(
        &mut self,
        session: &Session,
        row: &'static Row,
        args: Args<'_>,
        now: Now,
    ) -> bool {
        let shared = &self.shared;
        row.is_usual
            && is_free(session)
            && row.command.arity.allows(args.len())
            && args.len() <= ARGS_MAX
            && shared.gate.holding(row.refused_while).is_empty()
            && shared.pause.holds(true, now.0).is_none()
            && shared.monitors.load(Relaxed) == 0
            && !(row.writes && shared.engine.log.is_on() && shared.engine.log.is_congested())
            // Rights last, since they take longest and the long way asks for them again; only then room, which may evict keys.
            && session.login.may_run(&shared.users, row, args)
            && (!row.needs_memory || self.has_room())
    }
}

/// True if the client is in no state that changes what its commands do.
#[inline]
fn is_free(session: &Session) -> bool {
    session.replies == Replies::On
        && !session.transaction.is_open()
        && session.subscriptions.is_none()
        && !session.client.is_keyless()
}
