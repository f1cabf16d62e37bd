//! Tests that the table is right about which options have an effect.
//!
//! Bug: the help and the documentation listed three options as having no effect long after they had one. Cause: their rows were
//! never updated. Fix: the rows must agree with which fields of [`Config`](super::Config) the sources read.

use std::collections::HashMap;
use std::path::Path;

use super::options::{self, Effect};

/// The sources that can give an option its effect, without comments. Showing an option in INFO is not an effect.
fn sources() -> String {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut text = String::new();
    for folder in [
        own.clone(),
        own.join("../../server/src"),
        own.join("../../tls/src"),
        own.join("../../damselfly/src"),
    ] {
        add_sources(&folder, &mut text);
    }
    text
}

const READABLE: &str = "the sources are there where tests run";

fn add_sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect(READABLE) {
        let path = entry.expect(READABLE).path();
        let is_skipped = path.ends_with("config/src/options")
            || path.ends_with("config/src/options.rs")
            || path.ends_with("config/src/settings.rs")
            || path.ends_with("config/src/types.rs")
            || path.ends_with("config/src/tests.rs")
            || path.ends_with("config/src/tests")
            || path.ends_with("config/src/effects.rs")
            || path.ends_with("admin/info/fields.rs");
        if is_skipped {
            continue;
        }
        if path.is_dir() {
            add_sources(&path, text);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let mut source = std::fs::read_to_string(&path).expect(READABLE);
            if path.ends_with("config/src/lib.rs") {
                // In this file the configuration is `self`.
                source = source.replace("self.", "config.");
            }
            for code in source.lines().map(str::trim) {
                if code.starts_with("//") {
                    continue;
                }
                // A line of a call chain is joined to the line before it.
                text.push_str(if code.starts_with('.') { "" } else { "\n" });
                text.push_str(code);
            }
        }
    }
}

/// The field of each option, found by the doc comments of [`Config`](super::Config).
fn fields() -> HashMap<&'static str, &'static str> {
    let lines: Vec<&str> = include_str!("settings.rs").lines().map(str::trim).collect();
    let named = lines.windows(2).filter_map(|pair| {
        let option = pair[0].strip_prefix("/// `")?.split('`').next()?;
        let field = pair[1].strip_prefix("pub ")?.split_once(':')?.0;
        Some((option, field))
    });
    named.collect()
}

/// True if some code reads this field of a configuration.
fn is_read(field: &str, sources: &str) -> bool {
    ["config.", "config()."].iter().any(|owner| {
        let read = format!("{owner}{field}");
        sources.match_indices(&read).any(|(at, _)| {
            let behind = sources[at + read.len()..].chars().next();
            // A longer name or a method is not this field.
            !behind.is_some_and(|next| next.is_alphanumeric() || next == '_' || next == '(')
        })
    })
}

#[test]
fn an_option_has_an_effect_if_and_only_if_its_value_is_read() {
    let (sources, fields) = (sources(), fields());
    for option in options::all() {
        let field = fields
            .get(option.name)
            .unwrap_or_else(|| panic!("no field of Config is documented as `{}`", option.name));
        let (claimed, actual) = (option.effect == Effect::Acts, is_read(field, &sources));
        assert_eq!(claimed, actual, "does '{}' have an effect?", option.name);
    }
}

#[test]
fn reads_of_a_field_are_distinguished_from_longer_names_and_methods() {
    assert!(is_read("hz", "let rounds = self.config.hz as usize;"));
    assert!(is_read("hz", "shared.config().hz.max(1)"));
    assert!(!is_read("hz", "config.hz_max"));
    assert!(!is_read("save", "config.save(key)"));
}
