//! Deliberate bugs, which show that a test can fail.
//!
//! With `--cfg broken`, the environment variable `DAMSELFLY_BUG` turns one of them on: `cargo xtask ci` runs the tests that must detect
//! it. Without that flag they do not exist.

/// True if the bug of this name is turned on.
#[inline]
#[must_use]
pub fn planted_bug(name: &str) -> bool {
    cfg!(broken) && is_turned_on(name)
}

#[cold]
fn is_turned_on(name: &str) -> bool {
    use std::sync::LazyLock;
    static BUG: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("DAMSELFLY_BUG").ok());
    BUG.as_deref() == Some(name)
}
