//! Scripts: who keeps them, how one runs, and what it may do.
//!
//! ```text
//!   EVAL ─► dispatch stops at it ─► worker, which takes the session aside ─► run ─► interpreter ─► redis.call ─► host
//!                                     ▲                                                                          │
//!                                     └────────── a turn for other clients, if a script runs for long ◄──────────┘
//! ```
//!
//! - `run.rs`: the locks that a script runs under, and what happens if they are not enough.
//! - `host.rs`: `redis.call` and its relatives; `locks.rs`: how it gets to the keys of a command.
//! - `slow.rs`: scripts that run for long, and those who meet them.
//!
//! Each thread has an interpreter, which compiles a text when it first runs it, and remembers the scripts that it ran
//! ([`ScriptContext`]); the texts themselves belong to all threads, and it is their cache that decides which are known ([`Scripts`]).

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

/// Finds a program, and how many keys it declares.
type Find = fn(&mut ScriptContext, &Shared, Args<'_>) -> Result<(Program, usize), CommandError>;

/// A command that runs scripts or functions.
pub struct Finder {
    /// Finds what is to run, and how many keys it declares: its arguments begin with the keys, at the fourth argument.
    pub find: Find,
    /// What the script or function says about itself; `None` if it says nothing or there is none.
    pub flags: fn(&Shared, Args<'_>) -> Option<Flags>,
}

/// True if a request runs a script that says of itself that it writes nothing.
pub fn only_reads(shared: &Shared, row: &Row, args: Args<'_>) -> bool {
    let flags = flags(shared, row, args);
    flags.is_some_and(|flags| flags.contains(Flags::NO_WRITES))
}

/// True if a request runs a script that says something of itself, but not that it may run when memory is short.
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

/// What a script runs in the middle of.
pub trait ScriptRunner {
    /// The dispatcher of the thread.
    fn dispatcher(&mut self) -> &mut Dispatcher;

    /// Lets other clients of the thread have a turn; waits that long for one of them.
    fn serve_others(&mut self, wait: Duration);
}

/// A transaction without scripts runs in the middle of nothing else.
impl ScriptRunner for Dispatcher {
    #[inline]
    fn dispatcher(&mut self) -> &mut Dispatcher {
        self
    }

    fn serve_others(&mut self, _: Duration) {}
}

/// What is to run.
#[derive(Clone, Debug)]
pub enum Program {
    /// A script.
    Script(Arc<Known>),
    /// A function.
    Function(Arc<KnownFunction>),
}

impl Program {
    /// What it says about itself; `None` for a script that says nothing.
    pub fn flags(&self) -> Option<Flags> {
        match self {
            Self::Script(known) => known.script().flags(),
            Self::Function(known) => Some(known.function().flags),
        }
    }

    /// The name that errors give it.
    pub fn name(&self) -> String {
        match self {
            Self::Script(known) => hex(known.script().digest()),
            Self::Function(known) => known.function().name.clone(),
        }
    }
}

/// What all threads know of scripts.
#[derive(Debug, Default)]
pub struct Scripts {
    cache: Mutex<ScriptCache>,
    /// Grows with every SCRIPT FLUSH.
    flushes: AtomicU64,
    /// Held by the one script that may wait for locks.
    token: AtomicBool,
    slow: SlowScripts,
    /// How often scripts met what is rare.
    pub counts: Counts,
    /// Scripts may call commands about server and connection that they may not call otherwise, for tests.
    pub allows_denied: AtomicBool,
}

/// How often scripts met what is rare.
#[derive(Debug, Default)]
pub struct Counts {
    /// A script was undone, to run again with more locks.
    pub undone: AtomicU64,
    /// A script could not be undone any more and so had to wait for locks.
    pub irrevocable: AtomicU64,
    /// A script ran under all locks.
    pub whole: AtomicU64,
}

impl Scripts {
    /// The texts that EVALSHA finds.
    pub fn cache(&self) -> MutexGuard<'_, ScriptCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the texts and of what is kept about them.
    pub fn bytes(&self) -> usize {
        /// About what an entry of the cache takes.
        const ENTRY_BYTES: usize = 192;
        let cache = self.cache();
        cache.body_bytes() + cache.len() * ENTRY_BYTES
    }

    /// A script with this text, which compiles.
    ///
    /// # Errors
    /// Its first line is wrong, or it does not compile.
    pub fn checked(&self, text: &[u8]) -> Result<Arc<Script>, CommandError> {
        let script = Arc::new(Script::parse(text)?);
        Interpreter::new(Limits::default())?.compile(&script)?;
        Ok(script)
    }

    /// Forgets all scripts; each thread forgets its own when it next looks.
    pub fn flush(&self) {
        self.cache().clear();
        self.flushes.fetch_add(1, Relaxed);
    }
}

/// What one thread knows of scripts.
#[derive(Default)]
pub struct ThreadScripts {
    /// `None` before the first script, and while one runs.
    room: Option<Box<ScriptContext>>,
    /// A script runs.
    pub running: bool,
    /// It has run for longer than `busy-reply-threshold`.
    pub is_slow: bool,
}

impl ThreadScripts {
    /// Takes what a script needs, for as long as it runs.
    ///
    /// # Errors
    /// There is no memory for an interpreter.
    pub fn take(&mut self, shared: &Shared) -> Result<Box<ScriptContext>, CommandError> {
        let mut room = match self.room.take() {
            Some(room) => room,
            None => Box::new(ScriptContext::new()?),
        };
        room.refresh(shared);
        Ok(room)
    }

    /// Takes it back.
    pub fn put(&mut self, room: Box<ScriptContext>) {
        self.room = Some(room);
    }

    /// Forgets what was flushed, or forgotten by the cache.
    pub fn refresh(&mut self, shared: &Shared) {
        if let Some(room) = &mut self.room {
            room.refresh(shared);
            room.drop_forgotten();
        }
    }

    /// Bytes of the interpreter, unless it is in use.
    pub fn vm_bytes(&self) -> Option<usize> {
        let room = self.room.as_ref()?;
        Some(room.interpreter.used_bytes())
    }

    /// Bytes of it that hold libraries of functions.
    pub fn library_bytes(&self) -> Option<usize> {
        let room = self.room.as_ref()?;
        Some(room.interpreter.library_bytes())
    }
}

/// A script as its thread knows it. No other thread counts or changes this one.
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

/// An interpreter, and room for what its scripts pass on.
pub struct ScriptContext {
    /// The interpreter.
    pub interpreter: Interpreter,
    known: HashMap<[u8; 20], Arc<Known>>,
    /// See [`Scripts::flushes`].
    flushes: u64,
    /// The functions that it can call.
    pub functions: Snapshot,
    scratch: Scratch,
}

/// As many scripts as an interpreter keeps compiled.
const KNOWN_MAX: usize = 1000;

/// Room for the arguments of a command and the like, kept for the next one.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    /// What is to be counted and shown of commands if the script is not undone.
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

    /// Lets go of the texts of scripts that the cache has forgotten.
    fn drop_forgotten(&mut self) {
        self.known.retain(|_, known| !known.cached.is_forgotten());
    }

    /// The script of this digest, if the cache knows it. Counts as a use.
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

    /// The script with this text, which is compiled now if the cache does not know it.
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
