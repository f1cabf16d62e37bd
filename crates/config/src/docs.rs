//! Help and documentation, printed from the table.

use std::fmt::Write;

use super::kind::{Kind, memory_text};
use super::options::{Changeable, Effect, Opt, Section};

/// The longest line of a text in the help, without its indent.
const HELP_WIDTH: usize = 90;

/// The text that `damselfly --help` prints.
pub fn help() -> String {
    let mut text = String::from(
        "Usage: damselfly [FILE] [-] [--option value ...]\n\
         \x20      damselfly --check-rdb FILE\n\
         \x20      damselfly --check-aof [--fix] FILE\n\
         \x20      damselfly --restore-to TIME --dir SOURCE --into DIRECTORY\n\n\
         FILE is a configuration file like redis.conf; - reads one from standard input.\n\
         Environment variables (DAMSELFLY_MAXMEMORY=1gb) override the file, and options override both.\n\
         Bytes may have a unit: kb, mb and gb (powers of 1024) or k, m and g (powers of 1000).\n\n\
         \x20 -h, --help     Print this help\n\
         \x20 -v, --version  Print the version\n\
         \x20 --check-aof FILE  Read an append-only file, or all files of a manifest, and print their first fault; with --fix, truncate the last\n\
         \x20                   one behind its last whole command\n\
         \x20 --restore-to TIME Copy the append-only file in --dir, as it was at this second since 1970, to --into (see aof-timestamp-enabled)\n\
         \x20 --check-rdb FILE  Read an RDB file, of this server, Redis or Valkey, and print its contents and its first fault;\n\
         \x20                   the exit status is 1 if there is one\n",
    );
    for section in Section::ALL {
        put(&mut text, format_args!("\n{}:\n", section.title()));
        for option in section.options() {
            put(
                &mut text,
                format_args!("  --{} <{}>\n", option.name, option.kind.usage()),
            );
            let mut lines = wrap(&sentences(option), HELP_WIDTH);
            let default = format!("[default: {}]", default_text(option));
            match lines.last_mut() {
                Some(last) if last.len() + 1 + default.len() <= HELP_WIDTH => {
                    last.push(' ');
                    last.push_str(&default);
                }
                Some(_) | None => lines.push(default),
            }
            for line in lines {
                put(&mut text, format_args!("      {line}\n"));
            }
        }
    }
    text
}

/// The text of `docs/configuration.md`.
pub fn docs() -> String {
    let mut text = String::from(INTRODUCTION);
    for section in Section::ALL {
        put(&mut text, format_args!("\n## {}\n", section.title()));
        for option in section.options() {
            put(
                &mut text,
                format_args!("\n### `{}`\n\n{}\n\n", option.name, sentences(option)),
            );
            put(
                &mut text,
                format_args!("- Values: `{}`", option.kind.usage()),
            );
            let limits = option.kind.limits();
            if !limits.is_empty() {
                put(&mut text, format_args!(", {limits}"));
            }
            put(
                &mut text,
                format_args!("\n- Default: `{}`\n", default_text(option)),
            );
            put(
                &mut text,
                format_args!("- Changeable: {}\n", changeable(option.changeable)),
            );
            if !option.aliases.is_empty() {
                let aliases = option.aliases.join("`, `");
                put(&mut text, format_args!("- Also called: `{aliases}`\n"));
            }
        }
    }
    text
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from the table in crates/config/src/options; a test keeps it current. -->

```text
damselfly [FILE] [-] [--option value ...]
```

Options come from three places. Each overrides those before it:

1. a configuration file like `redis.conf`, followed by standard input if `-` is given;
2. the environment: `DAMSELFLY_` and the option's name in capitals, with `_` for `-`, as in `DAMSELFLY_MAXMEMORY=1gb`;
3. the command line: `--maxmemory 1gb` or `--maxmemory=1gb`, several values as in `--save 900 1 300 10`.

In a file, each line is an option followed by its values; a line that starts with `#` is a comment. Put values that contain
blanks in quotes. Inside `\"...\"`, the escapes are `\\n`, `\\r`, `\\t`, `\\b`, `\\a`, `\\xHH`, `\\\"` and `\\\\`. `include /path/*.conf` reads
other files; only the last part of the path may be a pattern. Values are UTF-8 text: a line
with other bytes is refused, unless it is a comment.

Several lines of `save` or `client-output-buffer-limit` add up. `save` on the command line adds to the file's, as in Redis,
while `save` in the environment replaces them. `save \"\"` discards all earlier ones.

Files written for Redis 6 and 7 load. An option of Redis that Damselfly does not have is skipped, with a warning if it asks for something. `cluster-enabled yes`,
`loadmodule` and `bind-source-addr` keep the server from starting, since it would not be the one that was asked for; so does a name that
is not an option of Redis either keeps the server from starting. `user` and `rename-command` work.

Numbers of bytes take a unit: `kb`, `mb` and `gb` are powers of 1024; `k`, `m` and `g` are powers of 1000.

CONFIG SET changes all the options it names, or none. CONFIG REWRITE writes the options back to the file: it keeps comments and the
order of lines, and appends options that the file does not set.
";

/// The summary, and for an option without effect the reason.
fn sentences(option: &Opt) -> String {
    match option.effect {
        Effect::Acts => option.summary.to_owned(),
        Effect::Later(why) | Effect::Never(why) => {
            format!("{} (No effect: {why}.)", option.summary)
        }
    }
}

fn default_text(option: &Opt) -> String {
    let shown = option.default_shown();
    if let (Kind::Memory { .. }, Ok(bytes)) = (option.kind, shown.parse()) {
        return memory_text(bytes);
    }
    if shown.is_empty() && !matches!(option.kind, Kind::Groups(_)) {
        return "\"\"".to_owned();
    }
    shown
}

fn changeable(when: Changeable) -> &'static str {
    match when {
        Changeable::AtStart => "only at start",
        Changeable::Live => "while running",
        Changeable::Protected => "while running, if `enable-protected-configs` permits it",
    }
}

/// Breaks `text` into lines of at most `width` bytes; only a longer word exceeds that.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let current = lines.len() - 1;
        if !lines[current].is_empty() && lines[current].len() + 1 + word.len() > width {
            lines.push(word.to_owned());
            continue;
        }
        if !lines[current].is_empty() {
            lines[current].push(' ');
        }
        lines[current].push_str(word);
    }
    lines
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments)
        .expect("writing to a String cannot fail");
}
