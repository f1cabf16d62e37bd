//! The command line, split into one list of words per option, like the lines of a file.
//!
//! A library that parses command lines would save little work, and would refuse `--bind 127.0.0.1 -::1`.

use std::path::PathBuf;

use super::load::{DIRECTIVES, Place, Request, StartError, refused};
use super::{line, options, redis};

// The options that ask for something else than a server.
const CHECK_RDB: &str = "--check-rdb";
const CHECK_AOF: &str = "--check-aof";
const RESTORE_TO: &str = "--restore-to";

/// What a command line asks for.
pub(super) enum Asked {
    /// A server.
    Start(Arguments),
    /// Something else.
    Other(Request),
}

/// What a command line with one of the options above asks for; `None` if it is wrong.
fn tool(args: &[String]) -> Option<Request> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [CHECK_RDB, path] => Some(Request::CheckRdb(PathBuf::from(path))),
        [CHECK_AOF, "--fix", path] | [CHECK_AOF, path, "--fix"] => Some(Request::CheckAof {
            path: PathBuf::from(path),
            fixes: true,
        }),
        [CHECK_AOF, path] => Some(Request::CheckAof {
            path: PathBuf::from(path),
            fixes: false,
        }),
        words => {
            let value = |option: &str| {
                let at = words.iter().position(|word| *word == option)?;
                words.get(at + 1).copied()
            };
            let restore = Request::RestoreTo {
                second: value(RESTORE_TO)?.parse().ok()?,
                source: PathBuf::from(value("--dir")?),
                into: PathBuf::from(value("--into")?),
            };
            (words.len() == 6).then_some(restore)
        }
    }
}

/// The command line of a server, split into lines of words.
#[derive(Default)]
pub(super) struct Arguments {
    /// The file that it names.
    pub(super) file: Option<PathBuf>,
    /// True if options come from standard input, too.
    pub(super) standard_input: bool,
    /// A list of words for each option: its name and its values.
    pub(super) lines: Vec<Vec<String>>,
}

impl Arguments {
    /// Splits the arguments, which are without the program's name.
    ///
    /// # Errors
    /// One of them can't be where it is.
    pub(super) fn parse(args: impl IntoIterator<Item = String>) -> Result<Asked, StartError> {
        let mut parsed = Arguments::default();
        let args: Vec<String> = args.into_iter().collect();
        let last = args.len().saturating_sub(1);
        for (index, arg) in args.iter().enumerate() {
            let wrong = |problem: &str| refused(Place::CommandLine, arg, problem);
            let is_option = arg.starts_with("--") && !parsed.lacks_value(arg);
            let value_of = parsed.lines.last_mut();
            match (arg.as_str(), value_of) {
                ("-h", None) | ("--help", _) => return Ok(Asked::Other(Request::Help)),
                ("-v", None) | ("--version", _) => return Ok(Asked::Other(Request::Version)),
                (CHECK_RDB | CHECK_AOF | RESTORE_TO, _) => {
                    let usage = match arg.as_str() {
                        CHECK_RDB => "expected the path of one file and no other option",
                        _ => {
                            "expected '--check-aof [--fix] FILE' or '--restore-to TIME --dir SOURCE --into DIRECTORY'"
                        }
                    };
                    return tool(&args).map(Asked::Other).ok_or_else(|| wrong(usage));
                }
                ("-", None) if index <= 1 => parsed.standard_input = true,
                ("-", _) if index == last => parsed.standard_input = true,
                (option, _) if is_option => {
                    parsed.lines.push(option_words(&option[2..])?);
                }
                (_, Some(words)) => words.push(arg.clone()),
                (path, None) if index == 0 && !path.starts_with('-') => {
                    parsed.file = Some(PathBuf::from(arg));
                }
                (_, None) => return Err(wrong("expected --option value; see --help")),
            }
        }
        Ok(Asked::Start(parsed))
    }

    /// True if the last option lacks a value that an argument with `--` can only be, such as a password: there is no option of its name.
    fn lacks_value(&self, argument: &str) -> bool {
        match self.lines.last().map(Vec::as_slice) {
            // An option that may stand alone.
            Some([name]) if name.eq_ignore_ascii_case("save") => false,
            Some([_]) => {
                let name = argument[2..].split(ends_name).next().unwrap_or_default();
                let is_directive = DIRECTIVES
                    .iter()
                    .any(|known| known.eq_ignore_ascii_case(name));
                let is_known = options::find(name).is_some() || redis::lacking(name, &[]).is_some();
                !is_known && !is_directive
            }
            _ => false,
        }
    }
}

fn ends_name(c: char) -> bool {
    c == '=' || c.is_ascii_whitespace()
}

/// The words of an argument without its `--`: a name, `name=value`, or a whole line in one argument, as Redis accepts it.
fn option_words(text: &str) -> Result<Vec<String>, StartError> {
    let end = text.find(ends_name).unwrap_or(text.len());
    if text[end..].is_empty() || text[end..].starts_with('=') {
        return Ok(text.splitn(2, '=').map(str::to_owned).collect());
    }
    line::split(text).map_err(|why| refused(Place::CommandLine, &text[..end], &why.to_string()))
}
