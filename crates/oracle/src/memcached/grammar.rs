//! Random requests of memcached's protocol.
//!
//! Left out is only what memcached does by chance or by its clock, and what differs on purpose: numbers from 2^63 on where memcached finds a minus sign in the memory behind them, blanks that pad a number, flags of
//! meta requests that memcached 1.6.18 does not have, and data behind a line that is wrong, which that version reads as lines.

use crate::random::Random;

/// Keys of text. Blanks behind a number that became shorter would show in text.
const TEXTS: [&str; 4] = ["a", "b", "c", "long_key_0123456789"];
/// Keys of numbers.
pub const NUMBERS: [&str; 2] = ["n", "m"];
/// Keys that are only used in base64.
const ENCODED: [&str; 2] = ["Zm9v", "AAEC"];

/// A random request, perhaps with a mistake, with its line end.
#[must_use]
pub fn request(random: &mut Random) -> Vec<u8> {
    let text = match random.below(24) {
        0..=3 => retrieval(random),
        4..=8 => storage(random),
        9 | 10 => number(random),
        11..=14 => meta_get(random),
        15..=17 => meta_set(random),
        18 => meta_delete(random),
        19 | 20 => meta_number(random),
        21 => other(random),
        22 => encoded(random),
        _ => mistake(random),
    };
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn one(random: &mut Random, choices: &[&'static str]) -> &'static str {
    choices[random.below(choices.len())]
}

fn text_key(random: &mut Random) -> &'static str {
    one(random, &TEXTS)
}

fn any_key(random: &mut Random) -> &'static str {
    if random.one_in(4) {
        one(random, &NUMBERS)
    } else {
        text_key(random)
    }
}

fn data(random: &mut Random) -> String {
    match random.below(6) {
        0 => String::new(),
        1 => "x".repeat(random.below(300)),
        2 => String::from("two\r\nlines"),
        3 => String::from("00ff").repeat(random.below(50)),
        _ => String::from(one(
            random,
            &[
                "v",
                "value",
                "another value",
                "letters and 7",
                "b",
                "N5",
                "T1 x",
            ],
        )),
    }
}

fn decimal(random: &mut Random) -> String {
    let digits = [
        "0",
        "5",
        "10",
        "99",
        "18446744073709551615",
        "9223372036854775807",
    ];
    String::from(one(random, &digits))
}

fn flags(random: &mut Random) -> &'static str {
    one(random, &["0", "0", "1", "32", "65535", "4294967295"])
}

fn exptime(random: &mut Random) -> &'static str {
    one(
        random,
        &["0", "0", "0", "1000", "50000", "2000000000", "-1"],
    )
}

fn noreply(random: &mut Random) -> &'static str {
    if random.one_in(5) { " noreply" } else { "" }
}

fn cas(random: &mut Random, key: &str) -> String {
    match random.below(5) {
        0 => format!("$old({key})"),
        1 => String::from(one(random, &["0", "18446744073709551615"])),
        _ => format!("$cas({key})"),
    }
}

fn retrieval(random: &mut Random) -> String {
    let command = one(random, &["get", "gets", "gets", "gat", "gats"]);
    let mut line = String::from(command);
    if command.starts_with("gat") {
        line = format!("{line} {}", exptime(random));
    }
    for _ in 0..random.between(1, 4) {
        line = format!("{line} {}", any_key(random));
    }
    line
}

fn storage(random: &mut Random) -> String {
    let command = one(
        random,
        &["set", "set", "add", "replace", "append", "prepend", "cas"],
    );
    let is_number = random.one_in(4) && !matches!(command, "append" | "prepend");
    let (key, data) = match is_number {
        true => (one(random, &NUMBERS), decimal(random)),
        false => (text_key(random), data(random)),
    };
    let mut line = format!(
        "{command} {key} {} {} {}",
        flags(random),
        exptime(random),
        data.len()
    );
    if command == "cas" {
        line = format!("{line} {}", cas(random, key));
    }
    format!("{line}{}\r\n{data}", noreply(random))
}

fn number(random: &mut Random) -> String {
    let key = if random.one_in(6) {
        text_key(random)
    } else {
        one(random, &NUMBERS)
    };
    let command = one(random, &["incr", "decr"]);
    format!("{command} {key} {}{}", decimal(random), noreply(random))
}

/// Adds some of these flags, in random order.
fn add_flags(random: &mut Random, line: &mut String, flags: &[String]) {
    let mut flags = flags.to_vec();
    random.shuffle(&mut flags);
    flags.truncate(random.below(flags.len().min(6) + 1));
    for flag in flags {
        line.push(' ');
        line.push_str(&flag);
    }
}

fn owned(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|&flag| String::from(flag)).collect()
}

fn meta_get(random: &mut Random) -> String {
    let key = any_key(random);
    let mut line = format!("mg {key}");
    let mut all = owned(&[
        "v", "v", "c", "f", "k", "t", "l", "q", "u", "O12", "Pp", "Ll",
    ]);
    if TEXTS.contains(&key) {
        // An item of a number keeps its mark when it is changed in place, but not otherwise.
        all.extend(owned(&["s", "h"]));
        all.push(format!("N{}", one(random, &["0", "1000"])));
        all.push(format!("R{}", one(random, &["0", "30", "2000", "80000"])));
    }
    all.push(format!("T{}", one(random, &["0", "1000", "50000"])));
    all.dedup();
    add_flags(random, &mut line, &all);
    line
}

fn meta_set(random: &mut Random) -> String {
    let (key, data) = (text_key(random), data(random));
    let mut line = format!("ms {key} {}", data.len());
    let mut all = owned(&["c", "k", "q", "Oopaque", "I"]);
    all.push(format!("F{}", flags(random)));
    all.push(format!("T{}", exptime(random)));
    all.push(format!("C{}", cas(random, key)));
    all.push(format!("M{}", one(random, &["E", "A", "P", "R", "S", "X"])));
    add_flags(random, &mut line, &all);
    format!("{line}\r\n{data}")
}

fn meta_delete(random: &mut Random) -> String {
    let key = text_key(random);
    let mut line = format!("md {key}");
    let mut all = owned(&["I", "I", "q", "k", "O1"]);
    all.dedup();
    all.push(format!("C{}", cas(random, key)));
    all.push(format!("T{}", one(random, &["0", "1000"])));
    add_flags(random, &mut line, &all);
    line
}

fn meta_number(random: &mut Random) -> String {
    let key = one(random, &NUMBERS);
    let mut line = format!("ma {key}");
    let mut all = owned(&["v", "c", "k", "t", "q", "O9"]);
    all.push(format!("C{}", cas(random, key)));
    all.push(format!("N{}", one(random, &["0", "1000"])));
    all.push(format!("J{}", decimal(random)));
    all.push(format!("D{}", decimal(random)));
    // No T: memcached sets the expiry of the old item when the number becomes longer, so that of the new item stays.
    all.push(format!("M{}", one(random, &["I", "+", "D", "-", "incr"])));
    add_flags(random, &mut line, &all);
    line
}

fn other(random: &mut Random) -> String {
    match random.below(8) {
        0 => String::from("flush_all"),
        1 => format!("me {}", text_key(random)),
        2 => String::from("version"),
        3 => String::from("mn"),
        4 | 5 => format!("delete {}{}", any_key(random), noreply(random)),
        _ => format!(
            "touch {} {}{}",
            any_key(random),
            exptime(random),
            noreply(random)
        ),
    }
}

/// A request with a key in base64.
fn encoded(random: &mut Random) -> String {
    let key = one(random, &ENCODED);
    let request = one(
        random,
        &[
            "mg {} b v",
            "mg {} b k v f",
            "md {} b k",
            "ms {} 2 b k\r\nhi",
            "ms {} 1 b\r\nx",
        ],
    );
    request.replace("{}", key)
}

/// A request that is wrong. Its data, if any, is empty or behind a correct length.
fn mistake(random: &mut Random) -> String {
    let long = "k".repeat(251);
    let lines = [
        "",
        " ",
        "x",
        "bogus",
        "GET a",
        "get",
        "gets",
        "gat",
        "gat x a",
        "gat 0",
        "set",
        "set a",
        "set a 0 0",
        "set a 0 0 x",
        "set a 0 0 -1",
        "set a 0 0 0 extra more",
        "cas a 0 0 0",
        "incr n",
        "incr n x",
        "incr n -1",
        "incr n 1 2 3",
        "decr n 1x",
        "touch a",
        "touch a x",
        "touch a 1 2 3",
        "delete",
        "delete a 1",
        "delete a 0",
        "delete a 0 noreply",
        "delete a x noreply",
        "delete a b c d e",
        "mg",
        "mg a !",
        "mg a v v",
        "mg a Tx",
        "mg a N",
        "mg a C",
        "mg a M",
        "mg !! b v",
        "ms",
        "ms a",
        "ms a x",
        "ms a 0 !\r\n",
        "ms a 0 Fx\r\n",
        "ms a 0 MXY\r\n",
        "ms a 0 Cx\r\n",
        "ms a 1\r\nx",
        "md",
        "md a v v",
        "md a Cx",
        "ma",
        "ma n Dx",
        "ma n Jx",
        "ma a",
        "ma n MX",
        "me",
        "mx",
        "mn x",
        "verbosity",
        "verbosity x",
        "verbosity 0 noreply",
        "flush_all x",
        "flush_all a b c",
        "stats nonsense",
        "lru_crawler",
        "lru_crawler metadump",
        "lru_crawler metadump 0",
        "lru_crawler metadump 1,64",
        "lru_crawler metadump x",
        "lru_crawler metadump all all",
        "lru_crawler sleep 1000001",
        "lru_crawler tocrawl -1",
        "lru_crawler nonsense all",
        "shutdown",
        "shutdown now",
        "set a 0 0 3\r\nabcd",
        "ms a 3 q\r\nabcd",
        "mg a O1234567890123456789012345678901",
        "mg none O12345678901234567890123456789012",
        "ms a 1 O12345678901234567890123456789012\r\nx",
        "md a O12345678901234567890123456789012",
        "mg a v f t s c k l h q u O1 T0 N0 R0 P L Lx Px Vx Wx Yx",
    ];
    match random.below(8) {
        0 => format!(
            "{} {long}",
            one(
                random,
                &["get", "gets", "gat 0", "mg", "md", "me", "touch", "incr"]
            )
        ),
        1 => format!("get {long} a"),
        _ => String::from(one(random, &lines)),
    }
}
