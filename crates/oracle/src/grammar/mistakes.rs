//! Changes to drawn arguments: mistakes, words in mixed case, and shorter timeouts and counts.

use super::{ODD, Slot, argument, number};
use crate::random::Random;

/// Makes one or two mistakes. The command's name stays, so the row's comparison rule still fits.
pub(crate) fn mutate(arguments: &mut Vec<Vec<u8>>, random: &mut Random) {
    // A mistake could make a BY pattern without `*`, which leaves elements in each server's own order.
    if arguments[0].starts_with(b"SORT") && arguments.iter().any(|word| word == b"BY") {
        return;
    }
    for _ in 0..=random.below(2) {
        if arguments.len() < 2 {
            arguments.push(argument(Slot::Value, random));
            continue;
        }
        let at = 1 + random.below(arguments.len() - 1);
        match random.below(6) {
            0 => drop(arguments.remove(at)),
            1 => arguments.push(argument(Slot::Value, random)),
            2 => arguments.push(arguments[at].clone()),
            3 => {
                let other = 1 + random.below(arguments.len() - 1);
                arguments.swap(at, other);
            }
            4 => arguments[at] = random.pick(ODD).to_vec(),
            _ => {
                let option = random.pick(&[
                    "NX",
                    "XX",
                    "GT",
                    "LT",
                    "EX",
                    "PX",
                    "GET",
                    "KEEPTTL",
                    "REPLACE",
                    "COUNT",
                    "MATCH",
                    "WITHVALUES",
                    "ASYNC",
                ]);
                arguments.push(option.as_bytes().to_vec());
            }
        }
    }
}

/// Reduces large negative counts, for which Redis would really send a billion random members, and long timeouts.
pub(super) fn tame(arguments: &mut [Vec<u8>]) {
    const COUNT_MIN: i64 = -1000;
    shorten_timeout(arguments);
    shorten_wait(arguments);
    shorten_ttl(arguments);
    shorten_bitmap(arguments);
    let Some((name, rest)) = arguments.split_first_mut() else {
        return;
    };
    if name.windows(4).any(|part| part == b"RAND") {
        for argument in rest {
            let count = std::str::from_utf8(argument).map(str::parse::<i64>);
            if matches!(count, Ok(Ok(count)) if count < COUNT_MIN) {
                *argument = number(-7);
            }
        }
    }
}

/// Shortens a TTL of RESTORE that Redis would add to the time without a check for overflow.
fn shorten_ttl(arguments: &mut [Vec<u8>]) {
    const TTL_MS_MAX: i64 = i64::MAX / 2;
    if let [name, _, ttl, ..] = arguments
        && name.eq_ignore_ascii_case(b"RESTORE")
        && matches!(
            std::str::from_utf8(ttl).map(str::parse),
            Ok(Ok(TTL_MS_MAX..))
        )
    {
        *ttl = number(TTL_MS_MAX);
    }
}

/// Moves bits that are far from the first, for which both servers would create strings of hundreds of megabytes.
fn shorten_bitmap(arguments: &mut [Vec<u8>]) {
    const OFFSET_MAX: i64 = 10_000;
    /// From here on, offsets are refused.
    const REFUSED_MIN: i64 = 1 << 32;
    let Some((name, rest)) = arguments.split_first_mut() else {
        return;
    };
    if !name.eq_ignore_ascii_case(b"SETBIT") && !name.eq_ignore_ascii_case(b"BITFIELD") {
        return;
    }
    for argument in rest {
        let text = String::from_utf8_lossy(argument);
        let offset = text.trim_start_matches('#').parse::<i64>();
        if matches!(offset, Ok(OFFSET_MAX..REFUSED_MIN)) {
            *argument = number(OFFSET_MAX);
        }
    }
}

/// Shortens the timeout of a blocking command to a few milliseconds.
fn shorten_timeout(arguments: &mut [Vec<u8>]) {
    const SECONDS_MAX: f64 = 0.005;
    shorten_block(arguments);
    let name = arguments.first().map(|name| name.to_ascii_uppercase());
    let at = match name.as_deref() {
        Some(b"BLMPOP" | b"BZMPOP") => 1,
        Some(b"BLPOP" | b"BRPOP" | b"BLMOVE" | b"BRPOPLPUSH" | b"BZPOPMIN" | b"BZPOPMAX") => {
            arguments.len() - 1
        }
        _ => return,
    };
    let Some(timeout) = arguments.get_mut(at).filter(|_| at > 0) else {
        return;
    };
    let text = String::from_utf8_lossy(timeout);
    let is_long = match text.parse::<f64>() {
        // A timeout that rounds to 0 ms means forever.
        Ok(seconds) => seconds > SECONDS_MAX || seconds > -0.001 && seconds <= 0.0,
        Err(_) => text.contains(['x', 'X']),
    };
    if is_long {
        *timeout = b"0.001".to_vec();
    }
}

/// The same for the option BLOCK.
fn shorten_block(arguments: &mut [Vec<u8>]) {
    for at in 1..arguments.len() {
        if arguments[at - 1].eq_ignore_ascii_case(b"BLOCK") {
            shorten_ms(&mut arguments[at]);
        }
    }
}

/// Shortens the timeout of a command that may wait for replicas; for no replicas, it does not wait.
fn shorten_wait(arguments: &mut [Vec<u8>]) {
    let waits = match arguments {
        [name, replicas, ..] if name.eq_ignore_ascii_case(b"WAIT") => replicas != b"0",
        [name, ..] => name.eq_ignore_ascii_case(b"WAITAOF"),
        [] => false,
    };
    if let Some(timeout) = arguments.last_mut().filter(|_| waits) {
        shorten_ms(timeout);
    }
}

/// Shortens a timeout in milliseconds, for which 0 means forever.
fn shorten_ms(timeout: &mut Vec<u8>) {
    let number = std::str::from_utf8(timeout).map(str::parse::<i64>);
    if matches!(number, Ok(Ok(0 | 6..))) {
        *timeout = b"1".to_vec();
    }
}

pub(super) fn mix_case(word: &mut [u8], random: &mut Random) {
    for byte in word {
        if random.one_in(2) {
            *byte ^= if byte.is_ascii_alphabetic() { 0x20 } else { 0 };
        }
    }
}
