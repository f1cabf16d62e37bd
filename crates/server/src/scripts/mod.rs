//! Scripts: who keeps them, how one runs, and what it may do.
//!
//! ```text
//!   EVAL ─► dispatch stops at it ─► worker, which takes the session aside ─► run ─► interpreter ─► redis.call ─► host
//!                                     ▲                                                                          │
//!                                     └────────── a turn for other clients, while a script is slow ◄─────────────┘
//! ```
//!
//! - `run.rs`: the locks that a script runs under, and what happens if they are not enough.
//! - `host.rs`: `redis.call` and its relatives.
//!
//! Each thread has an interpreter, which compiles a text when it first runs it, and remembers the scripts that it ran
//! ([`Room`]); the texts themselves belong to all threads ([`Scripts`]).

mod host;
mod run;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use damselfly_base::CommandError;
use damselfly_base::sha1::hex;
use damselfly_commands::Args;
use damselfly_protocol::Span;
use damselfly_script::{Flags, Interpreter, Library, Limits, Script, ScriptCache};

use crate::dispatch::Dispatcher;
use crate::shared::Shared;

pub use run::{run, run_within};

/// A command that runs scripts or functions.
pub struct Finder {
    /// Finds what is to run, and how many keys it declares: its arguments begin with the keys, at the fourth argument.
    pub find: fn(&mut Room, &Shared, Args<'_>) -> Result<(Program, usize), CommandError>,
    /// What the script or function says about itself; `None` if it says nothing or there is none.
    pub flags: fn(&Shared, Args<'_>) -> Option<Flags>,
}

/// What a script runs in the middle of.
pub trait Around {
    /// The dispatcher of the thread.
    fn dispatcher(&mut self) -> &mut Dispatcher;

    /// Lets other clients of the thread have a turn.
    fn breathe(&mut self);
}

/// A transaction without scripts runs in the middle of nothing else.
impl Around for Dispatcher {
    #[inline]
    fn dispatcher(&mut self) -> &mut Dispatcher {
        self
    }

    fn breathe(&mut self) {}
}

/// What is to run.
#[derive(Clone, Debug)]
pub enum Program {
    /// A script.
    Script(Arc<Script>),
    /// A function.
    Function {
        /// Its library.
        library: Arc<Library>,
        /// Its place among the library's functions.
        index: usize,
    },
}

impl Program {
    /// What it says about itself; `None` for a script that says nothing.
    pub fn flags(&self) -> Option<Flags> {
        match self {
            Self::Script(script) => script.flags(),
            Self::Function { library, index } => {
                let function = library.functions().get(*index);
                Some(function.map_or(Flags::default(), |function| function.flags))
            }
        }
    }

    /// The name that errors give it.
    pub fn name(&self) -> String {
        match self {
            Self::Script(script) => hex(script.digest()),
            Self::Function { library, index } => {
                let function = library.functions().get(*index);
                function.map_or(String::new(), |function| function.name.clone())
            }
        }
    }
}

/// What all threads know of scripts.
#[derive(Debug, Default)]
pub struct Scripts {
    cache: Mutex<ScriptCache>,
    /// Grows with every SCRIPT FLUSH.
    flushes: AtomicU64,
}

impl Scripts {
    /// The texts that EVALSHA finds.
    pub fn cache(&self) -> MutexGuard<'_, ScriptCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
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
    room: Option<Box<Room>>,
    /// A script runs.
    pub running: bool,
}

impl ThreadScripts {
    /// Takes what a script needs, for as long as it runs.
    ///
    /// # Errors
    /// There is no memory for an interpreter.
    pub fn take(&mut self, shared: &Shared) -> Result<Box<Room>, CommandError> {
        let mut room = match self.room.take() {
            Some(room) => room,
            None => Box::new(Room::new()?),
        };
        room.refresh(&shared.scripts);
        Ok(room)
    }

    /// Takes it back.
    pub fn put(&mut self, room: Box<Room>) {
        self.room = Some(room);
    }

    /// Forgets what was flushed.
    pub fn refresh(&mut self, scripts: &Scripts) {
        if let Some(room) = &mut self.room {
            room.refresh(scripts);
        }
    }

    /// Bytes of the interpreter, unless it is in use.
    pub fn vm_bytes(&self) -> Option<usize> {
        self.room.as_ref().map(|room| room.interpreter.used_bytes())
    }
}

/// A script as its thread knows it.
struct Known {
    script: Arc<Script>,
    uses: u32,
}

/// An interpreter, and room for what its scripts pass on.
pub struct Room {
    /// The interpreter.
    pub interpreter: Interpreter,
    known: HashMap<[u8; 20], Known>,
    /// See [`Scripts::flushes`].
    flushes: u64,
    scratch: Scratch,
}

/// Room for the arguments of a command and the like, kept for the next one.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    shards: Vec<usize>,
}

impl Room {
    fn new() -> Result<Self, CommandError> {
        Ok(Self {
            interpreter: Interpreter::new(Limits::default())?,
            known: HashMap::new(),
            flushes: 0,
            scratch: Scratch::default(),
        })
    }

    fn refresh(&mut self, scripts: &Scripts) {
        let flushes = scripts.flushes.load(Relaxed);
        if flushes != self.flushes {
            self.flushes = flushes;
            self.known.clear();
            self.interpreter.clear();
        }
    }

    /// The script of this digest, if this thread or another knows it.
    pub fn find(&mut self, scripts: &Scripts, digest: &[u8; 20]) -> Option<Arc<Script>> {
        /// After so many uses by one thread the others are told that the script is still used.
        const TOLD_EVERY: u32 = 64;
        if let Some(known) = self.known.get_mut(digest) {
            known.uses += 1;
            if known.uses.is_multiple_of(TOLD_EVERY) {
                scripts.cache().insert_evaluated(known.script.clone());
            }
            return Some(known.script.clone());
        }
        let script = scripts.cache().get(digest)?;
        self.note(script.clone());
        Some(script)
    }

    /// Remembers a script.
    fn note(&mut self, script: Arc<Script>) {
        /// As many as the interpreter keeps compiled.
        const KNOWN_MAX: usize = 1000;
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let known = Known {
            script: script.clone(),
            uses: 0,
        };
        self.known.insert(*script.digest(), known);
    }

    /// The script with this text, which is compiled now if no thread knows it.
    ///
    /// # Errors
    /// Its first line is wrong, or it does not compile.
    pub fn evaluate(
        &mut self,
        scripts: &Scripts,
        text: &[u8],
    ) -> Result<Arc<Script>, CommandError> {
        let digest = damselfly_base::sha1::sha1(text);
        if let Some(script) = self.find(scripts, &digest) {
            return Ok(script);
        }
        let script = Arc::new(Script::parse(text)?);
        self.interpreter.compile(&script)?;
        scripts.cache().insert_evaluated(script.clone());
        self.note(script.clone());
        Ok(script)
    }
}
