//! FAILOVER: the primary hands its role over to a replica, without losing a write.
//!
//! ```text
//!  FAILOVER ─► WaitingForSync: writes are held back ─► a replica has everything ─► InProgress: this server follows it, and asks it
//!                 │ TIMEOUT, ABORT                                                      │ to become the primary
//!                 └──────────────────────► None ◄───────────────────────────────────────┘ its answer to PSYNC ... FAILOVER
//! ```

use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use damselfly_base::CommandError;
use damselfly_commands::Arity::AtLeast;
use damselfly_commands::{Args, Command, Group, Keys, Run, Trait};
use damselfly_config::PrimaryAddress;
use damselfly_engine::Now;
use damselfly_protocol::Reply;

use super::Replication;
use super::feed::Feed;
use super::link;
use super::wait::GETACK;
use crate::clock;
use crate::registry::Handler;
use crate::session::Context;
use crate::shared::Shared;
use crate::threads::Thread;

pub(crate) static COMMANDS: &[Command<Handler>] = &[Command {
    name: "FAILOVER",
    arity: AtLeast(1),
    keys: Keys::None,
    traits: &[Trait::Admin, Trait::NoScript, Trait::Stale],
    run: Run::Run(Handler::Session(failover)),
    group: Group::Server,
    usage: "FAILOVER [TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds]",
    summary: "Hands the role of the primary over to a replica that has all data.",
    since: "6.2.0",
    complexity: "O(1)",
}];

/// How far the handing over is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// There is none.
    None,
    /// Writes are held back until a replica has everything.
    WaitingForSync,
    /// This server follows the replica, and has asked it to become the primary.
    InProgress,
}

/// What FAILOVER has asked for.
#[derive(Clone, Debug, Default)]
struct Wish {
    /// The replica, unless any will do.
    target: Option<PrimaryAddress>,
    /// When it is given up, or forced.
    until: Option<Instant>,
    /// When that time has come, the target becomes the primary in any case.
    is_forced: bool,
}

/// The state of FAILOVER.
#[derive(Debug, Default)]
pub(super) struct Failover {
    phase: AtomicU8,
    wish: Mutex<Wish>,
}

impl Failover {
    fn phase(&self) -> Phase {
        const ALL: [Phase; 3] = [Phase::None, Phase::WaitingForSync, Phase::InProgress];
        ALL[usize::from(self.phase.load(SeqCst))]
    }

    /// Passes from one phase to another; false if another thread was faster.
    fn pass(&self, from: Phase, to: Phase) -> bool {
        let passed = self
            .phase
            .compare_exchange(from as u8, to as u8, SeqCst, SeqCst);
        passed.is_ok()
    }

    /// Begins; false if another one is in progress.
    fn begin(&self, wish: Wish) -> bool {
        let mut current = self.wish.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = self.pass(Phase::None, Phase::WaitingForSync);
        if begins {
            *current = wish;
        }
        begins
    }

    fn wish(&self) -> Wish {
        let wish = self.wish.lock().unwrap_or_else(PoisonError::into_inner);
        wish.clone()
    }
}

/// The arguments of FAILOVER.
#[derive(Default)]
struct Options {
    target: Option<PrimaryAddress>,
    timeout_ms: Option<u64>,
    is_forced: bool,
    aborts: bool,
}

impl Options {
    fn parse(args: Args<'_>) -> damselfly_commands::Result<Self> {
        let (mut options, mut at) = (Self::default(), 1);
        while at < args.len() {
            if args.is(at, "TIMEOUT") && at + 1 < args.len() && options.timeout_ms.is_none() {
                let timeout_ms = u64::try_from(args.integer(at + 1)?).unwrap_or(0);
                if timeout_ms == 0 {
                    let text = "FAILOVER timeout must be greater than 0";
                    return Err(CommandError::err(text).into());
                }
                options.timeout_ms = Some(timeout_ms);
                at += 2;
            } else if args.is(at, "ABORT") && args.len() == 2 {
                options.aborts = true;
                at += 1;
            } else if args.is(at, "TO") && at + 2 < args.len() && options.target.is_none() {
                options.target = Some(PrimaryAddress {
                    host: String::from_utf8_lossy(args.at(at + 1)).into_owned(),
                    port: u16::try_from(args.integer(at + 2)?).unwrap_or(0),
                });
                at += 3;
            } else if args.is(at, "FORCE") && !options.is_forced {
                options.is_forced = true;
                at += 1;
            } else {
                return Err(CommandError::Syntax.into());
            }
        }
        Ok(options)
    }
}

fn failover(
    context: &mut Context<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> damselfly_commands::Result {
    let options = Options::parse(args)?;
    let shared = context.shared;
    let replication = &shared.replication;
    if options.aborts {
        if replication.failover.phase() == Phase::None {
            return Err(CommandError::err("No failover in progress.").into());
        }
        replication.abort_failover(shared, "Failover manually aborted");
        reply.ok();
        return Ok(());
    }
    check(replication, &options)?;
    let wish = Wish {
        target: options.target,
        until: options
            .timeout_ms
            .map(|timeout_ms| Instant::now() + Duration::from_millis(timeout_ms)),
        is_forced: options.is_forced,
    };
    if !replication.failover.begin(wish) {
        return Err(CommandError::err("FAILOVER already in progress.").into());
    }
    log::info!("FAILOVER requested.");
    shared.pause.hold_writes(true);
    reply.ok();
    Ok(())
}

/// Checks that a failover can begin.
fn check(replication: &Replication, options: &Options) -> damselfly_commands::Result {
    let refuse = |text: &str| Err(CommandError::err(text).into());
    if replication.failover.phase() != Phase::None {
        return refuse("FAILOVER already in progress.");
    }
    if replication.is_replica() {
        return refuse("FAILOVER is not valid when server is a replica.");
    }
    let feeds = replication.feeds();
    if feeds.is_empty() {
        return refuse("FAILOVER requires connected replicas.");
    }
    if options.is_forced && (options.timeout_ms.is_none() || options.target.is_none()) {
        return refuse(
            "FAILOVER with force option requires both a timeout and target HOST and IP to be set.",
        );
    }
    if let Some(target) = &options.target {
        let Some(feed) = feeds.iter().find(|feed| is_at(feed, target)) else {
            return refuse("FAILOVER target HOST and PORT is not a replica.");
        };
        if !feed.is_shown_online() {
            return refuse("FAILOVER target replica is not online.");
        }
    }
    Ok(())
}

fn is_at(feed: &Feed, address: &PrimaryAddress) -> bool {
    feed.address().eq_ignore_ascii_case(&address.host)
        && feed.abilities.port == i64::from(address.port)
}

impl Replication {
    /// True while the role is being handed over to a replica.
    pub fn is_failing_over(&self) -> bool {
        self.failover.phase() != Phase::None
    }

    /// How far the handing over is, as INFO shows it.
    pub fn failover_state(&self) -> &'static str {
        match self.failover.phase() {
            Phase::None => "no-failover",
            Phase::WaitingForSync => "waiting-for-sync",
            Phase::InProgress => "failover-in-progress",
        }
    }

    /// Begins to follow a replica that has everything, if there is one. One thread calls this now and then.
    pub(super) fn continue_failover(&self, shared: &Shared) {
        if self.failover.phase() != Phase::WaitingForSync {
            return;
        }
        let wish = self.failover.wish();
        let is_late = wish.until.is_some_and(|until| until <= Instant::now());
        if is_late && !wish.is_forced {
            self.abort_failover(shared, "Replica never caught up before timeout");
            return;
        }
        let Ok(tx) = shared.engine.lock_all(0, Now(clock::now_ms())) else {
            return;
        };
        let complete = self.complete_replica(shared, &wish);
        let Some(target) = complete.or(wish.target.filter(|_| is_late)) else {
            drop(tx);
            self.ask_for_acks();
            return;
        };
        if !self.failover.pass(Phase::WaitingForSync, Phase::InProgress) {
            return;
        }
        match is_late {
            true => log::warn!(
                "Failover to {}:{}: time out exceeded, failing over.",
                target.host,
                target.port
            ),
            false => log::info!(
                "Failover target {}:{} is synced, failing over.",
                target.host,
                target.port
            ),
        }
        link::follow(shared, &tx, target.clone(), true);
        drop(tx);
        link::set_option(shared, Some(target));
    }

    /// A replica that has everything, and that is wanted. The caller has all locks.
    fn complete_replica(&self, shared: &Shared, wish: &Wish) -> Option<PrimaryAddress> {
        let state = self.state();
        let has_all = |feed: &&Arc<Feed>| {
            feed.is_online()
                && feed.abilities.port > 0
                && feed.acked() == state.history.offset
                && wish
                    .target
                    .as_ref()
                    .is_none_or(|target| is_at(feed, target))
        };
        let is_complete = state.merged == shared.engine.log.appended();
        let feed = state.feeds.iter().find(has_all).filter(|_| is_complete)?;
        Some(PrimaryAddress {
            host: feed.address().to_owned(),
            port: u16::try_from(feed.abilities.port).ok()?,
        })
    }

    fn ask_for_acks(&self) {
        let mut state = self.state();
        if state.feeds.is_empty() {
            return;
        }
        state.append(GETACK);
        state.feeds.iter().for_each(|feed| feed.wake());
    }

    /// Gives the handing over up: this server is, or becomes again, the primary. Then INFO shows that there is none.
    fn abort_failover(&self, shared: &Shared, why: &str) {
        loop {
            let phase = self.failover.phase();
            if phase == Phase::None {
                return;
            }
            if phase == Phase::InProgress {
                link::become_primary(shared);
            }
            if self.failover.pass(phase, Phase::None) {
                break;
            }
        }
        log::warn!("Aborting failover: {why}");
        self.let_writes_continue(shared);
    }

    fn let_writes_continue(&self, shared: &Shared) {
        shared.pause.hold_writes(false);
        shared.threads.iter().for_each(Thread::wake);
    }

    /// Notes how the new primary has answered PSYNC with FAILOVER: or why it does not want to be one.
    pub fn failover_ended(&self, shared: &Shared, answer: Result<(), String>) {
        match answer {
            Err(why) => self.abort_failover(shared, &why),
            Ok(()) if self.failover.pass(Phase::InProgress, Phase::None) => {
                log::info!("Failover is complete: this server is a replica now.");
                self.let_writes_continue(shared);
            }
            Ok(()) => {}
        }
    }
}
