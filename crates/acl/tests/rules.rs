//! Rules: the rules that are shown for a user give the same user again, and a check agrees with the plainest possible reading of them.

use damselfly_acl::{
    CATEGORIES, Catalogue, Categories, Channel, Credentials, Denied, Key, KeyUse, NewUsers,
    Request, User, merge_selectors, parse_file,
};
use proptest::prelude::*;

const COMMANDS: &[(&str, &[&str])] = &[
    ("get", &["read", "string", "fast"]),
    ("set", &["write", "string", "slow"]),
    ("del", &["write", "keyspace", "slow"]),
    ("auth", &["connection", "fast"]),
    ("select", &["connection", "fast"]),
    ("config", &["slow"]),
    ("config|get", &["admin", "slow", "dangerous"]),
    ("config|set", &["admin", "slow", "dangerous"]),
    ("debug", &["admin", "slow", "dangerous"]),
    ("publish", &["pubsub", "fast"]),
    ("psubscribe", &["pubsub", "slow"]),
    ("sadd", &["write", "set", "fast"]),
];

fn catalogue() -> Catalogue {
    let named =
        |&(name, categories): &(&'static str, &[&str])| (name, Categories::named(categories));
    Catalogue::new(COMMANDS.iter().map(named))
}

/// A request with at most one key and one channel.
#[derive(Debug, Clone)]
struct Asked {
    command: usize,
    first: Vec<u8>,
    key: Option<(Vec<u8>, KeyUse)>,
    channel: Option<(Vec<u8>, bool)>,
}

impl Request for Asked {
    fn command(&self) -> usize {
        self.command
    }

    fn is_always_allowed(&self) -> bool {
        COMMANDS[self.command].0 == "auth"
    }

    fn first_argument(&self) -> Option<&[u8]> {
        Some(&self.first)
    }

    fn only_key(&self) -> Option<Key<'_>> {
        // Both ways must give the same.
        self.keys().next().filter(|_| self.first.len() == 1)
    }

    fn keys(&self) -> impl Iterator<Item = Key<'_>> {
        self.key.iter().map(|(name, used)| Key {
            place: 1,
            name,
            used: *used,
        })
    }

    fn has_channels(&self) -> bool {
        self.channel.is_some()
    }

    fn channels(&self) -> impl Iterator<Item = Channel<'_>> {
        self.channel.iter().map(|(name, is_pattern)| Channel {
            place: 2,
            name,
            is_pattern: *is_pattern,
        })
    }
}

fn ask(command: &str) -> Asked {
    let known = |(name, _): &(&str, &[&str])| *name == command;
    Asked {
        command: COMMANDS.iter().position(known).expect("a known command"),
        first: Vec::new(),
        key: None,
        channel: None,
    }
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::from("*")),
        "[ab]{1,2}",
        "[ab]{0,1}\\*",
        "\\[a-b\\]\\?",
        "[ab*?\\\\é]{0,4}",
    ]
}

fn selector_rule() -> impl Strategy<Value = String> {
    let command = proptest::sample::select(COMMANDS);
    let category = proptest::sample::select(CATEGORIES);
    let sign = || proptest::sample::select(vec!["+", "-"]);
    let fixed = vec![
        "allkeys",
        "resetkeys",
        "allchannels",
        "resetchannels",
        "+@all",
        "-@all",
        "nocommands",
    ];
    prop_oneof![
        4 => (sign(), command).prop_map(|(sign, (name, _))| format!("{sign}{name}")),
        2 => (sign(), category).prop_map(|(sign, name)| format!("{sign}@{name}")),
        1 => "\\+(select|debug|get)\\|[ab01]",
        3 => pattern().prop_map(|pattern| format!("~{pattern}")),
        1 => pattern().prop_map(|pattern| format!("%R~{pattern}")),
        1 => pattern().prop_map(|pattern| format!("%w~{pattern}")),
        1 => pattern().prop_map(|pattern| format!("%RW~{pattern}")),
        2 => pattern().prop_map(|pattern| format!("&{pattern}")),
        1 => proptest::sample::select(fixed).prop_map(String::from),
    ]
}

fn rule() -> impl Strategy<Value = String> {
    let fixed = vec![
        "on",
        "off",
        "nopass",
        "resetpass",
        "reset",
        "clearselectors",
        "sanitize-payload",
        "skip-sanitize-payload",
    ];
    prop_oneof![
        6 => selector_rule(),
        1 => proptest::sample::select(fixed).prop_map(String::from),
        1 => "[<>][ab]",
        1 => proptest::collection::vec(selector_rule(), 0..5).prop_map(|rules| format!("({})", rules.join(" "))),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let name = || "[abé]{0,3}".prop_map(String::into_bytes);
    let used = proptest::sample::select(vec![
        KeyUse::NONE,
        KeyUse::READ,
        KeyUse::WRITE,
        KeyUse::BOTH,
    ]);
    let key = proptest::option::of((name(), used));
    let channel = proptest::option::of((name(), any::<bool>()));
    let parts = (0..COMMANDS.len(), "[abAB01]", key, channel);
    parts.prop_map(|(command, first, key, channel)| Asked {
        command,
        first: first.into_bytes(),
        key,
        channel,
    })
}

/// A user to whom rules were applied one by one, those that were wrong without effect.
fn user(rules: &[String], new_users: NewUsers<'_>) -> User {
    let mut user = User::new(new_users);
    for rule in rules {
        let before = user.clone();
        if user.apply(rule.as_bytes(), new_users).is_err() {
            assert_eq!(user, before, "{rule} was refused, but had an effect");
        }
    }
    user
}

proptest! {
    #[test]
    fn the_description_gives_the_same_user(
        rules in proptest::collection::vec(rule(), 0..16),
        (made_with, read_with) in any::<(bool, bool)>(),
    ) {
        let catalogue = catalogue();
        let with = |all_channels| NewUsers { catalogue: &catalogue, all_channels };
        let user = user(&rules, with(made_with));
        let text = user.description(&catalogue);
        let mut again = User::new(with(read_with));
        let words = text.split(|&byte| byte == b' ');
        prop_assert_eq!(again.apply_words(words, with(read_with)), Ok(()));
        prop_assert_eq!(&again, &user, "{}", String::from_utf8_lossy(&text));
        prop_assert_eq!(&again.description(&catalogue), &text);
        let file = [b"user name ", &*text].concat();
        let users = parse_file(&file, "path", with(read_with)).map_err(TestCaseError::fail)?;
        prop_assert_eq!(&users[b"name".as_slice()], &user);
    }

    #[test]
    fn a_check_agrees_with_its_selectors(
        rules in proptest::collection::vec(rule(), 0..12),
        asked in asked(),
    ) {
        let catalogue = catalogue();
        let new_users = NewUsers { catalogue: &catalogue, all_channels: false };
        let user = user(&rules, new_users);
        let denied = user.check(&asked);
        prop_assert!(!user.has_all_rights() || denied.is_ok());
        // A user is the union of its selectors, each on its own.
        let mut alone = vec![String::from_utf8_lossy(&user.root().keys_text()).into_owned()];
        alone[0] += &format!(" {}", String::from_utf8_lossy(&user.root().channels_text()));
        alone[0] += &format!(" {}", String::from_utf8_lossy(&user.root().command_rules(&catalogue)));
        for selector in user.selectors() {
            let parts = [selector.keys_text(), selector.channels_text(), selector.command_rules(&catalogue)];
            alone.push(parts.map(|part| String::from_utf8_lossy(&part).into_owned()).join(" "));
        }
        let reasons: Vec<_> = alone.iter().map(|rules| {
            let mut user = User::new(new_users);
            let words = rules.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes);
            user.apply_words(words, new_users).expect("shown rules are right");
            user.check(&asked)
        }).collect();
        let expected = match reasons.iter().any(Result::is_ok) {
            true => Ok(()),
            false => Err(reasons.into_iter().filter_map(Result::err).max().expect("there is a root")),
        };
        prop_assert_eq!(denied, expected);
    }

    #[test]
    fn no_text_of_a_file_panics(text in "(user [a-z]{0,2}[ (~&+@#%)a-z\\x00\\xff]{0,40}\n?){0,4}") {
        let catalogue = catalogue();
        let new_users = NewUsers { catalogue: &catalogue, all_channels: true };
        let _ = parse_file(text.as_bytes(), "path", new_users);
    }

    #[test]
    fn no_bytes_of_a_rule_panic(rule in proptest::collection::vec(any::<u8>(), 0..20)) {
        let catalogue = catalogue();
        let new_users = NewUsers { catalogue: &catalogue, all_channels: true };
        let mut user = User::new(new_users);
        if user.apply_words([&*rule], new_users).is_ok() {
            let words = user.description(&catalogue);
            let mut again = User::new(new_users);
            let words = words.split(|&byte| byte == b' ');
            prop_assert_eq!(again.apply_words(words, new_users), Ok(()));
            prop_assert_eq!(again, user);
        }
    }
}

fn with_rules(catalogue: &Catalogue, rules: &str) -> User {
    let new_users = NewUsers {
        catalogue,
        all_channels: false,
    };
    let mut user = User::new(new_users);
    user.apply_words(rules.split(' ').map(str::as_bytes), new_users)
        .expect("right rules");
    user
}

#[test]
fn a_key_must_be_allowed_for_every_use() {
    let catalogue = catalogue();
    let user = with_rules(&catalogue, "+@all %R~a* %W~*b");
    let ask = |name: &str, used| Asked {
        key: Some((name.into(), used)),
        ..ask("get")
    };
    assert_eq!(user.check(&ask("a", KeyUse::READ)), Ok(()));
    assert_eq!(user.check(&ask("a", KeyUse::WRITE)), Err(Denied::Key(1)));
    assert_eq!(user.check(&ask("b", KeyUse::WRITE)), Ok(()));
    // One pattern alone must allow both.
    assert_eq!(user.check(&ask("ab", KeyUse::BOTH)), Err(Denied::Key(1)));
    assert_eq!(user.check(&ask("b", KeyUse::NONE)), Ok(()));
    assert_eq!(user.check(&ask("c", KeyUse::NONE)), Err(Denied::Key(1)));
}

#[test]
fn rights_of_different_selectors_do_not_add_up() {
    let catalogue = catalogue();
    let user = with_rules(&catalogue, "+get ~a (+set ~b)");
    let ask = |command: &str, name: &str| Asked {
        key: Some((name.into(), KeyUse::READ)),
        ..ask(command)
    };
    assert_eq!(user.check(&ask("get", "a")), Ok(()));
    assert_eq!(user.check(&ask("set", "b")), Ok(()));
    assert_eq!(user.check(&ask("get", "b")), Err(Denied::Key(1)));
    assert_eq!(user.check(&ask("del", "a")), Err(Denied::Command));
}

#[test]
fn every_category_is_described_by_its_name() {
    let catalogue = catalogue();
    for category in CATEGORIES {
        for (first, sign) in [("+@all", '-'), ("-@all", '+')] {
            let rules = format!("{first} {sign}@{category}");
            let shown = with_rules(&catalogue, &rules)
                .root()
                .command_rules(&catalogue);
            let shown = String::from_utf8_lossy(&shown).into_owned();
            // Two categories may have the same commands in so small a catalogue.
            let again = with_rules(&catalogue, &shown);
            assert_eq!(again, with_rules(&catalogue, &rules), "{rules}");
        }
    }
}

#[test]
fn passwords_are_compared_as_digests() {
    let catalogue = catalogue();
    let accepts =
        |user: &User, password: &str| user.accepts(&Credentials::new(password.as_bytes()));
    let user = with_rules(&catalogue, "on >one >two");
    assert!(accepts(&user, "one") && accepts(&user, "two"));
    assert!(!accepts(&user, "") && !accepts(&user, "on"));
    assert!(!accepts(&with_rules(&catalogue, "off >one"), "one"));
    assert!(!accepts(&with_rules(&catalogue, "on"), ""));
    assert!(accepts(&with_rules(&catalogue, "on nopass"), "any"));
    assert!(!accepts(&with_rules(&catalogue, "on nopass >one"), "any"));
    // SHA-256 of "abc", from FIPS 180-2.
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert!(accepts(
        &with_rules(&catalogue, &format!("on #{digest}")),
        "abc"
    ));
    let user = with_rules(&catalogue, &format!("on >abc >x !{digest}"));
    assert!(!accepts(&user, "abc") && accepts(&user, "x"));
}

#[test]
fn selectors_may_be_spread_over_words() {
    let merge = |words: &[&'static str]| {
        let merged = merge_selectors(words.iter().map(|word| word.as_bytes()));
        merged.map(|merged| {
            let texts = merged
                .into_iter()
                .map(|word| String::from_utf8_lossy(&word).into_owned());
            texts.collect::<Vec<_>>()
        })
    };
    assert_eq!(
        merge(&["on", "(+get", "~a)", "off"]),
        Ok(vec!["on".into(), "(+get ~a)".into(), "off".into()])
    );
    assert_eq!(merge(&["(+get", "~a"]), Err(b"(+get".as_slice()));
    assert_eq!(merge(&["", "()"]), Ok(vec![String::new(), "()".into()]));
}

#[test]
fn a_file_with_any_mistake_gives_no_users() {
    let catalogue = catalogue();
    let new_users = NewUsers {
        catalogue: &catalogue,
        all_channels: false,
    };
    let errors = |text: &str| parse_file(text.as_bytes(), "f", new_users).expect_err("a mistake");
    let end =
        "WARNING: ACL errors detected, no change to the previously active ACL rules was performed";
    assert_eq!(
        errors("user a on\n\nuser a off\n"),
        format!("WARNING: Duplicate user 'a' found on line 3. {end}")
    );
    assert_eq!(
        errors("# comment\nuser b +nosuch >secret !x\n"),
        format!(
            "f:1 should start with user keyword followed by the username. f:2: Error in applying operation '+nosuch': Unknown command or category name in ACL. f:2: The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters. {end}"
        )
    );
    assert_eq!(
        errors("user a (+get"),
        format!("f:1: Unmatched parenthesis in selector definition.{end}")
    );
    assert_eq!(
        errors("user a\tb on"),
        format!("'f:1: username 'a\tb' contains invalid characters. {end}")
    );
}
