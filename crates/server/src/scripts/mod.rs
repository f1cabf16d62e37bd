//! Scripts: where they are kept, how they run, and what they may do.
//!
//! ```text
//!   EVAL ─► dispatch stops ─► worker takes the session out ─► run ─► interpreter ─► redis.call ─► host
//!                               ▲                                                                  │
//!                               └──── a turn for other clients, if the script runs for long ◄──────┘
//! ```
//!
//! - `run.rs`: runs a script under its locks, and retries it with more locks if they are not enough.
//! - `host.rs`: `redis.call` and related functions; `locks.rs`: how a call locks the keys of its command.
//! - `slow.rs`: scripts that run for long, and the errors for clients that need their locks.
//!
//! Each thread has an interpreter, which compiles a script when it first runs it, and remembers the scripts that it ran
//! ([`ScriptContext`]). All threads share the script texts; the shared cache alone decides which scripts are known ([`Scripts`]).

pub mod eval_commands;
pub mod function_commands;
pub mod function_libraries;
mod host;
mod locks;
mod run;
mod slow;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use damselfly_base::CommandError;
use damselfly_base::sha1::hex;
use damselfly_commands::{Args, Run};
use damselfly_protocol::Span;
use damselfly_script::{CachedScript, Flags, Interpreter, Limits, Script, ScriptCache};

use self::host::HeldBack;
use self::slow::SlowScripts;
use crate::dispatch::Dispatcher;
use crate::registry::{Handler, Row};
use crate::scripts::function_libraries::{KnownFunction, Snapshot};
use crate::shared::Shared;

pub use locks::{LockHistory, Plan};
pub use run::{run, run_within};
pub use slow::{Kind, Slow};

/// Returns the program that a request runs, and how many keys the request declares.
type Find = fn(&mut ScriptContext, &Shared, Args<'_>) -> Result<(Program, usize), CommandError>;

/// A command that runs scripts or functions.
pub struct Finder {
    /// Returns the program that a request runs, and how many keys the request declares. The keys begin at the fourth argument.
    pub find: Find,
    /// The flags that the script or function declares; `None` if it declares none or does not exist.
    pub flags: fn(&Shared, Args<'_>) -> Option<Flags>,
}

/// True if a request runs a script that declares that it writes nothing.
pub fn only_reads(shared: &Shared, row: &Row, args: Args<'_>) -> bool {
    let flags = flags(shared, row, args);
    flags.is_some_and(|flags| flags.contains(Flags::NO_WRITES))
}

/// True if a request runs a script that declares flags, but not that it writes nothing.
pub fn declares_writes(shared: &Shared, row: &Row, args: Args<'_>) -> bool {
    flags(shared, row, args).is_some_and(|flags| !flags.contains(Flags::NO_WRITES))
}

/// True if a request runs a script that declares that it may use old data of a replica without a link to its primary.
pub fn allows_stale(shared: &Shared, row: &Row, args: Args<'_>) -> bool {
    let flags = flags(shared, row, args);
    flags.is_some_and(|flags| flags.contains(Flags::ALLOW_STALE))
}

/// True if a request runs a script that declares flags, none of which lets it run when memory is short.
pub fn needs_memory(shared: &Shared, row: &Row, args: Args<'_>) -> bool {
    let may_run =
        |flags: Flags| flags.contains(Flags::NO_WRITES) || flags.contains(Flags::ALLOW_OOM);
    flags(shared, row, args).is_some_and(|flags| !may_run(flags))
}

fn flags(shared: &Shared, row: &Row, args: Args<'_>) -> Option<Flags> {
    match row.command.run {
        Run::Run(Handler::Script(finder)) => (finder.flags)(shared, args),
        Run::Run(_) | Run::Either(..) | Run::Subcommands(_) => None,
    }
}

/// The part of the thread that runs a script. While the script runs, it can serve other clients.
pub trait ScriptRunner {
    /// The dispatcher of the thread.
    fn dispatcher(&mut self) -> &mut Dispatcher;

    /// Serves other clients of the thread for one turn; waits up to `wait` for one of them.
    fn serve_others(&mut self, wait: Duration);
}

/// The runner of a transaction without scripts, which never serves other clients.
impl ScriptRunner for Dispatcher {
    #[inline]
    fn dispatcher(&mut self) -> &mut Dispatcher {
        self
    }

    fn serve_others(&mut self, _: Duration) {}
}

/// A program that a request runs.
#[derive(Clone, Debug)]
pub enum Program {
    /// A script.
    Script(Arc<Known>),
    /// A function.
    Function(Arc<KnownFunction>),
}

impl Program {
    /// The flags that it declares; `None` for a script that declares none.
    pub fn flags(&self) -> Option<Flags> {
        match self {
            Self::Script(known) => known.script().flags(),
            Self::Function(known) => Some(known.function().flags),
        }
    }

    /// Its name in errors.
    pub fn name(&self) -> String {
        match self {
            Self::Script(known) => hex(known.script().digest()),
            Self::Function(known) => known.function().name.clone(),
        }
    }
}

/// The state of scripts that all threads share.
#[derive(Debug, Default)]
pub struct Scripts {
    cache: Mutex<ScriptCache>,
    /// How often SCRIPT FLUSH ran.
    flushes: AtomicU64,
    /// True while a script has the token: the right to wait for locks, which only one script at a time can have.
    token: AtomicBool,
    slow: SlowScripts,
    /// How often the rare paths were taken.
    pub counts: Counts,
    /// For tests: scripts may call commands of the groups server and connection that are otherwise denied.
    pub allows_denied: AtomicBool,
}

/// How often the rare paths of running scripts were taken.
#[derive(Debug, Default)]
pub struct Counts {
    /// A script was rolled back, to run again with more locks.
    pub undone: AtomicU64,
    /// A script could no longer be rolled back, and from then on waited for locks.
    pub irrevocable: AtomicU64,
    /// A script began with all locks held.
    pub whole: AtomicU64,
}

impl Scripts {
    /// The cache in which EVALSHA finds scripts.
    pub fn cache(&self) -> MutexGuard<'_, ScriptCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes that the cached texts and their entries take.
    pub fn bytes(&self) -> usize {
        /// The approximate size of a cache entry.
        const ENTRY_BYTES: usize = 192;
        let cache = self.cache();
        cache.body_bytes() + cache.len() * ENTRY_BYTES
    }

    /// Parses a script and checks that it compiles.
    ///
    /// # Errors
    /// Its first line is wrong, or it does not compile.
    pub fn checked(&self, text: &[u8]) -> Result<Arc<Script>, CommandError> {
        let script = Arc::new(Script::parse(text)?);
        Interpreter::new(Limits::default())?.compile(&script)?;
        Ok(script)
    }

    /// Empties the cache; each thread forgets its own scripts at its next refresh.
    pub fn flush(&self) {
        self.cache().clear();
        self.flushes.fetch_add(1, Relaxed);
    }
}

/// The state of scripts on one thread.
#[derive(Default)]
pub struct ThreadScripts {
    /// `None` before the first script, and while one runs.
    context: Option<Box<ScriptContext>>,
    /// A script is running.
    pub running: bool,
    /// It has run for longer than `busy-reply-threshold`.
    pub is_slow: bool,
}

impl ThreadScripts {
    /// Takes the context for a script that is about to run. Hand it back with [`ThreadScripts::put`].
    ///
    /// # Errors
    /// There is no memory for an interpreter.
    pub fn take(&mut self, shared: &Shared) -> Result<Box<ScriptContext>, CommandError> {
        let mut context = match self.context.take() {
            Some(context) => context,
            None => Box::new(ScriptContext::new()?),
        };
        context.refresh(shared);
        Ok(context)
    }

    /// Puts the context back.
    pub fn put(&mut self, context: Box<ScriptContext>) {
        self.context = Some(context);
    }

    /// Forgets scripts that were flushed or evicted from the cache.
    pub fn refresh(&mut self, shared: &Shared) {
        if let Some(context) = &mut self.context {
            context.refresh(shared);
            context.drop_forgotten();
        }
    }

    /// The bytes that the interpreter uses; `None` if there is none or it is in use.
    pub fn vm_bytes(&self) -> Option<usize> {
        let context = self.context.as_ref()?;
        Some(context.interpreter.used_bytes())
    }

    /// The share of [`ThreadScripts::vm_bytes`] that holds function libraries.
    pub fn library_bytes(&self) -> Option<usize> {
        let context = self.context.as_ref()?;
        Some(context.interpreter.library_bytes())
    }
}

/// One thread's record of a script. No other thread uses or changes this record.
#[derive(Debug)]
pub struct Known {
    cached: Arc<CachedScript>,
    memory: LockHistory,
}

impl Known {
    /// The script.
    pub fn script(&self) -> &Script {
        self.cached.script()
    }
}

/// All that a thread needs to run scripts: the interpreter, known scripts and functions, and buffers.
pub struct ScriptContext {
    /// The interpreter.
    pub interpreter: Interpreter,
    known: HashMap<[u8; 20], Arc<Known>>,
    /// The value of [`Scripts::flushes`] at the last refresh.
    flushes: u64,
    /// The functions that can be called.
    pub functions: Snapshot,
    scratch: Scratch,
}

/// The most scripts that a thread remembers: as many as an interpreter keeps compiled.
const KNOWN_MAX: usize = 1000;

/// Buffers for the arguments and effects of calls, reused by later ones.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    /// Statistics, MONITOR lines and log lines of calls, which become visible unless the script is rolled back.
    held_back: HeldBack,
}

impl ScriptContext {
    fn new() -> Result<Self, CommandError> {
        Ok(Self {
            interpreter: Interpreter::new(Limits::default())?,
            known: HashMap::new(),
            flushes: 0,
            functions: Snapshot::default(),
            scratch: Scratch::default(),
        })
    }

    fn refresh(&mut self, shared: &Shared) {
        let flushes = shared.scripts.flushes.load(Relaxed);
        if flushes != self.flushes {
            self.flushes = flushes;
            self.known.clear();
            self.interpreter.clear_scripts();
        }
        if self.functions.refresh(&shared.functions) {
            let functions = &self.functions;
            self.interpreter
                .retain_libraries(|name, id| functions.contains(name, id));
        }
    }

    /// Drops the scripts that the cache has forgotten.
    fn drop_forgotten(&mut self) {
        self.known.retain(|_, known| !known.cached.is_forgotten());
    }

    /// The script with this digest, if the cache has it. Counts as a use.
    pub fn find(&mut self, scripts: &Scripts, digest: &[u8; 20]) -> Option<Arc<Known>> {
        if let Some(known) = self.known.get(digest)
            && !known.cached.is_forgotten()
        {
            known.cached.note_use();
            return Some(known.clone());
        }
        let cached = scripts.cache().get(digest)?;
        Some(self.note(cached))
    }

    /// Remembers a script.
    fn note(&mut self, cached: Arc<CachedScript>) -> Arc<Known> {
        if self.known.len() >= KNOWN_MAX {
            self.drop_forgotten();
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let digest = *cached.script().digest();
        let known = Arc::new(Known {
            cached,
            memory: LockHistory::default(),
        });
        self.known.insert(digest, known.clone());
        known
    }

    /// The script with this text. Compiles it and adds it to the cache if the cache does not have it.
    ///
    /// # Errors
    /// Its first line is wrong, or it does not compile.
    pub fn evaluate(&mut self, scripts: &Scripts, text: &[u8]) -> Result<Arc<Known>, CommandError> {
        let digest = damselfly_base::sha1::sha1(text);
        if let Some(script) = self.find(scripts, &digest) {
            return Ok(script);
        }
        let script = Arc::new(Script::parse(text)?);
        self.interpreter.compile(&script)?;
        let cached = scripts.cache().insert_evaluated(script);
        Ok(self.note(cached))
    }
}
