//! Loads the configuration at start: file, then environment, then command line. Each overrides those before it.
//!
//! ```text
//! damselfly [FILE] [-] [--option value ...]      all optional; `-` is standard input
//! damselfly --check-rdb FILE
//! DAMSELFLY_<OPTION>=value                       `-` in the option's name is `_` here
//! ```
//!
//! `command_line.rs` splits the arguments into one list of words per option, like the lines of a file.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Config;
use super::command_line::{Arguments, Asked};
use super::kind::{Kind, OptionError, Value};
use super::line::{self, LineError};
use super::options::{self, Effect};
use super::redis::{self, Lacking};
use super::settings::UserLine;
use damselfly_base::glob::Glob;

/// How deeply `include` may be nested.
const INCLUDE_DEPTH_MAX: usize = 16;
const ENVIRONMENT_PREFIX: &str = "DAMSELFLY_";
/// Names that begin a line and are not options.
pub(super) const DIRECTIVES: &[&str] = &["include", "rename-command", "user"];

/// The request of the command line.
#[derive(Debug)]
pub enum Request {
    /// Run the server.
    Run(Box<Loaded>),
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Check this RDB file.
    CheckRdb(PathBuf),
    /// Check an append-only file, or the files of a manifest.
    CheckAof {
        /// The file.
        path: PathBuf,
        /// Cut it behind its last whole command.
        fixes: bool,
    },
    /// Copy an append-only file as it was at a moment.
    RestoreTo {
        /// The moment, in seconds since the epoch.
        second: i64,
        /// The folder that has it.
        source: PathBuf,
        /// The folder for the copy.
        into: PathBuf,
    },
}

/// A configuration to start with.
#[derive(Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The file named on the command line, which CONFIG REWRITE rewrites.
    pub file: Option<PathBuf>,
    /// Warnings for the operator, one line each.
    pub warnings: Vec<String>,
}

/// Access to configuration files.
pub trait Files {
    /// The bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The names of the files in a folder, in any order.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// The whole of standard input.
    fn standard_input(&self) -> io::Result<Vec<u8>>;
}

/// The real files.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(folder)?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn standard_input(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Where an option was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File {
        /// Its path.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// In an environment variable.
    Environment(String),
    /// On the command line.
    CommandLine,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Place::Environment(variable) => write!(f, "environment variable {variable}"),
            Place::CommandLine => f.write_str("command line"),
        }
    }
}

/// Why the server can't start. The texts never contain a value, since it may be a password.
#[derive(Debug)]
pub enum StartError {
    /// A file could not be read.
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// An option or its value was refused.
    Refused {
        /// Where it was given.
        place: Place,
        /// Its name, or the text in place of a name.
        option: String,
        /// Why.
        problem: String,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Unreadable { path, error } => {
                write!(
                    f,
                    "can't read the configuration from {}: {error}",
                    path.display()
                )
            }
            StartError::Refused {
                place,
                option,
                problem,
            } => {
                write!(f, "{place}: option '{option}': {problem}")
            }
        }
    }
}

impl std::error::Error for StartError {}

/// An argument or the value of a variable as text.
///
/// # Errors
/// It is not UTF-8.
pub fn text_of(place: Place, value: OsString) -> Result<String, StartError> {
    let why = LineError::NotText.to_string();
    let refused = |value: OsString| {
        let text = value.to_string_lossy();
        // Only a name may be shown, since a value may be a password.
        let name = text.split(|c: char| c == '=' || c.is_whitespace()).next();
        let option = name.filter(|name| name.starts_with("--"));
        refused(place, option.unwrap_or("(a value)"), &why)
    };
    value.into_string().map_err(refused)
}

/// Loads the configuration from `args` (without the program's name), `environment` and the files that `args` names.
pub fn load(
    args: impl IntoIterator<Item = String>,
    environment: impl IntoIterator<Item = (String, String)>,
    files: &impl Files,
) -> Result<Request, StartError> {
    let arguments = match Arguments::parse(args)? {
        Asked::Start(arguments) => arguments,
        Asked::Other(request) => return Ok(request),
    };
    let mut loader = Loader::new(files);
    if let Some(path) = &arguments.file {
        loader.file(path, 0)?;
    }
    if arguments.standard_input {
        let path = Path::new("standard input");
        let unreadable = |error| StartError::Unreadable {
            path: path.to_owned(),
            error,
        };
        let text = files.standard_input().map_err(unreadable)?;
        loader.text(path, &text, 0)?;
    }
    let mut variables: Vec<(String, String)> = environment.into_iter().collect();
    variables.sort();
    for (variable, value) in &variables {
        loader.variable(variable, value)?;
    }
    for words in &arguments.lines {
        loader.line(&Place::CommandLine, words, 0)?;
    }
    loader.warn_of_options_without_effect();
    Ok(Request::Run(Box::new(Loaded {
        config: loader.config,
        file: arguments.file,
        warnings: loader.warnings,
    })))
}

/// The configuration that `lines` alone give, or `None` if one of them is refused.
pub(super) fn apply_lines(lines: &[&[String]]) -> Option<Config> {
    let mut loader = Loader::new(&Disk);
    for words in lines {
        loader
            .apply(&Place::CommandLine, words, Repeated::Adds)
            .ok()?;
    }
    Some(loader.config)
}

/// How a line of an option of [`Kind::Groups`] affects earlier ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeated {
    Adds,
    Replaces,
}

struct Loader<'a, F> {
    files: &'a F,
    config: Config,
    /// For options whose lines add up, the words so far.
    groups: HashMap<&'static str, Vec<String>>,
    /// Names of the options that were given.
    given: Vec<&'static str>,
    warnings: Vec<String>,
}

impl<'a, F: Files> Loader<'a, F> {
    fn new(files: &'a F) -> Self {
        Self {
            files,
            config: Config::default(),
            groups: HashMap::new(),
            given: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn file(&mut self, path: &Path, depth: usize) -> Result<(), StartError> {
        let unreadable = |error| StartError::Unreadable {
            path: path.to_owned(),
            error,
        };
        if depth > INCLUDE_DEPTH_MAX {
            return Err(unreadable(io::Error::other(
                "include files are nested too deeply",
            )));
        }
        let text = self.files.read(path).map_err(unreadable)?;
        self.text(path, &text, depth)
    }

    fn text(&mut self, path: &Path, text: &[u8], depth: usize) -> Result<(), StartError> {
        for (index, raw) in text.split(|&byte| byte == b'\n').enumerate() {
            let raw = raw.trim_ascii();
            if raw.is_empty() || raw.starts_with(b"#") {
                continue;
            }
            let place = Place::File {
                path: path.to_owned(),
                line: index + 1,
            };
            let text = std::str::from_utf8(raw).map_err(|_| LineError::NotText);
            let words = text.and_then(line::split).map_err(|why| {
                let option = raw.split(u8::is_ascii_whitespace).next();
                let option = String::from_utf8_lossy(option.unwrap_or_default());
                refused(place.clone(), &option, &why.to_string())
            })?;
            self.line(&place, &words, depth)?;
        }
        Ok(())
    }

    /// Applies a line of a file at this depth, or of the command line.
    fn line(&mut self, place: &Place, words: &[String], depth: usize) -> Result<(), StartError> {
        match words {
            [name, included] if name.eq_ignore_ascii_case("include") => {
                self.include(Path::new(included), depth + 1)
            }
            words => self.apply(place, words, Repeated::Adds),
        }
    }

    /// Reads the file at `path`; if the last part of `path` is a pattern, reads every file that matches.
    fn include(&mut self, path: &Path, depth: usize) -> Result<(), StartError> {
        let pattern = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let Some(pattern) = pattern.filter(|name| name.contains(['*', '?', '['])) else {
            return self.file(path, depth);
        };
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        // A missing folder is treated like a pattern without matches: nothing is included.
        let mut names = self.files.list(folder).unwrap_or_default();
        let glob = Glob::new(pattern.as_bytes());
        names.retain(|name| !name.starts_with('.') && glob.matches(name.as_bytes()));
        names.sort();
        names
            .iter()
            .try_for_each(|name| self.file(&folder.join(name), depth))
    }

    fn variable(&mut self, variable: &str, value: &str) -> Result<(), StartError> {
        let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else {
            return Ok(());
        };
        let name = name.to_ascii_lowercase().replace('_', "-");
        // Kubernetes sets DAMSELFLY_PORT=tcp://... and more in every pod next to a service called
        // "damselfly", so variables that are not options must not keep the server from starting.
        if value.starts_with("tcp://") || options::find(&name).is_none() {
            self.warnings.push(format!(
                "ignoring environment variable {variable}, which does not set an option"
            ));
            return Ok(());
        }
        let place = Place::Environment(variable.to_owned());
        self.apply(&place, &[name, value.to_owned()], Repeated::Replaces)
    }

    /// Applies one line: the option's name and its values.
    fn apply(
        &mut self,
        place: &Place,
        words: &[String],
        repeated: Repeated,
    ) -> Result<(), StartError> {
        let [name, values @ ..] = words else {
            return Ok(());
        };
        if self.apply_directive(place, name, values)? {
            return Ok(());
        }
        let Some(option) = options::find(name) else {
            if let Some(lacking) = redis::lacking(name, values) {
                return self.apply_lacking(place, &name.to_ascii_lowercase(), lacking);
            }
            return Err(refused(place.clone(), name, &unknown(name)));
        };
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let result = match option.kind {
            Kind::Groups(_) => self.apply_groups(option, &values, repeated),
            Kind::Bool
            | Kind::Integer { .. }
            | Kind::Octal { .. }
            | Kind::Memory { .. }
            | Kind::MemoryOrPercent
            | Kind::Choice(_)
            | Kind::Text
            | Kind::Words => option.write(&mut self.config, &values),
        };
        result.map_err(|why| refused(place.clone(), option.name, &why.to_string()))?;
        self.given.push(option.name);
        Ok(())
    }

    /// Leaves out a line with an option of Redis that this server lacks, or refuses it.
    fn apply_lacking(
        &mut self,
        place: &Place,
        name: &str,
        lacking: Lacking,
    ) -> Result<(), StartError> {
        match lacking {
            Lacking::Nothing => Ok(()),
            Lacking::Detail(consequence) => {
                self.warnings.push(format!(
                    "{place}: option '{name}' is ignored: it is not supported; {consequence}"
                ));
                Ok(())
            }
            Lacking::Everything(remedy) => {
                let problem = format!("it is not supported: {remedy}");
                Err(refused(place.clone(), name, &problem))
            }
        }
    }

    /// Adds the line to earlier ones of the option, or replaces them. A line without values, or with an empty text, discards earlier ones.
    fn apply_groups(
        &mut self,
        option: &'static options::Opt,
        values: &[&str],
        repeated: Repeated,
    ) -> Result<(), OptionError> {
        // Each line is first checked on its own, because a group must not be spread over two lines.
        option.write(&mut self.config.clone(), values)?;
        let new = option.kind.parse(values)?.words();
        let all = self.groups.entry(option.name).or_default();
        if repeated == Repeated::Replaces || new.is_empty() {
            all.clear();
        }
        all.extend(new);
        (option.access.write)(&mut self.config, Value::Words(all.clone()))
    }

    /// Applies a line that is not an option but a directive. Returns false for all other lines.
    fn apply_directive(
        &mut self,
        place: &Place,
        name: &str,
        values: &[String],
    ) -> Result<bool, StartError> {
        let problem = match (name.to_ascii_lowercase().as_str(), values) {
            ("rename-command", [command, new]) => {
                self.config
                    .rename_commands
                    .push((command.clone(), new.clone()));
                return Ok(true);
            }
            ("user", [user, rules @ ..]) => {
                let users = &mut self.config.users;
                if !users.iter().any(|known| known.name == *user) {
                    users.push(UserLine {
                        place: place.clone(),
                        name: user.clone(),
                        rules: rules.to_vec(),
                    });
                    return Ok(true);
                }
                "Duplicate user found. A user can only be defined once in config files"
            }
            ("include" | "rename-command" | "user", _) => "wrong number of arguments",
            _ => return Ok(false),
        };
        Err(refused(place.clone(), name, problem))
    }

    fn warn_of_options_without_effect(&mut self) {
        for option in options::all().filter(|option| self.given.contains(&option.name)) {
            let why = match option.effect {
                Effect::Acts => continue,
                Effect::Later(why) | Effect::Never(why) => why,
            };
            if (option.access.read)(&self.config) != option.default_shown() {
                self.warnings
                    .push(format!("option '{}' has no effect: {why}", option.name));
            }
        }
    }
}

pub(super) fn refused(place: Place, option: &str, problem: &str) -> StartError {
    StartError::Refused {
        place,
        option: option.to_owned(),
        problem: problem.to_owned(),
    }
}

/// The error text for an unknown option; suggests the most similar name.
fn unknown(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let nearest = options::all()
        .flat_map(options::Opt::names)
        .map(|known| (distance(&name, known), known))
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4);
    match nearest {
        Some((_, known)) => format!("unknown option; did you mean '{known}'?"),
        None => "unknown option; see --help".to_owned(),
    }
}

/// How many bytes must be inserted, removed or replaced to turn `a` into `b` (Levenshtein distance).
fn distance(a: &str, b: &str) -> usize {
    // Names are short: a longer text is not similar to any.
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
