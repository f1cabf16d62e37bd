//! The requests of one connection, and the number and kind of replies that each must get.
//!
//! The replies depend on state that a session tracks: the transaction, subscriptions, the protocol, CLIENT REPLY. A session
//! draws commands that change this state only in forms whose effect is certain. If the effect is uncertain (HELLO in a
//! transaction that may fail), the session sends RESET right after it.

mod loose;

use super::Conditions;
use super::commands::{CLOSING_SETTINGS, Commands, setting, words};
use crate::connection::request;
use crate::random::Random;
use crate::text::quote;
use std::collections::BTreeSet;

/// The expected reply to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Nothing at all.
    Nothing,
    /// One reply of any kind.
    One,
    /// A reply with this text.
    Mark(String),
    /// QUEUED, or an error.
    Queued,
    /// The replies to the queued commands, a null if a watched key has changed, or an error.
    Exec,
    /// So many confirmations of subscriptions, of this name.
    Confirm(&'static str, usize),
    /// OK, and nothing after it.
    Quit,
}

/// A request and the reply that it must get.
#[derive(Debug, Clone)]
pub struct Request {
    /// The bytes to send.
    pub bytes: Vec<u8>,
    /// The reply that must arrive.
    pub expect: Expect,
    /// Messages to a subscriber may arrive before the reply, and look like replies.
    pub takes_messages: bool,
    /// It may block: once the client has shut down its sending side, the server abandons this request and those after it.
    pub waits: bool,
}

impl Request {
    /// True for SYNC and PSYNC, as loose sessions send them.
    pub fn asks_for_snapshot(&self) -> bool {
        let starts = [&b"*1\r\n$4\r\nSYNC"[..], b"*3\r\n$5\r\nPSYNC"];
        starts.iter().any(|start| self.bytes.starts_with(start))
    }
}

/// The ids of the connections of a round, for commands that act on other connections.
pub trait Ids {
    /// The id of a connection that may be killed, if there is one.
    fn victim(&self, number: usize) -> Option<u64>;
    /// The id of any connection.
    fn any(&self, number: usize) -> Option<u64>;
}

/// Pairs of commands that begin and end subscriptions. Their names are also the words in the confirmations.
const TOPICS: [[&str; 2]; 3] = [
    ["subscribe", "unsubscribe"],
    ["psubscribe", "punsubscribe"],
    ["ssubscribe", "sunsubscribe"],
];

/// Channels to subscribe to.
const CHANNELS: &[&str] = &[
    "CH:1",
    "CH:2",
    "CH:3",
    "__redis__:invalidate",
    "__keyevent@0__:del",
    "__keyspace@0__:key",
];
const PATTERNS: &[&str] = &["CH:*", "*", "__key*", "CH:[12]"];

/// The requests of one connection.
pub struct Session<'a> {
    commands: &'a Commands,
    ids: &'a dyn Ids,
    conditions: Conditions,
    random: Random,
    label: String,
    marks: usize,
    resp3: bool,
    in_multi: bool,
    /// A queued command may have changed the state that the session tracks.
    unsure: bool,
    /// The subscriptions of each of [`TOPICS`].
    subscribed: [BTreeSet<&'static str>; 3],
    /// After CLIENT REPLY OFF.
    silent: bool,
    /// After CLIENT REPLY SKIP: the next request gets no reply.
    skips: bool,
    monitors: bool,
}

impl<'a> Session<'a> {
    /// A session for a new connection; its marks begin with `label`.
    pub fn new(
        commands: &'a Commands,
        ids: &'a dyn Ids,
        conditions: Conditions,
        seed: u64,
        label: String,
    ) -> Self {
        Self {
            commands,
            ids,
            conditions,
            random: Random::new(seed),
            label,
            marks: 0,
            resp3: false,
            in_multi: false,
            unsure: false,
            subscribed: Default::default(),
            silent: false,
            skips: false,
            monitors: false,
        }
    }

    /// The session's source of random numbers.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// The prefix of its marks.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// True if messages to a subscriber may arrive in RESP2: it has subscriptions, or a transaction may have begun some.
    pub fn takes_messages(&self) -> bool {
        self.is_subscriber() || self.unsure
    }

    /// True if it has subscriptions and uses RESP2, so that only a few commands are allowed.
    pub fn is_subscriber(&self) -> bool {
        !self.resp3 && self.subscribed.iter().any(|names| !names.is_empty())
    }

    fn request(&self, arguments: &[Vec<u8>], expect: Expect) -> Request {
        Request {
            bytes: request(arguments),
            expect,
            takes_messages: self.takes_messages(),
            waits: may_wait(arguments),
        }
    }

    /// The expected reply to a command that has one reply, in the current state.
    fn expect_one(&mut self) -> Expect {
        if std::mem::take(&mut self.skips) || self.silent {
            Expect::Nothing
        } else if self.in_multi {
            Expect::Queued
        } else {
            Expect::One
        }
    }

    /// A request with a unique reply; `None` in a state in which it would not get that reply.
    pub fn mark(&mut self) -> Option<Request> {
        if self.silent || self.skips || self.in_multi || self.unsure {
            return None;
        }
        self.marks += 1;
        let mark = format!("{}/{}", self.label, self.marks);
        let name = if self.is_subscriber() { "PING" } else { "ECHO" };
        let arguments = words(&[name, &mark]);
        Some(self.request(&arguments, Expect::Mark(mark)))
    }

    /// Requests that bring the session into a state in which a mark works, followed by a mark.
    pub fn settle(&mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        if self.skips {
            requests.push(self.plain());
        }
        if self.in_multi || self.silent || self.unsure {
            requests.push(self.reset());
        }
        requests.extend(self.mark());
        requests
    }

    /// The next request.
    pub fn next(&mut self) -> Request {
        if self.unsure && !self.in_multi {
            return self.reset();
        }
        if self.skips {
            return self.plain();
        }
        if self.silent {
            return match self.random.one_in(6) {
                true => self.reply("ON"),
                false => self.plain(),
            };
        }
        if self.is_subscriber() {
            return self.next_of_subscriber();
        }
        if self.in_multi {
            return self.next_of_transaction();
        }
        // If commands may be refused, commands that change the session's state have an uncertain effect.
        let may_be_refused = self.conditions.busy;
        match self.random.below(200) {
            0..6 => self.multi(),
            6..9 if !may_be_refused => self.subscribe(),
            9 => self.unsubscribe_in_resp3(),
            10 => self.reset(),
            11..13 => self.hello(),
            13 if !may_be_refused => self.reply("OFF"),
            14..16 if !may_be_refused => self.reply("SKIP"),
            16 if !may_be_refused && !self.monitors && self.random.one_in(3) => self.monitor(),
            17..19 => self.acts_upon_others(),
            19 => self.mistake(),
            20 => self.nothing(),
            21..24 => self.waiting(),
            24..28 => self.inline(),
            _ => self.plain(),
        }
    }

    /// A request that interrupts the server's work on a batch: it blocks or takes long.
    pub fn disturbing(&mut self) -> Request {
        if self.skips || self.silent || self.is_subscriber() || self.unsure || self.in_multi {
            return self.next();
        }
        match self.random.below(8) {
            0..4 => self.waiting(),
            4 => self.script(),
            5 => self.multi(),
            6 => self.acts_upon_others(),
            _ => self.next(),
        }
    }

    fn plain(&mut self) -> Request {
        let arguments = self.commands.draw(&mut self.random);
        let expect = self.expect_one();
        self.request(&arguments, expect)
    }

    fn script(&mut self) -> Request {
        let arguments = self.commands.script(&mut self.random);
        let expect = self.expect_one();
        self.request(&arguments, expect)
    }

    fn waiting(&mut self) -> Request {
        let arguments = self.commands.waiting(&mut self.random);
        let expect = self.expect_one();
        self.request(&arguments, expect)
    }

    /// A command in inline form: a line of text.
    fn inline(&mut self) -> Request {
        const BYTES_MAX: usize = 1000;
        let arguments = self.commands.draw(&mut self.random);
        let line: Vec<String> = arguments.iter().map(|word| quote(word)).collect();
        let line = line.join(" ");
        let expect = self.expect_one();
        let mut request = self.request(&arguments, expect);
        if line.len() < BYTES_MAX {
            let end = self.random.pick(&["\r\n", "\n"]);
            request.bytes = format!("{line}{end}").into_bytes();
        }
        request
    }

    /// Bytes without a command.
    fn nothing(&mut self) -> Request {
        let bytes = *self
            .random
            .pick(&["\r\n", "\n", "*0\r\n", "*-1\r\n", "   \r\n"]);
        Request {
            bytes: bytes.into(),
            ..self.request(&[], Expect::Nothing)
        }
    }

    fn multi(&mut self) -> Request {
        let request = self.request(&words(&["MULTI"]), Expect::One);
        self.in_multi = true;
        request
    }

    fn next_of_transaction(&mut self) -> Request {
        match self.random.below(40) {
            0..5 => {
                let request = self.request(&words(&["EXEC"]), Expect::Exec);
                self.in_multi = false;
                request
            }
            5 => {
                let request = self.request(&words(&["DISCARD"]), Expect::One);
                self.in_multi = false;
                self.unsure = false;
                request
            }
            6 => self.mistake(),
            7 if self.random.one_in(4) => self.reset(),
            8 if self.random.one_in(3) && !self.conditions.busy => {
                let arguments: &[&[&str]] = &[
                    &["HELLO", "2"],
                    &["HELLO", "3"],
                    &["SUBSCRIBE", "CH:1"],
                    &["PSUBSCRIBE", "*"],
                    &["UNSUBSCRIBE", "CH:1"],
                    &["MONITOR"],
                ];
                let arguments = *self.random.pick(arguments);
                // Its effect, if any, begins when EXEC has run.
                self.unsure = true;
                self.request(&words(arguments), Expect::Queued)
            }
            9 => self.waiting(),
            10..12 => self.script(),
            12 => self.nothing(),
            13 => self.inline(),
            _ => self.plain(),
        }
    }

    /// A request that is refused and changes nothing.
    fn mistake(&mut self) -> Request {
        let mistakes: &[&[&str]] = &[
            &["MULTI", "now"],
            &["EXEC", "now"],
            &["RESET", "all"],
            &["HELLO", "4"],
            &["HELLO", "three"],
            &["MONITOR", "all"],
            &["SUBSCRIBE"],
            &["PSUBSCRIBE"],
            &["SSUBSCRIBE"],
            &["CLIENT", "REPLY"],
            &["CLIENT", "REPLY", "LATER"],
            &["CLIENT", "PAUSE", "-1"],
            &["CLIENT", "KILL", "ID", "0"],
            &["CLIENT", "KILL", "TYPE", "NOBODY"],
            &["CLIENT", "KILL", "10.0.0.1:1"],
            &["DEBUG", "SEGFAULT", "NOW"],
            &["SHUTDOWN", "LATER"],
            &["SHUTDOWN", "ABORT"],
            &["CONFIG", "SET", "nosuch", "1"],
            &["ECHO"],
        ];
        let arguments = *self.random.pick(mistakes);
        let expect = self.expect_one();
        let request = self.request(&words(arguments), expect);
        if arguments == ["EXEC", "now"] {
            // As in Redis, this error discards the transaction.
            self.in_multi = false;
            self.unsure = false;
        }
        request
    }

    fn reset(&mut self) -> Request {
        let expect = match std::mem::take(&mut self.skips) {
            true => Expect::Nothing,
            false => Expect::One,
        };
        let request = self.request(&words(&["RESET"]), expect);
        self.resp3 = false;
        self.in_multi = false;
        self.unsure = false;
        self.subscribed = Default::default();
        self.silent = false;
        self.monitors = false;
        request
    }

    /// The last request of a session: the server then closes the connection.
    pub fn quit(&mut self) -> Request {
        let expect = match self.skips || self.silent {
            true => Expect::Nothing,
            false => Expect::Quit,
        };
        self.request(&words(&["QUIT"]), expect)
    }

    fn hello(&mut self) -> Request {
        let version = *self.random.pick(&["2", "3", "3"]);
        let request = self.request(&words(&["HELLO", version]), Expect::One);
        self.resp3 = version == "3";
        request
    }

    fn reply(&mut self, mode: &'static str) -> Request {
        let expect = match mode {
            "ON" => Expect::One,
            _ => Expect::Nothing,
        };
        let request = self.request(&words(&["CLIENT", "REPLY", mode]), expect);
        self.silent = mode == "OFF";
        self.skips = mode == "SKIP";
        request
    }

    fn monitor(&mut self) -> Request {
        self.monitors = true;
        self.request(&words(&["MONITOR"]), Expect::One)
    }

    fn names(topic: usize) -> &'static [&'static str] {
        if topic == 1 { PATTERNS } else { CHANNELS }
    }

    fn subscribe(&mut self) -> Request {
        let topic = self.random.below(3);
        let count = 1 + self.random.below(3);
        let names: Vec<&'static str> = (0..count)
            .map(|_| *self.random.pick(Self::names(topic)))
            .collect();
        let name = TOPICS[topic][0];
        let mut arguments = words(&[&name.to_ascii_uppercase()]);
        arguments.extend(names.iter().map(|name| name.as_bytes().to_vec()));
        let mut request = self.request(&arguments, Expect::Confirm(name, count));
        // Messages may arrive between the confirmations.
        request.takes_messages |= !self.resp3;
        self.subscribed[topic].extend(names);
        request
    }

    fn unsubscribe(&mut self) -> Request {
        let topic = self.random.below(3);
        let name = TOPICS[topic][1];
        let mut arguments = words(&[&name.to_ascii_uppercase()]);
        let count = if self.random.one_in(2) {
            let count = 1 + self.random.below(2);
            for _ in 0..count {
                arguments.push(self.random.pick(Self::names(topic)).as_bytes().to_vec());
            }
            count
        } else {
            self.subscribed[topic].len().max(1)
        };
        let request = self.request(&arguments, Expect::Confirm(name, count));
        if arguments.len() == 1 {
            self.subscribed[topic].clear();
        }
        for name in &arguments[1..] {
            self.subscribed[topic].retain(|other| other.as_bytes() != name);
        }
        request
    }

    fn unsubscribe_in_resp3(&mut self) -> Request {
        match self.conditions.busy {
            true => self.plain(),
            false => self.unsubscribe(),
        }
    }

    fn next_of_subscriber(&mut self) -> Request {
        match self.random.below(20) {
            0..5 => self.subscribe(),
            5..9 => self.unsubscribe(),
            9 => self.reset(),
            10..14 => self.request(&words(&["PING"]), Expect::One),
            14 => self.mistake(),
            15 => self.nothing(),
            _ => self.plain(),
        }
    }

    /// A command that affects other connections: kills, unblocks or pauses them, redirects invalidations to one, or limits all.
    fn acts_upon_others(&mut self) -> Request {
        let number = self.random.below(1000);
        let id = |id: Option<u64>| id.unwrap_or(0).to_string();
        let arguments = match self.random.below(8) {
            0 => {
                let victim = id(self.ids.victim(number));
                words(&["CLIENT", "KILL", "ID", &victim, "SKIPME", "YES"])
            }
            1 if self.conditions.closes => match self.random.below(3) {
                0 => words(&["CLIENT", "KILL", "TYPE", "PUBSUB"]),
                1 => words(&[
                    "CLIENT",
                    "KILL",
                    "ID",
                    &id(self.ids.any(number)),
                    "SKIPME",
                    "NO",
                ]),
                _ => setting(CLOSING_SETTINGS, &mut self.random),
            },
            2 if self.conditions.pauses && self.random.one_in(4) => {
                let time = *self.random.pick(&["0", "1", "20", "100"]);
                let kind = *self.random.pick(&["ALL", "WRITE"]);
                words(&["CLIENT", "PAUSE", time, kind])
            }
            3 => {
                let target = id(self.ids.any(number));
                words(&["CLIENT", "TRACKING", "ON", "REDIRECT", &target])
            }
            4 if self.conditions.busy => words(&["SCRIPT", "KILL"]),
            _ => {
                let how = *self.random.pick(&["TIMEOUT", "ERROR"]);
                words(&["CLIENT", "UNBLOCK", &id(self.ids.any(number)), how])
            }
        };
        let expect = self.expect_one();
        self.request(&arguments, expect)
    }
}

/// True for commands that may block until a key is ready or for a time.
fn may_wait(arguments: &[Vec<u8>]) -> bool {
    const WAITING: [&[u8]; 4] = [b"BL", b"BR", b"BZ", b"DEBUG"];
    let waits = |name: &Vec<u8>| {
        let name = name.to_ascii_uppercase();
        WAITING.iter().any(|start| name.starts_with(start))
    };
    arguments.first().is_some_and(waits)
        || arguments
            .iter()
            .any(|word| word.eq_ignore_ascii_case(b"BLOCK"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar;

    struct Nobody;

    impl Ids for Nobody {
        fn victim(&self, _: usize) -> Option<u64> {
            None
        }

        fn any(&self, _: usize) -> Option<u64> {
            None
        }
    }

    const CONDITIONS: Conditions = Conditions {
        closes: true,
        busy: false,
        pauses: true,
    };

    #[test]
    fn a_seed_determines_the_session() {
        let commands = Commands::new(vec![grammar::parse("PING")]);
        let bytes = |seed| -> Vec<u8> {
            let mut session = Session::new(&commands, &Nobody, CONDITIONS, seed, "x".into());
            (0..500).flat_map(|_| session.next().bytes).collect()
        };
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }

    /// The bug: a run failed because QUIT after CLIENT REPLY SKIP got no reply. It gets none in Redis, either.
    #[test]
    fn quit_gets_a_reply_unless_replies_are_off() {
        let commands = Commands::new(vec![grammar::parse("PING")]);
        for (mode, expect) in [
            ("ON", Expect::Quit),
            ("SKIP", Expect::Nothing),
            ("OFF", Expect::Nothing),
        ] {
            let mut session = Session::new(&commands, &Nobody, CONDITIONS, 1, "x".into());
            session.reply(mode);
            assert_eq!(session.quit().expect, expect, "{mode}");
        }
    }

    #[test]
    fn a_session_can_be_marked_once_it_has_settled() {
        let commands = Commands::new(vec![grammar::parse("PING")]);
        for seed in 0..200 {
            let mut session = Session::new(&commands, &Nobody, CONDITIONS, seed, "x".into());
            (0..60).for_each(|_| drop(session.next()));
            let last = session.settle().pop().map(|request| request.expect);
            assert!(
                matches!(last, Some(Expect::Mark(_))),
                "seed {seed}: {last:?}"
            );
        }
    }
}
