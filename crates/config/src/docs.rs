//! Help and documentation, printed from the table.

use std::fmt::Write;

use super::kind::Kind;
use super::options::{Changeable, Effect, OPTIONS, Opt, Section};

/// What `damselfly --help` prints.
pub fn help() -> String {
    let mut text = String::from(
        "Usage: damselfly [FILE] [-] [--option value ...]\n\n\
         FILE is a file in the manner of redis.conf, and - reads one from standard input.\n\
         The environment overrides the file (DAMSELFLY_MAXMEMORY=1gb), and options override both.\n\n\
         \x20 -h, --help     Print this help\n\
         \x20 -v, --version  Print the version\n",
    );
    for section in Section::ALL {
        put(&mut text, format_args!("\n{}:\n", section.title()));
        for option in OPTIONS.iter().filter(|option| option.section == section) {
            put(
                &mut text,
                format_args!("  --{} <{}>\n", option.name, option.kind.usage()),
            );
            let mut about = sentences(option);
            about.push_str(&format!(" [default: {}]", default_text(option)));
            for line in wrap(&about, 90) {
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
        for option in OPTIONS.iter().filter(|option| option.section == section) {
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

<!-- Printed from the table in crates/config/src/options.rs; a test keeps it current. -->

```text
damselfly [FILE] [-] [--option value ...]
```

Options come from, each overriding the ones before:

1. a file in the manner of `redis.conf`, and standard input where `-` is given;
2. the environment: `DAMSELFLY_` and the option's name in capitals, with `_` for `-`, as in `DAMSELFLY_MAXMEMORY=1gb`;
3. the command line: `--maxmemory 1gb` or `--maxmemory=1gb`, several values as in `--save 900 1 300 10`.

In a file, each line is an option and its values; a line that starts with `#` is a comment. Values with blanks stand in
quotes: `\"...\"` knows the escapes `\\n`, `\\r`, `\\t`, `\\b`, `\\a`, `\\xHH`, `\\\"` and `\\\\`. `include /path/*.conf` reads
other files; only the last part of the path may be a pattern. Values are UTF-8 text.

Lines of `save` and of `client-output-buffer-limit` add up; `save` on the command line adds to the file's, as in Redis,
while in the environment it replaces them. `save \"\"` forgets all before it.

Files written for Redis 6 and 7 load: an option of Redis that does not exist here yet is named in a warning, while a name that
nobody knows keeps the server from starting. `rename-command` is read; `user` is warned about and has no effect.

Sizes take a unit: `k`, `m`, `g` count by 1000, `kb`, `mb`, `gb` by 1024.

CONFIG SET changes several options together or none. CONFIG REWRITE writes them back to the file: it keeps comments and order,
and appends what the file did not set.
";

/// The summary, and what holds for an option that does nothing.
fn sentences(option: &Opt) -> String {
    match option.effect {
        Effect::Acts => option.summary.to_owned(),
        Effect::Later(why) => format!("{} (No effect yet: {why}.)", option.summary),
        Effect::Never(why) => format!("{} (No effect: {why}.)", option.summary),
    }
}

fn default_text(option: &Opt) -> String {
    let shown = option.default_shown();
    if shown.is_empty() && !matches!(option.kind, Kind::Groups(_)) {
        return "\"\"".to_owned();
    }
    shown
}

fn changeable(when: Changeable) -> &'static str {
    match when {
        Changeable::AtStart => "only at start",
        Changeable::Live => "while running",
        Changeable::Protected => "while running, where `enable-protected-configs` permits",
    }
}

/// `text` in lines of at most `width` bytes, unless a word is longer.
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
