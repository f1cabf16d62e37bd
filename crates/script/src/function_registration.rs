//! Libraries of functions: parsing of the first line, and `redis.register_function`.
//!
//! ```text
//! #!lua name=mylib
//! redis.register_function('myfunc', function(keys, args) return keys[1] end)
//! ```

use damselfly_base::CommandError;

use crate::lua::{Kind, Outcome, Raise, Stack};
use crate::redis_library::error_table;
use crate::script::Flags;

/// A function of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Letters, digits and underscores.
    pub name: String,
    /// The description that FUNCTION LIST shows.
    pub description: Option<Vec<u8>>,
    /// Its flags.
    pub flags: Flags,
}

/// A library that has been loaded at least once, so that its functions are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    pub(crate) name: String,
    pub(crate) code: Vec<u8>,
    pub(crate) functions: Vec<Function>,
    /// Distinguishes this text from all others with the same name.
    pub(crate) id: u64,
}

impl Library {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its whole text, including the first line.
    pub fn code(&self) -> &[u8] {
        &self.code
    }

    /// Its functions, in the order in which they were registered.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }
}

const BAD_NAME: &str = "ERR Library names can only contain letters, numbers, or underscores(_) and must be at least one character long";

/// `name` if it is valid: letters, digits, underscores.
fn checked_name(name: &[u8]) -> Option<String> {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if name.is_empty() || !name.iter().all(is_allowed) {
        return None;
    }
    Some(String::from_utf8_lossy(name).into_owned())
}

/// The library's name from the first line of its text, and where the code begins: at the end of that line.
pub(crate) fn parse_first_line(text: &[u8]) -> Result<(String, usize), CommandError> {
    let error = |text: &str| Err(CommandError::err(text));
    if !text.starts_with(b"#!") {
        return error("Missing library metadata");
    }
    let Some(len) = text.iter().position(|&byte| byte == b'\n') else {
        return error("Invalid library metadata");
    };
    let Some(words) = split_words(&text[..len]) else {
        return error("Invalid library metadata");
    };
    let mut words = words.iter().map(Vec::as_slice);
    let engine = words.next().unwrap_or_default();
    let engine = engine.strip_prefix(b"#!").unwrap_or_default();
    let mut name = None;
    for word in words {
        match word.split_at_checked(5) {
            Some((prefix, value)) if prefix.eq_ignore_ascii_case(b"name=") => {
                if name.replace(value).is_some() {
                    return error("Invalid metadata value, name argument was given multiple times");
                }
            }
            _ => {
                return Err(CommandError::quoting(
                    "Invalid metadata value given: ",
                    word,
                    "",
                ));
            }
        }
    }
    let Some(name) = name else {
        return error("Library name was not given");
    };
    let Some(name) = checked_name(name) else {
        return Err(CommandError::Text(BAD_NAME.into()));
    };
    if !engine.eq_ignore_ascii_case(b"lua") {
        return Err(CommandError::quoting("Engine '", engine, "' not found"));
    }
    Ok((name, len))
}

/// The words of a line. Quotes group words and are removed; `None` if one is not closed.
pub(crate) fn split_words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    for &byte in line {
        match quote {
            Some(end) if byte == end => quote = None,
            Some(_) => word.get_or_insert_default().push(byte),
            None if byte == b'"' || byte == b'\'' => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            None if byte.is_ascii_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// The functions that a library has registered so far while it loads.
#[derive(Debug)]
pub(crate) struct Registration {
    /// The registry slot of the table of callbacks: item i belongs to `functions[i - 1]`.
    pub slot: i32,
    pub functions: Vec<Function>,
}

/// `redis.register_function(name, function)`, or one table of named arguments.
pub(crate) fn register_function(stack: &mut Stack<'_>) -> Outcome {
    if !matches!(stack.top(), 1 | 2) {
        return Err(error_table(
            stack,
            "ERR wrong number of arguments to redis.register_function",
        ));
    }
    let function = if stack.top() == 1 {
        named_arguments(stack)?
    } else {
        let Some(name) = stack.text(1).map(<[u8]>::to_vec) else {
            return Err(error_table(
                stack,
                "ERR first argument to redis.register_function must be a string",
            ));
        };
        if stack.kind(2) != Kind::Function {
            return Err(error_table(
                stack,
                "ERR second argument to redis.register_function must be a function",
            ));
        }
        function(stack, &name, None, Flags::default())?
    };
    // The callback is on top.
    let context = stack.context();
    let mut registration = context.registration.borrow_mut();
    let Some(registration) = registration.as_mut() else {
        return Err(error_table(
            stack,
            "ERR redis.register_function can only be called on FUNCTION LOAD command",
        ));
    };
    let is_known = |known: &Function| known.name == function.name;
    if registration.functions.iter().any(is_known) {
        return Err(error_table(
            stack,
            "ERR Function already exists in the library",
        ));
    }
    registration.functions.push(function);
    let index = i32::try_from(registration.functions.len()).unwrap_or(i32::MAX);
    stack.get_index(Stack::REGISTRY, registration.slot);
    stack.insert(-2);
    stack.set_index(-2, index);
    Ok(0)
}

fn function(
    stack: &mut Stack<'_>,
    name: &[u8],
    description: Option<Vec<u8>>,
    flags: Flags,
) -> Result<Function, Raise> {
    match checked_name(name) {
        Some(name) => Ok(Function {
            name,
            description,
            flags,
        }),
        None => Err(error_table(stack, BAD_NAME)),
    }
}

/// Reads the table of named arguments, which is the only argument, and pushes the callback.
fn named_arguments(stack: &mut Stack<'_>) -> Result<Function, Raise> {
    if stack.kind(1) != Kind::Table {
        return Err(error_table(
            stack,
            "ERR calling redis.register_function with a single argument is only applicable to Lua table (representing named arguments).",
        ));
    }
    let mut name = None;
    let mut description = None;
    let mut flags = Flags::default();
    let mut has_callback = false;
    stack.push_nil(); // 2: the callback
    stack.push_nil(); // 3: the key
    while stack.next(1) {
        let value = 4;
        let problem = match stack.bytes(3).unwrap_or_default() {
            b"function_name" => {
                name = stack.text(value).map(<[u8]>::to_vec);
                (name.is_none()).then_some(
                    "ERR function_name argument given to redis.register_function must be a string",
                )
            }
            b"description" => {
                description = stack.text(value).map(<[u8]>::to_vec);
                (description.is_none()).then_some(
                    "ERR description argument given to redis.register_function must be a string",
                )
            }
            b"callback" => {
                has_callback = stack.kind(value) == Kind::Function;
                stack.copy(value);
                stack.replace(2);
                (!has_callback).then_some(
                    "ERR callback argument given to redis.register_function must be a function",
                )
            }
            b"flags" if stack.kind(value) != Kind::Table => Some(
                "ERR flags argument to redis.register_function must be a table representing function flags",
            ),
            b"flags" => match read_flags(stack) {
                Some(read) => {
                    flags = read;
                    None
                }
                None => Some("ERR unknown flag given"),
            },
            _ => Some("ERR unknown argument given to redis.register_function"),
        };
        if let Some(problem) = problem {
            return Err(error_table(stack, problem));
        }
        stack.set_top(3);
    }
    stack.set_top(2);
    let Some(name) = name else {
        return Err(error_table(
            stack,
            "ERR redis.register_function must get a function name argument",
        ));
    };
    if !has_callback {
        return Err(error_table(
            stack,
            "ERR redis.register_function must get a callback argument",
        ));
    }
    function(stack, &name, description, flags)
}

/// The flags named in the table on top; `None` if one is unknown.
fn read_flags(stack: &mut Stack<'_>) -> Option<Flags> {
    let mut flags = Flags::default();
    for index in 1.. {
        stack.get_index(-1, index);
        let name = match stack.kind(-1) {
            Kind::Nil => break,
            _ => stack.bytes(-1).and_then(Flags::from_name),
        };
        flags = flags.with(name?);
        stack.pop(1);
    }
    stack.pop(1);
    Some(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(result: Result<(String, usize), CommandError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn the_first_line_names_the_library() {
        assert_eq!(
            parse_first_line(b"#!LUA name=a_1\nx"),
            Ok(("a_1".into(), 14))
        );
        for (line, error) in [
            ("return 1", "ERR Missing library metadata"),
            ("#!lua name=a", "ERR Invalid library metadata"),
            ("#!lua\n", "ERR Library name was not given"),
            ("#!\n", "ERR Library name was not given"),
            ("#!lua name=\"a\n", "ERR Invalid library metadata"),
            ("#!lua name=\n", BAD_NAME),
            ("#!lua name=a-b\n", BAD_NAME),
            ("#!foo name=a\n", "ERR Engine 'foo' not found"),
            (
                "#!lua name=a x=y\n",
                "ERR Invalid metadata value given: x=y",
            ),
            (
                "#!lua name=a name=b\n",
                "ERR Invalid metadata value, name argument was given multiple times",
            ),
        ] {
            assert_eq!(text(parse_first_line(line.as_bytes())), error);
        }
    }
}
