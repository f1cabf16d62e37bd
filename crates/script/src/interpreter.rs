//! Runs scripts and functions.

mod leftovers;
mod limited_hosts;

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::time::Duration;

use damselfly_base::CommandError;
use damselfly_base::sha1::hex;
use damselfly_protocol::{Reply, Version};

use crate::c_format::up_to_zero;
use crate::function_registration::{Library, Registration, parse_first_line};
use crate::host::Host;
use crate::lua::{Failure, Kind, Stack, State, Stop};
use crate::sandbox::{self, slots};
use crate::script::{CHUNK_NAME, Script};
use crate::to_reply::{self, Written};
use limited_hosts::{COMPILE_TIMEOUT, CompileHost, LoadHost};

const FUNCTION_CHUNK_NAME: &[u8] = b"@user_function";
/// Lua's error message when memory is exhausted.
const OUT_OF_MEMORY: &[u8] = b"not enough memory";

/// The resources that an interpreter may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes for all scripts and their data together. A script that needs more fails.
    pub memory_bytes: usize,
    /// How many scripts stay compiled. Beyond this, the least recently run script is dropped, and compiled
    /// again on its next run.
    pub compiled_scripts: usize,
    /// How many Lua instructions pass between two calls of [`Host::tick`]; fewer while the script uses much memory.
    pub instructions_per_tick: u32,
    /// How long a compilation may take where no [`Host`] can end it: in [`Interpreter::compile`], and when a library
    /// loads. Lua's parser needs quadratic time for a text with many `elseif` or `break`.
    pub compile_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory_bytes: 256 * 1024 * 1024,
            compiled_scripts: 1000,
            instructions_per_tick: 10_000,
            compile_time: Duration::from_secs(5),
        }
    }
}

/// How a script or function ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptOutcome {
    /// It wrote a reply that is not an error.
    Replied,
    /// It wrote an error.
    Failed {
        /// Whether the error is that of a failed command, which the host has already counted.
        is_counted: bool,
    },
    /// The host ended it with [`CallOutcome::Abort`](crate::CallOutcome::Abort); nothing was written.
    Aborted,
}

/// Why a text could not be compiled.
enum CompileError {
    /// The parser's message.
    Text(Vec<u8>),
    /// The host ended the compilation with this error.
    Killed(&'static str),
}

/// A compiled script.
struct Compiled {
    slot: i32,
    last_run: u64,
}

/// A library that is loaded in this interpreter.
struct Loaded {
    id: u64,
    slot: i32,
    /// Memory that loading it took.
    bytes: usize,
}

/// A Lua interpreter, used by one thread at a time. It compiles a text on its first run.
pub struct Interpreter {
    state: State,
    limits: Limits,
    scripts: HashMap<[u8; 20], Compiled>,
    libraries: HashMap<String, Loaded>,
    /// Slots of Lua's registry that are free for reuse.
    free_slots: Vec<i32>,
    next_slot: i32,
    runs: u64,
    /// The slot of the environment that newly compiled code gets.
    environment: i32,
    /// Bytes in use after the last garbage collection.
    live_bytes: usize,
}

impl std::fmt::Debug for Interpreter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interpreter")
            .field("scripts", &self.scripts.len())
            .field("libraries", &self.libraries.len())
            .field("used_bytes", &self.used_bytes())
            .finish_non_exhaustive()
    }
}

impl Interpreter {
    /// An interpreter with nothing loaded.
    ///
    /// # Errors
    /// The system is out of memory, or the limit is too small for Lua itself (about 200 KiB).
    pub fn new(limits: Limits) -> Result<Interpreter, CommandError> {
        let out_of_memory = || CommandError::err("not enough memory for Lua");
        let steps = usize::try_from(limits.instructions_per_tick).unwrap_or(usize::MAX);
        let mut state = State::new(limits.memory_bytes, steps).ok_or_else(out_of_memory)?;
        sandbox::build(&mut state.stack());
        if state.context().heap.is_over_limit() {
            return Err(out_of_memory());
        }
        let mut interpreter = Interpreter {
            state,
            limits,
            scripts: HashMap::new(),
            libraries: HashMap::new(),
            free_slots: Vec::new(),
            next_slot: slots::FIRST_FREE,
            runs: 0,
            environment: 0,
            live_bytes: 0,
        };
        interpreter.live_bytes = interpreter.used_bytes();
        interpreter.use_environment(slots::SCRIPT_ENVIRONMENT);
        Ok(interpreter)
    }

    /// Bytes that Lua uses in this interpreter.
    pub fn used_bytes(&self) -> usize {
        self.state.context().heap.used_bytes()
    }

    /// Bytes that libraries took when they were loaded; included in [`Interpreter::used_bytes`].
    pub fn library_bytes(&self) -> usize {
        self.libraries.values().map(|loaded| loaded.bytes).sum()
    }

    /// Drops all compiled scripts and frees their memory (SCRIPT FLUSH). A script that runs again is compiled again.
    pub fn clear_scripts(&mut self) {
        self.release_scripts();
        self.collect();
    }

    fn release_scripts(&mut self) {
        for compiled in std::mem::take(&mut self.scripts).into_values() {
            self.release(compiled.slot);
        }
    }

    /// Compiles a script unless it is already compiled (SCRIPT LOAD).
    ///
    /// # Errors
    /// The error reply if it does not compile, or takes longer than [`Limits::compile_time`].
    pub fn compile(&mut self, script: &Script) -> Result<(), CommandError> {
        let mut host = CompileHost::new(self.limits.compile_time);
        match self.compiled_slot(script, &mut host) {
            Ok(_) => Ok(()),
            Err(CompileError::Text(message)) => Err(does_not_compile(&message)),
            Err(CompileError::Killed(reason)) => Err(does_not_compile(reason.as_bytes())),
        }
    }

    /// Runs a script and writes its reply, even if it fails or does not compile.
    ///
    /// A panic of `host` ends the script and then continues to unwind from here.
    pub fn eval(
        &mut self,
        script: &Script,
        keys: &[&[u8]],
        arguments: &[&[u8]],
        host: &mut dyn Host,
        reply: &mut Reply<'_>,
    ) -> ScriptOutcome {
        let slot = match self.compiled_slot(script, host) {
            Ok(slot) => slot,
            Err(CompileError::Text(message)) => {
                return write_error(reply, &does_not_compile(&message));
            }
            Err(CompileError::Killed(error)) => {
                return write_error(reply, &CommandError::Text(error.into()));
            }
        };
        self.use_environment(slots::SCRIPT_ENVIRONMENT);
        let mut stack = self.state.stack();
        stack.get_index(Stack::REGISTRY, slots::HANDLER);
        stack.get_index(Stack::REGISTRY, slots::SCRIPT_GLOBALS);
        for (name, values) in [("KEYS", keys), ("ARGV", arguments)] {
            push_strings(&mut stack, values);
            stack.set_field(-2, name);
        }
        stack.pop(1);
        stack.get_index(Stack::REGISTRY, slot);
        self.run(&|| hex(script.digest()), 0, host, reply)
    }

    /// Calls function `index` of a library and writes its reply, even if it fails. Loads the library
    /// first if this interpreter does not have it, or has another text of this name.
    pub fn call_function(
        &mut self,
        library: &Library,
        index: usize,
        keys: &[&[u8]],
        arguments: &[&[u8]],
        host: &mut dyn Host,
        reply: &mut Reply<'_>,
    ) -> ScriptOutcome {
        self.drop_leftovers();
        let slot = match self.libraries.get(&library.name) {
            Some(loaded) if loaded.id == library.id => loaded.slot,
            Some(_) | None => {
                let mut before = self.used_bytes();
                let mut slot = self.load(&library.code, host);
                if slot.is_err() {
                    // It has loaded in another interpreter, so this one may only lack memory.
                    self.drop_all();
                    before = self.used_bytes();
                    slot = self.load(&library.code, host);
                }
                match slot {
                    Ok((slot, _)) => {
                        self.record_library(library, slot, before);
                        slot
                    }
                    Err(error) => return write_error(reply, &error),
                }
            }
        };
        let Some(function) = library.functions.get(index) else {
            return write_error(reply, &CommandError::err("Function not found"));
        };
        self.use_environment(slots::FUNCTION_ENVIRONMENT);
        let mut stack = self.state.stack();
        stack.get_index(Stack::REGISTRY, slots::HANDLER);
        stack.get_index(Stack::REGISTRY, slot);
        stack.get_index(-1, i32::try_from(index + 1).unwrap_or(i32::MAX));
        stack.remove(-2);
        push_strings(&mut stack, keys);
        push_strings(&mut stack, arguments);
        self.run(&|| function.name.clone(), 2, host, reply)
    }

    /// Runs a library's text so that it registers its functions (FUNCTION LOAD). `id` must differ from
    /// the ids of all other texts.
    ///
    /// # Errors
    /// The error reply if the first line or the code is invalid, takes too long, or registers nothing.
    pub fn load_library(
        &mut self,
        code: &[u8],
        id: u64,
        host: &mut dyn Host,
    ) -> Result<Library, CommandError> {
        let (name, _) = parse_first_line(code)?;
        self.drop_leftovers();
        let before = self.used_bytes();
        let (slot, registration) = self.load(code, host)?;
        let library = Library {
            name,
            code: code.to_vec(),
            functions: registration.functions,
            id,
        };
        self.record_library(&library, slot, before);
        Ok(library)
    }

    /// Records a library that was just loaded. `before`: the bytes in use before that.
    fn record_library(&mut self, library: &Library, slot: i32, before: usize) {
        let loaded = Loaded {
            id: library.id,
            slot,
            bytes: self.used_bytes().saturating_sub(before),
        };
        if let Some(old) = self.libraries.insert(library.name.clone(), loaded) {
            self.release(old.slot);
        }
    }

    /// Drops the libraries for which `is_current` returns false: they were deleted or replaced.
    pub fn retain_libraries(&mut self, mut is_current: impl FnMut(&str, u64) -> bool) {
        let mut released = Vec::new();
        self.libraries.retain(|name, loaded| {
            let keep = is_current(name, loaded.id);
            if !keep {
                released.push(loaded.slot);
            }
            keep
        });
        if released.is_empty() {
            return;
        }
        released.into_iter().for_each(|slot| self.release(slot));
        self.collect();
    }

    fn load(
        &mut self,
        text: &[u8],
        host: &mut dyn Host,
    ) -> Result<(i32, Registration), CommandError> {
        let (_, code_start) = parse_first_line(text)?;
        self.use_environment(slots::FUNCTION_ENVIRONMENT);
        let slot = self.take_slot();
        let mut stack = self.state.stack();
        stack.get_index(Stack::REGISTRY, slots::HANDLER);
        let context = stack.context();
        let mut compile_host = CompileHost::new(self.limits.compile_time);
        let loaded = context.enter(&mut compile_host, || {
            stack.load(&text[code_start..], FUNCTION_CHUNK_NAME)
        });
        if loaded != Ok(true) {
            let message = match loaded {
                Ok(_) => stack.text(-1).unwrap_or_default().to_vec(),
                Err(_) => COMPILE_TIMEOUT.into(),
            };
            stack.set_top(0);
            self.end_run();
            self.release(slot);
            let message = String::from_utf8_lossy(&message);
            return Err(CommandError::err(format!(
                "Error compiling function: {message}"
            )));
        }
        stack.push_table(0, 0);
        stack.set_index(Stack::REGISTRY, slot);
        set_function_globals(&mut stack, slots::LOAD_GLOBALS);
        context.registration.replace(Some(Registration {
            slot,
            functions: Vec::new(),
        }));
        context.stop.set(Stop::No);
        let result = context.enter(&mut LoadHost::new(host), || stack.call(0, 0, 1));
        set_function_globals(&mut stack, slots::FUNCTION_GLOBALS);
        let registration = context.registration.take();
        let message = result.is_err().then(|| {
            if stack.kind(-1) == Kind::Table {
                stack.get_field(-1, "err");
            }
            String::from_utf8_lossy(stack.text(-1).unwrap_or_default()).into_owned()
        });
        stack.set_top(0);
        self.end_run();
        let registration = match (message, registration) {
            (None, Some(registration)) if !registration.functions.is_empty() => registration,
            (None, _) => {
                self.release(slot);
                return Err(CommandError::err("No functions registered"));
            }
            (Some(message), _) => {
                self.release(slot);
                return Err(CommandError::err(format!(
                    "Error registering functions: {message}"
                )));
            }
        };
        Ok((slot, registration))
    }

    /// Calls a function and writes the reply. On the stack are the error handler, the function, and `arguments` values.
    fn run(
        &mut self,
        name: &dyn Fn() -> String,
        arguments: i32,
        host: &mut dyn Host,
        reply: &mut Reply<'_>,
    ) -> ScriptOutcome {
        let mut stack = self.state.stack();
        let context = stack.context();
        context.stop.set(Stop::No);
        context.version.set(Version::Resp2);
        let (result, written) = context.enter(host, || {
            let result = stack.call(arguments, 1, 1);
            let written = match result {
                Ok(()) if context.stop.get() != Stop::Aborted => to_reply::write(&mut stack, reply),
                Ok(()) | Err(_) => Written::Nothing,
            };
            (result, written)
        });
        let ended = match (result, written) {
            _ if context.stop.get() == Stop::Aborted => ScriptOutcome::Aborted,
            (Ok(()), Written::Reply) => ScriptOutcome::Replied,
            (Ok(()), Written::Error) => ScriptOutcome::Failed { is_counted: false },
            (Ok(()), Written::Nothing) => {
                let text = match context.stop.get() {
                    Stop::Killed(text) => text,
                    Stop::No | Stop::Aborted => "ERR The script's reply is too large",
                };
                write_error(reply, &CommandError::Text(text.into()))
            }
            (Err(failure), _) => write_failure(&mut stack, failure, name, reply),
        };
        stack.set_top(0);
        if result.is_err() || self.state.context().stop.get() != Stop::No {
            self.end_run();
        }
        ended
    }

    /// Clears the state that a failed run may have left.
    fn end_run(&mut self) {
        let context = self.state.context();
        let is_stopped = context.stop.replace(Stop::No) != Stop::No;
        let panic = context.panic.take();
        if is_stopped {
            self.state.reset_hook();
        }
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// The slot of a script's function; compiles the script if needed.
    fn compiled_slot(&mut self, script: &Script, host: &mut dyn Host) -> Result<i32, CompileError> {
        self.runs += 1;
        self.drop_leftovers();
        if let Some(compiled) = self.scripts.get_mut(script.digest()) {
            compiled.last_run = self.runs;
            return Ok(compiled.slot);
        }
        if self.scripts.len() >= self.limits.compiled_scripts.max(1) {
            self.drop_least_recently_run();
        }
        let slot = match self.compile_text(script.code(), host) {
            // Other scripts may have used up the memory.
            Err(CompileError::Text(message)) if message == OUT_OF_MEMORY => {
                self.drop_all();
                self.compile_text(script.code(), host)?
            }
            compiled => compiled?,
        };
        let compiled = Compiled {
            slot,
            last_run: self.runs,
        };
        self.scripts.insert(*script.digest(), compiled);
        Ok(slot)
    }

    /// Compiles the text of a script and returns its slot. `host` may end the compilation.
    fn compile_text(&mut self, code: &[u8], host: &mut dyn Host) -> Result<i32, CompileError> {
        self.use_environment(slots::SCRIPT_ENVIRONMENT);
        let mut stack = self.state.stack();
        let context = stack.context();
        let loaded = context.enter(host, || stack.load(code, CHUNK_NAME));
        if loaded != Ok(true) {
            let error = match context.stop.get() {
                Stop::Killed(error) => CompileError::Killed(error),
                // Aborted: the host panicked, and `end_run` resumes the panic.
                Stop::Aborted | Stop::No => {
                    CompileError::Text(stack.text(-1).unwrap_or_default().to_vec())
                }
            };
            stack.set_top(0);
            self.end_run();
            return Err(error);
        }
        let slot = self.take_slot();
        let mut stack = self.state.stack();
        stack.set_index(Stack::REGISTRY, slot);
        Ok(slot)
    }

    fn drop_least_recently_run(&mut self) {
        let oldest = self
            .scripts
            .iter()
            .min_by_key(|(_, compiled)| compiled.last_run)
            .map(|(digest, _)| *digest);
        if let Some(compiled) = oldest.and_then(|digest| self.scripts.remove(&digest)) {
            self.release(compiled.slot);
        }
    }

    fn take_slot(&mut self) -> i32 {
        self.free_slots.pop().unwrap_or_else(|| {
            self.next_slot += 1;
            self.next_slot - 1
        })
    }

    fn release(&mut self, slot: i32) {
        let mut stack = self.state.stack();
        stack.push_nil();
        stack.set_index(Stack::REGISTRY, slot);
        self.free_slots.push(slot);
    }

    /// Sets the globals of code compiled from now on, including code that scripts compile.
    fn use_environment(&mut self, slot: i32) {
        if self.environment == slot {
            return;
        }
        self.environment = slot;
        let mut stack = self.state.stack();
        stack.get_index(Stack::REGISTRY, slot);
        stack.replace(Stack::GLOBALS);
    }
}

/// Sets the table of globals that functions can access.
fn set_function_globals(stack: &mut Stack<'_>, globals: i32) {
    stack.get_index(Stack::REGISTRY, slots::FUNCTION_METATABLE);
    stack.get_index(Stack::REGISTRY, globals);
    stack.set_field(-2, "__index");
    stack.pop(1);
}

fn push_strings(stack: &mut Stack<'_>, values: &[&[u8]]) {
    stack.push_table(values.len(), 0);
    for (index, value) in (1..).zip(values) {
        stack.push_bytes(value);
        stack.set_index(-2, index);
    }
}

fn does_not_compile(message: &[u8]) -> CommandError {
    CommandError::quoting("Error compiling script (new function): ", message, "")
}

fn write_error(reply: &mut Reply<'_>, error: &CommandError) -> ScriptOutcome {
    reply.error(error.to_bytes());
    ScriptOutcome::Failed { is_counted: false }
}

/// Writes the error on top of the stack as the reply.
fn write_failure(
    stack: &mut Stack<'_>,
    failure: Failure,
    name: &dyn Fn() -> String,
    reply: &mut Reply<'_>,
) -> ScriptOutcome {
    if failure == Failure::Memory || stack.kind(-1) != Kind::Table {
        let text = stack.text(-1).unwrap_or(b"execution failure");
        let text = String::from_utf8_lossy(text).into_owned();
        reply.error(format!("ERR Error running script {}, {text}", name()));
        return ScriptOutcome::Failed { is_counted: false };
    }
    let is_counted = to_reply::is_counted(stack);
    stack.get_field(-1, "err");
    let mut text = match stack.bytes(-1) {
        Some(text) => up_to_zero(text).to_vec(),
        None => b"ERR unknown error".to_vec(),
    };
    stack.pop(1);
    stack.get_field(-1, "source");
    stack.get_field(-2, "line");
    if stack.text(-1).is_some()
        && stack.kind(-2) == Kind::String
        && let (Some(source), Some(line)) = (stack.bytes(-2), stack.bytes(-1))
    {
        text.extend_from_slice(b" script: ");
        text.extend_from_slice(name().as_bytes());
        text.extend_from_slice(b", on ");
        text.extend_from_slice(source);
        text.push(b':');
        text.extend_from_slice(line);
        text.push(b'.');
    }
    reply.error(text);
    ScriptOutcome::Failed { is_counted }
}
