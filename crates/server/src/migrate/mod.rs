//! MIGRATE's part on the network: threads that send keys to other servers, so that no other thread ever waits for one.
//!
//! ```text
//!   thread of the connection        a thread for migrations                     a thread for long commands
//!   MIGRATE copies the entries ──►  connects or takes a link from the cache,
//!   the connection stalls           sends RESTORE, reads the replies     ────►  removes the keys, stores the reply
//! ```
//!
//! The threads start on demand, and end some time after the last migration.

pub mod links;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use damselfly_commands::Migration;

use self::links::{Link, LinkError, Links};
use crate::clock;
use crate::long_commands::{self, LongCommand};
use crate::shared::Shared;

/// At most this many migrations are on the network at the same time; further ones wait.
const THREADS_MAX: usize = 64;

/// A thread without work checks this often whether to end.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A thread ends after this long without work. Links are not kept longer, so the last thread closes the last link.
const IDLE_MAX: Duration = links::KEPT_FOR.saturating_add(Duration::from_secs(1));

/// Migrations that wait for a thread, these threads, and the links that were used.
#[derive(Default)]
pub struct Migrations {
    waiting: Mutex<Waiting>,
    added: Condvar,
    /// Links to other servers.
    pub links: Links,
}

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Arc<LongCommand>>,
    threads: usize,
    idle_threads: usize,
}

impl Migrations {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next command, for a thread of migrations; `None` if the thread is to end.
    fn next(&self, shared: &Shared) -> Option<Arc<LongCommand>> {
        let since = Instant::now();
        let mut waiting = self.waiting();
        waiting.idle_threads += 1;
        let next = loop {
            if let Some(command) = waiting.commands.pop_front() {
                break Some(command);
            }
            if shared.stopping.load(Relaxed) || since.elapsed() > IDLE_MAX {
                break None;
            }
            let waited = self.added.wait_timeout(waiting, CHECK_INTERVAL);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
            self.links.close_old();
        };
        waiting.idle_threads -= 1;
        waiting.threads -= usize::from(next.is_none());
        next
    }
}

/// Sends the keys of a MIGRATE command on another thread.
pub fn start(shared: &Arc<Shared>, command: Arc<LongCommand>) {
    let migrations = &shared.migrations;
    let mut waiting = migrations.waiting();
    waiting.commands.push_back(command);
    if waiting.commands.len() <= waiting.idle_threads || waiting.threads == THREADS_MAX {
        migrations.added.notify_one();
        return;
    }
    let for_thread = shared.clone();
    let thread = std::thread::Builder::new().name("migrate".to_owned());
    match thread.spawn(move || run(&for_thread)) {
        Ok(_) => waiting.threads += 1,
        Err(error) if waiting.threads == 0 => {
            log::warn!("MIGRATE failed: can't start a thread: {error}");
            let refused = waiting.commands.pop_back();
            drop(waiting);
            if let Some(command) = refused {
                command.with_migration(|migration| migration.fail(LinkError::Connect.text()));
                long_commands::start(shared, command);
            }
        }
        // One of the other threads will run it.
        Err(_) => {}
    }
}

/// Sends keys until there has been no work for some time.
fn run(shared: &Arc<Shared>) {
    while let Some(command) = shared.migrations.next(shared) {
        let started = Instant::now();
        let sent = catch_unwind(AssertUnwindSafe(|| {
            command.with_migration(|migration| send(shared, migration));
        }));
        match sent {
            Ok(()) => {
                command.note_sent(started.elapsed());
                long_commands::start(shared, command);
            }
            Err(_) => command.note_panic(shared),
        }
    }
}

/// Sends keys to their target, over a link from the cache if there is one, and notes what became of them.
fn send(shared: &Shared, migration: &mut Migration) {
    let links = &shared.migrations.links;
    let target = [migration.host(), b":", migration.port()].concat();
    if let Some(mut link) = links.take(&target) {
        match send_over(shared, &mut link, migration) {
            Ok(()) => return links.keep(target, link),
            // The target may have closed the link long ago. If it has read a request, sending that again does no harm: a key
            // that it has already is refused, or replaced by the same value.
            Err(error) if error.is_broken() && !link.has_replied() => migration.restart(),
            Err(error) => return migration.fail(error.text()),
        }
    }
    let sent = Link::connect(shared, migration).and_then(|mut link| {
        send_over(shared, &mut link, migration)?;
        links.keep(target, link);
        Ok(())
    });
    if let Err(error) = sent {
        migration.fail(error.text());
    }
}

/// Sends keys over a link.
///
/// # Errors
/// The link broke or the target did not reply in time. What it has replied until then is noted.
fn send_over(shared: &Shared, link: &mut Link, migration: &mut Migration) -> Result<(), LinkError> {
    let mut requests = Vec::new();
    let logins = migration.write_login(link.selected(), &mut requests);
    link.begin(migration.timeout());
    link.write(shared, &requests)?;
    let mut is_refused = false;
    for _ in 0..logins {
        if let Err(error) = link.read_reply(shared)? {
            migration.refuse(&error);
            is_refused = true;
        }
    }
    // Without the right user and database, nothing must be sent.
    link.select((!is_refused).then(|| migration.database()));
    if is_refused {
        return Ok(());
    }
    loop {
        requests.clear();
        let sent = migration.write_next(clock::now_ms(), &mut requests);
        if sent.is_empty() {
            return Ok(());
        }
        link.write(shared, &requests)?;
        for index in sent {
            match link.read_reply(shared)? {
                Ok(()) => migration.accept(index),
                Err(error) => migration.refuse(&error),
            }
        }
    }
}
