//! A user: passwords, and the selectors that say what the user may do.

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::catalogue::Catalogue;
use crate::rule::{RuleError, has_blanks, merge_selectors};
use crate::selector::{Denied, Request, Selector, allows_channel};

/// The SHA-256 digest of a password.
type Digest = [u8; 32];

/// What rules need beside the user that they change.
#[derive(Clone, Copy, Debug)]
pub struct NewUsers<'c> {
    /// The commands.
    pub catalogue: &'c Catalogue,
    /// New users and selectors may use all channels (`acl-pubsub-default`).
    pub all_channels: bool,
}

/// A password that a client gave, as a digest. Making it takes the same time whether the user exists or not.
#[derive(Debug)]
pub struct Credentials(Digest);

impl Credentials {
    /// The digest of a password.
    pub fn new(password: &[u8]) -> Self {
        Self(digest(password))
    }
}

/// A user. The name is kept by whoever keeps the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    is_enabled: bool,
    /// Every password is right.
    has_no_password: bool,
    /// `sanitize-payload` or `skip-sanitize-payload`; neither for a new user.
    sanitizes: Option<bool>,
    passwords: Vec<Digest>,
    root: Selector,
    selectors: Vec<Selector>,
}

/// True for a name that a user may have: it contains no blanks.
pub fn is_valid_name(name: &[u8]) -> bool {
    !has_blanks(name)
}

impl User {
    /// A user who may do nothing, not even log in.
    pub fn new(new_users: NewUsers<'_>) -> Self {
        Self::with(Selector::new(new_users.all_channels))
    }

    /// A user without any rights, whatever the configuration says.
    pub fn nobody() -> Self {
        Self::with(Selector::default())
    }

    fn with(root: Selector) -> Self {
        Self {
            is_enabled: false,
            has_no_password: false,
            sanitizes: None,
            passwords: Vec::new(),
            root,
            selectors: Vec::new(),
        }
    }

    /// The user `default` before any rule: everybody is this user, and may do everything.
    pub fn unrestricted(new_users: NewUsers<'_>) -> Self {
        let mut user = Self::nobody();
        for rule in ["+@all", "~*", "&*", "on", "nopass"] {
            user.apply(rule.as_bytes(), new_users)
                .expect("these rules are right");
        }
        user
    }

    /// Changes the user as words of rules say, which may be spread over several words for a selector.
    ///
    /// # Errors
    /// A rule is wrong: the text that ACL SETUSER returns. Then nothing has changed.
    pub fn apply_words<'a>(
        &mut self,
        words: impl IntoIterator<Item = &'a [u8]>,
        new_users: NewUsers<'_>,
    ) -> Result<(), String> {
        let rules = merge_selectors(words).map_err(|word| {
            let word = String::from_utf8_lossy(word);
            format!("Unmatched parenthesis in acl selector starting at '{word}'.")
        })?;
        let mut changed = self.clone();
        for rule in &rules {
            changed.apply(rule, new_users).map_err(|error| {
                let rule = String::from_utf8_lossy(rule);
                format!("Error in ACL SETUSER modifier '{rule}': {error}")
            })?;
        }
        *self = changed;
        Ok(())
    }

    /// Changes the user as one rule says.
    ///
    /// # Errors
    /// The rule is wrong; then nothing has changed.
    pub fn apply(&mut self, rule: &[u8], new_users: NewUsers<'_>) -> Result<(), RuleError> {
        let is = |word: &str| rule.eq_ignore_ascii_case(word.as_bytes());
        match rule {
            [] => {}
            _ if is("on") => self.is_enabled = true,
            _ if is("off") => self.is_enabled = false,
            _ if is("sanitize-payload") => self.sanitizes = Some(true),
            _ if is("skip-sanitize-payload") => self.sanitizes = Some(false),
            _ if is("nopass") => self.set_no_password(true),
            _ if is("resetpass") => self.set_no_password(false),
            [b'>', password @ ..] => self.add_password(digest(password)),
            [b'#', hex @ ..] => self.add_password(parse_digest(hex)?),
            [b'<', password @ ..] => return self.remove_password(digest(password)),
            [b'!', hex @ ..] => return self.remove_password(parse_digest(hex)?),
            [b'(', words @ .., b')'] => {
                let NewUsers {
                    catalogue,
                    all_channels,
                } = new_users;
                let selector = Selector::parse(words, catalogue, all_channels)?;
                self.selectors.push(selector);
            }
            _ if is("clearselectors") => self.selectors.clear(),
            _ if is("reset") => {
                *self = Self {
                    sanitizes: Some(true),
                    ..Self::new(new_users)
                }
            }
            rule => return self.root.apply(rule, new_users.catalogue),
        }
        Ok(())
    }

    fn set_no_password(&mut self, has_no_password: bool) {
        self.has_no_password = has_no_password;
        self.passwords.clear();
    }

    fn add_password(&mut self, digest: Digest) {
        if !self.passwords.contains(&digest) {
            self.passwords.push(digest);
        }
        self.has_no_password = false;
    }

    fn remove_password(&mut self, digest: Digest) -> Result<(), RuleError> {
        let found = self.passwords.iter().position(|known| *known == digest);
        self.passwords
            .remove(found.ok_or(RuleError::NoSuchPassword)?);
        Ok(())
    }

    /// Makes this the only password, or if it is empty, lets the user in without any (`requirepass`).
    pub fn set_only_password(&mut self, password: &[u8]) {
        self.set_no_password(password.is_empty());
        if !password.is_empty() {
            self.add_password(digest(password));
        }
    }

    /// True if the user may log in with this password. Which byte is wrong, and of which password, makes no difference to the time it takes.
    pub fn accepts(&self, credentials: &Credentials) -> bool {
        let wrong = Choice::from(0);
        let is_right = self.passwords.iter().fold(wrong, |is_right, known| {
            is_right | known.ct_eq(&credentials.0)
        });
        self.is_enabled && (self.has_no_password | bool::from(is_right))
    }

    /// True if the user can log in.
    pub fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// True if every password is right (`nopass`).
    pub fn has_no_password(&self) -> bool {
        self.has_no_password
    }

    /// True if a client that has given no password may be this user.
    pub fn is_open(&self) -> bool {
        self.is_enabled && self.has_no_password
    }

    /// True if no request is refused.
    pub fn has_all_rights(&self) -> bool {
        self.all_selectors().any(Selector::has_all_rights)
    }

    fn all_selectors(&self) -> impl Iterator<Item = &Selector> {
        std::iter::once(&self.root).chain(&self.selectors)
    }

    /// The rights outside parentheses.
    pub fn root(&self) -> &Selector {
        &self.root
    }

    /// The selectors in parentheses.
    pub fn selectors(&self) -> &[Selector] {
        &self.selectors
    }

    /// Checks whether a request may run.
    ///
    /// # Errors
    /// It may not run.
    #[inline]
    pub fn check(&self, request: &impl Request) -> Result<(), Denied> {
        let Err(denied) = self.root.check(request) else {
            return Ok(());
        };
        if self.selectors.is_empty() {
            return Err(denied);
        }
        self.check_selectors(request, denied)
    }

    fn check_selectors(&self, request: &impl Request, denied: Denied) -> Result<(), Denied> {
        let mut worst = denied;
        for selector in &self.selectors {
            match selector.check(request) {
                Ok(()) => return Ok(()),
                Err(denied) => worst = worst.max(denied),
            }
        }
        Err(worst)
    }

    /// True if one selector allows the request and lets the user read every key: what SORT needs for BY and GET.
    pub fn may_read_all_keys(&self, request: &impl Request) -> bool {
        self.all_selectors()
            .any(|selector| selector.check(request).is_ok() && selector.reads_all_keys())
    }

    /// True if a subscription is allowed.
    pub fn allows_subscription(&self, name: &[u8], is_pattern: bool) -> bool {
        self.all_selectors().any(|selector| {
            selector.all_channels || allows_channel(&selector.channels, name, is_pattern)
        })
    }

    /// True if subscriptions that `before` allowed may not be allowed now.
    pub fn has_fewer_channels(&self, before: &Self) -> bool {
        if self.all_selectors().any(|selector| selector.all_channels) {
            return false;
        }
        let now: Vec<_> = self
            .all_selectors()
            .flat_map(|selector| &selector.channels)
            .collect();
        before.all_selectors().any(|selector| {
            let is_left = |known| now.contains(&known);
            selector.all_channels || !selector.channels.iter().all(is_left)
        })
    }

    /// The flags, as ACL GETUSER shows them.
    pub fn flags(&self) -> Vec<&'static str> {
        let flags = [
            (self.is_enabled, "on"),
            (!self.is_enabled, "off"),
            (self.has_no_password, "nopass"),
            (self.sanitizes == Some(false), "skip-sanitize-payload"),
            (self.sanitizes == Some(true), "sanitize-payload"),
        ];
        let set = flags.into_iter().filter(|(is_set, _)| *is_set);
        set.map(|(_, flag)| flag).collect()
    }

    /// The digests of the passwords, in hexadecimal.
    pub fn password_digests(&self) -> impl ExactSizeIterator<Item = String> {
        self.passwords.iter().map(hex)
    }

    /// All rules that give this user, starting from a new one. Patterns of keys and channels may be any bytes but blanks.
    pub fn description(&self, catalogue: &Catalogue) -> Vec<u8> {
        let mut rules: Vec<Vec<u8>> = self.flags().into_iter().map(Vec::from).collect();
        rules.extend(self.password_digests().map(|hex| format!("#{hex}").into()));
        rules.push(self.root.description(catalogue));
        for selector in &self.selectors {
            rules.push([b"(", &*selector.description(catalogue), b")"].concat());
        }
        rules.join(&b' ')
    }
}

fn digest(password: &[u8]) -> Digest {
    Sha256::digest(password).into()
}

fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_digest(hex: &[u8]) -> Result<Digest, RuleError> {
    let mut digest = Digest::default();
    if hex.len() != 2 * digest.len() {
        return Err(RuleError::BadDigest);
    }
    for (byte, digits) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        for digit in digits {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return Err(RuleError::BadDigest),
            };
            *byte = *byte << 4 | value;
        }
    }
    Ok(digest)
}
