//! The tape: a long sequence of prepared requests in which only the digits of the keys change.
//!
//! ```text
//! | SET key:0000….. value | GET key:0000….. | GET key:0000….. | ...
//!             ^^^^^^                 ^^^^^^           ^^^^^^       patched just before sending
//! ```
//!
//! A batch is a slice of the tape that is sent as it is: no request is built or copied while measuring. The order of
//! the operations and the values are chosen at random once, when the tape is made.

use crate::operations::{COUNT_MAX, Choice, Part};
use crate::options::{Protocol, ValueText};
use crate::random::{Keys, Random};

/// The format of the requests on a tape.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The protocol of the requests.
    pub protocol: Protocol,
    /// The number of keys.
    pub keys: u64,
    /// The length of a key in bytes.
    pub key_bytes: usize,
    /// The minimum and the maximum length of a value in bytes.
    pub value_bytes: (usize, usize),
    /// The characters that values consist of.
    pub value_text: ValueText,
}

/// The tape aims at this size, so that it stays in the second-level cache together with the kernel's buffers.
const TAPE_BYTES: usize = 256 << 10;
/// The most requests on a tape.
const TAPE_REQUESTS_MAX: usize = 4096;
/// The fewest requests on a tape, however large the values. There are also at least two batches.
const TAPE_REQUESTS_MIN: usize = 256;

/// Members of integer sets are below this.
const INTEGERS: u64 = 1_000_000;

/// The length of every prefix in the table of operations; a key's number follows it.
const PREFIX_BYTES: usize = 4;

const _: () = assert!(TAPE_REQUESTS_MIN <= TAPE_REQUESTS_MAX);
const _: () = assert!((COUNT_MAX as u64) < INTEGERS);

/// Prepared requests of the mix in random order.
#[derive(Debug)]
pub struct Tape {
    bytes: Vec<u8>,
    /// Where each request begins, in `bytes` and in `patches`; one more entry marks the end.
    starts: Vec<Start>,
    /// Offsets in `bytes` of the digits to overwrite.
    patches: Vec<usize>,
    digits: usize,
    next: usize,
}

#[derive(Debug, Clone, Copy)]
struct Start {
    byte: usize,
    patch: usize,
}

impl Shape {
    /// How many digits of a key change: enough for every number, and an even count, since digits are written in pairs.
    fn digits(&self) -> usize {
        let digits = self.keys.saturating_sub(1).max(1).ilog10() as usize + 1;
        digits.next_multiple_of(2)
    }

    /// The shortest key length that makes all keys distinct.
    pub fn key_bytes_min(&self) -> usize {
        PREFIX_BYTES + self.digits()
    }
}

impl Tape {
    /// Makes a tape of the mix's operations in proportion to their weights, for batches of up to `batch_max`.
    ///
    /// The caller must have checked that the keys are long enough and that the protocol has all operations.
    pub fn new(
        mix: &[(Choice, u64)],
        shape: &Shape,
        batch_max: usize,
        random: &mut Random,
    ) -> Self {
        let mut tape = Self {
            bytes: Vec::new(),
            starts: Vec::new(),
            patches: Vec::new(),
            digits: shape.digits(),
            next: 0,
        };
        let least = TAPE_REQUESTS_MIN.max(2 * batch_max);
        let count = (TAPE_BYTES / mean_bytes(mix, shape, random))
            .clamp(least, TAPE_REQUESTS_MAX.max(least));
        for choice in shuffled(mix, count, random) {
            tape.push(choice, shape, random);
        }
        tape.mark_start();
        tape
    }

    /// The bytes of the next `count` requests, with new keys. `count` is at most the `batch_max` of the tape.
    ///
    /// A batch is always one slice: near the end of the tape, the rest is skipped.
    pub fn batch(&mut self, count: usize, keys: &mut Keys) -> &[u8] {
        if self.next + count >= self.starts.len() {
            self.next = 0;
        }
        let (first, last) = (self.starts[self.next], self.starts[self.next + count]);
        for &at in &self.patches[first.patch..last.patch] {
            write_digits(&mut self.bytes[at..at + self.digits], keys.number());
        }
        self.next += count;
        &self.bytes[first.byte..last.byte]
    }

    fn mark_start(&mut self) {
        self.starts.push(Start {
            byte: self.bytes.len(),
            patch: self.patches.len(),
        });
    }

    fn push(&mut self, choice: Choice, shape: &Shape, random: &mut Random) {
        self.mark_start();
        if choice.replies() == 1 {
            return self.push_request(choice, shape, random);
        }
        self.bytes.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n");
        for _ in 0..choice.count {
            self.push_request(choice, shape, random);
        }
        self.bytes.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
    }

    fn push_request(&mut self, choice: Choice, shape: &Shape, random: &mut Random) {
        let arguments = arguments(choice, shape, random);
        if shape.protocol == Protocol::Resp {
            self.bytes
                .extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
        }
        for argument in arguments {
            if shape.protocol == Protocol::Resp {
                self.bytes
                    .extend_from_slice(format!("${}\r\n", argument.text.len()).as_bytes());
            }
            self.bytes.extend_from_slice(&argument.text);
            if argument.numbered {
                self.patches.push(self.bytes.len() - self.digits);
            }
            if shape.protocol == Protocol::Resp {
                self.bytes.extend_from_slice(b"\r\n");
            }
        }
    }
}

/// A piece of a request as sent; `numbered` if it ends in the digits of a key.
struct Argument {
    text: Vec<u8>,
    numbered: bool,
}

impl Argument {
    fn fixed(text: impl Into<Vec<u8>>) -> Self {
        Self {
            text: text.into(),
            numbered: false,
        }
    }

    fn numbered(prefix: &str, bytes: usize) -> Self {
        let mut text = prefix.as_bytes().to_vec();
        text.resize(bytes, b'0');
        Self {
            text,
            numbered: true,
        }
    }
}

fn arguments(choice: Choice, shape: &Shape, random: &mut Random) -> Vec<Argument> {
    let parts = match shape.protocol {
        Protocol::Resp => choice.operation.resp,
        Protocol::Memcached => choice.operation.memcached,
    };
    let request_value = value(shape, random);
    let key = || Argument::numbered(choice.operation.prefix, shape.key_bytes);
    let mut arguments = Vec::new();
    for part in parts {
        match *part {
            Part::Word(text) => arguments.push(Argument::fixed(text)),
            Part::Count => arguments.push(Argument::fixed(choice.count.to_string())),
            Part::Sha(script) => arguments.push(Argument::fixed(script.sha1)),
            Part::Key => arguments.push(key()),
            Part::Keys => {
                for index in 0..choice.count {
                    if index > 0 && shape.protocol == Protocol::Memcached {
                        arguments.push(Argument::fixed(" "));
                    }
                    arguments.push(key());
                }
            }
            Part::KeyValues => {
                for _ in 0..choice.count {
                    arguments.push(key());
                    arguments.push(Argument::fixed(value(shape, random)));
                }
            }
            Part::Value => arguments.push(Argument::fixed(request_value.clone())),
            Part::ValueBytes => arguments.push(Argument::fixed(request_value.len().to_string())),
            Part::Number => arguments.push(Argument::fixed(
                (100_000_000 + random.below(900_000_000)).to_string(),
            )),
            Part::Field => arguments.push(Argument::fixed(field(0))),
            Part::Pairs => {
                for index in 0..choice.count {
                    arguments.push(Argument::fixed(field(index)));
                    arguments.push(Argument::fixed(value(shape, random)));
                }
            }
            Part::Integers => {
                let first = random.below(INTEGERS);
                // 7 shares no factor with the range, so the integers differ.
                let integers = (0..choice.count as u64).map(|index| (first + 7 * index) % INTEGERS);
                arguments.extend(integers.map(|integer| Argument::fixed(integer.to_string())));
            }
            // `push` writes MULTI and EXEC around the requests.
            Part::Transaction => {}
            Part::Member => arguments.push(Argument::numbered("", shape.digits().max(12))),
        }
    }
    arguments
}

fn field(index: usize) -> String {
    format!("field{index:03}")
}

/// The bytes that values consist of.
pub(crate) fn alphabet(text: ValueText) -> &'static [u8] {
    match text {
        ValueText::Alphanumeric => {
            b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        }
        ValueText::Hex => b"0123456789abcdef",
        ValueText::Binary => &ALL_BYTES,
    }
}

const ALL_BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut byte = 0;
    while byte < bytes.len() {
        bytes[byte] = byte as u8;
        byte += 1;
    }
    bytes
};

fn value(shape: &Shape, random: &mut Random) -> Vec<u8> {
    let (least, most) = shape.value_bytes;
    let len = least + random.below((most - least + 1) as u64) as usize;
    let alphabet = alphabet(shape.value_text);
    (0..len)
        .map(|_| alphabet[random.below(alphabet.len() as u64) as usize])
        .collect()
}

/// The average length of a request in bytes, from one sample of each operation.
fn mean_bytes(mix: &[(Choice, u64)], shape: &Shape, random: &mut Random) -> usize {
    let weights: u64 = mix.iter().map(|(_, weight)| weight).sum();
    let bytes: u64 = mix
        .iter()
        .map(|&(choice, weight)| {
            let arguments = arguments(choice, shape, random);
            weight
                * arguments
                    .iter()
                    .map(|argument| argument.text.len() as u64 + 6)
                    .sum::<u64>()
        })
        .sum();
    (bytes / weights).max(1) as usize
}

/// `count` operations in proportion to their weights, in random order.
fn shuffled(mix: &[(Choice, u64)], count: usize, random: &mut Random) -> Vec<Choice> {
    let weights: u64 = mix.iter().map(|(_, weight)| weight).sum();
    let mut choices = Vec::with_capacity(count);
    let mut reached = 0;
    for &(choice, weight) in mix {
        reached += weight;
        let end = (u128::from(reached) * count as u128 / u128::from(weights)) as usize;
        choices.resize(end.max(choices.len()), choice);
    }
    for last in (1..choices.len()).rev() {
        choices.swap(last, random.below(last as u64 + 1) as usize);
    }
    choices
}

const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// Fills `digits`, an even number of bytes, with the decimal digits of `number`, with leading zeros.
fn write_digits(digits: &mut [u8], mut number: u64) {
    for pair in digits.rchunks_exact_mut(2) {
        pair.copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::{OPERATIONS, parse_mix};

    fn shape(protocol: Protocol) -> Shape {
        Shape {
            protocol,
            keys: 1000,
            key_bytes: 10,
            value_bytes: (3, 3),
            value_text: ValueText::Hex,
        }
    }

    fn tape(mix: &str, protocol: Protocol) -> Tape {
        Tape::new(
            &parse_mix(mix).unwrap(),
            &shape(protocol),
            8,
            &mut Random::new(1),
        )
    }

    #[test]
    fn a_batch_contains_rising_keys() {
        let batch = tape("get", Protocol::Resp)
            .batch(2, &mut Keys::rising(1000, 41))
            .to_vec();
        let expected =
            "*2\r\n$3\r\nGET\r\n$10\r\nkey:000041\r\n*2\r\n$3\r\nGET\r\n$10\r\nkey:000042\r\n";
        assert_eq!(String::from_utf8(batch).unwrap(), expected);
    }

    #[test]
    fn a_memcached_set_states_the_size_of_its_value() {
        let batch = tape("set", Protocol::Memcached)
            .batch(1, &mut Keys::rising(1000, 7))
            .to_vec();
        let text = String::from_utf8(batch).unwrap();
        assert!(
            text.starts_with("set key:000007 0 0 3\r\n")
                && text.ends_with("\r\n")
                && text.len() == 27,
            "{text}"
        );
    }

    #[test]
    fn the_keys_of_one_request_differ() {
        let batch = tape("mget3", Protocol::Memcached)
            .batch(1, &mut Keys::rising(1000, 0))
            .to_vec();
        assert_eq!(batch, b"get key:000000 key:000001 key:000002\r\n");
    }

    #[test]
    fn a_transaction_is_one_request() {
        let batch = tape("multi2", Protocol::Resp)
            .batch(1, &mut Keys::rising(1000, 41))
            .to_vec();
        let text = String::from_utf8(batch).unwrap();
        let words: Vec<_> = text.split("\r\n").filter(|word| word.len() > 2).collect();
        assert_eq!((words[0], words[1]), ("MULTI", "SET"));
        assert_eq!((words[2], words[6]), ("$10", "$10"));
        assert!(text.contains("key:000041") && text.contains("key:000042"));
        assert!(text.ends_with("EXEC\r\n"), "{text}");
    }

    #[test]
    fn a_script_declares_as_many_keys_as_it_names() {
        let batch = tape("script2", Protocol::Resp)
            .batch(1, &mut Keys::rising(1000, 41))
            .to_vec();
        let text = String::from_utf8(batch).unwrap();
        let words: Vec<_> = text.split("\r\n").skip(2).step_by(2).collect();
        assert_eq!((words[0], words[1].len(), words[2]), ("EVALSHA", 40, "2"));
        assert_eq!(words[3..5], ["key:000041", "key:000042"]);
    }

    #[test]
    fn the_mix_is_kept_exactly() {
        let tape = tape("set:1,get:3", Protocol::Resp);
        let requests = tape.starts.len() - 1;
        let sets = tape
            .bytes
            .windows(5)
            .filter(|window| window == b"SET\r\n")
            .count();
        assert_eq!(sets, requests / 4);
    }

    #[test]
    fn batches_wrap_at_the_end_of_the_tape() {
        let mut tape = tape("get", Protocol::Resp);
        let mut keys = Keys::rising(1000, 0);
        let bytes = tape.batch(1, &mut keys).len();
        assert!((0..2000).all(|_| tape.batch(7, &mut keys).len() == 7 * bytes));
    }

    #[test]
    fn every_operation_makes_well_formed_requests() {
        for row in OPERATIONS {
            for protocol in [Protocol::Resp, Protocol::Memcached] {
                let mut tape = tape(row.name, protocol);
                let batch = tape.batch(1, &mut Keys::rising(1000, 0));
                let empty = protocol == Protocol::Memcached && row.memcached.is_empty();
                assert!(empty || batch.ends_with(b"\r\n"), "{}", row.name);
            }
        }
    }
}
