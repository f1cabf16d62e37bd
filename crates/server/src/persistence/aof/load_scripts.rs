//! Scripts in append-only files of Redis before version 7, which wrote EVAL and EVALSHA where newer servers write effects.
//!
//! A script runs again when the file is loaded, with all locks, since nothing says which keys it uses. Nothing is refused to it: not for lack of
//! memory, nor because this server is a read-only replica.

use std::sync::Arc;

use damselfly_base::sha1::sha1;
use damselfly_commands::{Args, Stop};
use damselfly_config::Origin;
use damselfly_engine::Tx;
use damselfly_log::Targets;
use damselfly_protocol::{Reply, Version};

use crate::clients::NewClient;
use crate::clock;
use crate::dispatch::Dispatcher;
use crate::event_loop::parser::Protocol;
use crate::registry::Row;
use crate::scripts;
use crate::session::Session;
use crate::shared::Shared;
use crate::users::Login;

/// Runs scripts of a file.
pub(super) struct ScriptReplay<'a> {
    shared: &'a Arc<Shared>,
    /// `None` before the first script.
    state: Option<Box<State>>,
}

struct State {
    dispatcher: Dispatcher,
    session: Session,
}

impl<'a> ScriptReplay<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>) -> Self {
        Self {
            shared,
            state: None,
        }
    }

    fn state(&mut self) -> &mut State {
        let shared = self.shared;
        self.state.get_or_insert_with(|| {
            let account = shared.users.default_account().clone();
            let client = shared.clients.add(NewClient {
                id: shared.clients.next_id(),
                address: String::new(),
                local_address: String::new(),
                origin: Origin::Local,
                unix: false,
                encryption: String::new(),
                stream_bytes: 0,
                speaks: Protocol::Resp,
                fd: -1,
                thread: 0,
                place: usize::MAX,
                account: account.clone(),
                now_ms: clock::now_ms(),
                // What it repeats is not refused.
                is_primary: true,
            });
            Box::new(State {
                dispatcher: Dispatcher::new(shared.clone(), 0),
                session: Session::new(client, Login::new(&shared.users, account)),
            })
        })
    }

    /// Keeps the text of a script, for EVALSHA: SCRIPT LOAD.
    ///
    /// # Errors
    /// It does not compile.
    pub(super) fn keep(&self, text: &[u8]) -> Result<(), String> {
        let scripts = &self.shared.scripts;
        if !scripts.cache().mark_loaded(&sha1(text)) {
            let script = scripts.checked(text).map_err(|error| error.to_string())?;
            scripts.cache().insert_loaded(script);
        }
        Ok(())
    }

    /// Runs the script or function that a command names, in a section that has all locks, and returns its error, if it returns one.
    ///
    /// # Errors
    /// It could not begin.
    pub(super) fn run(
        &mut self,
        tx: &mut Tx<'_>,
        db: usize,
        row: &'static Row,
        args: Args<'_>,
    ) -> Result<Option<String>, String> {
        if row.name == "eval" {
            // A later EVALSHA may need it, however many scripts come between them.
            self.keep(args.at(1))?;
        }
        tx.keep_expired();
        let State {
            dispatcher,
            session,
        } = self.state();
        session.db = db;
        let mut bytes = Vec::new();
        let mut reply = Reply::new(&mut bytes, Version::Resp2);
        let done = scripts::run_within(dispatcher, session, tx, row, args, &mut reply);
        // What is loaded is in the file already.
        tx.set_log_targets(Targets::NONE);
        match done {
            Ok(()) => Ok(error_of(&bytes)),
            Err(Stop::Error(error)) => Err(error.to_string()),
            Err(_) => Err(String::from("the script could not run")),
        }
    }
}

/// The text of an error reply; `None` for any other reply.
fn error_of(reply: &[u8]) -> Option<String> {
    let text = reply.strip_prefix(b"-")?;
    Some(String::from_utf8_lossy(text.trim_ascii_end()).into_owned())
}

impl Drop for ScriptReplay<'_> {
    fn drop(&mut self) {
        if let Some(state) = &self.state {
            self.shared.clients.remove(state.session.client.id);
        }
    }
}
